"""Time limits: one for all exchanges in flight, with one timer, and one for the polls of a wait."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from cardprod._http.limiter import CLOSED
from cardprod.errors import UsageError

_NO_TASK: Final = "a request must be awaited inside a task, as every coroutine under asyncio.run is"


class TimeLimit:
    """Ends exchanges that exceed the time limit, with one timer for all of them.

    All have the same limit, so the one that started first expires first. A timer for each, as `asyncio.timeout` or
    aiohttp would set, costs 8 of the 65 µs of a request, more than everything else that this package adds to it.
    An exchange is ended by cancelling its task; a caller's cancellation is distinguished as `asyncio.timeout` does.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # Each task → when its limit expires, and its `cancelling()` at the start; in the order they started.
        self._running: dict[asyncio.Task[Any], tuple[float, int]] = {}
        self._expired: dict[asyncio.Task[Any], int] = {}
        self._timer: asyncio.Handle | None = None
        self.is_closed: bool = False
        """Whether no exchange may start any more."""

    @property
    def running(self) -> int:
        """How many exchanges are in flight."""
        return len(self._running) + len(self._expired)

    def start(self, task: asyncio.Task[Any] | None, now: float) -> asyncio.Task[Any]:
        """Start the time limit of the current task, and return that.

        Raises:
            UsageError: It is closed, or the current code runs in no task.
        """
        if self.is_closed:
            raise UsageError(CLOSED)
        if task is None:
            raise UsageError(_NO_TASK)
        due_at = now + self._seconds
        self._running[task] = due_at, task.cancelling()
        if self._timer is None:
            self._timer = task.get_loop().call_at(due_at, self._expire_overdue)
        return task

    def has_expired(self, task: asyncio.Task[Any]) -> bool:
        """Whether a cancellation is by the time limit alone, not by a caller as well."""
        cancelling = self._expired.pop(task, None)
        return cancelling is not None and task.uncancel() <= cancelling

    def is_cancelled(self, task: asyncio.Task[Any]) -> bool:
        """Whether a caller cancelled a task; if not, and no limit expired, something cancelled was awaited there."""
        _, cancelling = self._running.get(task, (0.0, -1))
        return task.cancelling() > cancelling

    def stop(self, task: asyncio.Task[Any]) -> None:
        """Stop the time limit of a task."""
        if self._running.pop(task, None) is None and self._expired.pop(task, None) is not None:
            task.uncancel()  # it expired, but its exchange ended in another way at the same time

    def close(self) -> None:
        """Let no exchange start, and end all in flight as soon as the event loop runs.

        Not at once: what closes it may be called within one, such as a token source, and would cancel its own task.
        """
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running:
            self._timer = next(iter(self._running)).get_loop().call_soon(self._expire_overdue)

    def _expire_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        while self._running:
            task, (due_at, cancelling) = next(iter(self._running.items()))
            if due_at > now and not self.is_closed:
                self._timer = loop.call_at(due_at, self._expire_overdue)
                return
            del self._running[task]
            self._expired[task] = cancelling
            task.cancel()


class CutOff:
    """Ends what the current task does at a time, or earlier if it is not needed any more, as `asyncio.timeout` does.

    It can be started and stopped again and again, and keeps its timer in between: one for each poll of a wait, as
    `asyncio.timeout` sets, would cost more than everything else that the wait adds to its requests.

    Raises:
        UsageError: The current code runs in no task.
    """

    __slots__ = ("_at", "_cancelling", "_has_come", "_is_running", "_timer", "is_called_off", "task")

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise UsageError(_NO_TASK)
        self.task: asyncio.Task[Any] = task
        """The task."""
        self._at: float | None = None
        self._timer: asyncio.Handle | None = None
        self._cancelling = 0  # `cancelling()` of the task at the start
        self._is_running = self._has_come = False
        self.is_called_off: bool = False
        """Whether what was started last was not needed any more."""

    def start(self, at: float | None) -> None:
        """End what begins now at a time on the loop's clock; None for not before `call_off`."""
        self._cancelling = self.task.cancelling()
        self._has_come = self.is_called_off = False
        self._is_running = True
        if at is not None and (at != self._at or self._timer is None):
            self._set_timer(self.task.get_loop().call_at(at, self._end))
        self._at = at

    def call_off(self) -> None:
        """End it as soon as the event loop runs, if it is still under way then."""
        if self._is_running and not self._has_come:
            self.is_called_off = True
            self._set_timer(self.task.get_loop().call_soon(self._end))

    def stop(self) -> bool:
        """Stop, because it has ended. Return whether a cancellation is by this alone, not by a caller as well."""
        was_running, self._is_running = self._is_running, False
        if was_running and self.is_called_off:
            self._set_timer(None)
        return was_running and self._has_come and self.task.uncancel() <= self._cancelling

    def close(self) -> None:
        """Stop, and keep no timer."""
        self.stop()
        self._set_timer(None)

    def _set_timer(self, timer: asyncio.Handle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _end(self) -> None:
        self._timer = None
        if self._is_running:
            self._has_come = True
            self.task.cancel()
