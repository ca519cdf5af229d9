"""`AdaptiveSchedule` learns how long each status lasts, and spends a budget of polls where they find most. Pure.

The model:

**The optimum.** For a card that has been in its status for `t` seconds, let the hazard `h(t)` be the probability per
second that the status ends now, `f` the density of the dwell time, and `S` the probability that it is longer. Polls
with the density `n(t)` per second see a change `1 / (2 n)` seconds late on average, so the mean delay is `∫ f/(2n) dt`,
and the number of polls is `∫ S n dt`. For a given number of polls, the delay is least with `n` proportional to
`√(f/S) = √h` (Barlow, Hunter & Proschan, "Optimum checking procedures", 1963; Keller, "Optimum checking schedules for
systems subject to random failure", 1974). So polls are set such that the integral of `√(v h)` between two of them, the
spacing θ, is the same for all cards at any age. The weight `v` is 1 for changes to a final status and
`progress_weight` for others; for a status it is their mean, by how often each was seen.

**The spacing.** The cards together use up `∫ √(v h)` at a rate A, which is measured: each poll adds what its card used
up since the poll before it, and the sum decays over `_FORGET` seconds. Polls are due at the rate A/θ, so
θ = A / budget uses the whole budget. But a poll must save at least `poll_cost` seconds of delay: with the spacing θ,
the next poll saves `θ²/2`, so θ is never below `√(2 poll_cost)`, and few cards are not polled needlessly often.

**The hazard.** Ages are divided into bins, each 19 % longer than the one before. A bin's hazard is the mean of a Gamma
distribution: (events + prior events) / (seconds at risk + prior seconds). A change is only known to be between two
polls, so its event is spread over that interval, in proportion to the hazard so far (one step of Turnbull's
self-consistent estimate for interval-censored data), and counts as at risk until then. A card that is still in its
status counts as at risk at each poll (right-censored), from the age at which it was first seen in it (left-truncated).
Ages count from the middle of the interval in which the status began. The status a wait begins with began unobserved:
its age counts from the wait's beginning, and it has a curve of its own. Neighbouring bins are averaged, 1:2:1.

**Forgetting.** Each ended stay multiplies the weight of all before it in its status by `1 - 1/memory`, so a change of a
kiosk's behaviour is learned within so many cards, and time without cards forgets nothing.

**Nothing learned yet.** The prior hazard is the one for which `fallback` is optimal, with the weight of one card. So an
unknown status is polled as `fallback` does, scaled to the budget, until cards have been observed.

**Never worse than `Backoff`.** A card has two times, and not one. With the last poll at time p, after u polls that
showed nothing new,

    should = p + the learned gap, as above
    may    = min(should, p + min(fallback.delay(u), `IDLE_GAP`))

A card may be polled from `may` on, and of those that may be, the one with the earliest `should` is next; cards that
were never polled go before those whose `should` is still to come, and alternate with the others. So what was learned
can bring a poll forward, and can put one off only while every request that the limit allows is sent: no request is left
unused while a card is past its `may`, which is never later than `fallback`'s next poll. With an idle budget the poll
number k in a status is therefore no later than `fallback`'s number k, whatever was learned, and however wrong it is.

Where more polls may be made than the budget has, the order decides, and a card can be overtaken. `should` is at most
`longest` after the last poll, or, if that is longer, `1 + 0.55 n / (n + 25)` times what one poll of each waiting card
takes; n is the weight of the cards that the status was learned from, at most `memory`. So a card that nothing is
expected of does not wait much longer for its poll than it would if all were polled in turn, and what was learned from
few cards, which may be wrong, moves it less. That the ends of a fleet are then seen as early as by `fallback` is only
measured, not proved.

A card that has not changed for an hour is polled no more often than every ten seconds, and so on in proportion
(`_UNCHANGED`), but never less often than `fallback` would.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import attrs

from cardprod.card import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self
from cardprod._polling.backoff import Backoff
from cardprod._protocol.codec import from_json, to_json
from cardprod._protocol.validation import check_number, check_type

__all__ = ["IDLE_GAP", "AdaptiveSchedule"]

_EDGES: Final = (0.0, *(2 ** (step / 4) for step in range(67)))
"""Where the bins of age begin, in seconds: 0, 1, 1.19, 1.41 … to 25 hours; the last bin has no end."""
_LAST: Final = len(_EDGES) - 1
_WIDTHS: Final = (*(after - edge for edge, after in pairwise(_EDGES)), _EDGES[-1])
_FORGET: Final = 30.0
"""Time constant, in seconds, of the measured use of polls: longer than most gaps between polls, shorter than a peak."""
_REFRESH: Final = 1.0
"""Seconds for which a computed curve is used before it is computed again from what was learned."""
_SETTLED: Final = 2.0
"""Seconds of measuring before the measured rate is used."""
IDLE_GAP: Final = 6.3
"""Seconds until a card may be polled again at most, while requests are left over: its change is then seen 3 s late on
average, with a hundred polls in ten minutes."""
_UNCHANGED: Final = 1 / 360
"""The share of its time in a status for which a card is not polled again."""
_OVERTAKEN: Final = 0.55
"""How much longer than its turn a card may wait at most: a share of the time that one poll of each card takes."""
_DOUBT: Final = 25.0
"""With so many cards learned from, half of `_OVERTAKEN` is allowed, with more more: what few show may be wrong."""
_MARGIN: Final = 10.0
"""Seconds added to a poll of each card: those that have changed lately are polled several times meanwhile."""
_LEAST_DELAY: Final = 1e-6
"""Seconds. A lower bound of fallback's delays, so that a density can be squared."""
_POLL_COST: Final = 0.002
_PRIOR_CARDS: Final = 1.0
_SEED_CARDS: Final = 5.0
_SEED_SIGMA: Final = 0.5
_MOST_CURVES: Final = 64
"""A bound of the memory, because a server may send any number of unknown statuses."""
_OTHERS: Final = "…"
_SAVED_VERSION: Final = 1
_MOST: Final = 1e15
"""The highest valid number in a saved curve; real ones are far lower."""


