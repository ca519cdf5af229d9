"""`Wait`: waiting for one card, awaited or iterated. It sleeps and looks as its `Watch` says, and decides nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeAlias

from cardprod.errors import CardprodError, RequestTimeout, UsageError
from cardprod.sharing import Alarm
from cardprod.telemetry import log_failed_look, log_transition
from cardprod.watch import Watch

if TYPE_CHECKING:
    from types import TracebackType

    from cardprod.models import Card, ProductionStatus, Transition
    from cardprod.sharing import Outcome, SharedLooks, Source
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
    It is consumed once; `UsageError` the second time.

    Raises (when awaited or iterated):
        WaitTimeout: The timeout came before a final status.
        Unauthorized, Forbidden, CardNotFound: At once, because no later look would mend them.
        TransportError, ApiError, BadReply: `max_failures` looks in a row failed; this is the last failure.
        UsageError: It was consumed before, or its client is closed or belongs to another event loop.
    """

    __slots__ = (
        "__weakref__",
        "_card",
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
        "_told",
        "_watch",
    )

    __name__ = "wait_until_final"
    __qualname__ = "Client.wait_until_final"

    def __init__(
        self, card: Card, look: Look, terms: Terms, shared: SharedLooks, observer: Observer | None = None
    ) -> None:
        self._card = card
        self._observer = observer
        self._told: WaitObserver | None = None
        self._look = look
        self._terms = terms
        self._shared = shared
        self._watch: Watch | None = None
        self._ear: _Ear | None = None
        self._coroutine: Coroutine[Any, Any, ProductionStatus] | None = None
        self._is_consumed = False  # by `await`, `async for` or `close`
        self._is_begun = False  # by `anext`
        self._is_closed = False
        self._is_looking = False

    @property
    def last(self) -> ProductionStatus | None:
        """The last status seen; None before the first answered look."""
        return None if self._watch is None else self._watch.last

    @property
    def polls(self) -> int:
        """How many looks were answered so far."""
        return 0 if self._watch is None else self._watch.polls

    def __repr__(self) -> str:
        return f"<Wait for card {self._card}: {self.polls} looks, last {self.last}>"

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
        try:
            step = await self._next_step()
            while step is not None and not step.is_final:
                step = await self._next_step()
        finally:
            self._tell_end(None)  # cancelled, if it was not told of an end before
        if step is None:
            raise UsageError("this wait was given up", card=self._card)
        return step.current

    async def _next_step(self) -> Transition | None:
        """Sleep and look until there is a transition to tell; None when there will be no more."""
        if self._is_looking:
            raise UsageError("this wait is already being iterated by another task", card=self._card)
        self._is_looking = True
        try:
            if self._watch is None:
                self._watch = Watch(self._card, self._terms, asyncio.get_running_loop().time())
                if self._observer is not None:
                    self._told = self._observer.wait_began(self._card)
            watch = self._watch
            ear = self._ear = self._ear or _Ear(watch)  # what it has heard and not told yet is told next
            self._shared.join(self._card, ear)
            try:
                while not watch.is_over and not self._is_closed:
                    step = await self._look_when_due(watch, ear)
                    if step is not None:
                        self._tell(step)
                        return step
            finally:
                self._shared.leave(self._card, ear)
        except Exception as exc:
            self._tell_end(exc)  # a token source's own, or a mistake in a schedule
            raise
        finally:
            self._is_looking = False
        if watch.error is not None and not self._is_closed:
            error, watch.error = watch.error, None  # told once; iterating on finds the end
            self._tell_end(error)
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: part them
        return None

    def _tell(self, step: Transition) -> None:
        log_transition(self._card, step)
        if self._told is not None:
            self._told.saw(step)
            if step.is_final:
                self._tell_end(None)

    def _tell_end(self, error: Exception | None) -> None:
        told, self._told = self._told, None
        if told is not None:
            told.ended(error)

    async def _look_when_due(self, watch: Watch, ear: _Ear) -> Transition | None:
        """Sleep until the next look is due, look, and observe what is seen; or what somebody else saw before that."""
        loop = asyncio.get_running_loop()
        heard = ear.heard()
        while heard is None:
            if watch.next_look_at > loop.time() and await ear.alarm.sleep_until(watch.next_look_at):
                heard = ear.heard()
                continue
            watch.begin_look(loop.time())
            if self._shared.is_looked_at(self._card):
                heard = await self._follow(watch, ear)
            else:
                heard = await self._lead(watch, ear), "poll"
        outcome, source = heard
        del heard
        if not isinstance(outcome, CardprodError):
            return watch.observe(outcome, loop.time(), source)
        watch.fail(outcome, loop.time())
        if not watch.is_over:
            log_failed_look(self._card, outcome, watch.failures)
            if self._told is not None:
                self._told.failed_look(outcome)
        del outcome  # its traceback holds a frame that holds this one: part them
        return None

    async def _lead(self, watch: Watch, ear: _Ear) -> Outcome:
        """Look, and tell whoever else waits for the card."""
        seen: Outcome | None = None
        self._shared.begin(self._card, asyncio.get_running_loop().time())
        cut_off = asyncio.timeout_at(watch.cut_off_at)
        try:
            async with cut_off:
                if self._told is None:
                    seen = await self._look(self._card)
                else:
                    with self._told.looking():
                        seen = await self._look(self._card)
        except CardprodError as failure:
            seen = failure
            return failure
        except TimeoutError as exc:
            if not cut_off.expired():
                raise
            return self._cut_off(exc)
        else:
            return seen
        finally:
            self._shared.end(self._card, seen, ear)
            del seen  # if it is an error, its traceback holds this frame: part them

    async def _follow(self, watch: Watch, ear: _Ear) -> tuple[Outcome, Source] | None:
        """Wait for the look that somebody else has under way. None if it told nothing that counts here."""
        cut_off_at = watch.cut_off_at
        if await ear.alarm.sleep_until(cut_off_at):
            return ear.heard()
        return self._cut_off(None), "poll"

    def _cut_off(self, cause: BaseException | None) -> RequestTimeout:
        cut = RequestTimeout("the wait's time ran out during a look", card=self._card)
        cut.__cause__ = cause
        return cut


class _Ear:
    """By what a wait hears of its card while it sleeps."""

    def __init__(self, watch: Watch) -> None:
        self.started_at = watch.started_at
        self.alarm = Alarm()
        self._watch = watch
        self._heard: deque[tuple[Outcome, Source]] = deque()

    def heard(self) -> tuple[Outcome, Source] | None:
        return self._heard.popleft() if self._heard else None

    def hear(self, outcome: Outcome, source: Source) -> None:
        self._heard.append((outcome, source))
        self.alarm.ring()

    def wake(self) -> None:
        self.alarm.ring()

    def hurry(self) -> None:
        self._watch.fall_due(asyncio.get_running_loop().time())
        self.alarm.ring()


class _Steps(AsyncIterator["Transition"]):
    """What `aiter` makes of a wait: an iterator as any other, which gives itself when asked for one."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Wait) -> None:
        self._wait = wait

    async def __anext__(self) -> Transition:
        return await anext(self._wait)
