"""`Subscriptions`: the waits of one client by card, so that one poll, or one event, serves all waits for a card.

At most one poll of a card is in flight. Its outcome is delivered to the waits that began before it; later ones need a
poll of their own, because the outcome may be older than their wait. Nothing here polls, or decides when to.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from cardprod._polling.state import LAG
from cardprod.checkpoint import wall_clock
from cardprod.errors import CardprodError, copy_of

if TYPE_CHECKING:
    from cardprod._polling.webhook_trust import WebhookTrust
    from cardprod.models import Card, ProductionEvent, ProductionStatus

Outcome: TypeAlias = "ProductionStatus | CardprodError"
"""The outcome of a poll."""

_SHARDS: Final = 256
_MOST_RECENT: Final = 4096


class Subscriber(Protocol):
    """A wait for a card."""

    card: Card
    """The card."""
    started_at: float
    """When the wait began."""

    def take_outcome(self, outcome: Outcome) -> None:
        """Process the outcome of another wait's poll of the card."""
        ...

    def take_event(self, event: ProductionEvent, wall_now: float) -> bool:
        """Process an event of the card. Return whether something was new."""
        ...

    def on_shared_poll_lost(self) -> None:
        """Called when another wait's poll of the card has ended without an outcome for this wait: poll when due."""
        ...


class SharedPoll:
    """A poll in flight, whose outcome is delivered to all waits for the card. Only the first call of `end` counts.

    Args:
        subscriptions: The subscriptions that it belongs to.
        card: The card.
        owner: The wait that polls.
        began_at: When the poll began, on the loop's clock.
    """

    __slots__ = ("_began_at", "_card", "_is_ended", "_owner", "_subscriptions")

    def __init__(self, subscriptions: Subscriptions, card: Card, owner: Subscriber, began_at: float) -> None:
        self._subscriptions = subscriptions
        self._card = card
        self._owner = owner
        self._began_at = began_at
        self._is_ended = False

    def end(self, outcome: Outcome | None) -> None:
        """Deliver the outcome to all waits for the card, except the one that polled.

        Args:
            outcome: The outcome; None if the poll was cancelled.
        """
        if self._is_ended:
            return
        self._is_ended = True
        for subscriber in self._subscriptions.end_poll(self._card, self._owner):
            if outcome is None or subscriber.started_at > self._began_at:
                subscriber.on_shared_poll_lost()
            else:
                subscriber.take_outcome(copy_of(outcome) if isinstance(outcome, CardprodError) else outcome)


class Subscriptions:
    """The waits of one client by card, and the cards that are being polled.

    Args:
        trust: How reliably events come.
    """

    def __init__(self, trust: WebhookTrust) -> None:
        self.trust: WebhookTrust = trust
        """How reliably events come."""
        self._recent: dict[Card, tuple[float, ProductionEvent]] = {}
        # Many small dicts, because a dict is copied when it grows: with a million cards that would block the event loop
        # for 20 ms. Most cards have one wait; only several of them are in a dict of their own. The key is the
        # token, because a card's hash is computed each time. Cards of two profiles may share one: `of` separates them.
        self._shards: tuple[dict[str, Subscriber | dict[Subscriber, None]], ...] = tuple({} for _ in range(_SHARDS))
        self._polled: set[Card] = set()

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def _shard(self, token: str) -> dict[str, Subscriber | dict[Subscriber, None]]:
        return self._shards[hash(token) % _SHARDS]

    def join(self, card: Card, subscriber: Subscriber) -> tuple[Subscriber, ...]:
        """Subscribe a wait to a card, and return those that are subscribed beside it. A second time changes nothing."""
        token = card.card_token
        shard = self._shard(token)
        there = shard.setdefault(token, subscriber)
        if there is subscriber:
            return ()
        if isinstance(there, dict):
            there[subscriber] = None
        else:
            shard[token] = {there: None, subscriber: None}
        return self.of(card, but=subscriber)

    def leave(self, card: Card, subscriber: Subscriber) -> None:
        """Unsubscribe a wait from a card, if it is subscribed."""
        token = card.card_token
        shard = self._shard(token)
        there = shard.pop(token, None)
        if there is subscriber or there is None:
            return
        if isinstance(there, dict):
            there.pop(subscriber, None)
            there = there if len(there) > 1 else next(iter(there))
        shard[token] = there

    def of(self, card: Card, but: Subscriber | None = None) -> tuple[Subscriber, ...]:
        """Return the subscribers of a card, but one."""
        there = self._shard(card.card_token).get(card.card_token)
        if there is but or there is None:
            return ()
        subscribers = there if isinstance(there, dict) else (there,)
        return tuple(one for one in subscribers if one is not but and one.card == card)

    def is_polled(self, card: Card) -> bool:
        """Whether a poll of the card is in flight."""
        return card in self._polled

    def claim_poll(self, card: Card) -> bool:
        """Claim the next poll of a card, which must then begin. False if one is in flight."""
        polled = self._polled
        count = len(polled)
        polled.add(card)
        return len(polled) > count

    def begin_poll(self, card: Card, owner: Subscriber, now: float) -> SharedPoll:
        """Begin a poll of a card. The caller must end it, also if it fails or is cancelled."""
        self._polled.add(card)
        return SharedPoll(self, card, owner, now)

    def end_poll(self, card: Card, owner: Subscriber) -> tuple[Subscriber, ...]:
        """End the poll of a card, and return its subscribers but the one that polled. Called by `SharedPoll.end`."""
        self._polled.discard(card)
        return self.of(card, but=owner)

    def notify(self, event: ProductionEvent, wall_now: float | None = None, *, is_news: bool = False) -> int:
        """Deliver an event to all waits for its card.

        Args:
            event: The event.
            wall_now: The time in seconds since 1970; None for the machine's clock.
            is_news: Whether it was news to a wait that is stored elsewhere.

        Returns:
            How many waits there are.
        """
        if event.card is None or event.is_test:
            return 0
        subscribers = self.of(event.card)
        wall_now = wall_clock() if wall_now is None else wall_now
        news = [is_news, *(subscriber.take_event(event, wall_now) for subscriber in subscribers)]
        now = asyncio.get_running_loop().time()
        self._remember(event.card, event, now)
        if any(news) or _is_recent(event, wall_now):  # a late redelivery does not show that events are reliable
            self.trust.arrived(event.card, event.status, now, is_news=any(news))
        return len(subscribers)

    def recent_event(self, card: Card) -> ProductionEvent | None:
        """Return a card's latest event if it came less than `LAG` seconds ago, for a wait after its first poll.

        It may have come before the wait began, and that poll may lag behind it.
        """
        if not self._recent:
            return None
        came_at, event = self._recent.get(card, (0.0, None))
        return event if came_at + LAG > asyncio.get_running_loop().time() else None

    def _remember(self, card: Card, event: ProductionEvent, now: float) -> None:
        if event.status.occurred_at is None or event.sent_at is None:
            return  # without times it cannot be ordered
        came_at, before = self._recent.pop(card, (0.0, None))
        if before is not None and before.sent_at is not None and before.sent_at >= event.sent_at:
            now, event = came_at, before  # a replay does not make an event more recent
        self._recent[card] = now, event
        if len(self._recent) > _MOST_RECENT:
            del self._recent[next(iter(self._recent))]


def _is_recent(event: ProductionEvent, wall_now: float) -> bool:
    return event.sent_at is not None and wall_now - event.sent_at.timestamp() <= LAG
