"""Checkpoints: what is known of waits, as JSON, in every version of the format."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cardprod import Card, Checkpoint, ErrorCode, ProductionEvent, ProductionStatus, Status, Transition, UsageError
from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff
from cardprod._polling.state import PollOptions, PollState
from cardprod._protocol.codec import as_datetime, unix_time
from cardprod.checkpoint import PendingCard
from cardprod.errors import CardprodError, ServerError, WaitTimeout
from cardprod.models import KnownCard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cardprod import CardLike

DATA: Final = Path(__file__).parent / "data"
NOON: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)
WALL_NOON: Final = NOON.timestamp()
CARD: Final = Card(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")
OTHER: Final = Card(1, "other")
READY: Final = ProductionStatus(Status.READY)
FINAL: Final = ProductionStatus(Status.PRODUCTION_ERROR)
SAMPLE: Final = (DATA / "checkpoint-1.json").read_text()


def test_sample_of_version_1() -> None:
    """A checkpoint that the first version wrote is read as it was meant, for ever."""
    checkpoint = Checkpoint.from_json(SAMPLE)
    assert (checkpoint.id, checkpoint.sweep) == ("5f0c3c5e-6a3e-4b53-9a3b-0d2d0a6a6f10", 7)
    assert checkpoint.schedule == Backoff()
    first, plain, second, known, third = checkpoint.pending
    assert first.card == CARD
    assert first.last == ProductionStatus(
        "IN_PROGRESS", kiosk_id="WIS00001", occurred_at=datetime(2026, 11, 24, 9, 5, 2, 123456, UTC)
    )
    assert first.deadline_at is not None
    assert as_datetime(first.deadline_at) == datetime(2026, 11, 24, 10, tzinfo=UTC)
    assert (first.polls, first.failures, first.unchanged, first.is_first) == (14, 1, 3, False)
    assert first.event_sent_at == datetime(2026, 11, 24, 9, 5, 3, tzinfo=UTC)
    assert (known.is_after, known.failing_since, second.is_after) == (True, 1795511110000000, False)
    assert (plain.last, plain.polls, plain.is_first) == (ProductionStatus("READY", kiosk_id="WIS00001"), 5, True)
    (step,) = second.undelivered
    assert step.is_final
    assert step.previous is not None
    assert (step.previous.status, step.current.status, step.elapsed) == (Status.READY, Status.PRODUCTION_ERROR, 312.0)
    at = unix_time(datetime(2026, 11, 24, 9, 5, 11, tzinfo=UTC).timestamp())
    assert third == PendingCard(card=Card(2**63 - 1, "never-polled"), started_at=at, next_poll_at=at)


def test_written_as_read() -> None:
    """What a checkpoint was read from is what it is written as, byte for byte: the format has not changed."""
    assert Checkpoint.from_json(SAMPLE).to_json() == SAMPLE.strip()


def test_every_version_has_a_sample() -> None:
    """The version that is written now is among the samples, so that a new one must add its own."""
    written = json.loads(Checkpoint.for_cards([CARD]).to_json())
    assert written["version"] in {json.loads(file.read_text())["version"] for file in DATA.glob("checkpoint-*.json")}
    assert written.keys() == json.loads(SAMPLE).keys()
    assert len(written["pending"][0]) == len(json.loads(SAMPLE)["pending"][-1])


def test_no_secret() -> None:
    """A checkpoint's repr shows no card token, and its JSON none but those of its cards."""
    checkpoint = Checkpoint.for_cards([CARD])
    assert CARD.card_token not in repr(checkpoint)
    assert "Bearer" not in checkpoint.to_json()


def test_for_cards() -> None:
    """Waits that begin now are due at once, each card once, in their order."""
    cards: list[CardLike] = [(1, "b"), Card(1, "a"), (1, "b")]
    checkpoint = Checkpoint.for_cards(cards, timeout=60, now=NOON)
    assert [one.card for one in checkpoint.pending] == [Card(1, "b"), Card(1, "a")]
    assert {one.next_poll_at for one in checkpoint.pending} == {unix_time(WALL_NOON)}
    assert {one.deadline_at for one in checkpoint.pending} == {unix_time(WALL_NOON + 60)}
    assert (checkpoint.is_done, Checkpoint.for_cards([]).is_done) == (False, True)
    assert len({Checkpoint.for_cards([]).id for _ in range(3)}) == 3


