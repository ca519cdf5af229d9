"""The rate limit, and the sliding window that holds it. Pure: time is a number.

Wise allows 100 requests a second and 1,000 a minute per client, by default (docs.wise.com, "Rate limits"), and
answers 429 with `Retry-After` beyond that. The window remembers when the last requests were sent, as many as each limit
allows, so that no second and no minute, wherever it starts, holds more. A request counts when it gets its permit: one
that must open a connection first reaches the server a little later.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import attrs

from cardprod._protocol.validation import check_count
from cardprod.errors import UsageError

__all__ = ["RateLimit", "SlidingWindow"]

_GUARD: Final = 0.001
"""Seconds added to each window, so that rounding, and requests that catch up on the way, do not crowd it."""

_SAMPLES: Final = 16
"""How many of the moments at which a window becomes freer are considered."""


@attrs.frozen
class RateLimit:
    """How many requests may be sent in any second and in any minute.

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
        check_count("RateLimit: per_second", self.per_second)
        check_count("RateLimit: per_minute", self.per_minute)

    def share(self, workers: int) -> RateLimit:
        """Divide the limit among workers that use the same credentials.

        Args:
            workers: How many share it.

        Returns:
            One worker's part, rounded down, so that together they never exceed the whole.

        Raises:
            UsageError: `workers` is not an int of 1 or more, or is more than there are requests to share.
        """
        check_count("RateLimit.share: workers", workers)
        if workers > min(self.per_second, self.per_minute):
            raise UsageError(f"RateLimit.share: {self} cannot be shared by {workers} workers")
        return RateLimit(per_second=self.per_second // workers, per_minute=self.per_minute // workers)


class SlidingWindow:
    """Knows when the next request may be sent.

    Args:
        limit: What to hold; None for no limit (a pause after a 429 still counts).
    """

    __slots__ = ("_windows", "paused_until")

    def __init__(self, limit: RateLimit | None) -> None:
        # For each window: its length, and when the last requests were sent, as many as it may hold.
        self._windows: list[tuple[float, deque[float]]] = []
        self.change(limit)
        self.paused_until: float = -math.inf
        """When the current pause ends, or the last one ended."""

    def change(self, limit: RateLimit | None) -> None:
        """Hold another limit. What was sent already counts under it as well."""
        sent: deque[float] = deque()
        for _, times in self._windows:
            sent = max(sent, times, key=len)
        self._windows = []
        if limit is not None:
            self._windows = [
                (1.0 + _GUARD, deque(sent, maxlen=limit.per_second)),
                (60.0 + _GUARD, deque(sent, maxlen=limit.per_minute)),
            ]

    def ready_at(self) -> float:
        """Return when the next request may be sent; a time that has passed means now."""
        at = self.paused_until
        for length, times in self._windows:
            if len(times) == times.maxlen:
                at = max(at, times[0] + length)
        return at

    def min_interval(self, now: float) -> float:
        """Return how far apart requests that can wait should be sent, so that none after them has to wait long.

        A window that is used up at once sends nothing until the whole rush is a window ago, a minute at Wise; and a
        minute later the rush comes again. So once half of a window is used, what is left of it is to last until more
        becomes free, and so on: the longest gap that any of the coming moments asks for.

        Args:
            now: The time.

        Returns:
            Seconds; 0 while half of every window is free.
        """
        gap = 0.0
        for length, times in self._windows:
            while times and times[0] + length <= now:
                times.popleft()
            most = times.maxlen or 0
            if len(times) * 2 <= most:
                continue
            free = most - len(times)
            for index in range(0, len(times), len(times) // _SAMPLES + 1):
                gap = max(gap, (times[index] + length - now) / (free + index + 1))
        return gap

    def record(self, now: float) -> None:
        """Count a request that is sent now. `now` never runs backwards."""
        for _, times in self._windows:
            times.append(now)

    def withdraw(self, recorded_at: float) -> None:
        """Uncount a request that was recorded at this very time and was not sent, so that another can be.

        What the record pushed out of a full window had already left that window, so nothing is missed.
        """
        for _, times in self._windows:
            if recorded_at in times:
                times.remove(recorded_at)

    def pause_until(self, at: float) -> None:
        """Send nothing before a time, as after a 429. A longer pause is never cut short."""
        self.paused_until = max(self.paused_until, at)
