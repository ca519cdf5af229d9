"""One card's wait when it receives events as well as polls: what is new, what is old, and when a poll is postponed."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff
from cardprod._polling.state import PollOptions, PollState
from cardprod.errors import ServerError, WaitTimeout
from cardprod.models import ProductionEvent, ProductionStatus, Transition
from tests.cards import CARD

if TYPE_CHECKING:
    from cardprod._polling.backoff import Schedule

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def wall_at(seconds: float) -> float:
    return at(seconds).timestamp()


def event_of(status: str, occurred_at: float | None, sent_at: float | None) -> ProductionEvent:
    """Make an event, with its times in seconds after noon."""
    return ProductionEvent(
        card=CARD,
        status=ProductionStatus(status, occurred_at=None if occurred_at is None else at(occurred_at)),
        sent_at=None if sent_at is None else at(sent_at),
    )


def seen(status: str, occurred_at: float | None = None) -> ProductionStatus:
    return ProductionStatus(status, occurred_at=None if occurred_at is None else at(occurred_at))


def begun(*, schedule: Schedule | None = None, timeout: float | None = None, started_at: float = 0.0) -> PollState:
    """Begin a wait at noon, which is 0 on the loop's clock."""
    return PollState(
        CARD, PollOptions(schedule=schedule or Backoff(jitter=0), timeout=timeout, max_failures=5), started_at
    )


@pytest.mark.parametrize(
    ("known", "event", "counts"),
    [
        (("READY", 1.1), ("IN_PROGRESS", 2.2), True),  # later
        (("READY", 1.1), ("IN_PROGRESS", 1.1), True),  # of the same request, and further along
        (("READY", None), ("IN_PROGRESS", 1.1), True),  # no time to compare: further along
        (("READY", 1.1), ("IN_PROGRESS", None), True),
        (("READY", 1.1), ("READY", 1.1), False),  # the same
        (("READY", 1.1), ("READY", None), False),
        (("IN_PROGRESS", 1.1), ("READY", 1.1), False),  # before
        (("IN_PROGRESS", 1.1), ("READY", None), False),
        (("IN_PROGRESS", 2.2), ("PRODUCTION_ERROR", 1.1), False),  # of the request before
        (("IN_PROGRESS", 2.2), ("IN_PROGRESS", 1.1), False),
        (("IN_PROGRESS", 1.1), ("IN_PROGRESS", 2.2), True),  # sent to the kiosk again
        (("IN_PROGRESS", 1.1), ("READY", 2.2), True),  # a new one, not started yet
        (("IN_PROGRESS", 1.1), ("EMBOSSING", 1.1), False),  # undecided, and a poll showed the one
        (("IN_PROGRESS", 1.625), ("PRODUCED", 1.0), True),  # the same, in whole seconds
        (("IN_PROGRESS", 1.625), ("IN_PROGRESS", 2.0), False),
        (("IN_PROGRESS", 1.0), ("IN_PROGRESS", 1.625), False),
        (("IN_PROGRESS", 1.0), ("IN_PROGRESS", 2.0), True),  # a second apart is another time
        (("IN_PROGRESS", 1.25), ("IN_PROGRESS", 1.5), True),  # both are exact
    ],
)
def test_which_event_counts(known: tuple[str, float | None], event: tuple[str, float | None], *, counts: bool) -> None:
    """An event counts if it is newer by its time, or, if that is the same or missing, by the order of statuses."""
    state = begun()
    state.process_status(seen(*known), 0)
    step = state.process_event(event_of(*event, 3), 3, wall_at(3))
    assert (step is not None) is counts
    assert state.last == (seen(*event) if counts else seen(*known))
    if step is not None:
        assert (step.source, step.polls, step.elapsed) == ("webhook", 1, 3)
        assert state.is_over is step.is_final


@pytest.mark.parametrize("sent_at", [-3 * 86_400, -1, 9.99, None])
@pytest.mark.parametrize(
    ("known", "event"),
    [
        (("READY", None), ("PRODUCED", -3 * 86_400)),  # a poll that had no time
        (("IN_PROGRESS", None), ("PRODUCTION_ERROR", -3 * 86_400)),
        (("READY", 5.5), ("PRODUCED", None)),  # an event that had no time, or an illegible one
        (("IN_PROGRESS", 5.5), ("PRODUCTION_ERROR", 5.0)),  # an error in whole seconds, just before the retry
        (("READY", None), ("PRODUCED", None)),
    ],
)
def test_old_event_that_times_do_not_order(
    known: tuple[str, float | None], event: tuple[str, float | None], sent_at: float | None
) -> None:
    """Where times do not order the two, an event that was not sent after the last answered poll changes nothing."""
    state = begun()
    state.process_status(seen("READY", known[1]), 0)
    state.process_status(seen(*known), 10)
    assert state.process_event(event_of(*event, sent_at), 12, wall_at(12)) is None
    assert state.last == seen(*known)
    assert state.process_event(event_of(*event, 11), 12, wall_at(12)) is not None  # a fresh one


