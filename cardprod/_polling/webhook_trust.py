"""How reliably webhooks come, and so how long a poll can be postponed. Pure: time is a number, no card is kept.

A client learns it from what it sees. An event that shows a change before any poll does, or within `_GRACE` seconds
after a poll did, is a hit: it raises the trust. A change that a poll has found and no event has shown within that time
is a miss: it halves the trust. So a client that gets no events polls exactly as if there were no webhooks; one that
gets an event for every change polls once per `safety_net`; and when events stop, the first changes that polls find
bring the polls back. Time alone changes nothing: a quiet night is no reason to poll more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cardprod._protocol.validation import check_seconds

if TYPE_CHECKING:
    from cardprod.models import Card, ProductionStatus

__all__ = ["WebhookTrust"]

_GRACE: Final = 15.0
"""Seconds for which an event may come after a poll that found the same, and still show that events come."""

_GAIN: Final = 0.3
_LOSS: Final = 0.5
_MOST_FOUND: Final = 4096
"""Changes found that may wait for their event; more would teach nothing more."""


class WebhookTrust:
    """What one client knows of how reliably events come.

    Args:
        safety_net: Seconds between polls of a card while an event comes for every change; 0 postpones no poll.

    Raises:
        UsageError: A number that cannot be right.
    """

    def __init__(self, safety_net: float) -> None:
        check_seconds("safety_net", safety_net)
        self._safety_net = safety_net
        self._has_events = False
        self._found: dict[Card, tuple[float, str]] = {}  # by polls, and not shown by an event yet; by time
        self.trust: float = 0.0
        """From 0, where nothing is known of events, up to 1."""

    def found(self, card: Card, status: ProductionStatus, now: float) -> None:
        """Count a change that a poll found before any event.

        Args:
            card: The card.
            status: What it is now.
            now: The time.
        """
        if self._has_events and (card not in self._found or self._found[card][1] != status.status):
            self._found.pop(card, None)
            if len(self._found) < _MOST_FOUND:
                self._found[card] = now, str(status.status)

    def arrived(self, card: Card, status: ProductionStatus, now: float, *, is_news: bool) -> None:
        """Count an event.

        Args:
            card: The card it is about.
            status: What it says.
            now: The time.
            is_news: Whether it showed something new to any wait.
        """
        self._count_misses(now)
        self._has_events = True
        was_found = card in self._found and self._found[card][1] == status.status
        if was_found:
            del self._found[card]
        if was_found or is_news:
            self.trust += _GAIN * (1 - self.trust)

    def gap(self, now: float) -> float:
        """Return for how many seconds after it was last seen a card need not be polled.

        Args:
            now: The time.
        """
        self._count_misses(now)
        # Cubed, so that a few misses are enough to poll as often as without events: half the trust is an eighth.
        return self._safety_net * self.trust**3

    def _count_misses(self, now: float) -> None:
        while self._found:
            card, (found_at, _) = next(iter(self._found.items()))
            if found_at + _GRACE > now:
                return
            del self._found[card]
            self.trust *= _LOSS
