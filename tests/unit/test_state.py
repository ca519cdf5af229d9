"""One card's wait, in numbers: what is a transition, when to poll next, when it ends."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff
from cardprod._polling.state import PollOptions, PollState
from cardprod.checkpoint import Checkpoint
from cardprod.errors import (
    ApiError,
    BadReply,
    CardNotFound,
    CardprodError,
    Forbidden,
    RateLimited,
    RequestTimeout,
    ServerError,
    StrongAuthenticationRequired,
    TransportError,
    Unauthorized,
    UsageError,
    WaitTimeout,
)
from cardprod.models import Card, ProductionEvent, ProductionStatus, Status, Transition

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardprod._polling.backoff import Schedule

CARD = Card(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")
EVERY_10 = Backoff(first=10, factor=1, ceiling=10, jitter=0)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
ONE_O_CLOCK = NOON + timedelta(hours=1)
BROKEN = TransportError("the connection broke", card=CARD)

Received: TypeAlias = ProductionStatus | CardprodError


def new_state(
    *,
    timeout: float | None = 900.0,
    schedule: Schedule = EVERY_10,
    started_at: float = 100.0,
    max_failures: int = 5,
    max_outage: float = 0.0,
    after: ProductionStatus | None = None,
    last_poll_seconds: float = math.inf,
    random: float = 0.0,
) -> PollState:
    options = PollOptions(
        schedule=schedule,
        timeout=timeout,
        max_failures=max_failures,
        max_outage=max_outage,
        last_poll_seconds=last_poll_seconds,
        random=lambda: random,
    )
    return PollState(CARD, options, started_at, after=after)


def seen(status: str, occurred_at: datetime | None = None) -> ProductionStatus:
    return ProductionStatus(status, occurred_at=occurred_at)


def final_error(state: PollState) -> CardprodError:
    assert state.is_over
    assert state.error is not None
    return state.error


# --- What is a transition ---


def test_other_details_are_no_transition() -> None:
    """A kiosk id, a code or words that change under the same status and time yield nothing, and are remembered."""
    state = new_state()
    state.process_status(ProductionStatus("IN_PROGRESS", occurred_at=NOON), 100.0)
    latest = ProductionStatus("IN_PROGRESS", "WIS00001", NOON, "PRT_PAUSED", "waiting")
    assert state.process_status(latest, 110.0) is None
    assert state.last is latest


@pytest.mark.parametrize(
    ("times", "transitions"),
    [
        ([NOON, None, NOON], [True, False, False]),
        ([NOON, None, None, ONE_O_CLOCK], [True, False, False, True]),
        ([None, NOON, None, NOON], [True, False, False, False]),
        ([None, NOON, ONE_O_CLOCK], [True, False, True]),
        ([None, None], [True, False]),
    ],
)
def test_a_missing_time_means_nothing(times: list[datetime | None], transitions: list[bool]) -> None:
    """A missing `occurred_at` neither makes a transition nor hides one: the last known time counts."""
    state = new_state()
    steps = [state.process_status(seen("IN_PROGRESS", at), 100.0 + 10 * index) for index, at in enumerate(times)]
    assert [step is not None for step in steps] == transitions


@pytest.mark.parametrize("seconds", [0.001, 0.5, -0.5, -60.0])
def test_times_of_polls_are_exact(seconds: float) -> None:
    """Without an event in between, any other time is a new request: one server writes its times in one way."""
    state = new_state()
    state.process_status(seen("IN_PROGRESS", NOON), 100.0)
    assert state.process_status(seen("IN_PROGRESS", NOON + timedelta(seconds=seconds)), 110.0) is not None


def test_a_time_counts_only_under_its_status() -> None:
    """The time of an earlier status is not held against a later one."""
    state = new_state()
    state.process_status(seen("READY", NOON), 100.0)
    state.process_status(seen("IN_PROGRESS"), 110.0)
    assert state.process_status(seen("IN_PROGRESS", ONE_O_CLOCK), 120.0) is None


# --- When it ends well ---


@pytest.mark.parametrize("ending", [seen("PRODUCED"), UsageError("no"), CardNotFound("no", http_status=404)])
def test_nothing_more_after_the_end(ending: Received) -> None:
    """A wait that is over refuses every change and keeps what it knows."""
    state = new_state()
    if isinstance(ending, CardprodError):
        state.process_failure(ending, 100.0)
    else:
        state.process_status(ending, 100.0)
    event = ProductionEvent(card=CARD, status=seen("READY", ONE_O_CLOCK), sent_at=ONE_O_CLOCK)
    known = state.polls, state.failures, state.last, state.error
    moves: list[Callable[[], object]] = [
        lambda: state.process_status(seen("READY"), 110.0),
        lambda: state.process_failure(BROKEN, 110.0),
        lambda: state.process_event(event, 110.0, ONE_O_CLOCK.timestamp()),
        lambda: state.expire(110.0),
    ]
    for move in moves:
        with pytest.raises(UsageError, match="this wait is over") as caught:
            move()
        assert caught.value.card == CARD
    assert (state.polls, state.failures, state.last, state.error) == known


# --- Failures ---


@pytest.mark.parametrize(
    "failure",
    [
        UsageError("closed"),
        Unauthorized("401", http_status=401),
        Forbidden("403", http_status=403),
        StrongAuthenticationRequired("403", http_status=403),
        CardNotFound("404", http_status=404),
    ],
    ids=lambda failure: type(failure).__name__,
)
@pytest.mark.parametrize("timeout", [0.0, 900.0, None])
def test_some_failures_end_at_once(failure: CardprodError, timeout: float | None) -> None:
    """A failure that no later poll would get over ends the wait at once, as itself."""
    state = new_state(max_failures=100, timeout=timeout)
    state.process_failure(failure, 100.0)
    assert final_error(state) is failure


# --- When to poll next ---


def test_polls_again_as_the_schedule_says() -> None:
    """The next poll is due its delay after the last one was answered."""
    state = new_state(schedule=Backoff(first=1, factor=2, ceiling=8, jitter=0.5), random=0.5)
    due: list[float] = []
    for _ in range(5):
        state.process_status(seen("READY"), state.next_poll_at + 0.25)
        due.append(state.next_poll_at)
    assert due == [101.0, 102.75, 106.0, 112.25, 118.5]


# --- The deadline ---


def test_deadline_ends_the_wait() -> None:
    """The poll at the deadline is the last: if it is not final, the wait times out and says what it saw."""
    state = new_state(timeout=15.0)
    for _ in range(3):
        assert not state.is_over
        state.process_status(seen("READY", NOON), state.next_poll_at)
    error = final_error(state)
    assert isinstance(error, WaitTimeout)
    assert (error.last, error.polls, error.elapsed, error.card) == (seen("READY", NOON), 3, 15.0, CARD)
    assert error.__cause__ is None
    assert "15 s" in str(error)
    assert "READY" in str(error)


def test_answer_after_the_deadline_to_an_earlier_poll() -> None:
    """A poll that began before the deadline is not the last one: one more is due at once, never in the past."""
    state = new_state(timeout=15.0)
    state.process_status(seen("READY"), 100.0)
    state.process_status(seen("READY"), 116.0)
    assert (state.is_over, state.next_poll_at) == (False, 116.0)
    state.process_status(seen("READY"), 116.5)
    assert isinstance(final_error(state), WaitTimeout)


def test_poll_cut_off_by_the_deadline() -> None:
    """A poll that the deadline cuts off ends the wait as timed out, with no poll after it."""
    state = new_state(timeout=15.0)
    state.process_status(seen("READY"), 100.0)
    cut = RequestTimeout("the wait's time ran out during a poll")
    state.process_failure(cut, 115.0)
    error = final_error(state)
    assert isinstance(error, WaitTimeout)
    assert error.__cause__ is cut


def test_deadline_goes_before_too_many_failures() -> None:
    """At the deadline a wait times out, even if the same failure is also one in a row too many."""
    state = new_state(timeout=10.0, max_failures=2)
    state.process_failure(BROKEN, 100.0)
    state.process_failure(BROKEN, 110.0)
    error = final_error(state)
    assert isinstance(error, WaitTimeout)
    assert (error.__cause__, error.last, error.polls) == (BROKEN, None, 0)
    assert "nothing was seen" in str(error)


def test_polls_end_at_the_deadline() -> None:
    """A poll before the deadline is cut off there; the last one has its own time."""
    state = new_state(timeout=15.0)
    assert state.cut_off_at == 115.0
    state.process_status(seen("READY"), 100.0)
    assert state.cut_off_at == 115.0
    state.process_status(seen("READY"), 110.0)
    assert state.cut_off_at is None


def test_expired() -> None:
    """A wait that could not be polled before its deadline times out, with what it saw until then."""
    state = new_state(timeout=15.0)
    state.process_status(seen("READY"), 101.0)
    state.expire(117.0)
    error = final_error(state)
    assert isinstance(error, WaitTimeout)
    assert (error.last, error.polls, error.elapsed, error.__cause__) == (seen("READY"), 1, 17.0, None)


def test_what_a_timeout_says() -> None:
    """A timeout says what was seen, or what the wait went on from, and how the last poll failed, in 300 characters."""
    state = new_state(timeout=15.0)
    state.process_status(seen("READY"), 100.0)
    state.process_failure(TransportError("x" * 400), 115.0)
    assert "not final after 15 s and 1 answered polls: last seen READY" in str(final_error(state))
    assert str(final_error(state)).endswith("; the last poll failed: " + "x" * 299 + "…")
    state = new_state(timeout=15.0, after=seen("REQUEST_ERROR"))
    state.expire(120.0)
    assert ": not PRODUCED after 20 s and 0 answered polls: nothing newer than REQUEST_ERROR; if" in str(
        final_error(state)
    )


@pytest.mark.parametrize(("elapsed", "words"), [(0.5, "0.5 s"), (10.0, "10 s"), (10.96, "10.9 s"), (3600.01, "3600 s")])
def test_a_timeout_is_not_rounded_up(elapsed: float, words: str) -> None:
    """The time that a timeout says is never more than the wait has taken."""
    state = new_state(timeout=elapsed)
    state.expire(100.0 + elapsed)
    assert f"not final after {words} and" in str(final_error(state))


def test_an_error_is_taken_once() -> None:
    """The error of a wait is there until it is taken; the wait is over before and after."""
    state = new_state(timeout=15.0)
    assert (state.take_error(), state.is_over) == (None, False)
    state.expire(117.0)
    error = final_error(state)
    assert (state.take_error(), state.take_error(), state.error, state.is_over) == (error, None, None, True)


@pytest.mark.parametrize(("began_at", "due_at"), [(100.0, 110.0), (110.0, 110.0), (112.0, 112.0), (115.0, 115.0)])
def test_poll_that_begins_late(began_at: float, due_at: float) -> None:
    """A poll that begins later than it was due is due then, and so is the last one if that is past the deadline."""
    state = new_state(timeout=15.0)
    state.process_status(seen("READY"), 100.0)
    state.delay_until(began_at)
    assert (state.next_poll_at, state.cut_off_at) == (due_at, None if due_at == 115.0 else 115.0)


# --- Whatever happens ---


class Model:
    """What a wait should do, as simply as can be: keep everything, and search it."""

    def __init__(self) -> None:
        self.received: list[Received] = []

    @property
    def answers(self) -> list[ProductionStatus]:
        """The answers so far."""
        return [what for what in self.received if isinstance(what, ProductionStatus)]

    @property
    def failures_in_a_row(self) -> int:
        """How many of the latest polls failed."""
        count = 0
        for what in reversed(self.received):
            if isinstance(what, ProductionStatus):
                break
            count += 1
        return count

    def is_change(self) -> bool:
        """Whether the latest answer differs from those before it under the same status."""
        *before, latest = self.answers
        if not before or before[-1].status != latest.status:
            return True
        known: list[datetime] = []
        for status in reversed(before):
            if status.status != latest.status:
                break
            if status.occurred_at is not None:
                known.append(status.occurred_at)
        return latest.occurred_at is not None and bool(known) and known[0] != latest.occurred_at


STATUSES = st.builds(
    ProductionStatus,
    st.sampled_from(["READY", "IN_PROGRESS", "READY", "IN_PROGRESS", "TELEPORTED", *Status]),
    occurred_at=st.sampled_from([None, None, NOON, ONE_O_CLOCK]),
)
FAILURES = st.sampled_from(
    [
        BROKEN,
        RequestTimeout("slow"),
        BadReply("garbage"),
        ApiError("422", http_status=422),
        RateLimited("429", http_status=429),
        ServerError("503", http_status=503),
        Unauthorized("401", http_status=401),
    ]
)
SCHEDULES = st.builds(
    Backoff,
    first=st.floats(0.01, 10),
    factor=st.floats(1, 3),
    ceiling=st.floats(10, 100),
    jitter=st.floats(0, 0.9),
)


@settings(max_examples=4 * settings().max_examples)
@given(
    story=st.lists(st.tuples(st.one_of(STATUSES, STATUSES, FAILURES), st.floats(0, 40), st.booleans()), max_size=40),
    schedule=SCHEDULES,
    timeout=st.one_of(st.none(), st.floats(0, 300)),
    max_failures=st.integers(1, 6),
    random=st.floats(0, 1, exclude_max=True),
    started_at=st.floats(0, 1e6),
)
def test_any_story(
    *,
    story: list[tuple[Received, float, bool]],
    schedule: Backoff,
    timeout: float | None,
    max_failures: int,
    random: float,
    started_at: float,
) -> None:
    """However answers and failures interleave, a wait reports every change once and ends exactly when it must."""
    state = new_state(
        schedule=schedule, timeout=timeout, max_failures=max_failures, random=random, started_at=started_at
    )
    model = Model()
    deadline = math.inf if timeout is None else started_at + timeout
    now = started_at
    for what, gap, is_when_due in story:
        was_last_poll = state.next_poll_at >= deadline
        now = max(now, state.next_poll_at) + gap if is_when_due else now + gap
        model.received.append(what)
        if isinstance(what, CardprodError):
            state.process_failure(what, now)
            ends_badly = (
                isinstance(what, Unauthorized)
                or was_last_poll
                or now >= deadline
                or model.failures_in_a_row >= max_failures
            )
            assert state.is_over is ends_badly
            assert (state.error is not None) is ends_badly
        else:
            step = state.process_status(what, now)
            assert (step is not None) is model.is_change()
            if step is not None:
                before = model.answers[:-1]
                assert step == Transition(
                    previous=before[-1] if before else None,
                    current=what,
                    elapsed=now - started_at,
                    polls=len(model.answers),
                )
            assert state.is_over is (what.is_final or was_last_poll)
            assert (state.error is not None) is (state.is_over and not what.is_final)
        assert state.polls == len(model.answers)
        assert state.failures == model.failures_in_a_row
        assert state.last is (model.answers[-1] if model.answers else None)
        if state.is_over:
            break
        assert now <= state.next_poll_at <= max(now, deadline)
        assert state.cut_off_at in {None, deadline}


# --- Outages ---


def test_a_short_outage_of_few_polls() -> None:
    """Failures that have lasted for `max_outage` end no wait before they are `max_failures` in a row."""
    state = new_state(max_failures=3, max_outage=5.0)
    state.process_status(seen("READY"), 100.0)
    state.process_failure(BROKEN, 110.0)
    state.process_failure(BROKEN, 120.0)
    assert not state.is_over
    state.process_failure(BROKEN, 130.0)
    assert final_error(state) is BROKEN


@pytest.mark.parametrize("after", [None, ProductionStatus("PRODUCTION_ERROR")])
def test_a_wait_without_an_answer_ends_by_its_failures(after: ProductionStatus | None) -> None:
    """A wait that never had an answer ends after `max_failures`, whatever is known from before."""
    state = new_state(max_failures=2, max_outage=100.0, after=after)
    state.process_failure(BROKEN, 100.0)
    state.process_failure(BROKEN, 101.0)
    assert final_error(state) is BROKEN


def test_an_answer_ends_an_outage() -> None:
    """An outage counts from the first failure after the last answer."""
    state = new_state(max_failures=1, max_outage=15.0)
    state.process_status(seen("READY"), 100.0)
    state.process_failure(BROKEN, 110.0)
    state.process_status(seen("READY"), 120.0)
    state.process_failure(BROKEN, 130.0)
    assert not state.is_over


@pytest.mark.parametrize("error", [ServerError("503", http_status=503), RateLimited("429", http_status=429)])
def test_retry_after_between_polls(error: ApiError) -> None:
    """The next poll is never before the `Retry-After` of a 5xx or a 429."""
    error.retry_after = 120.0
    state = new_state()
    state.process_status(seen("READY"), 100.0)
    state.process_failure(error, 110.0)
    assert state.next_poll_at == 230.0


def test_longest_retry_after() -> None:
    """A longer `Retry-After` than two minutes counts in full with a 5xx, and with a 429 as two minutes."""
    rows: list[tuple[ApiError, float]] = [
        (ServerError("503", http_status=503), 3600.0),
        (RateLimited("429", http_status=429), 120.0),
    ]
    for error, expected in rows:
        error.retry_after = 3600.0
        state = new_state(timeout=None)
        state.process_failure(error, 0.0)
        assert state.next_poll_at == expected


def test_retry_after_of_a_refusal() -> None:
    """A `Retry-After` that comes with another status says nothing about polls."""
    error = ApiError("418", http_status=418, retry_after=120.0)
    state = new_state()
    state.process_failure(error, 110.0)
    assert state.next_poll_at == 120.0


def test_retry_after_the_deadline() -> None:
    """Where a `Retry-After` forbids a poll at the deadline, the last poll is made after it, or not at all."""
    for retry_after, expected in ((5.0, 115.0), (8.0, 118.0), (60.0, 170.0)):
        state = new_state(timeout=15.0, last_poll_seconds=10.0)
        state.process_failure(ServerError("503", http_status=503, retry_after=retry_after), 110.0)
        assert (state.next_poll_at, state.expires_at) == (expected, 125.0)


@pytest.mark.parametrize("error", [Unauthorized, Forbidden, CardNotFound])
def test_a_gateways_refusal_is_a_failed_poll(error: type[ApiError]) -> None:
    """401, 403 and 404 that are not the API's own do not end a wait at once."""
    failure = error("a page", http_status=401)
    failure.from_gateway = True
    state = new_state(max_failures=2)
    state.process_failure(failure, 100.0)
    assert not state.is_over
    state.process_failure(failure, 110.0)
    assert final_error(state) is failure


