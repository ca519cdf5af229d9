"""Fleets of cards, and how they are polled in numbers: the real schedules, states, queue and rate limit, no event loop.

A poll is answered at once, so only what the schedule and the budget do shows. The tests of the schedule use this too.
"""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from cardprod import Card, ProductionStatus, RateLimit, Status
from cardprod._http.rate_limit import SlidingWindow
from cardprod._polling.queue import PollQueue, QueuedState
from cardprod._polling.state import PollOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cardprod import Schedule

__all__ = [
    "FLEETS",
    "Plan",
    "Polled",
    "about",
    "exactly",
    "fleet",
    "memoryless",
    "one_of",
    "poll_fleet",
    "random_fleet",
]

Draw: TypeAlias = "Callable[[Random], float]"
"""Draws a duration, in seconds."""

Plan: TypeAlias = "tuple[float, float, float]"
"""When a card comes, and for how many seconds it is READY and IN_PROGRESS."""


@attrs.define
class Polled:
    """What polling a fleet came to.

    Args:
        lateness: For each card, how many seconds after its end that was seen.
        polls: For each card, its polls.
        longest_gap: The most seconds between two polls of a card, or until its first.
        seconds: How long it all took.
    """

    lateness: list[float]
    polls: list[int]
    longest_gap: float = 0.0
    seconds: float = 0.0

    @property
    def mean(self) -> float:
        """The mean lateness."""
        return sum(self.lateness) / len(self.lateness)


def _do_nothing(*_: object) -> None: ...


def poll_fleet(  # noqa: PLR0913 - what can be varied
    plans: Sequence[Plan],
    schedule: Schedule,
    *,
    limit: RateLimit | None = None,
    least_gap: float = 0.0,
    min_interval: Callable[[SlidingWindow, float], float] = SlidingWindow.min_interval,
    on_poll: Callable[[float, int], object] = _do_nothing,
    on_free: Callable[[float, PollQueue[QueuedState]], object] = _do_nothing,
) -> Polled:
    """Poll a fleet until every end was seen.

    Args:
        plans: What the cards do, by when they come.
        schedule: When to poll.
        limit: The budget.
        least_gap: As in `PollOptions`.
        min_interval: Seconds between two polls at least, by the window and the time.
        on_poll: Is called with the time and the card's number at each poll.
        on_free: Is called when a poll could be made and none is due.
    """
    limit = limit or RateLimit()
    options = PollOptions(
        schedule=schedule,
        timeout=None,
        max_failures=5,
        requests_per_second=min(limit.per_second, limit.per_minute / 60),
        least_gap=least_gap,
        random=Random(1).random,
    )
    queue, window, polled = PollQueue[QueuedState](), SlidingWindow(limit), Polled([], [0] * len(plans))
    lateness: dict[int, float] = {}
    seen_at: dict[int, float] = {}
    coming = [*enumerate(plans)][::-1]
    now, sent_at = plans[0][0], -math.inf
    while len(lateness) < len(plans):
        while coming and coming[-1][1][0] <= now:
            number, (comes_at, *_) = coming.pop()
            seen_at[number] = comes_at
            queue.add(QueuedState(Card(number + 1, "card"), options, now))
        ready_at = max(window.ready_at(), sent_at + min_interval(window, now))
        if ready_at <= now and queue.due_at(now) > now:
            on_free(now, queue)
        next_at = min(max(queue.due_at(now), ready_at), coming[-1][1][0] if coming else math.inf)
        if next_at > now:
            now = next_at
            continue
        state = queue.take(now, lambda _: True)
        if state is None:
            continue
        window.record(now)
        sent_at = now
        number = state.card.profile_id - 1
        on_poll(now, number)
        polled.polls[number] += 1
        polled.longest_gap = max(polled.longest_gap, now - seen_at[number])
        seen_at[number] = now
        comes_at, ready, printing = plans[number]
        age = now - comes_at
        status = Status.READY if age < ready else Status.IN_PROGRESS if age < ready + printing else Status.PRODUCED
        state.delay_until(now)
        state.process_status(ProductionStatus(status), now)
        if state.is_over:
            lateness[number] = age - ready - printing
        state.on_poll_ended()
        queue.reschedule(state)
    polled.lateness = [lateness[number] for number in range(len(plans))]
    polled.seconds = now - plans[0][0]
    return polled


# --- Fleets ---


def about(median: float, sigma: float = 0.35) -> Draw:
    """Draw durations that are lognormal around a median."""
    return lambda random: median * math.exp(random.gauss(0, sigma))


def memoryless(mean: float) -> Draw:
    """Draw durations of which nothing can be learned."""
    return lambda random: random.expovariate(1 / mean)


def exactly(seconds: float) -> Draw:
    """Draw the same duration each time."""
    return lambda _: seconds


def one_of(*draws: tuple[float, Draw]) -> Draw:
    """Draw by one of several, each with its share."""
    shares = [share for share, _ in draws]
    return lambda random: random.choices([draw for _, draw in draws], shares)[0](random)


