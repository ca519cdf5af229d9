"""The rate limit, and the sliding window that enforces it. Pure: time is a number.

Wise allows each client 100 requests a second and 1,000 a minute by default, and answers 429 with `Retry-After` beyond
that (docs.wise.com, "Rate limits"). The window records when the requests of the last minute were sent, whatever the
limit was, so that no second and no minute, wherever it starts, contains more. A request counts from its permit on,
although it reaches the server a little later if it must open a connection first.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from typing import Final

import attrs

from cardprod._protocol.validation import check_count
from cardprod.errors import UsageError

_GUARD: Final = 0.001
"""Seconds added to each window, against rounding and requests that arrive closer together than they were sent."""

_SECOND: Final = 1.0 + _GUARD
_MINUTE: Final = 60.0 + _GUARD

_FEWEST: Final = 64
"""Records that are kept at least before old ones are removed."""

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

    __slots__ = ("_limits", "_prune_at", "_sent", "held_until")

    def __init__(self, limit: RateLimit | None) -> None:
        self._limits: tuple[tuple[float, int], ...] = ()  # the length of each window, and the most requests in it
        # When requests were sent, in order: all of the longest window, also those beyond a limit that was reduced. A
        # list, because a deque finds what is in its middle slowly.
        self._sent: list[float] = []
        self._prune_at = _FEWEST  # how long that list gets before what is older is removed
        self.held_until: float = -math.inf
        """Nothing is sent before this time, whatever the limit: it is set from outside, after a 429."""
        self.change(limit)

    def change(self, limit: RateLimit | None) -> None:
        """Use another limit. All requests of the last minute count in it; without a limit none is remembered."""
        if limit is None:
            self._limits = ()
            self._sent.clear()
        else:
            self._limits = ((_SECOND, limit.per_second), (_MINUTE, limit.per_minute))

    def ready_at(self) -> float:
        """Return when the next request may be sent; a time in the past means now."""
        at = self.held_until
        sent = self._sent
        for length, most in self._limits:
            if len(sent) >= most:
                at = max(at, sent[-most] + length)
        return at

    def min_interval(self, now: float) -> float:
        """Return the interval to send low-priority requests at, so that others after them need not wait long.

        If a minute's limit were used up in a burst, nothing could be sent for the rest of the minute, and the next
        minute would begin with the same burst. So once half of a window is used, its free requests are spread until
        each of the recorded ones leaves the window; the largest interval that any of these times requires counts.
        """
        gap = 0.0
        sent = self._sent
        for length, most in self._limits:
            # Of more than a limit that was reduced allows, the next request waits for the last ones.
            first = max(bisect_right(sent, now - length), len(sent) - most)
            used = len(sent) - first
            if used * 2 <= most:
                continue
            free = most - used
            for index in range(0, used, used // _SAMPLES + 1):
                gap = max(gap, (sent[first + index] + length - now) / (free + index + 1))
        return gap

    def sent_since(self, since: float) -> int:
        """Return how many requests were sent at a time or later, at most a minute ago; 0 without a limit."""
        return len(self._sent) - bisect_left(self._sent, since)

    def record(self, now: float) -> None:
        """Count a request that is sent now. `now` never decreases."""
        if not self._limits:
            return
        self._sent.append(now)
        if len(self._sent) >= self._prune_at:
            del self._sent[: bisect_right(self._sent, now - _MINUTE)]
            self._prune_at = 2 * len(self._sent) + _FEWEST  # so that it is done once in as many requests as are left

    def move(self, recorded_at: float, now: float) -> bool:
        """Change the time of a recorded request to now, if the limit allows that. Return whether it did."""
        self.withdraw(recorded_at)
        sent = self._sent
        if any(len(sent) >= most and sent[-most] + length > now for length, most in self._limits):
            insort(sent, recorded_at)
            return False
        self.record(now)
        return True

    def withdraw(self, recorded_at: float) -> None:
        """Remove a request that was recorded at exactly this time and was not sent."""
        index = bisect_left(self._sent, recorded_at)
        if index < len(self._sent) and self._sent[index] == recorded_at:
            del self._sent[index]
