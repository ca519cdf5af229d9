"""Who waits for which card: who gets the outcome of a poll, or an event, and who does not. And `Signal`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from cardprod import Card, ProductionEvent, ProductionStatus, ServerError
from cardprod._polling.signal import Signal
from cardprod._polling.subscriptions import SharedPoll, Subscriptions
from cardprod._polling.webhook_trust import WebhookTrust
from tests.cards import CARD, event_of
from tests.table import Table

if TYPE_CHECKING:
    from cardprod._polling.subscriptions import Outcome

OTHER = Card(123456, "another-card")
READY = ProductionStatus("READY")


class Recorder:
    """A subscriber that records what it gets."""

    def __init__(self, started_at: float = 0.0, *, card: Card = CARD, is_news: bool = True) -> None:
        self.card = card
        self.started_at = started_at
        self.got: list[object] = []
        self._is_news = is_news

    def take_outcome(self, outcome: Outcome) -> None:
        """Record an outcome."""
        self.got.append(outcome)

    def take_event(self, event: ProductionEvent, wall_now: float) -> bool:
        """Record an event."""
        assert wall_now > 1e9, "seconds since 1970"
        self.got.append(event)
        return self._is_news

    def on_shared_poll_lost(self) -> None:
        """Record that a poll brought nothing."""
        self.got.append("poll yourself")


def subscriptions() -> Subscriptions:
    return Subscriptions(WebhookTrust(300))


def test_joining_and_leaving() -> None:
    """Each subscriber is there once until it leaves, in any order, and a card without subscribers is dropped."""
    with Table() as table:
        for count in (1, 2, 3):
            with table.row(count):
                _join_and_leave([Recorder() for _ in range(count)])


def _join_and_leave(recorders: list[Recorder]) -> None:
    subscribed = subscriptions()
    for recorder in recorders * 2:
        subscribed.join(CARD, recorder)
    assert subscribed.of(CARD) == tuple(recorders)
    assert subscribed.of(OTHER) == ()
    assert len(subscribed) == 1
    stranger = Recorder()
    subscribed.leave(CARD, stranger)
    subscribed.leave(OTHER, stranger)
    for number, recorder in enumerate(recorders, start=1):
        subscribed.leave(CARD, recorder)
        subscribed.leave(CARD, recorder)
        assert subscribed.of(CARD) == tuple(recorders[number:])
    assert len(subscribed) == 0


def test_poll_is_shared() -> None:
    """The outcome of a poll is for those who waited when it began; those who came later poll themselves."""
    subscribed = subscriptions()
    poller, before, later, elsewhere = Recorder(0), Recorder(5), Recorder(11), Recorder(0, card=OTHER)
    for recorder in (poller, before, later):
        subscribed.join(CARD, recorder)
    subscribed.join(OTHER, elsewhere)
    shared = subscribed.begin_poll(CARD, poller, 10)
    assert (subscribed.is_polled(CARD), subscribed.is_polled(OTHER)) == (True, False)
    shared.end(READY)
    shared.end(None)  # only the first end counts
    assert not subscribed.is_polled(CARD)
    assert [recorder.got for recorder in (poller, before, later, elsewhere)] == [[], [READY], ["poll yourself"], []]


def test_one_token_of_two_profiles() -> None:
    """Cards of two profiles with one token share nothing: no poll, no event, no place."""
    subscribed = subscriptions()
    other = Card(CARD.profile_id + 1, CARD.card_token)
    one, two, three = Recorder(), Recorder(card=other), Recorder(card=other)
    assert subscribed.join(CARD, one) == subscribed.join(other, two) == ()
    assert subscribed.claim_poll(other)
    assert not subscribed.is_polled(CARD)
    assert subscribed.join(other, three) == (two,)
    SharedPoll(subscribed, other, two, 10).end(READY)
    assert [recorder.got for recorder in (one, two, three)] == [[], [], [READY]]
    subscribed.leave(other, two)
    assert (subscribed.of(CARD), subscribed.of(other)) == ((one,), (three,))
    subscribed.leave(CARD, one)
    assert (subscribed.of(CARD), subscribed.of(other)) == ((), (three,))


def test_poll_is_claimed_once() -> None:
    """The next poll of a card is claimed by one wait; by another only when that poll has ended."""
    subscribed = subscriptions()
    assert [subscribed.claim_poll(card) for card in (CARD, CARD, OTHER)] == [True, False, True]
    assert subscribed.is_polled(CARD)
    SharedPoll(subscribed, CARD, Recorder(), 10).end(None)
    assert subscribed.claim_poll(CARD)


def test_poll_given_up() -> None:
    """After a poll that was given up the other subscribers poll themselves."""
    subscribed = subscriptions()
    poller, other = Recorder(), Recorder()
    subscribed.join(CARD, poller)
    subscribed.join(CARD, other)
    subscribed.begin_poll(CARD, poller, 10).end(None)
    assert (poller.got, other.got) == ([], ["poll yourself"])


def test_errors_are_not_shared() -> None:
    """Each subscriber of a failed poll gets an error of its own, equal to the others in every attribute."""
    subscribed = subscriptions()
    poller, *others = recorders = [Recorder() for _ in range(3)]
    for recorder in recorders:
        subscribed.join(CARD, recorder)
    failure = ServerError("trouble", http_status=503, card=CARD)
    failure.__cause__ = OSError("broken")
    subscribed.begin_poll(CARD, poller, 10).end(failure)
    got = [recorder.got[0] for recorder in others]
    assert len({id(error) for error in (failure, *got)}) == 3
    for error in got:
        assert isinstance(error, ServerError)
        assert str(error) == str(failure)
        assert error.__cause__ is failure.__cause__


async def test_event_is_shared() -> None:
    """An event is for each who waits for its card, and counts as a hit if it changed any of them."""
    subscribed = subscriptions()
    first, second, elsewhere = Recorder(is_news=False), Recorder(), Recorder()
    subscribed.join(CARD, first)
    subscribed.join(CARD, second)
    subscribed.join(OTHER, elsewhere)
    event = event_of(CARD, "PRODUCED")
    assert subscribed.notify(event) == 2
    assert [recorder.got for recorder in (first, second, elsewhere)] == [[event], [event], []]
    trust = subscribed.trust.trust
    assert trust > 0
    subscribed.leave(CARD, second)
    assert subscribed.notify(event) == 1
    assert subscribed.notify(event_of(Card(1, "unknown"), "PRODUCED")) == 0
    assert subscribed.trust.trust == trust


# --- Signal ---


async def test_signal_waits_until_its_time() -> None:
    """A wait for a signal that is not set lasts until its time and says so."""
    loop, signal = asyncio.get_running_loop(), Signal()
    began_at = loop.time()
    assert not await signal.wait_until(began_at + 100)
    assert loop.time() - began_at == pytest.approx(100)


async def test_signal_is_set() -> None:
    """Setting a signal, once or twice, ends the current or the next wait at once, and that wait clears it."""
    loop, signal = asyncio.get_running_loop(), Signal()
    loop.call_later(5, signal.set)
    began_at = loop.time()
    assert await signal.wait_until(None)
    assert loop.time() - began_at == pytest.approx(5)
    signal.set()
    signal.set()
    assert await signal.wait_until(None)
    assert not await signal.wait_until(loop.time() + 1)


async def test_signal_leaves_no_timer() -> None:
    """A wait that is cancelled, or ended by setting, leaves no timer behind."""
    loop, signal = asyncio.get_running_loop(), Signal()
    waiting = asyncio.create_task(signal.wait_until(loop.time() + 1000))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait([waiting])
    loop.call_later(1, signal.set)
    await signal.wait_until(loop.time() + 1000)
    timers = getattr(loop, "_scheduled", [])
    assert [timer for timer in timers if not timer.cancelled()] == []