class _Curve:
    """How long one status lasts, as far as it was learned, and the density of polls that follows from it."""

    __slots__ = ("_computed_at", "_ended", "at_risk", "density", "ends", "events", "final_ends", "mass")

    def __init__(self) -> None:
        self.events = [0.0] * len(_EDGES)
        self.at_risk = [0.0] * len(_EDGES)
        self.ends = 0.0
        """The weight of stays that ended, and of those, the ones that ended in a final status."""
        self.final_ends = 0.0
        self.density: Sequence[float] = ()
        """√(v h) in each bin."""
        self.mass: Sequence[float] = ()
        """The integral of the density from age 0 to the beginning of each bin."""
        self._ended = 0
        self._computed_at = -math.inf

    def compute(self, now: float, prior: Sequence[float], progress_weight: float, memory: float) -> None:
        """Compute density and mass, unless that was done less than `_REFRESH` seconds ago."""
        if 0 <= now - self._computed_at < _REFRESH:
            return
        self._computed_at = now
        self._forget(memory)
        final_share = (self.final_ends + 0.5) / (self.ends + 1)
        worth = final_share + (1 - final_share) * progress_weight
        events, at_risk = _averaged(self.events), _averaged(self.at_risk)
        density: list[float] = []
        mass = [0.0]
        for bin_, width in enumerate(_WIDTHS):
            prior_seconds = _PRIOR_CARDS * width
            hazard = (prior[bin_] * prior_seconds + events[bin_]) / (prior_seconds + at_risk[bin_])
            density.append(math.sqrt(worth * hazard))
            mass.append(mass[-1] + density[-1] * width)
        self.density, self.mass = density, mass[:-1]

    def mass_at(self, age: float) -> float:
        """Return the integral of the density from 0 to an age."""
        bin_ = bisect_right(_EDGES, age) - 1
        return self.mass[bin_] + self.density[bin_] * (age - _EDGES[bin_])

    def age_at(self, mass: float) -> float:
        """Return the age at which the integral of the density reaches a value."""
        bin_ = bisect_right(self.mass, mass) - 1
        return _EDGES[bin_] + (mass - self.mass[bin_]) / self.density[bin_]

    def add_stay(self, begin: float, end: float) -> None:
        """Record that a card stayed in this status from one age to another."""
        for bin_, seconds in _bins(begin, end):
            self.at_risk[bin_] += seconds

    def add_end(self, begin: float, end: float, *, is_final: bool) -> None:
        """Record that a card's stay ended at an unknown time between two ages."""
        shares = [(bin_, seconds, self.density[bin_] ** 2 * seconds) for bin_, seconds in _bins(begin, end)]
        total = sum(share for _, _, share in shares)
        still_there = 1.0
        for bin_, seconds, share in shares:
            left = share / total if total > 0 else 1 / len(shares)
            self.events[bin_] += left
            self.at_risk[bin_] += (still_there - left / 2) * seconds
            still_there -= left
        self.ends += 1
        self.final_ends += is_final
        self._ended += 1

    def seed(self, seconds: float) -> None:
        """Learn from some made-up cards, whose stays are distributed lognormally around so many seconds."""
        below = 0.0
        for bin_, width in enumerate(_WIDTHS):
            until = 1.0 if bin_ == _LAST else _lognormal(_EDGES[bin_ + 1], seconds)
            self.events[bin_] += _SEED_CARDS * (until - below)
            self.at_risk[bin_] += _SEED_CARDS * (1 - (below + until) / 2) * width
            below = until
        self._computed_at = -math.inf

    def save(self, status: str, *, is_first: bool) -> _SavedCurve:
        """Return what was learned."""
        return _SavedCurve(
            status=status,
            is_first=is_first,
            ends=self.ends,
            final_ends=self.final_ends,
            events=tuple(round(value, 6) for value in self.events),
            at_risk=tuple(round(value, 3) for value in self.at_risk),
        )

    def load(self, saved: _SavedCurve) -> None:
        """Restore what `save` returned."""
        self.events, self.at_risk = [*saved.events], [*saved.at_risk]
        self.ends, self.final_ends = saved.ends, saved.final_ends

    def _forget(self, memory: float) -> None:
        if self._ended:
            keep = (1 - 1 / memory) ** self._ended
            self._ended = 0
            self.events = [value * keep for value in self.events]
            self.at_risk = [value * keep for value in self.at_risk]
            self.ends *= keep
            self.final_ends *= keep


