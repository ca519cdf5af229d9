"""What tests of durable waits share: a quick worker, a sink that moves the kiosk, and what the database holds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import attrs
import psycopg

from cardprod import Backoff, Card, ProductionEvent, ProductionStatus, Transition
from cardprod.durable import Durable, Step
from tests.durable.worker import OFTEN
from tests.waiting import LIMIT, Child, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from cardprod.durable import BatchStatus
    from cardprod.simulator import Plan, Simulator

QUICK: Final = Backoff(first=0.05, factor=1, ceiling=0.05)
SHORT: Plan = [("READY", 0.1), ("PRODUCED", 0)]
PRODUCED: Plan = [("PRODUCED", 0)]
STATUSES: Final = ["READY", "IN_PROGRESS", "PRODUCED"]
_connections: Final = dict[str, "psycopg.Connection[Any]"]()
_OPTIONS: Final = {"schema", "owner", "keep", "grace"}


def quick(database: str, *, heartbeat: float = 60, most_connections: int = 4, **options: Any) -> Durable:
    """Return durable waits whose workers do everything more often: these tests take real time.

    No worker is taken for dead because the machine is busy. There are few connections: each costs PostgreSQL as much as
    many statements.
    """
    settings = {name: options.pop(name) for name in [*options] if name not in _OPTIONS}
    durable = Durable(database, heartbeat=heartbeat, most_connections=most_connections, **options)
    durable.settings = attrs.evolve(durable.settings, **{**OFTEN, **settings})
    return durable


@contextlib.asynccontextmanager
async def working(durable: Durable, clients: Any, on_steps: Any = None, **options: Any) -> AsyncGenerator[None]:
    """Work for as long as the block lasts."""
    stop = asyncio.Event()
    task = asyncio.create_task(durable.work(clients, on_steps, stop=stop, **options))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(LIMIT):
            await task


async def over(durable: Durable, batch_id: str, child: Child | None = None) -> BatchStatus:
    """Wait until a batch is over."""

    async def status() -> BatchStatus:
        return await durable.status(batch_id)

    return await until("the end of a batch", status, lambda seen: seen.finished_at, child=child)


class Sink:
    """Keeps what is delivered, and when."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.at: list[float] = []

    async def __call__(self, steps: Sequence[Step]) -> None:
        """Take transitions."""
        self.steps.extend(steps)
        self.at.extend(time.monotonic() for _ in steps)


class MovingSink(Sink):
    """Moves a card on at the kiosk once its step was reported: so each is seen on any machine."""

    def __init__(self, kiosk: Simulator) -> None:
        super().__init__()
        self._kiosk = kiosk

    async def __call__(self, steps: Sequence[Step]) -> None:
        """Take steps; the same again, as it may be, moves nothing."""
        await super().__call__(steps)
        for step in steps:
            if isinstance(step.what, Transition) and step.what.current.status == self._kiosk.state_of(step.card).status:
                if step.what.current.status == "READY":
                    self._kiosk.start(step.card)
                elif step.what.current.status == "IN_PROGRESS":
                    self._kiosk.finish(step.card)


def cards_of(kiosk: Simulator, count: int, plan: Any) -> list[Card]:
    return [kiosk.add((123456, f"card-{number}"), plan) for number in range(count)]


def event_of(card: Card, status: str, *, ago: float = 0.0, requested: float = 60.0) -> ProductionEvent:
    """An event that was sent so many seconds ago, of a production that was requested so many seconds ago."""
    now = datetime.now(UTC)
    return ProductionEvent(
        card=card,
        status=ProductionStatus(status, kiosk_id="WIS00001", occurred_at=now - timedelta(seconds=requested)),
        sent_at=now - timedelta(seconds=ago),
    )


def assert_delivered(steps: Sequence[Step], card: Card) -> None:
    """Check that a card's transitions came in an unbroken chain, from its first status to its last, each step once."""
    transitions = [step.what for step in steps if step.card == card and isinstance(step.what, Transition)]
    assert [step.previous for step in transitions] == [None, *(step.current for step in transitions[:-1])]
    assert [step.current.status for step in transitions] == STATUSES


def statuses_of(steps: Sequence[Step], card: Card) -> list[str]:
    return [
        str(step.what.current.status) if isinstance(step.what, Transition) else type(step.what).__name__
        for step in steps
        if step.card == card
    ]


def execute(database: str, statement: str) -> list[tuple[Any, ...]]:
    """Run statements in the schema of durable waits, and return the rows of the last."""
    connection = _connections.get(database)
    if connection is None or connection.closed:
        connection = _connections[database] = psycopg.connect(database, autocommit=True)
    with connection.transaction():
        cursor = connection.execute(f"SET search_path TO cardprod; {statement}".encode())
        for _ in iter(cursor.nextset, None):
            pass
        return [] if cursor.description is None else cursor.fetchall()


@contextlib.contextmanager
def kept_connections() -> Generator[None]:
    """Close the connections of `execute`, which keeps them because a test may observe rows many times a second."""
    try:
        yield
    finally:
        for connection in _connections.values():
            connection.close()
        _connections.clear()


def sweeps(database: str) -> list[tuple[Any, ...]]:
    """List the sweeps that are planned or under way: their state, and whether they are due."""
    return execute(
        database,
        "SELECT status::text, scheduled_at <= now() FROM procrastinate_jobs WHERE task_name = 'cardprod.sweep'",
    )


def as_role(database: str, role: str) -> str:
    return database.replace("user=tester", f"user={role}")


def run_script(database: str, script: str) -> None:
    """Run a script as psql would."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(script.encode())
