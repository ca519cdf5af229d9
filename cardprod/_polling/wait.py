"""`Wait`: the wait for one card, awaited or iterated."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from cardprod._http.time_limit import CutOff
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
    from cardprod.models import Card


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
        "_options",
        "_poller",
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

    @property
    def last(self) -> ProductionStatus | None:
        """The last status seen, or `after`; None before the first."""
        return self._after if self._entry is None else self._entry.last

    @property
    def polls(self) -> int:
        """How many polls were answered so far."""
        return 0 if self._entry is None else self._entry.polls

    def checkpoint(self) -> Checkpoint:
        """Return the wait as it is, for `Client.resume` or `Client.sweep` to continue. It stores nothing.

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
        if self._entry is not None:
            words = "close must be called in the event loop of the wait; from another thread use call_soon_threadsafe"
            check_loop(self._poller.transport.loop, words)
        self._is_consumed = self._is_closed = True
        if self._entry is not None:
            self._poller.end(self._entry)
        if self._entry is None or not self._entry.end_step():
            self._close_coroutine()

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
        entry, cut_off = self._entry, CutOff()
        if entry is None:
            entry = self._begin(cut_off)
        elif entry.cut_off is not None:
            raise UsageError(
                "another task awaits or iterates this wait already: ask the client for another", card=self._card
            )
        elif not entry.is_over:  # it has left if a step was cancelled
            self._poller.subscriptions.join(self._card, entry)
        entry.cut_off = cut_off
        try:
            while not (entry.steps or entry.is_over or self._is_closed):
                await entry.poll_when_due(cut_off)
                if entry.aborted_by is not None:
                    entry.raise_aborted()
        except Exception as exc:  # noqa: BLE001 - it is raised
            if isinstance(exc, CardprodError):
                exc.card = self._card
            self._poller.end(entry, exc)
            raise not_an_end(exc)  # noqa: B904 - it has its cause
        except BaseException:
            if self._coroutine is not None:
                self._poller.end(entry)
            else:  # the iteration may be continued after this cancellation; mostly it is not
                self._poller.subscriptions.leave(self._card, entry)
            raise
        finally:
            entry.cut_off = None
            cut_off.close()
        return None if self._is_closed else entry.take_step()

    def _begin(self, cut_off: CutOff) -> _Entry:
        try:
            self._poller.transport.check_usable()
        except UsageError as error:
            error.card = self._card
            raise
        now = asyncio.get_running_loop().time()
        entry = _Entry(self._card, self._options, now, self._poller, self._checkpoint_id, after=self._after)
        self._entry, entry.cut_off = entry, cut_off  # before an observer is called, who may ask for it, or close it
        self._poller.begin(entry)
        return entry


class _Entry(PollEntry):
    """The card of a wait. It is subscribed to events from the first step on, also between steps.

    It has no reference to the wait, so that a wait that is dropped is freed.
    """

    __slots__ = ("_checkpoint_id", "_poller", "_signal", "aborted_by", "cut_off", "steps")

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
        self.aborted_by: BaseException | None = None
        """The error of a schedule or a token source, if there was one."""
        self.cut_off: CutOff | None = None
        """What ends a poll, its queueing included; None while nobody waits for a step."""
        self.steps: deque[Transition] = deque()
        """Transitions seen but not delivered yet."""

    @property
    def poller(self) -> Poller:
        return self._poller

    def end_step(self) -> bool:
        """End the step that is waited for, if there is one. Return whether another task than this one does."""
        if self.cut_off is None or not self.cut_off.task.get_loop().is_running():
            return False
        self.on_change()
        return asyncio.current_task() is not self.cut_off.task

    async def poll_when_due(self, cut_off: CutOff) -> None:
        """Sleep until the next poll is due, and poll; or return earlier, after an event or another wait's poll."""
        if self.aborted_by is not None or not self._poller.is_usable_for(self):
            return  # an event between two steps asked a schedule that raised; or the client was closed
        loop, poller = asyncio.get_running_loop(), self._poller
        subscriptions = poller.subscriptions
        self._signal.clear()  # what it was set for is in the state by now
        now, expires_at = loop.time(), self.expires_at
        due_at = min(self.next_poll_at, expires_at)
        if due_at > now:
            poller.sleeping.add(self)
            try:
                if await self._signal.wait_until(due_at):
                    return
            finally:
                poller.sleeping.discard(self)
            now = loop.time()
        if due_at == expires_at:  # a `Retry-After` forbids a last poll
            self.expire(now)
            poller.settle(self)
            return
        if self.postpone(now, subscriptions.trust.gap(now)):
            poller.settle(self)
            return
        self.delay_until(now)
        if subscriptions.is_polled(self.card):
            await self._follow()
            return
        # The first and the last poll go before the later ones of all waits, and queue while they count as under way.
        queue = poller.single_wait_queue if self.polls and not self.is_last_poll else None
        permit = None
        cut_off.start(self.cut_off_at)
        try:
            if queue is not None:
                permit = poller.transport.limiter.try_acquire(now, queue) or await self._acquire(queue, cut_off)
                if permit is None:
                    return
                now = permit.acquired_at
            await poller.poll_once(self, subscriptions.begin_poll(self.card, self, now), queue, permit, cut_off)
        finally:
            cut_off.stop()

    async def _follow(self) -> None:
        """Wait until another wait's poll of the card has ended, or time is up."""
        due_at, cut_off_at = self.next_poll_at, self.cut_off_at
        await self._signal.wait_until(cut_off_at)
        is_time_up = cut_off_at is not None and asyncio.get_running_loop().time() >= cut_off_at - TICK
        if is_time_up and self.next_poll_at == due_at:
            self._poller.expire_follower(self)

    async def _acquire(self, queue: LimiterQueue, cut_off: CutOff) -> Permit | None:
        """Queue for a permit; None if an event or another wait's poll came first, or the time of the last poll.

        Meanwhile no poll of the card is in flight: another wait, whose poll is more urgent, need not follow this one.
        """
        cut_off_at = self.cut_off_at
        try:
            self._poller.transport.check_usable()
            permit = await self._poller.transport.limiter.acquire(queue, self.urgent_at)
        except asyncio.CancelledError:
            if not cut_off.stop():
                raise
            if cut_off_at is not None and not cut_off.is_called_off:
                self.delay_until(cut_off_at)
            return None
        except CardprodError as error:  # the client was closed
            self._poller.apply(self, error.with_traceback(None))
            return None
        if cut_off.is_called_off or self._poller.subscriptions.is_polled(self.card):
            permit.give_back()
            return None
        return permit

    def raise_aborted(self) -> None:
        """Raise the error of a schedule or a token source."""
        error, self.aborted_by = self.aborted_by, None
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

    def on_change(self) -> None:
        """End the sleep or the poll in progress: what it was for has come, or does not count any more."""
        self._signal.set()
        if self.cut_off is not None:
            self.cut_off.call_off()

    def abort(self, error: BaseException) -> None:
        self.aborted_by = error
        self.on_change()

    def on_shared_poll_lost(self) -> None:
        self._signal.set()


class _Steps(AsyncIterator[Transition]):
    """The iterator of a wait: unlike the wait itself, it can be passed to `aiter` again."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Wait) -> None:
        self._wait = wait

    async def __anext__(self) -> Transition:
        return await anext(self._wait)
