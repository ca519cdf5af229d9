"""`Statuses` and `Waits`: very many cards. What is waited for lies in one heap; only looks under way are tasks.

Which answer is a transition, and when the next look is due, is `watch`'s business; when a request may leave is
`transport`'s; who else waits for a card is `sharing`'s.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Generator, Iterable
from contextlib import nullcontext
from heapq import heapify, heappop, heappush
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import attrs

from cardprod.checkpoint import Checkpoint, wall_clock
from cardprod.errors import CardprodError, RequestTimeout, UsageError, WaitTimeout
from cardprod.models import Card, ProductionStatus, Transition
from cardprod.sharing import Alarm
from cardprod.telemetry import log_failed_look, log_transition
from cardprod.transport import Flow
from cardprod.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from cardprod.checkpoint import PendingCard
    from cardprod.models import CardLike, ProductionEvent
    from cardprod.sharing import Outcome, SharedLooks
    from cardprod.telemetry import WaitObserver
    from cardprod.transport import Transport
    from cardprod.watch import Terms

__all__ = ["Cards", "Progress", "Statuses", "Waits", "check_source", "each"]

Cards: TypeAlias = "Iterable[CardLike] | AsyncIterable[CardLike]"
"""Where cards come from: anything that can be iterated, by `for` or `async for`."""

_Told = TypeVar("_Told")
_Pair = TypeVar("_Pair")

_SLICE: Final = 0.004
"""Seconds of work, after which the event loop gets its turn."""

_CHECK_EVERY: Final = 16
_UNREAD: Final = 256
"""Results that may lie unread: more looks begin only as these are taken."""

_STALE: Final = 1024

_TICK: Final = 0.001
"""Seconds by which a timer may come before its time on the loop's clock."""


@attrs.frozen(kw_only=True)
class Progress:
    """How far a batch is.

    Args:
        total: Cards taken so far, each once.
        pending: Cards that have no final result yet.
        produced: Cards that are PRODUCED.
        failed: Cards that ended in PRODUCTION_ERROR or REQUEST_ERROR.
        errors: Cards that ended with a `CardprodError`.
        requests: Requests sent, repeated ones included.
    """

    total: int
    pending: int
    produced: int
    failed: int
    errors: int
    requests: int


