"""Very many cards over real HTTP, while some answers are faults and the server is restarted in the middle.

Each card must end with its true final status, each status that was served to it must be reported once, and nothing may
be left: no task, no subscription. Time is virtual, the HTTP is real. The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from itertools import groupby
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Any

import attrs
import looptime

from benchmarks.table import markdown
from cardprod import AdaptiveSchedule, Card, CardprodError, Client, RateLimit, Transition
from cardprod.simulator import Simulator, Stage
from cardprod.telemetry import LOGGER

if TYPE_CHECKING:
    import argparse

    from cardprod.simulator import LoggedRequest

_ENDINGS = (
    *(Stage("PRODUCED"),) * 3,
    Stage("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM"),
    Stage("REQUEST_ERROR", error_code="KIOSK_ID_NOT_FOUND"),
)


@attrs.frozen(kw_only=True)
class Scenario:
    """How many cards, which share of the answers is a fault, and how often the server is restarted."""

    cards: int
    faults: float
    restarts: int
    seed: int


@attrs.define
class Report:
    """What was counted."""

    requests: int = 0
    faults: int = 0
    wrong_ends: int = 0
    wrong_steps: int = 0
    left: int = 0
    virtual_seconds: float = 0.0

    @property
    def is_right(self) -> bool:
        """Whether nothing was lost, reported twice, untrue or left."""
        return not (self.wrong_ends or self.wrong_steps or self.left)


def _plan(draw: Random) -> list[Stage]:
    plan = [Stage("READY", draw.uniform(30, 300))]
    if draw.random() < 0.1:
        plan.append(Stage("HEATING_UP", draw.uniform(10, 60)))
    plan.append(Stage("IN_PROGRESS", draw.uniform(60, 300)))
    if draw.random() < 0.1:
        plan.append(Stage("IN_PROGRESS", draw.uniform(60, 120), is_new_request=True))
    return [*plan, draw.choice(_ENDINGS)]


async def wait_for_all(scenario: Scenario) -> Report:
    """Wait for all cards, and compare what was reported with what was served."""
    draw = Random(scenario.seed)
    plans = {Card(123456, f"card-{number}"): _plan(draw) for number in range(scenario.cards)}
    tasks_before = len(asyncio.all_tasks())
    began_at = asyncio.get_running_loop().time()
    reported: dict[Card, list[Transition | CardprodError]] = {card: [] for card in plans}
    report = Report()
    async with Simulator(log_size=10_000_000) as kiosk:
        kiosk.set_error_rate(scenario.faults, scenario.seed)
        for card, plan in plans.items():
            kiosk.add(card, plan)
        limit = RateLimit(per_second=1000, per_minute=20_000)
        async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit, request_timeout=5) as client:
            restarting = asyncio.create_task(_restart(kiosk, scenario.restarts))
            schedule = AdaptiveSchedule()
            async with client.wait_until_all_final(plans, max_failures=50, schedule=schedule) as steps:
                async for card, step in steps:
                    reported[card].append(step)
            await restarting
            inside: Any = client  # what is left is in no public statistics
            report.left += len(inside._poller.subscriptions) + len(inside._batches)  # noqa: SLF001
    await asyncio.sleep(10)  # the kiosk's stalled connections take a while to go
    gc.collect()
    report.left += len(asyncio.all_tasks()) - tasks_before
    report.virtual_seconds = asyncio.get_running_loop().time() - began_at
    _compare(report, plans, reported, kiosk.requests)
    return report


async def _restart(kiosk: Simulator, times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(120)
        await kiosk.restart(after=5)


def _compare(
    report: Report,
    plans: dict[Card, list[Stage]],
    reported: dict[Card, list[Transition | CardprodError]],
    requests: list[LoggedRequest],
) -> None:
    served: dict[Card, list[tuple[str, str | None]]] = {card: [] for card in plans}
    for request in requests:
        if request.card is not None and request.status is not None and request.fault is None:
            served[request.card].append((request.status, request.occurred_at))
    for card, plan in plans.items():
        steps = [_reported(step) for step in reported[card]]
        report.wrong_ends += not steps or steps[-1][0] != plan[-1].status
        report.wrong_steps += steps != [one for one, _ in groupby(served[card])]
    report.requests = len(requests)
    report.faults = sum(request.fault is not None for request in requests)


def _reported(step: Transition | CardprodError) -> tuple[str, str | None]:
    if isinstance(step, CardprodError):
        return type(step).__name__, None
    at = step.current.occurred_at
    return step.current.status, None if at is None else f"{at:%FT%T.%f}"[:-3] + "Z"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--cards", type=int, default=10_000, help="how many (default 10,000)")
    parser.add_argument("--faults", type=float, default=0.1, help="the share of answers that are faults (default 0.1)")
    parser.add_argument("--restarts", type=int, default=2, help="how often the server is restarted (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the plans and the faults (default 1)")


def run(arguments: argparse.Namespace) -> str:
    """Wait for them all, and give the table."""
    scenario = Scenario(
        cards=arguments.cards, faults=arguments.faults, restarts=arguments.restarts, seed=arguments.seed
    )
    LOGGER.setLevel(logging.ERROR)  # a warning for each failed poll is not what is measured
    loop = looptime.new_event_loop(start=0)
    began_at = perf_counter()
    try:
        report = loop.run_until_complete(wait_for_all(scenario))
    finally:
        loop.close()
    figures = attrs.asdict(report) | {"real_seconds": perf_counter() - began_at}
    table = markdown([f"{scenario.cards:,} cards", ""], [[name, f"{value:,.0f}"] for name, value in figures.items()])
    if not report.is_right:
        raise SystemExit(f"{table}\n\nWRONG")
    return table
