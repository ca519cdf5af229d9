"""`Recovery`: how a client comes back after a 429: a pause, one request as a probe, then a rising rate. Pure.

If all requests that queued during a pause left at its end, a server whose real limit is below our `RateLimit` would
refuse nearly all of them again. So:

1. Nothing is sent until the longest `Retry-After` is over, two minutes at most. Without one the pause is up to half a
   second, doubled with each probe that is refused in a row, up to a minute.
2. One request is sent, the probe, and nothing else until it has ended. If it is refused, the next pause begins.
3. Then requests are spaced by a rate, from one a second on, doubled in each second. Once a rate R was refused, it rises
   as in TCP CUBIC (RFC 9438): slowly up to R, where it may be refused again, and after that faster and faster:

       rate(t) = R (1 + 0.3 (t / 10 - 1)^3)        0.7 R at 0 s, R at 10 s, 1.3 R at 20 s, 9 R at 40 s

   The time t stands still while nothing is sent, which proves nothing.
4. When the rate reaches that of the `RateLimit`, the recovery is over and forgotten.

Against a server that allows 5 requests a second, that is one 429 about every ten seconds, and 70 % of what it allows.
"""

from __future__ import annotations

import enum
import math
import random
from typing import TYPE_CHECKING, Final

from cardprod._protocol.api_errors import LONGEST_PAUSE

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE: Final = 0.5
_PAUSE_CEILING: Final = 60.0
"""Seconds of a pause without `Retry-After` at most: the first one, and after probes that were refused."""
_PLATEAU: Final = 10.0
"""Seconds after which the rate is again what was refused."""
_DECREASE: Final = 0.3
"""The share of a refused rate that is left out at first."""
_SLOWEST: Final = 1 / 60
"""Requests per second at least: more than one a minute is always tried."""
_IDLE: Final = 2.0
"""How many intervals between requests count as time under load, at most."""


class _Phase(enum.Enum):
    PAUSED = enum.auto()
    PROBING = enum.auto()
    RISING = enum.auto()


class Recovery:
    """Says when the next request may be sent after a 429."""

    __slots__ = (
        "_at",
        "_phase",
        "_random",
        "_refused_at",
        "_refused_probes",
        "_refused_rate",
        "_risen_for",
        "ceiling",
        "is_under_way",
        "paused_until",
    )

    def __init__(self, ceiling: float, random: Callable[[], float] = random.random) -> None:
        self.ceiling: float = ceiling
        """The rate, in requests per second, at which it is over."""
        self.is_under_way: bool = False
        """Whether there was a pause."""
        self.paused_until: float = -math.inf
        """When the current pause ends, or the last one ended."""
        self._random = random
        self._phase = _Phase.PAUSED
        self._refused_at = -math.inf
        self._refused_probes = 0
        self._refused_rate: float | None = None
        self._risen_for = 0.0  # t
        self._at = -math.inf  # when the last request was sent

    @property
    def rate(self) -> float:
        """How many requests per second may be sent once the probe was answered."""
        if self._refused_rate is None:
            return math.exp2(self._risen_for)
        return self._refused_rate * (1 + _DECREASE * (self._risen_for / _PLATEAU - 1) ** 3)

    @property
    def ready_at(self) -> float:
        """When the next request may be sent; infinite while the probe is under way."""
        if self._phase is _Phase.PAUSED:
            return self.paused_until
        return math.inf if self._phase is _Phase.PROBING else self._at + 1 / self.rate

    @property
    def is_over(self) -> bool:
        """Whether requests may be sent as before the 429."""
        return self._phase is _Phase.RISING and self.rate >= self.ceiling

    def pause_until(self, at: float) -> None:
        """Send nothing before a time, and then a probe. A longer pause is not shortened."""
        self.paused_until = max(self.paused_until, at)
        self._phase = _Phase.PAUSED
        self.is_under_way = True

    def refuse(self, now: float, sent_at: float, retry_after: float | None) -> None:
        """Pause, because a request was answered with 429, perhaps with a `Retry-After`."""
        # Of the requests that were under way when the first one was refused, the others say nothing new about the rate.
        if sent_at > self._refused_at:
            if self._phase is _Phase.RISING:
                self._refused_rate = max(self.rate, _SLOWEST / (1 - _DECREASE))
            elif self._phase is _Phase.PROBING:
                self._refused_probes += 1
            self._refused_at = now
        pause = retry_after or min(_FIRST_PAUSE * 2**self._refused_probes, _PAUSE_CEILING) * (1 + self._random()) / 2
        self.pause_until(now + min(pause, LONGEST_PAUSE))

    def record(self, now: float) -> bool:
        """Count a request that is sent now, at `ready_at` or later. Return whether it is the probe."""
        if self._phase is _Phase.RISING:
            self._risen_for += min(now - self._at, _IDLE / self.rate)
        else:
            self._phase = _Phase.PROBING
        self._at = now
        return self._phase is _Phase.PROBING

    def end_probe(self, *, was_sent: bool) -> None:
        """End the probe, which was not refused: the rate rises now. If it was not sent, the next request is the probe.

        A probe that got no answer counts: the server that may have lost it has not refused it.
        """
        if self._phase is not _Phase.PROBING:  # it was refused, or another request was
            return
        self._phase = _Phase.RISING if was_sent else _Phase.PAUSED
        if was_sent:
            self._refused_probes = 0
            self._risen_for = 0.0