class _Batch(Awaitable[dict[Card, "ProductionStatus | CardprodError"]], Generic[_Told]):
    """What looking at many cards once and waiting for them have in common: a source, results, and who takes them."""

    def __init__(self, cards: Cards | None, transport: Transport, shared: SharedLooks) -> None:
        self._source = cards
        self._transport = transport
        self._shared = shared
        self._flow = Flow()
        self._results: deque[tuple[Card, _Told | CardprodError]] = deque()
        self._may_read = Alarm()
        self._may_work = Alarm()
        self._tasks: set[asyncio.Task[None]] = set()
        # Looks under way → at what, until they run: a task that is cancelled before that runs no line of its own.
        self._looks: dict[asyncio.Task[None], Any] = {}
        self._most_looks = _UNREAD
        self._is_entered = self._is_left = self._is_reading = False
        self._is_source_done = False
        self._broken_by: BaseException | None = None
        self._total = self._pending = self._produced = self._failed = self._errors = 0

    @property
    def progress(self) -> Progress:
        """How far it is, at this moment."""
        return Progress(
            total=self._total,
            pending=self._pending,
            produced=self._produced,
            failed=self._failed,
            errors=self._errors,
            requests=self._flow.requests,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._pending} of {self._total} cards pending, {self._errors} errors>"

    # --- Awaited ---

    def __await__(self) -> Generator[Any, Any, dict[Card, ProductionStatus | CardprodError]]:
        return self._collect().__await__()

    async def _collect(self) -> dict[Card, ProductionStatus | CardprodError]:
        outcomes: dict[Card, ProductionStatus | CardprodError] = {}
        async with self as pairs:
            async for card, told in pairs:
                if (outcome := self._outcome(told)) is not None:
                    outcomes[card] = outcome
        return outcomes

    @staticmethod
    @abstractmethod
    def _outcome(told: _Told | CardprodError) -> ProductionStatus | CardprodError | None:
        """Say what a result makes of its card in the end; None if it is not the end."""

    # --- Iterated ---

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise UsageError("it can be used once; ask the client for another")
        self._transport.check_usable()
        self._is_entered = True
        self._shared.batches.add(self)
        self._begin()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_left = True
        self._shared.batches.discard(self)
        tasks = [*self._tasks, *self._looks]
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            await self._end()
            self._results.clear()
            self._may_read.ring()

    def __aiter__(self) -> AsyncIterator[tuple[Card, _Told | CardprodError]]:
        if not self._is_entered:
            raise UsageError("use it as `async with x as pairs: async for card, what in pairs`, or await it")
        return _Pairs(self._next_pair)

    async def _next_pair(self) -> tuple[Card, _Told | CardprodError]:
        if self._is_reading:
            raise UsageError("it is already being iterated by another task")
        self._is_reading = True
        try:
            while not self._results:
                if self._broken_by is not None:
                    raise self._broken_by
                if self._is_left or (self._is_source_done and not self._pending):
                    self._is_left = True
                    raise StopAsyncIteration
                await self._may_read.sleep_until(None)
        finally:
            self._is_reading = False
        pair = self._results.popleft()
        self._was_told(*pair)
        if len(self._results) + len(self._looks) == self._most_looks - 1:
            self._room_came()
        return pair

    # --- The work ---

    @abstractmethod
    def _begin(self) -> None:
        """Start the work when the block is entered."""

    async def _end(self) -> None:
        """Clear up when the block is left, after every task has ended."""

    def _room_came(self) -> None:
        """Go on with what was held back because nobody read."""
        self._may_work.ring()

    def break_off(self, error: BaseException) -> None:
        """Let whoever iterates get this error after what is there already, and begin no more looks."""
        if self._broken_by is None:
            self._broken_by = error
            for task in (*self._tasks, *self._looks):
                task.cancel()
            self._may_read.ring()

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something until it is done or the block is left; what it raises ends the batch."""
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception as exc:  # noqa: BLE001 - whatever a user's source raises is told to whoever iterates
            self.break_off(exc)

    async def _turn(self) -> float:
        """Wait until a look may begin: there is room for what it finds, and it has its turn."""
        while len(self._results) + len(self._looks) >= self._most_looks:
            await self._may_work.sleep_until(None)
        return await self._transport.take_turn(self._flow)

    def _start(self, look: Coroutine[Any, Any, None], subject: object) -> None:
        """Begin a look in the turn that was taken."""
        task = asyncio.get_running_loop().create_task(look)
        self._looks[task] = subject
        task.add_done_callback(self._look_ended)

    def _look_runs(self) -> None:
        """Take note, in the task of a look, that it runs, and so will use its turn and clear up after itself."""
        task = asyncio.current_task()
        if task is not None:
            self._looks[task] = None

    def _look_ended(self, task: asyncio.Task[None]) -> None:
        was_held = len(self._results) + len(self._looks) >= self._most_looks
        subject = self._looks.pop(task)
        if subject is not None:
            self._transport.leave_turn(asyncio.get_running_loop().time())
            self._never_looked(subject)
        if was_held:
            self._room_came()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.break_off(error)

    def _never_looked(self, subject: Any) -> None:  # noqa: ANN401 - what `_start` was given
        """Clear up after a look that was cancelled before it ran."""

    def _was_told(self, card: Card, told: _Told | CardprodError) -> None:
        """Take note that whoever reads has this result now."""

    def _tell(self, card: Card, told: _Told | CardprodError) -> None:
        self._results.append((card, told))
        self._may_read.ring()

    def _count_end(self, outcome: ProductionStatus | CardprodError) -> None:
        self._pending -= 1
        if isinstance(outcome, CardprodError):
            self._errors += 1
        elif outcome.is_produced:
            self._produced += 1
        elif outcome.is_final:
            self._failed += 1


class _Pairs(AsyncIterator[_Pair]):
    """What `aiter` makes of a batch."""

    __slots__ = ("_next",)

    def __init__(self, next_: Callable[[], Coroutine[Any, Any, _Pair]]) -> None:
        self._next = next_

    async def __anext__(self) -> _Pair:
        return await self._next()


def check_source(cards: object) -> None:
    """Make sure, before anything begins, that cards may come from this.

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
    slice_began = perf_counter()
    count = 0
    if isinstance(source, AsyncIterable):
        async for card in source:
            count += 1
            yield _card(card, count)
            if count % _CHECK_EVERY == 0 and perf_counter() - slice_began > _SLICE:
                await asyncio.sleep(0)
                slice_began = perf_counter()
        return
    for card in source:
        count += 1
        yield _card(card, count)
        if count % _CHECK_EVERY == 0 and perf_counter() - slice_began > _SLICE:
            await asyncio.sleep(0)
            slice_began = perf_counter()


