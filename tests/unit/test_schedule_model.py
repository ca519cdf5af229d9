"""The model of `AdaptiveSchedule`, checked by numbers: what it saves against a plain reading of its description."""

from __future__ import annotations

import json
import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import pytest

from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff
from cardprod.errors import UsageError
from cardprod.models import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

EDGES = [0.0, *(2 ** (step / 4) for step in range(67)), math.inf]
"""Bins of age: the first second, then each 19 % longer, the last without an end."""
BINS = range(68)
WIDTHS = [*(EDGES[bin_ + 1] - EDGES[bin_] for bin_ in BINS[:-1]), EDGES[67]]
"""Of the last bin, which has no end, as much as it is away from 0."""
PRINTING = Status.IN_PROGRESS
FRESH_SPACING = math.sqrt((1 + 0.02) / 2)
NO_BOUNDS: Mapping[str, Any] = {"shortest": 1e-9}


def overlap(bin_: int, begin: float, end: float) -> float:
    """Compute how many seconds of an interval are in a bin."""
    return max(0.0, min(end, EDGES[bin_ + 1]) - max(begin, EDGES[bin_]))


def curves(schedule: AdaptiveSchedule) -> dict[tuple[str, bool], Any]:
    """Return what was learned, by status and whether a wait began with it."""
    return {(one["status"], one["is_first"]): one for one in json.loads(schedule.to_json())["curves"]}


class Model:
    """What is known of printing, and what follows: every formula of the description, as it stands there."""

    def __init__(self, schedule: AdaptiveSchedule) -> None:
        saved = json.loads(schedule.to_json())
        nothing = {"events": [0.0] * 68, "at_risk": [0.0] * 68, "ends": 0.0, "final_ends": 0.0}
        known = curves(schedule).get((PRINTING, False), nothing)
        self.events, self.at_risk = known["events"], known["at_risk"]
        share = (known["final_ends"] + 0.5) / (known["ends"] + 1)
        self.worth = share + (1 - share) * saved["progress_weight"]
        self.fallback = Backoff(**saved["fallback"])

    def prior(self, bin_: int) -> float:
        """The hazard for which the fallback would be best: its density of polls, squared."""
        age = EDGES[bin_] + WIDTHS[bin_] / 2
        delay = self.fallback.first + (self.fallback.factor - 1) * age
        return 1 / min(delay, self.fallback.ceiling) ** 2

    def hazard(self, bin_: int) -> float:
        """The mean of a Gamma distribution, with the prior worth one card."""
        seconds = WIDTHS[bin_]
        return (self.prior(bin_) * seconds + averaged(self.events, bin_)) / (seconds + averaged(self.at_risk, bin_))

    def used(self, begin: float, end: float) -> float:
        """The integral of √(v h) between two ages."""
        return sum(math.sqrt(self.worth * self.hazard(bin_)) * overlap(bin_, begin, end) for bin_ in BINS)


def averaged(values: list[float], bin_: int) -> float:
    """Average a bin with its neighbours, 1:2:1, where the first and the last are their own."""
    return (values[max(bin_ - 1, 0)] + 2 * values[bin_] + values[min(bin_ + 1, 67)]) / 4


def learn(
    schedule: AdaptiveSchedule,
    begin: float,
    end: float,
    now: float,
    *,
    ended: bool = False,
    is_final: bool = False,
    unchanged: int = 100,
    rate: float = 10,
) -> None:
    schedule.learn(
        PRINTING,
        begin,
        end,
        now,
        is_first=False,
        ended=ended,
        is_final=is_final,
        unchanged=unchanged,
        requests_per_second=rate,
    )


def delay(schedule: AdaptiveSchedule, age: float, now: float, random: float = 0.5) -> float:
    return schedule.delay_at(PRINTING, age, now, random, is_first=False)


def experienced(**settings: Any) -> AdaptiveSchedule:
    """Make a schedule that has seen a few cards, of which one printed to the end."""
    schedule = AdaptiveSchedule(**NO_BOUNDS, **settings)
    learn(schedule, 9e4, 2e5, 0.0)
    for number, (begin, end) in enumerate([(0, 3.0), (2.0, 40.0), (30.0, 34.0), (0.0, 90.0), (100.0, 2000.0)]):
        learn(schedule, begin, end, 0.1 * number, ended=number > 1, is_final=number == 3)
    return schedule


