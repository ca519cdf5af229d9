"""`WebhookTrust`: how reliably webhook events come, and so how long a poll can be postponed. Pure: time is a number.

An event that shows a change before any poll, or within `_GRACE` seconds after a poll, is a hit. A change that a poll
has found, and no event within that time, is a miss. They limit the gap between two polls of a card in two ways:

- Each hit raises the trust, each miss halves it. So a client that gets no events polls as if there were no webhooks;
  one that gets an event for every change polls once per `safety_net`; and when events stop, the first changes that
  polls find restore the usual polling. Without changes the trust stays.
- Where some of the events are lost for good, nine hits between two misses would restore the trust each time. So the
  gap is also no longer than what keeps the average change from being seen `_LATE` seconds late: a card whose event is
  lost waits for half a gap on average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cardprod._protocol.validation import check_seconds

if TYPE_CHECKING:
    from cardprod.models import Card, ProductionStatus

_GRACE: Final = 15.0
"""Seconds after a poll that found a change, within which the event of that change is still a hit."""

_GAIN: Final = 0.3
_LOSS: Final = 0.5
_LATE: Final = 3.0
"""Seconds by which lost events may delay how changes are seen, on average of all changes."""

_MEMORY: Final = 100
"""Changes over which the share of lost events is measured."""

_MOST_FOUND: Final = 4096
"""Found changes that are remembered until their event comes; more are not counted."""


class WebhookTrust:
    """Measures how reliably events come to one client.

    Args:
        safety_net: Seconds between polls of a card while an event comes for every change; 0 to postpone no poll.

    Raises:
        UsageError: `safety_net` is invalid.
    """

    def __init__(self, safety_net: float) -> None:
        check_seconds("safety_net", safety_net)
        self._safety_net = safety_net
        self._has_events = False
        self._changes = 0.0  # of late, each worth a little less than the next
        self._lost = 0.0  # those of them without an event
        self._found: dict[Card, tuple[float, str]] = {}  # changes found by polls, without an event yet; oldest first
        self.trust: float = 0.0
        """From 0, without any events, up to 1."""

    def found(self, card: Card, status: ProductionStatus, now: float) -> None:
        """Count a change that a poll found before any event.

        Args:
            card: The card.
            status: Its status now.
            now: The time.
        """
        if self._has_events and (card not in self._found or self._found[card][1] != status.status):
            self._found.pop(card, None)
            if len(self._found) < _MOST_FOUND:
                self._found[card] = now, str(status.status)

    def arrived(self, card: Card, status: ProductionStatus, now: float, *, is_news: bool) -> None:
        """Count an event.

        Args:
            card: Its card.
            status: The status in it.
            now: The time.
            is_news: Whether anything in it was new to a wait.
        """
        self._count_misses(now)
        self._has_events = True
        was_found = card in self._found and self._found[card][1] == status.status
        if was_found:
            del self._found[card]
        if was_found or is_news:
            self.trust += _GAIN * (1 - self.trust)
            self._count(0.0)

    def gap(self, now: float) -> float:
        """Return for how many seconds after it was last seen a card need not be polled."""
        if not self._has_events:
            return 0.0
        self._count_misses(now)
        # Cubed, so that a few misses restore the usual polling: with half the trust it is an eighth.
        gap = self._safety_net * self.trust**3
        return min(gap, 2 * _LATE * self._changes / self._lost) if self._lost else gap

    def _count_misses(self, now: float) -> None:
        while self._found:
            card, (found_at, _) = next(iter(self._found.items()))
            if found_at + _GRACE > now:
                return
            del self._found[card]
            self.trust *= _LOSS
            self._count(1.0)

    def _count(self, lost: float) -> None:
        self._changes += 1 - self._changes / _MEMORY
        self._lost += lost - self._lost / _MEMORY
