"""One card's wait as a state machine, without a clock: time is a number that the caller passes in.

Two rules:

1. Every answer is observed, and every failed look is failed. `next_look_at` then says when to look again, until
   `is_over` says that the wait has ended; `error` says whether it ended badly.
2. A sleep never goes past the deadline. The look that falls due there is the last: whatever comes of it, the wait ends.

Sleeping, sending and cancelling are done by `wait`, which drives this.
"""

from __future__ import annotations

import math
from random import random
from typing import TYPE_CHECKING

from cardprod.errors import CardNotFound, CardprodError, Forbidden, Unauthorized, UsageError, WaitTimeout
from cardprod.models import Transition, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from cardprod.models import Card, ProductionStatus
    from cardprod.schedule import Schedule

__all__ = ["Watch"]

_END_AT_ONCE = (UsageError, Unauthorized, Forbidden, CardNotFound)
"""What no later look would mend."""


class Watch:
    """Follows one card from its first look to its final status.

    Args:
        card: The card, for errors to name.
        schedule: When to look again after a look.
        started_at: The time of the beginning; the first look is due at once. Any clock in seconds.
        timeout: Seconds from `started_at` to the deadline; None for no deadline.
        max_failures: How many looks in a row may fail before the wait does.
        last_look_seconds: How long the last look, which begins at the deadline, may take; None for as long as it takes.
        chance: Where randomness comes from: a function that gives a number from 0 up to 1.
    """

    __slots__ = (
        "_card",
        "_chance",
        "_deadline_at",
        "_last_look_seconds",
        "_max_failures",
        "_occurred_at",
        "_schedule",
        "_started_at",
        "_unchanged",
        "error",
        "failures",
        "is_over",
        "last",
        "next_look_at",
        "polls",
    )

    def __init__(  # noqa: PLR0913 - a wait has that many parts
        self,
        card: Card,
        *,
        schedule: Schedule,
        started_at: float,
        timeout: float | None,
        max_failures: int,
        last_look_seconds: float | None = None,
        chance: Callable[[], float] = random,
    ) -> None:
        self._card = card
        self._schedule = schedule
        self._started_at = started_at
        self._deadline_at = math.inf if timeout is None else started_at + timeout
        self._max_failures = max_failures
        self._last_look_seconds = math.inf if last_look_seconds is None else last_look_seconds
        self._chance = chance
        self._unchanged = 0
        self._occurred_at: datetime | None = None
        self.last: ProductionStatus | None = None
        """The last status seen."""
        self.polls = 0
        """Answered looks so far."""
        self.failures = 0
        """Looks that failed since the last answer."""
        self.next_look_at = started_at
        """When the next look is due; meaningless once the wait is over."""
        self.is_over = False
        """Whether the wait has ended, well or badly."""
        self.error: CardprodError | None = None
        """What it ended with, if it ended badly."""

    @property
    def cut_off_at(self) -> float | None:
        """When the look that is due now must be given up, its retries and its queueing included; None for never.

        A look that begins before the deadline ends there; the last look, which begins there, a little later.
        """
        at = self.next_look_at + self._last_look_seconds if self._is_last_look else self._deadline_at
        return None if math.isinf(at) else at

    def begin_look(self, now: float) -> None:
        """Take note that the look that is due begins now: late, if whoever drives this was busy, and so perhaps last.

        Args:
            now: The time.
        """
        self.next_look_at = max(self.next_look_at, now)

    @property
    def _is_last_look(self) -> bool:
        return self.next_look_at >= self._deadline_at

    def observe(self, status: ProductionStatus, now: float) -> Transition | None:
        """Take an answered look.

        Args:
            status: What the answer says.
            now: The time it was heard.

        Returns:
            The transition it makes, or None if it shows nothing new.

        Raises:
            UsageError: The wait is already over.
        """
        self._check_under_way()
        self.polls += 1
        self.failures = 0
        previous, self.last = self.last, status
        if previous is None or status.status != previous.status:
            is_new = True
            self._occurred_at = status.occurred_at
        else:
            is_new = self._is_new_request(status)
            self._occurred_at = status.occurred_at or self._occurred_at
        self._unchanged = 0 if is_new else self._unchanged + 1
        if status.is_final:
            self.is_over = True
        else:
            self._look_again(now, None)
        if not is_new:
            return None
        return Transition(previous=previous, current=status, elapsed=now - self._started_at, polls=self.polls)

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
        elif self.failures >= self._max_failures:
            self._end(failure)
        else:
            self._look_again(now, failure)

    def _is_new_request(self, status: ProductionStatus) -> bool:
        """Whether the same status stands under another time: the card was sent to the kiosk again.

        A missing or illegible time tells nothing, so the last one known under this status is what counts.
        """
        return None not in (status.occurred_at, self._occurred_at) and status.occurred_at != self._occurred_at

    def _look_again(self, now: float, failure: CardprodError | None) -> None:
        if self._is_last_look:
            self._end(self._timed_out(now, failure))
            return
        delay = self._schedule.delay(self._unchanged, self._chance())
        if 0 < delay < math.inf:
            self.next_look_at = min(now + delay, max(now, self._deadline_at))
        else:
            complaint = f"a schedule's delay must be above 0 seconds and finite, not {delay!r}"
            self._end(UsageError(complaint, card=self._card))

    def _timed_out(self, now: float, failure: CardprodError | None) -> WaitTimeout:
        elapsed = now - self._started_at
        seen = "nothing was seen" if self.last is None else f"last seen {one_line(self.last.status, 100)}"
        error = WaitTimeout(
            f"not final after {elapsed:.0f} s and {self.polls} answered looks: {seen}; "
            "the card may still be produced, so wait again",
            last=self.last,
            polls=self.polls,
            elapsed=elapsed,
            card=self._card,
        )
        error.__cause__ = failure
        return error

    def _end(self, error: CardprodError) -> None:
        self.is_over = True
        self.error = error

    def _check_under_way(self) -> None:
        if self.is_over:
            raise UsageError("this wait is over", card=self._card)
