"""Which of two statuses is newer, driven from the table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from cardprod import ProductionStatus, Status
from cardprod._polling.ordering import Order, are_ordered, compare, compare_times
from tests.table import Table

STAGES: dict[int, list[str]] = {
    0: [Status.READY],
    1: [Status.IN_PROGRESS, "HEATING_UP"],
    2: [Status.PRODUCED, Status.PRODUCTION_ERROR, Status.REQUEST_ERROR],
}
NOON = datetime(2026, 11, 24, 12, 0, 0, 500_000, tzinfo=UTC)


def status(name: str, at: datetime | None = None) -> ProductionStatus:
    return ProductionStatus(name, occurred_at=at)


def test_stages_decide_where_times_do_not() -> None:
    """Without times, READY comes before all that is on the way, and that before every end; equals are undecided."""
    with Table() as table:
        for (known_stage, knowns), (new_stage, news) in product(STAGES.items(), repeat=2):
            for known, new in product(knowns, news):
                with table.row(known, new):
                    expected = (
                        Order.NEWER
                        if new_stage > known_stage
                        else Order.OLDER
                        if new_stage < known_stage
                        else Order.UNDECIDED
                    )
                    assert compare(status(new), status(known), None) is expected


def test_times_decide_first() -> None:
    """Where both have a time and the two differ, the time decides, whatever the statuses are."""
    later, earlier = NOON + timedelta(seconds=2), NOON - timedelta(seconds=2)
    for new, known in product(["READY", "IN_PROGRESS", "PRODUCED"], repeat=2):
        assert compare(status(new, later), status(known), NOON) is Order.NEWER
        assert compare(status(new, earlier), status(known), NOON) is Order.OLDER


def test_whole_seconds() -> None:
    """A time in whole seconds equals one that is less than a second away; two with fractions are compared exactly."""
    whole = NOON.replace(microsecond=0)
    assert compare_times(NOON, whole) is Order.UNDECIDED
    assert compare_times(whole, NOON) is Order.UNDECIDED
    assert compare_times(whole + timedelta(seconds=1), whole) is Order.NEWER
    assert compare_times(NOON + timedelta(microseconds=1), NOON) is Order.NEWER
    assert compare_times(NOON, NOON + timedelta(microseconds=1)) is Order.OLDER


def test_what_times_decide() -> None:
    """Two times order two statuses, or are equal; one that is missing, or within a second in whole ones, does not."""
    whole = NOON.replace(microsecond=0)
    later = NOON + timedelta(microseconds=1)
    cases = [(NOON, NOON, True), (later, NOON, True), (NOON, later, True), (whole, NOON, False), (NOON, whole, False)]
    with Table() as table:
        for one, other, expected in [*cases, (None, NOON, False), (NOON, None, False), (None, None, False)]:
            with table.row(one, other):
                assert are_ordered(one, other) is expected


@given(st.none() | st.datetimes(timezones=st.just(UTC)), st.none() | st.datetimes(timezones=st.just(UTC)))
def test_comparison_is_antisymmetric(one: datetime | None, other: datetime | None) -> None:
    """What is newer one way round is older the other way round, and nothing is newer than itself or than nothing."""
    reverse = {Order.NEWER: Order.OLDER, Order.OLDER: Order.NEWER, Order.UNDECIDED: Order.UNDECIDED}
    assert compare_times(one, other) is reverse[compare_times(other, one)]
    assert compare_times(one, one) is Order.UNDECIDED
    assert compare_times(one, None) is Order.UNDECIDED
