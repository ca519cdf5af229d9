"""`memory`: so many waits at once, each a task of its own as in `asyncio.gather`: peak memory per wait.

Two numbers, because they answer two questions: what the waits allocate in Python (tracemalloc, in one process), and
what the operating system sees (peak resident set, in another), each above what the process had before the waits.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import tracemalloc
from typing import TYPE_CHECKING

import cardprod
from benchmarks import server
from benchmarks.table import Series, Table

if TYPE_CHECKING:
    import argparse

_SCHEDULE = cardprod.Backoff(first=1.0, factor=1.6, ceiling=4.0)


async def _wait(port: int, count: int, polls: int) -> None:
    base_url = f"http://127.0.0.1:{port}"
    async with cardprod.Client("t", base_url=base_url, rate_limit=None) as client:
        waits = (
            client.wait_until_final(1, f"card-{number}", schedule=_SCHEDULE, timeout=None) for number in range(count)
        )
        for final in await asyncio.gather(*waits):
            assert final.is_produced  # noqa: S101 - a number is only worth something if the waits did their work
        for number in range(polls):  # and the client still works
            await client.get_status(1, f"again-{number}")


def _traced(port: int, count: int, polls: int) -> int:
    asyncio.run(_wait(port, 100, polls))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    asyncio.run(_wait(port, count, polls))
    return tracemalloc.get_traced_memory()[1] - before


def _resident(port: int, count: int, polls: int) -> int:
    asyncio.run(_wait(port, 100, polls))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asyncio.run(_wait(port, count, polls))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--waits", type=int, default=10_000, help="waits at once (default 10,000)")
    parser.add_argument("--polls", type=int, default=4, help="polls until a card is produced (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")


def run(arguments: argparse.Namespace) -> list[Table]:
    """Measure, and give the table."""
    peaks: dict[str, list[float]] = {"allocated in Python": [], "resident": []}
    context = multiprocessing.get_context("spawn")
    for _ in range(arguments.rounds):
        for name, measure in zip(peaks, (_traced, _resident), strict=True):
            with server.running(arguments.polls) as port, context.Pool(1) as pool:
                peak = pool.apply(measure, (port, arguments.waits, arguments.polls))
            peaks[name].append(peak / arguments.waits)
    series = [Series(name, each) for name, each in peaks.items()]
    return [Table(title=f"memory of {arguments.waits:,} waits, a task each", unit="bytes per wait", series=series)]