# --- After a known status ---

JAMMED = ProductionStatus("PRODUCTION_ERROR", "WIS00001", NOON, "PRD_FEEDER_JAM", "jam")


@pytest.mark.parametrize(
    "same",
    [
        JAMMED,
        ProductionStatus("PRODUCTION_ERROR", "WIS00002", NOON, "PRD_FEEDER_JAM"),
        ProductionStatus("PRODUCTION_ERROR", None, None, "PRD_FEEDER_JAM"),
    ],
)
def test_what_equals_the_known_status_ends_nothing(same: ProductionStatus) -> None:
    """What equals the status that a wait goes on from is not reported, and the wait goes on."""
    state = new_state(after=JAMMED)
    for number in range(3):
        assert state.process_status(same, 100.0 + 10 * number) is None
        assert not state.is_over
    assert state.next_poll_at == 130.0


@pytest.mark.parametrize(
    "other",
    [
        ProductionStatus("PRODUCED", "WIS00001", NOON),
        ProductionStatus("PRODUCTION_ERROR", "WIS00001", ONE_O_CLOCK, "PRD_FEEDER_JAM"),
        ProductionStatus("PRODUCTION_ERROR", "WIS00001", NOON, "PRD_NO_CARDS"),
        ProductionStatus("REQUEST_ERROR", "WIS00001", NOON, "PRD_FEEDER_JAM"),
    ],
)
def test_what_differs_from_the_known_status_ends_the_wait(other: ProductionStatus) -> None:
    """A final status with another status, time or error code than the known one is reported and ends the wait."""
    state = new_state(after=JAMMED)
    state.process_status(JAMMED, 100.0)
    transition = state.process_status(other, 110.0)
    assert transition is not None
    assert (transition.previous, transition.current) == (JAMMED, other)
    assert (state.is_over, state.error) == (True, None)