@pytest.mark.parametrize(("timeout", "seconds"), [(None, None), (float("inf"), None), (0, 0), (0.5, 0.5)])
def test_deadline_of_a_timeout(timeout: float | None, seconds: float | None) -> None:
    """A timeout counts from now, and none or an infinite one means no deadline."""
    (one,) = Checkpoint.for_cards([CARD], timeout=timeout, now=NOON).pending
    assert one.deadline_at == (None if seconds is None else unix_time(WALL_NOON + seconds))


def test_now_is_now() -> None:
    """Where no time is given it is the clock's, in UTC."""
    before = time.time()
    checkpoint = Checkpoint.for_cards([CARD])
    extended = checkpoint.extended(0)
    began, extended_at = checkpoint.pending[0].started_at, extended.pending[0].next_poll_at
    assert unix_time(before) <= began <= extended_at <= unix_time(time.time())
    assert extended.pending[0].deadline_at == extended.pending[0].next_poll_at


def test_defaults() -> None:
    """By default a wait ends with the fifth failure in a row; one is the least."""
    assert Checkpoint(id="x", pending=()) == Checkpoint(id="x", sweep=0, max_failures=5, schedule=None, pending=())
    usual = Checkpoint.for_cards([CARD])
    assert (usual.max_failures, usual.max_outage, usual.schedule) == (5, 300.0, None)
    other = Checkpoint.for_cards([CARD], max_outage=9.0, schedule=Backoff(first=2))
    assert (other.max_outage, other.schedule) == (9.0, Backoff(first=2))
    once = Checkpoint.for_cards([CARD], max_failures=1)
    assert Checkpoint.from_json(once.to_json()) == once
    assert once.max_failures == 1


@pytest.mark.parametrize("values", [Checkpoint, PendingCard])
def test_fields_are_named(values: Any) -> None:
    """Fields have names, so that new ones can come in any place."""
    with pytest.raises(TypeError):
        values(*range(len(attrs.fields(values))))


def test_an_earlier_outcome_is_what_is_known() -> None:
    """Of an earlier outcome statuses are known, and what a wait went on from in vain; other errors say nothing."""
    error = ProductionStatus(Status.PRODUCTION_ERROR)
    outcome: dict[Card, ProductionStatus | CardprodError] = {
        Card(1, "error"): error,
        Card(1, "in-vain"): WaitTimeout("too late", last=error, polls=1, elapsed=9.0),
        Card(1, "ready"): WaitTimeout("too late", last=ProductionStatus(Status.READY), polls=1, elapsed=9.0),
        Card(1, "unseen"): WaitTimeout("too late", last=None, polls=0, elapsed=9.0),
        Card(1, "failed"): ServerError("503", http_status=503),
    }
    pending = Checkpoint.for_cards(outcome, after=outcome).pending
    assert [one.last for one in pending] == [error, error, None, None, None]


KNOWN = KnownCard(CARD.profile_id, CARD.card_token, READY)


@pytest.mark.parametrize(
    ("card", "after", "expected"),
    [
        (CARD, None, None),
        (CARD, {CARD: FINAL}, FINAL),
        (CARD, {tuple(CARD): READY}, READY),
        (CARD, {OTHER: FINAL}, None),
        (KNOWN, {}, READY),
        (KNOWN, {OTHER: FINAL}, READY),
        (KNOWN, {CARD: FINAL}, FINAL),
    ],
)
def test_what_is_known_of_a_card(card: Card, after: Any, expected: ProductionStatus | None) -> None:
    """A card's status is known as `after` says, or as the card itself does, as if it had been polled now."""
    (one,) = Checkpoint.for_cards([card], after=after, now=NOON).pending
    at = None if expected is None else unix_time(WALL_NOON)
    assert (one.last, one.began_at, one.polled_at, one.is_after) == (expected, at, at, expected is FINAL)


