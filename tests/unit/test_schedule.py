"""When to poll next: `Backoff`, and `AdaptiveSchedule`, which learns it."""

from __future__ import annotations

import heapq
import json
import math
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff
from cardprod.errors import UsageError
from cardprod.models import Status

if TYPE_CHECKING:
    from collections.abc import Callable

NAN, INF = float("nan"), float("inf")
NAMES = ["first", "factor", "ceiling", "jitter"]


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    """Draw any backoff, from milliseconds to years."""
    first = draw(st.floats(1e-3, 1e6))
    return Backoff(
        first=first,
        factor=draw(st.one_of(st.just(1), st.floats(1, 100), st.integers(1, 5))),
        ceiling=draw(st.floats(first, 1e9)),
        jitter=draw(st.floats(0, 0.99)),
    )


RANDOMS = st.floats(0, 1, exclude_max=True)
UNCHANGED = st.one_of(st.integers(0, 100), st.integers(0, 10**6))


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (Backoff(), [0.95, 1.52, 2.432]),
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


@pytest.mark.parametrize(("random", "delay"), [(0.0, 10.0), (0.5, 8.0), (0.999999, 6.000004)])
def test_jitter_only_shortens(random: float, delay: float) -> None:
    """Jitter takes up to its share off a delay, and never adds to it."""
    assert math.isclose(Backoff(first=10, jitter=0.4).delay(0, random), delay)


@pytest.mark.parametrize("unchanged", [10**3, 10**4, 10**6])
@pytest.mark.parametrize("factor", [1.6, 2, 1000.0])
def test_very_many_polls(factor: float, unchanged: int) -> None:
    """After a million polls without a change the delay is still the ceiling, not an overflow."""
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
    """A backoff takes its arguments by name only."""
    positional: Any = Backoff
    with pytest.raises(TypeError):
        positional(1.0)


def test_is_frozen() -> None:
    """A backoff can be shared by every wait, because it never changes."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(Backoff(), "first", 2.0)  # noqa: B010 - assigned, a type checker would refuse it first


@given(backoff=backoffs(), unchanged=UNCHANGED, random=RANDOMS)
def test_delay_is_positive_and_at_most_the_ceiling(backoff: Backoff, unchanged: int, random: float) -> None:
    """Whatever was asked for, a delay is above 0 and never over the ceiling."""
    assert 0 < backoff.delay(unchanged, random) <= backoff.ceiling


@given(backoff=backoffs(), counts=st.tuples(UNCHANGED, UNCHANGED).map(sorted), random=RANDOMS)
def test_delays_never_shrink(backoff: Backoff, counts: list[int], random: float) -> None:
    """With the same random number, more polls without a change never shorten a delay."""
    fewer, more = counts
    assert backoff.delay(fewer, random) <= backoff.delay(more, random)


@given(backoff=backoffs(), unchanged=UNCHANGED, randoms=st.tuples(RANDOMS, RANDOMS).map(sorted))
def test_randomness_stays_within_the_jitter(backoff: Backoff, unchanged: int, randoms: list[float]) -> None:
    """A higher random number never lengthens a delay, and none takes off more than `jitter`."""
    low, high = (backoff.delay(unchanged, random) for random in randoms)
    longest = backoff.delay(unchanged, 0.0)
    assert longest * (1 - backoff.jitter) <= high <= low <= longest


# --- The schedule that learns ---

READY, PRINTING = str(Status.READY), str(Status.IN_PROGRESS)
AGES = st.floats(0, 1e7)


def learn(schedule: AdaptiveSchedule, before: float, age: float, now: float, *, ended: bool, rate: float = 10) -> None:
    schedule.learn(
        PRINTING, before, age, now, is_first=False, ended=ended, is_final=ended, unchanged=9, requests_per_second=rate
    )


def poll_cards(schedule: AdaptiveSchedule, dwell: Callable[[Random], float], cards: int, every: float) -> None:
    """Poll so many cards at a fixed interval, each until it has left its status, in the time of a fleet of fifty."""
    generator, now = Random(1), 0.0
    for _ in range(cards):
        leaves_at, age = dwell(generator), 0.0
        while age < leaves_at:
            now += every / 50
            learn(schedule, age, age + every, now, ended=age + every >= leaves_at)
            age += every


def polls_by_age(schedule: AdaptiveSchedule, ages: list[float]) -> list[float]:
    return [schedule.delay_at(PRINTING, age, 1e9, 0.5, is_first=False) for age in ages]


@given(AGES, AGES, RANDOMS, st.floats(1e-3, 1e6), st.booleans())
def test_adaptive_delay_is_sane(age: float, more: float, random: float, rate: float, ended: bool) -> None:
    """Whatever was seen, a delay is within its bounds, or in proportion to the fleet."""
    schedule = AdaptiveSchedule(shortest=2, fallback=Backoff(ceiling=50))
    for number in range(5):
        learn(schedule, age, age + more, 10.0 * number, ended=ended, rate=rate)
        may, should = schedule.gaps_at(
            PRINTING, age + more, 10.0 * number, random, is_first=False, unchanged=9, least_gap=0.0
        )
        assert 0 < may <= should
        assert 2 <= schedule.delay_at(PRINTING, age + more, 10.0 * number, random, is_first=False) < math.inf
        assert should <= 1.3 * (50 + 5 * more / (10 * rate)) * 1.000001


def test_nothing_learned_is_fallback() -> None:
    """With nothing learned each delay is the fallback's within a factor of two."""
    fallback = Backoff(jitter=0)
    schedule = AdaptiveSchedule(fallback=fallback)
    age = 0.0
    for unchanged in range(12):
        delay = schedule.delay_at(READY, age, 0.0, 0.5, is_first=True)
        assert 0.5 <= delay / min(1 + 0.6 * age, 30) <= 2  # which is how the fallback's delays grow with age
        assert schedule.delay(unchanged, 0.3) == fallback.delay(unchanged, 0.3)
        age += delay