def _bins(begin: float, end: float) -> list[tuple[int, float]]:
    """Divide an interval of ages into bins, with the seconds in each."""
    bin_ = bisect_right(_EDGES, begin) - 1
    parts: list[tuple[int, float]] = []
    while bin_ < _LAST and end > _EDGES[bin_ + 1]:
        parts.append((bin_, _EDGES[bin_ + 1] - begin))
        bin_ += 1
        begin = _EDGES[bin_]
    parts.append((bin_, end - begin))
    return parts


def _averaged(values: Sequence[float]) -> list[float]:
    """Average each value with its neighbours, 1:2:1."""
    before = [values[0], *values[:-1]]
    after = [*values[1:], values[-1]]
    return [(left + 2 * value + right) / 4 for left, value, right in zip(before, values, after, strict=True)]


def _lognormal(value: float, median: float) -> float:
    return 0.5 * math.erfc(-math.log(value / median) / (_SEED_SIGMA * math.sqrt(2)))


@attrs.frozen(kw_only=True)
class _SavedCurve:
    """What was learned of one status, as it is saved."""

    status: str
    is_first: bool
    ends: float
    final_ends: float
    events: tuple[float, ...]
    at_risk: tuple[float, ...]

    def __attrs_post_init__(self) -> None:
        for name, values in (("events", self.events), ("at_risk", self.at_risk)):
            if len(values) != len(_EDGES):
                raise UsageError(f"AdaptiveSchedule: {name} must be {len(_EDGES)} numbers, not {len(values)}")
        for value in (self.ends, self.final_ends, *self.events, *self.at_risk):
            check_number("AdaptiveSchedule: what was learned", value, least=0, most=_MOST)


@attrs.frozen(kw_only=True)
class _Saved:
    """A schedule, as it is saved. `AdaptiveSchedule` checks the numbers."""

    poll_cost: float
    progress_weight: float
    shortest: float
    longest: float
    memory: float
    jitter: float
    fallback: Backoff
    curves: tuple[_SavedCurve, ...]


_DEFAULT_FALLBACK: Final = Backoff()