def test_the_same_end_again_after_a_retry() -> None:
    """Once something else was seen, a final status ends the wait, even one that equals what was known."""
    state = new_state(after=JAMMED)
    assert state.process_status(seen("READY", ONE_O_CLOCK), 100.0) is not None
    assert state.process_status(attrs.evolve(JAMMED, occurred_at=ONE_O_CLOCK), 110.0) is not None
    assert state.is_over


@pytest.mark.parametrize("status", ["IN_PROGRESS", "PRODUCTION_ERROR"])
def test_after_an_events_status(status: str) -> None:
    """A known status that came from an event, in whole seconds and without an error code, equals that of a poll."""
    state = new_state(after=seen(status, NOON + timedelta(seconds=5)))
    exact = ProductionStatus(status, "WIS00001", NOON + timedelta(seconds=5.7), "PRD_FEEDER_JAM")
    assert [state.process_status(exact, now) for now in (100.0, 110.0)] == [None, None]
    assert not state.is_over
    assert state.process_status(seen(status, NOON + timedelta(seconds=6.9)), 120.0) is not None


def test_polls_lag_behind_a_known_end() -> None:
    """For a minute a poll with an older time than the known end is not reported; after that it counts."""
    state = new_state(after=JAMMED, started_at=100.0)
    older = seen("IN_PROGRESS", NOON - timedelta(minutes=4))
    assert [state.process_status(one, now) for one, now in ((older, 100.0), (older, 150.0), (JAMMED, 155.0))] == [
        None
    ] * 3
    assert (state.is_over, state.last) == (False, JAMMED)
    assert state.process_status(older, 161.0) is not None
    state = new_state(after=JAMMED, started_at=100.0)
    assert state.process_status(seen("READY", ONE_O_CLOCK), 100.0) is not None  # produced again