def _card(card: CardLike, count: int) -> Card:
    try:
        return Card.of(card)
    except UsageError as exc:
        raise UsageError(f"card number {count}: {exc}") from exc


# --- One look at each ---


class Statuses(_Batch[ProductionStatus]):
    """One look at each of many cards. Await it for a dict, or iterate it for each card's status as it comes.

    ```python
    statuses = await client.get_statuses(cards)  # dict[Card, ProductionStatus | CardprodError]

    async with client.get_statuses(cards) as pairs:
        async for card, status in pairs:
            print(card, status)
    ```

    Cards are taken from their source only as they can be looked up, one ahead, so it may be a generator over a
    database; only which cards there were is remembered, so that each is looked up once. An error is a value beside the
    others: it ends nothing. Whoever reads slowly holds the work back. Leaving the block ends it.

    Raises (when awaited or iterated):
        UsageError: The source gave something that is no card; or it was used before, or its client is closed or belongs
            to another event loop.
    """

    @staticmethod
    def _outcome(told: ProductionStatus | CardprodError) -> ProductionStatus | CardprodError | None:
        return told

    def _begin(self) -> None:
        self._run(self._drive)

    async def _drive(self) -> None:
        taken: set[Card] = set()
        async for card in each(self._source or ()):
            if card not in taken:
                taken.add(card)
                self._total += 1
                self._pending += 1
                await self._turn()
                self._start(self._look(card), card)
        self._is_source_done = True
        self._may_read.ring()

    async def _look(self, card: Card) -> None:
        self._look_runs()
        outcome: ProductionStatus | CardprodError
        try:
            outcome = await self._transport.look_in_turn(card, self._flow)
        except CardprodError as error:
            outcome = error
        self._count_end(outcome)
        self._tell(card, outcome)
        del outcome  # if it is an error, its traceback holds this frame: part them


# --- Waiting for each ---

_FRESH, _WAITING, _LOOKING, _FOLLOWING = range(4)
"""What becomes of a card: never looked at; in the heap; looked at; looked at by another batch or wait."""


