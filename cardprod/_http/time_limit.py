"""One time limit for all requests under way, with one timer."""

from __future__ import annotations

import asyncio
from typing import Any

from cardprod.errors import UsageError

__all__ = ["TimeLimit"]


class TimeLimit:
    """Ends exchanges that take longer than each of them may, with one timer for all.

    The one that started first is the first to be overdue, because each may take equally long. A timer for each would
    cost more than everything else this package adds to a request: 8 of 65 µs, as `asyncio.timeout` or aiohttp's own.
    Ending one cancels its task; it distinguishes a caller's cancellation as `asyncio.timeout` does.

    Args:
        seconds: How long each may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # The task → when it is overdue, and how often it was being cancelled before; in the order they started.
        self._running: dict[asyncio.Task[Any], tuple[float, int]] = {}
        self._expired: dict[asyncio.Task[Any], int] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """How many exchanges are under way."""
        return len(self._running) + len(self._expired)

    def start(self, loop: asyncio.AbstractEventLoop, now: float) -> asyncio.Task[Any]:
        """Start the time of what the current task does next, and return that task."""
        task = asyncio.current_task()
        if task is None:
            raise UsageError("a request must be awaited inside a task, as every coroutine under asyncio.run is")
        due_at = now + self._seconds
        self._running[task] = due_at, task.cancelling()
        if self._timer is None:
            self._timer = loop.call_at(due_at, self._expire_overdue)
        return task

    def has_expired(self, task: asyncio.Task[Any]) -> bool:
        """Say, of a cancellation, whether it is the time limit's alone, and no caller cancels the task as well."""
        cancelling = self._expired.pop(task, None)
        return cancelling is not None and task.uncancel() <= cancelling

    def stop(self, task: asyncio.Task[Any]) -> None:
        """Stop the task's time."""
        if self._running.pop(task, None) is None and self._expired.pop(task, None) is not None:
            task.uncancel()  # it expired, and ended in another way at the same time

    def close(self) -> None:
        """End everything that is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._running:
            self._expire_first()

    def _expire_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        while self._running:
            due_at, _ = next(iter(self._running.values()))
            if due_at > now:
                self._timer = loop.call_at(due_at, self._expire_overdue)
                return
            self._expire_first()

    def _expire_first(self) -> None:
        task, (_, cancelling) = next(iter(self._running.items()))
        del self._running[task]
        self._expired[task] = cancelling
        task.cancel()
