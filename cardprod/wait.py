"""`Wait`: waiting for one card, awaited or iterated. It sleeps and looks as its `Watch` says, and decides nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

from cardprod.checkpoint import Checkpoint, wall_clock
from cardprod.errors import CardprodError, RequestTimeout, UsageError, WaitTimeout
from cardprod.sharing import Alarm
from cardprod.telemetry import log_failed_look, log_transition
from cardprod.watch import Watch

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from cardprod.checkpoint import PendingCard
    from cardprod.models import Card, ProductionEvent, ProductionStatus, Transition
    from cardprod.sharing import Outcome, SharedLooks
    from cardprod.telemetry import Observer, WaitObserver
    from cardprod.watch import Terms

__all__ = ["Look", "Wait"]

Look: TypeAlias = Callable[["Card"], Coroutine[Any, Any, "ProductionStatus"]]
"""How a wait looks at its card: once, retries included."""


class Wait(Coroutine[Any, Any, "ProductionStatus"], AsyncIterator["Transition"]):
    """The waiting for one card. Await it for the final status, or iterate it for each transition on the way.

    ```python
    final = await client.wait_until_final(123456, token)

    async for step in client.wait_until_final(123456, token):
        print(step)  # READY, then READY -> IN_PROGRESS at WIS00001, …
    ```

    It is a coroutine to everything that takes one: `asyncio.gather`, `asyncio.create_task`, `TaskGroup.create_task`,
    `asyncio.wait_for`. Its clock starts when it is first awaited or iterated. Between looks it holds no connection,
    and at no time a task of its own, so it can be dropped half-way: `break` out of the loop and nothing is left.
    Events that come while you are busy with a step are told next. It is consumed once; `UsageError` the second time.

    Raises (when awaited or iterated):
        WaitTimeout: The timeout came before a final status.
        Unauthorized, Forbidden, CardNotFound: At once, because no later look would mend them.
        TransportError, ApiError, BadReply: `max_failures` looks in a row failed; this is the last failure.
        UsageError: It was consumed before, or its client is closed or belongs to another event loop.
    """

    __slots__ = (
        "__weakref__",
        "_card",
        "_checkpoint_id",
        "_coroutine",
        "_ear",
        "_is_begun",
        "_is_closed",
        "_is_consumed",
        "_is_looking",
        "_look",
        "_observer",
        "_shared",
        "_terms",
    )

    __name__ = "wait_until_final"
    __qualname__ = "Client.wait_until_final"

    def __init__(
        self, card: Card, look: Look, terms: Terms, shared: SharedLooks, observer: Observer | None = None
    ) -> None:
        self._card = card
        self._observer = observer
        self._look = look
        self._terms = terms
        self._shared = shared
        self._ear: _Ear | None = None
        self._checkpoint_id: str | None = None
        self._coroutine: Coroutine[Any, Any, ProductionStatus] | None = None
        self._is_consumed = False  # by `await`, `async for` or `close`
        self._is_begun = False  # by `anext`
        self._is_closed = False
        self._is_looking = False

    @property
    def last(self) -> ProductionStatus | None:
        """The last status seen; None before the first answered look."""
        return None if self._ear is None else self._ear.watch.last

    @property
    def polls(self) -> int:
        """How many looks were answered so far."""
        return 0 if self._ear is None else self._ear.watch.polls

    def checkpoint(self) -> Checkpoint:
        """Save the wait as it is, to go on with elsewhere by `Client.resume` or `Client.sweep`.

        What you were told of will not be told again; what was seen and not told yet will be told first. Before the wait
        has begun its time begins now; once its end was told, nothing is left to wait for.

        Raises:
            UsageError: It has begun, and this is not its event loop.
        """
        if self._checkpoint_id is None:
            self._checkpoint_id = str(uuid.uuid4())
        pending: tuple[PendingCard, ...]
        if self._ear is None:
            pending = Checkpoint.for_cards([self._card], timeout=self._terms.timeout).pending
        else:
            pending = self._ear.save()
        return Checkpoint(
            id=self._checkpoint_id,
            schedule=self._terms.saved_schedule,
            max_failures=self._terms.max_failures,
            pending=pending,
        )

    def __repr__(self) -> str:
        return f"<Wait for card {self._card}: {self.polls} looks, last {self.last}>"

    def __del__(self) -> None:
        # Between two steps it is still told of events; whoever drops it there, by `break`, says nothing.
        if self._ear is not None:
            self._shared.leave(self._card, self._ear)

    # --- A coroutine: to await, or to make a task of ---

    def __await__(self) -> Generator[Any, Any, ProductionStatus]:
        return self._start().__await__()

    def send(self, value: Any, /) -> Any:  # noqa: ANN401 - the coroutine protocol says so
        """Go on until the next suspension, as the event loop asks of a coroutine."""
        return self._started().send(value)

    def throw(
        self,
        typ: BaseException | type[BaseException],
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> Any:  # noqa: ANN401 - the coroutine protocol says so
        """Raise inside, as the event loop does to cancel."""
        exc = typ if isinstance(typ, BaseException) else val if isinstance(val, BaseException) else typ()
        return self._started().throw(exc if tb is None else exc.with_traceback(tb))

    def close(self) -> None:
        """Give the wait up, without an await: no look begins any more, and an iteration of it ends."""
        self._is_consumed = self._is_closed = True
        if self._coroutine is not None:
            self._coroutine.close()
        if self._ear is not None:
            self._shared.leave(self._card, self._ear)

    # --- An iterator: to see each transition ---

    def __aiter__(self) -> AsyncIterator[Transition]:  # noqa: PYI034 - what iterates on may be asked again, a wait not
        self._consume()
        return _Steps(self)

    async def __anext__(self) -> Transition:
        self._is_begun = True
        step = await self._next_step()
        if step is None:
            raise StopAsyncIteration
        return step

    # --- The waiting itself ---

    def _consume(self) -> None:
        if self._is_consumed:
            raise UsageError("a wait can be awaited or iterated once; ask the client for another", card=self._card)
        self._is_consumed = True

    def _start(self) -> Coroutine[Any, Any, ProductionStatus]:
        self._is_consumed = self._is_consumed or self._is_begun  # steps that were taken cannot be awaited any more
        self._consume()
        self._coroutine = self._run()
        return self._coroutine

    def _started(self) -> Coroutine[Any, Any, ProductionStatus]:
        return self._start() if self._coroutine is None else self._coroutine

    async def _run(self) -> ProductionStatus:
        step = await self._next_step()
        while step is not None and not step.is_final:
            step = await self._next_step()
        if step is None:
            raise UsageError("this wait was given up", card=self._card)
        return step.current

    async def _next_step(self) -> Transition | None:
        """Sleep and look until there is a transition to tell; None when there will be no more."""
        if self._is_looking:
            raise UsageError("this wait is already being iterated by another task", card=self._card)
        self._is_looking = True
        ear = self._ear = self._ear or self._listen()
        self._shared.join(self._card, ear)
        try:
            while not (ear.steps or ear.watch.is_over or self._is_closed):
                await self._look_when_due(ear)
                ear.check()
        except BaseException as exc:
            # Whoever was cancelled may ask for the next step, which joins again; mostly nobody does.
            self._shared.leave(self._card, ear)
            if isinstance(exc, Exception) or self._coroutine is not None:
                ear.end(exc if isinstance(exc, Exception) else None)
            raise
        finally:
            self._is_looking = False
        return self._take_step(ear)

    def _listen(self) -> _Ear:
        """Begin: from now on the wait's time runs, and it hears of its card."""
        watch = Watch(self._card, self._terms, asyncio.get_running_loop().time())
        return _Ear(watch, self._shared, None if self._observer is None else self._observer.wait_began(self._card))

    def _take_step(self, ear: _Ear) -> Transition | None:
        """Take what is to be told next: a transition, the error that ended the wait, or nothing any more."""
        watch = ear.watch
        if watch.is_over:
            self._shared.leave(self._card, ear)
        if self._is_closed:
            return None
        if ear.steps:
            return ear.steps.popleft()
        if watch.error is None:
            return None
        if isinstance(watch.error, WaitTimeout):
            watch.error.checkpoint = self.checkpoint()
        error, watch.error = watch.error, None  # told once; iterating on finds the end
        ear.end(error)
        try:
            raise error
        finally:
            del error  # its traceback holds this frame: part them

    async def _look_when_due(self, ear: _Ear) -> None:
        """Sleep until the next look is due, and look; or hear of the card before that."""
        loop, watch = asyncio.get_running_loop(), ear.watch
        if watch.next_look_at > loop.time() and await ear.alarm.sleep_until(watch.next_look_at):
            return
        now = loop.time()
        if watch.put_off(now, self._shared.deliveries.gap(now)):
            return
        watch.begin_look(now)
        if not self._shared.is_looked_at(self._card):
            await self._lead(ear)
        elif not await ear.alarm.sleep_until(watch.cut_off_at):
            # Somebody else's look is under way, and told nothing in time.
            ear.take(self._cut_off(None))

    async def _lead(self, ear: _Ear) -> None:
        """Look, and tell whoever else waits for the card."""
        seen: Outcome | None = None
        self._shared.begin(self._card, asyncio.get_running_loop().time())
        cut_off = asyncio.timeout_at(ear.watch.cut_off_at)
        try:
            async with cut_off:
                with ear.interrupting(cut_off), nullcontext() if ear.told is None else ear.told.looking():
                    seen = await self._look(self._card)
        except CardprodError as failure:
            seen = failure
        except TimeoutError as exc:
            if not cut_off.expired():
                raise
            if not ear.steps:  # else it was cut off by an event, which told them
                ear.take(self._cut_off(exc))
        finally:
            self._shared.end(self._card, seen, ear)
        if seen is not None:
            ear.take(seen)
        del seen  # if it is an error, its traceback holds this frame: part them

    def _cut_off(self, cause: BaseException | None) -> RequestTimeout:
        cut = RequestTimeout("the wait's time ran out during a look", card=self._card)
        cut.__cause__ = cause
        return cut


