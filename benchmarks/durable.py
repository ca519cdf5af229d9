"""Durable waits: nothing lost when a worker is killed and the database restarted; what the engine costs; how it scales.

PostgreSQL is a real server of the machine's, workers are real processes. `crash` kills one of two workers with SIGKILL
in the middle of its sweeps and crashes the database once; `cost` compares CPU per poll with sweeps that nobody stores,
alternating; `scaling` counts polls with 1, 2 and 4 workers.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import statistics
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks import durable_parts, server
from benchmarks.durable_parts import HEARTBEAT, Applied, start_worker
from benchmarks.durable_soak import soak
from benchmarks.table import markdown
from cardprod import Backoff, Card, Checkpoint, Client
from cardprod.durable import Durable
from cardprod.errors import DurableError
from cardprod.simulator import Simulator

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncGenerator, Callable

_CHUNK = 100
_SAFETY_NET = 60
"""Seconds after which a poll finds what a lost webhook would have brought, in `crash` with webhooks."""


def _chunks_under_way(database: str) -> dict[int, int]:
    """Return the chunks that are being swept, and their versions."""
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT chunk.id, version FROM cardprod.chunks chunk JOIN cardprod.procrastinate_jobs job "
            "ON job.queueing_lock = 'cardprod:' || batch_id || ':' || chunk.id WHERE job.status = 'doing'"
        )
        return dict(rows.fetchall())


async def _resumed_after(database: str, versions: dict[int, int], since: float) -> list[float]:
    """Say how long after a moment each chunk was written next; those of the worker that lives come first."""
    left, seconds = dict(versions), list[float]()
    while left:
        await asyncio.sleep(0.2)
        with suppress(psycopg.OperationalError), psycopg.connect(database) as connection:
            for chunk_id, version in connection.execute("SELECT id, version FROM cardprod.chunks").fetchall():
                if chunk_id in left and version != left[chunk_id]:
                    del left[chunk_id]
                    seconds.append(time.time() - since)
    return seconds


def _number(database: str, statement: str) -> float:
    with psycopg.connect(database) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return float(row[0]) if row is not None else 0.0


# --- Nothing lost ---


async def _crash(cards: int, seed: int, *, restarts: bool, webhooks: bool = False) -> str:
    random = Random(seed)
    with durable_parts.postgres() as postgres, tempfile.TemporaryDirectory() as folder:
        database = postgres.new_database()
        files = [Path(folder) / name for name in ("doomed", "other")]
        async with (
            Simulator() as kiosk,
            Durable(database, heartbeat=HEARTBEAT) as durable,
            AsyncExitStack() as stack,
        ):
            produced_at: dict[str, float] = {}
            submitted: list[Card] = []
            for number in range(cards):
                # This process signs and sends each webhook: no more than some 30 a second.
                stretch = max(2.0, cards / 750) if webhooks else 1.0
                ready, printing = random.uniform(5, 20 * stretch), random.uniform(20, 50 * stretch)
                plan = [("READY", ready), ("IN_PROGRESS", printing), ("PRODUCED", 0.0)]
                card = kiosk.add((123456, f"card-{number}"), plan)
                submitted.append(card)
                produced_at[card.card_token] = time.time() + ready + printing
            applied: Callable[[], list[Applied]] = list[Applied]
            if webhooks:
                await durable.migrate()
                receiving = durable_parts.webhooks(kiosk, database, Path(folder), seed)
                applied = await stack.enter_async_context(receiving)
            batch_id = await durable.submit(submitted, schedule=Backoff(ceiling=10), batch_size=_CHUNK)
            options = ["--safety-net", f"{_SAFETY_NET}"] if webhooks else []
            workers = [start_worker(database, file, kiosk.base_url, kiosk.token, *options) for file in files]
            await asyncio.sleep(40)
            requests = kiosk.requests.total
            while not webhooks and kiosk.requests.total < requests + 150:  # noqa: ASYNC110 - in the middle of sweeps
                await asyncio.sleep(0.01)
            workers[0].send(signal.SIGKILL)
            killed_at = time.time()
            workers[0].wait_for_end()
            versions = _chunks_under_way(database)
            resumed = asyncio.create_task(_resumed_after(database, versions, killed_at))
            if restarts:
                await asyncio.sleep(15)
                await asyncio.to_thread(postgres.stop, signal.SIGQUIT)
                await asyncio.sleep(2)
                postgres.start()
            while True:
                with suppress(DurableError):
                    status = await durable.status(batch_id)
                    if status.finished_at is not None:
                        break
                await asyncio.sleep(0.5)
            workers[1].send(signal.SIGTERM)
            await workers[1].until_end()
            lines: list[dict[str, Any]] = []
            for file in files:
                lines.extend(json.loads(line) for line in file.read_text().splitlines())
            chunks = await resumed
            events = applied()
    return _judged(
        lines, produced_at, killed_at, after=chunks, requests=kiosk.requests.total, restarts=restarts, events=events
    )


def _judged(  # noqa: PLR0913 - all that was seen
    lines: list[dict[str, Any]],
    produced_at: dict[str, float],
    killed_at: float,
    *,
    after: list[float],
    requests: int,
    restarts: bool,
    events: list[Applied],
) -> str:
    first: dict[str, dict[str, Any]] = {}
    wrong = 0
    for line in sorted(lines, key=lambda line: line["at"]):
        known = first.setdefault(line["key"], line)
        wrong += (known["card"], known["what"]) != (line["card"], line["what"])
    finals = [line for line in first.values() if line["final"]]
    late = [line["at"] - produced_at[line["card"]] for line in finals]
    before = [line["at"] - produced_at[line["card"]] for line in finals if line["at"] < killed_at]
    rows = [
        ["cards", f"{len(produced_at)}"],
        ["final steps delivered, by key", f"{len(finals)}"],
        ["cards without one (asked 0)", f"{len(produced_at.keys() - {line['card'] for line in finals})}"],
        ["cards with two of different keys (asked 0)", f"{len(finals) - len({line['card'] for line in finals})}"],
        ["transitions by key, three for each card", f"{len(first)}"],
        ["lines that came again, with the same key", f"{len(lines) - len(first)}"],
        ["of them with other contents (asked 0)", f"{wrong}"],
        ["chunks that were being swept when it was killed", f"{len(after)}"],
        [f"taken over after the kill: last (asked {3 * HEARTBEAT + 10:.0f} s)", f"{max(after, default=0):.1f} s"],
        ["end delivered late: median, before the kill", f"{statistics.median(before):.1f} s" if before else "-"],
        ["end delivered late: mean, of all", f"{statistics.mean(late):.1f} s"],
        ["end delivered late: p95, of all", f"{statistics.quantiles(late, n=20)[-1]:.1f} s"],
        ["end delivered late: most", f"{max(late):.1f} s"],
        ["polls per card", f"{requests / len(produced_at):.1f}"],
    ]
    if events:
        final_at = {line["card"]: line["at"] for line in finals}
        waits = [final_at[one.card] - one.received_at for one in events if one.is_final]
        seconds = {
            "events received late (the kiosk's and the machine's part)": [one.late for one in events],
            "events applied in": [one.took for one in events],
            "end delivered after its event was received": [wait for wait in waits if wait > 0],
        }
        rows.append(["events applied", f"{len(events)}"])
        for what, all_of in seconds.items():
            quantiles = statistics.quantiles(all_of, n=20)
            rows.append([f"{what}: median, p95", f"{quantiles[9]:.2f} s, {quantiles[-1]:.2f} s"])
    title = "One of two workers killed" + (", the database crashed once" if restarts else "")
    title += f", one webhook in ten lost, `safety_net` {_SAFETY_NET} s" if events else ", no webhooks"
    return f"{title}\n\n{markdown(['', ''], rows)}"


# --- What the engine costs ---


@asynccontextmanager
async def _durably(database: str, client: Client, batches: int) -> AsyncGenerator[Durable]:
    async with Durable(database) as durable:
        cards = [(123456, f"card-{number}") for number in range(batches * _CHUNK)]
        await durable.submit(cards, schedule=Backoff(first=0.5, factor=1, ceiling=0.5), batch_size=_CHUNK)
        stop = asyncio.Event()
        task = asyncio.create_task(durable.work(client, stop=stop))
        try:
            yield durable
        finally:
            stop.set()
            await task


async def _with_engine(database: str, port: int, batches: int, seconds: float) -> tuple[float, float, str]:
    """Give CPU seconds per poll, polls per second, and what was left lying about."""
    statement = "SELECT sum(polls) FROM cardprod.chunks"
    async with Client("x", base_url=f"http://127.0.0.1:{port}", rate_limit=None) as client:
        async with _durably(database, client, batches):
            await asyncio.sleep(seconds / 3)
            polls, cpu, began_at = _number(database, statement), time.process_time(), time.perf_counter()
            await asyncio.sleep(seconds)
            polls, cpu = _number(database, statement) - polls, time.process_time() - cpu
            rate = polls / (time.perf_counter() - began_at)
            rows = _number(database, "SELECT count(*) FROM cardprod.procrastinate_jobs") / batches
            events = _number(database, "SELECT count(*) FROM cardprod.procrastinate_events") / batches
        return cpu / polls, rate, f"{rows:.1f} jobs and {events:.1f} events per chunk"


async def _without_engine(port: int, batches: int, seconds: float) -> tuple[float, float]:
    """The same sweeps, of checkpoints that stay in memory."""
    polls = 0
    async with Client("x", base_url=f"http://127.0.0.1:{port}", rate_limit=None) as client:

        async def sweep_on(number: int) -> None:
            nonlocal polls
            cards = [(123456, f"card-{number * _CHUNK + one}") for one in range(_CHUNK)]
            checkpoint = Checkpoint.for_cards(cards, schedule=Backoff(first=0.5, factor=1, ceiling=0.5))
            while True:
                sweep = await client.sweep(checkpoint)
                polls += sweep.polls
                checkpoint = sweep.checkpoint
                if sweep.next_poll_at is not None:
                    await asyncio.sleep(max(0.0, sweep.next_poll_at.timestamp() - time.time()))

        tasks = [asyncio.create_task(sweep_on(number)) for number in range(batches)]
        await asyncio.sleep(seconds / 3)
        before, cpu, began_at = polls, time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        done, cpu = polls - before, time.process_time() - cpu
        rate = done / (time.perf_counter() - began_at)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return cpu / done, rate


async def _cost(batches: int, seconds: float, rounds: int) -> str:
    rows: list[list[str]] = []
    extra: list[float] = []
    with durable_parts.postgres() as postgres, server.running(10**9) as port:
        for number in range(1, rounds + 1):
            bare, bare_rate = await _without_engine(port, batches, seconds)
            durable, rate, left = await _with_engine(postgres.new_database(), port, batches, seconds)
            extra.append(durable - bare)
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append(
                [
                    f"{number}",
                    f"{bare * 1e3:.3f} ms",
                    f"{durable * 1e3:.3f} ms",
                    f"{(durable - bare) * 1e3:.3f} ms",
                    f"{bare_rate:,.0f} / {rate:,.0f}",
                    f"{resident:.0f} MiB",
                    left,
                ]
            )
    head = ["round", "CPU per poll, swept", "and stored", "the engine's part", "polls/s", "most memory", "rows"]
    return (
        f"What the engine costs, at chunks of {_CHUNK}: {statistics.median(extra) * 1e3:.3f} ms per poll "
        f"(asked 0.08 ms)\n\n{markdown(head, rows)}"
    )


# --- Many workers ---


async def _scaling(counts: list[int], batches: int, seconds: float) -> str:
    rows: list[list[str]] = []
    with durable_parts.postgres() as postgres, server.running(10**9) as port, tempfile.TemporaryDirectory() as folder:
        base = 0.0
        for count in counts:
            database = postgres.new_database()
            async with Durable(database) as durable:
                cards = [(123456, f"card-{number}") for number in range(batches * _CHUNK)]
                # Always due: as fast as they can.
                await durable.submit(cards, schedule=Backoff(first=0.01, factor=1, ceiling=0.01), batch_size=_CHUNK)
            file = Path(folder) / f"{count}"
            workers = [start_worker(database, file, f"http://127.0.0.1:{port}", "x") for _ in range(count)]
            await asyncio.sleep(8)  # until each knows of the others
            statement = "SELECT sum(polls) FROM cardprod.chunks"
            polls, began_at = _number(database, statement), time.perf_counter()
            await asyncio.sleep(seconds)
            rate = (_number(database, statement) - polls) / (time.perf_counter() - began_at)
            for worker in workers:
                worker.send(signal.SIGTERM)
            for worker in workers:
                await worker.until_end()
            base = base or rate
            rows.append([f"{count}", f"{rate:,.0f}", f"{rate / base:.2f}"])
    cores = os.cpu_count()
    return f"Workers, on {cores} cores\n\n{markdown(['workers', 'polls/s', 'to one'], rows)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be chosen."""
    parser.add_argument("what", choices=["crash", "cost", "scaling", "soak", "all"], nargs="?", default="all")
    parser.add_argument("--cards", type=int, help="cards (default 5000, of `soak` 2000)")
    parser.add_argument("--seed", type=int, default=1, help="of the plans of `crash`, of what happens in `soak`")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long `soak` goes on (default 10)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two accidents of `soak` (default 5)")
    parser.add_argument("--webhooks", action="store_true", help="with webhooks in `crash`; `all` does both")
    parser.add_argument("--no-restart", action="store_true", help="leave the database alone in `crash`")
    parser.add_argument("--batches", type=int, default=10, help="chunks of 100 cards of the others (default 10)")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the others measure (default 15)")
    parser.add_argument("--rounds", type=int, default=3, help="of `cost` (default 3)")


def run(arguments: argparse.Namespace) -> str:
    """Run it, and give the tables."""
    if arguments.what == "soak":
        cards = arguments.cards or 2000
        return asyncio.run(soak(cards, 60 * arguments.minutes, arguments.every, arguments.seed))
    tables: list[str] = []
    cards = arguments.cards or 5000
    restarts = not arguments.no_restart
    if arguments.what == "all" or (arguments.what == "crash" and not arguments.webhooks):
        tables.append(asyncio.run(_crash(cards, arguments.seed, restarts=restarts)))
    if arguments.what == "all" or (arguments.what == "crash" and arguments.webhooks):
        tables.append(asyncio.run(_crash(cards, arguments.seed, restarts=restarts, webhooks=True)))
    if arguments.what in {"cost", "all"}:
        tables.append(asyncio.run(_cost(arguments.batches, arguments.seconds, arguments.rounds)))
    if arguments.what in {"scaling", "all"}:
        tables.append(asyncio.run(_scaling([1, 2, 4], 4 * arguments.batches, arguments.seconds)))
    return "\n\n".join(tables)
