"""Durable waits in a database of the test's own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.durable.support import kept_connections, quick

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cardprod.durable import Durable


@pytest.fixture
async def durable(postgres: str) -> AsyncIterator[Durable]:
    """Durable waits whose workers are quick."""
    async with quick(postgres) as durable:
        yield durable


@pytest.fixture(autouse=True)
def connections() -> Iterator[None]:
    """Close the connections through which a test observes its database."""
    with kept_connections():
        yield


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder with a short path that every user may enter, as PostgreSQL must where this one is root."""
    with tempfile.TemporaryDirectory(prefix="emb") as name:
        Path(name).chmod(0o755)
        yield Path(name)