# --- What is learned ---


@pytest.mark.parametrize(
    ("begin", "end"), [(0, 0.5), (0, 1), (0.25, 10), (1, 1.5), (50, 70), (2**16.5, 2**17), (5, 5), (9, 3)]
)
def test_stay_is_at_risk(begin: float, end: float) -> None:
    """A card that is still there was at risk from one poll to the next, and not where clocks went backwards."""
    schedule = AdaptiveSchedule()
    learn(schedule, begin, end, 0)
    curve = curves(schedule)[PRINTING, False]
    assert curve["at_risk"] == pytest.approx([overlap(bin_, begin, end) for bin_ in BINS], abs=1e-3)
    assert (sum(curve["events"]), curve["ends"], curve["final_ends"]) == (0, 0, 0)


@pytest.mark.parametrize(("begin", "end"), [(0, 0.5), (0, 10), (0.25, 100), (50, 50), (60, 70), (2**16.5, 2**17)])
@pytest.mark.parametrize("is_final", [True, False])
def test_end_is_spread_over_the_interval(begin: float, end: float, *, is_final: bool) -> None:
    """An end between two polls is spread over the bins in proportion to the hazard, and at risk until then."""
    schedule = AdaptiveSchedule()
    model = Model(schedule)
    learn(schedule, begin, end, 0, ended=True, is_final=is_final)
    curve = curves(schedule)[PRINTING, False]
    weights = [model.prior(bin_) * overlap(bin_, begin, end) for bin_ in BINS]
    if begin == end:
        weights = [float(EDGES[bin_] <= begin < EDGES[bin_ + 1]) for bin_ in BINS]
    shares = [weight / sum(weights) for weight in weights]
    left_at = [sum(shares[:bin_]) + shares[bin_] / 2 for bin_ in BINS]
    assert curve["events"] == pytest.approx(shares, abs=1e-6)
    assert curve["at_risk"] == pytest.approx(
        [(1 - left_at[bin_]) * overlap(bin_, begin, end) for bin_ in BINS], abs=1e-3
    )
    assert (curve["ends"], curve["final_ends"]) == (1, int(is_final))


def test_each_end_lowers_the_weight_of_all_before() -> None:
    """After n ended stays the first one weighs (1 - 1/memory)^(n-1), whether they were seen one by one or at once."""
    one_by_one, at_once = AdaptiveSchedule(memory=10), AdaptiveSchedule(memory=10)
    for number in range(20):
        learn(one_by_one, 0, 0.5, 5.0 * number, ended=True, is_final=True)
        learn(at_once, 0, 0.5, 0.0, ended=True, is_final=True)
    weight = sum(0.9**age for age in range(20))
    first = {"events": weight, "at_risk": weight * 0.25}
    curve = curves(one_by_one)[PRINTING, False]
    assert (curve["ends"], curve["final_ends"]) == pytest.approx((weight, weight))
    assert {name: curve[name][0] for name in first} == pytest.approx(first, abs=1e-3)
    delay(at_once, 0, 5.0)
    delay(at_once, 0, 10.0)  # nothing ended meanwhile, so nothing is forgotten
    curve = curves(at_once)[PRINTING, False]
    assert (curve["ends"], curve["events"][0]) == pytest.approx((20 * 0.9**20, 20 * 0.9**20), abs=1e-6)


@pytest.mark.parametrize("is_first", [True, False])
def test_typical_is_worth_five_cards(*, is_first: bool) -> None:
    """What is typical counts as five cards, lognormal around it with a sigma of a half; no end is counted by it."""
    typical = curves(AdaptiveSchedule(typical={PRINTING: 240}))[PRINTING, is_first]
    log_normal = NormalDist(math.log(240), 0.5)
    left_by = [0.0, *(log_normal.cdf(math.log(edge)) for edge in EDGES[1:-1]), 1.0]
    assert typical["events"] == pytest.approx([5 * (left_by[bin_ + 1] - left_by[bin_]) for bin_ in BINS], abs=1e-6)
    there = [1 - (left_by[bin_] + left_by[bin_ + 1]) / 2 for bin_ in BINS]
    assert typical["at_risk"] == pytest.approx([5 * there[bin_] * WIDTHS[bin_] for bin_ in BINS], abs=1e-3)
    assert typical["ends"] == 0


