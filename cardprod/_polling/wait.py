"""`Wait`: the wait for one card, awaited or iterated."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from cardprod._polling.coroutine import CoroutineLike, check_loop, not_an_end
from cardprod._polling.poller import PollEntry
from cardprod._polling.queue import TICK
from cardprod._polling.signal import Signal
from cardprod.checkpoint import Checkpoint, wall_clock
from cardprod.errors import CardprodError, UsageError, WaitTimeout
from cardprod.models import ProductionStatus, Transition

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from cardprod._http.limiter import LimiterQueue, Permit
    from cardprod._polling.poller import Poller
    from cardprod._polling.state import PollOptions
    from cardprod.models import Card, ProductionEvent

__all__ = ["Wait"]


class Wait(CoroutineLike[ProductionStatus], AsyncIterator[Transition]):
    """The wait for one card. Await it for the final status, or iterate it for each transition.

    ```python
    final = await client.wait_until_final(123456, token)

    async for step in client.wait_until_final(123456, token):
        print(step)  # READY, then READY -> IN_PROGRESS at WIS00001, …
    ```

    It works as a coroutine in `asyncio.gather`, `asyncio.create_task`, `TaskGroup.create_task` and `asyncio.wait_for`.
    Its time starts when it is first awaited or iterated. It has no task of its own, and between polls no connection, so
    you can `break` out of the loop at any step. Events that come while you process a step are delivered next. It can be
    awaited or iterated once.

    Raises (when awaited or iterated):
        WaitTimeout: The timeout passed before a final status.
        Unauthorized, Forbidden, CardNotFound: At once, because no later poll can succeed.
        TransportError, ApiError, BadReply: `max_failures` polls in a row failed, and, if there had been an answer, for
            `max_outage` seconds; this is the last failure.
        UsageError: It was used before, or its client is closed or belongs to another event loop.
    """

    __slots__ = (
        "__weakref__",
        "_after",
        "_card",
        "_checkpoint_id",
        "_entry",
        "_is_begun",
        "_is_closed",
        "_is_consumed",
        "_is_polling",
        "_options",
        "_poller",
        "_reader",
    )

    __name__ = "wait_until_final"

    def __init__(self, card: Card, poller: Poller, options: PollOptions, after: ProductionStatus | None = None) -> None:
        self._card = card
        self._poller = poller
        self._options = options
        self._after = after
        self._entry: _Entry | None = None
        self._checkpoint_id: str | None = None
        self._coroutine = None
        self._is_consumed = False  # by `await`, `async for` or `close`
        self._is_begun = False  # by `anext`
        self._is_closed = False
        self._is_polling = False
        self._reader: asyncio.Task[Any] | None = None  # whose task polls, if any does

    @property
    def last(self) -> ProductionStatus | None:
        """The last status seen, or `after`; None before the first."""
        return self._after if self._entry is None else self._entry.last

    @property
    def polls(self) -> int:
        """How many polls were answered so far."""
        return 0 if self._entry is None else self._entry.polls

    def checkpoint(self) -> Checkpoint:
        """Save the wait as it is, for `Client.resume` or `Client.sweep` to continue.

        Delivered transitions will not be delivered again; those seen but undelivered come first. If the wait was not
        started yet, its time starts now. If its end was delivered, the checkpoint is empty.

        Raises:
            UsageError: It was started, and this is not its event loop.
        """
        if self._entry is not None:
            return self._entry.checkpoint()
        if self._checkpoint_id is None:
            self._checkpoint_id = str(uuid.uuid4())
        after = None if self._after is None else {self._card: self._after}
        pending = Checkpoint.for_cards([self._card], timeout=self._options.timeout, after=after).pending
        return self._options.checkpoint(self._checkpoint_id, pending)

    def __repr__(self) -> str:
        return f"<Wait for card {self._card}: {self.polls} polls, last {self.last}>"

    def __del__(self) -> None:
        # An iteration that was left by `break` is still subscribed to events.
        if self._entry is not None:
            self._poller.end(self._entry)
        elif not (self._is_consumed or self._is_begun or self._checkpoint_id):
            self._is_consumed = True
            self._warn_unused()

    # --- A coroutine ---

    def _start(self) -> Coroutine[Any, Any, ProductionStatus]:
        self._is_consumed = self._is_consumed or self._is_begun  # a wait whose steps were taken cannot be awaited
        self._consume()
        return self._run()

    def close(self) -> None:
        """End the wait without a result: no poll starts any more, and an iteration of it ends.

        Raises:
            UsageError: It is awaited or iterated in an event loop, and this is another thread.
        """
        if self._reader is not None:
            words = "close must be called in the event loop of the wait; from another thread use call_soon_threadsafe"
            check_loop(self._reader.get_loop(), words)
        self._is_consumed = self._is_closed = True
        if self._entry is not None:
            self._poller.end(self._entry)
        if self._is_polling and self._entry is not None and _is_in_another_task(self._reader):
            self._entry.give_up()  # the other task, which awaits or iterates it, then finds that it has ended
        elif self._coroutine is not None:
            self._coroutine.close()

    # --- An iterator ---

    def __aiter__(self) -> AsyncIterator[Transition]:  # noqa: PYI034 - what iterates may be asked again, a wait may not
        self._consume()
        return _Steps(self)

    async def __anext__(self) -> Transition:
        self._is_begun = True
        step = await self._next_step()
        if step is None:
            raise StopAsyncIteration
        return step

    async def aclose(self) -> None:
        """Call `close`, for `contextlib.aclosing`."""
        self.close()

    # --- The wait itself ---

    def _consume(self) -> None:
        if self._is_consumed:
            raise UsageError("a wait can be awaited or iterated once; ask the client for another", card=self._card)
        self._is_consumed = True

    async def _run(self) -> ProductionStatus:
        step = await self._next_step()
        while step is not None and not step.is_final:
            step = await self._next_step()
        if step is None:
            raise UsageError("this wait was closed while it was awaited: ask the client for another", card=self._card)
        return step.current

    async def _next_step(self) -> Transition | None:
        """Sleep and poll until there is a transition to deliver; None when there will be no more."""
        if self._is_polling:
            raise UsageError(
                "another task awaits or iterates this wait already: ask the client for another", card=self._card
            )
        self._is_polling, self._reader = True, asyncio.current_task()
        try:
            entry = self._entry
            if entry is None:
                self._poller.transport.check_usable()
                now = asyncio.get_running_loop().time()
                entry = _Entry(self._card, self._options, now, self._poller, self._checkpoint_id, after=self._after)
                self._entry = entry
                self._poller.begin(entry)
            elif not entry.is_over:
                self._poller.subscriptions.join(self._card, entry)
            while not (entry.steps or entry.is_over or self._is_closed):
                await entry.poll_when_due()
                entry.raise_aborted()
        except BaseException as exc:  # noqa: BLE001 - it is raised
            if isinstance(exc, CardprodError):
                exc.card = self._card
            # After a cancellation the iteration may be continued, which joins again; mostly it is not.
            if self._entry is not None and (isinstance(exc, Exception) or self._coroutine is not None):
                self._poller.end(self._entry, exc if isinstance(exc, Exception) else None)
            elif self._entry is not None:
                self._poller.subscriptions.leave(self._card, self._entry)
            raise not_an_end(exc)  # noqa: B904 - it has its cause
        finally:
            self._is_polling, self._reader = False, None
        return None if self._is_closed else entry.take_step()


class _Entry(PollEntry):
    """The card of a wait. It is subscribed to events from the first step on, also between steps.

    It has no reference to the wait, so that a wait that is dropped is freed.
    """

    is_interruptible = True

    __slots__ = (
        "_aborted_by",
        "_checkpoint_id",
        "_is_interrupted",
        "_is_queued",
        "_limit",
        "_poller",
        "_signal",
        "steps",
    )

    def __init__(  # noqa: PLR0913 - what a wait is made of
        self,
        card: Card,
        options: PollOptions,
        now: float,
        poller: Poller,
        checkpoint_id: str | None,
        *,
        after: ProductionStatus | None,
    ) -> None:
        super().__init__(card, options, now, after=after)
        self._poller = poller
        self._checkpoint_id = checkpoint_id
        self._signal = Signal()
        self._aborted_by: BaseException | None = None
        self._limit: asyncio.Timeout | None = None
        self._is_interrupted = False
        self._is_queued = False  # for a permit
        self.steps: deque[Transition] = deque()
        """Transitions seen but not delivered yet."""

    @property
    def poller(self) -> Poller:
        return self._poller

    @property
    def is_interrupted(self) -> bool:
        return self._is_interrupted

    async def poll_when_due(self) -> None:
        """Sleep until the next poll is due, and poll; or return earlier, after an event or another wait's poll."""
        loop, subscriptions = asyncio.get_running_loop(), self._poller.subscriptions
        due_at = min(self.next_poll_at, self.expires_at)
        if due_at > loop.time() and await self._signal.wait_until(due_at):
            return
        now = loop.time()
        if due_at < self.next_poll_at or self.next_poll_at == self.expires_at:  # a `Retry-After` forbids a last poll
            self.expire(now)
            self._poller.settle(self)
            return
        if self.postpone(now, subscriptions.trust.gap(now)):
            self._poller.settle(self)
            return
        self.mark_due(now)
        if not subscriptions.is_polled(self.card):
            queue = self._poller.waits if self.polls and not self.is_last_poll else None
            permit = None if queue is None else await self._acquire(queue)
            if queue is None or permit is not None:
                shared = subscriptions.begin_poll(self.card, self, loop.time())
                await self._poller.poll_once(self, shared, queue, permit)
        else:
            due_at, cut_off_at = self.next_poll_at, self.cut_off_at
            await self._signal.wait_until(cut_off_at)
            if self.next_poll_at == due_at and cut_off_at is not None and loop.time() >= cut_off_at - TICK:
                self._poller.apply_cut_off(self)

    async def _acquire(self, queue: LimiterQueue) -> Permit | None:
        """Wait for a permit; None if an event or another wait's poll came first, or the time of the last poll.

        Meanwhile no poll of the card is in flight: another wait, whose poll is more urgent, need not follow this one.
        """
        permit = self._poller.transport.limiter.try_acquire(asyncio.get_running_loop().time(), queue)
        if permit is not None:
            return permit
        cut_off_at = self.cut_off_at
        failure: CardprodError | None = None
        limit = asyncio.timeout_at(cut_off_at)
        try:
            async with limit:
                self.limit_poll(limit)
                self._is_queued = True
                permit = await self._poller.transport.acquire(queue, self.urgent_at)
        except CardprodError as error:  # the client was closed
            failure = error.with_traceback(None)
        except TimeoutError:
            if not limit.expired():
                raise
            if cut_off_at is not None and not self._is_interrupted:
                self.mark_due(cut_off_at)
        finally:
            is_needed = not (self._is_interrupted or self._poller.subscriptions.is_polled(self.card))
            self._is_queued = False
            self.limit_poll(None)
        if failure is not None:
            self._poller.apply(self, failure)
        if permit is not None and not is_needed:
            permit.give_back()
            return None
        return permit

    def raise_aborted(self) -> None:
        """Raise the error of a schedule or a token source, if there was one."""
        error, self._aborted_by = self._aborted_by, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: break the cycle

    def take_step(self) -> Transition | None:
        """Return the next transition to deliver, or raise the error that ended the wait; None after the end."""
        if self.steps:
            return self.steps.popleft()
        if isinstance(self.error, WaitTimeout):
            self.error.checkpoint = self.checkpoint()
        error = self.take_error()  # raised once; further iteration ends
        if error is None:
            return None
        try:
            raise error
        finally:
            del error  # as above

    def checkpoint(self) -> Checkpoint:
        """Save the wait, with its undelivered transitions; empty if all was delivered."""
        self._checkpoint_id = self._checkpoint_id or str(uuid.uuid4())
        if self.is_over and self.error is None and not self.steps:
            return self._options.checkpoint(self._checkpoint_id, ())
        try:
            now = asyncio.get_running_loop().time()
        except RuntimeError as exc:
            message = "the checkpoint of a started wait must be made in its event loop, whose clock it uses"
            raise UsageError(message, card=self.card) from exc
        return self._options.checkpoint(self._checkpoint_id, (self.save(now, wall_clock(), self.steps),))

    # --- For the engine ---

    def deliver(self, transition: Transition) -> None:
        self.steps.append(transition)

    def move_on(self) -> None:
        self._signal.set()
        if self._is_queued:
            self._interrupt()

    def abort(self, error: BaseException) -> None:
        self._aborted_by = error
        self._signal.set()
        self._interrupt()

    def give_up(self) -> None:
        """End the sleep or the poll in progress."""
        self._signal.set()
        self._interrupt()

    def limit_poll(self, limit: asyncio.Timeout | None) -> None:
        self._limit = limit
        self._is_interrupted = False

    def take_event(self, event: ProductionEvent, wall_now: float) -> bool:
        """Process an event. If something is new, the poll in flight is not needed any more, and is cut off."""
        is_news = super().take_event(event, wall_now)
        if is_news:
            self._interrupt()
        return is_news

    def poll_yourself(self) -> None:
        self._signal.set()

    def _interrupt(self) -> None:
        if self._limit is not None and not self._limit.expired():
            self._is_interrupted = True
            self._limit.reschedule(asyncio.get_running_loop().time())


class _Steps(AsyncIterator[Transition]):
    """The iterator of a wait: unlike the wait itself, it can be passed to `aiter` again."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Wait) -> None:
        self._wait = wait

    async def __anext__(self) -> Transition:
        return await anext(self._wait)


def _is_in_another_task(task: asyncio.Task[Any] | None) -> bool:
    try:
        return asyncio.current_task() is not task
    except RuntimeError:  # in no event loop at all
        return False
