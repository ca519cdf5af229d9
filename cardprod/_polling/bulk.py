"""What polling many cards once and waiting for them have in common, and `Statuses`: one poll of each of many cards."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from cardprod._http.limiter import LimiterQueue
from cardprod._polling.card_source import each_item
from cardprod._polling.coroutine import CoroutineLike, check_loop
from cardprod._polling.results import Progress, ResultStream
from cardprod._polling.signal import Signal
from cardprod.errors import CardprodError, UsageError
from cardprod.models import Card, ProductionStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Self

    from cardprod._http.limiter import Permit
    from cardprod._polling.card_source import Cards
    from cardprod._polling.poller import Poller
    from cardprod._polling.state import PollState
    from cardprod._polling.subscriptions import Outcome

Batches: TypeAlias = "set[Batch[Any]]"
"""The batches of one client that are under way."""

Outcomes: TypeAlias = "dict[Card, ProductionStatus | CardprodError]"

_T = TypeVar("_T")


class Batch(CoroutineLike[Outcomes], Generic[_T]):
    """Many cards in one block: tasks that end with it, and a stream of results.

    Await it for a dict, or enter it and iterate it. It can be used once.
    """

    _named: ClassVar = "pairs"

    def __init__(self, poller: Poller, batches: Batches) -> None:
        self._coroutine = None
        self._poller = poller
        self._batches = batches
        self._requests = LimiterQueue()
        self._room, self._room_for_refused = Signal(), Signal()  # each for one waiter
        # Each result with its card, and with the card's state if it is waited for.
        self._stream: ResultStream[tuple[Card, _T | CardprodError, PollState | None]] = ResultStream(self._on_room)
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
        """Give it up. Who awaits it at this moment gets a `UsageError`; leaving its block ends it otherwise.

        Raises:
            UsageError: It runs in an event loop, and this is another thread.
        """
        self._check_thread("close")
        if not self._is_entered:
            self._is_entered = True
            self._close_coroutine()
        elif self._coroutine is not None and self in self._batches:  # else it is about to end
            self.break_off(UsageError(f"this batch was closed while it was awaited: call {self.__name__} again"))

    def _check_thread(self, name: str) -> None:
        words = f"{name} must be called in the event loop of the batch; from another thread use call_soon_threadsafe"
        for task in self._tasks:
            check_loop(task.get_loop(), words)

    async def aclose(self) -> None:
        """Give it up, as `contextlib.aclosing` does."""
        self.close()

    async def _collect(self) -> Outcomes:
        outcomes: Outcomes = {}
        async with self:
            while results := await self._stream.read_all():
                for card, result, _ in results:
                    if (outcome := self._outcome_of(result)) is not None:
                        outcomes[card] = outcome
        return outcomes

    @staticmethod
    @abstractmethod
    def _outcome_of(result: _T | CardprodError) -> ProductionStatus | CardprodError | None:
        """Return what a result makes of its card in the end; None if it is not the end."""

    # --- Iterated ---

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise UsageError(f"a batch can be used once, and this one was used before: call {self.__name__} again")
        self._is_entered = True
        self._poller.transport.check_usable()
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
            raise UsageError(
                "a batch must be entered before it is iterated: "
                f"`async with client.{self.__name__}(cards) as {self._named}:`, then `async for` over that"
            )
        return _Pairs(self._next_pair)

    async def _next_pair(self) -> tuple[Card, _T | CardprodError]:
        try:
            card, result, _ = await self._stream.read()
        except StopAsyncIteration:
            self._is_left = True
            raise
        return card, result

    # --- The work ---

    @abstractmethod
    def _begin(self) -> None:
        """Start the tasks when the block is entered."""

    async def _end(self) -> None:
        """Clean up when the block is left, after every task has ended."""

    def _on_room(self) -> None:
        """Go on with what was held back because nobody read."""
        self._room.set()
        self._room_for_refused.set()

    def break_off(self, error: BaseException) -> None:
        """End with this error, after what is there already, and begin no more polls."""
        if not self._stream.is_broken:
            self._stream.break_off(error)
            for task in self._tasks:
                task.cancel()

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]], on_end: Callable[[], None] | None = None) -> None:
        """Run something in a task until it is done or the block is left; what it raises ends the batch.

        Args:
            work: What to run.
            on_end: Is called when it has ended, also if it never ran.
        """

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._take_end(task)
            if on_end is not None:
                on_end()

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(ended)
        if self._stream.is_broken:  # by its first steps, which an eager task takes before this
            task.cancel()

    def _take_end(self, task: asyncio.Task[None]) -> None:
        """End the batch with what ended a task, so that its reader does not wait for ever."""
        try:
            task.result()
        except asyncio.CancelledError as exc:
            if self._is_left or self._stream.is_broken:
                return  # it is this batch that has cancelled it
            error = UsageError(
                "the source of cards was cancelled by something it waited for, or a task of the batch by somebody else"
                ": fix that, and start another"
            )
            error.__cause__ = exc
            self.break_off(error)
        except BaseException as exc:  # noqa: BLE001 - a source's own, such as pytest's
            self.break_off(exc)

    async def _refuse(self, item: object, error: UsageError) -> None:
        """Add an error for an item that is no card, under that item, or under its repr if it cannot be a key."""
        while self._stream.is_full:
            await self._room_for_refused.wait_until(None)
        key: Any = item
        try:
            hash(item)
        except Exception:  # noqa: BLE001 - the item's own
            key = _repr_of(item)
        self._stream.count_card()
        self._stream.add((key, error, None))
        self._stream.count_end(error)


def _repr_of(item: object) -> str:
    try:
        return repr(item)
    except Exception:  # noqa: BLE001 - the item's own
        return f"<{type(item).__name__} at {id(item):#x}>"


class _Pairs(AsyncIterator[_T]):
    """What `aiter` makes of a batch."""

    __slots__ = ("_next",)

    def __init__(self, next_: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self._next = next_

    def __anext__(self) -> Coroutine[Any, Any, _T]:
        return self._next()


class Statuses(Batch[ProductionStatus]):
    """One poll of each of many cards. Await it for a dict, or iterate it for each card's status as it comes.

    ```python
    statuses = await client.get_statuses(cards)  # dict[Card, ProductionStatus | CardprodError]

    async with client.get_statuses(cards) as pairs:
        async for card, status in pairs:
            print(card, status)
    ```

    Cards are taken from their source only as they can be polled, one ahead, so it may be a generator over a database;
    of each only the card is remembered, so that it is polled once. An error is a value beside the others and ends
    nothing: so is a `UsageError` for an item that is no card. A slow reader holds the work back. Leaving the block ends
    it.

    Raises (when awaited or iterated):
        UsageError: It was used before, or its client is closed or belongs to another event loop.
    """

    __name__ = "get_statuses"

    def __init__(self, cards: Cards, poller: Poller, batches: Batches) -> None:
        super().__init__(poller, batches)
        self._source = cards

    @staticmethod
    def _outcome_of(result: ProductionStatus | CardprodError) -> ProductionStatus | CardprodError | None:
        return result

    def _begin(self) -> None:
        self._run(self._poll_all)

    async def _poll_all(self) -> None:
        taken: set[Card] = set()
        source, self._source = self._source, ()  # a generator is closed as soon as nobody holds it
        async for item, card in each_item(source):
            if isinstance(card, UsageError):
                await self._refuse(item, card)
            elif card not in taken:
                taken.add(card)
                self._stream.count_card()
                await self._start_poll(card)
        self._stream.finish()

    async def _start_poll(self, card: Card) -> None:
        """Wait for room and a permit, and poll the card in a task of its own."""
        while not self._stream.has_room:
            await self._room.wait_until(None)
        permit = await self._poller.transport.acquire(self._requests)

        def ended() -> None:
            permit.give_back()  # unless it was used
            self._stream.unreserve()

        self._stream.reserve()
        self._run(lambda: self._poll(card, permit), ended)

    async def _poll(self, card: Card, permit: Permit) -> None:
        outcome: Outcome
        try:
            outcome = await self._poller.request(card, self._requests, permit)
        except CardprodError as error:
            outcome = error.with_traceback(None)  # its frames hold this batch
        self._stream.add((card, outcome, None))
        self._stream.count_end(outcome)
