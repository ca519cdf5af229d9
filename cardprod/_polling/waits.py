"""`Waits`: waiting for very many cards. They lie in one queue while they wait; only polls under way are tasks.

At most three tasks run beside the polls: one takes cards from their source, one waits for the next card that is due,
and one for the next deadline that passes.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from cardprod._polling.bulk import Batch
from cardprod._polling.card_source import TimeSlice, each_item
from cardprod._polling.poller import PollEntry
from cardprod._polling.queue import TICK, Phase, PollQueue, QueuedState
from cardprod._polling.signal import Signal
from cardprod._polling.subscriptions import SharedPoll
from cardprod._protocol.validation import check_timeout
from cardprod.checkpoint import known_status, wall_clock
from cardprod.errors import CardprodError, UsageError, WaitTimeout
from cardprod.models import Card, ProductionStatus, Transition, check_known

if TYPE_CHECKING:
    from cardprod._http.limiter import Permit
    from cardprod._polling.bulk import Batches
    from cardprod._polling.card_source import Cards
    from cardprod._polling.poller import Poller
    from cardprod._polling.state import PollOptions, PollState
    from cardprod._polling.subscriptions import Outcome
    from cardprod.checkpoint import After, Checkpoint, PendingCard
    from cardprod.models import CardLike

_NOTHING_KNOWN: Final[After] = MappingProxyType[Card, ProductionStatus]({})


class _Entry(QueuedState, PollEntry):
    """One card of a batch."""

    # Of 1,000,000 cards each byte is a megabyte.
    __slots__ = ("batch",)

    batch: Waits
    """The batch."""

    @property
    def poller(self) -> Poller:
        return self.batch.poller

    def deliver(self, transition: Transition) -> None:
        self.batch.deliver(self, transition)

    def on_change(self) -> None:
        self.batch.on_change(self)

    def abort(self, error: BaseException) -> None:
        self.batch.break_off(error)

    def take_outcome(self, outcome: Outcome) -> None:
        """Take the outcome of another's poll; if there is no room for it, it is dropped, and the card due again."""
        if self.batch.is_held_back:
            self.on_shared_poll_lost()
        else:
            super().take_outcome(outcome)

    def on_shared_poll_lost(self) -> None:
        if self.phase is Phase.FOLLOWING and self.ended_by is None:
            self.delay_until(asyncio.get_running_loop().time())
            self.on_change()