def test_after_a_status_that_is_not_final() -> None:
    """A known status that is not final is not reported either."""
    state = new_state(after=seen("READY", NOON))
    assert state.process_status(seen("READY", NOON), 100.0) is None
    transition = state.process_status(seen("IN_PROGRESS", NOON), 110.0)
    assert transition is not None
    assert transition.previous == seen("READY", NOON)


@pytest.mark.parametrize(
    ("status", "sent", "counts"),
    [
        (seen("IN_PROGRESS", ONE_O_CLOCK), -100.0, True),  # it happened later
        (seen("PRODUCED", NOON - timedelta(hours=1)), 1.0, False),  # it happened earlier
        (seen("READY"), 1.0, True),  # sent since the wait began
        (seen("PRODUCED"), 1.0, True),
        (seen("PRODUCED"), -100.0, False),  # sent before, so perhaps of an earlier production
        (JAMMED, 1.0, False),  # the known one
    ],
)
def test_events_after_a_known_status(status: ProductionStatus, sent: float, counts: bool) -> None:
    """An event counts after a known end if it happened later, or, where that is unknown, was sent since."""
    state = new_state(after=JAMMED, started_at=100.0)
    wall_now = ONE_O_CLOCK.timestamp() + 3600
    event = ProductionEvent(card=CARD, status=status, sent_at=datetime.fromtimestamp(wall_now - 5 + sent, UTC))
    assert (state.process_event(event, 105.0, wall_now) is not None) is counts
    assert state.is_over is (counts and status.is_final)