class _Slot(Watch):
    """One card's watch, and what becomes of it in its batch: a listener that costs no more than that."""

    # Of 1,000,000 cards each byte is a megabyte: so this is the watch, and does not have one.
    __slots__ = ("batch", "state")

    def __init__(self, card: Card, terms: Terms, started_at: float, deadline_at: float, batch: Waits) -> None:
        super().__init__(card, terms, started_at, deadline_at)
        self.batch: Waits = batch
        self.state: int = _FRESH

    def __lt__(self, other: _Slot) -> bool:
        """Two that are due at the same time are equal to the heap."""
        return False

    # `Watch` has a `hear` of its own, for events.
    def hear_outcome(self, outcome: Outcome) -> None:
        """Take what another's look showed."""
        self.batch.heard(self, outcome)

    def hear_event(self, event: ProductionEvent, wall_now: datetime) -> bool:
        """Take what an event says; say whether it is news."""
        return self.batch.heard_event(self, event, wall_now)

    def wake(self) -> None:
        """Look oneself, now that another's look has told nothing."""
        self.batch.woken(self)


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
    some hundred bytes each and no task; only looks under way are tasks. An error is a value: it ends its card's wait
    and no other. Whoever reads slowly holds the looks back. Leaving the block ends it and leaves nothing behind.

    Raises (when awaited or iterated):
        UsageError: The source gave something that is no card; or it was used before, or its client is closed or belongs
            to another event loop.
    """

    def __init__(  # noqa: PLR0913 - what it is made of, and two ways to begin
        self,
        cards: Cards | None,
        transport: Transport,
        shared: SharedLooks,
        terms: Terms,
        *,
        batch_timeout: float | None = None,
        resumed: Checkpoint | None = None,
    ) -> None:
        super().__init__(cards, transport, shared)
        self._terms = terms
        self._checkpoint_id = None if resumed is None else resumed.id
        self._sweep = 0 if resumed is None else resumed.sweep
        # What is gone on with, and not yet; the last first, which is the one with the furthest deadline.
        self._resuming = [] if resumed is None else sorted(resumed.pending, key=_deadline, reverse=True)
        self._batch_timeout = batch_timeout
        self._batch_ends_at = math.inf
        self._fresh: deque[_Slot] = deque()
        self._heap: list[tuple[float, _Slot]] = []
        self._stale = 0  # entries of the heap that no longer count, but for those of slots that are over
        self._is_fresh_next = True
        self._busy: set[_Slot] = set()  # those being looked at, by this batch or another
        self._by_deadline: deque[_Slot] = deque()
        self._expiry: asyncio.TimerHandle | None = None
        self._is_expiry_held = False
        self._sleeps_until = -math.inf
        self._ended: set[Card] = set()  # kept while the source may repeat them
        self._end_untold: dict[Card, _Slot] = {}  # over, and nobody was told yet
        self._told: dict[Card, WaitObserver] = {}

    @staticmethod
    def _outcome(told: Transition | CardprodError) -> ProductionStatus | CardprodError | None:
        if isinstance(told, CardprodError):
            return told
        return told.current if told.is_final else None

    def checkpoint(self) -> Checkpoint:
        """Save the waits as they are, to go on with elsewhere by `Client.resume` or `Client.sweep`.

        What you were told of will not be told again; what was seen and not told yet will be told first. Cards that are
        still in their source are not in it. It is made at once, so of a million cards it holds the event loop for some
        seconds. A schedule that is no `Backoff` is not in it: give it again to whoever goes on.

        Raises:
            UsageError: The block is not entered yet, or left already: take it inside.
        """
        if not self._is_entered or self._is_left:
            raise UsageError("take a checkpoint inside the `async with` block, before it is left or has ended")
        now, wall_now = asyncio.get_running_loop().time(), wall_clock()
        untold: dict[Card, list[Transition]] = {}
        for card, told in self._results:
            if isinstance(told, Transition):
                untold.setdefault(card, []).append(told)
        if self._checkpoint_id is None:
            self._checkpoint_id = str(uuid.uuid4())
        saved = {slot.card: slot.save(now, wall_now, untold.get(slot.card, ())) for slot in self._slots()}
        for one in self._resuming:
            saved.setdefault(one.card, one)
        return Checkpoint(
            id=self._checkpoint_id,
            sweep=self._sweep,
            max_failures=self._terms.max_failures,
            schedule=self._terms.saved_schedule,
            pending=tuple(saved.values()),
        )

    def _slots(self) -> Iterator[_Slot]:
        """Give every card that is waited for, or whose end nobody was told of."""
        yield from self._end_untold.values()
        for slot in chain(self._fresh, self._busy, (entry[1] for entry in self._heap if _counts(entry))):
            if not slot.is_over:
                yield slot

    def _was_told(self, card: Card, told: Transition | CardprodError) -> None:
        if self._end_untold and (isinstance(told, CardprodError) or told.is_final):
            self._end_untold.pop(card, None)

    # --- Cards come ---

    def add(self, card: CardLike) -> Card:
        """Wait for one more card, from now on. One that is waited for already is not waited for twice.

        Args:
            card: The card, or a `(profile_id, card_token)` tuple.

        Returns:
            The card, as it will be told of.

        Raises:
            UsageError: The card cannot be right; or the batch is not entered yet, has ended or was left.
        """
        card = Card.of(card)
        if not self._is_entered:
            raise UsageError("cards can be added inside the `async with` block", card=card)
        if self._is_left or self._broken_by is not None:
            raise UsageError("this batch has ended; ask the client for another", card=card)
        self._register(card, asyncio.get_running_loop().time())
        return card

    def no_more(self) -> None:
        """Say that no more cards will be added to a batch begun with None, so that it ends when all of them have."""
        if self._source is None:
            self._is_source_done = True
            self._may_read.ring()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if self._batch_timeout is not None:
            self._batch_ends_at = loop.time() + self._batch_timeout
        if self._source is not None:
            self._run(self._feed)
        self._run(self._drive)

    async def _feed(self) -> None:
        loop = asyncio.get_running_loop()
        await self._resume()
        cut_off = asyncio.timeout_at(None if math.isinf(self._batch_ends_at) else self._batch_ends_at)
        try:
            async with cut_off:
                async for card in each(self._source or ()):
                    if card not in self._ended:
                        self._register(card, loop.time())
        except TimeoutError:
            if not cut_off.expired():
                raise
        self._is_source_done = True
        self._ended.clear()
        self._may_read.ring()

    async def _resume(self) -> None:
        """Go on with the cards of a checkpoint, those with the nearest deadline first, as `_by_deadline` wants them."""
        loop = asyncio.get_running_loop()
        slice_began = perf_counter()
        while self._resuming:
            self._go_on_with(self._resuming.pop(), loop.time(), wall_clock())
            if perf_counter() - slice_began > _SLICE:
                await asyncio.sleep(0)
                slice_began = perf_counter()

    def _go_on_with(self, saved: PendingCard, now: float, wall_now: datetime) -> None:
        """Tell what nobody was told of yet, and wait for the card as before."""
        for step in saved.untold:
            self._tell(saved.card, step)
        if self._is_waited_for(saved.card):
            return  # it was added meanwhile
        slot = _Slot(saved.card, self._terms, now, math.inf, self)
        slot.restore(saved, now, wall_now)
        self._total += 1
        self._pending += 1
        if slot.last is not None and slot.is_over:
            self._end_untold[slot.card] = slot
            self._count_end(slot.last)
            self._may_read.ring()
        else:
            self._wait_for(slot, now)

    def _register(self, card: Card, now: float) -> None:
        if self._is_waited_for(card):
            return
        timeout = self._terms.timeout
        ends_at = self._batch_ends_at if timeout is None else min(now + timeout, self._batch_ends_at)
        self._total += 1
        self._pending += 1
        self._wait_for(_Slot(card, self._terms, now, ends_at, self), now)

    def _is_waited_for(self, card: Card) -> bool:
        return any(isinstance(there, _Slot) and there.batch is self for there in self._shared.of(card))

    def _wait_for(self, slot: _Slot, now: float) -> None:
        self._shared.join(slot.card, slot)
        if slot.last is None:
            self._fresh.append(slot)
        else:
            slot.state = _WAITING
            heappush(self._heap, (slot.next_look_at, slot))
        if slot.expires_at != math.inf:
            self._by_deadline.append(slot)
            if self._expiry is None:
                self._give_up_expired()
        if self._transport.observer is not None:
            self._told[slot.card] = self._transport.observer.wait_began(slot.card)
        if now < self._sleeps_until:
            self._may_work.ring()

    # --- Cards are looked at ---

    async def _drive(self) -> None:
        """Give each turn to the card that is due first."""
        loop = asyncio.get_running_loop()
        slice_began = perf_counter()
        while True:
            due_at = self._due_at(loop.time())
            if due_at > loop.time() + _TICK:
                self._sleeps_until = due_at
                await self._may_work.sleep_until(None if math.isinf(due_at) else due_at)
                self._sleeps_until = -math.inf
                slice_began = perf_counter()
                continue
            if not self._put_off(loop.time()):
                came_at = await self._turn()
                slot = self._take_due(loop.time() + _TICK)
                if slot is None:
                    self._transport.leave_turn(came_at)
                else:
                    self._look_at(slot)
            if perf_counter() - slice_began > _SLICE:
                await asyncio.sleep(0)
                slice_began = perf_counter()

    def _put_off(self, now: float) -> bool:
        """Put the look that is due first off, if events tell of the cards as it is. Say whether it was."""
        gap = self._shared.deliveries.gap(now)
        entry = self._first() if gap > 0 else None
        if entry is None or entry[0] > now + _TICK or not entry[1].put_off(now, gap):
            return False
        heappop(self._heap)
        self._go_on(entry[1])
        return True

    def _due_at(self, now: float) -> float:
        """Say when the next card is due."""
        if self._fresh:
            return now
        entry = self._first()
        return math.inf if entry is None else entry[0]

    def _first(self) -> tuple[float, _Slot] | None:
        """Show the first entry of the heap that counts."""
        heap = self._heap
        while heap and not _counts(heap[0]):
            self._stale -= 1
            heappop(heap)
        return heap[0] if heap else None

    def _take_due(self, now: float) -> _Slot | None:
        """Take the card that is due first; while others have never been looked at, one of those every other time."""
        while True:
            entry = self._first()
            is_due = entry is not None and entry[0] <= now
            if self._fresh and (self._is_fresh_next or not is_due):
                self._is_fresh_next = False
                slot = self._fresh.popleft()
                if slot.state != _FRESH or slot.is_over:
                    continue  # it was heard of, or given up, before it was looked at
            elif is_due:
                self._is_fresh_next = True
                slot = heappop(self._heap)[1]
            else:
                return None
            self._busy.add(slot)
            if not self._shared.is_looked_at(slot.card):
                return slot
            slot.state = _FOLLOWING

    def _look_at(self, slot: _Slot) -> None:
        now = asyncio.get_running_loop().time()
        slot.state = _LOOKING
        slot.begin_look(now)
        self._shared.begin(slot.card, now)
        self._start(self._look(slot), slot)

    async def _look(self, slot: _Slot) -> None:
        self._look_runs()
        outcome: Outcome | None = None
        cut_off_at = slot.cut_off_at
        try:
            if cut_off_at is None and not self._told:
                outcome = await self._transport.look_in_turn(slot.card, self._flow)
            else:
                outcome = await self._look_until(cut_off_at, slot)
        except CardprodError as failure:
            outcome = failure
        finally:
            self._shared.end(slot.card, outcome, slot)
            if not self._is_left:
                if not slot.is_over:
                    if outcome is not None:
                        self._observe(slot, outcome)
                    self._go_on(slot)
                self._busy.discard(slot)  # else it is found there when the batch is left, and let go
            del outcome  # if it is an error, its traceback holds this frame: part them

    async def _look_until(self, cut_off_at: float | None, slot: _Slot) -> ProductionStatus:
        """Look at a card, for as long as its deadline allows, under its observer's eyes."""
        told = self._told.get(slot.card)
        cut_off = asyncio.timeout_at(cut_off_at)
        try:
            async with cut_off:
                with nullcontext() if told is None else told.looking():
                    return await self._transport.look_in_turn(slot.card, self._flow)
        except TimeoutError as exc:
            if not cut_off.expired():
                raise
            raise RequestTimeout("the wait's time ran out during a look", card=slot.card) from exc

    def _never_looked(self, subject: _Slot) -> None:
        self._shared.end(subject.card, None, subject)

    def _observe(self, slot: _Slot, outcome: Outcome) -> None:
        """Let a card's watch know what a look showed, and tell what is new."""
        now = asyncio.get_running_loop().time()
        if isinstance(outcome, CardprodError):
            slot.fail(outcome, now)
            if not slot.is_over:
                log_failed_look(slot.card, outcome, slot.failures)
                told = self._told.get(slot.card) if self._told else None
                if told is not None:
                    told.failed_look(outcome)
            return
        step = slot.observe(outcome, now)
        if step is not None:
            self._saw(slot, step)
            if step.previous is not None:
                self._shared.deliveries.found(slot.card, outcome, now)
            elif not slot.is_over and (event := self._shared.recent_event(slot.card)) is not None:
                later = slot.hear(event, now, wall_clock())
                if later is not None:
                    self._saw(slot, later)

    def _saw(self, slot: _Slot, step: Transition) -> None:
        log_transition(slot.card, step)
        told = self._told.get(slot.card) if self._told else None
        if told is not None:
            told.saw(step)
        self._tell(slot.card, step)

    def _go_on(self, slot: _Slot) -> None:
        """Let a card wait for its next look; or count it out, if its wait is over."""
        if slot.is_over:
            self._finish(slot)
            return
        slot.state = _WAITING
        heappush(self._heap, (slot.next_look_at, slot))
        if slot.next_look_at < self._sleeps_until:
            self._may_work.ring()

    def _finish(self, slot: _Slot) -> None:
        card, error = slot.card, slot.error
        self._shared.leave(card, slot)
        self._end_untold[card] = slot
        if self._source is not None and not self._is_source_done:
            self._ended.add(card)
        told = self._told.pop(card, None) if self._told else None
        if told is not None:
            told.ended(error)
        if error is not None:
            if isinstance(error, WaitTimeout):
                error.checkpoint = self._checkpoint_of(slot)
            self._count_end(error)
            self._tell(card, error)
        elif slot.last is not None:
            self._count_end(slot.last)
            self._may_read.ring()

    def _checkpoint_of(self, slot: _Slot) -> Checkpoint:
        saved = slot.save(asyncio.get_running_loop().time(), wall_clock())
        terms = self._terms
        return Checkpoint(
            id=str(uuid.uuid4()), schedule=terms.saved_schedule, max_failures=terms.max_failures, pending=(saved,)
        )

    # --- Cards are heard of otherwise ---

    def heard(self, slot: _Slot, outcome: Outcome) -> None:
        """Take what another's look says of a card."""
        if slot.is_over or self._is_left:
            return
        if len(self._results) >= self._most_looks:
            self.woken(slot)  # nobody reads: it will be seen later
            return
        try:
            self._observe(slot, outcome)
        except Exception as exc:  # noqa: BLE001 - a schedule's own, and whoever tells of the card has no part in it
            self.break_off(exc)
            return
        self._plan_again(slot)

    def heard_event(self, slot: _Slot, event: ProductionEvent, wall_now: datetime) -> bool:
        """Take what an event says of a card, even if nobody reads: it comes once. Say whether it was news."""
        if slot.is_over or self._is_left:
            return False
        try:
            step = slot.hear(event, asyncio.get_running_loop().time(), wall_now)
            if step is None:
                return False
            self._saw(slot, step)
        except Exception as exc:  # noqa: BLE001 - as above, or an observer's own
            self.break_off(exc)
            return False
        self._plan_again(slot)
        return True

    def _plan_again(self, slot: _Slot) -> None:
        """Let a card that was heard of wait for its next look, instead of where it was."""
        if slot.state == _LOOKING:
            if slot.is_over:
                self._finish(slot)
            return  # else it goes on when its look has ended
        if slot.state == _WAITING:
            self._leave_stale()
        self._busy.discard(slot)
        self._go_on(slot)

    def woken(self, slot: _Slot) -> None:
        """Look at a card oneself, now that the look at it which was waited for has told nothing."""
        if slot.state == _FOLLOWING and not slot.is_over and not self._is_left:
            self._busy.discard(slot)
            slot.begin_look(asyncio.get_running_loop().time())
            self._go_on(slot)

    def _leave_stale(self) -> None:
        """Leave an entry in the heap that no longer counts; when most are such, sort them out."""
        self._stale += 1
        if self._stale > _STALE and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if _counts(entry)]
            heapify(self._heap)
            self._stale = 0

    # --- Cards are given up ---

    def _give_up_expired(self) -> None:
        """End the waits whose deadline passed without a turn for a last look, and see when that is due again."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        loop = asyncio.get_running_loop()
        while self._by_deadline and not self._is_left:
            slot = self._by_deadline[0]
            if not slot.is_over:
                if slot.expires_at > loop.time() + _TICK:
                    self._expiry = loop.call_at(slot.expires_at, self._give_up_expired)
                    return
                if len(self._results) >= self._most_looks:
                    self._is_expiry_held = True
                    return
                if slot.state != _LOOKING:  # a look under way ends by itself
                    if slot.state == _WAITING:
                        self._leave_stale()
                    self._busy.discard(slot)
                    slot.give_up(loop.time())
                    self._finish(slot)
            self._by_deadline.popleft()

    def _room_came(self) -> None:
        super()._room_came()
        if self._is_expiry_held:
            self._is_expiry_held = False
            self._give_up_expired()

    async def _end(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        told, self._told = self._told, {}
        for observer in told.values():
            observer.ended(None)
        left: deque[_Slot] = deque(self._busy)
        left.extend(self._fresh)
        left.extend(slot for _, slot in self._heap)
        self._busy.clear()
        self._fresh.clear()
        self._heap.clear()
        self._by_deadline.clear()
        try:
            while left:
                slice_ends = perf_counter() + _SLICE
                while left and perf_counter() < slice_ends:
                    slot = left.pop()
                    self._shared.leave(slot.card, slot)
                await asyncio.sleep(0)
        finally:
            for slot in left:  # cancelled meanwhile
                self._shared.leave(slot.card, slot)


def _counts(entry: tuple[float, _Slot]) -> bool:
    at, slot = entry
    return slot.state == _WAITING and slot.next_look_at == at and not slot.is_over


def _deadline(saved: PendingCard) -> tuple[bool, float]:
    deadline_at = saved.deadline_at
    return (True, 0.0) if deadline_at is None else (False, deadline_at.timestamp())