def test_events_that_times_do_not_order() -> None:
    """Of two events that times do not order, one further along counts if it was not sent before the other."""
    for sent_at, counts in ((10.9, False), (11, True), (11.1, True)):
        state = begun()
        state.process_status(seen("READY"), 10)
        assert state.process_event(event_of("IN_PROGRESS", None, 11), 12, wall_at(12)) is not None
        assert (state.process_event(event_of("PRODUCED", None, sent_at), 13, wall_at(13)) is not None) is counts


def test_sent_at_breaks_ties() -> None:
    """Of two events that times and statuses do not order, the one sent later counts; if that is unknown, the first."""
    state = begun()
    state.process_status(seen("READY", 1.1), 0)
    assert state.process_event(event_of("COOLING", 2.1, 5), 6, wall_at(6)) is not None
    assert state.process_event(event_of("EMBOSSING", 2.1, 4), 7, wall_at(7)) is None
    assert state.process_event(event_of("EMBOSSING", 2.1, None), 7, wall_at(7)) is None
    assert state.process_event(event_of("EMBOSSING", 2.1, 6), 7, wall_at(7)) is not None
    assert state.process_event(event_of("COOLING", 2.1, 5), 8, wall_at(8)) is None
    assert state.process_event(event_of("COOLING", 2.1, 6), 8, wall_at(8)) is None  # at the same moment
    assert state.process_event(event_of("EMBOSSING", 2.1, 9), 9, wall_at(9)) is None  # the same again
    assert (
        state.process_event(event_of("READY", 1.1, 9.5), 9.5, wall_at(9.5)) is None
    )  # older, however late it was sent
    assert (
        state.process_event(event_of("PRODUCED", 3.1, None), 9.75, wall_at(9.75)) is not None
    )  # newer, whenever it was sent


def test_event_without_sent_at_is_not_replaced() -> None:
    """After an event without `sent_at`, no other of the same time and rank counts."""
    state = begun()
    state.process_status(seen("READY", 1.1), 0)
    assert state.process_event(event_of("COOLING", 2.1, None), 6, wall_at(6)) is not None
    assert state.process_event(event_of("EMBOSSING", 2.1, 7), 7, wall_at(7)) is None


def test_poll_breaks_ties() -> None:
    """Of an event and a later poll that times and statuses do not order, the poll counts."""
    state = begun()
    state.process_status(seen("READY", 1.1), 0)
    state.process_event(event_of("COOLING", 2.1, 5), 6, wall_at(6))
    assert state.process_status(seen("EMBOSSING", 2.1), 7) is not None


@pytest.mark.parametrize(
    ("sent_at", "counts"),
    [(-3600, False), (-1, False), (-0.1, False), (0, True), (3, True), (10, True), (None, False)],
)
def test_event_before_the_first_poll(sent_at: float | None, *, counts: bool) -> None:
    """Before the first poll an event counts only if it was sent since the wait began: an old one may be a replay."""
    state = begun(started_at=1000)
    step = state.process_event(event_of("PRODUCTION_ERROR", -4000, sent_at), 1004, wall_at(4))
    assert (step is not None) is counts
    assert state.is_over is counts
    if step is not None:
        assert (step.previous, step.polls) == (None, 0)


def test_lagging_poll_changes_nothing() -> None:
    """Polls that still show what was before an event change nothing, and the one that agrees yields no second step."""
    state = begun()
    state.process_status(seen("READY", 1.1), 0)
    assert state.process_event(event_of("IN_PROGRESS", 1.1, 5), 5, wall_at(5)) is not None
    assert state.process_status(seen("READY", 1.1), 6) is None
    assert state.process_status(seen("READY"), 7) is None
    assert state.last == seen("IN_PROGRESS", 1.1)
    assert state.polls == 3
    assert state.process_status(seen("IN_PROGRESS", 1.1), 8) is None
    assert state.process_event(event_of("IN_PROGRESS", 1.1, 5), 9, wall_at(9)) is None
    assert state.process_status(seen("READY", 1.1), 9) is not None  # polls count in their order
    assert state.process_status(seen("IN_PROGRESS", 1.1), 9.5) is not None
    step = state.process_status(seen("PRODUCED", 1.1), 10)
    assert step is not None
    assert step.previous == seen("IN_PROGRESS", 1.1)