class Waits(Batch[Transition]):
    """Waiting for many cards. Await it for a dict of how each ended, or iterate it for each transition as it is seen.

    ```python
    outcome = await client.wait_until_all_final(cards)  # dict[Card, ProductionStatus | CardprodError]

    async with client.wait_until_all_final(cards) as steps:
        async for card, step in steps:
            print(card, step)  # a Transition, or the CardprodError that ended this card's wait

    async with client.wait_until_all_final(None) as steps:  # open: cards come by steps.add(card)
        ...
    ```

    Cards are taken from their source as fast as it gives them, and a card's time runs from then. Cards that wait cost
    some hundred bytes each and no task; only polls under way are tasks. An error is a value: it ends its card's wait
    and no other; so is a `UsageError` for an item that is no card. A slow reader holds the polls back. Leaving the
    block ends it and leaves nothing behind.

    Raises (when awaited or iterated):
        UsageError: It was used before, or its client is closed or belongs to another event loop.
    """

    __name__: str = "wait_until_all_final"
    _named = "steps"

    def __init__(  # noqa: PLR0913 - what it is made of, and two ways to begin
        self,
        cards: Cards | None,
        poller: Poller,
        batches: Batches,
        options: PollOptions,
        *,
        batch_timeout: float | None = None,
        after: After = _NOTHING_KNOWN,
        resumed: Checkpoint | None = None,
    ) -> None:
        super().__init__(poller, batches)
        if resumed is not None:
            self.__name__ = "resume"
        self._source = cards
        self._known = after
        self._options = options
        self._batch_timeout = batch_timeout
        self._batch_deadline = math.inf
        self._no_expiry_before = -math.inf
        # The cards to resume. The one with the nearest deadline is the last, and so taken first.
        self._to_resume = {} if resumed is None else {one.card: one for one in _by_deadline(resumed)}
        self._sweep = 0 if resumed is None else resumed.sweep
        self._checkpoint_id = "" if resumed is None else resumed.id
        self._queue: PollQueue[_Entry] = PollQueue()
        self._wake_scheduler, self._wake_expirer = Signal(), Signal()
        self._sleeps_until = -math.inf  # when `_schedule_polls` wakes; -inf while it is awake
        self._running_polls, self._poll_ended = 0, Signal()  # tasks that poll; one has ended
        self._is_source_done = cards is None
        self._ended_cards: set[Card] = set()  # kept while the source may bring them again

    @property
    def poller(self) -> Poller:
        """The engine."""
        return self._poller

    @property
    def is_held_back(self) -> bool:
        """Whether the stream is full, of results alone; polls under way, which will add some, are not counted here."""
        return self._stream.is_full

    @staticmethod
    def _outcome_of(result: Transition | CardprodError) -> ProductionStatus | CardprodError | None:
        if isinstance(result, CardprodError):
            return result
        return result.current if result.current.is_final else None

    def checkpoint(self) -> Checkpoint:
        """Return the waits as they are, to continue elsewhere by `Client.resume` or `Client.sweep`. It stores nothing.

        What was delivered to you will not be delivered again; what was seen and not delivered yet comes first. Cards
        that are still in their source are not in it. It is made at once, so of a million cards it holds the event loop
        for some seconds. A schedule that is no `Backoff` is not in it: pass it again to `resume`.

        Raises:
            UsageError: The block is not entered yet, or left already: take it inside; or this is not its event loop.
        """
        if not self._is_entered or self._is_left:
            raise UsageError("take a checkpoint inside the `async with` block, before it is left or has ended")
        now, wall_now = _time("checkpoint"), wall_clock()
        undelivered: dict[Card, list[Transition]] = {}
        ended: list[PollState] = []  # their end is still in the stream; a card that was added again is in the queue too
        for card, result, state in self._stream:
            if isinstance(result, Transition):
                undelivered.setdefault(card, []).append(result)
            if state is not None and state.is_over:
                ended.append(state)
        saved = {
            state.card: state.save(now, wall_now, undelivered.get(state.card, ())) for state in (*ended, *self._queue)
        }
        self._checkpoint_id = self._checkpoint_id or str(uuid.uuid4())
        pending = tuple((self._to_resume | saved).values())
        return self._options.checkpoint(self._checkpoint_id, pending, sweep=self._sweep)

    # --- Cards come ---

    def add(self, card: CardLike, *, after: ProductionStatus | None = None, timeout: float | None = None) -> Card:
        """Wait for one more card, from this moment. One that is waited for already is not waited for twice.

        Args:
            card: The card, or a `(profile_id, card_token)` tuple.
            after: A status that you know already: what equals it is not reported and does not end the wait.
            timeout: Seconds to wait for this card, from now; None for the batch's `timeout`, `math.inf` for none.

        Returns:
            The card, as its results will name it.

        Raises:
            UsageError: The card or the status cannot be right; or the batch is not entered yet, has ended or was left;
                or this is not its event loop.
        """
        card = Card.of(card)
        if after is not None:
            check_known("after", after)
        check_timeout("timeout", timeout)
        if not self._is_entered:
            raise UsageError("this batch was not entered yet: add cards inside its `async with` block", card=card)
        if self._is_left or self._stream.is_broken:
            raise UsageError("this batch has ended; ask the client for another", card=card)
        now = _time("add")
        self._poller.transport.check_usable()
        if card not in self._to_resume:
            self._register(card, now, after, timeout)
        return card

    def no_more(self) -> None:
        """Say that no more cards will be added to a batch begun with None, so that it ends when all of them have.

        Raises:
            UsageError: It runs in an event loop, and this is another thread.
        """
        self._check_thread("no_more")
        if self._source is None:
            self._stream.finish()

    def _begin(self) -> None:
        if self._batch_timeout is not None:
            self._batch_deadline = asyncio.get_running_loop().time() + self._batch_timeout
        if self._to_resume:  # cards whose deadline passed while nothing ran have time for one last poll
            self._no_expiry_before = asyncio.get_running_loop().time() + self._options.last_poll_seconds
        if self._source is not None:
            source, self._source = self._source, ()  # a generator is closed as soon as nobody holds it
            self._run(lambda: self._feed(source))
        elif not math.isinf(self._batch_deadline):
            self._run(self._end_source_in_time)
        self._run(self._schedule_polls)
        self._run(self._expire)

    async def _end_source_in_time(self) -> None:
        """Let no more cards come to an open batch after its `batch_timeout`, or it would never end."""
        await asyncio.sleep(self._batch_deadline - asyncio.get_running_loop().time())
        self._stream.finish()

    async def _feed(self, source: Cards) -> None:
        loop = asyncio.get_running_loop()
        work = TimeSlice()
        while self._to_resume:
            self._resume(self._to_resume.popitem()[1], loop.time())
            await work.pause_if_over()
        limit = asyncio.timeout_at(None if math.isinf(self._batch_deadline) else self._batch_deadline)
        try:
            async with limit:
                async for item, card in each_item(source):
                    if isinstance(card, UsageError):
                        await self._refuse(item, card)
                    elif card not in self._ended_cards:
                        try:
                            self._register(card, loop.time())
                        except UsageError as exc:  # what is known of it is invalid
                            self._ended_cards.add(card)
                            await self._refuse(card, exc)
        except TimeoutError:
            if not limit.expired():
                raise
        self._is_source_done = True
        self._ended_cards.clear()
        self._stream.finish()

    def _resume(self, saved: PendingCard, now: float) -> None:
        """Deliver what was not delivered yet, and wait for the card as before."""
        entry = self._entry_of(saved.card, now, math.inf)
        entry.restore(saved, now, wall_clock())
        for transition in saved.undelivered:
            self.deliver(entry, transition)
        self._stream.count_card()
        if entry.last is not None and entry.is_over:
            # It was final already when it was saved: its last transition is among those that were just added.
            entry.phase = Phase.OVER
            self._stream.count_end(entry.last)
        else:
            self._poller.subscriptions.join(entry.card, entry)
            self._wait_for(entry, now)

    def _register(
        self, card: Card, now: float, after: ProductionStatus | None = None, timeout: float | None = None
    ) -> None:
        after = after or known_status(card, self._known)
        timeout = self._options.timeout if timeout is None else timeout
        deadline_at = self._batch_deadline if timeout is None else min(now + timeout, self._batch_deadline)
        entry = self._entry_of(card, now, deadline_at, after)
        others = self._poller.subscriptions.join(card, entry)
        if others and any(isinstance(one, _Entry) and one.batch is self for one in others):
            self._poller.subscriptions.leave(card, entry)
        else:
            self._stream.count_card()
            self._wait_for(entry, now)

    def _entry_of(self, card: Card, now: float, deadline_at: float, after: ProductionStatus | None = None) -> _Entry:
        entry = _Entry(card, self._options, now, deadline_at, after)
        entry.batch = self
        return entry

    def _wait_for(self, entry: _Entry, now: float) -> None:
        if self._queue.add(entry):
            self._wake_expirer.set()
        self._poller.report_start(entry)  # then it is in its place: an observer may notify it
        if now < self._sleeps_until:
            self._wake_scheduler.set()

    # --- Cards are polled ---

    async def _schedule_polls(self) -> None:
        """Start a task for each card that is due, until every place is taken; then each task takes the next card."""
        while True:
            entry, permit = await self._next_due()
            self._start_poll(entry, permit)
            while self._running_polls >= self._poller.transport.limiter.places:
                await self._poll_ended.wait_until(None)

    async def _next_due(self) -> tuple[_Entry, Permit]:
        """Wait until a card is due, there is room for what its poll finds, and there is a permit."""
        loop, subscriptions, transport = asyncio.get_running_loop(), self._poller.subscriptions, self._poller.transport
        work = TimeSlice()
        while True:
            now = loop.time()
            due_at = self._queue.due_at(now)
            if due_at > now + TICK:
                self._sleeps_until = due_at
                await self._wake_scheduler.wait_until(None if math.isinf(due_at) else due_at)
                self._sleeps_until = -math.inf
            elif (postponed := self._queue.postpone(now, subscriptions.trust.gap(now))) is not None:
                self._poller.settle(postponed)
            elif not self._stream.has_room:
                await self._room.wait_until(None)
            else:
                permit = await transport.acquire(self._requests)
                entry = self._queue.take(loop.time() + TICK, subscriptions.claim_poll)
                if entry is not None:
                    return entry, permit
                permit.give_back()
            await work.pause_if_over()

    def _start_poll(self, entry: _Entry, permit: Permit) -> None:
        """Poll a card in a task of its own."""
        shared = self._begin_poll(entry, asyncio.get_running_loop().time())

        def ended() -> None:
            shared.end(None)  # no effect if the task has run, and so ended it
            permit.give_back()
            self._stream.unreserve()
            self._running_polls -= 1
            self._poll_ended.set()

        self._stream.reserve()
        self._running_polls += 1
        self._run(lambda: self._poll(entry, shared, permit), ended)

    async def _poll(self, entry: _Entry, shared: SharedPoll, permit: Permit) -> None:
        """Poll a card; and then, while every place is taken, the next one that is due, which needs no new task."""
        loop, limiter, subscriptions = (
            asyncio.get_running_loop(),
            self._poller.transport.limiter,
            self._poller.subscriptions,
        )
        while True:
            if not await self._poller.poll_once(entry, shared, self._requests, permit):
                self._poller.settle(entry)  # nothing came of it, but its phase has changed
            await asyncio.sleep(0)  # so that polls that end together are followed by requests that are sent together
            now = loop.time()
            if self._running_polls < limiter.places or not self._stream.has_room or subscriptions.trust.gap(now) > 0:
                return  # `_schedule_polls` is awake, or has something to wait for or to postpone
            if (another := limiter.try_acquire(now, self._requests)) is None:
                return
            following = self._queue.take(now, subscriptions.claim_poll)
            if following is None:
                another.give_back()
                return
            entry, permit = following, another
            shared = self._begin_poll(entry, now)

    def _begin_poll(self, entry: _Entry, now: float) -> SharedPoll:
        entry.delay_until(now)
        return SharedPoll(self._poller.subscriptions, entry.card, entry, now)

    # --- What the engine asks for ---

    def deliver(self, entry: _Entry, transition: Transition) -> None:
        """Add a transition to the results."""
        self._stream.add((entry.card, transition, entry))

    def on_change(self, entry: _Entry) -> None:
        """Move a card on after a change: to its next poll, or, if its wait is over, out."""
        if self._is_left:
            return
        if self._queue.reschedule(entry):
            self._end_wait(entry)
        elif entry.next_poll_at < self._sleeps_until:
            self._wake_scheduler.set()

    def _end_wait(self, entry: _Entry) -> None:
        card, ended_by = entry.card, entry.ended_by
        if not self._is_source_done:
            self._ended_cards.add(card)
        if isinstance(ended_by, CardprodError):
            if isinstance(ended_by, WaitTimeout):
                saved = entry.save(asyncio.get_running_loop().time(), wall_clock())
                ended_by.checkpoint = self._options.checkpoint(str(uuid.uuid4()), (saved,))
            self._stream.add((card, ended_by, entry))
            self._stream.count_end(ended_by)
        elif entry.last is not None:
            self._stream.count_end(entry.last)

    # --- Cards expire ---

    async def _expire(self) -> None:
        """End the waits whose deadline passes without a permit for a last poll."""
        loop = asyncio.get_running_loop()
        work = TimeSlice()
        while True:
            at = max(self._queue.next_expiry(), self._no_expiry_before)
            if at > loop.time() + TICK:
                await self._wake_expirer.wait_until(None if math.isinf(at) else at)
                now, last_poll_seconds = loop.time(), self._options.last_poll_seconds
                if now > at + last_poll_seconds:  # nothing ran, as in a stopped process: there is time for last polls
                    self._no_expiry_before = now + last_poll_seconds
            elif self._stream.is_full:
                await self._wake_expirer.wait_until(None)  # `_on_room` wakes it
            else:
                for entry in islice(self._queue.expire(loop.time()), self._stream.room):
                    self._poller.settle(entry)
                await work.pause_if_over()

    def _on_room(self) -> None:
        super()._on_room()
        self._wake_expirer.set()

    async def _end(self) -> None:
        remaining = self._queue.clear()  # one by one, so the second loop goes on where the first was cancelled
        work = TimeSlice()
        try:
            for entry in remaining:
                self._poller.end(entry)
                await work.pause_if_over()
        finally:
            for entry in remaining:
                self._poller.end(entry)


def _time(name: str) -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError as exc:
        raise UsageError(f"{name} must be called in the event loop of the batch, whose clock it uses") from exc


def _by_deadline(checkpoint: Checkpoint) -> list[PendingCard]:
    """Sort the cards of a checkpoint, the one with the nearest deadline last."""
    return sorted(
        checkpoint.pending, key=lambda one: math.inf if one.deadline_at is None else one.deadline_at, reverse=True
    )