class Endless(Mapping[Card, ProductionStatus]):
    """Knows every card's status."""

    def __getitem__(self, card: Card) -> ProductionStatus:
        return READY

    def __iter__(self) -> Iterator[Card]:
        return (Card(1, f"card-{number}") for number in range(len(self)))

    def __len__(self) -> int:
        return 100_000_000


def test_very_much_is_known() -> None:
    """Of what is known of a great many cards only some is read at once."""
    (one,) = Checkpoint.for_cards([CARD], after=Endless()).pending
    assert one.last == READY


def test_for_cards_of_another_zone() -> None:
    """A time of another zone is the same time in UTC."""
    there = NOON.astimezone(timezone(timedelta(hours=9)))
    (one,) = Checkpoint.for_cards([CARD], now=there).pending
    assert one.started_at == unix_time(WALL_NOON)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cards": "abc"}, "cards must be Cards"),
        ({"cards": 5}, "cards must be Cards"),
        ({"cards": [5]}, "expected a Card"),
        ({"timeout": -0.5}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"timeout": float("-inf")}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
        ({"schedule": AdaptiveSchedule()}, "schedule must be a Backoff or None"),
        ({"max_failures": 0}, "max_failures must be"),
        ({"max_failures": True}, "max_failures must be"),
        ({"max_outage": -1}, "^max_outage must be"),
        ({"after": 5}, "^after must be a dict of ProductionStatus by card, as get_statuses gives"),
        ({"after": {CARD: 5}}, "^after: a status must be a ProductionStatus"),
        ({"after": {5: ProductionStatus(Status.READY)}}, "expected a Card"),
        ({"now": datetime(2026, 1, 1)}, "now must be an aware"),  # noqa: DTZ001 - what is wrong with it
    ],
)
def test_for_cards_that_cannot_be(arguments: dict[str, Any], words: str) -> None:
    """What a checkpoint cannot be made of is named."""
    options: dict[str, Any] = {"cards": [CARD], **arguments}
    with pytest.raises(UsageError, match=words):
        Checkpoint.for_cards(**options)


def test_extended() -> None:
    """More time counts from now on, the next poll is due at once, and failures before it do not count."""
    checkpoint = Checkpoint.from_json(SAMPLE).extended(600, now=NOON)
    for one in checkpoint.pending:
        assert (one.deadline_at, one.next_poll_at, one.failures) == (
            unix_time(WALL_NOON + 600),
            unix_time(WALL_NOON),
            0,
        )


@pytest.mark.parametrize("seconds", [-0.5, float("inf"), float("nan"), True, "60"])
def test_extended_by_what_cannot_be(seconds: Any) -> None:
    """A wait is extended by a finite number of seconds, 0 or more."""
    with pytest.raises(UsageError, match="seconds must be"):
        Checkpoint.for_cards([CARD]).extended(seconds)


def test_end_of_time() -> None:
    """A deadline that no calendar has is the end of time, not an error."""
    assert as_datetime(unix_time(1e300)) == as_datetime(unix_time(1e15)) == datetime.max.replace(tzinfo=UTC)
    assert as_datetime(unix_time(-1e300)) == as_datetime(unix_time(-1e15)) == datetime.min.replace(tzinfo=UTC)
    checkpoint = Checkpoint.for_cards([CARD], timeout=1e300)
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint


ROW: Final[list[Any]] = json.loads(SAMPLE)["pending"][0]
STEP: Final = {"previous": None, "current": {"status": "READY"}, "elapsed": 1.0, "polls": 1, "source": "poll"}


