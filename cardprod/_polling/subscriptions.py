"""Who waits for which card in one client, so that one poll, or one event, serves all of them.

There is at most one poll of a card under way. Those who waited for the card when it began get its outcome; those who
came later need another, because its outcome may be older than their wait. Nothing here polls, or decides when to.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from cardprod._polling.state import LAG
from cardprod.checkpoint import wall_clock
from cardprod.errors import CardprodError

if TYPE_CHECKING:
    from cardprod._polling.webhook_trust import WebhookTrust
    from cardprod.models import Card, ProductionEvent, ProductionStatus

__all__ = ["Outcome", "SharedPoll", "Subscriber", "Subscriptions"]

Outcome: TypeAlias = "ProductionStatus | CardprodError"
"""What comes of a poll."""

_SHARDS: Final = 256
_MOST_RECENT: Final = 4096


class Subscriber(Protocol):
    """Waits for a card."""

    started_at: float
    """When its wait began."""

    def take_outcome(self, outcome: Outcome) -> None:
        """Take the outcome of somebody else's poll of the card."""
        ...

    def take_event(self, event: ProductionEvent, wall_now: float) -> bool:
        """Take an event of the card. Return whether it was news."""
        ...

    def poll_yourself(self) -> None:
        """Go on: the poll of the card that was under way is over, and its outcome does not count here."""
        ...


class SharedPoll:
    """A poll under way, whose outcome is for all who wait for the card. Only the first end of it counts.

    Args:
        subscriptions: Where it is known.
        card: The card.
        poller: Whose poll it is.
        began_at: When it began, on the loop's clock.
    """

    __slots__ = ("_began_at", "_card", "_is_ended", "_poller", "_subscriptions")

    def __init__(self, subscriptions: Subscriptions, card: Card, poller: Subscriber, began_at: float) -> None:
        self._subscriptions = subscriptions
        self._card = card
        self._poller = poller
        self._began_at = began_at
        self._is_ended = False

    def end(self, outcome: Outcome | None) -> None:
        """Give the outcome to all who wait for the card, but to the one whose poll it is.

        Args:
            outcome: What came of it; None if it was given up.
        """
        if self._is_ended:
            return
        self._is_ended = True
        for subscriber in self._subscriptions.end_poll(self._card):
            if subscriber is self._poller:
                continue
            if outcome is None or subscriber.started_at > self._began_at:
                subscriber.poll_yourself()
            else:
                subscriber.take_outcome(_own(outcome))


class Subscriptions:
    """The cards that are waited for in one client, by whom, and which of them is being polled.

    Args:
        trust: How reliably events come.
    """

    def __init__(self, trust: WebhookTrust) -> None:
        self.trust: WebhookTrust = trust
        """How reliably events come."""
        self._recent: dict[Card, tuple[float, ProductionEvent]] = {}
        # In many small dicts, because one that grows is copied at once: with a million cards that would hold the event
        # loop for 20 ms. Mostly one waits for a card, so only where several do are they in a dict of their own.
        self._shards: tuple[dict[Card, Subscriber | dict[Subscriber, None]], ...] = tuple({} for _ in range(_SHARDS))
        self._polled: set[Card] = set()

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def _shard(self, card: Card) -> dict[Card, Subscriber | dict[Subscriber, None]]:
        return self._shards[hash(card.card_token) % _SHARDS]

    def join(self, card: Card, subscriber: Subscriber) -> None:
        """Subscribe to a card. Twice is once."""
        shard = self._shard(card)
        there = shard.setdefault(card, subscriber)
        if isinstance(there, dict):
            there[subscriber] = None
        elif there is not subscriber:
            shard[card] = {there: None, subscriber: None}

    def leave(self, card: Card, subscriber: Subscriber) -> None:
        """Unsubscribe from a card. One that is not subscribed may leave too."""
        shard = self._shard(card)
        there = shard.get(card)
        if there is subscriber:
            del shard[card]
        elif isinstance(there, dict):
            there.pop(subscriber, None)
            if not there:
                del shard[card]

    def of(self, card: Card) -> tuple[Subscriber, ...]:
        """Return who is subscribed to a card."""
        there = self._shard(card).get(card)
        return () if there is None else tuple(there) if isinstance(there, dict) else (there,)

    def is_polled(self, card: Card) -> bool:
        """Whether a poll of the card is under way."""
        return card in self._polled

    def begin_poll(self, card: Card, poller: Subscriber, now: float) -> SharedPoll:
        """Begin a poll, which the caller ends whatever comes of it."""
        self._polled.add(card)
        return SharedPoll(self, card, poller, now)

    def end_poll(self, card: Card) -> tuple[Subscriber, ...]:
        """Forget that a card is polled; return who is subscribed to it. `SharedPoll.end` calls it."""
        self._polled.discard(card)
        return self.of(card)

    def notify(self, event: ProductionEvent) -> int:
        """Give an event to all who wait for its card.

        Returns:
            How many they are.
        """
        if event.card is None or event.is_test:
            return 0
        subscribers = self.of(event.card)
        wall_now = wall_clock()
        news = [subscriber.take_event(event, wall_now) for subscriber in subscribers]
        now = asyncio.get_running_loop().time()
        self._remember(event.card, event, now)
        if any(news) or _is_recent(event, wall_now):  # an old one, delivered again, says nothing of how events come
            self.trust.arrived(event.card, event.status, now, is_news=any(news))
        return len(subscribers)

    def recent_event(self, card: Card) -> ProductionEvent | None:
        """Return a card's latest event, if it came a short while ago, for a wait that has just seen the card first.

        It may have come before the wait began, and a poll that lags behind it would not show it yet.
        """
        if not self._recent:
            return None
        came_at, event = self._recent.get(card, (0.0, None))
        return event if came_at + LAG > asyncio.get_running_loop().time() else None

    def _remember(self, card: Card, event: ProductionEvent, now: float) -> None:
        if event.status.occurred_at is None or event.sent_at is None:
            return  # it could be of any production
        came_at, before = self._recent.pop(card, (0.0, None))
        if before is not None and before.sent_at is not None and before.sent_at >= event.sent_at:
            now, event = came_at, before  # a replay is no more recent for it
        self._recent[card] = now, event
        if len(self._recent) > _MOST_RECENT:
            del self._recent[next(iter(self._recent))]


def _is_recent(event: ProductionEvent, wall_now: float) -> bool:
    return event.sent_at is not None and wall_now - event.sent_at.timestamp() <= LAG


def _own(outcome: Outcome) -> Outcome:
    """Give each who will raise it an error of its own: a traceback belongs to one task."""
    if not isinstance(outcome, CardprodError):
        return outcome
    error = copy.copy(outcome)
    error.__cause__ = outcome.__cause__
    return error