class AdaptiveSchedule:
    """Learns how long each status lasts, and polls most often where a change is likeliest, within the rate limit.

    ```python
    learned = AdaptiveSchedule()                         # knows nothing yet, and learns
    AdaptiveSchedule(typical={Status.IN_PROGRESS: 240})  # printing takes about four minutes here
    AdaptiveSchedule(poll_cost=0.5)                      # a third fewer polls, a little later
    AdaptiveSchedule.from_json(learned.to_json())        # what another process learned
    ```

    Share one among all cards of a batch, and all waits on kiosks that behave alike: together their polls fit the
    client's rate limit. `cardprod._polling.adaptive` describes the model.

    Args:
        typical: Initial estimates: statuses, and how many seconds each typically lasts; with the weight of five cards.
        poll_cost: Seconds of delay that a poll must be expected to save, above 0. With a higher value there are fewer
            polls than the rate limit allows, also fewer than `fallback`'s; with the default there are never fewer.
        progress_weight: The weight of a delay in seeing a change that is not final, relative to a final one: above 0,
            at most 1. With 1, READY -> IN_PROGRESS is as urgent as the end, and the end is seen later.
        shortest: The shortest delay by what was learned, in seconds.
        longest: The longest delay, in seconds; with so many cards that half more than one poll of each takes longer,
            that.
        memory: After how many cards the weight of the first has decayed; at least 2.
        jitter: The share of a spacing that is random, from 0 up to, not including, 1.
        fallback: How to poll at a status of which nothing was learned, and how late a poll may be at most while the
            rate limit leaves requests over.

    Raises:
        UsageError: A number is out of range.
    """

    def __init__(  # noqa: PLR0913 - one for each thing a user may set
        self,
        *,
        typical: Mapping[str, float] | None = None,
        poll_cost: float = _POLL_COST,
        progress_weight: float = 0.02,
        shortest: float = 1.0,
        longest: float = 30.0,
        memory: float = 200.0,
        jitter: float = 0.1,
        fallback: Backoff = _DEFAULT_FALLBACK,
    ) -> None:
        self._settings = {
            "poll_cost": poll_cost,
            "progress_weight": progress_weight,
            "shortest": shortest,
            "longest": longest,
            "memory": memory,
            "jitter": jitter,
        }
        check_number("AdaptiveSchedule: poll_cost", poll_cost, above=0)
        check_number("AdaptiveSchedule: progress_weight", progress_weight, above=0, most=1)
        check_number("AdaptiveSchedule: shortest", shortest, above=0)
        check_number("AdaptiveSchedule: longest", longest, least=shortest)
        check_number("AdaptiveSchedule: memory", memory, least=2)
        check_number("AdaptiveSchedule: jitter", jitter, least=0, below=1)
        check_type("AdaptiveSchedule: fallback", fallback, Backoff)
        self._fallback = fallback
        self._progress_weight = progress_weight
        self._shortest = shortest
        self._longest = longest
        self._memory = memory
        self._jitter = jitter
        self._prior = tuple(
            _density(fallback, edge + width / 2) ** 2 for edge, width in zip(_EDGES, _WIDTHS, strict=True)
        )
        self._least_spacing = math.sqrt(2 * poll_cost)
        self._patience = max(1.0, math.sqrt(poll_cost / _POLL_COST))  # by which what is saved with it makes gaps longer
        # With this and nothing learned, where half of the ends are assumed to be final, the delays are fallback's.
        self._spacing = math.sqrt((1 + progress_weight) / 2)
        self._used = self._waited = 0.0  # mass, and the seconds between polls; both decay alike
        self._round = 0.0  # seconds that one poll of each waiting card takes
        self._measured_from: float | None = None
        self._measured_at = 0.0
        self._curves: dict[tuple[str, bool], _Curve] = {}
        check_type("AdaptiveSchedule: typical", typical, Mapping, "a dict of seconds by status", or_none=True)
        for status, seconds in ({} if typical is None else dict(typical)).items():
            check_type("AdaptiveSchedule: a status of typical", status, str)
            check_number(f"AdaptiveSchedule: typical of {status}", seconds, above=0)
            for is_first in (False, True):
                self._curve(status, is_first=is_first).seed(seconds)

    def delay(self, unchanged: int, random: float) -> float:
        """Return how many seconds to sleep before the next poll of a card that was never seen: `fallback`'s delay.

        Args:
            unchanged: Polls since the last transition, failed ones included.
            random: A random number from 0 up to, not including, 1, for the jitter.
        """
        return self._fallback.delay(unchanged, random)

    def gaps_at(  # noqa: PLR0913 - what is known of a card
        self, status: str, age: float, now: float, random: float, *, is_first: bool, unchanged: int, least_gap: float
    ) -> tuple[float, float]:
        """Return after how many seconds a card may be polled again, and after how many it should be.

        Args:
            status: The status it was last seen in.
            age: Seconds since that began.
            now: The time, on any clock in seconds.
            random: A random number from 0 up to, not including, 1, for the jitter.
            is_first: Whether it is the status the wait began with, whose beginning was not observed.
            unchanged: Polls since the last transition.
            least_gap: Seconds for which it is not polled again, unless `fallback` would: a limit for cards that are
                waited for one by one, which a budget that is left over does not give.
        """
        shorter = 1 - self._jitter * random
        backoff = self._fallback.delay(unchanged, random)
        should = self.delay_at(status, age, now, random, is_first=is_first)
        may = min(should, self._patience * min(backoff, max(IDLE_GAP, self._fallback.first) * shorter))
        least = min(backoff, max(age * _UNCHANGED, least_gap * shorter))
        return max(may, least), max(should, least)

    def delay_at(self, status: str, age: float, now: float, random: float, *, is_first: bool) -> float:
        """Return after how many seconds a card should be polled again, by what was learned.

        Args:
            status: The status it was last seen in.
            age: Seconds since that began.
            now: The time, on any clock in seconds.
            random: A random number from 0 up to, not including, 1, for the jitter.
            is_first: Whether it is the status the wait began with, whose beginning was not observed.
        """
        curve = self._computed(status, now, is_first=is_first)
        spacing = self._spacing * (1 + self._jitter * (random - 0.5))
        delay = curve.age_at(curve.mass_at(age) + spacing) - age
        longest = self._longest
        if self._round:
            overtaken = 1 + _OVERTAKEN * curve.ends / (curve.ends + _DOUBT)
            longest = max(longest, overtaken * (self._round + _MARGIN))
        return min(max(delay, self._shortest), longest)

    def learn(  # noqa: PLR0913 - one poll's worth
        self,
        status: str,
        before: float,
        age: float,
        now: float,
        *,
        is_first: bool,
        ended: bool,
        is_final: bool,
        requests_per_second: float,
    ) -> None:
        """Learn from an answered poll of a card that was seen before.

        Args:
            status: The status it was in at the previous poll.
            before: Its age in that status at the previous poll, in seconds.
            age: Its age in that status now, in seconds, as if it had not left it.
            now: The time, in seconds, on the clock of `delay_at`.
            is_first: Whether it is the status the wait began with.
            ended: Whether it has left that status.
            is_final: Whether it has left it for a final one.
            requests_per_second: The budget of polls for all cards on this schedule.
        """
        age = max(age, before)
        curve = self._computed(status, now, is_first=is_first)
        self._measure(curve.mass_at(age) - curve.mass_at(before), age - before, now, requests_per_second)
        if ended:
            curve.add_end(before, age, is_final=is_final)
        else:
            curve.add_stay(before, age)

    def to_json(self) -> str:
        """Return the settings and what was learned, as JSON. It contains no card."""
        curves = tuple(curve.save(status, is_first=is_first) for (status, is_first), curve in self._curves.items())
        saved = _Saved(fallback=self._fallback, curves=curves, **self._settings)
        return to_json(saved, version=_SAVED_VERSION)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Create a schedule from what another has saved.

        Args:
            text: What `to_json` returned.

        Raises:
            UsageError: It is something else; the message says what is wrong with it.
        """
        saved = from_json(_Saved, text, version=_SAVED_VERSION, writer="AdaptiveSchedule.to_json")
        schedule = cls(
            poll_cost=saved.poll_cost,
            progress_weight=saved.progress_weight,
            shortest=saved.shortest,
            longest=saved.longest,
            memory=saved.memory,
            jitter=saved.jitter,
            fallback=saved.fallback,
        )
        for curve in saved.curves:
            schedule._curve(curve.status, is_first=curve.is_first).load(curve)
        return schedule

    def __repr__(self) -> str:
        learned = ", ".join(f"{status}: {curve.ends:.0f}" for (status, _), curve in self._curves.items() if curve.ends)
        return f"<AdaptiveSchedule that has learned from {learned or 'nothing yet'}>"

    def _curve(self, status: str, *, is_first: bool) -> _Curve:
        key = str(status), is_first
        curve = self._curves.get(key)
        if curve is None:
            if len(self._curves) >= _MOST_CURVES:
                key = _OTHERS, is_first
            curve = self._curves.setdefault(key, _Curve())
        return curve

    def _computed(self, status: str, now: float, *, is_first: bool) -> _Curve:
        curve = self._curve(status, is_first=is_first)
        curve.compute(now, self._prior, self._progress_weight, self._memory)
        return curve

    def _measure(self, mass: float, waited: float, now: float, requests_per_second: float) -> None:
        """Measure the rate A at which the cards use up mass, and set the spacing that uses the budget."""
        if self._measured_from is None or now < self._measured_at:  # the first poll, or another loop's clock
            self._measured_from = now
            self._used = self._waited = 0.0
        else:
            keep = math.exp((self._measured_at - now) / _FORGET)
            self._used *= keep
            self._waited *= keep
        self._measured_at = now
        self._used += mass
        self._waited += waited
        if now - self._measured_from > _SETTLED:
            seconds = _FORGET * (1 - math.exp((self._measured_from - now) / _FORGET))
            self._round = self._waited / seconds / requests_per_second
            self._spacing = max(self._least_spacing, self._used / seconds / requests_per_second)


def _density(backoff: Backoff, age: float) -> float:
    """Return a backoff's polls per second at an age: its delays grow by `factor - 1` of the age."""
    return 1 / max(min(backoff.first + (backoff.factor - 1) * age, backoff.ceiling), _LEAST_DELAY)