# --- The last poll's own time, and schedules that cannot be ---


def test_last_poll_has_its_own_time() -> None:
    """The last poll, which begins at the deadline, expires so many seconds after it, and no sooner."""
    state = PollState(CARD, PollOptions(schedule=EVERY_10, timeout=15.0, max_failures=5, last_poll_seconds=7.0), 100.0)
    assert state.cut_off_at == 115.0
    state.process_status(seen("READY"), 101.0)
    state.process_status(seen("READY"), 111.0)
    assert (state.next_poll_at, state.cut_off_at) == (115.0, 122.0)
    state.delay_until(118.0)
    assert (state.cut_off_at, state.expires_at) == (122.0, 122.0)


def test_last_poll_after_nothing_ran_for_long() -> None:
    """A last poll that could not begin before it would have expired still has its own time."""
    state = PollState(CARD, PollOptions(schedule=EVERY_10, timeout=15.0, max_failures=5, last_poll_seconds=7.0), 100.0)
    state.process_status(seen("READY"), 111.0)
    state.delay_until(200.0)
    assert (state.cut_off_at, state.expires_at) == (207.0, 122.0)


def test_saved_options() -> None:
    """Options are saved, but for a schedule that is no `Backoff`: it belongs to its process."""
    for schedule, saved in ((EVERY_10, EVERY_10), (AdaptiveSchedule(), None)):
        options = PollOptions(schedule=schedule, timeout=None, max_failures=7, max_outage=50.0)
        checkpoint = options.checkpoint("x", ())
        assert checkpoint == Checkpoint(id="x", max_failures=7, max_outage=50.0, schedule=saved, pending=())
        assert (checkpoint.sweep, options.checkpoint("x", (), sweep=3).sweep) == (0, 3)


