"""What a `watch` counts: every card is somewhere, and what cannot be known is not estimated."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod import Card, CardNotFound, CardprodError, ProductionStatus, TransportError, WaitTimeout
from cardprod.cli.exit_codes import FAILED, NO_ANSWER, NOT_FINAL, PRODUCED, USAGE, exit_code_of
from cardprod.cli.output.text import headline
from cardprod.cli.watch.stats import Growth, OutcomeKind, WatchStats, exit_code_for
from cardprod.cli.words import message_of
from tests.table import Table

CARDS = [Card(1, f"card-{number}") for number in range(5)]


def lost(card: Card) -> CardNotFound:
    return CardNotFound("no such card", http_status=404, card=card)


def timed_out(card: Card) -> WaitTimeout:
    return WaitTimeout("not final", last=None, polls=0, elapsed=1, card=card)


def stats_of(cards: list[Card] = CARDS) -> WatchStats:
    stats = WatchStats(0)
    stats.add(cards)
    return stats


def report(stats: WatchStats, card: Card, name: str, now: float = 1.0) -> None:
    """Report what a name stands for: a status, or an error."""
    if name in {"lost", "late"}:
        stats.report(card, lost(card) if name == "lost" else timed_out(card), now, is_end=True)
    else:
        status = ProductionStatus(name)
        stats.report(card, status, now, is_end=status.is_final)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(CARDS),
            st.sampled_from(["READY", "IN_PROGRESS", "ON_THE_MOON", "PRODUCED", "PRODUCTION_ERROR", "lost", "late"]),
        ),
        max_size=30,
    )
)
def test_every_card_is_counted_once(reported: list[tuple[Card, str]]) -> None:
    """Whatever is reported, in whatever order and however often, a card counts as what was reported of it last."""
    stats = stats_of()
    for card, name in reported:
        report(stats, card, name)
    names = {"lost": "CardNotFound", "late": "WaitTimeout"}
    where = Counter(names.get(name, name) for name in dict(reported).values())
    under_way = {"READY", "IN_PROGRESS", "ON_THE_MOON"}
    progress = stats.progress(2, 0)
    assert progress.statuses == {name: count for name, count in where.items() if name in under_way}
    ends = {kind.name: count for kind, count in progress.ends}
    assert ends == {name: count for name, count in where.items() if name not in under_way}
    assert progress.pending == stats.pending == len(CARDS) - sum(ends.values())
    assert progress.unseen == len(CARDS) - len(dict(reported))
    assert progress.produced + progress.failed + progress.unfinished + progress.errors == progress.cards == len(CARDS)


def test_exit_code_of_a_timeout() -> None:
    """A wait whose time ran out is not final, unless it had no answer at all and why is known: that is what counts."""
    lost, reset = timed_out(CARDS[0]), TransportError("reset")
    seen = WaitTimeout("not final", last=ProductionStatus("READY"), polls=1, elapsed=1)
    for error, cause, exit_code in ((lost, None, NOT_FINAL), (lost, reset, NO_ANSWER), (seen, reset, NOT_FINAL)):
        error.__cause__ = cause
        assert exit_code_of(error) == exit_code
        assert ("before any usable answer" in str(OutcomeKind.of(error).meaning)) == (exit_code == NO_ANSWER)


def test_ends_with_the_same_code_are_one_kind() -> None:
    """Cards that ended in the same status with the same code count together, whatever words went with them."""
    stats = stats_of()
    for card, code, words in zip(CARDS, ["NEW_ONE", "NEW_ONE", "PRD_FEEDER_JAM"], ["some", "other", ""], strict=False):
        status = ProductionStatus("PRODUCTION_ERROR", error_code=code, description=words)
        stats.report(card, status, 1, is_end=True)
    assert [(kind.error_code, kind.meaning, count) for kind, count in stats.progress(2, 0).ends] == [
        ("NEW_ONE", "some", 2),
        ("PRD_FEEDER_JAM", "Production error: feeder card jam", 1),
    ]


def test_what_an_error_means() -> None:
    """What an error means is said in a few words, for every class of errors, and they do not name its card."""
    error = timed_out(CARDS[0])
    assert OutcomeKind.of(error).meaning == "its time ran out"
    assert message_of(error) == "not final"
    for cls in (CardprodError, CardNotFound):
        assert OutcomeKind.of(cls.__new__(cls)).meaning


def test_what_an_earlier_run_knew_counts() -> None:
    """Cards that ended in an earlier run are ended, those that were seen are in that status, and numbers go on."""
    stats = WatchStats(0)
    for card, status in zip(CARDS, [None, ProductionStatus("READY"), ProductionStatus("PRODUCED")], strict=False):
        stats.restore(card, status, is_end=status is not None and status.is_final)
    assert stats.add(CARDS) == CARDS[3:]
    assert [stats.number_of(card) for card in CARDS] == [0, 1, 2, 3, 4]
    progress = stats.progress(1, 7)
    assert (progress.pending, progress.unseen, progress.produced) == (4, 3, 1)
    assert headline(progress).endswith("; 7 requests in 0:01 of this run")  # unlike the cards
    assert "of this run" not in headline(stats_of(CARDS).progress(1, 7))
    assert (progress.seconds_left, progress.statuses) == (None, {"READY": 1})


def test_a_followed_error_status_is_no_end() -> None:
    """A card that is waited for after an error status is pending, and not final when its time runs out."""
    stats = stats_of(CARDS[:1])
    stats.report(CARDS[0], ProductionStatus("PRODUCTION_ERROR"), 1, is_end=False)
    progress = stats.progress(2, 0)
    assert (progress.pending, progress.failed, exit_code_for(progress)) == (1, 0, NOT_FINAL)
    report(stats, CARDS[0], "PRODUCED")
    assert exit_code_for(stats.progress(3, 0)) == PRODUCED


def test_exit_code() -> None:
    """What running again may change decides: no answer, then not final, then an error status, then bad rows."""
    assert exit_code_for(stats_of([]).progress(0, 0)) == PRODUCED
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
        for reported, bad_rows, exit_code in rows:
            stats = stats_of()
            stats.bad_rows = bad_rows
            for card, name in zip(CARDS, reported, strict=False):
                report(stats, card, name)
            with table.row(reported, bad_rows):
                assert exit_code_for(stats.progress(2, 0)) == exit_code


# --- How fast it goes ---


def test_time_left() -> None:
    """What is left is estimated from how fast cards ended, and the time before the first one did does not count."""
    cards = [Card(1, f"card-{number}") for number in range(100)]
    stats = stats_of(cards)
    for second in range(100):  # none ends
        assert stats.progress(second, second).seconds_left is None
    left: list[float | None] = []
    for number, card in enumerate(cards[:40]):
        now = 100.0 + 2 * number
        report(stats, card, "PRODUCED", now)
        left.append(stats.progress(now, 100).seconds_left)
    assert set(left[:4]) == {None}
    assert left[-1] == pytest.approx(120, rel=0.1)


def test_time_left_when_none_ends_any_more() -> None:
    """Once cards have stopped ending, nothing is estimated; and once all have ended, nothing is left."""
    cards = [Card(1, f"card-{number}") for number in range(30)]
    stats = stats_of(cards)
    for number, card in enumerate(cards[:20]):
        report(stats, card, "PRODUCED", float(number))
        stats.progress(float(number), 0)
    assert stats.progress(20, 0).seconds_left is not None
    assert stats.progress(200, 0).seconds_left is None
    for card in cards[20:]:
        report(stats, card, "PRODUCED", 201)
    assert stats.progress(202, 0).seconds_left == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50)), max_size=50), st.floats(1, 50))
def test_growth(samples: list[tuple[float, int]], window: float) -> None:
    """A number's growth is measured over the window at least, as soon as that long has passed, and never over less."""
    recent = Growth(window, 0)
    now, count = 0.0, 0
    counts = {0.0: 0}
    for pause, more in samples:
        now, count = now + pause, count + more
        recent.add(now, count)
        counts[now] = count
    grown, seconds = recent.growth
    assert seconds >= min(window, now) - 1e-6
    assert 0 <= grown <= count
    assert grown >= count - max((seen for at, seen in counts.items() if at <= now - window), default=0)


def test_trouble_passes() -> None:
    """Polls that failed are counted for a minute, with why the last one did, and then no more."""
    stats = stats_of()
    failed: list[int] = []
    for second in range(70):
        if second == 2:
            stats.poll_failed(CardprodError("no answer\x1b[2J came", card=CARDS[0]))
        failed.append(stats.progress(second, second).failed_polls)
    assert failed[:2] == [0, 0]
    assert set(failed[2:61]) == {1}
    assert set(failed[63:]) == {0}
    assert stats.progress(70, 0).why_failed == "no answer�[2J came"