def fleet(  # noqa: PLR0913 - what can be varied
    cards: int, minutes: float, ready: Draw, printing: Draw, *, later: float = 1.0, waves: int = 1, seed: int = 7
) -> list[Plan]:
    """Make a fleet.

    Args:
        cards: How many cards.
        minutes: Over how many minutes they come; or, with several waves, from one wave to the next.
        ready: Draws for how long each is READY.
        printing: Draws for how long each is IN_PROGRESS.
        later: How many times as long the second half of them stays in each.
        waves: In how many waves they come.
        seed: Of what is drawn.
    """
    random = Random(seed)
    comes_at = [
        number % waves * minutes * 60 if waves > 1 else random.uniform(0, minutes * 60) for number in range(cards)
    ]
    return [
        (at, ready(random) * scale, printing(random) * scale)
        for number, at in enumerate(sorted(comes_at))
        for scale in [later if number >= cards / 2 else 1.0]
    ]


def random_fleet(seed: int) -> tuple[list[Plan], RateLimit]:
    """Make a fleet of any size and speed, which may change half-way, and a budget from ample to far too short."""
    random = Random(seed)
    cards, per_minute = random.choice([50, 100, 200, 400]), random.choice([30, 60, 100, 300, 1000])
    scale = math.exp(random.uniform(math.log(2), math.log(900)))
    draws: list[Draw] = [
        about(scale, 0.2),
        memoryless(scale),
        exactly(scale),
        one_of((1, exactly(scale * 5)), (9, exactly(scale / 2))),
        lambda random: random.uniform(0, 2 * scale),
    ]
    ready, printing = random.choice(draws), random.choice(draws)
    seconds, later = scale * random.choice([0, 0, 1, 5, 20]), random.choice([1, 1, 1, 0.1, 10])
    plans: list[Plan] = []
    for number, comes_at in enumerate(sorted(random.uniform(0, seconds) if seconds else 0.0 for _ in range(cards))):
        factor = later if number > cards / 2 else 1
        plans.append((comes_at, ready(random) * factor, printing(random) * factor))
    return plans, RateLimit(per_second=min(per_minute, 100), per_minute=per_minute)


FLEETS: Final[dict[str, Callable[[], list[Plan]]]] = {
    "2,000 in half an hour: READY 5 min, printing 4": lambda: fleet(2000, 30, memoryless(300), about(240)),
    "the same, printing memoryless": lambda: fleet(2000, 30, memoryless(300), memoryless(240)),
    "10 in a minute, minutes each": lambda: fleet(10, 1, memoryless(300), about(240)),
    "200 in ten minutes, minutes each": lambda: fleet(200, 10, memoryless(60), about(240)),
    "100 at once, 2.5 s + 2.5 s": lambda: fleet(100, 0, exactly(2.5), exactly(2.5)),
    "300 at once, 2.5 s + 2.5 s": lambda: fleet(300, 0, exactly(2.5), exactly(2.5)),
    "500 at once, 2.5 s + 2.5 s": lambda: fleet(500, 0, exactly(2.5), exactly(2.5)),
    "300 at once, seconds": lambda: fleet(300, 0, memoryless(2.5), about(2.5)),
    "five waves of 60, seconds": lambda: fleet(300, 1, about(2.5), about(2.5), waves=5),
    "five waves of 200, seconds": lambda: fleet(1000, 1, about(2.5), about(2.5), waves=5),
    "300 at once, one in ten straggles": lambda: fleet(
        300, 0, one_of((9, exactly(2.5)), (1, exactly(60))), exactly(2.5)
    ),
    "100 at once, half a minute each": lambda: fleet(100, 0, memoryless(30), about(30)),
    "1,000 at once, half a minute each": lambda: fleet(1000, 0, memoryless(30), about(30)),
    "1,000 at once, one in five lasts an hour": lambda: fleet(
        1000, 0, memoryless(30), one_of((4, about(30)), (1, exactly(3600)))
    ),
    "1,000 at once, minutes each": lambda: fleet(1000, 0, memoryless(300), about(300)),
    "1,000 in half an hour, bimodal": lambda: fleet(
        1000, 30, memoryless(120), one_of((3, about(240, 0.15)), (1, about(600, 0.15)), (1, about(30)))
    ),
    "1,000, ten times faster from half-way on": lambda: fleet(1000, 30, memoryless(300), about(240), later=0.1),
    "1,000, ten times slower from half-way on": lambda: fleet(1000, 30, memoryless(30), about(24), later=10),
    "5,000 in half an hour, minutes each": lambda: fleet(5000, 30, memoryless(300), about(240)),
    "20,000 at once, minutes each": lambda: fleet(20_000, 0, memoryless(300), about(300)),
    "300 in an hour, hours each": lambda: fleet(300, 60, memoryless(7200), about(7200)),
    "20 in an hour, a day each": lambda: fleet(20, 60, memoryless(86_400), about(86_400, 0.2)),
}
"""What is measured: fleets, by what they are."""