def test_options_that_are_left_out() -> None:
    """An outage may last five minutes; the last poll, the budget and the gap between polls have no limit."""
    options = PollOptions(schedule=EVERY_10, timeout=None, max_failures=5)
    assert (options.max_outage, options.least_gap) == (300.0, 0.0)
    assert (options.last_poll_seconds, options.requests_per_second) == (math.inf, math.inf)


def test_options_are_named() -> None:
    """Options are passed by name only."""
    positional: Any = PollOptions
    with pytest.raises(TypeError):
        positional(EVERY_10, 900.0, 5)


@pytest.mark.parametrize("delay", [0.0, -0.5, -1.0, math.nan, math.inf])
def test_impossible_delay_ends_the_wait(delay: float) -> None:
    """A delay that is not positive and finite ends the wait with a UsageError; what was seen is still reported."""

    class Impossible:
        def delay(self, unchanged: int, random: float) -> float:
            return delay

    state = new_state(schedule=Impossible())
    assert state.process_status(seen("READY"), 101.0) is not None
    assert isinstance(final_error(state), UsageError)


class OfFewDigits(float):
    """A number of seconds whose sums have few digits, as numpy's float16."""

    def __radd__(self, other: float) -> float:
        return round(other + float(self), -3)


def test_delay_of_few_digits() -> None:
    """A delay counts to the microsecond, however few digits its type has."""

    class Coarse:
        def delay(self, unchanged: int, random: float) -> float:
            return OfFewDigits(0.25)

    state = new_state(schedule=Coarse())
    state.process_status(seen("READY"), 101.0)
    assert state.next_poll_at == 101.25


