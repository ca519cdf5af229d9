"""`Poller`, the engine: the one place that polls a card, applies what comes to its state, and reports it.

An interface is what a user holds: a `Wait` for one card, a batch (`Waits`), or a sweep. Each chooses which card is
polled next, acquires the permit for that, and takes the transitions, by its own kind of `PollEntry`. The rest is here,
once: a poll is shared with all who wait for the card and cut off at the deadline; a failure, an answer and an event
change the state in the same way; logs and observers get the same telemetry; what a user's schedule or token source
raises ends the interface that it belongs to, and no other.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from cardprod._http.limiter import LimiterQueue, WouldBlock
from cardprod._http.time_limit import CutOff
from cardprod._polling.state import PollState
from cardprod.checkpoint import wall_clock
from cardprod.errors import CardprodError, RateLimited, RequestTimeout, UsageError, WaitTimeout
from cardprod.telemetry import PollEnded, PollFailed, PollStarted, TransitionSeen, WaitEnded, WaitStarted

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from cardprod._http.limiter import Permit
    from cardprod._http.transport import Transport
    from cardprod._polling.subscriptions import Outcome, SharedPoll, Subscriptions
    from cardprod.models import Card, ProductionEvent, ProductionStatus, Transition
    from cardprod.telemetry import Telemetry


class PollEntry(PollState):
    """One card that is waited for, as the engine sees it. Each interface has a kind of its own.

    After every change the engine calls `on_change`: the one place where an interface moves a card on.
    """

    __slots__ = ()

    aborts_on_usage_errors: ClassVar[bool] = False
    """Whether a `UsageError`, as of a closed client, ends the interface, and not only this card's wait."""

    @property
    @abstractmethod
    def poller(self) -> Poller:
        """The engine."""

    @abstractmethod
    def deliver(self, transition: Transition) -> None:
        """Take a transition, to be delivered to the user."""

    @abstractmethod
    def on_change(self) -> None:
        """Schedule its next poll, or, if its wait is over, end it: its state has changed."""

    @abstractmethod
    def abort(self, error: BaseException) -> None:
        """End the interface, by an error that is not this card's: a schedule's own, a token source's."""

    def on_poll_ended(self) -> None:
        """Note that its own poll has ended. If that has an outcome, it is applied next."""

    def postpone(self, now: float, gap: float) -> bool:
        try:
            return super().postpone(now, gap)
        except BaseException as exc:  # noqa: BLE001 - a user's schedule's own
            raise _error_of_schedule(exc)  # noqa: B904 - it has its cause

    def _timed_out(self, now: float, failure: CardprodError | None) -> WaitTimeout:
        return super()._timed_out(now, failure or self.poller.pause_error(self.card))

    # --- A subscriber ---

    def take_outcome(self, outcome: Outcome) -> None:
        """Take the outcome of somebody else's poll of the card."""
        self.poller.apply(self, outcome)

    def take_event(self, event: ProductionEvent, wall_now: float) -> bool:
        """Take an event of the card. Return whether it was news."""
        return self.poller.apply_event(self, event, wall_now)

    @abstractmethod
    def on_shared_poll_lost(self) -> None:
        """Poll the card itself: another wait's poll, which it followed, has ended without an outcome for it."""