def test_poll_with_milliseconds_is_no_new_request() -> None:
    """A poll that has the milliseconds of what an event had in whole seconds shows nothing new."""
    state = begun()
    state.process_status(seen("READY", 1.25), 0)
    assert state.process_event(event_of("IN_PROGRESS", 9.0, 10), 10, wall_at(10)) is not None
    assert state.process_status(seen("IN_PROGRESS", 9.375), 11) is None
    assert state.process_status(seen("IN_PROGRESS", 9.375), 12) is None
    assert state.process_status(seen("IN_PROGRESS", 9.5), 13) is not None  # times of polls are exact


@pytest.mark.parametrize(
    ("status", "seconds", "counts"),
    [
        ("PRODUCTION_ERROR", 1, False),
        ("PRODUCTION_ERROR", 60, False),
        ("PRODUCTION_ERROR", 60.5, True),
        ("COOLING", 3600, False),  # what ends nothing can wait
    ],
)
def test_end_that_lags_for_too_long_counts(status: str, seconds: float, *, counts: bool) -> None:
    """An end under an older time than an event's counts as the API lagging for a minute, and then as the end."""
    state = begun()
    state.process_status(seen("READY", 1.1), 0)
    assert state.process_event(event_of("IN_PROGRESS", 50.5, 51), 51, wall_at(51)) is not None
    step = state.process_status(seen(status, 20.5), 51 + seconds)
    assert (step is not None) is state.is_over is counts


def test_event_schedules_the_next_poll() -> None:
    """After an event the schedule starts again, as after any transition."""
    state = begun()
    state.process_status(seen("READY"), 0)
    for now in (1.0, 2.6, 5.16):
        state.process_status(seen("READY"), now)
    state.process_event(event_of("IN_PROGRESS", None, 6), 6, wall_at(6))
    assert state.next_poll_at == 7


def test_postponed() -> None:
    """A poll is postponed while the card was seen lately, by as much as the schedule says, and no longer."""
    state = begun()
    state.process_status(seen("READY"), 0)
    delays: list[float] = []
    while state.postpone(state.next_poll_at, 100):
        delays.append(state.next_poll_at)
    assert delays[:3] == pytest.approx([2.6, 5.16, 9.256])
    assert 100 <= state.next_poll_at < 130
    state.process_status(seen("READY"), state.next_poll_at)
    polled_at, due_at = state.next_poll_at - 30, state.next_poll_at
    assert not state.postpone(due_at, due_at - polled_at)
    assert state.postpone(due_at, due_at - polled_at + 0.5)
    assert state.next_poll_at == due_at + 30


def test_never_postponed() -> None:
    """The first poll, one after a failure and the last one are never postponed."""
    state = begun(timeout=10)
    assert not state.postpone(0, 1000)
    state.process_status(seen("READY"), 0)
    state.process_failure(ServerError("trouble", http_status=500), 1)
    assert not state.postpone(state.next_poll_at, 1000)
    state.process_status(seen("READY"), state.next_poll_at)
    while state.next_poll_at < 10:
        assert state.postpone(state.next_poll_at, 1000)
    assert state.next_poll_at == 10
    assert not state.postpone(10, 1000)
    assert state.process_status(seen("READY"), 10) is None
    assert isinstance(state.error, WaitTimeout)


