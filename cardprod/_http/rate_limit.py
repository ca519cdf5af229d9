"""The rate limit, and the sliding window that enforces it. Pure: time is a number.

Wise allows each client 100 requests a second and 1,000 a minute by default, and answers 429 with `Retry-After` beyond
that (docs.wise.com, "Rate limits"). The window records when the last requests were sent, as many as each limit allows,
so that no second and no minute, wherever it starts, contains more. A request counts from its permit on, although it
reaches the server a little later if it must open a connection first.
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
"""Seconds added to each window, against rounding and requests that arrive closer together than they were sent."""

_SAMPLES: Final = 16
"""How many of a window's recorded requests are considered, at most, by `min_interval`."""


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
            One worker's share, rounded down, so that all shares together never exceed the limit.

        Raises:
            UsageError: `workers` is not an int of 1 or more, or exceeds one of the limits.
        """
        check_count("RateLimit.share: workers", workers)
        most = min(self.per_second, self.per_minute)
        if workers > most:
            raise UsageError(f"RateLimit.share: workers must be at most {most} for {self}, not {workers}")
        return RateLimit(per_second=self.per_second // workers, per_minute=self.per_minute // workers)


class SlidingWindow:
    """Says when the next request may be sent within a limit, if there is one."""

    __slots__ = ("_windows", "held_until")

    def __init__(self, limit: RateLimit | None) -> None:
        # For each window: its length, and when the last requests were sent, as many as it allows.
        self._windows: list[tuple[float, deque[float]]] = []
        self.change(limit)
        self.held_until: float = -math.inf
        """Nothing is sent before this time, whatever the limit: it is set from outside, after a 429."""

    def change(self, limit: RateLimit | None) -> None:
        """Use another limit. Requests that were sent already count in it."""
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
        """Return when the next request may be sent; a time in the past means now."""
        at = self.held_until
        for length, times in self._windows:
            if len(times) == times.maxlen:
                at = max(at, times[0] + length)
        return at

    def min_interval(self, now: float) -> float:
        """Return the interval to send low-priority requests at, so that others after them need not wait long.

        If a minute's limit were used up in a burst, nothing could be sent for the rest of the minute, and the next
        minute would begin with the same burst. So once half of a window is used, its free requests are spread until
        each of the recorded ones leaves the window; the largest interval that any of these times requires counts.
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

    def sent_since(self, since: float) -> int:
        """Return how many requests were sent since a time, of those that a limit needs recorded."""
        return max((sum(at > since for at in times) for _, times in self._windows), default=0)

    def record(self, now: float) -> None:
        """Count a request that is sent now. `now` never decreases."""
        for _, times in self._windows:
            times.append(now)

    def withdraw(self, recorded_at: float) -> None:
        """Remove a request that was recorded at exactly this time and was not sent.

        An older record that it pushed out of a full deque was past that window already, so the count stays right.
        """
        for _, times in self._windows:
            if recorded_at in times:
                times.remove(recorded_at)
