"""Hundreds of waits at once while answers are faults: they report what was served, and leave nothing behind."""

from __future__ import annotations

import asyncio
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING

import pytest

from benchmarks.faults import Scenario, wait_for_all
from cardprod import Card, Client, RateLimit
from cardprod.simulator import Simulator, Stage
from tests.leftovers import assert_idle, assert_nothing_left
from tests.waiting import LONG_TIMEOUT

if TYPE_CHECKING:
    from cardprod import Transition

ENDINGS = (
    *(Stage("PRODUCED"),) * 3,
    Stage("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM"),
    Stage("REQUEST_ERROR", error_code="KIOSK_ID_NOT_FOUND"),
)


def plan_by(random: Random) -> list[Stage]:
    """Make up a plan: READY, then printing once or twice, now and then under a status Wise has yet to invent."""
    plan = [Stage("READY", random.uniform(1, 60))]
    if random.random() < 0.2:
        plan.append(Stage("HEATING_UP", random.uniform(1, 60)))
    plan.append(Stage("IN_PROGRESS", random.uniform(1, 60)))
    if random.random() < 0.2:
        plan.append(Stage("IN_PROGRESS", random.uniform(1, 60), is_new_request=True))
    return [*plan, random.choice(ENDINGS)]


async def follow(client: Client, card: Card) -> list[Transition]:
    """Wait for a card with all its failures, and return its transitions."""
    wait = client.wait_until_final(card.profile_id, card.card_token, timeout=None, max_failures=50)
    return [step async for step in wait]


@pytest.mark.timeout(LONG_TIMEOUT)
@pytest.mark.seeds(1, 3)
async def test_waits_survive_faults(seed: int, full_size: bool) -> None:
    """With a fault in five answers, each of many waits reports what its card was served, and leaves nothing."""
    random = Random(seed)
    limit = RateLimit() if full_size else RateLimit(per_second=20, per_minute=200)
    plans = {Card(123456, f"card-{number}"): plan_by(random) for number in range(limit.per_minute)}
    async with Simulator() as kiosk:
        kiosk.set_error_rate(0.2, seed)
        for card, plan in plans.items():
            kiosk.add(card, plan)
        async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit) as client:
            reported = dict(zip(plans, await asyncio.gather(*(follow(client, card) for card in plans)), strict=True))
            assert_idle(client)
        requests = kiosk.requests
    served: dict[Card, list[tuple[str, str | None]]] = {card: [] for card in plans}
    for request in requests:
        if request.card is not None and request.status is not None and request.fault is None:
            served[request.card].append((request.status, request.occurred_at))
    for card, plan in plans.items():
        steps = [
            (step.current.status, step.current.occurred_at and f"{step.current.occurred_at:%FT%T.%f}"[:-3] + "Z")
            for step in reported[card]
        ]
        assert steps == [one for one, _ in groupby(served[card])]
        assert steps[-1][0] == plan[-1].status
        assert reported[card][-1].current.error_code == plan[-1].error_code
        assert reported[card][-1].polls == len(served[card])
    # There were faults, and the rate limit was kept.
    assert 0.1 < sum(request.fault is not None for request in requests) / len(requests) < 0.3
    times = sorted(request.at for request in requests if request.fault is None or request.fault.kind != "stall")
    for allowed, seconds in ((limit.per_second, 1.0), (limit.per_minute, 60.0)):
        late = (last - first for first, last in zip(times, times[allowed:], strict=False))
        assert min(late) >= seconds
    await asyncio.sleep(1)  # the kiosk's stalled connections take a while to go
    await assert_nothing_left()


@pytest.mark.slow
@pytest.mark.timeout(LONG_TIMEOUT)
async def test_batch_survives_faults_and_a_restart(full_size: bool) -> None:
    """With faults and a server gone for a while, a batch reports to each card once what was served, to its true end."""
    cards = 100 if full_size else 8
    report = await wait_for_all(Scenario(cards=cards, faults=0.1, restarts=1, seed=3))
    assert report.is_right, report
    assert report.faults > cards / 2
