"""One card's wait as a state machine, without a clock: time is a number that the caller passes in.

Three rules:

1. Every answer is observed, and every failed look is failed. `next_look_at` then says when to look again, until
   `is_over` says that the wait has ended; `error` says whether it ended badly.
2. Looks are believed in their order. An event counts only if it is newer than what is known, by `occurred_at`, then by
   the order in which statuses follow each other, then by when it was sent; and from then until a look has confirmed it,
   a look that shows something older is the API lagging behind, and changes nothing. So a wait never goes back.
3. A sleep never goes past the deadline. The look that falls due there is the last: whatever comes of it, the wait ends.

Sleeping, sending and cancelling are done by `wait`, which drives this. What is known can be saved as a value and
restored by another clock; how that travels is `checkpoint`'s business.
"""

from __future__ import annotations

import math
from datetime import timedelta
from random import random
from typing import TYPE_CHECKING, Final, Literal

import attrs

from cardprod.checkpoint import PendingCard, moment_after
from cardprod.errors import CardNotFound, CardprodError, Forbidden, Unauthorized, UsageError, WaitTimeout
from cardprod.models import Status, Transition, one_line
from cardprod.schedule import AdaptiveSchedule, Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from cardprod.models import Card, ProductionEvent, ProductionStatus
    from cardprod.schedule import Schedule

__all__ = ["LAG", "Terms", "Watch"]

_END_AT_ONCE = (UsageError, Unauthorized, Forbidden, CardNotFound)
"""What no later look would mend."""

LAG: Final = 60.0
"""Seconds for which looks may lag behind an event. If they still show an older end after that, it counts: better told
late than never."""

_SKEW: Final = 1.0
"""Seconds by which two machines' clocks may differ."""

_PRECISION: Final = timedelta(seconds=1)
"""What schema version 2.0.0 writes times in: where one of two is in whole seconds, they are the same if closer."""


@attrs.frozen(kw_only=True)
class Terms:
    """What holds for a wait from its beginning, and for all waits of a batch.

    Args:
        schedule: When to look again after a look.
        timeout: Seconds from the beginning to the deadline; None for no deadline.
        max_failures: How many looks in a row may fail before the wait does.
        last_look_seconds: How long the last look, which begins at the deadline, may take; infinite for as long as it
            takes.
        looks_per_second: What an `AdaptiveSchedule` may use, for all the cards on it.
        chance: Where randomness comes from: a function that gives a number from 0 up to 1.
    """

    schedule: Schedule
    timeout: float | None
    max_failures: int
    last_look_seconds: float = math.inf
    looks_per_second: float = math.inf
    chance: Callable[[], float] = random

    @property
    def saved_schedule(self) -> Backoff | None:
        """What a checkpoint says of the schedule: others than a `Backoff` do not travel."""
        return self.schedule if isinstance(self.schedule, Backoff) else None


