"""`look`: one status call at so many in flight, beside what else a person could use, through the same server.

Rounds alternate A B C A B C, so that a noisy machine cancels out: each round has every peer once, and a ratio is the
median of the ratios of the rounds. Each turn has a warm-up that does not count. CPU is this process's own (user and
system); the server is in another, and how busy it was is said: below 100 %, it waited for the client.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import TYPE_CHECKING

import attrs

from benchmarks import server
from benchmarks.peers import LOOPS, PEERS
from benchmarks.table import Series, Table

if TYPE_CHECKING:
    import argparse

    from benchmarks.peers import Look


@attrs.frozen
class Turn:
    """One turn of one peer: looks per second, CPU microseconds per look, and the server's share of its core."""

    rate: float
    cpu: float
    server: float


async def _measure(look: Look, in_flight: int, seconds: float, running: server.Server) -> Turn:
    """Keep so many looks in flight for so long."""
    done = 0
    end = time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await look()
            done += 1

    started, cpu, server_cpu = time.perf_counter(), time.process_time(), running.cpu_seconds()
    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
    took, used = time.perf_counter() - started, time.process_time() - cpu
    return Turn(rate=done / took, cpu=used / done * 1e6, server=(running.cpu_seconds() - server_cpu) / took)


async def _take_turns(
    running: server.Server, in_flight: int, names: list[str], arguments: argparse.Namespace
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            peer, _ = PEERS[name]
            async with peer(running.port, in_flight) as look:
                await _measure(look, in_flight, arguments.warm_up, running)
                turns[name].append(await _measure(look, in_flight, arguments.seconds, running))
    return turns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument(
        "--in-flight", type=int, nargs="+", default=[1, 10, 100, 1000], help="looks under way (default 1 10 100 1000)"
    )
    parser.add_argument("--loops", nargs="+", choices=[*LOOPS], default=[*LOOPS], help="event loops (default all)")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], default=[*PEERS], help="who (default all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds of a turn that do not count (default 0.5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of a turn that count (default 1)")


def run(arguments: argparse.Namespace) -> list[Table]:
    """Measure, and give a table for each event loop and number in flight."""
    names = list(arguments.peers)
    tables: list[Table] = []
    with server.started() as running:
        for loop in arguments.loops:
            for in_flight in arguments.in_flight:
                with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                    turns = runner.run(_take_turns(running, in_flight, names, arguments))
                tables.append(_table(f"look, {loop}, {in_flight:,} in flight", turns))
                print(f"… {tables[-1].title}: done", file=sys.stderr, flush=True)
    return tables


def _table(title: str, turns: dict[str, list[Turn]]) -> Table:
    first = Series("", [turn.rate for turn in next(iter(turns.values()))])
    series = [Series(name, [turn.rate for turn in each]) for name, each in turns.items()]
    return Table(
        title=title,
        unit="looks/s",
        series=series,
        more={
            f"{series[0].name} is … times as fast": [f"{first.ratio_to(one):.2f}" for one in series],
            "CPU µs per look": [f"{statistics.median(turn.cpu for turn in each):.0f}" for each in turns.values()],
            "server busy": [f"{statistics.median(turn.server for turn in each):.0%}" for each in turns.values()],
        },
    )
