"""`DwellTime`: how long cards stay in one status, learned from polls, and how dense its polls should be. Pure.

**The hazard.** Ages are divided into bins, each 19 % longer than the one before. A bin's hazard, the probability per
second that the status ends at that age, is the mean of a Gamma distribution: (events + prior events) / (seconds at
risk + prior seconds). A change is only known to be between two polls, so its event is spread over that interval, in
proportion to the hazard so far (one step of Turnbull's self-consistent estimate for interval-censored data), and counts
as at risk until then. A card that is still in its status counts as at risk at each poll (right-censored), from the age
at which it was first seen in it (left-truncated). Neighbouring bins are averaged, 1:2:1.

**The density** of polls is the root of the hazard, weighted by what a change is worth: `adaptive` says why.

**Forgetting.** Each ended stay multiplies the weight of all before it by `1 - 1/memory`, so a change of a kiosk's
behaviour is learned within so many cards, and time without cards forgets nothing.

**Nothing learned yet.** The prior hazard is the one for which `Backoff` is optimal, with the weight of one card. So an
unknown status is polled as `Backoff` does, scaled to the budget, until cards have been observed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate, pairwise
from operator import add, mul
from typing import TYPE_CHECKING, Final

import attrs

from cardprod._protocol.validation import check_number
from cardprod.card import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardprod._polling.backoff import Backoff

_EDGES: Final = (0.0, *(2 ** (step / 4) for step in range(67)))
"""Where the bins of age begin, in seconds: 0, 1, 1.19, 1.41 … to 25 hours; the last bin has no end."""
_ENDS: Final = (*_EDGES[1:], math.inf)
_LAST: Final = len(_EDGES) - 1
_WIDTHS: Final = (*(after - edge for edge, after in pairwise(_EDGES)), _EDGES[-1])
REFRESH: Final = 1.0
"""Seconds for which a computed density is used before it is computed again from what was learned."""
_LEAST_DELAY: Final = 1e-6
"""Seconds. A lower bound of a backoff's delays, so that a density can be squared."""
_SEED_CARDS: Final = 5.0
_SEED_SIGMA: Final = 0.5
_MOST: Final = 1e15
"""The highest valid number in what was saved; real ones are far lower."""


def prior_ends(backoff: Backoff) -> tuple[float, ...]:
    """Return how often one card, at risk in the whole of each bin, ends there, if a backoff is optimal.

    The hazard is then the square of its polls per second. Its delays grow by `factor - 1` of the age.
    """
    ages = (edge + width / 2 for edge, width in zip(_EDGES, _WIDTHS, strict=True))
    delays = (min(backoff.first + (backoff.factor - 1) * age, backoff.ceiling) for age in ages)
    return tuple(width / max(delay, _LEAST_DELAY) ** 2 for delay, width in zip(delays, _WIDTHS, strict=True))


class DwellTime:
    """How long cards stay in one status, as far as it was learned, and the density of polls that follows from it."""

    __slots__ = ("_ended", "at_risk", "computed_at", "density", "ends", "events", "final_ends", "mass")

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
        self.computed_at = -math.inf
        """When density and mass were computed; `REFRESH` seconds later they are out of date."""
        self._ended = 0

    def compute(self, now: float, prior: Sequence[float], progress_weight: float, memory: float) -> None:
        """Compute density and mass from what was learned."""
        self.computed_at = now
        self._forget(memory)
        final_share = (self.final_ends + 0.5) / (self.ends + 1)
        worth = final_share + (1 - final_share) * progress_weight
        events, at_risk = _averaged(self.events), _averaged(self.at_risk)
        bins = zip(map(add, prior, events), map(add, _WIDTHS, at_risk), strict=True)
        self.density = [math.sqrt(worth * ends / seconds) for ends, seconds in bins]
        self.mass = [0.0, *accumulate(map(mul, self.density[:-1], _WIDTHS))]

    def gap_at(self, age: float, spacing: float) -> float:
        """Return how many seconds after an age the mass is higher by so much than at that age."""
        bin_ = bisect_right(_EDGES, age) - 1
        gap = spacing / self.density[bin_]
        if age + gap > _ENDS[bin_]:
            mass = self.mass[bin_] + self.density[bin_] * (age - _EDGES[bin_]) + spacing
            bin_ = bisect_right(self.mass, mass) - 1
            gap = _EDGES[bin_] + (mass - self.mass[bin_]) / self.density[bin_] - age
        return gap

    def add_stay(self, begin: float, end: float) -> float:
        """Record that a card stayed in this status from one age to another. Return the mass between the two."""
        at_risk, density = self.at_risk, self.density
        bin_ = bisect_right(_EDGES, begin) - 1
        mass = 0.0
        while end > _ENDS[bin_]:
            at_risk[bin_] += _ENDS[bin_] - begin
            mass += density[bin_] * (_ENDS[bin_] - begin)
            begin = _ENDS[bin_]
            bin_ += 1
        at_risk[bin_] += end - begin
        return mass + density[bin_] * (end - begin)

    def add_end(self, begin: float, end: float, *, is_final: bool) -> float:
        """Record that a card's stay ended at an unknown time between two ages. Return the mass between the two."""
        shares = [(bin_, seconds, self.density[bin_] ** 2 * seconds) for bin_, seconds in _bins(begin, end)]
        total = sum(share for _, _, share in shares)
        still_there, mass = 1.0, 0.0
        for bin_, seconds, share in shares:
            left = share / total if total > 0 else 1.0  # an interval of 0 seconds is in one bin
            self.events[bin_] += left
            self.at_risk[bin_] += (still_there - left / 2) * seconds
            still_there -= left
            mass += self.density[bin_] * seconds
        self.ends += 1
        self.final_ends += is_final
        self._ended += 1
        return mass

    def seed(self, seconds: float) -> None:
        """Learn from some made-up cards, whose stays are distributed lognormally around so many seconds."""
        below = 0.0
        for bin_, width in enumerate(_WIDTHS):
            until = 1.0 if bin_ == _LAST else _lognormal(_EDGES[bin_ + 1], seconds)
            self.events[bin_] += _SEED_CARDS * (until - below)
            self.at_risk[bin_] += _SEED_CARDS * (1 - (below + until) / 2) * width
            below = until
        self.computed_at = -math.inf

    def save(self, status: str, *, is_first: bool) -> SavedDwellTime:
        """Return what was learned."""
        return SavedDwellTime(
            status=status,
            is_first=is_first,
            ends=self.ends,
            final_ends=self.final_ends,
            events=tuple(round(value, 6) for value in self.events),
            at_risk=tuple(round(value, 3) for value in self.at_risk),
        )

    def load(self, saved: SavedDwellTime) -> None:
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
    while end > _ENDS[bin_]:
        parts.append((bin_, _ENDS[bin_] - begin))
        begin = _ENDS[bin_]
        bin_ += 1
    parts.append((bin_, end - begin))
    return parts


def _averaged(values: Sequence[float]) -> list[float]:
    """Average each value with its neighbours, 1:2:1."""
    pairs = [*map(add, values, values[1:])]
    return [four / 4 for four in map(add, [2 * values[0], *pairs], [*pairs, 2 * values[-1]])]


def _lognormal(value: float, median: float) -> float:
    return 0.5 * math.erfc(-math.log(value / median) / (_SEED_SIGMA * math.sqrt(2)))


@attrs.frozen(kw_only=True)
class SavedDwellTime:
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
