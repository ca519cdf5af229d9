"""The wall clock of tests: it follows the event loop's virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator


@contextlib.contextmanager
def wall_clock_of_the_loop() -> Generator[None]:
    """Let the wall clock of checkpoints follow the event loop's virtual time, which begins at noon."""

    def now() -> datetime:
        return datetime(2026, 11, 24, 12, tzinfo=UTC) + timedelta(seconds=asyncio.get_running_loop().time())

    with pytest.MonkeyPatch.context() as patch:
        for module in (
            "checkpoint",
            *(f"_polling.{name}" for name in ("subscriptions", "poller", "wait", "bulk", "sweep")),
        ):
            patch.setattr(f"cardprod.{module}.wall_clock", now)
        yield
