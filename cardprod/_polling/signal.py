"""`Signal`: lets one task sleep until a time, or until it is set."""

from __future__ import annotations

import asyncio


class Signal:
    """Like an `asyncio.Event` for one waiter, but with a deadline, and cleared at the end of each wait."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter; if there is none, the next wait ends at once."""
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """Reset it: the next wait waits until it is set again."""
        self._is_set = False

    async def wait_until(self, at: float | None) -> bool:
        """Wait until it is set, or until a time on the loop's clock; None for no limit.

        Returns:
            Whether it was set. If not, the time has come, although the loop's clock may still be a little before it.
        """
        if self._is_set:
            self._is_set = False
            return True
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if at is None else loop.call_at(at, _wake, self._waiter)
        try:
            await self._waiter
            return self._is_set
        finally:
            self._waiter = None
            self._is_set = False
            if timer is not None:
                timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
