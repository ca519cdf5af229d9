"""`Statuses` and `Waits`: very many cards. Cards that wait lie in one queue; only polls under way are tasks."""

from __future__ import annotations

import asyncio
import math
import uuid
from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from functools import partial
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from cardprod._http.limiter import LimiterQueue
from cardprod._polling.coroutine import CoroutineLike
from cardprod._polling.poller import PollEntry
from cardprod._polling.queue import TICK, Phase, PollQueue, QueuedState
from cardprod._polling.results import Progress, ResultStream
from cardprod._polling.signal import Signal
from cardprod.checkpoint import Checkpoint, wall_clock
from cardprod.errors import CardprodError, UsageError, WaitTimeout
from cardprod.models import Card, ProductionStatus, Transition

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Self

    from cardprod._http.limiter import Permit
    from cardprod._polling.poller import Poller
    from cardprod._polling.state import PollOptions
    from cardprod._polling.subscriptions import Outcome
    from cardprod.checkpoint import PendingCard
    from cardprod.models import CardLike

__all__ = ["Batches", "Cards", "Progress", "Statuses", "Waits", "check_source", "each"]

Cards: TypeAlias = "Iterable[CardLike] | AsyncIterable[CardLike]"
"""Where cards come from: anything that can be iterated, by `for` or `async for`."""

Batches: TypeAlias = "set[_Batch[Any]]"
"""The batches of one client that are under way."""

Outcomes: TypeAlias = "dict[Card, ProductionStatus | CardprodError]"

_T = TypeVar("_T")

_SLICE: Final = 0.004
"""Seconds of work, after which the event loop gets its turn."""
_CHECK_EVERY: Final = 16


class _Slice:
    """Work that lets the event loop have its turn every few milliseconds."""

    __slots__ = ("_began_at",)

    def __init__(self) -> None:
        self._began_at = perf_counter()

    async def pause_if_long(self) -> None:
        """Give the loop its turn, if this slice of work has taken long enough."""
        if perf_counter() - self._began_at > _SLICE:
            await asyncio.sleep(0)
            self._began_at = perf_counter()


