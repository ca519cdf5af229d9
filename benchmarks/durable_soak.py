"""Minutes of random accidents to durable waits, and what must hold whatever happens.

PostgreSQL is a real server, reached through a proxy whose connections can be frozen; three workers are real processes;
the kiosk is the simulator, which sends webhooks and loses one in ten. Every few seconds one accident of `_ACCIDENTS`
happens. At the end each card must have been delivered its true end, once, over an unbroken chain of transitions; no key
may have two contents; each worker that was asked to stop must have ended in time, and none by itself; and no job,
transition, unfinished row, connection or task may be left.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import attrs
import psycopg

from benchmarks.durable_parts import HEARTBEAT, postgres, start_worker, webhooks
from benchmarks.table import markdown
from cardprod import Backoff, Card, CardprodError, DurableError, OAuthToken
from cardprod.durable import Durable
from cardprod.simulator import Simulator, Stage
from tests.durable.proxy import FreezingProxy, freezing_proxy
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.durable.postgres import Postgres
    from tests.waiting import Child

__all__ = ["soak"]

_WORKERS: Final = 3
_BATCH: Final = 50
_CHUNK: Final = 10
_STOP_LIMIT: Final = 40.0
"""Seconds in which a worker that was asked to stop must have ended: twice its grace, a call's limit, and a start."""

_DRAIN: Final = 120.0
"""Seconds after the last accident in which all must be over: a refused token is tried again after 30."""

_BAD_WORDS: Final = ("was destroyed", "never awaited", "do not end", "RuntimeWarning")
"""What no worker may write. procrastinate writes tracebacks of its own while the database is away."""
_SCHEDULE: Final = Backoff(first=1, factor=1.5, ceiling=10)


@attrs.define
class _Worker:
    """A worker process, and whether its end is wanted."""

    process: Child
    is_ending: bool = False


