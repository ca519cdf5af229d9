"""`AdaptiveSchedule` learns how long each status lasts, and spends a budget of polls where they find most. Pure.

What it learns is in `dwell_time`: of each status, the hazard of its end at each age. Ages count from the middle of the
interval between two polls in which the status began. The status a wait begins with began unobserved: its age counts
from the wait's beginning, and it has a curve of its own. This is what it decides, and why:

**The optimum.** For a card that has been in its status for `t` seconds, let the hazard `h(t)` be the probability per
second that the status ends now, `f` the density of the dwell time, and `S` the probability that it is longer. Polls
with the density `n(t)` per second see a change `1 / (2 n)` seconds late on average, so the mean delay is `∫ f/(2n) dt`,
and the number of polls is `∫ S n dt`. For a given number of polls, the delay is least with `n` proportional to
`√(f/S) = √h` (Barlow, Hunter & Proschan, "Optimum checking procedures", 1963; Keller, "Optimum checking schedules for
systems subject to random failure", 1974). So polls are set such that the integral of `√(v h)` between two of them, the
spacing θ, is the same for all cards at any age. The weight `v` is 1 for changes to a final status and
`progress_weight` for others; for a status it is their mean, by how often each was seen.

**The spacing.** The cards together use up `∫ √(v h)` at a rate A, which is measured: each poll adds what its card used
up since the poll before it. Polls are due at the rate A/θ, so θ = A / budget uses the whole budget. But a poll must
save at least `poll_cost` seconds of delay: with the spacing θ, the next poll saves `θ²/2`, so θ is never below
`√(2 poll_cost)`, and few cards are not polled needlessly often.

**Never worse than `Backoff`.** A card has two times, and not one. With the last poll at time p, after u polls that
showed nothing new,

    should = p + min(the learned gap, as above; 1.3 (D + L))
    may    = min(should, p + min(fallback.delay(u), `IDLE_GAP`))

A card may be polled from `may` on, and of those that may be, the one with the earliest `should` is next; cards that
were never polled go before those whose `should` is still to come, and alternate with the others. So what was learned
can bring a poll forward, and can put one off only while every request that the limit allows is sent: no request is left
unused while a card is past its `may`, which is never later than `fallback`'s next poll. With an idle budget the poll
number k in a status is therefore no later than `fallback`'s number k, whatever was learned, and however wrong it is.

Where more polls may be made than the budget has, the order decides, and a card can be overtaken. D + L is how long
`fallback` would leave a card unpolled then: D is the longest of the delays that it would choose for the cards polled of
late, and L is by how much its polls would be late. By Little's law a card is polled once in R = n / budget seconds, if
n cards wait and the whole budget is used; n is measured, as the seconds that cards waited between two polls, per
second. With the mean M of those delays, L = R - M, or 0 if the budget suffices. So a card that nothing is expected of
is put off hardly longer than `fallback` would, and what was learned wrong is soon put right. That no gap is over half
longer than `fallback`'s longest, and that the ends of a fleet are then seen as early, is only measured, not proved: of
246 kinds of random fleets, four of each, the ends of three kinds were seen more than 5 % and 0.3 s later on average,
of one beyond what is random. (So much later than itself is `fallback` with other random numbers in 14 of 213 fleets.)

It cannot always be so. If a request is left over at time t and used, it counts until t + 60 s. If as many cards come
until then as `fallback` could still just serve, it would need all requests of that minute, and one of its polls must
now wait until t + 60 s. So no schedule that does not know which cards will come both uses what is left over and is
never worse. A reserve for all that `fallback` would need for the pending cards until the request returns,

    polls of the last minute + sum of log((age + 60 + c) / (age + c)) / log(factor) <= limit,  c = first / (factor - 1)

does not help: it is the cards that have not come yet which miss the request. That one fleet, of 200 cards that come
within 47 s and need 930 of 1,000 requests, was seen 1.23 times as late as by `fallback` with this reserve, 1.22 times
without, and still 1.11 times if no poll was ever brought forward.

A card that has not changed for an hour is polled no more often than every ten seconds, and so on in proportion
(`_UNCHANGED`), but never less often than `fallback` would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from typing import Self
from cardprod._polling.backoff import Backoff
from cardprod._polling.dwell_time import REFRESH, DwellTime, SavedDwellTime, prior_ends
from cardprod._protocol.codec import from_json, to_json
from cardprod._protocol.validation import check_number, check_type

IDLE_GAP: Final = 6.5
"""Seconds until a card may be polled again at most, while requests are left over. With the jitter its change is seen
2.94 s late on average, by 103 polls in ten minutes, and two more after each change, as `fallback` makes them."""
_UNCHANGED: Final = 1 / 360
"""The share of its time in a status for which a card is not polled again."""
_OVERTAKEN: Final = 1.3
"""How many times as long as by `fallback` a card may go unpolled while the budget is short."""
_MEASURED_SECONDS: Final = 30.0
"""Time constant of what is measured: longer than most gaps between polls, shorter than a peak."""
_MEASURED_POLLS: Final = 100
"""So many polls are measured at least, however few the budget allows: fewer say little."""
_MEASURED_EVERY: Final = 0.02
"""Seconds of polls that are measured together; within a rate limit of 100 a second those are two at most."""
_SETTLED: Final = 2.0
"""Seconds of measuring before anything follows from it."""
_POLL_COST: Final = 0.002
_MOST_CURVES: Final = 64
"""A bound of the memory, because a server may send any number of unknown statuses."""
_OTHERS: Final = "…"
_SAVED_VERSION: Final = 1


class _Load:
    """What the cards ask of the budget, measured over the polls of the last half minute; sums that decay.

    Args:
        fallback: The backoff to compare with.
        spacing: The spacing before anything was measured.
        least_spacing: The least spacing.
    """

    def __init__(self, fallback: Backoff, spacing: float, least_spacing: float) -> None:
        self._fallback = fallback
        self._least_spacing = least_spacing
        self.spacing = spacing
        """The spacing that uses the budget."""
        self.longest_gap = fallback.first
        """For how long `fallback` would leave a card unpolled."""
        self._at = math.inf  # until when the sums have decayed
        self._seconds = self._polls = self._mass = self._waited = self._delays = self._longest_delay = 0.0

    def add(self, mass: float, waited: float, unchanged: int, now: float, requests_per_second: float) -> None:
        """Add a poll: the mass and the seconds that its card used up, and the polls that showed nothing new."""
        is_due = not 0 <= now - self._at < _MEASURED_EVERY
        if is_due:
            self._decay(now, requests_per_second)
        delay = self._fallback.delay(unchanged, 0.0)
        self._polls += 1
        self._mass += mass
        self._waited += waited
        self._delays += delay
        if self._longest_delay < delay:
            self._longest_delay = delay
        if is_due:
            self._estimate(requests_per_second)

    def _decay(self, now: float, requests_per_second: float) -> None:
        memory = max(_MEASURED_SECONDS, _MEASURED_POLLS / requests_per_second)
        if now < self._at:  # the first poll, or another loop's clock
            keep = self._seconds = 0.0
        else:
            keep = math.exp((self._at - now) / memory)
            self._seconds = self._seconds * keep + memory * (1 - keep)
        self._at = now
        self._polls *= keep
        self._mass *= keep
        self._waited *= keep
        self._delays *= keep
        self._longest_delay *= keep

    def _estimate(self, requests_per_second: float) -> None:
        self.longest_gap = self._longest_delay
        if self._seconds > _SETTLED:
            budget = self._seconds * requests_per_second
            self.spacing = max(self._least_spacing, self._mass / budget)
            self.longest_gap += max(0.0, self._waited / budget - self._delays / self._polls)


@attrs.frozen
class _Saved:
    """A schedule, as it is saved. `AdaptiveSchedule` checks the numbers."""

    poll_cost: float
    progress_weight: float
    shortest: float
    memory: float
    jitter: float
    fallback: Backoff
    curves: tuple[SavedDwellTime, ...]


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
        memory: float = 200.0,
        jitter: float = 0.2,
        fallback: Backoff = _DEFAULT_FALLBACK,
    ) -> None:
        self._settings = {
            "poll_cost": poll_cost,
            "progress_weight": progress_weight,
            "shortest": shortest,
            "memory": memory,
            "jitter": jitter,
        }
        check_number("AdaptiveSchedule: poll_cost", poll_cost, above=0)
        check_number("AdaptiveSchedule: progress_weight", progress_weight, above=0, most=1)
        check_number("AdaptiveSchedule: shortest", shortest, above=0)
        check_number("AdaptiveSchedule: memory", memory, least=2)
        check_number("AdaptiveSchedule: jitter", jitter, least=0, below=1)
        check_type("AdaptiveSchedule: fallback", fallback, Backoff)
        self._fallback = fallback
        self._idle_gap = max(IDLE_GAP, fallback.first)
        self._progress_weight = progress_weight
        self._shortest = shortest
        self._memory = memory
        self._jitter = jitter
        self._prior = prior_ends(fallback)
        self._patience = max(1.0, math.sqrt(poll_cost / _POLL_COST))  # by which what is saved with it makes gaps longer
        # With this and nothing learned, where half of the ends are assumed to be final, the delays are fallback's.
        self._load = _Load(fallback, math.sqrt((1 + progress_weight) / 2), math.sqrt(2 * poll_cost))
        self._curves: dict[tuple[str, bool], DwellTime] = {}
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
        backoff, idle = self._fallback.delay(unchanged, random), self._idle_gap * shorter
        should, latest = self.delay_at(status, age, now, random, is_first=is_first), _OVERTAKEN * self._load.longest_gap
        if should > latest:
            should = latest if latest > self._shortest else self._shortest
        may = self._patience * (idle if idle < backoff else backoff)
        if may > should:
            may = should
        least, limit = age * _UNCHANGED, least_gap * shorter
        if least < limit:
            least = limit
        if least > backoff:
            least = backoff
        return (may if may > least else least), (should if should > least else least)

    def delay_at(self, status: str, age: float, now: float, random: float, *, is_first: bool) -> float:
        """Return after how many seconds a card should be polled again by what was learned, and nothing else.

        Args:
            status: The status it was last seen in.
            age: Seconds since that began.
            now: The time, on any clock in seconds.
            random: A random number from 0 up to, not including, 1, for the jitter.
            is_first: Whether it is the status the wait began with, whose beginning was not observed.
        """
        spacing = self._load.spacing * (1 + self._jitter * (random - 0.5))
        gap = self._computed(status, now, is_first=is_first).gap_at(age, spacing)
        return gap if gap > self._shortest else self._shortest

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
        unchanged: int,
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
            unchanged: Polls since the last transition, this one included.
            requests_per_second: The budget of polls for all cards on this schedule.
        """
        if age < before:
            age = before
        curve = self._computed(status, now, is_first=is_first)
        mass = curve.add_end(before, age, is_final=is_final) if ended else curve.add_stay(before, age)
        self._load.add(mass, age - before, unchanged, now, requests_per_second)

    def to_json(self) -> str:
        """Return the settings and what was learned, as JSON. It contains no card."""
        curves = tuple(curve.save(status, is_first=is_first) for (status, is_first), curve in self._curves.items())
        saved = _Saved(fallback=self._fallback, curves=curves, **self._settings)
        return to_json(_Saved, saved, version=_SAVED_VERSION)

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

    def _curve(self, status: str, *, is_first: bool) -> DwellTime:
        key = str(status), is_first
        curve = self._curves.get(key)
        if curve is None:
            if len(self._curves) >= _MOST_CURVES:
                key = _OTHERS, is_first
            curve = self._curves.setdefault(key, DwellTime())
        return curve

    def _computed(self, status: str, now: float, *, is_first: bool) -> DwellTime:
        curve = self._curves.get((status, is_first)) or self._curve(status, is_first=is_first)
        if not 0 <= now - curve.computed_at < REFRESH:
            curve.compute(now, self._prior, self._progress_weight, self._memory)
        return curve
