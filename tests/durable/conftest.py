"""Durable waits in a database of the test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.durable.support import quick

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cardprod.durable import Durable


@pytest.fixture
async def durable(postgres: str) -> AsyncIterator[Durable]:
    """Durable waits whose workers are quick."""
    async with quick(postgres) as durable:
        yield durable
