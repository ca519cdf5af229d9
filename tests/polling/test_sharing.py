"""Who waits for which card: who is told of a look, of an event, and who is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from cardprod import Card, CardprodError, ProductionEvent, ProductionStatus, ServerError, UsageError
from cardprod.deliveries import Deliveries
from cardprod.sharing import Alarm, SharedLooks
from tests.cards import CARD, event_of
from tests.table import Table

if TYPE_CHECKING:
    from datetime import datetime

    from cardprod.sharing import Outcome

OTHER = Card(123456, "another-card")
READY = ProductionStatus("READY")


class Ear:
    """Listens, and writes down what it hears."""

    def __init__(self, started_at: float = 0.0, *, is_news: bool = True) -> None:
        self.started_at = started_at
        self.heard: list[object] = []
        self._is_news = is_news

    def hear_outcome(self, outcome: Outcome) -> None:
        """Hear of a look."""
        self.heard.append(outcome)

    def hear_event(self, event: ProductionEvent, wall_now: datetime) -> bool:
        """Hear of an event."""
        assert wall_now.tzinfo is not None
        self.heard.append(event)
        return self._is_news

    def wake(self) -> None:
        """Hear that a look told nothing."""
        self.heard.append("wake")


class Broken:
    """A batch that writes down what ended it."""

    error: BaseException | None = None

    def break_off(self, error: BaseException) -> None:
        """Be ended."""
        self.error = error


def shared_looks() -> SharedLooks:
    return SharedLooks(Deliveries(300))


def test_joining_and_leaving() -> None:
    """Each who joins is there once until he leaves, in any order, and a card nobody waits for is forgotten."""
    with Table() as table:
        for count in (1, 2, 3):
            with table.row(count):
                _join_and_leave([Ear() for _ in range(count)])


def _join_and_leave(ears: list[Ear]) -> None:
    shared = shared_looks()
    for ear in ears * 2:
        shared.join(CARD, ear)
    assert shared.of(CARD) == tuple(ears)
    assert shared.of(OTHER) == ()
    assert len(shared) == 1
    stranger = Ear()
    shared.leave(CARD, stranger)
    shared.leave(OTHER, stranger)
    for number, ear in enumerate(ears, start=1):
        shared.leave(CARD, ear)
        shared.leave(CARD, ear)
        assert shared.of(CARD) == tuple(ears[number:])
    assert len(shared) == 0


def test_look_is_everybodys() -> None:
    """A look is told to whoever waited when it began; who came later is woken to look; who looked knows."""
    shared = shared_looks()
    looker, before, later, elsewhere = Ear(0), Ear(5), Ear(11), Ear(0)
    for ear in (looker, before, later):
        shared.join(CARD, ear)
    shared.join(OTHER, elsewhere)
    shared.begin(CARD, 10)
    assert shared.is_looked_at(CARD)
    assert not shared.is_looked_at(OTHER)
    shared.end(CARD, READY, looker)
    assert not shared.is_looked_at(CARD)
    assert [ear.heard for ear in (looker, before, later, elsewhere)] == [[], [READY], ["wake"], []]


def test_look_given_up_wakes_everybody() -> None:
    """A look that was given up tells nothing, and everybody else looks for himself."""
    shared = shared_looks()
    looker, other = Ear(), Ear()
    shared.join(CARD, looker)
    shared.join(CARD, other)
    shared.begin(CARD, 10)
    shared.end(CARD, None, looker)
    assert (looker.heard, other.heard) == ([], ["wake"])


def test_errors_are_not_shared() -> None:
    """Of a look that failed each gets an error of his own, equal in all that can be read of it."""
    shared = shared_looks()
    looker, *others = ears = [Ear() for _ in range(3)]
    for ear in ears:
        shared.join(CARD, ear)
    failure = ServerError("trouble", http_status=503, card=CARD)
    failure.__cause__ = OSError("broken")
    shared.begin(CARD, 10)
    shared.end(CARD, failure, looker)
    told = [ear.heard[0] for ear in others]
    assert len({id(error) for error in (failure, *told)}) == 3
    for error in told:
        assert isinstance(error, ServerError)
        assert str(error) == str(failure)
        assert error.__cause__ is failure.__cause__


async def test_event_is_everybodys() -> None:
    """An event is told to each who waits for its card, and counts as a hit if any of them learned from it."""
    shared = shared_looks()
    first, second, elsewhere = Ear(is_news=False), Ear(), Ear()
    shared.join(CARD, first)
    shared.join(CARD, second)
    shared.join(OTHER, elsewhere)
    event = event_of(CARD, "PRODUCED")
    assert shared.tell(event) == 2
    assert [ear.heard for ear in (first, second, elsewhere)] == [[event], [event], []]
    assert shared.deliveries.trust > 0
    trust = shared.deliveries.trust
    shared.leave(CARD, second)
    assert shared.tell(event) == 1
    assert shared.tell(event_of(Card(1, "nobodys"), "PRODUCED")) == 0
    assert shared.deliveries.trust == trust


def test_closing() -> None:
    """Closing breaks every batch off, with the error that is given."""
    shared, batches = shared_looks(), [Broken(), Broken()]
    shared.batches.update(batches)
    error: CardprodError = UsageError("closed")
    shared.close(error)
    assert [batch.error for batch in batches] == [error, error]


async def test_alarm_sleeps_until_its_time() -> None:
    """Without a ring, sleep lasts until its time and says that nobody rang."""
    loop, alarm = asyncio.get_running_loop(), Alarm()
    began_at = loop.time()
    assert not await alarm.sleep_until(began_at + 100)
    assert loop.time() - began_at == pytest.approx(100)


async def test_alarm_rings() -> None:
    """A ring ends a sleep at once, or the next one; two rings are one; and it is used up."""
    loop, alarm = asyncio.get_running_loop(), Alarm()
    loop.call_later(5, alarm.ring)
    began_at = loop.time()
    assert await alarm.sleep_until(None)
    assert loop.time() - began_at == pytest.approx(5)
    alarm.ring()
    alarm.ring()
    assert await alarm.sleep_until(None)
    assert not await alarm.sleep_until(loop.time() + 1)


async def test_alarm_leaves_no_timer() -> None:
    """A sleep that is cancelled, or rung out of, leaves no timer behind."""
    loop, alarm = asyncio.get_running_loop(), Alarm()
    sleeping = asyncio.create_task(alarm.sleep_until(loop.time() + 1000))
    await asyncio.sleep(1)
    sleeping.cancel()
    await asyncio.wait([sleeping])
    loop.call_later(1, alarm.ring)
    await alarm.sleep_until(loop.time() + 1000)
    timers = getattr(loop, "_scheduled", [])
    assert [timer for timer in timers if not timer.cancelled()] == []
