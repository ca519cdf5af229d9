"""How far webhooks can be relied on, and so how long a look can be put off. Pure: time is a number, no card is kept.

A client learns it from what it sees. An event that tells a change before any look does, or within `_GRACE` seconds
after a look did, is a hit: it raises the trust. A change that a look has found and no event has told within that time
is a miss: it halves the trust. So a client that never hears an event looks exactly as if there were no webhooks; one
that hears of every change looks once per `safety_net`; and when events stop, the first changes that looks find bring
the looks back. Time alone changes nothing: a quiet night is no reason to look more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cardprod.errors import UsageError
from cardprod.schedule import is_finite_number

if TYPE_CHECKING:
    from cardprod.models import Card, ProductionStatus

__all__ = ["Deliveries"]

_GRACE: Final = 15.0
"""Seconds for which an event may come after a look that found the same, and still show that events come."""

_GAIN: Final = 0.3
_LOSS: Final = 0.5
_MOST_UNTOLD: Final = 4096
"""Changes found that may wait for their event; more tell nothing more."""


class Deliveries:
    """What one client knows of how reliably events come.

    Args:
        safety_net: Seconds between looks at a card while every change is told by an event; 0 puts no look off.

    Raises:
        UsageError: A number that cannot be right.
    """

    def __init__(self, safety_net: float) -> None:
        if not is_finite_number(safety_net) or safety_net < 0:
            raise UsageError(f"safety_net must be a finite number of seconds, 0 or more, not {safety_net!r}")
        self._safety_net = safety_net
        self._has_heard = False
        self._untold: dict[Card, tuple[float, str]] = {}  # found by a look, by time
        self.trust: float = 0.0
        """From 0, where nothing is known of events, up to 1."""

    def found(self, card: Card, status: ProductionStatus, now: float) -> None:
        """Take note that a look found a change of which no event had told.

        Args:
            card: The card.
            status: What it is now.
            now: The time.
        """
        if self._has_heard and (card not in self._untold or self._untold[card][1] != status.status):
            self._untold.pop(card, None)
            if len(self._untold) < _MOST_UNTOLD:
                self._untold[card] = now, str(status.status)

    def arrived(self, card: Card, status: ProductionStatus, now: float, *, is_news: bool) -> None:
        """Take note that an event came.

        Args:
            card: The card it is about.
            status: What it tells.
            now: The time.
            is_news: Whether anybody learned something new from it.
        """
        self._count_misses(now)
        self._has_heard = True
        was_found = self._untold.get(card, (0.0, ""))[1] == status.status
        if was_found:
            del self._untold[card]
        if was_found or is_news:
            self.trust += _GAIN * (1 - self.trust)

    def gap(self, now: float) -> float:
        """Say for how many seconds after it was last heard of a card need not be looked at.

        Args:
            now: The time.
        """
        self._count_misses(now)
        # Cubed, so that a few misses are enough to look as often as without events: half the trust is an eighth.
        return self._safety_net * self.trust**3

    def _count_misses(self, now: float) -> None:
        while self._untold:
            card, (found_at, _) = next(iter(self._untold.items()))
            if found_at + _GRACE > now:
                return
            del self._untold[card]
            self.trust *= _LOSS
