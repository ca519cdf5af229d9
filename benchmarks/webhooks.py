"""What webhooks save: polls per card and how late the end is seen, with events, with all of them lost, and without.

Cards come to a kiosk over half an hour and take some minutes each. Time is virtual, the HTTP is real: polls, deliveries
and the endpoint. Then, in real time, how long it takes from a change at the kiosk until the wait for it is over.
"""

from __future__ import annotations

import asyncio
import logging
import random
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

import attrs
import looptime
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.table import markdown
from cardprod import AdaptiveSchedule, Backoff, Card, Client, Schedule, Transition
from cardprod.simulator import Simulator, Stage, Subscription
from cardprod.telemetry import LOGGER
from cardprod.webhooks import Verifier

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable

_SECONDS = 1800.0


@attrs.frozen(kw_only=True)
class Run:
    """One way to see the ends of the same cards."""

    cards: int
    seed: int
    make_schedule: Callable[[], Schedule]
    losses: float | None
    latency: tuple[float, float] = (0.0, 0.0)


@attrs.define
class Report:
    """What was measured."""

    polls: float
    delays: list[float]

    @property
    def mean(self) -> float:
        """How late the end was seen, in seconds."""
        return fmean(self.delays)


def _endpoint(client: Client, kiosk: Simulator) -> TestServer:
    verifier = Verifier(kiosk.public_key)

    async def receive(request: web.Request) -> web.Response:
        client.notify(verifier.parse(await request.read(), request.headers))
        return web.Response()

    app = web.Application()
    app.router.add_post("/wise", receive)
    return TestServer(app)


async def wait_for_all(run: Run) -> Report:
    """Wait for cards as they come."""
    draw = Random(run.seed)
    random.seed(run.seed)  # the jitter of the client's polls
    loop = asyncio.get_running_loop()
    plans = [(draw.lognormvariate(5.5, 0.6), draw.lognormvariate(5.4, 0.4)) for _ in range(run.cards)]
    ends_at: dict[Card, float] = {}
    delays: list[float] = []

    async with (
        Simulator() as kiosk,
        Client(kiosk.token, base_url=kiosk.base_url) as client,
        _endpoint(client, kiosk) as server,
    ):
        if run.losses is not None:
            url = str(server.make_url("/wise"))
            kiosk.subscribe(Subscription(url=url, losses=run.losses, latency=run.latency, seed=run.seed))

        async def come() -> AsyncIterator[Card]:
            for number, (ready, printing) in enumerate(plans):
                stages = [Stage("READY", ready), Stage("IN_PROGRESS", printing), Stage("PRODUCED")]
                card = kiosk.add((1, f"card-{number}"), stages)
                ends_at[card] = loop.time() + ready + printing
                yield card
                await asyncio.sleep(_SECONDS / run.cards)

        async with client.wait_until_all_final(come(), schedule=run.make_schedule()) as steps:
            async for card, step in steps:
                if isinstance(step, Transition) and step.is_final:
                    delays.append(loop.time() - ends_at[card])
        return Report(kiosk.requests.total / run.cards, delays)


async def measure_latency(cards: int) -> list[float]:
    """Give, in real time, the seconds from each card's end at the kiosk until its own wait was over."""
    loop = asyncio.get_running_loop()
    draw = Random(1)
    hourly = Backoff(first=3600, factor=1, ceiling=3600)

    async def wait_for(client: Client, card: Card, ends_at: float) -> float:
        await client.wait_until_final(card.profile_id, card.card_token, schedule=hourly, timeout=None)
        return loop.time() - ends_at

    async with (
        Simulator() as kiosk,
        Client(kiosk.token, base_url=kiosk.base_url) as client,
        _endpoint(client, kiosk) as server,
    ):
        kiosk.subscribe(str(server.make_url("/wise")))
        waits: list[asyncio.Task[float]] = []
        for number in range(cards):
            # The first polls are answered before the first card ends: at 100 a second, spread by the rate limit.
            ready = cards / 50 + draw.uniform(1, 10)
            card = kiosk.add((1, f"card-{number}"), [Stage("IN_PROGRESS", ready), Stage("PRODUCED")])
            waits.append(asyncio.create_task(wait_for(client, card, loop.time() + ready)))
        return list(await asyncio.gather(*waits))


def _virtually(run: Run) -> Report:
    loop = looptime.new_event_loop(start=0)
    try:
        return loop.run_until_complete(wait_for_all(run))
    finally:
        loop.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--cards", type=int, default=600, help="cards in half an hour (default 600)")
    parser.add_argument("--seed", type=int, default=1, help="of the cards and the deliveries (default 1)")


def run(arguments: argparse.Namespace) -> str:
    """Follow the same cards in each way, and give the table."""
    LOGGER.setLevel(logging.ERROR)
    ways: list[tuple[str, float | None, tuple[float, float]]] = [
        ("no webhooks", None, (0, 0)),
        ("webhooks", 0.0, (0, 0)),
        ("webhooks, 1 to 5 s late", 0.0, (1, 5)),
        ("webhooks, one in ten lost", 0.1, (0, 0)),
        ("webhooks, every one lost", 1.0, (0, 0)),
    ]
    schedules: list[tuple[str, Callable[[], Schedule]]] = [
        ("`AdaptiveSchedule()`", AdaptiveSchedule),
        ("`Backoff()`", Backoff),
    ]
    rows: list[list[str]] = []
    for schedule, make_schedule in schedules:
        alone: Report | None = None
        for way, losses, latency in ways:
            report = _virtually(
                Run(
                    cards=arguments.cards,
                    seed=arguments.seed,
                    make_schedule=make_schedule,
                    losses=losses,
                    latency=latency,
                )
            )
            alone = alone or report
            rows.append(
                [
                    f"{schedule}, {way}",
                    f"{report.polls:.2f}",
                    f"{report.polls / alone.polls:.3f}",
                    f"{report.mean:.2f} s",
                    f"{report.mean / alone.mean:.3f}",
                ]
            )
    latencies = sorted(asyncio.run(measure_latency(200)))
    head = ["", "polls per card", "to no webhooks", "end seen late, mean", "to no webhooks"]
    milliseconds = [1000 * seconds for seconds in latencies]
    return (
        f"{markdown(head, rows)}\n\nFrom a change to the resolved wait, in real time over loopback, 200 cards: mean "
        f"{fmean(milliseconds):.1f} ms, p95 {milliseconds[189]:.1f} ms, most {milliseconds[-1]:.1f} ms."
    )
