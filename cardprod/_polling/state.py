"""`PollState`, one card's wait as a state machine, and `PollOptions`, its options. Pure: time is a number passed in.

Three rules:

1. Every answer and every failed poll is processed. `next_poll_at` then says when to poll again, until `is_over`;
   `error` is then the error that ended the wait, or None. Failures end a wait that never had an answer after
   `max_failures` polls in a row; one that had an answer only when they have also lasted for `max_outage` seconds.
2. Every poll counts. An event counts only if it is newer than the known status: by `occurred_at`, or, where that does
   not decide, by the order of statuses and by when it was sent. From then until a poll has confirmed it, a poll with an
   older status is taken as the API lagging behind, and changes nothing. So a wait never goes back to an older status.
3. A sleep is never longer than until the deadline, nor shorter than a `Retry-After`. The poll that is due at the
   deadline is the last one, and ends the wait.

From `next_poll_at` on a card may be polled, and of several that may be, the one with the earliest `urgent_at` is next.
Only an `AdaptiveSchedule` makes a difference between the two.

A wait may go on from a status that its caller knows, `after`. What equals it is not reported and does not end the wait.

`poller` drives it: it sleeps, sends and cancels. The state can be saved to a `PendingCard` of a checkpoint, and
restored from it under another clock.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final, Literal

import attrs

from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff
from cardprod._polling.ordering import Order, are_ordered, compare, compare_times
from cardprod._protocol.api_errors import LONGEST_PAUSE, is_transient
from cardprod._protocol.codec import unix_time
from cardprod._protocol.validation import MOST, check_delay
from cardprod.checkpoint import Checkpoint, PendingCard
from cardprod.errors import (
    ApiError,
    CardNotFound,
    CardprodError,
    Forbidden,
    RateLimited,
    Unauthorized,
    UsageError,
    WaitTimeout,
)
from cardprod.models import Transition, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from cardprod._polling.backoff import Schedule
    from cardprod.models import Card, ProductionEvent, ProductionStatus

_REFUSALS: Final = (Unauthorized, Forbidden, CardNotFound)
"""Answers of the API after which no later poll can succeed."""

LAG: Final = 60.0
"""Seconds for which polls may lag behind an event. A different final status that polls still show after that counts."""

_TICK: Final = 0.001
"""Seconds by which times of two clocks may differ from rounding."""

_SHOWN_FAILURE: Final = 300

_NOT_FAILING: Final = (0, math.inf)


@attrs.frozen(kw_only=True)
class PollOptions:
    """The options of a wait, shared by all waits of a batch.

    Args:
        schedule: When to poll again after a poll.
        timeout: Seconds from the beginning to the deadline; None for no deadline.
        max_failures: How many polls in a row may fail before the wait does.
        max_outage: Once the wait has had an answer, the first of these must also be so many seconds ago.
        last_poll_seconds: The time limit of the last poll, which begins at the deadline; infinite for none.
        requests_per_second: The budget of an `AdaptiveSchedule`, for all cards on it.
        least_gap: Seconds between two polls of a card on it, unless its fallback polls more often.
        random: Returns a random number from 0 up to, not including, 1.
    """

    schedule: Schedule
    timeout: float | None
    max_failures: int
    max_outage: float = 300.0
    last_poll_seconds: float = math.inf
    requests_per_second: float = math.inf
    least_gap: float = 0.0
    random: Callable[[], float] = random.random

    def checkpoint(self, checkpoint_id: str, pending: tuple[PendingCard, ...], *, sweep: int = 0) -> Checkpoint:
        """Make a checkpoint of waits with these options. A schedule that is no `Backoff` is not saved."""
        return Checkpoint(
            id=checkpoint_id,
            sweep=sweep,
            max_failures=self.max_failures,
            max_outage=self.max_outage,
            schedule=self.schedule if isinstance(self.schedule, Backoff) else None,
            pending=pending,
        )


class PollState:
    """Follows one card from its first poll to its final status.

    Args:
        card: The card.
        options: The options of the wait.
        started_at: When the wait begins, on any clock in seconds; the first poll is due then.
        deadline_at: When it ends; None for `options.timeout` seconds later.
        after: The status to go on from; None to report the first one that is seen.
    """

    # A process may have a million of these, so what can be shared is in `PollOptions`, and nothing is stored twice.
    __slots__ = (
        "_began_at",
        "_deadline_at",
        "_event",
        "_failing",
        "_is_first",
        "_occurred_at",
        "_options",
        "_polled_at",
        "_unchanged",
        "card",
        "ended_by",
        "last",
        "next_poll_at",
        "polls",
        "started_at",
        "urgent_at",
    )

    def __init__(
        self,
        card: Card,
        options: PollOptions,
        started_at: float,
        deadline_at: float | None = None,
        after: ProductionStatus | None = None,
    ) -> None:
        self.card: Card = card
        """The card that is waited for."""
        self.started_at: float = started_at
        """When the wait began."""
        self._options = options
        if deadline_at is None:
            deadline_at = math.inf if options.timeout is None else started_at + options.timeout
        self._deadline_at = deadline_at
        self._began_at = self._polled_at = started_at  # when the last status began; when the card was last seen
        self._is_first = True  # whether the last status is the one the wait began with
        self._unchanged = 0
        self._occurred_at = None if after is None else after.occurred_at
        self._failing = _NOT_FAILING  # how many polls have failed since the last answer, and when the first of them did
        self._event: tuple[float, datetime | None] | None = None  # when an unconfirmed event came; its `sent_at`
        self.last: ProductionStatus | None = after
        """The last status seen, or `after`."""
        self.ended_by: CardprodError | Literal["a final status"] | None = None
        """What has ended the wait; None while it is under way."""
        self.polls: int = 0
        """Answered polls so far."""
        self.next_poll_at: float = started_at
        """When the next poll is due, as far as the budget goes; meaningless once the wait is over."""
        self.urgent_at: float = started_at
        """When it is urgent: of the polls that are due, the one with the earliest time is next."""

    @property
    def is_over(self) -> bool:
        """Whether the wait has ended."""
        return self.ended_by is not None

    @property
    def error(self) -> CardprodError | None:
        """The error that ended the wait; None if a final status did, or it was taken."""
        return self.ended_by if isinstance(self.ended_by, CardprodError) else None

    def take_error(self) -> CardprodError | None:
        """Return `error`, which is then None."""
        error = self.error
        if error is not None:
            self.ended_by = "a final status"
        return error

    @property
    def failures(self) -> int:
        """Polls that failed since the last answer, or the last event with something new."""
        return self._failing[0]

    # --- When to poll ---

    @property
    def cut_off_at(self) -> float | None:
        """When the poll that is due now must end, with its queueing and its retries; None for no limit.

        That is the deadline; for the last poll, which begins at the deadline, `expires_at`; or, if it begins even after
        that, because nothing ran in time, `last_poll_seconds` later.
        """
        at = self._deadline_at
        if at == math.inf:
            return None
        if self.is_last_poll:
            is_too_late = self.next_poll_at >= self.expires_at
            at = self.next_poll_at + self._options.last_poll_seconds if is_too_late else self.expires_at
        return None if at == math.inf else at

    @property
    def expires_at(self) -> float:
        """When the last poll must have ended; infinite without a deadline."""
        return self._deadline_at + self._options.last_poll_seconds

    def delay_until(self, now: float) -> None:
        """Move the next poll to now, if it was due earlier. One at or after the deadline is the last."""
        if self.next_poll_at < now:
            self.next_poll_at = now

    def postpone(self, now: float, gap: float) -> bool:
        """Postpone the poll that is due, if a poll or an event showed the card less than `gap` seconds ago.

        The first poll, a poll after a failure, and the last poll are never postponed.

        Args:
            now: The time.
            gap: Seconds for which the card need not be polled after it was last seen.

        Returns:
            Whether it was postponed. `next_poll_at` is later then; or the wait is over, if the schedule's delay is
            invalid.
        """
        if self._is_unanswered or self.failures or self.is_last_poll or now - self._polled_at >= gap:
            return False
        self._unchanged += 1
        delay = self._options.schedule.delay(self._unchanged, self._options.random())
        self._schedule_at(now, delay, delay, None)
        return True

    def defer(self, now: float) -> None:
        """Defer a poll that is due and not urgent, because the budget is short: until it is, or once more as `Backoff`.

        Args:
            now: The time.
        """
        backoff = self._options.schedule.delay(self._unchanged, self._options.random())
        self.next_poll_at = min(self.urgent_at, now + backoff)

    @property
    def is_last_poll(self) -> bool:
        """Whether the poll that is due is the one at the deadline."""
        return self.next_poll_at >= self._deadline_at

    @property
    def _is_unanswered(self) -> bool:
        """Whether no poll or event has shown the card yet."""
        return self._is_first and self.polls == 0

    # --- What comes ---

    def process_status(self, status: ProductionStatus, now: float) -> Transition | None:
        """Process the answer to a poll.

        Args:
            status: The status in it.
            now: The time.

        Returns:
            The transition; None if nothing is new.

        Raises:
            UsageError: The wait is already over.
        """
        if self.ended_by is not None:
            raise self._over()
        self.polls += 1
        self._failing = _NOT_FAILING
        if self.last is not None and self._lags(status, self.last, now):
            return self._take(self.last, now, "poll")
        transition = self._take(status, now, "poll")
        self._event = None
        return transition

    def process_event(self, event: ProductionEvent, now: float, wall_now: float) -> Transition | None:
        """Process an event.

        Before the card was first seen, only an event that was sent since the wait began counts: an older one may be of
        an earlier production.

        Args:
            event: An event of this card.
            now: The time.
            wall_now: The time in seconds since 1970, to compare with the event's times.

        Returns:
            The transition; None if nothing is new.

        Raises:
            UsageError: The wait is already over.
        """
        if self.ended_by is not None:
            raise self._over()
        if not self._is_news(event, now, wall_now):
            return None
        transition = self._take(event.status, now, "webhook")
        self._event = now, event.sent_at
        self._failing = _NOT_FAILING
        return transition

    def process_failure(self, failure: CardprodError, now: float) -> None:
        """Process a poll that failed, after its own retries.

        It ends the wait if no later poll can succeed, if too many have failed for too long, or if it was the last poll
        or ended at the deadline.

        Args:
            failure: The error.
            now: The time.

        Raises:
            UsageError: The wait is already over.
        """
        if self.ended_by is not None:
            raise self._over()
        failures, failing_since = self._failing
        self._failing = failures, failing_since = failures + 1, min(failing_since, now)
        self._unchanged += 1
        if _is_refusal(failure):
            self.ended_by = failure
        elif self.is_last_poll or now >= self._deadline_at:
            self.ended_by = self._timed_out(now, failure)
        elif failures >= self._options.max_failures and (
            self._is_unanswered or now - failing_since >= self._options.max_outage
        ):
            self.ended_by = failure
        else:
            self._schedule_next(now, failure)

    def expire(self, now: float) -> None:
        """End the wait after its deadline without a last poll, which got no permit in time.

        Raises:
            UsageError: The wait is already over.
        """
        if self.ended_by is not None:
            raise self._over()
        self.ended_by = self._timed_out(now, None)

    def _is_news(self, event: ProductionEvent, now: float, wall_now: float) -> bool:
        sent_at = event.sent_at
        if self.last is None:
            return sent_at is not None and wall_now - sent_at.timestamp() <= now - self.started_at + _TICK
        if self.last.is_final:  # known from before the wait
            return self._is_after(event, self.last, now, wall_now)
        order = compare(event.status, self.last, self._occurred_at)
        if order is Order.OLDER or event.status.status == self.last.status:
            return order is Order.NEWER
        if order is Order.NEWER and are_ordered(event.status.occurred_at, self._occurred_at):
            return True
        return sent_at is not None and self._is_sent_later(sent_at, order, now, wall_now)

    def _is_after(self, event: ProductionEvent, known: ProductionStatus, now: float, wall_now: float) -> bool:
        """Whether an event comes after the final status that the wait goes on from: the card was produced again."""
        order = compare_times(event.status.occurred_at, self._occurred_at)
        if order is not Order.UNDECIDED or not _differs(event.status, known, self._occurred_at):
            return order is Order.NEWER
        return event.sent_at is not None and wall_now - event.sent_at.timestamp() <= now - self._polled_at + _TICK

    def _is_sent_later(self, sent_at: datetime, order: Order, now: float, wall_now: float) -> bool:
        """Whether an event was sent after what is known, where `occurred_at` does not order the two.

        Wise redelivers for two weeks, so it may be of an earlier production of the card, which only `sent_at` can show.
        """
        if self._event is None:
            return order is Order.NEWER and wall_now - sent_at.timestamp() <= now - self._polled_at + _TICK
        known_sent_at = self._event[1]
        if known_sent_at is None:
            return False
        return sent_at >= known_sent_at if order is Order.NEWER else sent_at > known_sent_at

    def _lags(self, status: ProductionStatus, last: ProductionStatus, now: float) -> bool:
        """Whether a poll shows an older status than the last one, which an unconfirmed event, or `after`, reported.

        Of a card that is produced again after a known end, only times show what is older.
        """
        if last.is_final:  # known from before the wait
            is_older = compare_times(status.occurred_at, self._occurred_at) is Order.OLDER
            return is_older and now - self.started_at <= LAG
        if self._event is None:
            return False
        is_older = compare(status, last, self._occurred_at) is Order.OLDER
        return is_older and not (status.is_final and now - self._event[0] > LAG)

    def _take(self, status: ProductionStatus, now: float, source: Literal["poll", "webhook"]) -> Transition | None:
        known = previous, occurred_at = self.last, self._occurred_at
        self.last = status
        if previous is not None and previous.is_final:  # known from before the wait
            is_new = _differs(status, previous, occurred_at)
            self._occurred_at = status.occurred_at if is_new else status.occurred_at or occurred_at
        elif previous is None or status.status != previous.status:
            is_new = True
            self._occurred_at = status.occurred_at
        else:
            is_new = self._is_new_request(status)
            self._occurred_at = status.occurred_at or self._occurred_at
        self._unchanged = 0 if is_new else self._unchanged + 1
        if previous is not None:
            if is_new and source == "webhook":  # the status lasted until now
                self._learn(previous, now, ended=False)
                self._polled_at = now
            self._learn(previous, now, ended=is_new)
        elif source == "webhook":
            self._began_at, self._is_first = now, False  # its beginning was observed
        self._polled_at = now
        if is_new and status.is_final:
            self.ended_by = "a final status"
        else:
            try:
                self._schedule_next(now, None)
            except BaseException:  # the schedule's: the transition was not delivered, so a resumed wait must see it
                self.last, self._occurred_at = known
                raise
        if not is_new:
            return None
        elapsed = now - self.started_at
        return Transition(previous=previous, current=status, elapsed=elapsed, polls=self.polls, source=source)

    def _is_new_request(self, status: ProductionStatus) -> bool:
        """Whether the same status has another `occurred_at`: the card was sent to the kiosk again.

        A missing or malformed time decides nothing: the new one is compared with the last one known of this status.
        """
        if self._event is not None or self.polls == 1:  # what is known may be an event's, in whole seconds
            return compare_times(status.occurred_at, self._occurred_at) is not Order.UNDECIDED
        return None not in (status.occurred_at, self._occurred_at) and status.occurred_at != self._occurred_at

    # --- The schedule ---

    def _learn(self, previous: ProductionStatus, now: float, *, ended: bool) -> None:
        """Pass to a schedule that learns how long the card stayed in a status, and set when the new one began."""
        schedule = self._options.schedule
        if isinstance(schedule, AdaptiveSchedule) and self.last is not None:
            schedule.learn(
                previous.status,
                self._polled_at - self._began_at,
                now - self._began_at,
                now,
                is_first=self._is_first,
                ended=ended,
                is_final=ended and self.last.is_final,
                unchanged=self._unchanged,
                requests_per_second=self._options.requests_per_second,
            )
        if ended:
            self._is_first = False
            self._began_at = (self._polled_at + now) / 2  # the best estimate

    def _schedule_next(self, now: float, failure: CardprodError | None) -> None:
        if self.next_poll_at >= self._deadline_at:
            self.ended_by = self._timed_out(now, failure)
            return
        gap, urgent = self._gaps(now, now, self._options.random())
        if failure is not None and isinstance(self._options.schedule, AdaptiveSchedule):
            least = self._options.schedule.delay(self.failures - 1, self._options.random())
            gap, urgent = max(gap, least), max(urgent, least)
        self._schedule_at(now, gap, urgent, failure)

    def _schedule_at(self, now: float, gap: float, urgent: float, failure: CardprodError | None) -> None:
        try:
            seconds = check_delay("a schedule's delay", gap)
        except UsageError as error:
            error.card = self.card
            self.ended_by = error.with_traceback(None)
            return
        last_at = now if now > self._deadline_at else self._deadline_at
        self.next_poll_at = self.urgent_at = now + seconds if now + seconds < last_at else last_at
        if urgent > gap:
            self.urgent_at = now + urgent if now + urgent < last_at else last_at
        if failure is not None:
            retry_at = now + _retry_after(failure)
            self.next_poll_at = max(self.next_poll_at, retry_at)
            self.urgent_at = max(self.urgent_at, retry_at)

    def _gaps(self, at: float, now: float, jitter: float) -> tuple[float, float]:
        """Return after how many seconds from a time on the next poll is due, and after how many it is urgent."""
        schedule = self._options.schedule
        if not isinstance(schedule, AdaptiveSchedule) or self.last is None:
            delay = schedule.delay(self._unchanged, jitter)
            return delay, delay
        return schedule.gaps_at(
            self.last.status,
            at - self._began_at,
            now,
            jitter,
            is_first=self._is_first,
            unchanged=self._unchanged,
            least_gap=self._options.least_gap,
        )

    # --- How it ends ---

    def _timed_out(self, now: float, failure: CardprodError | None) -> WaitTimeout:
        return timed_out(self.card, self.last, self.polls, now - self.started_at, failure)

    def _over(self) -> UsageError:
        return UsageError("this wait is over: ask the client for another", card=self.card)

    # --- Saved and restored ---

    def save(self, now: float, wall_now: float, undelivered: Sequence[Transition] = ()) -> PendingCard:
        """Return the state as a value, for another `PollState` to restore.

        A wait that ended with an error is saved as pending, with a poll due at once.

        Args:
            now: The time.
            wall_now: The time in seconds since 1970.
            undelivered: Transitions that were seen but not delivered.
        """
        ahead = wall_now - now
        event_at, event_sent_at = (None, None) if self._event is None else self._event
        failures, failing_since = self._failing
        is_seen = self.last is not None
        return PendingCard(
            card=self.card,
            started_at=unix_time(self.started_at + ahead),
            deadline_at=None if math.isinf(self._deadline_at) else unix_time(self._deadline_at + ahead),
            next_poll_at=unix_time((now if self.is_over else self.next_poll_at) + ahead),
            polls=min(self.polls, MOST),
            failures=min(failures, MOST if self.error is None else self._options.max_failures - 1),
            unchanged=min(self._unchanged, MOST),
            last=self.last,
            known_at=self._occurred_at if self.last is None or self.last.occurred_at is None else None,
            began_at=unix_time(self._began_at + ahead) if is_seen else None,
            polled_at=unix_time(self._polled_at + ahead) if is_seen else None,
            is_first=self._is_first,
            event_at=None if event_at is None else unix_time(event_at + ahead),
            event_sent_at=event_sent_at,
            failing_since=unix_time(failing_since + ahead) if is_seen and failures and self.error is None else None,
            is_after=self.last is not None and self.last.is_final and self.ended_by != "a final status",
            undelivered=tuple(undelivered),
        )

    def restore(self, saved: PendingCard, now: float, wall_now: float) -> None:
        """Restore the state that another `PollState` of the same card has saved.

        Args:
            saved: The state.
            now: The time.
            wall_now: The time in seconds since 1970.
        """

        def at(moment: int) -> float:
            return now + (moment / 1e6 - wall_now)

        # The clock of the machine that saved it may be ahead. What was saved has happened: no schedule must learn from
        # times in the future, nor an answer be taken for one that lags behind an event of then.
        self.started_at = min(at(saved.started_at), now)
        self._deadline_at = math.inf if saved.deadline_at is None else at(saved.deadline_at)
        self.next_poll_at = self.urgent_at = at(saved.next_poll_at)
        self.polls = saved.polls
        self._failing = _NOT_FAILING
        if saved.failures:
            self._failing = saved.failures, now if saved.failing_since is None else min(at(saved.failing_since), now)
        self._unchanged = saved.unchanged
        self.last = saved.last
        self._occurred_at = saved.known_at if saved.last is None else saved.last.occurred_at or saved.known_at
        polled_at, began_at = (saved.started_at if one is None else one for one in (saved.polled_at, saved.began_at))
        self._polled_at = min(at(polled_at), now)
        self._began_at = min(at(began_at), self._polled_at)
        self._is_first = saved.is_first
        self._event = None if saved.event_at is None else (min(at(saved.event_at), now), saved.event_sent_at)
        if saved.has_ended:
            self.ended_by = "a final status"
        elif isinstance(self._options.schedule, AdaptiveSchedule) and self.last is not None and not self.failures:
            urgent_at = self._polled_at + self._gaps(self._polled_at, now, 0.5)[1]
            self.urgent_at = max(self.next_poll_at, min(urgent_at, self._deadline_at))


def _is_refusal(failure: CardprodError) -> bool:
    """Whether no later poll can succeed. An answer that is not the API's own, but a gateway's, refuses nothing."""
    if isinstance(failure, _REFUSALS):
        return not failure.from_gateway
    return isinstance(failure, UsageError)


def _retry_after(failure: CardprodError) -> float:
    """Return for how many seconds a server that was overloaded or failed asks not to be polled.

    After a 429 no longer than the client pauses: its probe shows whether it may go on.
    """
    if not (isinstance(failure, ApiError) and is_transient(failure)):
        return 0.0
    seconds = failure.retry_after or 0.0
    return min(seconds, LONGEST_PAUSE) if isinstance(failure, RateLimited) else seconds


def _differs(status: ProductionStatus, known: ProductionStatus, known_at: datetime | None) -> bool:
    """Whether a status is another than the final one that a wait goes on from.

    A time that is missing in the new one decides nothing, nor does an error code that only one of the two has.
    """
    if status.status != known.status:
        return True
    if None not in (status.error_code, known.error_code) and status.error_code != known.error_code:
        return True
    if known_at is None:
        return status.occurred_at is not None
    return compare_times(status.occurred_at, known_at) is not Order.UNDECIDED


def timed_out(
    card: Card, last: ProductionStatus | None, polls: int, elapsed: float, failure: BaseException | None
) -> WaitTimeout:
    """Make the error of a wait whose time ran out; `failure` is that of its last poll, if that failed."""
    missing, seen, advice = "not final", "nothing was seen", "the card may still be produced, so wait again"
    if last is not None:
        seen = f"{'nothing newer than' if last.is_final else 'last seen'} {one_line(last.status, 100)}"
        if last.is_final:  # what the wait goes on from
            missing, advice = "not PRODUCED", "if the card is sent to the kiosk again, wait for that with after="
        if last.is_produced:
            missing, advice = "nothing new", "the card was produced already when this wait began"
    if failure is not None:
        advice = f"the last poll failed: {one_line(str(failure.args[0]), _SHOWN_FAILURE)}"
    # Never more than it was: a wait of half a second is not one of 1 s.
    seconds = math.floor(elapsed * 10 + 1e-6) / 10
    message = f"{missing} after {seconds:.10g} s and {polls} answered polls: {seen}; {advice}"
    error = WaitTimeout(message, last=last, polls=polls, elapsed=elapsed, card=card)
    error.__cause__ = failure
    return error
