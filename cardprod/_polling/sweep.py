"""`Sweep`: one pass over the waits of a checkpoint, for job engines: each due card is polled once, without sleeping."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import attrs

from cardprod._http.limiter import LimiterQueue, WouldBlock
from cardprod._polling.poller import PollEntry
from cardprod._polling.queue import TICK
from cardprod._protocol.codec import as_datetime, unix_time
from cardprod._protocol.validation import MOST
from cardprod.checkpoint import wall_clock
from cardprod.errors import CardprodError, Unauthorized, WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from cardprod._http.limiter import Permit
    from cardprod._polling.poller import Poller
    from cardprod._polling.state import PollOptions
    from cardprod._polling.subscriptions import SharedPoll
    from cardprod.checkpoint import Checkpoint, PendingCard
    from cardprod.models import Card, ProductionEvent, Transition

_TOGETHER: Final = 0.1
"""Cards that are due later than the first, by up to this share of the time until then, are polled together with it."""


@attrs.frozen(kw_only=True)
class Sweep:
    """The result of one sweep.

    Args:
        steps: What to deliver, in the order it was seen: cards, each with a `Transition`, or with the `CardprodError`
            that ended its wait.
        checkpoint: The waits as they are now. Store it in one transaction with your processing of the steps, if you
            can: a sweep of the old checkpoint would deliver the steps again.
        next_poll_at: When to sweep again, aware and in UTC; None if every wait has ended. It includes cards that are
            due a little later than the first.
        polls: How many polls were answered or failed.
    """

    steps: tuple[tuple[Card, Transition | CardprodError], ...]
    checkpoint: Checkpoint
    next_poll_at: datetime | None
    polls: int


async def sweep(  # noqa: PLR0913 - what it works with, and how
    checkpoint: Checkpoint,
    poller: Poller,
    options: PollOptions,
    *,
    stop: asyncio.Event | None,
    events: Sequence[ProductionEvent] = (),
    clock: Callable[[], float] = wall_clock,
    refusals: list[Unauthorized] | None = None,
) -> Sweep:
    """Apply events, and poll once every card that is due.

    Args:
        checkpoint: The waits.
        poller: The engine.
        options: The options of the waits.
        stop: Once it is set, no further poll starts.
        events: Webhook events, in the order they came.
        clock: Returns the time in seconds since 1970, as the checkpoint has it.
        refusals: If it is given, a refused token ends no wait: the cards stay due, no further poll starts, and the
            error is added here.

    Raises:
        UsageError: The client is closed or not usable.
    """
    poller.transport.check_usable()
    loop = asyncio.get_running_loop()
    now, wall_now = loop.time(), clock()
    this = _Pass(poller, refusals)
    entries: list[_Entry] = []
    for saved in checkpoint.pending:
        entry = _Entry(saved.card, options, now, this)
        entry.restore(saved, now, wall_now)
        this.steps.extend((saved.card, transition) for transition in saved.undelivered)
        if not entry.is_over:
            entries.append(entry)
    cards = {event.card for event in events}
    begun = [entry for entry in entries if entry.card in cards or _due_at(entry) <= now + TICK]
    for entry in begun:
        poller.begin(entry)
    try:
        for event in events:
            poller.subscriptions.notify(event, wall_now)
        due = [entry for entry in begun if not entry.is_over and _due_at(entry) <= now + TICK]
        due.sort(key=lambda entry: entry.urgent_at)
        await this.poll_all(due, stop)
        this.expire(due)
    finally:
        for entry in begun:
            poller.end(entry)

    now, wall_now = loop.time(), clock()
    paused_until = now + poller.transport.paused_for
    pending: list[PendingCard] = []
    for entry in entries:
        if not entry.is_over:
            pending.append(entry.save(now, wall_now))
        elif isinstance(entry.error, WaitTimeout):
            entry.error.checkpoint = attrs.evolve(checkpoint, pending=(entry.save(now, wall_now),))
    next_poll_at = _next_of([_due_at(entry, paused_until) for entry in entries if not entry.is_over], now)
    return Sweep(
        steps=tuple(this.steps),
        checkpoint=attrs.evolve(checkpoint, sweep=min(checkpoint.sweep + 1, MOST), pending=tuple(pending)),
        next_poll_at=None if next_poll_at is None else as_datetime(unix_time(wall_now + next_poll_at - now)),
        polls=this.polls,
    )


def _due_at(entry: PollEntry, paused_until: float = -math.inf) -> float:
    """Return when a card's next poll is due, or its wait ends without one: a pause or a `Retry-After` is longer."""
    return min(max(entry.next_poll_at, paused_until), entry.expires_at)


def _next_of(dues: Iterable[float], now: float) -> float | None:
    """Return when to poll again: when the first card is due, or a little later, together with the next ones."""
    dues = sorted(dues)
    if not dues:
        return None
    until = dues[0] + max(0.0, dues[0] - now) * _TOGETHER
    return max(due for due in dues if due <= until)


