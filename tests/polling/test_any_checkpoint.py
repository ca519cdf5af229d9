"""Checkpoints that others have made: each card that the format admits has an end, or is refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from cardprod import Backoff, Card, Checkpoint, ProductionStatus, Status, Transition, UsageError, WaitTimeout
from cardprod._protocol.codec import unix_time
from cardprod.checkpoint import PendingCard, wall_clock
from tests.clock import wall_clock_of_the_loop

if TYPE_CHECKING:
    from collections.abc import Generator

    from cardprod import CardprodError, Client
    from cardprod.simulator import Simulator

CARDS: Final = 100
DAY: Final = 86400.0
TIMES: Final = (-1e12, -DAY, -61.0, -1.0, 0.0, 1.0, 30.0, DAY, 1e12)
"""Seconds from now; the first and the last are the ends of the calendar."""
COUNTS: Final = (0, 0, 1, 4, 5, 1000, 2**63 - 1)
OCCURRED: Final = (
    None,
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(2026, 11, 24, 12, tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
)


@pytest.fixture(autouse=True)
def wall() -> Generator[None]:
    """Make the wall clock follow the event loop's virtual time."""
    with wall_clock_of_the_loop():
        yield


def drawn_status(random: Random) -> ProductionStatus:
    return ProductionStatus(
        random.choice([*Status, "SHIPPED_TO_MARS"]),
        kiosk_id=random.choice([None, "WIS00001"]),
        occurred_at=random.choice(OCCURRED),
        error_code=random.choice([None, "JAM"]),
    )


def drawn_card(random: Random, card: Card) -> PendingCard:
    def time(*, most: float = 1e12) -> int:
        return unix_time(wall_clock() + random.choice([seconds for seconds in TIMES if seconds <= most]))

    undelivered = [
        Transition(previous=None, current=drawn_status(random), elapsed=1.0, polls=1)
        for _ in range(random.choice([0, 0, 1, 2]))
    ]
    new = PendingCard(
        card=card,
        started_at=time(),
        deadline_at=random.choice([None, time()]),
        next_poll_at=time(most=DAY),
        failures=random.choice(COUNTS),
        unchanged=random.choice(COUNTS),
    )
    if random.random() < 0.1:
        return new
    last = undelivered[-1].current if undelivered and random.random() < 0.5 else drawn_status(random)
    return attrs.evolve(
        new,
        polls=random.choice(COUNTS),
        last=last,
        known_at=random.choice([None, *OCCURRED]),
        began_at=random.choice([None, time()]),
        polled_at=random.choice([None, time()]),
        is_first=random.choice([False, True]),
        event_at=random.choice([None, time()]),
        event_sent_at=random.choice(OCCURRED),
        undelivered=tuple(undelivered),
        failing_since=random.choice([None, time()]),
        is_after=random.choice([False, True]),
    )


def drawn(seed: int, kiosk: Simulator) -> Checkpoint:
    """Draw a checkpoint: what was refused is not in it, and only cards are refused of which nothing would come."""
    random, pending = Random(seed), list[PendingCard]()
    for number in range(CARDS):
        one = drawn_card(random, kiosk.add((123456, f"card-{number}")))
        try:
            read = Checkpoint.from_json(Checkpoint(id="x", pending=(one,)).to_json())
        except UsageError as error:
            assert "whose end was delivered" in str(error)  # noqa: PT017 - where there is one
            assert one.has_ended
            assert not (one.undelivered and one.undelivered[-1].is_final)
        else:
            assert read.pending == (one,)
            pending.append(one)
    assert len(pending) > CARDS / 2
    return Checkpoint(id="x", pending=tuple(pending), schedule=random.choice([None, Backoff()]))


def check_ends(checkpoint: Checkpoint, results: list[tuple[Card, Transition | CardprodError]]) -> None:
    """Check that each card had what was undelivered, and then one end."""
    for one in checkpoint.pending:
        of_card: list[Any] = [result for card, result in results if card == one.card]
        undelivered = len(one.undelivered)
        assert tuple(of_card[:undelivered]) == one.undelivered
        ends = [not isinstance(result, Transition) or result.is_final for result in of_card[undelivered:]]
        if one.has_ended:
            assert ends == [], one
            assert of_card[-1].is_final, one
        else:
            assert ends.count(True) == 1, one
            assert ends[-1], one
            assert isinstance(of_card[-1], Transition | WaitTimeout), one


@pytest.mark.seeds(4, 40)
async def test_each_card_of_a_resumed_checkpoint_ends(seed: int, kiosk: Simulator, client: Client) -> None:
    """Whatever is saved of a card, it ends exactly once when it is resumed, or its checkpoint is refused."""
    checkpoint = drawn(seed, kiosk)
    async with asyncio.timeout(3 * DAY), client.resume(checkpoint) as steps:
        check_ends(checkpoint, [pair async for pair in steps])


@pytest.mark.seeds(4, 40)
async def test_each_card_of_a_swept_checkpoint_ends(seed: int, kiosk: Simulator, client: Client) -> None:
    """Whatever is saved of a card, it ends exactly once when it is swept, or its checkpoint is refused."""
    checkpoint = drawn(seed, kiosk)
    results: list[tuple[Card, Transition | CardprodError]] = []
    waits = checkpoint
    async with asyncio.timeout(3 * DAY):
        while not waits.is_done:
            sweep = await client.sweep(Checkpoint.from_json(waits.to_json()))
            results.extend(sweep.steps)
            waits = sweep.checkpoint
            if sweep.next_poll_at is not None:
                await asyncio.sleep(max(0.0, sweep.next_poll_at.timestamp() - wall_clock()))
    check_ends(checkpoint, results)