class Poller:
    """Polls cards for every interface.

    Args:
        transport: What sends the requests.
        subscriptions: Who waits for which card.
        telemetry: Where events go.
    """

    def __init__(self, transport: Transport, subscriptions: Subscriptions, telemetry: Telemetry) -> None:
        self.transport: Transport = transport
        """What sends the requests."""
        self.subscriptions: Subscriptions = subscriptions
        """Who waits for which card."""
        self.telemetry: Telemetry = telemetry
        """Where events go."""
        self.single_wait_queue: LimiterQueue = LimiterQueue()
        """The queue of waits for one card each, which have the share of one batch together. Their first and last polls
        are not in it, but single polls, as those of `get_status`."""
        self.sleeping: set[PollEntry] = set()
        """The waits for one card each that sleep until their next poll."""
        self._ends_to_report: set[int] = set()  # the waits whose end the observer is still to get

    def close(self) -> None:
        """Wake the waits that sleep, because the client is being closed: they end when they run."""
        loop = self.transport.loop
        if loop is not None and not loop.is_closed():  # else nothing of them will ever run
            for entry in self.sleeping:
                entry.on_change()

    def is_usable_for(self, entry: PollEntry) -> bool:
        """Whether requests can be sent. If not, as the client was closed, the wait ends with the error that says so."""
        try:
            self.transport.check_usable()
        except UsageError as error:
            self.apply(entry, error.with_traceback(None))
            return False
        return True

    # --- A wait begins and ends ---

    def begin(self, entry: PollEntry) -> None:
        """Begin a wait: it gets the events and polls of its card."""
        self.subscriptions.join(entry.card, entry)
        self.report_start(entry)

    def report_start(self, entry: PollEntry) -> None:
        """Report that a wait has begun."""
        if self.telemetry.is_observed:
            self._ends_to_report.add(id(entry))
            self.telemetry.emit(WaitStarted(entry.card, id(entry)))

    def end(self, entry: PollEntry, error: Exception | None = None) -> None:
        """End a wait, or leave it. Only the first time counts."""
        self.subscriptions.leave(entry.card, entry)
        self._report_end(entry, error)

    def _report_end(self, entry: PollEntry, error: Exception | None) -> None:
        if id(entry) in self._ends_to_report:
            self._ends_to_report.discard(id(entry))
            self.telemetry.emit(WaitEnded(entry.card, id(entry), error))

    # --- A poll ---

    def request(
        self,
        card: Card,
        queue: LimiterQueue | None = None,
        permit: Permit | None = None,
        wait_id: int | None = None,
    ) -> Coroutine[object, object, ProductionStatus]:
        """Request a card's status, with its retries. For a poll that belongs to no wait, this is all.

        Args:
            card: Which card.
            queue: The batch it is for; None for one that somebody awaits alone.
            permit: One that was acquired, for the first attempt.
            wait_id: Which wait it is for.

        Raises:
            CardprodError, WouldBlock: As `Transport.request`.
        """
        if self.telemetry.wants_everything:
            return self._reported_request(card, queue, permit, wait_id)
        return self.transport.request(card, queue, permit)

    async def _reported_request(
        self, card: Card, queue: LimiterQueue | None, permit: Permit | None, wait_id: int | None
    ) -> ProductionStatus:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        outcome: Outcome | None = None
        self.telemetry.emit(PollStarted(card, wait_id))
        try:
            outcome = await self.transport.request(card, queue, permit)
        except CardprodError as error:
            outcome = error
            raise
        else:
            return outcome
        finally:
            self.telemetry.emit(PollEnded(card, wait_id, loop.time() - began_at, outcome))
            del outcome  # if it is an error, its traceback holds this frame: separate them

    async def poll_once(
        self,
        entry: PollEntry,
        shared: SharedPoll,
        queue: LimiterQueue | None = None,
        permit: Permit | None = None,
        cut_off: CutOff | None = None,
    ) -> bool:
        """Poll a card once, and apply the outcome to its state and to everybody else's who waits for it.

        Args:
            entry: The card.
            shared: The poll, as it was begun in the subscriptions; it is ended here.
            queue: The batch it is for, or `single_wait_queue`; None for a single poll.
            permit: The permit that the interface has acquired, to be used or given back; None to acquire one.
            cut_off: A `CutOff` that the interface has started, to end the poll at the card's deadline or earlier; None
                to make one that ends it at the deadline.

        Returns:
            Whether there was an outcome: none if requests are paused, an event made it unnecessary, or the interface
            was ended.
        """
        outcome: Outcome | None = None
        own: CutOff | None = None
        if cut_off is None and (cut_off_at := entry.cut_off_at) is not None:
            cut_off = own = CutOff()
            own.start(cut_off_at)
        try:
            outcome = await self.request(entry.card, queue, permit, id(entry))
        except WouldBlock:
            pass
        except CardprodError as error:
            # Without its traceback, whose frames hold the card's state, which may hold the error: no cycle is left.
            outcome = _outcome_of_failure(error.with_traceback(None), entry, queue)
        except asyncio.CancelledError:
            if cut_off is None or not cut_off.stop():
                raise
            shared.end(None)  # the others who wait for the card have more time
            outcome = None if cut_off.is_called_off else self._outcome_at_deadline(entry)
        except Exception as exc:  # noqa: BLE001 - a token source's own, or a fault of this package
            entry.abort(exc)
        finally:
            if cut_off is not None:
                cut_off.stop()
            if own is not None:
                own.close()
            entry.on_poll_ended()
            shared.end(outcome)  # no effect if it was ended above
        if outcome is None:
            return False
        self.apply(entry, outcome)
        return True

    def pause_error(self, card: Card) -> RequestTimeout | None:
        """Return why no poll is possible at this moment, if requests are paused."""
        seconds = self.transport.paused_for
        if seconds <= 0:
            return None
        return RequestTimeout(
            f"requests are paused for {seconds:.0f} s more, after a 429 or `pause`: wait longer", card=card
        )

    def _outcome_at_deadline(self, entry: PollEntry) -> RequestTimeout:
        """Return the outcome of a poll that the deadline has ended; it is the last one."""
        if (cut_off_at := entry.cut_off_at) is not None:
            entry.delay_until(cut_off_at)  # the loop's clock may still be a little before it
        why = "no answer for this card came within the wait's time: wait again"
        return self.pause_error(entry.card) or RequestTimeout(why, card=entry.card)

    # --- What comes ---

    def apply(self, entry: PollEntry, outcome: Outcome) -> None:
        """Apply the outcome of a poll, one's own or somebody else's, to a card's state."""
        if entry.ended_by is not None:
            return
        now = asyncio.get_running_loop().time()
        transition: Transition | None = None
        try:
            if isinstance(outcome, CardprodError):
                outcome.card = entry.card  # one that came before a request, as of a closed client, names none yet
                entry.process_failure(outcome, now)
            else:
                transition = entry.process_status(outcome, now)
        except BaseException as exc:  # noqa: BLE001 - a user's schedule's own
            entry.abort(_error_of_schedule(exc))
            return
        if transition is not None and transition.previous is not None:
            self.subscriptions.trust.found(entry.card, transition.current, now)
        self.settle(entry, transition)
        if isinstance(outcome, CardprodError):
            if entry.ended_by is None:
                self.telemetry.emit(PollFailed(entry.card, id(entry), outcome, entry.failures))
        elif transition is not None and transition.previous is None:
            event = self.subscriptions.recent_event(entry.card)
            if event is not None:
                self.apply_event(entry, event, wall_clock())

    def apply_event(self, entry: PollEntry, event: ProductionEvent, wall_now: float) -> bool:
        """Apply an event to a card's state. Return whether it was news."""
        if entry.is_over:
            return False
        try:
            transition = entry.process_event(event, asyncio.get_running_loop().time(), wall_now)
        except BaseException as exc:  # noqa: BLE001 - as above
            entry.abort(_error_of_schedule(exc))
            return False
        if transition is None:
            return False
        self.settle(entry, transition)
        return True

    def expire_follower(self, entry: PollEntry) -> None:
        """Apply a card's deadline, which came while it followed another wait's poll; that poll goes on."""
        self.apply(entry, self._outcome_at_deadline(entry))

    def settle(self, entry: PollEntry, transition: Transition | None = None) -> None:
        """Deliver what was seen of a card, and move it on. Must be called after every change of its state.

        Args:
            entry: The card.
            transition: Its transition; None if it expired, its poll was postponed or nothing came of it.
        """
        # Everything is in its place before an observer is called: it may call the client.
        if transition is not None:
            entry.deliver(transition)
        if entry.ended_by is not None:
            self.subscriptions.leave(entry.card, entry)
        entry.on_change()
        if transition is not None and self.telemetry.wants_transitions:
            self.telemetry.emit(TransitionSeen(entry.card, id(entry), transition))
        if self._ends_to_report and entry.is_over:
            self._report_end(entry, entry.error)


def _outcome_of_failure(error: CardprodError, entry: PollEntry, queue: LimiterQueue | None) -> Outcome | None:
    """Return a failure as an outcome; None if it says nothing about the card, or if it has ended the interface."""
    if isinstance(error, RateLimited) and queue is not None and not queue.waits_for(error):
        return None
    if entry.aborts_on_usage_errors and isinstance(error, UsageError):
        entry.abort(error)
        return None
    return error


def _error_of_schedule(exc: BaseException) -> BaseException:
    """Return what ends the waits of a schedule that raised. It awaits nothing, so a cancellation is its own."""
    if isinstance(exc, KeyboardInterrupt | SystemExit):
        raise exc
    if not isinstance(exc, asyncio.CancelledError):
        return exc
    error = UsageError("the schedule was cancelled by something it asked: make its delay method return seconds")
    error.__cause__ = exc
    return error
