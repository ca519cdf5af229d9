"""How fast requests may leave: the rate limit, and the pacer that holds it. Pure: time is a number.

Wise allows 100 requests a second and 1,000 a minute per client, by default (docs.wise.com, "Rate limits"), and
answers 429 with `Retry-After` beyond that. The pacer remembers when the last requests left, as many as each limit
allows, so that no window of either length, wherever it starts, holds more. Queueing is done by `transport`, which
counts a request when it lets it go: one that must open a connection first reaches the wire a little later.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from cardprod.errors import UsageError

__all__ = ["Pacer", "RateLimit"]

_GUARD: Final = 0.001
"""Seconds added to each window, so that rounding, and requests that catch up on the way, do not crowd it."""

_SAMPLES: Final = 16
"""How many of the moments at which a window becomes freer are looked at."""


@attrs.frozen
class RateLimit:
    """How many requests may leave in any second and in any minute.

    ```python
    RateLimit()                                 # Wise's default: 100 a second and 1,000 a minute
    RateLimit(per_second=20, per_minute=200)    # what your contract says
    RateLimit().share(4)                        # one of four worker processes on the same credentials
    ```

    Args:
        per_second: The most requests in any one second, wherever it starts.
        per_minute: The most requests in any sixty seconds, wherever they start.

    Raises:
        UsageError: A number that is not an int of 1 or more.
    """

    per_second: int = 100
    per_minute: int = 1000

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            if type(value) is not int or value < 1:
                raise UsageError(f"RateLimit: {name} must be an int of 1 or more, not {value!r}")

    def share(self, workers: int) -> RateLimit:
        """Divide the limit among workers that use the same credentials.

        Args:
            workers: How many share it.

        Returns:
            One worker's part, rounded down, so that together they never exceed the whole.

        Raises:
            UsageError: `workers` is not an int of 1 or more, or is more than there are requests to share.
        """
        if type(workers) is not int or workers < 1:
            raise UsageError(f"RateLimit.share: workers must be an int of 1 or more, not {workers!r}")
        if workers > min(self.per_second, self.per_minute):
            raise UsageError(f"RateLimit.share: {self} cannot be shared by {workers} workers")
        return RateLimit(per_second=self.per_second // workers, per_minute=self.per_minute // workers)


class Pacer:
    """Says when the next request may leave.

    Args:
        limit: What to hold; None for no limit (the gate still closes after a 429).
    """

    __slots__ = ("_gate_opens_at", "_windows")

    def __init__(self, limit: RateLimit | None) -> None:
        # For each window: its length, and when the last requests left, as many as it may hold.
        self._windows: list[tuple[float, deque[float]]] = []
        self.change(limit)
        self._gate_opens_at = float("-inf")

    def change(self, limit: RateLimit | None) -> None:
        """Hold another limit from now on. What has left already counts under it as well."""
        departures: deque[float] = deque()
        for _, departed in self._windows:
            departures = max(departures, departed, key=len)
        self._windows = []
        if limit is not None:
            self._windows = [
                (1.0 + _GUARD, deque(departures, maxlen=limit.per_second)),
                (60.0 + _GUARD, deque(departures, maxlen=limit.per_minute)),
            ]

    def ready_at(self) -> float:
        """Say when the next request may leave; a time that has passed means now."""
        at = self._gate_opens_at
        for length, departures in self._windows:
            if len(departures) == departures.maxlen:
                at = max(at, departures[0] + length)
        return at

    def spread(self, now: float) -> float:
        """Say how far apart requests that can wait should leave, so that none after them has to wait long.

        A window that is used up at once lets nobody out until the whole rush is a window ago, a minute at Wise; and a
        minute later the rush comes again. So once half of a window is used, what is left of it is to last until more
        comes free, and so on: the longest gap that any of the coming moments asks for.

        Args:
            now: The time.

        Returns:
            Seconds; 0 while half of every window is free.
        """
        gap = 0.0
        for length, departures in self._windows:
            while departures and departures[0] + length <= now:
                departures.popleft()
            most = departures.maxlen or 0
            if len(departures) * 2 <= most:
                continue
            free = most - len(departures)
            for index in range(0, len(departures), len(departures) // _SAMPLES + 1):
                gap = max(gap, (departures[index] + length - now) / (free + index + 1))
        return gap

    def depart(self, now: float) -> None:
        """Count a request that leaves now. `now` never runs backwards."""
        for _, departures in self._windows:
            departures.append(now)

    def take_back(self, departed_at: float) -> None:
        """Uncount a request that had leave to go at `departed_at` and did not, so that another can.

        What the count pushed out of a full window had already left that window, so nothing is missed.
        """
        for _, departures in self._windows:
            if departed_at in departures:
                departures.remove(departed_at)

    @property
    def gate_opens_at(self) -> float:
        """When the gate opens, or opened last."""
        return self._gate_opens_at

    def close_until(self, opens_at: float) -> None:
        """Close the gate after a 429: nothing leaves before `opens_at`. It never opens sooner than already said."""
        self._gate_opens_at = max(self._gate_opens_at, opens_at)