class _Batch(CoroutineLike[Outcomes], Generic[_T]):
    """What polling many cards once and waiting for them have in common: a source, tasks, and a stream of results."""

    def __init__(self, cards: Cards | None, poller: Poller, batches: Batches) -> None:
        self._coroutine = None
        self._source = cards
        self._poller = poller
        self._batches = batches
        self._requests = LimiterQueue()
        self._room, self._refusable = Signal(), Signal()  # each for one waiter
        self._stream: ResultStream[tuple[Card, _T | CardprodError]] = ResultStream(self._on_room)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_entered = self._is_left = False

    @property
    def progress(self) -> Progress:
        """How far it is, at this moment."""
        return self._stream.progress(self._requests.requests)

    def __repr__(self) -> str:
        stream = self._stream
        return f"<{type(self).__name__}: {stream.pending} of {stream.total} cards pending, {stream.errors} errors>"

    def __del__(self) -> None:
        if not self._is_entered and self._coroutine is None:
            self._is_entered = True
            self._warn_unused()

    # --- Awaited ---

    def _start(self) -> Coroutine[Any, Any, Outcomes]:
        return self._collect()

    def close(self) -> None:
        """Give it up. Who awaits it at this moment gets a `UsageError`; leaving its block ends it otherwise."""
        self._is_entered = True
        if self._coroutine is not None and self in self._batches:
            self.break_off(UsageError("this batch was given up"))
        elif self._coroutine is not None:
            self._coroutine.close()

    async def aclose(self) -> None:
        """Give it up, as `contextlib.aclosing` does."""
        self.close()

    async def _collect(self) -> Outcomes:
        outcomes: Outcomes = {}
        async with self as pairs:
            async for card, result in pairs:
                if (outcome := self._outcome(result)) is not None:
                    outcomes[card] = outcome
        return outcomes

    @staticmethod
    @abstractmethod
    def _outcome(result: _T | CardprodError) -> ProductionStatus | CardprodError | None:
        """Return what a result makes of its card in the end; None if it is not the end."""

    # --- Iterated ---

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise UsageError("it can be used once; ask the client for another")
        self._poller.transport.check_usable()
        self._is_entered = True
        self._batches.add(self)
        self._begin()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_left = True
        self._batches.discard(self)
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            await self._end()
            self._stream.clear()

    def __aiter__(self) -> AsyncIterator[tuple[Card, _T | CardprodError]]:
        if not self._is_entered:
            raise UsageError("use it as `async with x as pairs: async for card, what in pairs`, or await it")
        return _Pairs(self._next_pair)

    async def _next_pair(self) -> tuple[Card, _T | CardprodError]:
        try:
            pair = await self._stream.read()
        except StopAsyncIteration:
            self._is_left = True
            raise
        self._was_read(*pair)
        return pair

    # --- The work ---

    @abstractmethod
    def _begin(self) -> None:
        """Start the work when the block is entered."""

    async def _end(self) -> None:
        """Clean up when the block is left, after every task has ended."""

    def _was_read(self, card: Card, result: _T | CardprodError) -> None:
        """Note that the reader has this result."""

    def _on_room(self) -> None:
        """Go on with what was held back because nobody read."""
        self._room.set()
        self._refusable.set()

    def break_off(self, error: BaseException) -> None:
        """End with this error, after what is there already, and begin no more polls."""
        if not self._stream.is_broken:
            self._stream.break_off(error)
            for task in self._tasks:
                task.cancel()

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]], on_end: Callable[[], None] | None = None) -> None:
        """Run something until it is done or the block is left; what it raises ends the batch.

        Args:
            work: What to run.
            on_end: Is called when it has ended, also if it never ran.
        """

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._take_end(task)
            if on_end is not None:
                on_end()

        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(ended)
        if self._stream.is_broken:  # by its first steps, which an eager task takes before this
            task.cancel()

    async def _guard(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception as exc:  # noqa: BLE001 - whatever a user's source raises is raised to the reader
            self.break_off(exc)

    def _take_end(self, task: asyncio.Task[None]) -> None:
        """End the batch with what ended a task and is no `Exception`, so that its reader does not wait for ever."""
        try:
            task.result()
        except asyncio.CancelledError as exc:
            if self._is_left or self._stream.is_broken:
                return  # it is this batch that has cancelled it
            error = UsageError(
                "the source of cards was cancelled by something it waited for, or a task of the batch by somebody else"
            )
            error.__cause__ = exc
            self.break_off(error)
        except BaseException as exc:  # noqa: BLE001 - a source's own, such as pytest's
            self.break_off(exc)

    async def _refuse(self, item: object, error: UsageError) -> None:
        """Add an error for what a source gave and is no card, under what it gave, or how that is written."""
        while self._stream.is_full:
            await self._refusable.wait_until(None)
        key: Any = item
        try:
            hash(item)
        except TypeError:
            key = repr(item)
        self._stream.count_card()
        self._stream.add((key, error))
        self._stream.count_end(error)

    async def _acquire(self) -> Permit:
        """Wait until a poll may begin: there is room for what it finds, and a permit."""
        while not self._stream.has_room:
            await self._room.wait_until(None)
        return await self._poller.transport.acquire(self._requests)

    def _run_poll(
        self,
        poll: Callable[[], Coroutine[Any, Any, None]],
        permit: Permit,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """Run a poll in a task of its own. Its permit is used by it, or given back when it has ended, run or not."""

        def ended() -> None:
            permit.give_back()
            if on_end is not None:
                on_end()
            self._stream.unreserve()

        self._stream.reserve()
        self._run(poll, ended)


class _Pairs(AsyncIterator[_T]):
    """What `aiter` makes of a batch."""

    __slots__ = ("_next",)

    def __init__(self, next_: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self._next = next_

    async def __anext__(self) -> _T:
        return await self._next()


def check_source(cards: object) -> None:
    """Check, before anything begins, that cards may come from this.

    Raises:
        UsageError: They may not.
    """
    if isinstance(cards, str | bytes):
        raise UsageError("cards must be Cards or (profile_id, card_token) tuples, not a text")
    if not isinstance(cards, Iterable | AsyncIterable):
        raise UsageError(f"cards must be iterable, by for or async for; this is a {type(cards).__name__}")


async def each(source: Cards) -> AsyncIterator[Card]:
    """Give the cards of any source, and the event loop its turn in between.

    Raises:
        UsageError: What the source gives is no card; which one it was.
    """
    async for _, card in _each(source):
        if isinstance(card, UsageError):
            raise card
        yield card


async def _each(source: Cards) -> AsyncIterator[tuple[object, Card | UsageError]]:
    """Give what a source gives, each with the card that it is, or with what is wrong with it."""
    work = _Slice()
    count = 0
    if isinstance(source, AsyncIterable):
        async for item in source:
            count += 1
            yield item, _card(item, count)
            if count % _CHECK_EVERY == 0:
                await work.pause_if_long()
        return
    for item in source:
        count += 1
        yield item, _card(item, count)
        if count % _CHECK_EVERY == 0:
            await work.pause_if_long()


def _card(item: CardLike, count: int) -> Card | UsageError:
    try:
        return Card.of(item)
    except UsageError as exc:
        return UsageError(f"card number {count}: {exc}")


# --- One poll of each ---


class Statuses(_Batch[ProductionStatus]):
    """One poll of each of many cards. Await it for a dict, or iterate it for each card's status as it comes.

    ```python
    statuses = await client.get_statuses(cards)  # dict[Card, ProductionStatus | CardprodError]

    async with client.get_statuses(cards) as pairs:
        async for card, status in pairs:
            print(card, status)
    ```

    Cards are taken from their source only as they can be polled, one ahead, so it may be a generator over a
    database; only which cards there were is remembered, so that each is polled once. An error is a value beside the
    others: it ends nothing. A slow reader holds the work back. Leaving the block ends it.

    Raises (when awaited or iterated):
        UsageError: The source gave something that is no card; or it was used before, or its client is closed or belongs
            to another event loop.
    """

    __name__ = "get_statuses"

    @staticmethod
    def _outcome(result: ProductionStatus | CardprodError) -> ProductionStatus | CardprodError | None:
        return result

    def _begin(self) -> None:
        self._run(self._poll_all)

    async def _poll_all(self) -> None:
        taken: set[Card] = set()
        async for item, card in _each(self._source or ()):
            if isinstance(card, UsageError):
                await self._refuse(item, card)
            elif card not in taken:
                taken.add(card)
                self._stream.count_card()
                permit = await self._acquire()
                self._run_poll(partial(self._poll, card, permit), permit)
        self._stream.finish()

    async def _poll(self, card: Card, permit: Permit) -> None:
        outcome: Outcome
        try:
            outcome = await self._poller.request(card, self._requests, permit)
        except CardprodError as error:
            outcome = error
        self._stream.add((card, outcome))
        self._stream.count_end(outcome)
        del outcome  # if it is an error, its traceback holds this frame: separate them


# --- Waiting for each ---


class _Entry(QueuedState, PollEntry):
    """One card of a batch."""

    # Of 1,000,000 cards each byte is a megabyte.
    __slots__ = ("_waits",)

    def __init__(self, card: Card, options: PollOptions, started_at: float, deadline_at: float, waits: Waits) -> None:
        super().__init__(card, options, started_at, deadline_at)
        self._waits = waits

    @property
    def poller(self) -> Poller:
        return self._waits.poller

    def is_of(self, waits: Waits) -> bool:
        """Whether it belongs to this batch."""
        return self._waits is waits

    def deliver(self, transition: Transition) -> None:
        self._waits.deliver(self, transition)

    def settle(self) -> None:
        self._waits.settle(self)

    def abort(self, error: BaseException) -> None:
        self._waits.break_off(error)

    def take_outcome(self, outcome: Outcome) -> None:
        """Take what another's poll showed; unless nobody reads: then it will be seen later."""
        if self._waits.is_held_back:
            self.poll_yourself()
        else:
            super().take_outcome(outcome)

    def poll_yourself(self) -> None:
        if self.phase is Phase.FOLLOWING and not self.is_over:
            self.begin_poll(asyncio.get_running_loop().time())
            self.settle()


class Waits(_Batch[Transition]):
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
    and no other. A slow reader holds the polls back. Leaving the block ends it and leaves nothing behind.

    Raises (when awaited or iterated):
        UsageError: The source gave something that is no card; or it was used before, or its client is closed or belongs
            to another event loop.
    """

    __name__ = "wait_until_all_final"

    def __init__(  # noqa: PLR0913 - what it is made of, and two ways to begin
        self,
        cards: Cards | None,
        poller: Poller,
        batches: Batches,
        options: PollOptions,
        *,
        batch_timeout: float | None = None,
        resumed: Checkpoint | None = None,
    ) -> None:
        super().__init__(cards, poller, batches)
        self._options = options
        self._resumed = resumed
        # The cards to resume, the one with the nearest deadline last.
        self._resuming = [] if resumed is None else sorted(resumed.pending, key=_deadline, reverse=True)
        self._batch_timeout = batch_timeout
        self._ends_at = math.inf
        self._queue: PollQueue[_Entry] = PollQueue()
        self._changed = Signal()  # the queue did, so that what is due first may be another
        self._deadlines_changed = Signal()
        self._sleeps_until = -math.inf
        self._ended: set[Card] = set()  # kept while the source may repeat them
        self._is_source_done = cards is None
        self._end_unread: dict[Card, _Entry] = {}  # over, and the reader does not know yet
        self._checkpoint_id = "" if resumed is None else resumed.id

    @property
    def poller(self) -> Poller:
        """The engine."""
        return self._poller

    @property
    def is_held_back(self) -> bool:
        """Whether nothing more may be seen before the reader has read."""
        return self._stream.is_full

    @staticmethod
    def _outcome(result: Transition | CardprodError) -> ProductionStatus | CardprodError | None:
        if isinstance(result, CardprodError):
            return result
        return result.current if result.is_final else None

    def checkpoint(self) -> Checkpoint:
        """Save the waits as they are, to go on with elsewhere by `Client.resume` or `Client.sweep`.

        What was delivered to you will not be delivered again; what was seen and not delivered yet comes first. Cards
        that are still in their source are not in it. It is made at once, so of a million cards it holds the event loop
        for some seconds. A schedule that is no `Backoff` is not in it: pass it again to `resume`.

        Raises:
            UsageError: The block is not entered yet, or left already: take it inside; or this is not its event loop.
        """
        if not self._is_entered or self._is_left:
            raise UsageError("take a checkpoint inside the `async with` block, before it is left or has ended")
        now, wall_now = self._time("checkpoint"), wall_clock()
        undelivered: dict[Card, list[Transition]] = {}
        for card, result in self._stream:
            if isinstance(result, Transition):
                undelivered.setdefault(card, []).append(result)
        entries = [*self._end_unread.values(), *self._queue]
        saved = {entry.card: entry.save(now, wall_now, undelivered.get(entry.card, ())) for entry in entries}
        for one in self._resuming:
            saved.setdefault(one.card, one)
        self._checkpoint_id = self._checkpoint_id or str(uuid.uuid4())
        sweep = 0 if self._resumed is None else self._resumed.sweep
        return self._checkpoint_of(tuple(saved.values()), self._checkpoint_id, sweep)

    def _checkpoint_of(self, pending: tuple[PendingCard, ...], checkpoint_id: str, sweep: int = 0) -> Checkpoint:
        return Checkpoint(
            id=checkpoint_id,
            sweep=sweep,
            max_failures=self._options.max_failures,
            schedule=self._options.saved_schedule,
            pending=pending,
        )

    def _was_read(self, card: Card, result: Transition | CardprodError) -> None:
        if self._end_unread and (isinstance(result, CardprodError) or result.is_final):
            self._end_unread.pop(card, None)

    # --- Cards come ---

    def add(self, card: CardLike) -> Card:
        """Wait for one more card, from this moment. One that is waited for already is not waited for twice.

        Args:
            card: The card, or a `(profile_id, card_token)` tuple.

        Returns:
            The card, as its results will name it.

        Raises:
            UsageError: The card cannot be right; or the batch is not entered yet, has ended or was left; or this is
                not its event loop.
        """
        card = Card.of(card)
        if not self._is_entered:
            raise UsageError("cards can be added inside the `async with` block", card=card)
        if self._is_left or self._stream.is_broken:
            raise UsageError("this batch has ended; ask the client for another", card=card)
        now = self._time("add")
        self._poller.transport.check_usable()
        if not any(saved.card == card for saved in self._resuming):  # those are waited for already
            self._register(card, now)
        return card

    @staticmethod
    def _time(name: str) -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError as exc:
            raise UsageError(f"{name} is called in the event loop of the batch, whose clock it goes by") from exc

    def no_more(self) -> None:
        """Say that no more cards will be added to a batch begun with None, so that it ends when all of them have."""
        if self._source is None:
            self._stream.finish()

    def _begin(self) -> None:
        if self._batch_timeout is not None:
            self._ends_at = asyncio.get_running_loop().time() + self._batch_timeout
        if self._source is not None:
            self._run(partial(self._feed, self._source))
        self._run(self._poll_due)
        self._run(self._expire)

    async def _feed(self, source: Cards) -> None:
        loop = asyncio.get_running_loop()
        work = _Slice()
        while self._resuming:
            self._resume(self._resuming.pop(), loop.time())
            await work.pause_if_long()
        limit = asyncio.timeout_at(None if math.isinf(self._ends_at) else self._ends_at)
        try:
            async with limit:
                async for item, card in _each(source):
                    if isinstance(card, UsageError):
                        await self._refuse(item, card)
                    elif card not in self._ended:
                        self._register(card, loop.time())
        except TimeoutError:
            if not limit.expired():
                raise
        self._is_source_done = True
        self._ended.clear()
        self._stream.finish()

    def _resume(self, saved: PendingCard, now: float) -> None:
        """Deliver what was not delivered yet, and wait for the card as before."""
        for transition in saved.undelivered:
            self._stream.add((saved.card, transition))
        if self._is_waited_for(saved.card):
            return  # it was added meanwhile
        entry = _Entry(saved.card, self._options, now, math.inf, self)
        entry.restore(saved, now, wall_clock())
        self._stream.count_card()
        if entry.last is not None and entry.is_over:
            entry.phase = Phase.OVER
            self._end_unread[entry.card] = entry
            self._stream.count_end(entry.last)
        else:
            self._wait_for(entry, now)

    def _register(self, card: Card, now: float) -> None:
        if self._is_waited_for(card):
            return
        timeout = self._options.timeout
        ends_at = self._ends_at if timeout is None else min(now + timeout, self._ends_at)
        self._stream.count_card()
        self._wait_for(_Entry(card, self._options, now, ends_at, self), now)

    def _is_waited_for(self, card: Card) -> bool:
        return any(
            isinstance(subscriber, _Entry) and subscriber.is_of(self)
            for subscriber in self._poller.subscriptions.of(card)
        )

    def _wait_for(self, entry: _Entry, now: float) -> None:
        self._queue.add(entry)  # first: an observer of its beginning may notify it
        self._poller.begin(entry)
        if entry.expires_at != math.inf:
            self._deadlines_changed.set()
        if now < self._sleeps_until:
            self._changed.set()

    # --- Cards are polled ---

    async def _poll_due(self) -> None:
        """Give each permit to the card that is due first."""
        loop, trust = asyncio.get_running_loop(), self._poller.subscriptions.trust
        work = _Slice()
        while True:
            now = loop.time()
            due_at = self._queue.due_at(now)
            if due_at > now + TICK:
                self._sleeps_until = due_at
                await self._changed.wait_until(None if math.isinf(due_at) else due_at)
                self._sleeps_until = -math.inf
            elif (postponed := self._queue.postpone(now, trust.gap(now))) is not None:
                self.settle(postponed)
            else:
                permit = await self._acquire()
                entry = self._queue.take(loop.time() + TICK, self._poller.subscriptions.is_polled)
                if entry is None:
                    permit.give_back()
                else:
                    self._poll(entry, permit, loop.time())
            await work.pause_if_long()

    def _poll(self, entry: _Entry, permit: Permit, now: float) -> None:
        shared = self._poller.subscriptions.begin_poll(entry.card, entry, now)
        entry.begin_poll(now)

        async def poll() -> None:
            await self._poller.poll_once(entry, shared, self._requests, permit)

        def ended() -> None:
            shared.end(None)  # unless it ran
            if not self._is_left:
                self._queue.end_poll(entry)
                self.settle(entry)

        self._run_poll(poll, permit, ended)

    # --- What the engine asks for ---

    def deliver(self, entry: _Entry, transition: Transition) -> None:
        """Add a transition to the results."""
        self._stream.add((entry.card, transition))

    def settle(self, entry: _Entry) -> None:
        """Move a card on after a change: to its next poll, or, if its wait is over, out."""
        if self._is_left:
            return
        if self._queue.reschedule(entry):
            self._finish(entry)
        elif entry.next_poll_at < self._sleeps_until:
            self._changed.set()

    def _finish(self, entry: _Entry) -> None:
        card, error = entry.card, entry.error
        self._poller.end(entry, error)
        self._end_unread[card] = entry
        if not self._is_source_done:
            self._ended.add(card)
        if error is not None:
            if isinstance(error, WaitTimeout):
                saved = entry.save(asyncio.get_running_loop().time(), wall_clock())
                error.checkpoint = self._checkpoint_of((saved,), str(uuid.uuid4()))
            self._stream.add((card, error))
            self._stream.count_end(error)
        elif entry.last is not None:
            self._stream.count_end(entry.last)

    # --- Cards expire ---

    async def _expire(self) -> None:
        """End the waits whose deadline passes without a permit for a last poll."""
        loop = asyncio.get_running_loop()
        work = _Slice()
        while True:
            at = self._queue.next_expiry()
            if at > loop.time() + TICK:
                await self._deadlines_changed.wait_until(None if math.isinf(at) else at)
                continue
            if self._stream.is_full:
                await self._deadlines_changed.wait_until(None)  # until there is room
                continue
            expired = self._queue.expire(loop.time())
            for entry in islice(expired, self._stream.room):
                self.settle(entry)
            await work.pause_if_long()

    def _on_room(self) -> None:
        super()._on_room()
        self._deadlines_changed.set()

    async def _end(self) -> None:
        left = self._queue.clear()
        try:
            while left:
                slice_ends = perf_counter() + _SLICE
                while left and perf_counter() < slice_ends:
                    self._poller.end(left.pop())
                await asyncio.sleep(0)
        finally:
            for entry in left:  # cancelled meanwhile
                self._poller.end(entry)


def _deadline(saved: PendingCard) -> float:
    return math.inf if saved.deadline_at is None else saved.deadline_at
