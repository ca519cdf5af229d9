"""`Worker`: sweeps chunks as they fall due, and delivers transitions to the sink. What others left is `recovery`'s.

A chunk goes on by two jobs, each of which any worker may take:

- Its sweep polls the cards that are due. What was seen is written in one transaction, which plans the next sweep.
- Its delivery gives the sink what was seen and is not delivered yet, in its order. If the sink raises or the worker
  dies, that is done again, with the same transitions; one that was delivered is dropped.

The two do not wait for each other: a sink that fails holds up no poll and no deadline.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import traceback
import uuid
from contextlib import suppress
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import attrs
import psycopg
from psycopg_pool import PoolTimeout

from cardprod._http.rate_limit import RateLimit
from cardprod._protocol.codec import as_datetime, unix_time
from cardprod.checkpoint import wall_clock
from cardprod.client import notify_stored, requests_of, server_of, sweep_stored
from cardprod.durable import store
from cardprod.durable.database import FOREIGN, fetch, is_away, translate
from cardprod.durable.recovery import Recovery, repeat
from cardprod.durable.schema import check_grants
from cardprod.durable.store import queue_name
from cardprod.errors import CardprodError, DurableError, UsageError
from cardprod.models import ProductionEvent, one_line
from cardprod.telemetry import log, warn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from procrastinate import JobContext
    from psycopg import AsyncConnection

    from cardprod.client import Client
    from cardprod.durable.database import Database
    from cardprod.durable.settings import Settings
    from cardprod.durable.store import Chunk
    from cardprod.durable.transitions import Step
    from cardprod.errors import Unauthorized

_T = TypeVar("_T")

_SWEEP: Final = "cardprod.sweep"
_DELIVER: Final = "cardprod.deliver"
_MOST_SKEW: Final = 2.0
_MOST_DELAY: Final = 60.0
_MOST_ATTEMPTS: Final = 10
"""Failures in a row that are counted; the delay grows no more long before."""

_EVENTS_AT_ONCE: Final = 1000
SPANS: Final = range(10, 61, 10)
"""Seconds: a worker reports how many requests it sent in the last ten, in the last twenty, and so on to a minute."""


class Sink(Protocol):
    """Takes transitions."""

    def __call__(self, steps: Sequence[Step], /) -> Awaitable[None]:
        """Take transitions. If it raises, they are delivered again later."""
        ...


class DatabaseClock:
    """The database's time, by which all times of durable waits go: those of several machines may differ."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # of the event loop's time
        self._skew = 0.0  # as it was logged last

    def __call__(self) -> float:
        """Return the database's time in seconds since 1970."""
        return wall_clock() if self._ahead is None else asyncio.get_running_loop().time() + self._ahead

    def set(self, now: float) -> None:
        """Set it to what the database just said."""
        self._ahead = now - asyncio.get_running_loop().time()
        skew = wall_clock() - now
        if abs(skew - self._skew) > _MOST_SKEW:
            self._skew = skew
            warn("this machine's clock is %+.1f s off the database's, which counts", skew)