def test_schedule_that_fails() -> None:
    """Where a schedule raises, the status that was not reported is not known either, so that it is reported later."""

    class Broken:
        def delay(self, unchanged: int, random: float) -> float:
            raise ZeroDivisionError

    state = new_state(schedule=Broken(), after=seen("READY", NOON))
    with pytest.raises(ZeroDivisionError):
        state.process_status(seen("IN_PROGRESS", ONE_O_CLOCK), 101.0)
    saved = state.save(101.0, 0.0)
    assert saved.last == seen("READY", NOON)
    other = new_state()
    other.restore(saved, 101.0, 0.0)
    assert other.process_status(seen("IN_PROGRESS", ONE_O_CLOCK), 111.0) is not None


class Urgent(AdaptiveSchedule):
    """A schedule by which a card may be polled after 5 s, and should be after 60 s."""

    def gaps_at(self, *_: object, **__: object) -> tuple[float, float]:
        """Return both."""
        return 5.0, 60.0


def restored(state: PollState, schedule: Schedule) -> PollState:
    """Save a state at 100 s, and restore it."""
    other = new_state(schedule=schedule)
    other.restore(state.save(100.0, 0.0), 100.0, 0.0)
    return other


def test_restored_is_as_urgent() -> None:
    """A restored poll is urgent when it was, by a schedule that learns; by a `Backoff` or after a failure, when due."""
    often = Backoff(first=10, factor=1, ceiling=10, jitter=0.9)
    for schedule, due in ((Urgent(), (105.0, 160.0)), (often, (101.0, 101.0))):
        state = new_state(schedule=schedule, random=1.0)
        state.process_status(seen("READY"), 100.0)
        other = restored(state, schedule)
        assert (other.next_poll_at, other.urgent_at) == pytest.approx(due)
    state = new_state(schedule=Urgent())
    state.process_status(seen("READY"), 100.0)
    state.process_failure(BROKEN, 100.0)
    other = restored(state, Urgent())
    assert other.urgent_at == other.next_poll_at


def test_restored_knows_the_time() -> None:
    """A restored wait compares times with the one it knew."""
    state = new_state()
    state.process_status(seen("IN_PROGRESS", NOON), 100.0)
    assert restored(state, EVERY_10).process_status(seen("IN_PROGRESS", ONE_O_CLOCK), 110.0) is not None


def test_saved_outage() -> None:
    """When an outage began is saved of a wait that had an answer and has failed since, and of no other."""
    state = new_state()
    state.process_failure(BROKEN, 100.0)
    assert state.save(100.0, 0.0).failing_since is None
    state.process_status(seen("READY"), 110.0)
    assert state.save(110.0, 10.0).failing_since is None
    state.process_failure(BROKEN, 120.0)
    assert state.save(120.0, 20.0).failing_since == 20_000_000


def test_no_retry_after() -> None:
    """A server that failed without a `Retry-After` is polled again as the schedule says."""
    state = new_state(schedule=Backoff(first=0.25, factor=1, jitter=0))
    state.process_failure(ServerError("503", http_status=503), 100.0)
    assert state.next_poll_at == 100.25


def test_a_time_tells_from_an_end_without_one() -> None:
    """A final status with a time differs from a known one without."""
    assert new_state(after=seen("PRODUCED")).process_status(seen("PRODUCED", NOON), 100.0) is not None
