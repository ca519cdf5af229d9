"""What one card's wait passes on to a schedule that learns, and what it makes of the answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff
from cardprod._polling.state import PollOptions, PollState
from cardprod.errors import ServerError
from cardprod.models import ProductionEvent, ProductionStatus
from tests.cards import CARD

if TYPE_CHECKING:
    from typing import TypeAlias

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
START = 100.0
RATE = 7.0
RANDOM = 0.25
BROKEN = ServerError("503", http_status=503)

Move: TypeAlias = tuple[str, str, float]
"""`poll`, `event` or `fail`; the status; and how many seconds after the beginning."""


class Recorder(AdaptiveSchedule):
    """Records what it is asked and what it learns; gives 25 s, or what its fallback gives."""

    def __init__(self) -> None:
        super().__init__(fallback=Backoff(first=20, factor=3, ceiling=500, jitter=0.5))
        self.stays: list[tuple[str, float, float, str]] = []
        self.unchanged: list[int] = []
        self.asked: list[tuple[str, float, bool]] = []
        self.now = START
        self.gap = 25.0

    def delay_at(self, status: str, age: float, now: float, random: float, *, is_first: bool) -> float:
        """Record what is known of the card."""
        assert (now, random) == (self.now, RANDOM)
        self.asked.append((status, age, is_first))
        return self.gap

    def learn(
        self,
        status: str,
        before: float,
        age: float,
        now: float,
        *,
        is_first: bool,
        ended: bool,
        is_final: bool,
        unchanged: int,
        requests_per_second: float,
    ) -> None:
        """Record a stay."""
        assert (now, requests_per_second) == (self.now, RATE)
        words = ["first"] * is_first + ["ended"] * ended + ["final"] * is_final
        self.stays.append((status, before, age, " ".join(words)))
        self.unchanged.append(unchanged)


def waited(schedule: AdaptiveSchedule | Backoff, *moves: Move) -> PollState:
    """Begin a wait at noon and make some moves."""
    options = PollOptions(
        schedule=schedule, timeout=None, max_failures=9, requests_per_second=RATE, random=lambda: RANDOM
    )
    state = PollState(CARD, options, START)
    for what, name, seconds in moves:
        now, wall_now, status = START + seconds, NOON + timedelta(seconds=seconds), ProductionStatus(name)
        if isinstance(schedule, Recorder):
            schedule.now = now
        if what == "poll":
            state.process_status(status, now)
        elif what == "fail":
            state.process_failure(BROKEN, now)
        else:
            state.process_event(ProductionEvent(card=CARD, status=status, sent_at=wall_now), now, wall_now.timestamp())
    return state


@pytest.mark.parametrize(
    ("moves", "stays"),
    [
        pytest.param([("poll", "READY", 1)], [], id="nothing before the second"),
        pytest.param(
            [("poll", "READY", 1), ("poll", "READY", 4), ("poll", "IN_PROGRESS", 10), ("poll", "PRODUCED", 20)],
            [
                ("READY", 1, 4, "first"),
                ("READY", 4, 10, "first ended"),
                ("IN_PROGRESS", 3, 13, "ended final"),  # it began at 7, halfway between two polls
            ],
            id="polls bracket a change",
        ),
        pytest.param(
            [("poll", "READY", 1), ("event", "IN_PROGRESS", 10), ("event", "PRODUCED", 30)],
            [
                ("READY", 1, 10, "first"),
                ("READY", 10, 10, "first ended"),
                ("IN_PROGRESS", 0, 20, ""),
                ("IN_PROGRESS", 20, 20, "ended final"),
            ],
            id="events are exact",
        ),
        pytest.param(
            [("event", "IN_PROGRESS", 5), ("poll", "IN_PROGRESS", 9), ("poll", "READY", 11)],
            [("IN_PROGRESS", 0, 4, ""), ("IN_PROGRESS", 4, 6, "ended")],
            id="what an event shows first was seen as it began",
        ),
        pytest.param(
            [("poll", "READY", 1), ("event", "IN_PROGRESS", 10), ("poll", "READY", 12), ("poll", "PRODUCED", 20)],
            [
                ("READY", 1, 10, "first"),
                ("READY", 10, 10, "first ended"),
                ("IN_PROGRESS", 0, 2, ""),  # a poll that lags behind the event
                ("IN_PROGRESS", 2, 10, "ended final"),
            ],
            id="a poll that lags behind an event shows that event's status",
        ),
        pytest.param(
            [("poll", "READY", 1), ("fail", "", 4), ("poll", "READY", 6)],
            [("READY", 1, 6, "first")],
            id="a failed poll shows nothing",
        ),
    ],
)
def test_what_is_learned(moves: list[Move], stays: list[tuple[str, float, float, str]]) -> None:
    """A schedule learns every stay: polls only bracket its end, an event dates it."""
    schedule = Recorder()
    waited(schedule, *moves)
    assert schedule.stays == stays


def test_how_long_nothing_changed() -> None:
    """A schedule is given how many polls have shown nothing new, the one that it learns from included."""
    schedule = Recorder()
    waited(schedule, *[("poll", "READY", second) for second in range(4)], ("poll", "PRODUCED", 5))
    assert schedule.unchanged == [1, 2, 3, 0]


def test_what_the_schedule_is_given() -> None:
    """The next poll is urgent when the schedule says, which is given the status and the age in it."""
    schedule = Recorder()
    state = waited(schedule, ("poll", "READY", 1), ("poll", "IN_PROGRESS", 10), ("event", "COOLING", 12))
    assert schedule.asked == [("READY", 1, True), ("IN_PROGRESS", 4.5, False)]  # COOLING changes nothing
    assert state.urgent_at == START + 10 + 25
    assert START + 10 < state.next_poll_at < START + 10 + 25


def test_an_answer_is_not_backed_off_from() -> None:
    """After an answer the next poll is as soon as was learned, however slow the fallback is."""
    schedule = Recorder()
    schedule.gap = 1.0
    assert waited(schedule, ("poll", "READY", 1)).next_poll_at == START + 2


def test_deferred() -> None:
    """A poll that is deferred is due after the fallback's delay once more, or when it is urgent, if that is sooner."""
    state = waited(Recorder(), ("poll", "READY", 1))
    for seconds, due in ((5, 5 + 20 * (1 - 0.5 * RANDOM)), (20, 1 + 25)):
        state.defer(START + seconds)
        assert state.next_poll_at == START + due


def test_failures_are_backed_off_from() -> None:
    """After a failed poll the next is no sooner than the fallback says for so many failures in a row."""
    schedule = Recorder()
    due = [waited(schedule, ("poll", "READY", 1), *[("fail", "", 1)] * failures).next_poll_at for failures in range(4)]
    fallback = [20 * 3**failures * (1 - 0.5 * RANDOM) for failures in range(3)]
    assert due[1:] == [START + 1 + max(delay, 20 * (1 - 0.2 * RANDOM)) for delay in fallback]
    assert due[0] <= due[1]


def test_fallback_until_something_is_known() -> None:
    """Before the first answer a schedule that learns is asked as any other: by how many polls failed."""
    state = waited(Recorder(), ("fail", "", 0), ("fail", "", 0))
    assert state.next_poll_at == START + 20 * 3**2 * (1 - 0.5 * RANDOM)


def test_another_schedule_is_asked_by_count() -> None:
    """A `Backoff` learns nothing, and is asked by how many polls showed nothing new."""
    backoff = Backoff(first=1, factor=2, ceiling=60, jitter=0)
    state = waited(backoff, ("poll", "READY", 1), ("poll", "READY", 2), ("poll", "READY", 3))
    assert state.next_poll_at == START + 3 + 4