def _changed(**fields: object) -> str:
    """Write the sample with other fields; `at_N` is value number N of its first card."""
    saved = json.loads(SAMPLE)
    for name, value in fields.items():
        if name.startswith("at_"):
            saved["pending"][0][int(name[3:])] = value
        else:
            saved[name] = value
    return json.dumps(saved)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ("[]", "no JSON object"),
        ("{}", "no version"),
        (_changed(version="1"), "no version"),
        (_changed(version=2), "in version 2; known is version 1"),
        ('{"version": 1, "pending": []}', "id is missing"),
        ('{"version": 1, "id": "x"}', "pending is missing"),
        (_changed(id=5), "expected a string @ id"),
        (_changed(sweep=-1), "expected an integer of 0 or more @ sweep"),
        (_changed(sweep=True), "expected an integer of 0 or more @ sweep"),
        (_changed(sweep=2**63), "expected an integer of 0 or more @ sweep"),
        (_changed(max_failures=0), "max_failures must be"),
        (_changed(schedule={"first": 0}), "first must be above 0.* @ schedule"),
        (_changed(schedule={"first": "1"}), r"expected a finite number @ schedule\.first"),
        (_changed(schedule={"first": 10**400}), r"expected a finite number @ schedule\.first"),
        (_changed(schedule={"fist": 1}), "unknown fields: fist @ schedule"),
        (_changed(schedule=[1]), "expected an object @ schedule"),
        (_changed(colour="red"), "unknown fields: colour$"),
        (_changed(pending={}), "expected an array @ pending"),
        (_changed(pending=[5]), r"expected an array @ pending\[0\]"),
        (_changed(pending=[ROW, ROW[:9]]), r"expected an array of 7, 14, 20 or 22 values @ pending\[1\]"),
        (_changed(at_0=0), r"profile_id must be .* @ pending\[0\]\.card"),
        (_changed(at_1=".."), r"card_token must be .* @ pending\[0\]\.card"),
        (_changed(at_2="2026-11-24T09:00:00+00:00"), r"microseconds since 1970 @ pending\[0\]\.started_at"),
        (_changed(at_2=10**18), r"microseconds since 1970 @ pending\[0\]\.started_at"),
        (_changed(at_3=1.5), r"microseconds since 1970 @ pending\[0\]\.deadline_at"),
        (_changed(at_7=True), r"expected an integer of 0 or more @ pending\[0\]\.polls"),
        (_changed(at_9=-(10**17)), r"microseconds since 1970 @ pending\[0\]\.polled_at"),
        (_changed(at_10=1), r"expected true or false @ pending\[0\]\.is_first"),
        (_changed(at_11=5), r"expected a string @ pending\[0\]\.last\.status"),
        (_changed(at_11=None), r"expected a string @ pending\[0\]\.last\.status"),
        (_changed(at_12=5), r"expected a string @ pending\[0\]\.last\.kiosk_id"),
        (_changed(at_12="\ud800"), r"half characters @ pending\[0\]\.last\.kiosk_id"),
        (_changed(at_13="soon"), r"microseconds since 1970 @ pending\[0\]\.last\.occurred_at"),
        (_changed(at_14=5), r"expected a string @ pending\[0\]\.last\.error_code"),
        (_changed(at_15=[]), r"expected a string @ pending\[0\]\.last\.description"),
        (_changed(at_19=5), r"expected an array @ pending\[0\]\.undelivered"),
        (
            _changed(at_19=[STEP | {"elapsed": "1"}]),
            r"finite number @ pending\[0\]\.undelivered\[0\]\.elapsed",
        ),
        (_changed(at_19=[{"previous": None, "elapsed": 1.0}]), r"current is missing @ pending\[0\]\.undelivered\[0\]"),
        (_changed(at_19=[STEP | {"source": "rumour"}]), r"@ pending\[0\]\.undelivered\[0\]\.source"),
    ],
)
def test_foreign_json(text: str, words: str) -> None:
    """What no checkpoint is made of is refused with what is wrong, and no card token is shown."""
    with pytest.raises(UsageError, match=words) as caught:
        Checkpoint.from_json(text)
    assert CARD.card_token not in str(caught.value)


@pytest.mark.parametrize("depth", [10, 850, 950])
def test_nested_too_deeply(depth: int) -> None:
    """However deeply nested a field is, even just within what can be read as JSON, a `UsageError` refuses it."""
    text = _changed(schedule={"first": "here"}).replace('"here"', "[" * depth + "]" * depth)
    with pytest.raises(UsageError, match=r"Checkpoint\.to_json"):
        Checkpoint.from_json(text)


