"""CPU for a poll among very many cards: through `wait_until_all_final`, beside plain `get_status` in a bounded gather.

All through the same server in another process, without a rate limit, in CPU time of this process. The first two
alternate in turns of 4,000 polls, and the ratio is the median of those of each round.

- *one poll each*: every card is PRODUCED at the first poll; registering, delivering and counting are in the figure.
- *four polls each*: READY three times, 10 ms apart, so that each card goes through the queue and the schedule.
- *growth*: every card is PRODUCED at the first poll, from 100 cards to 1,000,000 in one batch; small batches are
  repeated. Each size is a process of its own.
- *waiting*: so many cards were polled once and wait an hour in the queue, while 100 others in the same batch are
  polled every 10 ms; the CPU for those polls, beside the same with few waiting.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import sys
from time import process_time
from typing import TYPE_CHECKING

import attrs

from benchmarks import server
from benchmarks.table import Series, Table
from cardprod import AdaptiveSchedule, Backoff, Client

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Iterator

    from cardprod import Schedule, Waits

_AT_ONCE = 100
_IN_TURN = 4_000
"""Polls by one way, before the next has its turn."""
_BACKOFF = Backoff(first=0.01, factor=1, ceiling=0.01, jitter=0)


def _adaptive() -> Schedule:
    return AdaptiveSchedule(shortest=0.01, fallback=Backoff(first=0.01, factor=1, ceiling=0.02))


def cards_of(count: int, profile_id: int = 123456) -> Iterator[tuple[int, str]]:
    """Make up cards with tokens as long as Wise's."""
    return ((profile_id, f"{number:08x}-1e14-4464-a1ce-dcea7dc3de52") for number in range(count))


def _client(port: int) -> Client:
    return Client("some-user-token", base_url=f"http://127.0.0.1:{port}", rate_limit=None, max_concurrency=_AT_ONCE)


async def _warm_up(client: Client) -> None:
    for number in range(_AT_ONCE):
        await client.get_status(1, f"warm-{number}")


async def _by_gather(client: Client, polls: int) -> int:
    permits = asyncio.Semaphore(_AT_ONCE)

    async def get_status(profile_id: int, card_token: str) -> None:
        async with permits:
            await client.get_status(profile_id, card_token)

    await asyncio.gather(*(get_status(*card) for card in cards_of(polls)))
    return polls


async def _by_statuses(client: Client, polls: int) -> int:
    return len(await client.get_statuses(cards_of(polls)))