@pytest.mark.parametrize("rate", [5.0, 10.0, 20.0])
def test_budget_is_used(rate: float) -> None:
    """A fleet that is too large for its budget uses the budget, within a tenth."""
    schedule = AdaptiveSchedule(shortest=0.01)
    generator = Random(1)
    heap = [(0.0, number, 0.0, 0.0, generator.expovariate(1 / 200)) for number in range(300)]
    polls = 0
    while heap[0][0] < 900:
        now, number, began_at, polled_at, ends_at = heapq.heappop(heap)
        has_ended = now >= ends_at
        learn(schedule, polled_at - began_at, now - began_at, now, ended=has_ended, rate=rate)
        polls += now > 600
        if has_ended:  # the next card takes its place
            began_at, ends_at = now, now + generator.expovariate(1 / 200)
        _, delay = schedule.gaps_at(
            PRINTING, now - began_at, now, generator.random(), is_first=False, unchanged=9, least_gap=0.0
        )
        heapq.heappush(heap, (now + delay, number, began_at, now, ends_at))
    assert polls / 300 == pytest.approx(rate, rel=0.1)


def test_saved_and_restored() -> None:
    """What was learned survives as JSON: the restored schedule gives the same delays."""
    schedule = AdaptiveSchedule(poll_cost=0.5, fallback=Backoff(first=2))
    poll_cards(schedule, lambda generator: generator.uniform(100, 300), 50, 7)
    restored, fresh = AdaptiveSchedule.from_json(schedule.to_json()), AdaptiveSchedule(poll_cost=0.5)
    schedule._load = fresh._load  # pyright: ignore[reportPrivateUsage] - measured, and so not saved
    ages = [0.0, 50.0, 150.0, 250.0, 1000.0]
    assert polls_by_age(restored, ages) == pytest.approx(polls_by_age(schedule, ages), rel=0.02)
    assert restored.delay(3, 0.5) == schedule.delay(3, 0.5)


