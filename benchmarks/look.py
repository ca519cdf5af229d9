"""`look`: one status call at so many in flight, beside what else a person could use, through the same server.

Rounds alternate A B C A B C, so that a noisy machine cancels out: each round has every peer once, and a ratio is the
median of the ratios of the rounds. Each turn has a warm-up that does not count: until every one of the looks in flight
has been answered twice, so that all connections are open, or for as long as `--patience` says. CPU is this process's
own (user and system); the server is in another, and how busy it was is said: below 100 %, it waited for the client.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING

import attrs

from benchmarks import server
from benchmarks.peers import LOOPS, PEERS, WITH_TLS
from benchmarks.table import Series, Table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Self

    from benchmarks.peers import Look

_WARM = 2


@attrs.frozen
class Turn:
    """One turn of one peer: looks per second, CPU microseconds per look, and the server's share of its core."""

    rate: float
    cpu: float
    server: float


class _Crowd:
    """So many looks in flight, one after the other in each place, until it is told to stop."""

    def __init__(self, look: Look, in_flight: int) -> None:
        self._look = look
        self.answered = [0] * in_flight
        self._is_over = False

    async def __aenter__(self) -> Self:
        self._places = [asyncio.create_task(self._keep_looking(place)) for place in range(len(self.answered))]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._places)

    async def _keep_looking(self, place: int) -> None:
        while not self._is_over:
            await self._look()
            self.answered[place] += 1

    async def get_warm(self, at_least: float, at_most: float) -> None:
        """Sleep so many seconds, and until everybody has been answered twice."""
        await asyncio.sleep(at_least)
        end = time.perf_counter() + at_most - at_least
        while min(self.answered) < _WARM and time.perf_counter() < end:  # noqa: ASYNC110 - looked at from outside
            await asyncio.sleep(0.05)


async def _take_turn(look: Look, running: server.Server, in_flight: int, arguments: argparse.Namespace) -> Turn:
    async with _Crowd(look, in_flight) as crowd:
        await crowd.get_warm(arguments.warm_up, arguments.patience)
        before, began_at = sum(crowd.answered), time.perf_counter()
        cpu, server_cpu = time.process_time(), running.cpu_seconds()
        await asyncio.sleep(arguments.seconds)
        while sum(crowd.answered) == before:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
        done, took = sum(crowd.answered) - before, time.perf_counter() - began_at
        used, server_used = time.process_time() - cpu, running.cpu_seconds() - server_cpu
        return Turn(rate=done / took, cpu=used / done * 1e6, server=server_used / took)


async def _take_turns(
    running: server.Server, in_flight: int, names: list[str], arguments: argparse.Namespace
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            async with PEERS[name](running, in_flight) as look:
                turns[name].append(await _take_turn(look, running, in_flight, arguments))
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
    parser.add_argument("--patience", type=float, default=15.0, help="and at the most, for a slow start (default 15)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of a turn that count (default 1)")
    parser.add_argument(
        "--quick", action="store_true", help="two minutes: asyncio's loop, two rounds, 1 and 100 in flight"
    )
    parser.add_argument("--tls", action="store_true", help=f"over TLS: {', '.join(WITH_TLS)}")


def run(arguments: argparse.Namespace) -> Iterator[Table]:
    """Measure, and give a table for each event loop and number in flight, as each is ready."""
    names = [name for name in arguments.peers if not arguments.tls or name in WITH_TLS]
    if arguments.quick:
        arguments.loops, arguments.rounds, arguments.in_flight = ["asyncio"], 2, [1, 100]
    with server.started(tls=arguments.tls) as running:
        for loop in arguments.loops:
            for in_flight in arguments.in_flight:
                with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                    turns = runner.run(_take_turns(running, in_flight, names, arguments))
                yield _table(f"look{', TLS' * arguments.tls}, {loop}, {in_flight:,} in flight", turns)


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
