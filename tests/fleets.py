"""A fleet of cards that is polled in numbers: the real schedules, states, queue and rate limit, and no event loop.

A poll is answered at once, so only what the schedule and the budget do shows.
"""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import attrs

from cardprod import Card, ProductionStatus, RateLimit, Status
from cardprod._http.rate_limit import SlidingWindow
from cardprod._polling.queue import PollQueue, QueuedState
from cardprod._polling.state import PollOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cardprod import Schedule

__all__ = ["Plan", "Polled", "poll_fleet"]

Plan: TypeAlias = "tuple[float, float, float]"
"""When a card comes, and for how many seconds it is READY and IN_PROGRESS."""


@attrs.define
class Polled:
    """What polling a fleet came to.

    Args:
        lateness: For each card, how many seconds after its end that was seen.
        polls: For each card, its polls.
        longest_gap: The most seconds between two polls of a card, or until its first.
    """

    lateness: list[float]
    polls: list[int]
    longest_gap: float = 0.0

    @property
    def mean(self) -> float:
        """The mean lateness."""
        return sum(self.lateness) / len(self.lateness)


def poll_fleet(
    plans: Sequence[Plan],
    schedule: Schedule,
    *,
    limit: RateLimit | None = None,
    least_gap: float = 0.0,
    on_poll: Callable[[float, int], None] = lambda now, card: None,
    on_free: Callable[[float, PollQueue[QueuedState]], None] = lambda now, queue: None,
) -> Polled:
    """Poll a fleet until every end was seen.

    Args:
        plans: What the cards do, by when they come.
        schedule: When to poll.
        limit: The budget.
        least_gap: As in `PollOptions`.
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
        ready_at = max(window.ready_at(), sent_at + window.min_interval(now))
        if ready_at <= now and queue.due_at(now) > now:
            on_free(now, queue)
        next_at = min(max(queue.due_at(now), ready_at), coming[-1][1][0] if coming else math.inf)
        if next_at > now:
            now = next_at
            continue
        state = queue.take(now, lambda _: False)
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
        state.mark_due(now)
        state.process_status(ProductionStatus(status), now)
        if state.is_over:
            lateness[number] = age - ready - printing
        queue.return_from_poll(state)
        queue.reschedule(state)
    polled.lateness = [lateness[number] for number in range(len(plans))]
    return polled