class Interleaving(RuleBasedStateMachine):
    """A card changes; polls lag behind it, and its events come late, twice, out of order or never."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.state = begun(schedule=AdaptiveSchedule())
        self.state.process_status(seen("READY", 0.5), 0.0)
        self.history = [("READY", 0.5)]
        self.changed_at = [0.0]
        self.shown = 0  # what polls show: the API lags, and never goes back
        self.sent: list[ProductionEvent] = []
        self.steps: list[Transition] = []

    @rule(seconds=st.floats(0.1, 30))
    def time_passes(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule(choice=st.sampled_from(["next", "next", "again"]), is_whole=st.booleans(), has_time=st.booleans())
    def card_changes(self, choice: str, *, is_whole: bool, has_time: bool) -> None:
        """Move the card to its next status, or send it to the kiosk again; and write its event."""
        status, occurred_at = self.history[-1]
        self.now += 2  # so that two requests differ in whole seconds
        if choice == "again" and status != "READY":
            status, occurred_at = "IN_PROGRESS", math.floor(self.now) + 0.5
        elif status == "READY":
            status = "IN_PROGRESS"
        elif status == "IN_PROGRESS":
            status = "PRODUCED"
        else:
            return
        self.history.append((status, occurred_at))
        self.changed_at.append(self.now)
        if has_time:
            self.sent.append(event_of(status, math.floor(occurred_at) if is_whole else occurred_at, self.now))
        elif status != "IN_PROGRESS":  # without a time, a new request is like the one before
            self.sent.append(event_of(status, None, self.now))

    @precondition(lambda self: not self.state.is_over)
    @rule(lag=st.integers(0, 3))
    def poll(self, lag: int) -> None:
        """Poll what is, or what was."""
        known_to_all = max(
            index for index, changed_at in enumerate(self.changed_at) if changed_at <= max(self.now - 59, 0)
        )
        self.shown = max(self.shown, known_to_all, len(self.history) - 1 - lag)
        self.note(self.state.process_status(seen(*self.history[self.shown]), self.now))

    @precondition(lambda self: not self.state.is_over)
    @rule()
    def poll_fails(self) -> None:
        """Fail a poll."""
        if self.state.failures < 4:
            self.state.process_failure(ServerError("trouble", http_status=500), self.now)

    @precondition(lambda self: self.sent and not self.state.is_over)
    @rule(data=st.data())
    def event_comes(self, data: st.DataObject) -> None:
        """Deliver any event that was ever sent, for the first time or again."""
        event = data.draw(st.sampled_from(self.sent))
        if event.status.occurred_at is None and event.status.status != self.history[-1][0]:
            return  # without a time, an old event is like a new one
        self.note(self.state.process_event(event, self.now, wall_at(self.now)))

    @precondition(lambda self: not self.state.is_over)
    @rule()
    def postpone(self) -> None:
        """Postpone the next poll, if it may be."""
        self.state.postpone(self.now, 60)

    def note(self, step: Transition | None) -> None:
        """Keep a transition, and check that it goes on from the one before."""
        if step is None:
            return
        if self.steps:
            before = self.steps[-1].current
            assert step.previous is not None
            assert step.previous.status == before.status
        place = self.place(step.current)
        assert place > (self.place(self.steps[-1].current) if self.steps else 0), "back, or twice"
        self.steps.append(step)

    def place(self, status: ProductionStatus) -> int:
        """Find where in the card's history a status belongs."""
        at_second = None if status.occurred_at is None else math.floor((status.occurred_at - NOON).total_seconds())
        return max(
            index
            for index, (name, occurred_at) in enumerate(self.history)
            if name == status.status and at_second in {None, math.floor(occurred_at)}
        )

    @invariant()
    def never_ahead_or_over_too_soon(self) -> None:
        """A wait ends only with a final status that the card had; until then a next poll is due."""
        if self.state.is_over:
            assert self.state.error is None
            assert self.steps[-1].is_final
        else:
            assert math.isfinite(self.state.next_poll_at)

    def teardown(self) -> None:
        """Whichever source shows the end last, the wait ends."""
        if not self.state.is_over and self.history[-1][0] == "PRODUCED":
            self.note(self.state.process_status(seen(*self.history[-1]), self.now))
            assert self.state.is_over


TestInterleaving = Interleaving.TestCase
TestInterleaving.settings = settings(max_examples=settings().max_examples // 4, stateful_step_count=30)
TestInterleaving.__doc__ = (
    "In any interleaving of polls and events a wait never goes back, repeats itself or misses an end."
)


def test_event_resets_the_failures() -> None:
    """An event that counts resets the count of failures, as an answer does."""
    state = begun()
    state.process_status(seen("READY", 1.1), 0)
    for now in range(1, 5):
        state.process_failure(ServerError("trouble", http_status=500), now)
    state.process_event(event_of("IN_PROGRESS", 1.1, 5), 5, wall_at(5))
    assert state.failures == 0
    state.process_failure(ServerError("trouble", http_status=500), 6)
    assert not state.is_over
