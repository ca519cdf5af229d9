"""Who waits for which card in one client, so that a look at a card, or an event, is everybody's who waits for it.

There is at most one look at a card under way. Whoever waits for the card and was waiting when it began hears what it
finds; whoever came later needs another, because what it finds may be older than their wait. Nothing here looks or
decides when to: `wait` and `bulk` do.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from cardprod.checkpoint import wall_clock
from cardprod.errors import CardprodError
from cardprod.watch import LAG

if TYPE_CHECKING:
    from datetime import datetime

    from cardprod.deliveries import Deliveries
    from cardprod.models import Card, ProductionEvent, ProductionStatus

__all__ = ["Alarm", "Batch", "Listener", "Outcome", "SharedLooks"]

Outcome: TypeAlias = "ProductionStatus | CardprodError"
"""What comes of a look."""

_SHARDS: Final = 256
_MOST_RECENT: Final = 4096


class Listener(Protocol):
    """Waits for a card, and hears of it."""

    started_at: float
    """When its wait began."""

    def hear_outcome(self, outcome: Outcome) -> None:
        """Take what somebody else's look says of the card."""
        ...

    def hear_event(self, event: ProductionEvent, wall_now: datetime) -> bool:
        """Take what an event says of the card. Say whether that was news."""
        ...

    def wake(self) -> None:
        """Take note that a look at the card which was under way is over, and told nothing that counts here."""
        ...


class Batch(Protocol):
    """Looks at many cards."""

    def break_off(self, error: BaseException) -> None:
        """End, with this error."""
        ...


class SharedLooks:
    """The cards that are waited for in one client, by whom, and which of them is being looked at.

    Args:
        deliveries: What is known of how reliably events come.
    """

    def __init__(self, deliveries: Deliveries) -> None:
        self._recent: dict[Card, tuple[float, ProductionEvent]] = {}
        self.deliveries = deliveries
        """What is known of how reliably events come."""

        # In many small dicts, because one that grows is copied at once: with a million cards that would hold the event
        # loop for 20 ms. Mostly one waits for a card, so only where several do are they in a dict of their own.
        self._shards: tuple[dict[Card, Listener | dict[Listener, None]], ...] = tuple({} for _ in range(_SHARDS))
        self._began_at: dict[Card, float] = {}

        self.batches: set[Batch] = set()
        """The batches under way."""

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def _shard(self, card: Card) -> dict[Card, Listener | dict[Listener, None]]:
        return self._shards[hash(card.card_token) % _SHARDS]

    def close(self, error: CardprodError) -> None:
        """Break off every batch."""
        for batch in tuple(self.batches):
            batch.break_off(error)

    def join(self, card: Card, listener: Listener) -> None:
        """Let somebody hear of a card."""
        shard = self._shard(card)
        there = shard.setdefault(card, listener)
        if isinstance(there, dict):
            there[listener] = None
        elif there is not listener:
            shard[card] = {there: None, listener: None}

    def leave(self, card: Card, listener: Listener) -> None:
        """Let somebody hear of a card no more."""
        shard = self._shard(card)
        there = shard.get(card)
        if there is listener:
            del shard[card]
        elif isinstance(there, dict):
            there.pop(listener, None)
            if not there:
                del shard[card]

    def of(self, card: Card) -> tuple[Listener, ...]:
        """Say who hears of a card."""
        there = self._shard(card).get(card)
        return () if there is None else tuple(there) if isinstance(there, dict) else (there,)

    def is_looked_at(self, card: Card) -> bool:
        """Whether a look at the card is under way."""
        return card in self._began_at

    def begin(self, card: Card, now: float) -> None:
        """Take note that a look begins. It must be ended, whatever comes of it."""
        self._began_at[card] = now

    def end(self, card: Card, outcome: Outcome | None, looker: Listener) -> None:
        """Take note that a look ended, and tell everybody but the one who looked.

        Args:
            card: The card.
            outcome: What came of it; None if it was given up.
            looker: Whose look it was.
        """
        began_at = self._began_at.pop(card)
        there = self._shard(card).get(card)
        if there is None or there is looker:
            return
        for listener in self.of(card):
            if listener is looker:
                continue
            if outcome is None or listener.started_at > began_at:
                listener.wake()
            else:
                listener.hear_outcome(_own(outcome))

    def tell(self, event: ProductionEvent) -> int:
        """Tell everybody who waits for a card what an event says of it.

        Returns:
            How many they are.
        """
        if event.card is None or event.is_test:
            return 0
        listeners = self.of(event.card)
        wall_now = wall_clock()
        news = [listener.hear_event(event, wall_now) for listener in listeners]
        now = asyncio.get_running_loop().time()
        self._remember(event.card, event, now)
        self.deliveries.arrived(event.card, event.status, now, is_news=any(news))
        return len(listeners)

    def recent_event(self, card: Card) -> ProductionEvent | None:
        """Give what an event told of a card a short while ago, for whoever has just seen it for the first time.

        It may have come before the wait began, and a look that lags behind it would not show it yet.
        """
        if not self._recent:
            return None
        told_at, event = self._recent.get(card, (0.0, None))
        return event if told_at + LAG > asyncio.get_running_loop().time() else None

    def _remember(self, card: Card, event: ProductionEvent, now: float) -> None:
        if event.status.occurred_at is None or event.sent_at is None:
            return  # it could be of any production
        told_at, before = self._recent.pop(card, (0.0, None))
        if before is not None and before.sent_at is not None and before.sent_at >= event.sent_at:
            now, event = told_at, before  # what comes again is no more recent for it
        self._recent[card] = now, event
        if len(self._recent) > _MOST_RECENT:
            del self._recent[next(iter(self._recent))]


def _own(outcome: Outcome) -> Outcome:
    """Give each who will raise it an error of its own: a traceback belongs to one task."""
    if not isinstance(outcome, CardprodError):
        return outcome
    error = copy.copy(outcome)
    error.__cause__ = outcome.__cause__
    return error


class Alarm:
    """What one task sleeps by until a time comes or somebody rings."""

    __slots__ = ("_is_rung", "_sleeping")

    def __init__(self) -> None:
        self._is_rung = False
        self._sleeping: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake whoever sleeps, or let the next sleep end at once."""
        self._is_rung = True
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)

    async def sleep_until(self, at: float | None) -> bool:
        """Sleep until a time on the loop's clock, or, if it is None, until somebody rings.

        Returns:
            Whether somebody rang. If not, the time has come, even if the clock, which is coarser, does not show it yet.
        """
        if self._is_rung:
            self._is_rung = False
            return True
        loop = asyncio.get_running_loop()
        self._sleeping = loop.create_future()
        timer = None if at is None else loop.call_at(at, _end, self._sleeping)
        try:
            await self._sleeping
            return self._is_rung
        finally:
            self._sleeping = None
            self._is_rung = False
            if timer is not None:
                timer.cancel()


def _end(sleeping: asyncio.Future[None]) -> None:
    if not sleeping.done():
        sleeping.set_result(None)
