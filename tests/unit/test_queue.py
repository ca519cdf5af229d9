"""`PollQueue` in numbers: what is due when, and in which phase each card is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cardprod import AdaptiveSchedule, Backoff, Card, ProductionStatus
from cardprod._polling.queue import TICK, Phase, PollQueue, QueuedState
from cardprod._polling.state import PollOptions

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = PollOptions(schedule=Backoff(first=10, factor=1, jitter=0), timeout=None, max_failures=3)
LIMITED = PollOptions(schedule=Backoff(first=10, factor=1, jitter=0), timeout=60, max_failures=3, last_poll_seconds=5)
READY, DONE = ProductionStatus("READY"), ProductionStatus("PRODUCED")


def state(name: str, *, now: float = 0.0, options: PollOptions = OPTIONS) -> QueuedState:
    return QueuedState(Card(1, name), options, now)


def claim(_: Card) -> bool:
    return True


def poll(queue: PollQueue[QueuedState], now: float, status: ProductionStatus = READY) -> QueuedState:
    """Take what is due, and process the status of its poll."""
    taken = queue.take(now, claim)
    assert taken is not None
    taken.process_status(status, now)
    taken.on_poll_ended()
    queue.reschedule(taken)
    return taken


def test_new_and_old_cards_alternate() -> None:
    """While some were never polled and others are due again, each kind gets every other poll."""
    queue = PollQueue[QueuedState]()
    old = [state(f"old-{number}") for number in range(3)]
    for one in old:
        queue.add(one)
    for _ in old:
        poll(queue, 0)
    new = [state(f"new-{number}") for number in range(3)]
    for one in new:
        queue.add(one)
    taken = [poll(queue, 10).card.card_token.partition("-")[0] for _ in range(6)]
    assert sorted([taken[0:2], taken[2:4], taken[4:6]]) in ([["new", "old"]] * 3, [["old", "new"]] * 3)


class Hurried(AdaptiveSchedule):
    """A schedule that says of each card when it may be polled again, and when it should be: by its status."""

    def gaps_at(self, status: str, *_: object, **__: object) -> tuple[float, float]:
        """Read both from the status."""
        may, should = map(float, status.split())
        return may, should


HURRIED = PollOptions(schedule=Hurried(), timeout=None, max_failures=3)


def test_the_most_urgent_is_next() -> None:
    """Of the cards that are due the most urgent is taken, and a new card goes before those that are not urgent yet."""
    queue = PollQueue[QueuedState]()
    for status in ("5 60", "10 20", "10 30", "50 55"):
        queue.add(state(status.replace(" ", "-"), options=HURRIED))
        poll(queue, 0, ProductionStatus(status))
    assert queue.due_at(0) == 5
    new = state("new", options=HURRIED)
    queue.add(new)
    taken = [queue.take(12, claim) for _ in range(4)]
    assert [one and one.card.card_token for one in taken] == ["new", "10-20", "10-30", "5-60"]
    assert queue.take(12, claim) is None


def test_a_due_card_moves_with_its_changes() -> None:
    """A card that was due, and was then rescheduled, is due again when that says, once."""
    queue = PollQueue[QueuedState]()
    one, other = state("a", options=HURRIED), state("b", options=HURRIED)
    for new, status in ((one, "5 60"), (other, "5 70")):
        queue.add(new)
        poll(queue, 0, ProductionStatus(status))
    assert queue.due_at(6) == 5
    assert queue.postpone(6, 0) is None  # they are due now
    one.process_status(ProductionStatus("7 9"), 6)
    queue.reschedule(one)
    assert queue.take(6, claim) is other
    other.process_status(DONE, 6)
    queue.reschedule(other)
    assert (queue.due_at(6), [*queue]) == (13, [one])
    assert [queue.take(13, claim), queue.take(99, claim)] == [one, None]


def test_followed_polls_are_passed_over() -> None:
    """A card that another wait polls follows that poll, and the next one is taken."""
    queue = PollQueue[QueuedState]()
    first, second = state("first"), state("second")
    queue.add(first)
    queue.add(second)
    assert queue.take(0, lambda card: card != first.card) is second
    assert (first.phase, second.phase) == (Phase.FOLLOWING, Phase.POLLING)
    queue.reschedule(first)
    assert first.phase is Phase.SCHEDULED


def test_over_is_reported_once() -> None:
    """A card whose wait is over leaves, whichever way it ended, and that is reported once."""
    queue = PollQueue[QueuedState]()
    one = state("a")
    queue.add(one)
    taken = queue.take(0, claim)
    assert taken is one
    one.process_status(DONE, 0)
    assert queue.reschedule(one)
    one.on_poll_ended()
    assert not queue.reschedule(one)
    assert (one.phase, list(queue), queue.due_at(0)) == (Phase.OVER, [], math.inf)


def test_expiry() -> None:
    """A card expires when even a last poll would have ended; one that is being polled does not."""
    queue = PollQueue[QueuedState]()
    waiting, polling = state("waiting", options=LIMITED), state("polling", options=LIMITED)
    queue.add(polling)
    queue.add(waiting)
    assert queue.take(0, claim) is polling
    assert queue.next_expiry() == 65
    assert list(queue.expire(64)) == []
    (expired,) = queue.expire(65)
    assert expired is waiting
    assert queue.reschedule(waiting)
    assert waiting.error is not None
    assert queue.next_expiry() == math.inf


def scheduled(queue: PollQueue[QueuedState], name: str, at: float) -> QueuedState:
    """Add a card that was polled ten seconds before it is due again."""
    one = state(name, now=at - 10)
    one.process_status(READY, at - 10)
    queue.add(one)
    return one


def test_the_first_is_new() -> None:
    """A batch that goes on from before begins with a card that was never polled."""
    queue = PollQueue[QueuedState]()
    resumed, new = scheduled(queue, "resumed", 10), state("new")
    queue.add(new)
    assert [queue.take(20, claim), queue.take(20, claim)] == [new, resumed]


def test_cards_of_the_same_time_are_equal() -> None:
    """Of two cards neither goes before the other in a heap, so that adding one of the same time moves no other."""
    one, other = state("a"), state("b")
    assert (one < other, other < one) == (False, False)


def test_every_card_is_counted_once() -> None:
    """A card takes one entry, be it new, scheduled, due, or under poll."""
    queue = PollQueue[QueuedState]()
    for at in (10, 20, 90):
        scheduled(queue, str(at), at)
    for name in ("a", "b"):
        queue.add(state(name))
    assert queue.take(20, claim) is not None
    assert len(queue) == 5


def test_a_moved_card_is_due_at_its_new_time_only() -> None:
    """After a change a card is due at its new time, and the others before it come first; it is listed once."""
    queue = PollQueue[QueuedState]()
    moved, other, last = scheduled(queue, "moved", 10), scheduled(queue, "other", 20), scheduled(queue, "last", 90)
    moved.process_status(READY, 15)
    assert not queue.reschedule(moved)
    assert not queue.reschedule(moved)  # for the same time again
    assert queue.due_at(0) == 20
    assert sorted(one.card.card_token for one in queue) == ["last", "moved", "other"]
    assert [queue.take(100, claim) for _ in range(4)] == [other, moved, last, None]


def test_new_cards_that_an_event_changed() -> None:
    """A new card that an event showed is scheduled like any other, one that it ended is gone, and the next is taken."""
    queue = PollQueue[QueuedState]()
    shown, ended, untouched = state("shown"), state("ended"), state("untouched")
    for one in (shown, ended, untouched):
        queue.add(one)
    shown.process_status(READY, 0)
    assert not queue.reschedule(shown)
    ended.process_status(DONE, 0)
    assert queue.reschedule(ended)
    assert sorted(one.card.card_token for one in queue) == ["shown", "untouched"]
    assert queue.take(0, claim) is untouched
    assert queue.take(0, claim) is None
    assert queue.take(10, claim) is shown


def test_a_card_being_polled_stays_until_its_poll_ends() -> None:
    """A change of a card under poll moves it only if it ends it; what has ended is not listed, even before it moves."""
    queue = PollQueue[QueuedState]()
    one = state("a")
    queue.add(one)
    assert queue.take(0, claim) is one
    one.process_status(READY, 0)
    assert not queue.reschedule(one)
    assert (one.phase, list(queue), queue.due_at(100)) == (Phase.POLLING, [one], math.inf)
    one.process_status(DONE, 1)
    assert list(queue) == []
    assert queue.reschedule(one)


def test_postponing_takes_the_first_that_is_due() -> None:
    """Only the card that is due first is postponed, from a millisecond before its time, and not without a gap."""
    queue = PollQueue[QueuedState]()
    first, second = scheduled(queue, "first", 10), scheduled(queue, "second", 11)
    assert queue.postpone(9.9985, 100) is None
    assert queue.postpone(9.999, 0) is None
    assert queue.postpone(9.999, 100) is first
    queue.reschedule(first)
    assert (queue.due_at(0), first.phase, second.phase) == (11, Phase.SCHEDULED, Phase.SCHEDULED)
    assert queue.postpone(19.999, 100) is second
    assert PollQueue[QueuedState]().postpone(10, 100) is None


def test_deadlines_pass_in_their_order() -> None:
    """The next deadline is the earliest of those whose wait is not over, and passes a millisecond early at most."""
    queue = PollQueue[QueuedState]()
    endless, first, second = state("endless"), state("first", options=LIMITED), state("second", now=7, options=LIMITED)
    for one in (endless, first, second):
        queue.add(one)
    assert queue.next_expiry() == 65
    first.process_status(DONE, 1)
    assert queue.reschedule(first)
    assert queue.next_expiry() == 72
    sooner = QueuedState(Card(1, "sooner"), LIMITED, 8, deadline_at=17)
    queue.add(sooner)
    assert queue.next_expiry() == 22
    assert list(queue.expire(72 - 2 * TICK)) == [sooner]
    assert queue.reschedule(sooner)
    assert list(queue.expire(72 - TICK)) == [second]


def test_cleared() -> None:
    """Clearing forgets every card, in whichever phase, and returns those whose wait is not over."""
    queue = PollQueue[QueuedState]()
    polling, waiting = state("polling", options=LIMITED), scheduled(queue, "waiting", 10)
    new, ended = state("new"), state("ended")
    for one in (polling, ended, new):
        queue.add(one)
    assert queue.take(0, claim) is polling
    ended.process_status(DONE, 0)
    queue.reschedule(ended)
    waiting.process_status(READY, 5)
    queue.reschedule(waiting)
    assert sorted(one.card.card_token for one in queue.clear()) == ["new", "polling", "waiting"]
    assert {one.phase for one in (polling, waiting, new, ended)} == {Phase.OVER}
    assert (len(queue), list(queue), queue.due_at(99), queue.next_expiry()) == (0, [], math.inf, math.inf)


def test_sorting_out_loses_no_card() -> None:
    """When entries that no longer count are sorted out, every card that waits is still there, in its order."""
    queue = PollQueue[QueuedState]()
    due = [state(f"due-{number}", options=HURRIED) for number in range(100)]
    for number, one in enumerate(due):
        queue.add(one)
        poll(queue, 0, ProductionStatus(f"5 {1000 - 7 * number % 100}"))
    others = [scheduled(queue, f"card-{number}", 100_000 - 37 * number % 100) for number in range(100)]
    assert queue.postpone(5, 0) is None  # they are due now
    for one in due[::2]:
        one.process_status(ProductionStatus(f"5 {one.urgent_at}"), 0)
        queue.reschedule(one)
    for one in others[::2]:
        one.process_status(READY, one.next_poll_at + 50_000)
        queue.reschedule(one)
    one = scheduled(queue, "restless", 10)
    lengths: list[int] = []
    for number in range(3000):
        one.process_status(READY, number / 1000)
        queue.reschedule(one)
        lengths.append(len(queue))
    assert (min(lengths[500:]), max(lengths) <= 2200) == (201, True)
    assert queue.take(100, claim) is one
    in_order = [*sorted(due, key=lambda one: one.urgent_at), *sorted(others, key=lambda one: one.next_poll_at)]
    assert [queue.take(one.next_poll_at, claim) for one in in_order] == in_order
    assert queue.take(200_000, claim) is None


@pytest.mark.parametrize(("step", "asks_when"), [(0.001, True), (6, False), (10, True)])
def test_dropped_entries_count_no_longer(*, step: float, asks_when: bool) -> None:
    """An entry that is dropped when it comes first, scheduled or due, brings the next sorting out no nearer."""
    queue = PollQueue[QueuedState]()
    first, last, now = scheduled(queue, "first", 10), scheduled(queue, "last", 1e6), 0.0
    lengths: list[int] = []
    for _ in range(3000):
        now += step
        assert queue.postpone(now, 0) is None
        first.process_status(READY, now)  # leaves an entry that comes first
        queue.reschedule(first)
        if asks_when:
            queue.due_at(now)
        last.process_status(READY, 1e6 + now)  # leaves one that stays
        queue.reschedule(last)
        lengths.append(len(queue))
    assert max(lengths[:1000]) == pytest.approx(1001, abs=2)
    assert max(lengths) == pytest.approx(1026, abs=2)


def test_entries_are_sorted_out_seldom() -> None:
    """Entries are sorted out, which costs time, only where over a thousand and over half of them no longer count."""
    queue = PollQueue[QueuedState]()
    one, now = scheduled(queue, "restless", 10), 0.0
    for _ in range(1000):  # polls leave none
        now += 10
        poll(queue, now)
    for number in range(2000):
        scheduled(queue, f"card-{number}", now if number % 2 else now + 1e6)
    assert queue.postpone(now, 0) is None  # half of them are due
    lengths: list[int] = []
    for number in range(6000):
        one.process_status(READY, now + number / 1000)
        queue.reschedule(one)
        lengths.append(len(queue))
    assert lengths[:1500] == [*range(2002, 3502)]
    assert [max(lengths[:2500]), max(lengths[2500:])] == pytest.approx([4000, 4000], abs=10)


class Fleet(RuleBasedStateMachine):
    """Whatever happens to cards, each is in one place, and none that is due is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = PollQueue[QueuedState]()
        self.now = 0.0
        self.states: list[QueuedState] = []
        self.polling: list[QueuedState] = []

    @rule(timeout=st.sampled_from([None, 60, 5]))
    def add(self, timeout: float | None) -> None:
        """Add a card."""
        options = attrs.evolve(LIMITED, timeout=timeout)
        one = state(f"card-{len(self.states)}", now=self.now, options=options)
        self.states.append(one)
        self.queue.add(one)

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 70.0]))
    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        for one in self.queue.expire(self.now):
            assert self.queue.reschedule(one)

    @rule(follows=st.booleans())
    def take(self, follows: bool) -> None:
        """Take what is due."""
        is_due = self.queue.due_at(self.now) <= self.now
        claim_poll: Callable[[Card], bool] = (lambda card: int(card.card_token[5:]) % 2 == 0) if follows else claim
        taken = self.queue.take(self.now, claim_poll)
        assert taken is None or taken.next_poll_at <= self.now
        assert is_due or taken is None
        if taken is not None:
            self.polling.append(taken)

    @precondition(lambda self: self.polling)
    @rule(is_done=st.booleans())
    def answer(self, is_done: bool) -> None:
        """End a poll with an answer."""
        one = self.polling.pop()
        if not one.is_over:
            one.delay_until(self.now)
            one.process_status(DONE if is_done else READY, self.now)
        one.on_poll_ended()
        self.queue.reschedule(one)

    @precondition(lambda self: self.states)
    @rule(number=st.integers(0, 100), is_done=st.booleans())
    def event(self, number: int, is_done: bool) -> None:
        """Let a card change while it is anywhere."""
        one = self.states[number % len(self.states)]
        if not one.is_over:
            one.process_status(DONE if is_done else READY, self.now)
            self.queue.reschedule(one)

    @invariant()
    def each_is_in_one_place(self) -> None:
        """Every card whose wait goes on is in the queue once, and no other is."""
        there = list(self.queue)
        going_on = [one for one in self.states if not one.is_over]
        assert sorted(map(id, there)) == sorted(map(id, going_on))

    @invariant()
    def none_is_forgotten(self) -> None:
        """What is scheduled is due when its state says, and the first of them is what the queue says."""
        scheduled = [one.next_poll_at for one in self.states if one.phase is Phase.SCHEDULED]
        new = [self.now for one in self.states if one.phase is Phase.NEW]
        if not any(one.phase is Phase.NEW and one.is_over for one in self.states):
            assert self.queue.due_at(self.now) <= min(scheduled + new, default=math.inf)


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=30)
