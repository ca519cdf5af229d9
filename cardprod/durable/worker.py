"""`Worker`: sweeps parts as they fall due, tells the sink, and rescues what dead workers left. It decides nothing else.

A part goes through these steps, each of them one transaction, and any worker may take the next one:

1. Its cards are swept. The checkpoint, the results and the steps that were seen are written together.
2. The steps are told to the sink; if it raises or the worker dies, that is done again, with the same steps.
3. They are forgotten, and the next sweep is planned.

Without steps, or a sink, 1 plans the next sweep. A worker whose part was written by another meanwhile lets it be.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import attrs
from procrastinate.jobs import Status as JobStatus

from cardprod._protocol.codec import as_datetime
from cardprod.checkpoint import Checkpoint
from cardprod.durable import store
from cardprod.durable.database import SWEEP, TROUBLE, is_away, queue_of
from cardprod.durable.steps import outcomes_of, read_steps, written_outcome, written_steps
from cardprod.durable.store import Counts
from cardprod.errors import UsageError
from cardprod.models import ProductionStatus
from cardprod.telemetry import LOGGER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence

    from procrastinate import App
    from psycopg import AsyncConnection

    from cardprod._http.rate_limit import RateLimit
    from cardprod._polling.sweep import Sweep
    from cardprod.client import Client
    from cardprod.durable.database import Database
    from cardprod.durable.steps import Step
    from cardprod.durable.store import Part

__all__ = ["Sink", "Worker"]

_T = TypeVar("_T")

_RESCUE: Final = "cardprod.rescue"
_RESCUE_QUEUE: Final = "cardprod-rescue"
"""A queue of its own, with a worker of its own, so that no backlog holds it up."""

_RESCUE_EVERY: Final = 5
_POLL_EVERY: Final = 0.5
"""Seconds between questions for jobs that have fallen due. Listening would be quicker for new ones; it needs sessions,
which PgBouncer does not give in transaction mode."""

_TICK: Final = 2.0
_REMEMBERED: Final = 75.0
"""Seconds for which a worker that is not seen any more keeps its share of the rate limit: what it sent counts at the
other side for a minute."""

_SHIFT: Final = 60.0
"""Seconds after which a sweep that the rate limit holds up is written, with the cards it came to; others stay due."""

_LONGEST: Final = 900.0
"""Seconds. A job that has been under way for longer is lost, though its worker lives: the database went away just when
it was given out, or given back."""

_LIVES: Final = 3
"""Heartbeats without a sign of life, after which a worker is given up for dead."""

_GRACE: Final = 10.0
"""Seconds for which a worker that was told to stop waits for a database that is away."""


class Sink(Protocol):
    """Who is told of steps."""

    def __call__(self, steps: Sequence[Step], /) -> Awaitable[None]:
        """Take steps. Raising means: not now, tell me again later."""
        ...


class Worker:
    """One worker.

    Args:
        database: Where the parts are.
        clients: For each name of a token a client that has it.
        on_steps: Who is told of steps, if anybody.
        concurrency: How many parts are swept at once.
        heartbeat: Seconds between signs of life.
        keep: Seconds for which batches that are over are kept.
    """

    def __init__(  # noqa: PLR0913 - what it works with, and how
        self,
        database: Database,
        clients: Mapping[str, Client],
        on_steps: Sink | None,
        *,
        concurrency: int,
        heartbeat: float,
        keep: float,
    ) -> None:
        self._database = database
        self._clients = clients
        self._on_steps = on_steps
        self._concurrency = concurrency
        self._heartbeat = heartbeat
        self._keep = keep
        self._id = str(uuid.uuid4())
        self._stop = asyncio.Event()
        self._limits: dict[str, RateLimit | None] = {}
        self._sweeps: set[asyncio.Event] = set()  # under way: set, each ends as soon as it can

    async def run(self, stop: asyncio.Event | None) -> None:
        """Work until told to stop, or cancelled."""
        self._stop = stop or asyncio.Event()
        self._limits = {name: client.rate_limit for name, client in self._clients.items()}
        tasks: list[asyncio.Task[Any]] = []
        try:
            await self._join()
            tasks = [asyncio.create_task(work) for work in self._all_work()]
            # None of them ends by itself but by an error that nobody can do anything about.
            await asyncio.wait([*tasks, told := asyncio.create_task(self._stop.wait())], return_when="FIRST_COMPLETED")
            told.cancel()
        finally:
            self._stop.set()
            for sweep in self._sweeps:
                sweep.set()
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            for name, client in self._clients.items():
                client.rate_limit = self._limits[name]
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None and not is_away(error):
                raise error

    def _all_work(self) -> list[Coroutine[Any, Any, None]]:
        sweeping, rescuing = self._database.new_app(), self._database.new_app()
        sweeping.task(name=SWEEP)(self._go_on_with)
        rescue = rescuing.task(name=_RESCUE, queue=_RESCUE_QUEUE, queueing_lock=_RESCUE)(self._rescue)
        rescuing.periodic(cron=f"* * * * * */{_RESCUE_EVERY}")(rescue)
        return [
            self._keep_ticking(),
            self._work(sweeping, [queue_of(name) for name in self._clients], self._concurrency),
            self._work(rescuing, [_RESCUE_QUEUE], 1),
        ]

    async def _work(self, app: App, queues: list[str], concurrency: int) -> None:
        """Let procrastinate work; again after the database was away, for it stops then."""
        while not self._stop.is_set():
            try:
                await app.run_worker_async(
                    queues=queues,
                    concurrency=concurrency,
                    fetch_job_polling_interval=_POLL_EVERY,
                    listen_notify=False,
                    delete_jobs="always",
                    install_signal_handlers=False,
                    update_heartbeat_interval=self._heartbeat,
                    stalled_worker_timeout=self._heartbeat * _LIVES,
                )
            except TROUBLE as exc:
                # Not only while it is away: one that was given up for dead and was not finds that it is unknown.
                LOGGER.warning("the database did not answer as it should (%s); trying again", type(exc).__name__)
            await asyncio.sleep(1)

    # --- One of several ---

    async def _join(self) -> None:
        """Take a share of the rate limit, and let the others take note of that before any look begins."""
        workers = await self._tick()
        if workers > 1:
            await asyncio.sleep(2 * _TICK)

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            try:
                await self._tick()
            except TROUBLE as exc:
                LOGGER.warning("the database is away (%s); the work waits for it", type(exc).__name__)

    async def _tick(self) -> int:
        """Say that this worker is there, take its share of the rate limit, and pause where others were told to."""
        async with self._database.connection() as connection:
            workers = await store.report(connection, self._id, _REMEMBERED)
            closed = await store.closed_gates(connection)
        for name, client in self._clients.items():
            whole = self._limits[name]
            if whole is not None:
                share = whole.share(min(workers, whole.per_second, whole.per_minute))
                if share != client.rate_limit:
                    client.rate_limit = share
            if closed.get(name, 0.0) > client.paused_for:
                client.pause(closed[name])
        return workers

    # --- A part ---

    async def _go_on_with(self, *, part_id: int, attempts: int = 0) -> None:
        """Sweep a part and tell what is seen; whatever goes wrong, it is gone on with later."""
        token_name: str | None = None
        try:
            part = await self._patiently(lambda connection: store.part(connection, part_id))
            if part is None:
                return
            token_name = part.token_name
            if part.undelivered is None:
                await self._sweep(part)
            else:
                await self._tell(part, Checkpoint.from_json(part.checkpoint), part.undelivered)
        except Exception:  # noqa: BLE001 - a sink's own, a token source's: nothing may end the work
            delay = min(2.0**attempts, 60.0)
            LOGGER.exception("part %d was not gone on with; again in %.0f s", part_id, delay)
            if token_name is not None:
                await self._patiently(
                    lambda connection: self._database.defer(
                        connection, part_id, token_name, datetime.now(UTC) + timedelta(seconds=delay), attempts + 1
                    )
                )

    async def _sweep(self, part: Part) -> None:
        client = self._clients[part.token_name]
        if part.closed_for > client.paused_for:
            client.pause(part.closed_for)
        with self._stopping() as stop:
            sweep = await client.sweep(Checkpoint.from_json(part.checkpoint), stop=stop)
        undelivered = written_steps(sweep.steps) if sweep.steps and self._on_steps is not None else None
        is_written = await self._patiently(
            lambda connection: self._write(connection, part, sweep, undelivered, client.paused_for)
        )
        if is_written and undelivered is not None:
            written = attrs.evolve(part, version=part.version + 1)
            await self._tell(written, sweep.checkpoint, undelivered)

    @contextmanager
    def _stopping(self) -> Generator[asyncio.Event]:
        """Give what stops a sweep: being told to stop, or having gone on for so long that it should be kept."""
        stop = asyncio.Event()
        self._sweeps.add(stop)
        timer = asyncio.get_running_loop().call_later(_SHIFT, stop.set)
        if self._stop.is_set():
            stop.set()
        try:
            yield stop
        finally:
            timer.cancel()
            self._sweeps.discard(stop)

    async def _write(
        self,
        connection: AsyncConnection,
        part: Part,
        sweep: Sweep,
        undelivered: str | None,
        paused_for: float,
    ) -> bool:
        ends = outcomes_of(sweep.steps)
        statuses = [end for _, end in ends if isinstance(end, ProductionStatus)]
        produced = sum(status.is_produced for status in statuses)
        counts = Counts(
            pending=len(sweep.checkpoint.pending),
            produced=produced,
            failed=len(statuses) - produced,
            errors=len(ends) - len(statuses),
            looks=sweep.polls,
        )
        is_over = undelivered is None and sweep.checkpoint.is_done
        if not await store.write_part(
            connection, part, sweep.checkpoint.to_json(), undelivered, counts, is_finished=is_over
        ):
            return False
        if ends:
            results = [(card, written_outcome(end)) for card, end in ends]
            await store.add_results(connection, part.batch_id, results)
        if paused_for > part.closed_for:
            await store.close_gate(connection, part.token_name, paused_for)
        if is_over:
            await store.finish_batch(connection, part.batch_id)
        elif undelivered is None:
            await self._database.defer(connection, part.id, part.token_name, sweep.next_poll_at)
        return True

    async def _tell(self, part: Part, checkpoint: Checkpoint, undelivered: str) -> None:
        """Tell the sink, and take note that it was told."""
        if self._on_steps is not None:
            told: object = self._on_steps(
                read_steps(part.batch_id, f"{part.batch_id}.{part.id}.{part.version}", undelivered)
            )
            if not isawaitable(told):
                raise UsageError("on_steps must be an async function: what it gives is awaited")
            await told

        async def redact(connection: AsyncConnection) -> None:
            if not await store.forget_untold(connection, part, is_finished=checkpoint.is_done):
                return
            if checkpoint.is_done:
                await store.finish_batch(connection, part.batch_id)
            else:
                at = as_datetime(min(one.next_poll_at for one in checkpoint.pending))
                await self._database.defer(connection, part.id, part.token_name, at)

        await self._patiently(redact)

    async def _patiently(self, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        """Do something in a transaction, again and again while the database is away."""
        loop = asyncio.get_running_loop()
        delay, patience_ends_at = 0.1, None
        while True:
            try:
                async with self._database.connection() as connection:
                    return await work(connection)
            except TROUBLE as exc:
                if not is_away(exc):
                    raise
                if self._stop.is_set():
                    patience_ends_at = patience_ends_at or loop.time() + _GRACE
                    if loop.time() > patience_ends_at:
                        raise
                LOGGER.warning("the database is away (%s); trying again", type(exc).__name__)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)

    # --- What dead workers left ---

    async def _rescue(self, timestamp: int) -> None:
        """Give the parts of workers that are dead to others, and clear up."""
        del timestamp
        try:
            await self._forget_dead_workers()
            async with self._database.connection() as connection:
                await store.delete_overdue_jobs(connection, _LONGEST)
                for part_id, token_name in await store.orphans(connection):
                    LOGGER.warning("part %d has lost its worker, and is given to another", part_id)
                    await self._database.defer(connection, part_id, token_name)
                await store.purge(connection, self._keep)
        except TROUBLE as exc:
            LOGGER.warning("the database is away (%s); the rescue comes later", type(exc).__name__)

    async def _forget_dead_workers(self) -> None:
        manager = self._database.new_app().job_manager
        limit = self._heartbeat * _LIVES
        for task_name in (SWEEP, _RESCUE):
            for job in await manager.get_stalled_jobs(task_name=task_name, seconds_since_heartbeat=limit):
                if job.id is not None:
                    await manager.finish_job_by_id_async(job.id, JobStatus.FAILED, delete_job=True)
        await manager.prune_stalled_workers(limit)
