"""What programs on durable waits share: a PostgreSQL, worker processes, and an endpoint for webhooks."""

from __future__ import annotations

import json
import os
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from cardprod.simulator import Subscription
from tests.durable.postgres import Postgres, postgres_programs, running_postgres
from tests.waiting import Child, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from cardprod.simulator import Simulator

__all__ = ["HEARTBEAT", "Applied", "postgres", "start_worker", "webhooks"]

HEARTBEAT = 5.0
_ROOT = Path(__file__).parent.parent


@contextmanager
def postgres() -> Generator[Postgres]:
    """Run a PostgreSQL of the benchmark's own."""
    programs = postgres_programs()
    if programs is None:
        raise SystemExit("PostgreSQL is not installed: no initdb on the path or under /usr/lib/postgresql")
    with running_postgres(programs) as server:
        yield server


def start_worker(database: str, file: Path, base_url: str, token: str = "", *options: str) -> Child:
    """Start a worker process, which writes what it is given to a file."""
    environment = {**os.environ, "CARDPROD_TOKEN": token, "CARDPROD_BASE_URL": base_url, "PYTHONPATH": str(_ROOT)}
    program = [sys.executable, str(_ROOT / "tests" / "durable" / "worker.py")]
    return Child(*program, database, str(file), str(HEARTBEAT), *options, env=environment)


@attrs.frozen
class Applied:
    """An event that was applied: how late it was received, in seconds, when, and how long applying it took."""

    card: str
    is_final: bool
    late: float
    received_at: float
    took: float


@asynccontextmanager
async def webhooks(
    kiosk: Simulator, database: str, folder: Path, seed: int, losses: float = 0.1
) -> AsyncGenerator[Callable[[], list[Applied]]]:
    """Deliver the kiosk's webhooks, of which some are lost, to durable waits in a process of its own.

    Yields:
        What returns the events that were applied so far.
    """
    key, file = folder / "key.pem", folder / "applied"
    key.write_text(kiosk.public_key, "ascii")
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    program = [sys.executable, str(_ROOT / "benchmarks" / "durable_receiver.py")]
    with Child(*program, database, str(key), str(file), env=environment) as receiver:
        [url] = await until("an address", lambda: receiver.lines, child=receiver)
        kiosk.subscribe(Subscription(url=url, losses=losses, seed=seed))
        yield lambda: [Applied(*json.loads(line)) for line in file.read_text("utf-8").splitlines()]