def test_statuses_are_learned_apart() -> None:
    """Each status has a curve of its own, and another for waits that began with it; beyond 64 they share two."""
    schedule = AdaptiveSchedule()
    for number in range(70):
        for is_first in (True, False):
            schedule.delay_at(f"STATUS-{number}", 1, number, 0.5, is_first=is_first)
    known = [(f"STATUS-{number}", is_first) for number in range(32) for is_first in (True, False)]
    assert [*curves(schedule)] == [*known, ("…", True), ("…", False)]


def test_repr() -> None:
    """A schedule says from how many cards it has learned each status; what is typical is none."""
    schedule = AdaptiveSchedule(typical={Status.READY: 9})
    assert repr(schedule) == "<AdaptiveSchedule that has learned from nothing yet>"
    learn(schedule, 0, 1, 0, ended=True)
    assert repr(schedule) == "<AdaptiveSchedule that has learned from IN_PROGRESS: 1>"


# --- What follows ---


@pytest.mark.parametrize("age", [0.0, 0.3, 1.0, 1.1, 2.0, 33.0, 100.0, 5000.0, 2**16.5, 2e5])
@pytest.mark.parametrize("random", [0.0, 0.5, 0.9])
def test_delay_uses_up_one_spacing(age: float, random: float) -> None:
    """The integral of √(v h) between two polls is the spacing, which jitter changes by its share."""
    schedule = experienced(jitter=0.4, fallback=Backoff(first=2, factor=3, ceiling=50))
    longer = delay(schedule, age, 10.0, random)
    assert Model(schedule).used(age, age + longer) == pytest.approx(
        FRESH_SPACING * (1 + 0.4 * (random - 0.5)), rel=1e-3
    )


def test_what_is_not_final_matters_less() -> None:
    """A status whose ends are not final is polled in proportion to the root of `progress_weight`."""
    delays: list[float] = []
    for is_final in (True, False):
        schedule = AdaptiveSchedule(**NO_BOUNDS, progress_weight=0.25, memory=1e9)
        for _ in range(5000):
            learn(schedule, 10, 10.5, 0, ended=True, is_final=is_final)
        delays.append(delay(schedule, 10, 10))
    assert delays[1] == pytest.approx(2 * delays[0], rel=0.01)


def test_delay_is_bounded() -> None:
    """A delay is not shorter than `shortest`."""
    assert delay(AdaptiveSchedule(shortest=50), 0, 0) == 50.0


@pytest.mark.parametrize("unchanged", [0, 1, 20])
@pytest.mark.parametrize("age", [5.0, 1000.0, 1e5])
@pytest.mark.parametrize(("poll_cost", "patience"), [(0.001, 1.0), (0.002, 1.0), (0.008, 2.0)])
def test_may_and_should(unchanged: int, age: float, poll_cost: float, patience: float) -> None:
    """A card may be polled after 6.5 s or as `fallback` says, later with patience, never in 1/360 of its age."""
    for first, least_gap, random in ((2.0, 0.0, 0.75), (2.0, 0.0, 0.0), (2.0, 5.0, 0.5), (9.0, 0.0, 0.5)):
        fallback = Backoff(first=first, factor=2, ceiling=400, jitter=0.5)
        schedule = AdaptiveSchedule(**NO_BOUNDS, jitter=0.2, poll_cost=poll_cost, fallback=fallback)
        for _ in range(20):
            learn(schedule, 0.0, 1e4, 0.0)  # so that a poll is long in coming
        backoff, should = fallback.delay(unchanged, random), min(delay(schedule, age, 10.0, random), 1.3 * 400)
        idle = min(backoff, max(6.5, first) * (1 - 0.2 * random))
        least = min(backoff, max(age / 360, least_gap * (1 - 0.2 * random)))
        gaps = schedule.gaps_at(PRINTING, age, 10.0, random, is_first=False, unchanged=unchanged, least_gap=least_gap)
        assert gaps == pytest.approx((max(min(should, patience * idle), least), max(should, least)))


