"""What every test gets: virtual time (looptime, in pyproject.toml), a kiosk on loopback, and a search for left-overs."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import cardprod
from cardprod.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CARD = cardprod.Card(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")

settings.register_profile("quick", max_examples=200, deadline=None)
settings.register_profile("thorough", max_examples=100_000, deadline=None)
settings.load_profile(os.environ.get("CARDPROD_HYPOTHESIS", "quick"))


@pytest.fixture
async def kiosk() -> AsyncIterator[Simulator]:
    """A kiosk on loopback, in the test's own event loop and so in its virtual time."""
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def client(kiosk: Simulator) -> AsyncIterator[cardprod.Client]:
    """A client of the kiosk, with default settings."""
    async with cardprod.Client(kiosk.token, base_url=kiosk.base_url) as client:
        yield client


async def assert_nothing_left(*, but: int = 0) -> None:
    """Check that no task is left in the running loop but the caller's, and `but` more that the test knows of."""
    for _ in range(10):  # closed connections take a few turns of the loop to go
        await asyncio.sleep(0)
    gc.collect()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert len(others) <= but, others
