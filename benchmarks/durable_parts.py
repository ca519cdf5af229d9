"""What programs on durable waits share: a PostgreSQL, worker processes, and an endpoint for webhooks."""

from __future__ import annotations

import os
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from aiohttp import web
from aiohttp.test_utils import TestServer

from cardprod.errors import DurableError
from cardprod.simulator import Subscription
from cardprod.webhooks import Verifier
from tests.durable.postgres import Postgres, postgres_programs, running_postgres
from tests.waiting import Child

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from cardprod import ProductionEvent
    from cardprod.durable import Durable
    from cardprod.simulator import Simulator

__all__ = ["HEARTBEAT", "Applied", "postgres", "start_worker", "webhooks"]

HEARTBEAT = 5.0


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
    root = Path(__file__).parent.parent
    environment = {**os.environ, "CARDPROD_TOKEN": token, "CARDPROD_BASE_URL": base_url, "PYTHONPATH": str(root)}
    program = [sys.executable, str(root / "tests" / "durable" / "worker.py")]
    return Child(*program, database, str(file), str(HEARTBEAT), *options, env=environment)


@attrs.frozen
class Applied:
    """An event that was applied: how late it was received, in seconds, when, and how long applying it took."""

    event: ProductionEvent
    late: float
    received_at: float
    took: float


@asynccontextmanager
async def webhooks(kiosk: Simulator, durable: Durable, seed: int, losses: float = 0.1) -> AsyncGenerator[list[Applied]]:
    """Deliver the kiosk's webhooks, of which some are lost, to durable waits in this process."""
    verifier = Verifier(kiosk.public_key)
    applied: list[Applied] = []

    async def receive(request: web.Request) -> web.Response:
        event = verifier.parse(await request.read(), request.headers)
        received_at = time.time()
        try:
            await durable.notify(event)
        except DurableError:
            return web.Response(status=503)
        if event.sent_at is not None:
            late = received_at - event.sent_at.timestamp()
            applied.append(Applied(event, late, received_at, time.time() - received_at))
        return web.Response()

    app = web.Application()
    app.router.add_post("/", receive)
    async with TestServer(app) as server:
        kiosk.subscribe(Subscription(url=str(server.make_url("/")), losses=losses, seed=seed))
        yield applied