@pytest.mark.parametrize(("later", "is_in_it"), [(0.0, False), (0.75, False), (1.0, True), (-0.25, True)])
def test_curves_are_refreshed_each_second(later: float, *, is_in_it: bool) -> None:
    """What was learned is in the delays a second later, and at once where another loop's clock is behind."""
    schedule, now = AdaptiveSchedule(**NO_BOUNDS), 64.0
    before = delay(schedule, 10, now)
    for _ in range(10):
        learn(schedule, 10, 11, now, ended=True, is_final=True)
    assert (delay(schedule, 10, now + later) != before) is is_in_it


# --- The budget ---


@pytest.mark.parametrize(("rate", "memory"), [(4.0, 30.0), (0.001, 1e5)])
def test_spacing_is_what_the_fleet_uses_up(rate: float, memory: float) -> None:
    """The spacing is the measured use per second, of 30 s or a hundred polls, divided by the polls that are allowed."""
    schedule, used = AdaptiveSchedule.from_json(experienced().to_json()), 0.0  # which has measured nothing yet
    polls = [
        (100.0, 5.0, 9.0),
        (101.0, 0.0, 3.0),
        (102.0, 30.0, 50.0),
        (110.0, 7.0, 8.0),
        (110.0, 8.0, 9.0),
        (150.0, 1.0, 60.0),
    ]
    for number, (now, begin, end) in enumerate(polls):
        model = Model(schedule)
        learn(schedule, begin, end, now, rate=rate)
        since = now - (polls[number - 1][0] if number else 0.0)
        used = used * math.exp(-since / memory) + model.used(begin, end)
        if number and since < 0.02:  # polls of one moment are counted together, from the next one on
            continue
        measured = used / (memory * (1 - math.exp(-(now - 100) / memory))) / rate if now > 102 else FRESH_SPACING
        next_one = delay(schedule, 20, now)
        assert model.used(20, 20 + next_one) == pytest.approx(max(measured, math.sqrt(0.004)), rel=1e-2)


def test_spacing_is_worth_its_poll() -> None:
    """However many polls are allowed, the spacing is the root of twice what a poll costs."""
    schedule = experienced(poll_cost=0.125)
    for now in (100.0, 103.0):
        learn(schedule, 5, 9, now, rate=math.inf)
    model = Model(schedule)
    assert model.used(20, 20 + delay(schedule, 20, 110)) == pytest.approx(0.5, rel=1e-3)


def should(schedule: AdaptiveSchedule, age: float) -> float:
    """Return after how long a card should be polled again."""
    return schedule.gaps_at(PRINTING, age, 1e6, 0, is_first=False, unchanged=100, least_gap=0.0)[1]


@pytest.mark.parametrize(("unchanged", "delays"), [((100,), 30.0), ((0,), 1.0), ((0, 100), 15.5)])
@pytest.mark.parametrize("rate", [0.25, 10.0])
def test_put_off_hardly_longer_than_by_backoff(unchanged: tuple[int, ...], delays: float, rate: float) -> None:
    """With a short budget a card is put off 1.3 times as long as `fallback` would leave it, as late as it would be."""
    schedule = AdaptiveSchedule(fallback=Backoff(jitter=0))
    for number in range(1000):  # of a fleet of which one poll of each takes 60 s
        learn(schedule, 0, 60, number / rate, ended=True, unchanged=unchanged[number % len(unchanged)], rate=rate)
    longest = 30.0 if 100 in unchanged else 1.0
    assert should(schedule, 1000) == pytest.approx(1.3 * (longest + 60 - delays), rel=0.03)


def test_put_off_as_backoff_would_with_an_ample_budget() -> None:
    """With requests left over a card is put off 1.3 times the longest of `fallback`'s delays of late, at most."""
    schedule = AdaptiveSchedule(fallback=Backoff(jitter=0), typical={PRINTING: 1e6})
    assert should(schedule, 100) == 1.3
    for number, unchanged in enumerate((0, 2, 1)):
        learn(schedule, 0, 5, 0.5 * number, unchanged=unchanged)
    assert should(schedule, 100) == pytest.approx(1.3 * 1.6**2 * math.exp(-0.5 / 30))
    learn(schedule, 0, 5, 2.0)
    assert should(schedule, 100) == 1.3 * 30


