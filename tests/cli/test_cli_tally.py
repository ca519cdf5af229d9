"""What a `watch` counts: every card is somewhere, and what nobody can know is not guessed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod import Card, CardNotFound, CardprodError, ProductionStatus, Transition, WaitTimeout
from cardprod.checkpoint import Checkpoint
from cardprod.cli.exit_codes import FAILED, NO_ANSWER, NOT_FINAL, PRODUCED, USAGE
from cardprod.cli.tally import Fate, Recent, Tally, message_of
from tests.table import Table

CARDS = [Card(1, f"card-{number}") for number in range(5)]


def step(status: str, *, error_code: str | None = None, description: str | None = None) -> Transition:
    current = ProductionStatus(status, error_code=error_code, description=description)
    return Transition(previous=None, current=current, elapsed=1, polls=1)


def lost(card: Card) -> CardNotFound:
    return CardNotFound("no such card", http_status=404, card=card)


def timed_out(card: Card) -> WaitTimeout:
    return WaitTimeout("not final", last=None, polls=0, elapsed=1, card=card)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(CARDS),
            st.sampled_from(["READY", "IN_PROGRESS", "ON_THE_MOON", "PRODUCED", "PRODUCTION_ERROR", "lost", "late"]),
        ),
        max_size=30,
    )
)
def test_every_card_is_counted_once(told: list[tuple[Card, str]]) -> None:
    """Whatever is told, in whatever order and however often, a card counts where it was told to be last."""
    tally = Tally(CARDS, 0)
    for card, name in told:
        what: Transition | CardprodError
        what = lost(card) if name == "lost" else timed_out(card) if name == "late" else step(name)
        tally.saw(card, what, 1)
    names = {"lost": "CardNotFound", "late": "WaitTimeout"}
    where = Counter(names.get(name, name) for name in dict(told).values())
    under_way = {"READY", "IN_PROGRESS", "ON_THE_MOON"}
    assert +tally.statuses == Counter({name: count for name, count in where.items() if name in under_way})
    ends = Counter({fate.name: count for fate, count in tally.fates.items()})
    assert +ends == Counter({name: count for name, count in where.items() if name not in under_way})
    assert tally.pending == len(CARDS) - ends.total()
    assert tally.unseen == len(CARDS) - len(dict(told))
    summary = tally.summary()
    assert summary.produced + summary.failed + summary.unfinished + summary.errors == summary.cards == len(CARDS)
    assert {str(fate.name) for fate in tally.ended().values()} <= {"PRODUCED", "PRODUCTION_ERROR"}


def test_ends_with_the_same_code_are_one_kind() -> None:
    """Cards that ended in the same status with the same code count together, whatever words went with them."""
    tally = Tally(CARDS, 0)
    tally.saw(CARDS[0], step("PRODUCTION_ERROR", error_code="NEW_ONE", description="some words"), 1)
    tally.saw(CARDS[1], step("PRODUCTION_ERROR", error_code="NEW_ONE", description="other words"), 1)
    tally.saw(CARDS[2], step("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM"), 1)
    assert [(str(fate), count) for fate, count in tally.summary().ends] == [
        ("PRODUCTION_ERROR  NEW_ONE (some words)", 2),
        ("PRODUCTION_ERROR  PRD_FEEDER_JAM (Production error: feeder card jam)", 1),
    ]


def test_what_an_error_means() -> None:
    """What an error means is said in a few words, for every class of errors, and they do not name its card."""
    error = timed_out(CARDS[0])
    assert str(Fate.of(error)) == "WaitTimeout (the timeout passed before the card was final)"
    assert message_of(error) == "not final"


def test_what_an_earlier_run_knew_counts() -> None:
    """Cards that ended in an earlier run are ended, and those that were seen stand where they stood."""
    tally = Tally(CARDS, 0)
    checkpoint = Checkpoint.for_cards(CARDS[:2])
    tally.go_on_from(checkpoint.pending, {CARDS[2]: Fate.of(ProductionStatus("PRODUCED"))})
    assert (tally.pending, tally.unseen, tally.summary().produced) == (4, 4, 1)
    assert tally.seconds_left is None


def test_exit_code() -> None:
    """What running again may change decides: no answer, then not final, then an error status, then bad rows."""
    rows: list[tuple[list[str], int, int]] = [
        (["PRODUCED"] * 5, 0, PRODUCED),
        (["PRODUCED"] * 5, 1, USAGE),
        (["PRODUCED"] * 4 + ["PRODUCTION_ERROR"], 1, FAILED),
        (["PRODUCED"] * 3 + ["PRODUCTION_ERROR", "late"], 1, NOT_FINAL),
        (["PRODUCED"] * 2 + ["PRODUCTION_ERROR", "late", "lost"], 1, NO_ANSWER),
        (["PRODUCED"] * 4, 0, NOT_FINAL),
        ([], 0, NOT_FINAL),
    ]
    with Table() as table:
        for told, bad_rows, exit_code in rows:
            tally = Tally(CARDS, 0)
            for card, name in zip(CARDS, told, strict=False):
                tally.saw(card, lost(card) if name == "lost" else timed_out(card) if name == "late" else step(name), 1)
            with table.row(told, bad_rows):
                assert tally.summary(bad_rows=bad_rows).exit_code == exit_code


def test_nothing_to_wait_for() -> None:
    """No cards are well."""
    assert Tally([], 0).summary().exit_code == PRODUCED


# --- How fast it goes ---


def test_time_left() -> None:
    """What is left is guessed from how fast cards ended, and the time before the first one did does not count."""
    cards = [Card(1, f"card-{number}") for number in range(100)]
    tally = Tally(cards, 0)
    for second in range(100):  # nobody ends
        tally.sample(second, second)
        assert tally.seconds_left is None
    for number, card in enumerate(cards[:40]):
        now = 100.0 + 2 * number
        tally.saw(card, step("PRODUCED"), now)
        tally.sample(now, 100)
        if number < 4:
            assert tally.seconds_left is None
    assert tally.seconds_left == pytest.approx(120, rel=0.1)


def test_time_left_when_nobody_ends_any_more() -> None:
    """Once cards have stopped ending, nobody knows what is left."""
    cards = [Card(1, f"card-{number}") for number in range(30)]
    tally = Tally(cards, 0)
    for number, card in enumerate(cards[:20]):
        tally.saw(card, step("PRODUCED"), float(number))
        tally.sample(float(number), 0)
    assert tally.seconds_left is not None
    tally.sample(200, 0)
    assert tally.seconds_left is None


def test_time_left_in_the_end() -> None:
    """When all have ended, nothing is left."""
    tally = Tally(CARDS[:1], 0)
    tally.saw(CARDS[0], step("PRODUCED"), 1)
    tally.sample(2, 0)
    assert tally.seconds_left == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50)), max_size=50), st.floats(1, 50))
def test_recent(samples: list[tuple[float, int]], window: float) -> None:
    """A number's growth is told over the window at least, as soon as that long has passed, and never over less."""
    recent = Recent(window, 0)
    now, count = 0.0, 0
    counts = {0.0: 0}
    for pause, more in samples:
        now, count = now + pause, count + more
        recent.note(now, count)
        counts[now] = count
    grown, seconds = recent.growth
    assert seconds >= min(window, now) - 1e-6
    assert 0 <= grown <= count
    assert grown >= count - max((seen for at, seen in counts.items() if at <= now - window), default=0)


def test_looks_in_the_last_minute() -> None:
    """Looks of more than a minute ago are no longer counted."""
    tally = Tally(CARDS, 0)
    for second in range(0, 200, 10):
        tally.sample(second, 5 * second)
    assert tally.requests_in_last_minute == 300
    tally.sample(300, 950)
    tally.sample(361, 950)
    assert tally.requests_in_last_minute == 0


def test_trouble_passes() -> None:
    """Looks that failed are told for a minute, with why the last one did, and then no more."""
    tally = Tally(CARDS, 0)
    told: list[str | None] = []
    for second in range(70):
        if second == 2:
            tally.failed_look(CardprodError("no answer\x1b[2J came", card=CARDS[0]))
        tally.sample(second, second)
        told.append(tally.trouble)
    words = "1 look failed in the last minute, to be tried again: no answer�[2J came"
    assert told[:2] == [None, None]
    assert set(told[2:61]) == {words}
    assert set(told[63:]) == {None}


def test_saved_ago() -> None:
    """How long ago all was saved is told from the last time that it was."""
    tally = Tally(CARDS, 0)
    assert tally.saved_ago is None
    tally.saved(5)
    tally.sample(8, 0)
    assert tally.saved_ago == 3
