"""How late the end of a card is seen, over real HTTP and in virtual time: the default schedule beside `Backoff`."""

from __future__ import annotations

import asyncio
import math
import random
from statistics import fmean
from typing import TYPE_CHECKING

import pytest

from cardprod import Backoff, Card, Checkpoint, Client, ProductionStatus, RateLimit, Transition, checkpoint
from cardprod.simulator import Simulator, Stage
from tests.clock import wall_clock_of_the_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from cardprod import Schedule

    Follow = Callable[[Client, list[Card], Schedule | None], Awaitable[dict[Card, float]]]

SHORT = RateLimit(per_second=5, per_minute=60)
AMPLE = RateLimit(per_second=100, per_minute=1000)


@pytest.fixture(autouse=True)
def _wall_clock() -> Iterator[None]:
    with wall_clock_of_the_loop():
        yield


@pytest.fixture(autouse=True)
def _same_jitter() -> Iterator[None]:
    """Let each run have the same jitter: a mean of few cards varies by half a second."""
    state = random.getstate()
    random.seed(11)
    yield
    random.setstate(state)


def now() -> float:
    return asyncio.get_running_loop().time()


async def alone(client: Client, cards: list[Card], schedule: Schedule | None) -> dict[Card, float]:
    """Wait for each card in a task of its own."""
    ends: dict[Card, float] = {}

    async def follow(card: Card) -> None:
        await client.wait_until_final(card.profile_id, card.card_token, schedule=schedule, timeout=None)
        ends[card] = now()

    await asyncio.gather(*map(follow, cards))
    return ends


async def in_a_batch(client: Client, cards: list[Card], schedule: Schedule | None) -> dict[Card, float]:
    """Wait for all cards in one batch."""
    async with client.wait_until_all_final(cards, schedule=schedule) as steps:
        return {card: now() async for card, step in steps if isinstance(step, Transition) and step.is_final}
    raise AssertionError


async def by_sweeps(client: Client, cards: list[Card], schedule: Schedule | None) -> dict[Card, float]:
    """Sweep all cards whenever the last sweep says."""
    ends: dict[Card, float] = {}
    waits = Checkpoint.for_cards(cards, schedule=schedule if isinstance(schedule, Backoff) else None)
    for _ in range(10_000):
        sweep = await client.sweep(waits)
        ends |= {card: now() for card, step in sweep.steps if isinstance(step, Transition) and step.is_final}
        waits = sweep.checkpoint
        if sweep.next_poll_at is None:
            return ends
        await asyncio.sleep(sweep.next_poll_at.timestamp() - checkpoint.wall_clock())
    raise AssertionError(f"{len(waits.pending)} cards are still pending")


async def mean_lateness(follow: Follow, schedule: Schedule | None, cards: int, limit: RateLimit, scale: float) -> float:
    """Wait for cards that stay in each status for about so many seconds; return how late their ends are seen."""
    draw = random.Random(11)
    async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit) as client:
        began_at, ends_at = now(), dict[Card, float]()
        for number in range(cards):
            stays = [scale * math.exp(draw.gauss(0, 0.35)) for _ in range(2)]
            card = Card(1, f"card-{number}")
            kiosk.add(card, [Stage("READY", stays[0]), Stage("IN_PROGRESS", stays[1]), Stage("PRODUCED")])
            ends_at[card] = began_at + sum(stays)
        seen_at = await follow(client, [*ends_at], schedule)
    return fmean(seen_at[card] - ends_at[card] for card in ends_at)


each_way = pytest.mark.parametrize("follow", [alone, in_a_batch, by_sweeps], ids=lambda follow: follow.__name__)


@each_way
@pytest.mark.parametrize(("cards", "limit", "scale"), [(60, SHORT, 10.0), (20, AMPLE, 2.5)], ids=["short", "ample"])
async def test_not_later_than_backoff(follow: Follow, cards: int, limit: RateLimit, scale: float) -> None:
    """However cards are waited for, with the default schedule their ends are seen as early as with `Backoff`."""
    learned, backoff = [await mean_lateness(follow, schedule, cards, limit, scale) for schedule in (None, Backoff())]
    assert learned <= 1.05 * backoff + 1.0


@each_way
async def test_minutes(follow: Follow) -> None:
    """However cards are waited for, if they take minutes and requests are left over, their ends are seen in 4 s."""
    assert await mean_lateness(follow, None, 8, AMPLE, 120.0) <= 4.0


async def test_many_who_wait_for_a_card_each(full_size: bool) -> None:
    """Many who wait for one card each share the budget as a batch does."""
    cards = 500 if full_size else 60
    limit = AMPLE if full_size else RateLimit(per_second=10, per_minute=120)
    each, together = [await mean_lateness(follow, None, cards, limit, 60.0) for follow in (alone, in_a_batch)]
    assert each <= 1.25 * together + 2


async def test_one_status_while_others_wait(kiosk: Simulator) -> None:
    """A status that is asked for at once is not held back by waits that use up what is left of the budget."""
    limit = RateLimit(per_second=10, per_minute=100)
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit) as client:
        for number in range(60):
            kiosk.add(Card(1, f"card-{number}"), "never")
        waits = [asyncio.create_task(alone(client, [Card(1, f"card-{number}")], None)) for number in range(60)]
        await asyncio.sleep(120)
        began_at = now()
        assert isinstance(await client.get_status(1, "card-0"), ProductionStatus)
        assert now() - began_at < 2
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