@attrs.frozen
class Report:
    """What another worker reported last.

    Args:
        sent: How many requests with a token it had sent in each of `SPANS`; empty without that token.
        age: Seconds since then.
        is_at_work: Whether it divides the limit with the others: it has not left, and is not given up for dead.
    """

    sent: Sequence[int]
    age: float
    is_at_work: bool

    @property
    def still_counts(self) -> int:
        """How many of its requests are of the last minute, or up to ten seconds older."""
        return self.sent[max(0, len(self.sent) - 1 - int(self.age // SPANS.step))] if self.sent else 0


def share_of(limit: RateLimit, others: Sequence[Report]) -> RateLimit | None:
    """Return one worker's share of a limit; None if nothing is left of it.

    A worker that sent more than its share, before there were so many, sends nothing until that is a minute ago: what it
    leaves is divided among the rest. What a worker that has gone had sent counts for as long as it does for the API.
    """
    at_work = sorted((one.still_counts for one in others if one.is_at_work), reverse=True)
    workers = sharing = 1 + len(at_work)
    left = limit.per_minute - sum(one.still_counts for one in others if not one.is_at_work)
    for sent in at_work:
        if sent * sharing > left:
            left, sharing = left - sent, sharing - 1
    if left < 1:
        return None
    return RateLimit(max(1, limit.per_second // workers), max(1, left // sharing))


class Worker:
    """One worker, with a client for each token: what `Durable.work` runs."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        clients: Mapping[str, Client],
        on_steps: Sink | None,
        *,
        concurrency: int,
    ) -> None:
        self._database = database
        self._settings = settings
        # What batches call a client's token: those of its API, and those of any.
        self._names: dict[Client, list[str]] = {}
        for token, client in clients.items():  # by the name that was given: a long one is cut for a queue
            names = queue_name(token, server_of(client)), queue_name(token)
            self._names.setdefault(client, []).extend(names)
        self._clients = {name: client for client, names in self._names.items() for name in names}
        self._on_steps = on_steps
        self._concurrency = concurrency
        self._id = str(uuid.uuid4())
        self._clock = DatabaseClock()
        self._stop = asyncio.Event()
        self._gives_up_at = math.inf  # on a database that is away, once it is stopped
        self._limits: dict[Client, RateLimit | None] = {}
        self._sweeps: set[asyncio.Event] = set()  # under way: set, each ends as soon as it can
        self._events: dict[int, float] = {}  # that the clients know, and when they came
        self._queues: list[str] = []  # of sweeps that are taken: procrastinate reads it for each job
        self._refused: set[str] = set()  # names of tokens that were refused, and are not tried for a while
        self._used_up: set[Client] = set()  # those whose limit others have used up
        self._recovery = Recovery(database, settings, self._refused)
        self._is_registered = False  # others may count it
        self._failure: BaseException | None = None
        self._shown: set[tuple[object, ...]] = set()  # errors whose traceback was logged

    async def run(self, stop: asyncio.Event | None) -> None:
        """Work until `stop` is set, or cancelled.

        Raises:
            UsageError: The role lacks a grant.
            DurableError: The database does not do what it should.
        """
        settings = self._settings
        self._stop = stop or asyncio.Event()
        self._limits = {client: client.rate_limit for client in self._names}
        deliveries = [f"cardprod-deliver-{name}" for name in self._clients]
        stopped = asyncio.create_task(self._stop.wait())
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._join())]
        try:
            await asyncio.wait([*tasks, stopped], return_when="FIRST_COMPLETED")
            if not self._stop.is_set() and tasks[0].exception() is None:
                work = (
                    repeat(self._database, self._share, settings.tick, "the work waits for it"),
                    self._work(_SWEEP, self.sweep, self._queues),
                    self._work(_DELIVER, self.deliver, deliveries),
                    repeat(self._database, self._recovery.recover, settings.recover, "recovery goes on later"),
                    repeat(self._database, self._recovery.clear_up, settings.clear, "recovery goes on later"),
                )
                tasks = [asyncio.create_task(one) for one in work]
                # None of them ends by itself but by an error that cannot be handled here.
                await asyncio.wait([*tasks, stopped], return_when="FIRST_COMPLETED")
        finally:
            self._stop.set()
            stopped.cancel()
            self._gives_up_at = asyncio.get_running_loop().time() + settings.grace
            for sweep in self._sweeps:
                sweep.set()
            await self._end(tasks)
            for client, limit in self._limits.items():
                client.rate_limit = limit
            if self._is_registered:
                with suppress(CardprodError):  # then others see by its silence that it has gone
                    await self._with_retry(partial(self._update, has_left=True))
        if self._failure is not None:
            raise self._failure
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None and not is_away(error):
                raise error

    async def _end(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Let what is under way finish, for as long as the grace goes; whatever is left then is left alone."""
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=self._settings.grace + self._settings.call / 2)
        if left:
            words = "%d tasks do not end: their sweeps are left to other workers, which repeat them"
            log(logging.ERROR, words, len(left))

    async def _work(self, name: str, task: Callable[..., Awaitable[None]], queues: list[str]) -> None:
        """Let procrastinate work; again after the database was away, because it stops then."""
        app = self._database.new_app()

        @app.task(name=name, pass_context=True)
        async def run(context: JobContext, /, chunk_id: object = None, attempts: object = 0, **_: object) -> None:
            with self._recovery.under_way(context.job):
                # A role that may only enqueue may have planned it.
                if type(chunk_id) is int and 0 < chunk_id < 2**63:
                    times = attempts if type(attempts) is int else 0
                    await task(chunk_id=chunk_id, attempts=min(max(times, 0), _MOST_ATTEMPTS))
                else:
                    warn("a job of %s names no chunk, and is dropped", name)

        while not self._stop.is_set():
            try:
                await app.run_worker_async(
                    queues=queues,
                    concurrency=self._concurrency,
                    fetch_job_polling_interval=self._settings.poll,
                    shutdown_graceful_timeout=self._settings.grace,
                    listen_notify=False,
                    delete_jobs="always",
                    install_signal_handlers=False,
                    update_heartbeat_interval=self._settings.heartbeat,
                    stalled_worker_timeout=self._settings.lifetime,
                )
            except FOREIGN as exc:
                # Not only while it is away: one that was given up for dead and was not finds that it is unknown.
                if not isinstance(exc.__cause__, PoolTimeout):  # whose reason other tasks find out
                    self._database.warn(translate(exc), "trying again")
            await asyncio.sleep(min(1.0, self._settings.tick))

    # --- One of several ---

    async def _join(self) -> None:
        """Register for a share of the rate limit, and wait until the other workers have reduced theirs."""
        await self._with_retry(partial(check_grants, settings=self._settings))
        if await self._with_retry(self._tick) > 1:
            await asyncio.sleep(2 * self._settings.tick)
            await self._with_retry(self._tick)  # they have sent more meanwhile

    async def _share(self) -> None:
        await self._database.run(self._tick)
        if self._refused:
            await self._recovery.expire()

    async def _tick(self, connection: AsyncConnection[Any]) -> int:
        """Share time, the rate limit, pauses and events with the other workers; return how many they are."""
        await self._update(connection)
        self._is_registered = True
        self._clock.set(await store.time_of(connection))
        others = await fetch(connection, "other_workers", id=self._id, lifetime=self._settings.lifetime)
        paused = {row["token"]: row["seconds"] for row in await fetch(connection, "paused_tokens")}
        self._used_up.clear()
        for client, (name, *_) in self._names.items():
            share = whole = self._limits[client]
            if whole is not None:
                reports = [Report(row["requests"].get(name, ()), row["age"], row["is_at_work"]) for row in others]
                share = share_of(whole, reports)
                if share is None:
                    self._used_up.add(client)
                    share = RateLimit(1, 1)  # for what is under way; nothing else is begun
            if share != client.rate_limit:
                client.rate_limit = share
            if paused.get(name, 0.0) > client.paused_for:
                client.pause(paused[name])
        self._choose_queues()
        workers = 1 + sum(bool(row["is_at_work"]) for row in others)
        await self._take_events(connection, workers)
        return workers

    def _choose_queues(self) -> None:
        self._queues[:] = [
            f"cardprod-{name}"
            for name, client in self._clients.items()
            if name not in self._refused and client not in self._used_up
        ]

    async def _update(self, connection: AsyncConnection[Any], *, has_left: bool = False) -> None:
        requests = {name: [requests_of(client, seconds) for seconds in SPANS] for name, client in self._clients.items()}
        await fetch(connection, "update_worker", id=self._id, requests=json.dumps(requests), has_left=has_left)

    async def _take_events(self, connection: AsyncConnection[Any], workers: int) -> None:
        """Report applied events to the clients, so that their polls thin out while events come.

        Of the changes that events brought, this worker counts as many as of those that polls find: its share. Else
        lost events would seem the rarer, the more workers there are.
        """
        now, seconds = self._clock(), 4 * self._settings.tick + 2 * self._settings.call
        self._events = {number: at for number, at in self._events.items() if at > now - 2 * seconds}
        rows = await fetch(connection, "events_since", seconds=seconds, known=list(self._events), most=_EVENTS_AT_ONCE)
        for row in rows:
            self._events[row["id"]] = now
            try:
                event = ProductionEvent.from_json(row["body"])
            except UsageError as error:  # of a newer version of this package
                warn("an event is not counted here: %s", error)
                continue
            is_counted = row["is_news"] and random() * workers < 1  # noqa: S311 - a share
            for client in self._names:
                notify_stored(client, event, now, is_news=is_counted)

    # --- A sweep ---

    async def sweep(self, *, chunk_id: int, attempts: int = 0) -> None:
        """Sweep a chunk, and write what was seen. Whatever goes wrong, it is planned again."""
        try:
            for chunk in await self._with_retry(partial(store.chunks, ids=[chunk_id])):
                await self._sweep(chunk)
        except Exception as exc:  # noqa: BLE001 - a token source's own: nothing may end the work
            what = f"some cards (chunk {chunk_id}) could not be polled"
            await self._put_off(exc, what, "plan_sweeps", chunk_id, attempts)

    async def _sweep(self, chunk: Chunk) -> None:
        client = self._clients[chunk.token]
        names = self._names[client]
        if chunk.paused_for > client.paused_for:
            client.pause(chunk.paused_for)
        refusals: list[Unauthorized] = []
        stop = asyncio.Event()  # set, it ends the sweep as soon as can be: this worker stops, or the sweep takes long
        timer = asyncio.get_running_loop().call_later(self._settings.sweep, stop.set)
        self._sweeps.add(stop)
        if self._stop.is_set():
            stop.set()
        try:
            sweep = await sweep_stored(client, chunk.checkpoint, stop=stop, clock=self._clock, refusals=refusals)
        finally:
            timer.cancel()
            self._sweeps.discard(stop)
        if refusals:
            self._refuse(chunk.token_name, names, refusals[0])
        if sweep.next_poll_at is not None and (refusals or (stop.is_set() and not self._stop.is_set())):
            # Later than at once, so that a worker whose requests are not held up can take it.
            later = as_datetime(unix_time(self._clock() + self._settings.poll))
            sweep = attrs.evolve(sweep, next_poll_at=max(sweep.next_poll_at, later))
        paused_for = client.paused_for

        async def write(connection: AsyncConnection[Any]) -> None:
            await store.write_sweep(connection, chunk, sweep, is_delivered=self._on_steps is not None)
            if paused_for > chunk.paused_for:
                await fetch(connection, "pause_tokens", tokens=names, seconds=paused_for)
            if refusals:
                await fetch(connection, "refuse_tokens", tokens=names)
            elif chunk.is_refused and sweep.polls:
                await fetch(connection, "accept_tokens", tokens=names)

        await self._with_retry(write)

    def _refuse(self, token: str, names: list[str], error: Unauthorized) -> None:
        """Leave a token's chunks to workers with a good one, and try again after a while."""
        if self._refused.issuperset(names):
            return  # of a sweep that began earlier
        seconds = self._settings.refused
        self._refused.update(names)
        self._choose_queues()
        log(
            logging.ERROR,
            "the token %r was refused (%s): its cards wait for a worker with a good one; it is tried again in %g s",
            token,
            error,
            seconds,
        )

        def try_again() -> None:
            self._refused.difference_update(names)
            self._choose_queues()

        asyncio.get_running_loop().call_later(seconds, try_again)

    # --- A delivery ---

    async def deliver(self, *, chunk_id: int, attempts: int = 0) -> None:
        """Deliver a chunk's transitions to the sink, until none is left. Whatever goes wrong, it is planned again."""
        what = f"some transitions (chunk {chunk_id}) could not be read"
        try:
            steps = await self._with_retry(partial(store.undelivered, chunk_id=chunk_id))
            while steps:
                if self._stop.is_set():
                    await self._plan_again("plan_deliveries", chunk_id, 0, 0.0)
                    return
                given = [*steps.values()]
                what = f"on_steps raised, so steps were not delivered: {given[0].key} of card {given[0].card}"
                if len(given) > 1:
                    what += f" and {len(given) - 1} after it"
                await self._give(given)
                steps = await self._with_retry(partial(store.undelivered, chunk_id=chunk_id, delivered=[*steps]))
                attempts = 0
        except Exception as exc:  # noqa: BLE001 - the sink's own: nothing may end the work
            await self._put_off(exc, what, "plan_deliveries", chunk_id, attempts)

    async def _give(self, steps: Sequence[Step]) -> None:
        """Give the sink transitions. If it was cancelled, and not by this worker, that is a failure like any other."""
        task = asyncio.current_task()
        try:
            if self._on_steps is not None:
                await self._on_steps(steps)
        except asyncio.CancelledError as exc:
            if task is None or task.cancelling():
                raise
            raise RuntimeError("it was cancelled by something that it awaited") from exc

    # --- What goes wrong ---

    async def _plan_again(self, statement: str, chunk_id: int, attempts: int, delay: float) -> None:
        times = {chunk_id: self._clock() + delay}
        await self._with_retry(partial(store.plan, statement=statement, times=times, attempts=attempts))

    async def _put_off(self, error: Exception, what: str, statement: str, chunk_id: int, attempts: int) -> None:
        """Log what went wrong with a job, and plan it again after a delay that grows; end the work if it must."""
        if isinstance(error, DurableError) or isinstance(error.__cause__, psycopg.Error):
            if not is_away(error):
                self._failure = error
                self._stop.set()
                return
            self._database.warn(error, what)
            return  # recovery finds it once the database is there
        if self._stop.is_set():
            warn("%s (%s); that is left to others", what, type(error).__name__)
            delay = 0.0
        else:
            delay = min(2.0**attempts, _MOST_DELAY)
            words = one_line(str(error), 300)
            # Where it was raised is logged once: it may be raised for each card.
            at = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
            where = type(error).__name__, *at[-1:]
            shown = None if where in self._shown else error
            self._shown.add(where)
            log(logging.ERROR, "%s (%s: %s); again in %.0f s", what, type(error).__name__, words, delay, exc_info=shown)
        with suppress(DurableError):
            await self._plan_again(statement, chunk_id, attempts + 1, delay)

    async def _with_retry(self, work: Callable[[AsyncConnection[Any]], Awaitable[_T]]) -> _T:
        """Do something in a transaction, again and again while the database is away; not for long once stopped."""
        delay = 0.1
        while True:
            try:
                return await self._database.run(work)
            except DurableError as error:
                if not is_away(error) or asyncio.get_running_loop().time() > self._gives_up_at:
                    raise
                self._database.warn(error, "trying again")
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)