def test_same_card_twice() -> None:
    """A checkpoint that holds a card twice is refused: which of the two would be true?"""
    saved = json.loads(SAMPLE)
    saved["pending"].append(saved["pending"][0])
    with pytest.raises(UsageError, match="card 123456/ca0c…de52: a checkpoint must hold each card once"):
        Checkpoint.from_json(json.dumps(saved))


def test_nothing_left_to_deliver() -> None:
    """A card whose end was delivered is refused: no end would come of it."""
    card: list[Any] = [1, "a", 1, None, 1, 0, 0, 1, 1, 1, True, "PRODUCED", None, None]
    with pytest.raises(UsageError, match="card 1/a: a checkpoint must hold no card whose end was delivered"):
        Checkpoint.from_json(_changed(pending=[card]))
    produced = {"status": "PRODUCED"}
    for undelivered in ([STEP], [STEP | {"current": produced}, STEP]):
        with pytest.raises(UsageError, match="whose end was delivered"):
            Checkpoint.from_json(_changed(pending=[[*card, None, None, None, None, None, undelivered]]))
    ends = [*card, None, None, None, None, None, [STEP | {"current": produced}]]
    assert Checkpoint.from_json(_changed(pending=[ends])).pending[0].has_ended
    goes_on: list[Any] = [*card, None, None, None, None, None, [], None, True]
    assert not Checkpoint.from_json(_changed(pending=[goes_on])).pending[0].has_ended


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(field=st.sampled_from([*json.loads(SAMPLE), *range(len(ROW))]), value=JSON)
@example(field=17, value=None)
@example(field=14, value="")
def test_hostile_fields(field: Any, value: object) -> None:
    """Whatever a field holds, a checkpoint is read or refused by a `UsageError`, and what is read can be written."""
    text = _changed(**{f"at_{field}" if isinstance(field, int) else field: value})
    try:
        checkpoint = Checkpoint.from_json(text)
    except UsageError:
        return
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint


# --- A wait that is saved and restored ---

STATUSES: Final = st.builds(
    ProductionStatus,
    st.sampled_from(["READY", "IN_PROGRESS", "SHIPPED_TO_MARS", "PRODUCED", "PRODUCTION_ERROR"]),
    occurred_at=st.none() | st.sampled_from([NOON + timedelta(seconds=n) for n in (0, 0.5, 60, 61)]),
)
MOVES: Final = st.lists(
    st.tuples(
        st.sampled_from(["poll", "poll", "poll", "fail", "event"]),
        STATUSES,
        st.floats(min_value=0.01, max_value=100),
        st.booleans(),
    ),
    max_size=30,
)


def _moved(
    state: PollState, what: str, status: ProductionStatus, now: float, wall_now: float
) -> Transition | CardprodError | None:
    if state.is_over:
        return None
    if what == "fail":
        state.process_failure(ServerError("503", http_status=503), now)
        return state.error
    if what == "event":
        event = ProductionEvent(card=CARD, status=status, sent_at=datetime.fromtimestamp(wall_now, UTC))
        return state.process_event(event, now, wall_now)
    state.delay_until(now)
    return state.process_status(status, now)


def _options(seed: int, schedule: Any, max_failures: int = 3) -> PollOptions:
    return PollOptions(schedule=schedule, timeout=500.0, max_failures=max_failures, random=Random(seed).random)