def test_few_polls_are_measured_for_longer() -> None:
    """Where the budget allows few polls, a hundred of them are measured and not those of half a minute."""
    schedule = AdaptiveSchedule(fallback=Backoff(jitter=0))
    for number in range(1000):  # of forty cards, where the budget allows a poll in two seconds
        learn(schedule, 0, 80, 2.0 * number, ended=True, rate=0.5)
    for number in range(1000, 1015):  # for thirty seconds others, which were not polled for longer
        learn(schedule, 0, 140, 2.0 * number, ended=True, rate=0.5)
    assert should(schedule, 1000) == pytest.approx(1.3 * (80 + 60 * (1 - math.exp(-30 / 200))), rel=0.02)


def test_another_clock_is_measured_anew() -> None:
    """Where the clock is behind, as in another loop, measuring begins anew: what was measured is of no use."""
    used, fresh = AdaptiveSchedule(), AdaptiveSchedule()
    for now in (1000.0, 1010.0):
        used.learn(
            "READY",
            0,
            300,
            now,
            is_first=True,
            ended=False,
            is_final=False,
            unchanged=0,
            requests_per_second=1e-9,
        )
    for now in (5.0, 6.0, 15.0):
        for schedule in (used, fresh):
            learn(schedule, 0, 2, now, rate=0.1)
    assert delay(used, 50, 15.0) == delay(fresh, 50, 15.0)  # measured for long enough


# --- What is saved ---


def test_settings_at_their_bounds() -> None:
    """A setting at its bound is accepted, and one just beyond is refused with the bound."""
    AdaptiveSchedule(progress_weight=1, shortest=0.001, memory=2, jitter=0, poll_cost=0.001)
    for name in ("shortest", "poll_cost"):
        settings: dict[str, Any] = {name: 0}
        with pytest.raises(UsageError, match=f"{name} must be (above 0|at least)"):
            AdaptiveSchedule(**settings)


def test_default_settings() -> None:
    """The default settings are the documented ones."""
    saved = json.loads(AdaptiveSchedule().to_json())
    assert saved == {
        "version": 1,
        "poll_cost": 0.002,
        "progress_weight": 0.02,
        "shortest": 1.0,
        "memory": 200.0,
        "jitter": 0.2,
        "fallback": {"first": 1.0, "factor": 1.6, "ceiling": 30.0, "jitter": 0.1},
        "curves": [],
    }


@pytest.mark.parametrize(
    ("change", "is_right"),
    [
        ({"ends": 0}, True),
        ({"ends": 1e15}, True),
        ({"ends": 1e15 + 1}, False),
        ({"ends": -0.5}, False),
        ({"final_ends": -1}, False),
        ({"events": [0] * 68}, True),
        ({"events": [1] * 67}, False),
        ({"at_risk": [1] * 69}, False),
        ({"events": [*[0.0] * 67, -1.0]}, False),
        ({"at_risk": [*[0.0] * 67, "1"]}, False),
        ({"at_risk": [*[0.0] * 67, math.inf]}, False),
    ],
)
def test_saved_numbers(change: dict[str, Any], *, is_right: bool) -> None:
    """What is restored is as many finite numbers as there are bins, each 0 or more and no larger than life."""
    saved = json.loads(experienced().to_json())
    saved["curves"][0] |= change
    if is_right:
        restored = curves(AdaptiveSchedule.from_json(json.dumps(saved)))
        assert restored[PRINTING, False] == saved["curves"][0]
        return
    with pytest.raises(UsageError, match=r"AdaptiveSchedule\.to_json"):
        AdaptiveSchedule.from_json(json.dumps(saved))


def test_saved_whole() -> None:
    """Every setting and every curve is saved and restored."""
    schedule = experienced(
        poll_cost=0.5,
        progress_weight=0.5,
        memory=50.0,
        jitter=0.0,
        fallback=Backoff(first=2),
        typical={Status.READY: 9},
    )
    text = schedule.to_json()
    assert AdaptiveSchedule.from_json(text).to_json() == text
    assert {*curves(schedule)} == {(Status.READY, False), (Status.READY, True), (PRINTING, False)}