class _Ear:
    """What a wait knows of its card. It hears of it from its first step on, whether a step is asked for or not.

    The wait holds it and it does not hold the wait, so that a wait that is dropped goes.
    """

    def __init__(self, watch: Watch, shared: SharedLooks, told: WaitObserver | None) -> None:
        self.started_at = watch.started_at
        self.watch = watch
        self.alarm = Alarm()
        self.steps: deque[Transition] = deque()
        """What was seen and not told yet."""
        self.told = told
        """The observer that is told of this wait, until its end."""
        self._shared = shared
        self._broken_by: Exception | None = None
        self._cut_off: asyncio.Timeout | None = None

    def hear_outcome(self, outcome: Outcome) -> None:
        """Take what somebody else's look showed."""
        try:
            self.take(outcome)
        except Exception as exc:  # noqa: BLE001 - a schedule's own, and whoever looked has no part in it
            self._broken_by = exc
        self.alarm.ring()

    def hear_event(self, event: ProductionEvent, wall_now: datetime) -> bool:
        """Take what an event says. It is worth more than a look that is under way."""
        if self.watch.is_over:
            return False
        step = None
        try:
            step = self.watch.hear(event, asyncio.get_running_loop().time(), wall_now)
            if step is not None:
                self._saw(step)
        except Exception as exc:  # noqa: BLE001 - as above, or an observer's own
            self._broken_by = exc
        if step is not None or self._broken_by is not None:
            self.alarm.ring()
            if self._cut_off is not None and not self._cut_off.expired():
                self._cut_off.reschedule(asyncio.get_running_loop().time())
        return step is not None

    def wake(self) -> None:
        """Look oneself, now that another's look has told nothing."""
        self.alarm.ring()

    def check(self) -> None:
        """Raise what a schedule raised while another's look, or an event, was heard."""
        error, self._broken_by = self._broken_by, None
        if error is not None:
            raise error

    @contextmanager
    def interrupting(self, cut_off: asyncio.Timeout) -> Generator[None]:
        """Let an event cut a look off."""
        self._cut_off = cut_off
        try:
            yield
        finally:
            self._cut_off = None

    def take(self, outcome: Outcome) -> None:
        """Take what a look showed."""
        watch = self.watch
        if watch.is_over:
            return
        now = asyncio.get_running_loop().time()
        if not isinstance(outcome, CardprodError):
            step = watch.observe(outcome, now)
            if step is not None:
                self._saw(step)
                if step.previous is not None:
                    self._shared.deliveries.found(watch.card, step.current, now)
                elif (event := self._shared.recent_event(watch.card)) is not None:
                    self.hear_event(event, wall_clock())
            return
        watch.fail(outcome, now)
        if not watch.is_over:
            log_failed_look(watch.card, outcome, watch.failures)
            if self.told is not None:
                self.told.failed_look(outcome)

    def save(self) -> tuple[PendingCard, ...]:
        """Save what is still to be waited for, or to be told."""
        if self.watch.is_over and self.watch.error is None and not self.steps:
            return ()
        try:
            now = asyncio.get_running_loop().time()
        except RuntimeError as exc:
            message = "a wait that has begun is saved in its event loop, whose clock it goes by"
            raise UsageError(message, card=self.watch.card) from exc
        return (self.watch.save(now, wall_clock(), self.steps),)

    def end(self, error: Exception | None) -> None:
        """Let the observer know of the end, if it does not yet."""
        told, self.told = self.told, None
        if told is not None:
            told.ended(error)

    def _saw(self, step: Transition) -> None:
        self.steps.append(step)
        log_transition(self.watch.card, step)
        if self.told is not None:
            self.told.saw(step)
            if step.is_final:
                self.end(None)


class _Steps(AsyncIterator["Transition"]):
    """What `aiter` makes of a wait: an iterator as any other, which gives itself when asked for one."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Wait) -> None:
        self._wait = wait

    async def __anext__(self) -> Transition:
        return await anext(self._wait)