# An `AdaptiveSchedule` belongs to one process, and so to one clock.
@pytest.mark.parametrize(("is_adaptive", "shift"), [(False, 0.0), (False, -1e6), (False, 12345.678), (True, 0.0)])
@settings(max_examples=settings().max_examples // 4)
@given(moves=MOVES, seed=st.integers(0, 3))
def test_saved_and_restored_is_the_same(
    moves: list[tuple[str, ProductionStatus, float, bool]], seed: int, shift: float, is_adaptive: bool
) -> None:
    """A wait saved as JSON and restored under another clock, at any moment, reports what an unbroken one reports."""
    schedules: list[Any] = [AdaptiveSchedule() if is_adaptive else Backoff() for _ in range(2)]
    unbroken = PollState(CARD, _options(seed, schedules[0]), 0.0)
    options = _options(seed, schedules[1])
    broken, offset, now = PollState(CARD, options, 0.0), 0.0, 0.0
    for what, status, seconds, is_saved in moves:
        now += seconds
        wall_now = WALL_NOON + now
        if is_saved and not broken.is_over:
            saved = broken.save(now + offset, wall_now)
            text = Checkpoint(id="x", pending=(saved,)).to_json()
            offset += shift
            (read,) = Checkpoint.from_json(text).pending
            broken = PollState(CARD, options, 0.0)
            broken.restore(read, now + offset, wall_now)
        expected = _moved(unbroken, what, status, now, wall_now)
        reported = _moved(broken, what, status, now + offset, wall_now)
        if isinstance(expected, Transition):
            assert isinstance(reported, Transition)
            assert reported.elapsed == pytest.approx(expected.elapsed, abs=1e-3)
            assert attrs.evolve(reported, elapsed=0.0) == attrs.evolve(expected, elapsed=0.0)
        else:
            assert type(reported) is type(expected)
        assert (broken.is_over, broken.polls, broken.failures) == (unbroken.is_over, unbroken.polls, unbroken.failures)
        if not unbroken.is_over:
            assert broken.next_poll_at - offset == pytest.approx(unbroken.next_poll_at, abs=1e-3)


def test_undelivered_failure_is_saved() -> None:
    """A wait that ended badly, undelivered, is saved so that the next poll ends it again."""
    state = PollState(CARD, _options(0, Backoff(), max_failures=2), 0.0)
    for now in (1.0, 2.0):
        state.process_failure(ServerError("503", http_status=503), now)
    assert isinstance(state.error, ServerError)
    saved = state.save(2.0, WALL_NOON)
    again = PollState(CARD, _options(0, Backoff(), max_failures=2), 0.0)
    again.restore(saved, 100.0, WALL_NOON)
    assert (again.is_over, again.next_poll_at) == (False, 100.0)
    again.process_failure(ServerError("503", http_status=503), 100.0)
    assert isinstance(again.error, ServerError)


@pytest.mark.parametrize(("failures", "max_failures", "saved"), [(1, 1, 0), (3, 3, 2), (1, 3, 1), (0, 3, 0)])
def test_failures_that_are_saved(failures: int, max_failures: int, saved: int) -> None:
    """One more failure ends what failures ended; a wait that timed out has as many as it had."""
    state = PollState(CARD, _options(0, Backoff(), max_failures=max_failures), 0.0)
    for now in range(failures):
        state.process_failure(ServerError("503", http_status=503), float(now))
    if not state.is_over:
        state.expire(501.0)
    assert state.save(501.0, WALL_NOON).failures == saved


@pytest.mark.parametrize("timeout", [None, 500.0])
def test_what_is_saved(timeout: float | None) -> None:
    """What is saved of a wait is what is known of it, in the wall clock's time, and is the same when saved again."""
    state = PollState(CARD, PollOptions(schedule=Backoff(jitter=0), timeout=timeout, max_failures=3), 1000.0)
    seen = ProductionStatus("READY", occurred_at=NOON)
    state.process_status(seen, 1001.0)
    state.process_failure(ServerError("503", http_status=503), 1002.0)
    event = ProductionEvent(card=CARD, status=ProductionStatus("COOLING", occurred_at=NOON), sent_at=NOON)
    undelivered = state.process_event(event, 1004.0, WALL_NOON)
    state.process_failure(ServerError("503", http_status=503), 1006.0)
    assert undelivered is not None

    def at(now: float) -> int:
        return unix_time(WALL_NOON + now - 1010.0)

    expected = PendingCard(
        card=CARD,
        started_at=at(1000.0),
        deadline_at=None if timeout is None else at(1500.0),
        next_poll_at=at(1007.6),
        polls=1,
        failures=1,
        unchanged=1,
        last=event.status,
        began_at=at(1004.0),
        polled_at=at(1004.0),
        is_first=False,
        event_at=at(1004.0),
        event_sent_at=NOON,
        undelivered=(undelivered,),
        failing_since=at(1006.0),
    )
    saved = state.save(1010.0, WALL_NOON, [undelivered])
    assert saved == expected
    assert Checkpoint.from_json(Checkpoint(id="x", pending=(saved,)).to_json()).pending == (expected,)
    assert undelivered.source == "webhook"
    again = PollState(CARD, _options(0, Backoff(), max_failures=1), 0.0)
    again.restore(saved, 50.0, WALL_NOON)
    assert again.save(50.0, WALL_NOON, [undelivered]) == expected


def test_undelivered_end_is_saved() -> None:
    """A wait that ended well is saved as ended, and restored as such."""
    state, again = (PollState(CARD, _options(0, Backoff()), 0.0) for _ in range(2))
    state.process_status(ProductionStatus("PRODUCED"), 1.0)
    saved = state.save(5.0, WALL_NOON)
    assert saved.next_poll_at == unix_time(WALL_NOON)
    again.restore(saved, 7.0, WALL_NOON)
    assert again.is_over


def test_time_known_for_a_status_without_one() -> None:
    """A time that was known for a status is kept where the last answer had none, and only there."""
    state, again = (PollState(CARD, _options(0, Backoff()), 0.0) for _ in range(2))
    state.process_status(ProductionStatus("READY", occurred_at=NOON), 1.0)
    assert state.save(1.0, WALL_NOON).known_at is None
    state.process_status(ProductionStatus("READY"), 2.0)
    saved = state.save(2.0, WALL_NOON)
    assert saved.known_at == NOON
    again.restore(saved, 2.0, WALL_NOON)
    assert again.process_status(ProductionStatus("READY", occurred_at=NOON), 3.0) is None
    assert again.process_status(ProductionStatus("READY", occurred_at=NOON + timedelta(hours=1)), 4.0) is not None


def test_clock_that_is_behind() -> None:
    """Under a clock that is a little behind, a restored wait goes on as if its last poll was just now."""
    state = PollState(CARD, _options(0, AdaptiveSchedule()), 0.0)
    state.process_status(ProductionStatus("READY"), 1.0)
    saved = state.save(1.0, WALL_NOON)
    behind = PollState(CARD, _options(0, AdaptiveSchedule()), 0.0)
    behind.restore(saved, 50.0, WALL_NOON - 5)
    step = behind.process_status(ProductionStatus("PRODUCED"), 50.0)
    assert step is not None
    assert step.is_final


def test_restored_past_its_deadline() -> None:
    """A wait that was restored past its deadline polls once more and then times out."""
    state = PollState(CARD, _options(0, Backoff()), 0.0)
    state.process_status(ProductionStatus("READY"), 1.0)
    restored = PollState(CARD, _options(0, Backoff()), 0.0)
    restored.restore(state.save(1.0, WALL_NOON), 0.0, WALL_NOON + 1000)
    restored.delay_until(0.0)
    assert restored.process_status(ProductionStatus("READY"), 0.2) is None
    assert isinstance(restored.error, WaitTimeout)
    assert restored.error.elapsed == pytest.approx(1001.2)


def test_known_codes_come_back_as_such() -> None:
    """An error code that is known is an `ErrorCode` again after the journey."""
    status = ProductionStatus("PRODUCTION_ERROR", error_code=next(iter(ErrorCode)))
    step = Transition(previous=None, current=status, elapsed=1.0, polls=1)
    fresh = Checkpoint.for_cards([CARD]).pending[0]
    pending = attrs.evolve(fresh, last=status, began_at=1, polled_at=2, undelivered=(step,))
    (read,) = Checkpoint.from_json(Checkpoint(id="x", pending=(pending,)).to_json()).pending
    assert read == pending
    assert isinstance(read.undelivered[0].current.error_code, ErrorCode)