class _Entry(PollEntry):
    """One card of a sweep."""

    __slots__ = ("_pass",)

    aborts_on_usage_errors = True  # the wait must not end with it: the checkpoint is still valid for another client

    def __init__(self, card: Card, options: PollOptions, now: float, this: _Pass) -> None:
        super().__init__(card, options, now)
        self._pass = this

    @property
    def poller(self) -> Poller:
        return self._pass.poller

    def deliver(self, transition: Transition) -> None:
        self._pass.steps.append((self.card, transition))

    def on_change(self) -> None:
        if self.error is not None:
            self._pass.steps.append((self.card, self.error))

    def abort(self, error: BaseException) -> None:
        self._pass.abort(error)

    def process_failure(self, failure: CardprodError, now: float) -> None:
        if self._pass.is_refused_by(failure):
            if self.expires_at <= now + TICK:
                self.expire(now)
        else:
            super().process_failure(failure, now)

    def on_shared_poll_lost(self) -> None:
        """Do nothing: a card of a sweep does not wait for another wait's poll, but stays due."""


class _Pass:
    """The polls of one sweep."""

    def __init__(self, poller: Poller, refusals: list[Unauthorized] | None) -> None:
        self.poller: Poller = poller
        """The engine."""
        self._refusals = refusals
        self.steps: list[tuple[Card, Transition | CardprodError]] = []
        """What to deliver."""
        self.polls: int = 0
        """How many polls were answered or failed."""
        self._requests = LimiterQueue(waits_for_pauses=False)
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None  # what waits for permits and starts the polls
        self._aborted_by: BaseException | None = None

    async def poll_all(self, due: Sequence[_Entry], stop: asyncio.Event | None) -> None:
        """Poll each card as permits are granted, until requests are paused, `stop` is set, or it is aborted."""
        loop = asyncio.get_running_loop()
        self._starting = starting = loop.create_task(self._start_all(due, stop))
        stopping = None if stop is None else loop.create_task(_cancel_at(stop, starting))
        try:
            await asyncio.wait({starting})
            while self._tasks and self._aborted_by is None:
                await asyncio.wait(self._tasks)
        finally:
            tasks = {starting, *self._tasks, *(() if stopping is None else (stopping,))}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not starting.cancelled() and (error := starting.exception()) is not None:
            self._aborted_by = self._aborted_by or error
        error, self._aborted_by = self._aborted_by, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: break the cycle

    def abort(self, error: BaseException) -> None:
        """End the sweep with an error that is not about one card."""
        self._aborted_by = self._aborted_by or error
        self._start_no_more()
        for task in self._tasks:
            task.cancel()

    def is_refused_by(self, failure: CardprodError) -> bool:
        """Whether a failure is a refusal of the token that ends no wait here, but the sweep's further polls."""
        if self._refusals is None or not isinstance(failure, Unauthorized) or failure.from_gateway:
            return False
        self._refusals.append(failure)
        self._start_no_more()
        return True

    def _start_no_more(self) -> None:
        if self._starting is not None:
            self._starting.cancel()

    def expire(self, due: Sequence[_Entry]) -> None:
        """End the waits whose deadline passed while a pause, or a `Retry-After`, forbade their last poll."""
        now, is_paused = asyncio.get_running_loop().time(), self.poller.transport.paused_for > 0
        for entry in due:
            if not entry.is_over and entry.expires_at <= now + TICK and (is_paused or entry.next_poll_at > now + TICK):
                entry.expire(now)
                self.poller.settle(entry)

    def _can_wait(self, entry: _Entry, now: float) -> bool:
        """Whether a poll that is due need not begin: an event showed the card of late, or the budget is short."""
        if entry.postpone(now, self.poller.subscriptions.trust.gap(now)):
            self.poller.settle(entry)
            return True
        if entry.urgent_at > now + TICK and not self.poller.transport.limiter.has_spare(now):
            entry.defer(now)
            return True
        return False

    def _has_ended(self, stop: asyncio.Event | None) -> bool:
        return (stop is not None and stop.is_set()) or bool(self._refusals) or self._aborted_by is not None

    async def _start_all(self, due: Sequence[_Entry], stop: asyncio.Event | None) -> None:
        loop = asyncio.get_running_loop()
        for entry in due:
            if self._has_ended(stop):
                return
            now = loop.time()
            if self._can_wait(entry, now):
                continue
            try:
                permit = await self.poller.transport.acquire(self._requests)
            except WouldBlock:
                return
            now = loop.time()
            if entry.is_over or entry.next_poll_at > now + TICK or self._has_ended(stop):
                permit.give_back()  # an event or another wait's poll came first
                continue
            entry.delay_until(now)
            shared = self.poller.subscriptions.begin_poll(entry.card, entry, now)

            async def poll(entry: _Entry = entry, shared: SharedPoll = shared, permit: Permit = permit) -> None:
                if await self.poller.poll_once(entry, shared, self._requests, permit):
                    self.polls += 1

            def ended(task: asyncio.Task[None], shared: SharedPoll = shared, permit: Permit = permit) -> None:
                self._tasks.discard(task)
                if not task.cancelled() and (error := task.exception()) is not None:
                    self.abort(error)  # of a token source, and no Exception, such as pytest's
                shared.end(None)  # if the task was cancelled before it ran
                permit.give_back()

            task = loop.create_task(poll())
            self._tasks.add(task)
            task.add_done_callback(ended)


async def _cancel_at(stop: asyncio.Event, task: asyncio.Task[None]) -> None:
    await stop.wait()
    task.cancel()
