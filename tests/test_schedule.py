"""When to look next: `Backoff`."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod.errors import UsageError
from cardprod.schedule import Backoff, Schedule

NAN, INF = float("nan"), float("inf")
NAMES = ["first", "factor", "ceiling", "jitter"]


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    """Any backoff that somebody might ask for: from milliseconds to years."""
    first = draw(st.floats(1e-3, 1e6))
    return Backoff(
        first=first,
        factor=draw(st.one_of(st.just(1), st.floats(1, 100), st.integers(1, 5))),
        ceiling=draw(st.floats(first, 1e9)),
        jitter=draw(st.floats(0, 0.99)),
    )


CHANCES = st.floats(0, 1, exclude_max=True)
LOOKS = st.one_of(st.integers(0, 100), st.integers(0, 10**6))


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (Backoff(jitter=0), [1.0, 1.6, 2.56, 4.096, 6.5536, 10.48576, 16.777216, 26.8435456, 30.0, 30.0]),
        (Backoff(first=5, factor=1, jitter=0), [5.0, 5.0, 5.0]),
        (Backoff(first=0.2, factor=2, ceiling=1, jitter=0), [0.2, 0.4, 0.8, 1.0, 1.0]),
        (Backoff(first=3, factor=9, ceiling=3, jitter=0), [3.0, 3.0]),
    ],
)
def test_delays(backoff: Backoff, delays: list[float]) -> None:
    """Delays start at `first`, grow by `factor`, and stay at `ceiling`."""
    for unchanged, delay in enumerate(delays):
        assert math.isclose(backoff.delay(unchanged, 0.5), delay)


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 10.0), (0.5, 8.0), (0.999999, 6.000004)])
def test_jitter_only_shortens(chance: float, delay: float) -> None:
    """Chance takes up to the share `jitter` off a delay, and never adds to it."""
    assert math.isclose(Backoff(first=10, jitter=0.4).delay(0, chance), delay)


@pytest.mark.parametrize("unchanged", [10**3, 10**4, 10**6])
@pytest.mark.parametrize("factor", [1.6, 2, 1000.0])
def test_very_many_looks(factor: float, unchanged: int) -> None:
    """After a million looks without a change the delay is still the ceiling, not an overflow."""
    assert Backoff(factor=factor, jitter=0).delay(unchanged, 0.5) == 30.0


@pytest.mark.parametrize("value", [NAN, INF, -INF, "1", None, True, False, 1j, [1]], ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_refuses_what_is_no_number(name: str, value: Any) -> None:
    """What is not a finite number is refused, and the message names the argument."""
    with pytest.raises(UsageError, match=f"^Backoff: {name} must be a finite number"):
        Backoff(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"first": 0}, "first"),
        ({"first": -1.0}, "first"),
        ({"factor": 0.999}, "factor"),
        ({"factor": 0}, "factor"),
        ({"factor": -2}, "factor"),
        ({"ceiling": 0.5}, "ceiling"),
        ({"first": 31.0}, "ceiling"),
        ({"ceiling": -1.0}, "ceiling"),
        ({"jitter": 1}, "jitter"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.5}, "jitter"),
    ],
)
def test_refuses_numbers_that_cannot_be_right(arguments: dict[str, float], name: str) -> None:
    """A number out of range is refused, and the message names the argument."""
    with pytest.raises(UsageError, match=f"^Backoff: {name} must be"):
        Backoff(**arguments)


def test_takes_its_arguments_by_name_only() -> None:
    """Four numbers in a row would say nothing, so they have names."""
    positional: Any = Backoff
    with pytest.raises(TypeError):
        positional(1.0)


def test_is_frozen() -> None:
    """A backoff can be shared by every wait, because it never changes."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(Backoff(), "first", 2.0)  # noqa: B010 - assigned, a type checker would refuse it first


def test_is_a_schedule() -> None:
    """A `Backoff` is what a wait asks for as a `Schedule`."""
    schedule: Schedule = Backoff(jitter=0)
    assert schedule.delay(1, 0.0) == 1.6


@given(backoff=backoffs(), unchanged=LOOKS, chance=CHANCES)
def test_delay_is_positive_and_at_most_the_ceiling(backoff: Backoff, unchanged: int, chance: float) -> None:
    """Whatever was asked for, a delay is above 0 and never over the ceiling."""
    assert 0 < backoff.delay(unchanged, chance) <= backoff.ceiling


@given(backoff=backoffs(), looks=st.tuples(LOOKS, LOOKS).map(sorted), chance=CHANCES)
def test_delays_never_shrink(backoff: Backoff, looks: list[int], chance: float) -> None:
    """With equal luck, more looks without a change never mean a shorter delay."""
    fewer, more = looks
    assert backoff.delay(fewer, chance) <= backoff.delay(more, chance)


@given(backoff=backoffs(), unchanged=LOOKS, chances=st.tuples(CHANCES, CHANCES).map(sorted))
def test_chance_stays_within_the_jitter(backoff: Backoff, unchanged: int, chances: list[float]) -> None:
    """A higher chance never lengthens a delay, and no chance takes off more than `jitter` says."""
    low, high = (backoff.delay(unchanged, chance) for chance in chances)
    longest = backoff.delay(unchanged, 0.0)
    assert longest * (1 - backoff.jitter) <= high <= low <= longest
