"""The clocks of tests: the event loop's virtual time, and a wall clock that follows it."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import cardprod.checkpoint

if TYPE_CHECKING:
    from collections.abc import Generator


def now() -> float:
    """Return the event loop's virtual time."""
    return asyncio.get_running_loop().time()


@contextlib.contextmanager
def wall_clock_of_the_loop() -> Generator[None]:
    """Make the wall clock of checkpoints follow the event loop's virtual time, which begins at noon."""
    noon = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
    reached = 0.0

    def time() -> float:
        nonlocal reached
        with contextlib.suppress(RuntimeError):  # of another thread, for which time stands still
            reached = now()
        return noon + reached

    clock = SimpleNamespace(time=time)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cardprod.checkpoint, "time", clock)
        yield
