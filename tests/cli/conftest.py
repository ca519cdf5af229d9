"""What the tests of the command share: virtual time that stands still while a thread works."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def time_stands_still_while_a_thread_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the event loop from idling, which would let virtual time jump, while a thread opens or writes a file."""
    real: Callable[..., asyncio.Future[Any]] = asyncio.BaseEventLoop.run_in_executor

    def run_in_executor(loop: asyncio.BaseEventLoop, *work: Any) -> asyncio.Future[Any]:
        future = real(loop, *work)

        def stay_busy() -> None:
            if not future.done():
                loop.call_soon(stay_busy)

        loop.call_soon(stay_busy)
        return future

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", run_in_executor)
