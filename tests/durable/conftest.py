"""Durable waits in a database of the test's own."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
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


@pytest.fixture
async def own_durable(empty_postgres: str) -> AsyncIterator[Durable]:
    """The same in a database in which a test may change more than rows."""
    async with quick(empty_postgres) as durable:
        yield durable


@pytest.fixture(autouse=True)
def connections() -> Iterator[None]:
    """Close the connections through which a test observes its database."""
    with kept_connections():
        yield


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep the libraries' own complaints out of what a failed test shows."""
    for name in ("procrastinate", "psycopg.pool"):
        caplog.set_level(logging.CRITICAL, name)
    caplog.set_level(logging.WARNING, "cardprod")  # last: it is the handler's level too


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder with a short path that every user may enter, as PostgreSQL must where this one is root."""
    with tempfile.TemporaryDirectory(prefix="emb") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def role(empty_postgres: str) -> Iterator[str]:
    """A role of the database that owns nothing and was granted nothing."""
    with psycopg.connect(empty_postgres, autocommit=True) as connection:
        connection.execute("CREATE ROLE little LOGIN")
        yield "little"
        connection.execute("DROP OWNED BY little CASCADE")
        connection.execute("DROP ROLE little")