class Watch:
    """Follows one card from its first look to its final status.

    Args:
        card: The card, for errors to name.
        terms: What holds for the wait.
        started_at: The time of the beginning; the first look is due at once. Any clock in seconds.
        deadline_at: The time of the end, if it is another than `terms.timeout` makes it.
    """

    # A million of these wait in one process, so what can be shared is in `Terms`, and nothing is kept twice.
    __slots__ = (
        "_began_at",
        "_deadline_at",
        "_is_first",
        "_looked_at",
        "_occurred_at",
        "_terms",
        "_told",
        "_unchanged",
        "card",
        "error",
        "failures",
        "is_over",
        "last",
        "next_look_at",
        "polls",
        "started_at",
    )

    def __init__(self, card: Card, terms: Terms, started_at: float, deadline_at: float | None = None) -> None:
        self.card: Card = card
        """The card that is waited for."""
        self.started_at: float = started_at
        """When the wait began."""
        self._terms = terms
        if deadline_at is None:
            deadline_at = math.inf if terms.timeout is None else started_at + terms.timeout
        self._deadline_at = deadline_at
        self._began_at = self._looked_at = started_at  # the status it was last seen in; the look that saw it
        self._is_first = True  # whether that is the status the wait began with
        self._unchanged = 0
        self._occurred_at: datetime | None = None
        self._told: tuple[float, datetime | None] | None = None  # when an event did that no look confirmed; its sent_at
        self.last: ProductionStatus | None = None
        """The last status seen."""
        self.polls: int = 0
        """Answered looks so far."""
        self.failures: int = 0
        """Looks that failed since the last answer, or event that was news."""
        self.next_look_at: float = started_at
        """When the next look is due; meaningless once the wait is over."""
        self.is_over: bool = False
        """Whether the wait has ended, well or badly."""
        self.error: CardprodError | None = None
        """What it ended with, if it ended badly."""

    @property
    def cut_off_at(self) -> float | None:
        """When the look that is due now must be given up, its retries and its queueing included; None for never.

        A look that begins before the deadline ends there; the last look, which begins there, a little later.
        """
        at = self.next_look_at + self._terms.last_look_seconds if self._is_last_look else self._deadline_at
        return None if math.isinf(at) else at

    def begin_look(self, now: float) -> None:
        """Take note that the look that is due begins now: late, if whoever drives this was busy, and so perhaps last.

        Args:
            now: The time.
        """
        self.next_look_at = max(self.next_look_at, now)

    @property
    def expires_at(self) -> float:
        """When even a last look that began late must have ended; infinite for never."""
        return self._deadline_at + self._terms.last_look_seconds

    def put_off(self, now: float, gap: float) -> bool:
        """Put the look that is due off, if the card was heard of a short while ago.

        The first look, one after a failure and the last one are never put off.

        Args:
            now: The time.
            gap: Seconds for which it need not be looked at after it was heard of.

        Returns:
            Whether it was put off. `next_look_at` is later then; or the wait is over, if the schedule is wrong.
        """
        if self.last is None or self.failures or self._is_last_look or now - self._looked_at >= gap:
            return False
        self._unchanged += 1
        self._look_again(now, None)
        return True

    @property
    def _is_last_look(self) -> bool:
        return self.next_look_at >= self._deadline_at

    def observe(self, status: ProductionStatus, now: float) -> Transition | None:
        """Take the answer to a look.

        Args:
            status: What it says.
            now: The time it came.

        Returns:
            The transition it makes, or None if it shows nothing new.

        Raises:
            UsageError: The wait is already over.
        """
        self._check_under_way()
        self.polls += 1
        self.failures = 0
        if self.last is not None and self._told is not None and self._lags(status, self.last, now, self._told[0]):
            status = self.last
            return self._take(status, now, "poll")
        step = self._take(status, now, "poll")
        self._told = None
        return step

    def hear(self, event: ProductionEvent, now: float, wall_now: datetime) -> Transition | None:
        """Take an event.

        Before anything is known of the card, only an event that was sent since the wait began is believed: an old one
        may be of a production before this one, and the first look will tell.

        Args:
            event: An event of this card.
            now: The time it came.
            wall_now: The same on the clock that the event's times are by.

        Returns:
            The transition it makes, or None if it is no news.

        Raises:
            UsageError: The wait is already over.
        """
        self._check_under_way()
        if not self._is_news(event, now, wall_now):
            return None
        step = self._take(event.status, now, "webhook")
        self._told = now, event.sent_at
        self.failures = 0  # it is heard of, if not by looks
        return step

    def _is_news(self, event: ProductionEvent, now: float, wall_now: datetime) -> bool:
        sent_at = event.sent_at
        if self.last is None:
            return sent_at is not None and (wall_now - sent_at).total_seconds() <= now - self.started_at + _SKEW
        order = _order(event.status, self.last, self._occurred_at)
        if order == 0 and event.status.status != self.last.status and self._told is not None:
            told_at = self._told[1]
            return sent_at is not None and told_at is not None and sent_at > told_at
        return order > 0

    def _lags(self, status: ProductionStatus, last: ProductionStatus, now: float, told_at: float) -> bool:
        """Whether a look shows what was before the event that told the last status."""
        return _order(status, last, self._occurred_at) < 0 and not (status.is_final and now - told_at > LAG)

    def _take(self, status: ProductionStatus, now: float, source: Literal["poll", "webhook"]) -> Transition | None:
        previous, self.last = self.last, status
        if previous is None or status.status != previous.status:
            is_new = True
            self._occurred_at = status.occurred_at
        else:
            is_new = self._is_new_request(status)
            self._occurred_at = status.occurred_at or self._occurred_at
        self._unchanged = 0 if is_new else self._unchanged + 1
        if previous is not None:
            self._learn(previous, now, ended=is_new, is_exact=source == "webhook")
        elif source == "webhook":
            self._began_at, self._is_first = now, False  # seen as it began
        self._looked_at = now
        if status.is_final:
            self.is_over = True
        else:
            self._look_again(now, None)
        if not is_new:
            return None
        elapsed = now - self.started_at
        return Transition(previous=previous, current=status, elapsed=elapsed, polls=self.polls, source=source)

    def fail(self, failure: CardprodError, now: float) -> None:
        """Take a look that failed, after its own retries.

        It ends the wait if it is the kind that no later look would mend, if it is one in a row too many, or if it was
        the last look or was cut off by the deadline.

        Args:
            failure: Why there is no answer.
            now: The time it was known.

        Raises:
            UsageError: The wait is already over.
        """
        self._check_under_way()
        self.failures += 1
        self._unchanged += 1
        if isinstance(failure, _END_AT_ONCE):
            self._end(failure)
        elif self._is_last_look or now >= self._deadline_at:
            self._end(self._timed_out(now, failure))
        elif self.failures >= self._terms.max_failures:
            self._end(failure)
        else:
            self._look_again(now, failure)

    def give_up(self, now: float) -> None:
        """End the wait, past its deadline, without a last look: its turn did not come in time.

        Args:
            now: The time.

        Raises:
            UsageError: The wait is already over.
        """
        self._check_under_way()
        self._end(self._timed_out(now, None))

    def save(self, now: float, wall_now: datetime, untold: Sequence[Transition] = ()) -> PendingCard:
        """Say all that is known, for another watch to go on with.

        A wait that ended badly is saved as if its end were still to be seen: the next look is due at once.

        Args:
            now: The time.
            wall_now: The same on the wall's clock.
            untold: Transitions that whoever waits was not told of.
        """

        def moment(at: float) -> datetime:
            return moment_after(wall_now, at - now)

        told_at, told_sent_at = (None, None) if self._told is None else self._told
        return PendingCard(
            card=self.card,
            started_at=moment(self.started_at),
            deadline_at=None if math.isinf(self._deadline_at) else moment(self._deadline_at),
            next_look_at=moment(now if self.is_over else self.next_look_at),
            polls=self.polls,
            failures=self.failures if self.error is None else min(self.failures, self._terms.max_failures - 1),
            unchanged=self._unchanged,
            last=self.last,
            occurred_at=self._occurred_at,
            began_at=moment(self._began_at),
            looked_at=moment(self._looked_at),
            is_first=self._is_first,
            told_at=None if told_at is None else moment(told_at),
            told_sent_at=told_sent_at,
            untold=tuple(untold),
        )

    def restore(self, saved: PendingCard, now: float, wall_now: datetime) -> None:
        """Go on with what another watch of the same card saved.

        Args:
            saved: What it saved.
            now: The time.
            wall_now: The same on the wall's clock.
        """

        def at(moment: datetime) -> float:
            return now + (moment - wall_now).total_seconds()

        self.started_at = at(saved.started_at)
        self._deadline_at = math.inf if saved.deadline_at is None else at(saved.deadline_at)
        self.next_look_at = at(saved.next_look_at)
        self.polls = saved.polls
        self.failures = saved.failures
        self._unchanged = saved.unchanged
        self.last = saved.last
        self._occurred_at = saved.occurred_at
        # Two machines' clocks may differ, and no schedule is to hear of a card seen in the future.
        self._looked_at = min(at(saved.looked_at), now)
        self._began_at = min(at(saved.began_at), self._looked_at)
        self._is_first = saved.is_first
        self._told = None if saved.told_at is None else (at(saved.told_at), saved.told_sent_at)
        self.is_over = saved.last is not None and saved.last.is_final

    def _learn(self, previous: ProductionStatus, now: float, *, ended: bool, is_exact: bool) -> None:
        """Let a schedule that learns know how long the card stayed, and say when its new status began."""
        before = self._looked_at
        if ended and is_exact:  # it stayed until now
            self._learn_stay(previous, before, now, ended=False)
            before = now
        self._learn_stay(previous, before, now, ended=ended)
        if ended:
            self._is_first = False
            self._began_at = (before + now) / 2  # nobody knows better

    def _learn_stay(self, previous: ProductionStatus, before: float, now: float, *, ended: bool) -> None:
        schedule = self._terms.schedule
        if isinstance(schedule, AdaptiveSchedule) and self.last is not None:
            schedule.learn(
                previous.status,
                before - self._began_at,
                now - self._began_at,
                now,
                is_first=self._is_first,
                ended=ended,
                is_final=ended and self.last.is_final,
                looks_per_second=self._terms.looks_per_second,
            )

    def _is_new_request(self, status: ProductionStatus) -> bool:
        """Whether the same status stands under another time: the card was sent to the kiosk again.

        A missing or illegible time tells nothing, so the last one known under this status is what counts.
        """
        if self._told is not None:
            return _order_of_times(status.occurred_at, self._occurred_at) != 0
        return None not in (status.occurred_at, self._occurred_at) and status.occurred_at != self._occurred_at

    def _look_again(self, now: float, failure: CardprodError | None) -> None:
        if self._is_last_look:
            self._end(self._timed_out(now, failure))
            return
        delay = self._delay(now, failure)
        if 0 < delay < math.inf:
            self.next_look_at = min(now + delay, max(now, self._deadline_at))
        else:
            complaint = f"a schedule's delay must be above 0 seconds and finite, not {delay!r}"
            self._end(UsageError(complaint, card=self.card))

    def _delay(self, now: float, failure: CardprodError | None) -> float:
        schedule, chance = self._terms.schedule, self._terms.chance()
        if not isinstance(schedule, AdaptiveSchedule) or self.last is None:
            return schedule.delay(self._unchanged, chance)
        age = now - self._began_at
        delay = schedule.delay_at(self.last.status, age, now, chance, is_first=self._is_first)
        return delay if failure is None else max(delay, schedule.delay(self.failures - 1, chance))

    def _timed_out(self, now: float, failure: CardprodError | None) -> WaitTimeout:
        elapsed = now - self.started_at
        seen = "nothing was seen" if self.last is None else f"last seen {one_line(self.last.status, 100)}"
        error = WaitTimeout(
            f"not final after {elapsed:.0f} s and {self.polls} answered looks: {seen}; "
            "the card may still be produced, so wait again",
            last=self.last,
            polls=self.polls,
            elapsed=elapsed,
            card=self.card,
        )
        error.__cause__ = failure
        return error

    def _end(self, error: CardprodError) -> None:
        self.is_over = True
        self.error = error

    def _check_under_way(self) -> None:
        if self.is_over:
            raise UsageError("this wait is over", card=self.card)


def _order(new: ProductionStatus, known: ProductionStatus, known_at: datetime | None) -> int:
    """Say whether one is newer than the other (1), older (-1), or nobody can tell (0)."""
    rank, known_rank = _rank(new), _rank(known)
    return _order_of_times(new.occurred_at, known_at) or (rank > known_rank) - (rank < known_rank)


def _order_of_times(new: datetime | None, known: datetime | None) -> int:
    if new is None or known is None:
        return 0
    if (new.microsecond == 0 or known.microsecond == 0) and abs(new - known) < _PRECISION:
        return 0
    return (new > known) - (new < known)


def _rank(status: ProductionStatus) -> int:
    """Say how far along a status is: READY, anything on the way, the end."""
    return 2 if status.is_final else int(status.status != Status.READY)