@attrs.define
class _Soak:
    """One run, and what came of it."""

    server: Postgres
    proxy: FreezingProxy
    kiosk: Simulator
    database: str
    folder: Path
    random: Random
    oauth: OAuthToken
    workers: list[_Worker | None] = attrs.field(factory=lambda: [None] * _WORKERS)
    expected: dict[str, str] = attrs.field(factory=dict[str, str])
    """How each card's wait must end."""
    ends_at: dict[str, float] = attrs.field(factory=dict[str, float])
    batches: list[str] = attrs.field(factory=list[str])
    happened: Counter[str] = attrs.field(factory=Counter[str])
    wrong: list[str] = attrs.field(factory=list[str])
    words: Counter[str] = attrs.field(factory=Counter[str])
    """What workers wrote to their standard error, without numbers."""
    _restarting: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    _renewing: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    # --- Workers ---

    @property
    def token_file(self) -> Path:
        """Where workers read the token."""
        return self.folder / "token"

    def start(self, slot: int) -> None:
        """Start a worker."""
        file = self.folder / f"steps-{slot}-{time.monotonic_ns()}"
        address = f"host={self.proxy.directory} user=tester dbname={self.database.rpartition('=')[2]}"
        self.workers[slot] = _Worker(
            start_worker(address, file, self.kiosk.base_url, "", "--token-file", str(self.token_file))
        )

    async def end(self, slot: int, number: signal.Signals) -> None:
        """End a worker by a signal, and check that it ends as it should."""
        worker = self.workers[slot]
        if worker is None or worker.is_ending:
            return
        process = worker.process
        if number is signal.SIGTERM:
            await until("a worker that can be stopped", lambda: process.catches(signal.SIGTERM), child=process)
        worker.is_ending = True
        process.send(number)
        began_at = time.monotonic()
        try:
            exit_code = await process.until_end(_STOP_LIMIT)
        except AssertionError:
            self.wrong.append(f"a worker that was asked to stop was alive {_STOP_LIMIT:.0f} s later")
            process.close()
            return
        if number is signal.SIGTERM and exit_code != 0:
            self.wrong.append(f"a worker that was asked to stop ended with {exit_code}: {process.err[-2000:]}")
        if number is signal.SIGTERM:
            self.words["stopped, at most so many seconds later"] = max(
                self.words["stopped, at most so many seconds later"], round(time.monotonic() - began_at)
            )
        self.forget(slot)

    def forget(self, slot: int) -> None:
        """Keep what a worker said, and drop it."""
        worker, self.workers[slot] = self.workers[slot], None
        if worker is None:
            return
        for line in worker.process.err.splitlines():
            if line[:1].islower():  # a message, and no part of a traceback
                self.words["".join("#" if char.isdigit() else char for char in line[:100])] += 1
        bad = [word for word in _BAD_WORDS if word in worker.process.err]
        if bad:
            self.wrong.append(f"a worker wrote {bad}: {_around(worker.process.err, bad[0])}")
        worker.process.close()

    async def watch(self) -> None:
        """Note workers that end by themselves, and start others."""
        while True:
            await asyncio.sleep(0.5)
            for slot, worker in enumerate(self.workers):
                if worker is not None and not worker.is_ending and worker.process.exit_code is not None:
                    self.wrong.append(f"a worker ended by itself: {worker.process.err[-2000:]}")
                    self.forget(slot)
                    self.start(slot)

    # --- Accidents ---

    def _any_worker(self) -> int | None:
        slots = [slot for slot, worker in enumerate(self.workers) if worker is not None and not worker.is_ending]
        return self.random.choice(slots) if slots else None

    async def _replace(self, number: signal.Signals) -> None:
        slot = self._any_worker()
        if slot is not None:
            await self.end(slot, number)
            await asyncio.sleep(self.random.uniform(0, 3))
            self.start(slot)

    async def kill_a_worker(self) -> None:
        """SIGKILL."""
        await self._replace(signal.SIGKILL)

    async def stop_a_worker(self) -> None:
        """SIGTERM, as a deployment does."""
        await self._replace(signal.SIGTERM)

    async def kill_backends(self) -> None:
        """End all connections, from the database's side."""
        await self._administer(_END_CONNECTIONS)

    async def restart_the_database(self) -> None:
        """Crash it, or stop it fast, and start it some seconds later."""
        async with self._restarting:
            how = self.random.choice([signal.SIGQUIT, signal.SIGINT])
            await asyncio.to_thread(self.server.stop, how)
            await asyncio.sleep(self.random.uniform(0, 4))
            self.server.start()

    async def read_only(self) -> None:
        """Let it be read-only for some seconds, as one that failed over."""
        name = self.database.rpartition("=")[2]
        await self._administer(f"ALTER DATABASE {name} SET default_transaction_read_only = on", _END_CONNECTIONS)
        await asyncio.sleep(self.random.uniform(1, 6))
        await self._administer(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    async def statement_timeout(self) -> None:
        """Hold a lock for longer than any statement may take."""
        seconds = Durable(self.database).settings.call + 2

        def hold() -> None:
            with suppress(psycopg.Error), psycopg.connect(self.database) as connection:
                table = self.random.choice(["chunks", "transitions", "procrastinate_jobs", "workers"])
                connection.execute(f"LOCK TABLE cardprod.{table} IN ACCESS EXCLUSIVE MODE".encode())
                connection.execute(f"SELECT pg_sleep({seconds})".encode())

        await asyncio.to_thread(hold)

    async def freeze_connections(self) -> None:
        """Make all open connections half-open; new ones work."""
        self.proxy.freeze()

    async def expire_the_token(self) -> None:
        """Expire the token at the API some seconds before the workers can read a new one."""
        async with self._renewing:
            token = self.kiosk.token
            self.kiosk.expire_token()
            await asyncio.sleep(self.random.uniform(0, 8))
            self.oauth.invalidate(token)
            while (renewed := await self.oauth()) != self.kiosk.token or renewed == token:
                self.happened["renewed again"] += 1
                self.oauth.invalidate(renewed)
                await asyncio.sleep(0.5)
            fresh = self.folder / "fresh"
            fresh.write_text(renewed)
            fresh.replace(self.token_file)

    async def _administer(self, *statements: str) -> None:
        """Run statements as an administrator, whatever the database's state is, as soon as it is there."""
        while True:
            with suppress(psycopg.OperationalError):
                async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as connection:
                    await connection.execute("SET default_transaction_read_only = off")
                    for statement in statements:
                        await connection.execute(statement.encode())
                    return
            await asyncio.sleep(0.2)

    # --- Cards ---

    def make_cards(self, numbers: range, longest: float) -> tuple[list[Card], float | None]:
        """Make the cards of a batch, and its timeout; in one batch of ten no card ends before it."""
        never = self.random.random() < 0.1
        timeout = self.random.uniform(0.3, 1) * longest if never else None
        cards: list[Card] = []
        for number in numbers:
            card = Card(123456, f"card-{number}")
            ready, printing = (self.random.uniform(0.1, 0.5) * longest for _ in range(2))
            end, code = self.random.choice([("PRODUCED", None), ("PRODUCED", None), ("PRODUCTION_ERROR", "PRD_JAM")])
            self.ends_at[card.card_token] = time.time() + ready + printing
            if never:
                self.kiosk.add(card, "never")
                self.expected[card.card_token] = "WaitTimeout"
                self.ends_at[card.card_token] = time.time() + (timeout or 0)
            elif self.random.random() < 0.02:
                self.expected[card.card_token] = "CardNotFound"
                self.ends_at[card.card_token] = time.time()
            else:
                stages = [Stage("READY", ready), Stage("IN_PROGRESS", printing), Stage(end, error_code=code)]
                self.kiosk.add(card, stages)
                self.expected[card.card_token] = f"{end} {code}" if code else end
            cards.append(card)
        return cards, timeout

    async def submit(self, durable: Durable, cards: int, seconds: float) -> None:
        """Submit cards, a batch at a time; again, where the database fails: nothing was stored then."""
        gap = seconds * 0.6 / max(1, cards // _BATCH)
        for first in range(0, cards, _BATCH):
            batch, timeout = self.make_cards(range(first, min(first + _BATCH, cards)), seconds * 0.35)
            while True:
                try:
                    batch_id = await durable.submit(batch, schedule=_SCHEDULE, timeout=timeout, batch_size=_CHUNK)
                except DurableError:
                    self.happened["submitted again"] += 1
                    await asyncio.sleep(0.5)
                else:
                    self.batches.append(batch_id)
                    break
            await asyncio.sleep(gap)

    async def run(self, cards: int, seconds: float, every: float, seed: int) -> None:
        """Submit cards while accidents happen, and wait for the end of all."""
        self.token_file.write_text(self.kiosk.token)
        address = f"host={self.proxy.directory} user=tester dbname={self.database.rpartition('=')[2]}"
        async with AsyncExitStack() as stack:
            durable = await stack.enter_async_context(Durable(address, heartbeat=HEARTBEAT))
            await durable.migrate()
            await stack.enter_async_context(webhooks(self.kiosk, address, self.folder, seed))
            for slot in range(_WORKERS):
                self.start(slot)
            watching = asyncio.create_task(self.watch())
            ends_at = time.monotonic() + seconds
            async with asyncio.TaskGroup() as group:
                group.create_task(self.submit(durable, cards, seconds))
                last = None
                while time.monotonic() < ends_at:
                    await asyncio.sleep(every)
                    accident = self.random.choice([one for one in _ACCIDENTS if one is not last])
                    last = accident
                    self.happened[accident.__name__.replace("_", " ")] += 1
                    group.create_task(_survive(accident(self)))
            print(f"the accidents are over; {self._unfinished()} batches are not", flush=True)
            await self._drain()
            watching.cancel()
            await asyncio.wait([watching])
            await asyncio.gather(*(self.end(slot, signal.SIGTERM) for slot in range(_WORKERS)))
            await self.check_results(durable)

    async def _drain(self) -> None:
        expires_at = time.monotonic() + _DRAIN
        while self._unfinished():
            if time.monotonic() > expires_at:
                self.wrong.append(f"{self._unfinished()} batches were not over {_DRAIN:.0f} s after the last accident")
                return
            await asyncio.sleep(1)

    def _unfinished(self) -> int:
        return self._rows(
            "SELECT count(*) FROM cardprod.batches WHERE finished_at IS NULL AND submitted_at IS NOT NULL"
        )

    def _rows(self, statement: str) -> int:
        with psycopg.connect(self.database) as connection:
            row = connection.execute(statement.encode()).fetchone()
        return int(row[0]) if row else 0

    # --- What must hold ---

    async def check_results(self, durable: Durable) -> None:
        """Check that `results` gives the true ends too."""
        results: dict[str, str] = {}
        for batch_id in self.batches:
            async for card, what in durable.results(batch_id):
                name = type(what).__name__ if isinstance(what, CardprodError) else str(what.status)
                code = None if isinstance(what, CardprodError) else what.error_code
                results[card.card_token] = f"{name} {code}" if code else name
        if results != self.expected:
            odd = {card for card in {*results, *self.expected} if results.get(card) != self.expected.get(card)}
            self.wrong.append(f"results() is wrong of {len(odd)} cards, of {sorted(odd)[:5]}")

    def check_nothing_left(self) -> None:
        """Check that neither rows nor connections are left, but for what is kept to be read."""
        left = {
            "jobs": "SELECT count(*) FROM cardprod.procrastinate_jobs",
            "transitions": "SELECT count(*) FROM cardprod.transitions",
            # What is left of a `submit` that failed is cleared up a day later.
            "unfinished batches": "SELECT count(*) FROM cardprod.batches "
            "WHERE finished_at IS NULL AND submitted_at IS NOT NULL",
            "unfinished chunks": "SELECT count(*) FROM cardprod.chunks JOIN cardprod.batches b ON b.id = batch_id "
            "WHERE chunks.finished_at IS NULL AND submitted_at IS NOT NULL",
            "cards without an end": "SELECT count(*) FROM cardprod.cards JOIN cardprod.batches b ON b.id = batch_id "
            "WHERE outcome IS NULL AND submitted_at IS NOT NULL",
            "connections": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
        }
        for what, statement in left.items():
            count = self._rows(statement)
            if count:
                self.wrong.append(f"{count} {what} are left")

    def check_delivered(self) -> list[float]:
        """Check what the sinks were given, and return how late the ends were delivered, in seconds."""
        lines = [json.loads(line) for file in self.folder.glob("steps-*") for line in file.read_text().splitlines()]
        first: dict[str, dict[str, Any]] = {}
        for line in sorted(lines, key=lambda line: line["at"]):
            known = first.setdefault(line["key"], line)
            if known["body"] != line["body"]:
                self.wrong.append(f"{line['key']} has two contents: {known['body']} and {line['body']}")
        self.happened["lines that came again"] = len(lines) - len(first)
        by_card: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in first.values():
            by_card[line["card"]].append(line)
        late: list[float] = []
        for card, end in self.expected.items():
            given = by_card[card]
            if not given or _end_of(given[-1]) != end or [line["final"] for line in given[:-1]].count(True):
                self.wrong.append(f"{card} should end as {end}, and was given {[line['what'] for line in given]}")
            elif not _is_chain(given):
                self.wrong.append(f"{card} was given no chain: {[(line['key'], line['what']) for line in given]}")
            else:
                late.append(given[-1]["at"] - self.ends_at[card])
        return late


def _end_of(line: dict[str, Any]) -> str:
    """Return how a card's wait ended, by its last transition's JSON."""
    body = json.loads(line["body"])
    if body.get("error") is not None:
        return str(body["error"]["name"])
    status = body["transition"]["current"]
    return f"{status['status']} {status['error_code']}" if status.get("error_code") else str(status["status"])


def _is_chain(given: list[dict[str, Any]]) -> bool:
    """Whether each transition of a card begins where the one before it ended, in the order of their delivery."""
    transitions = [json.loads(line["body"]).get("transition") for line in given]
    steps = [one for one in transitions if one is not None]
    return [one.get("previous") for one in steps] == [None, *(one["current"] for one in steps[:-1])][: len(steps)]


def _around(text: str, words: str) -> str:
    at = text.index(words)
    return text[max(0, at - 300) : at + 1500]


async def _survive(accident: Awaitable[None]) -> None:
    """Wait for an accident, which another accident may end early."""
    with suppress(psycopg.Error):
        await accident


_END_CONNECTIONS: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)

_ACCIDENTS: Final[list[Callable[[_Soak], Awaitable[None]]]] = [
    _Soak.kill_a_worker,
    _Soak.kill_backends,
    _Soak.restart_the_database,
    _Soak.read_only,
    _Soak.statement_timeout,
    _Soak.freeze_connections,
    _Soak.expire_the_token,
    _Soak.stop_a_worker,
]


async def soak(cards: int, seconds: float, every: float, seed: int) -> str:
    """Run it, and return what came of it."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sys.exit, 1)  # so that no process is left
    logging.getLogger("cardprod").setLevel(logging.ERROR)
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        database = server.new_database()
        async with Simulator() as kiosk, freezing_proxy(server.directory) as proxy:
            oauth = OAuthToken(kiosk.client_id, kiosk.client_secret, kiosk.refresh_token, base_url=kiosk.base_url)
            run = _Soak(server, proxy, kiosk, database, Path(folder), Random(seed), oauth)
            try:
                await run.run(cards, seconds, every, seed)
            finally:
                await oauth.close()
                for worker in run.workers:
                    if worker is not None:
                        worker.process.close()
        run.check_nothing_left()
        late = run.check_delivered()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if others:
            run.wrong.append(f"{len(others)} tasks are left: {others[:3]}")
    ends = Counter(run.expected.values())
    rows = [
        ["cards", f"{len(run.expected)}: {', '.join(f'{count} {end}' for end, count in ends.most_common())}"],
        ["accidents", ", ".join(f"{count} {what}" for what, count in run.happened.most_common())],
        ["end delivered late: mean, p95, most", _spread(late)],
        ["faults (asked 0)", f"{len(run.wrong)}"],
    ]
    words = "\n".join(f"{count:>6} {line}" for line, count in run.words.most_common(12))
    faults = "\n".join(run.wrong[:20])
    return f"{seconds / 60:g} minutes, seed {seed}\n\n{markdown(['', ''], rows)}\n\n{words}\n\n{faults}"


def _spread(late: list[float]) -> str:
    if len(late) < 2:
        return "-"
    return f"{statistics.mean(late):.1f}, {statistics.quantiles(late, n=20)[-1]:.1f}, {max(late):.1f} s"