async def _by_waits(client: Client, polls: int, polls_each: int, schedule: Schedule) -> int:
    # Cards of another profile, or they would not begin with READY after what others have polled.
    waits = client.wait_until_all_final(cards_of(polls // polls_each, profile_id=2), schedule=schedule)
    await waits
    return waits.progress.requests


async def _in_batches_of(port: int, count: int, polls: int) -> float:
    """Poll each card of batches of this size once, until there were so many polls."""
    async with _client(port) as client:
        await _warm_up(client)
        batches = max(1, polls // count)
        began_at = process_time()
        for _ in range(batches):
            finals = await client.wait_until_all_final(cards_of(count), schedule=_BACKOFF, timeout=None)
            assert len(finals) == count  # noqa: S101
        return (process_time() - began_at) / (batches * count)


def _growing(port: int, count: int, polls: int) -> float:
    return asyncio.run(_in_batches_of(port, count, polls))


@attrs.define
class _MostlyAsleep:
    """Lets the first cards be polled every 10 ms, and all others in an hour."""

    often: int
    asked: int = 0

    def delay(self, unchanged: int, random: float) -> float:
        """Say how long to sleep: a schedule that can tell one card from another only by when it first asks."""
        del random
        self.asked += unchanged == 0
        return 0.01 if unchanged > 0 or self.asked <= self.often else 3600.0


async def _with_waiting(port: int, waiting: int, polls: int) -> float:
    """Measure polls of 100 cards while others wait in the queue."""
    async with _client(port) as client:
        schedule = _MostlyAsleep(often=_AT_ONCE)
        async with client.wait_until_all_final(cards_of(waiting + _AT_ONCE), schedule=schedule) as steps:
            reading = asyncio.create_task(_read(steps))
            while schedule.asked < waiting + _AT_ONCE:  # noqa: ASYNC110 - another task changes it
                await asyncio.sleep(0.05)
            gc.collect()
            gc.freeze()  # as one would with a million of anything; what is measured is ours, not the collector's
            await asyncio.sleep(0.2)
            began_at, before = process_time(), steps.progress.requests
            while steps.progress.requests < before + polls:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            figure = (process_time() - began_at) / (steps.progress.requests - before)
            gc.unfreeze()
            reading.cancel()
        return figure


async def _read(steps: Waits) -> None:
    async for _ in steps:
        pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--polls", type=int, default=10_000, help="polls for growth and waiting (default 10,000)")
    parser.add_argument(
        "--rounds", type=int, default=24, help="how often one and four polls each are measured (default 24)"
    )
    parser.add_argument("--waiting", type=int, default=1_000_000, help="cards that wait meanwhile (default 1,000,000)")
    parser.add_argument(
        "--growth", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000, 1_000_000], help="sizes of batches"
    )
    parser.add_argument("--quick", action="store_true", help="two minutes: fewer polls and rounds, and smaller batches")
    parser.add_argument("--slow-rounds", type=int, default=1, help="rounds of growth and waiting (default 1)")


async def _alternating(
    polls_each: int, ways: dict[str, Callable[[Client, int], Awaitable[int]]], rounds: int
) -> list[Series]:
    """Measure in short turns, through one client: a machine that is slow for a while is so for all."""
    figures: dict[str, list[float]] = {name: [] for name in ways}
    with server.running(polls_each) as port:
        async with _client(port) as client:
            await _warm_up(client)
            for number in range(rounds):
                for name, way in ways.items():
                    gc.collect()
                    began_at = process_time()
                    polls = await way(client, _IN_TURN)
                    figures[name].append((process_time() - began_at) / polls * 1e6)
                print(f"… {number + 1} of {rounds} rounds", file=sys.stderr, flush=True)
    return [Series(name, values) for name, values in figures.items()]


def _measured(polls_each: int, ways: dict[str, Callable[[int], Awaitable[float]]], rounds: int) -> list[Series]:
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            with server.running(polls_each) as port:
                figures[name].append(asyncio.run(_awaited(way, port)) * 1e6)
            print(f"… {name}: {len(figures[name])} of {rounds}", file=sys.stderr, flush=True)
    return [Series(name, values) for name, values in figures.items()]


async def _awaited(way: Callable[[int], Awaitable[float]], port: int) -> float:
    return await way(port)


def _grown(sizes: list[int], polls: int, rounds: int) -> list[Series]:
    figures: dict[int, list[float]] = {size: [] for size in sizes}
    context = multiprocessing.get_context("spawn")
    for _ in range(rounds):
        for size in sizes:
            with server.running() as port, context.Pool(1) as pool:
                figures[size].append(pool.apply(_growing, (port, size, polls)) * 1e6)
            print(f"… {size:,} cards: {len(figures[size])} of {rounds}", file=sys.stderr, flush=True)
    return [Series(f"{size:,} cards", values) for size, values in figures.items()]


def _ways(polls_each: int) -> dict[str, Callable[[Client, int], Awaitable[int]]]:
    return {
        "get_status, bounded gather": _by_gather,
        "get_statuses": _by_statuses,
        "wait_until_all_final, AdaptiveSchedule": lambda client, polls: _by_waits(
            client, polls, polls_each, _adaptive()
        ),
        "wait_until_all_final, Backoff": lambda client, polls: _by_waits(client, polls, polls_each, _BACKOFF),
    }


def run(arguments: argparse.Namespace) -> Iterator[Table]:
    """Measure, and give each table as it is ready."""
    if arguments.quick:
        arguments.polls, arguments.rounds, arguments.waiting = 3_000, 8, 100_000
        arguments.growth = [100, 10_000, 100_000]
    polls, rounds, slow_rounds = arguments.polls, arguments.rounds, arguments.slow_rounds
    for polls_each, title in ((1, "one poll each"), (4, "four polls each")):
        yield _table(title, asyncio.run(_alternating(polls_each, _ways(polls_each), rounds)))
    yield _table("growth", _grown(arguments.growth, polls, slow_rounds))
    waiting = _measured(
        10**9,
        {
            "1,000 waiting": lambda port: _with_waiting(port, 1000, polls),
            f"{arguments.waiting:,} waiting": lambda port: _with_waiting(port, arguments.waiting, polls),
        },
        slow_rounds,
    )
    yield _table("waiting", waiting)


def _table(title: str, series: list[Series]) -> Table:
    return Table(title=title, unit="CPU µs per poll", digits=1, series=series)