def test_least_gap_has_jitter() -> None:
    """Jitter shortens the gap that is left over at least, as it shortens a backoff's."""
    schedule = AdaptiveSchedule(typical={READY: 2}, fallback=Backoff(first=10, factor=1, jitter=0))
    gaps = schedule.gaps_at(READY, 2, 1e6, 0.5, is_first=True, unchanged=0, least_gap=5)
    assert gaps == pytest.approx((4.5, 4.5))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.sampled_from([*json.loads(AdaptiveSchedule(typical={"READY": 1}).to_json())]), JSON)
def test_hostile_save(name: str, value: Any) -> None:
    """A save in which anything was changed is restored, or refused with a UsageError, and nothing else."""
    saved = json.loads(AdaptiveSchedule(typical={"READY": 1}).to_json()) | {name: value}
    try:
        schedule = AdaptiveSchedule.from_json(json.dumps(saved))
    except UsageError:
        return
    assert 0 < schedule.delay_at(READY, 1, 1, 0.5, is_first=True) < math.inf


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "{", "[" * 100_000, '{"version": 2, "curves": []}', '{"version": 1}']
)
def test_no_save(text: str) -> None:
    """What was never saved by a schedule is refused, and the message says what it should be."""
    with pytest.raises(UsageError, match=r" AdaptiveSchedule\.to_json (?:gave|in version)"):
        AdaptiveSchedule.from_json(text)


def test_fallback_without_delay() -> None:
    """A fallback whose delays are next to nothing is one all the same."""
    schedule = AdaptiveSchedule(fallback=Backoff(first=1e-200, factor=1))
    assert 0 < schedule.delay_at(READY, 1, 1, 0.5, is_first=True) < math.inf


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ends": None}, "ends is missing"),
        ({"events": [1]}, "AdaptiveSchedule: events must be 68 numbers, not 1"),
        ({"at_risk": [1] * 69}, "AdaptiveSchedule: at_risk must be 68 numbers, not 69"),
        ({"final_ends": -1}, "AdaptiveSchedule: what was learned must be at least 0"),
    ],
)
def test_no_curve(changed: dict[str, Any], words: str) -> None:
    """A save with a broken curve is refused, and the message says what is wrong with it."""
    saved = json.loads(AdaptiveSchedule(typical={READY: 1}).to_json())
    saved["curves"][0] = {name: value for name, value in (saved["curves"][0] | changed).items() if value is not None}
    with pytest.raises(UsageError, match=f"gave: {words}"):
        AdaptiveSchedule.from_json(json.dumps(saved))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"poll_cost": 0}, "poll_cost"),
        ({"progress_weight": 0}, "progress_weight"),
        ({"progress_weight": 1.1}, "progress_weight"),
        ({"shortest": -1}, "shortest"),
        ({"memory": 1}, "memory"),
        ({"jitter": 1}, "jitter"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": True}, "jitter"),
        ({"fallback": 5}, "fallback"),
        ({"typical": {"READY": 0}}, "typical"),
        ({"typical": {5: 5}}, "typical"),
        ({"typical": [("READY", 5)]}, "typical"),
        ({"poll_cost": "cheap"}, "poll_cost"),
    ],
)
def test_settings_that_cannot_be_right(settings: dict[str, Any], words: str) -> None:
    """A setting that cannot be right is refused by name."""
    with pytest.raises(UsageError, match=words):
        AdaptiveSchedule(**settings)


def test_another_clock() -> None:
    """A schedule that is used in another loop, whose clock is behind, goes on."""
    schedule = AdaptiveSchedule()
    learn(schedule, 0, 5, 1e9, ended=False)
    for number in range(10):
        learn(schedule, 0, 5, 10.0 + number, ended=True)
    assert 0 < schedule.delay_at(PRINTING, 3, 20.0, 0.5, is_first=False) < 121
