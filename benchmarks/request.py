"""`request`: status requests per second at so many in flight, beside other clients, through the same server.

Rounds alternate A B C A B C, so that a noisy machine cancels out: each round has every peer once, and a ratio is the
median of the ratios of the rounds. Each measurement has a warm-up that does not count: until each task has had two
answers, so that all connections are open, or for as long as `--longest-warm-up` says. CPU is this process's own (user
and system); the server is in another, and its load is printed: below 100 %, it waited for the client.
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

    from benchmarks.peers import GetStatus

_WARM = 2


@attrs.frozen
class Measurement:
    """Of one peer in one round: requests per second, CPU microseconds per request, the server's share of its core."""

    rate: float
    cpu: float
    server: float


class _Load:
    """So many tasks, each of which makes one request after the other until the block is left."""

    def __init__(self, get_status: GetStatus, in_flight: int) -> None:
        self._get_status = get_status
        self.answered = [0] * in_flight
        self._is_over = False

    async def __aenter__(self) -> Self:
        self._places = [asyncio.create_task(self._keep_requesting(place)) for place in range(len(self.answered))]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._places)

    async def _keep_requesting(self, place: int) -> None:
        while not self._is_over:
            await self._get_status()
            self.answered[place] += 1

    async def warm_up(self, at_least: float, at_most: float) -> None:
        """Sleep so many seconds, and until each task has had two answers."""
        await asyncio.sleep(at_least)
        end = time.perf_counter() + at_most - at_least
        while min(self.answered) < _WARM and time.perf_counter() < end:  # noqa: ASYNC110 - other tasks change it
            await asyncio.sleep(0.05)


async def _measure(
    get_status: GetStatus, running: server.Server, in_flight: int, arguments: argparse.Namespace
) -> Measurement:
    async with _Load(get_status, in_flight) as load:
        await load.warm_up(arguments.warm_up, arguments.longest_warm_up)
        before, began_at = sum(load.answered), time.perf_counter()
        cpu, server_cpu = time.process_time(), running.cpu_seconds()
        await asyncio.sleep(arguments.seconds)
        while sum(load.answered) == before:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
        done, took = sum(load.answered) - before, time.perf_counter() - began_at
        used, server_used = time.process_time() - cpu, running.cpu_seconds() - server_cpu
        return Measurement(rate=done / took, cpu=used / done * 1e6, server=server_used / took)


async def _measure_all(
    running: server.Server, in_flight: int, names: list[str], arguments: argparse.Namespace
) -> dict[str, list[Measurement]]:
    measured: dict[str, list[Measurement]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            async with PEERS[name](running, in_flight) as get_status:
                measured[name].append(await _measure(get_status, running, in_flight, arguments))
    return measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument(
        "--in-flight",
        type=int,
        nargs="+",
        default=[1, 10, 100, 1000],
        help="requests in flight (default 1 10 100 1000)",
    )
    parser.add_argument("--loops", nargs="+", choices=[*LOOPS], default=[*LOOPS], help="event loops (default all)")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], default=[*PEERS], help="clients (default all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds that do not count (default 0.5)")
    parser.add_argument("--longest-warm-up", type=float, default=15.0, help="seconds at most of it (default 15)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds that count (default 1)")
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
                    measured = runner.run(_measure_all(running, in_flight, names, arguments))
                yield _table(f"requests{', TLS' * arguments.tls}, {loop}, {in_flight:,} in flight", measured)


def _table(title: str, measured: dict[str, list[Measurement]]) -> Table:
    first = Series("", [one.rate for one in next(iter(measured.values()))])
    series = [Series(name, [one.rate for one in each]) for name, each in measured.items()]
    return Table(
        title=title,
        unit="requests/s",
        series=series,
        more={
            f"{series[0].name} is … times as fast": [f"{first.ratio_to(one):.2f}" for one in series],
            "CPU µs per request": [f"{statistics.median(one.cpu for one in each):.0f}" for each in measured.values()],
            "server busy": [f"{statistics.median(one.server for one in each):.0%}" for each in measured.values()],
        },
    )
