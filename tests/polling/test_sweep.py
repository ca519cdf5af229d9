"""Waits that go on: swept step by step by a job engine, or resumed in another process."""

from __future__ import annotations

import asyncio
import math
import threading
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from cardprod import (
    AdaptiveSchedule,
    Backoff,
    Card,
    CardNotFound,
    Checkpoint,
    Client,
    ProductionStatus,
    RateLimit,
    Transition,
    UsageError,
    WaitTimeout,
)
from cardprod._protocol.codec import unix_time
from cardprod.simulator import Fault, Simulator
from tests.cards import event_of
from tests.clock import wall_clock_of_the_loop
from tests.leftovers import assert_idle, assert_nothing_left

if TYPE_CHECKING:
    from collections.abc import Generator

    from cardprod import CardprodError, Sweep
    from cardprod.checkpoint import PendingCard

EPOCH: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)
EVERY_10: Final = Backoff(first=10, factor=1, ceiling=10, jitter=0)


@pytest.fixture(autouse=True)
def wall() -> Generator[None]:
    """Make the wall clock follow the event loop's virtual time."""
    with wall_clock_of_the_loop():
        yield


def wall_now() -> datetime:
    return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())


async def until(moment: datetime) -> None:
    await asyncio.sleep(max(0.0, (moment - wall_now()).total_seconds()))


def cards_of(kiosk: Simulator, count: int, plan: Any = "prints") -> list[Card]:
    return [kiosk.add((123456, f"card-{number}"), plan) for number in range(count)]


def names(steps: list[tuple[Card, Transition | CardprodError]], card: Card) -> list[str]:
    """Return what was reported of a card: its statuses, or the error that ended it."""
    of_card = [result for reported_card, result in steps if reported_card == card]
    return [str(what.current.status) if isinstance(what, Transition) else type(what).__name__ for what in of_card]


async def swept_to_the_end(
    client: Client, checkpoint: Checkpoint, **options: Any
) -> tuple[list[tuple[Card, Transition | CardprodError]], list[Sweep]]:
    """Sweep to the end as a job engine does, with JSON in between."""
    steps: list[tuple[Card, Transition | CardprodError]] = []
    sweeps: list[Sweep] = []
    while True:
        sweep = await client.sweep(Checkpoint.from_json(checkpoint.to_json()), **options)
        sweeps.append(sweep)
        steps.extend(sweep.steps)
        checkpoint = sweep.checkpoint
        if sweep.next_poll_at is None:
            return steps, sweeps
        await until(sweep.next_poll_at)


# --- Swept ---


async def test_swept_to_the_end(kiosk: Simulator, client: Client) -> None:
    """Sweeps report every card from its first status to its last, as a wait does."""
    cards = cards_of(kiosk, 5)
    jammed = kiosk.add((123456, "jammed"), "jams")
    missing = Card(123456, "missing")
    steps, sweeps = await swept_to_the_end(client, Checkpoint.for_cards([*cards, jammed, missing]))
    for card in cards:
        assert names(steps, card) == ["READY", "IN_PROGRESS", "PRODUCED"]
    assert names(steps, jammed) == ["READY", "IN_PROGRESS", "PRODUCTION_ERROR"]
    assert names(steps, missing) == ["CardNotFound"]
    assert sweeps[-1].checkpoint.is_done
    assert [sweep.checkpoint.sweep for sweep in sweeps] == list(range(1, len(sweeps) + 1))
    assert len({sweep.checkpoint.id for sweep in sweeps}) == 1
    assert sum(sweep.polls for sweep in sweeps) == len(kiosk.requests)
    assert_idle(client)
    await client.close()
    await assert_nothing_left(but=1)


async def test_sweep_never_sleeps(kiosk: Simulator, client: Client) -> None:
    """A sweep with nothing due polls nothing, takes no time and says when to come back."""
    (card,) = cards_of(kiosk, 1, "never")
    first = await client.sweep(Checkpoint.for_cards([card], schedule=EVERY_10))
    began_at = asyncio.get_running_loop().time()
    second = await client.sweep(first.checkpoint)
    assert asyncio.get_running_loop().time() == began_at
    assert (second.polls, second.steps, len(kiosk.requests)) == (0, (), 1)
    assert first.next_poll_at is not None
    assert second.next_poll_at is not None
    assert abs(second.next_poll_at - first.next_poll_at) < timedelta(seconds=0.001)
    assert abs(first.next_poll_at - wall_now() - timedelta(seconds=10)) < timedelta(seconds=0.1)


async def test_cards_stay_together(kiosk: Simulator, client: Client) -> None:
    """Cards that wait alike are polled in the same sweeps, with jitter or without."""
    cards = cards_of(kiosk, 20, [("READY", 200.0), ("PRODUCED", 0.0)])
    _, sweeps = await swept_to_the_end(client, Checkpoint.for_cards(cards, schedule=Backoff()))
    assert all(sweep.polls == 20 for sweep in sweeps)


async def test_429_leaves_cards_due(kiosk: Simulator, client: Client) -> None:
    """A 429 ends a sweep at once and is no card's failure; what is left stays due after the pause."""
    cards = cards_of(kiosk, 30, "never")
    kiosk.fail_next(Fault.too_many_requests(40), card=cards[0])
    began_at = asyncio.get_running_loop().time()
    sweep = await client.sweep(Checkpoint.for_cards(cards))
    assert asyncio.get_running_loop().time() - began_at < 5
    assert len(sweep.steps) < 30
    left = [one for one in sweep.checkpoint.pending if one.last is None]
    assert cards[0] in {one.card for one in left}
    assert {(one.failures, one.polls) for one in left} == {(0, 0)}
    assert sweep.next_poll_at is not None
    assert 35 < (sweep.next_poll_at - wall_now()).total_seconds() <= 40
    nothing = await client.sweep(sweep.checkpoint)
    assert (nothing.polls, nothing.steps) == (0, ())
    await until(sweep.next_poll_at)
    rest = await client.sweep(sweep.checkpoint)
    assert {card for card, _ in rest.steps} == {one.card for one in left}
    assert_idle(client)


async def test_429_of_another_sweep(kiosk: Simulator) -> None:
    """A 429 to one sweep also ends the others of the same client that wait for permits."""
    cards = cards_of(kiosk, 40, "never")
    limit = RateLimit(per_second=5, per_minute=100)
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit) as client:
        checkpoints = [Checkpoint.for_cards(cards[:20]), Checkpoint.for_cards(cards[20:])]
        kiosk.fail_next(Fault.too_many_requests(30), card=cards[6])
        began_at = asyncio.get_running_loop().time()
        sweeps = await asyncio.gather(*map(client.sweep, checkpoints))
        assert asyncio.get_running_loop().time() - began_at < 20
        assert 0 < sum(sweep.polls for sweep in sweeps) < 40
        for sweep in sweeps:
            assert {one.failures for one in sweep.checkpoint.pending} == {0}
        assert_idle(client)


async def test_stop(kiosk: Simulator) -> None:
    """A sweep that is stopped finishes the polls under way and begins no other; what is left stays due."""
    cards = cards_of(kiosk, 20, "never")
    limit = RateLimit(per_second=2, per_minute=1000)
    stop = asyncio.Event()
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit) as client:
        asyncio.get_running_loop().call_later(2.6, stop.set)
        sweep = await client.sweep(Checkpoint.for_cards(cards), stop=stop)
        assert 4 <= sweep.polls == len(sweep.steps) == len(kiosk.requests) < 10
        left = [one for one in sweep.checkpoint.pending if one.last is None]
        assert len(left) == 20 - sweep.polls
        assert sweep.next_poll_at is not None
        assert sweep.next_poll_at <= wall_now()
        again = await client.sweep(sweep.checkpoint, stop=stop)  # set already
        assert again.polls == 0
        assert_idle(client)


async def test_stopped_before_it_begins(kiosk: Simulator, client: Client) -> None:
    """A sweep whose `stop` is set already polls nothing; and what is no `asyncio.Event` is refused."""
    waits = Checkpoint.for_cards(cards_of(kiosk, 20, "never"))
    stop = asyncio.Event()
    stop.set()
    sweep = await client.sweep(waits, stop=stop)
    assert (sweep.polls, sweep.checkpoint.pending, kiosk.requests) == (0, waits.pending, [])
    for bad in (threading.Event(), True):
        with pytest.raises(UsageError, match="stop must be"):
            await client.sweep(waits, stop=bad)  # type: ignore[arg-type]


async def test_sweep_cancelled(kiosk: Simulator) -> None:
    """A sweep that is cancelled, at any moment, leaves no task and no permit behind."""
    cards = cards_of(kiosk, 30, "never")
    random = Random(5)
    async with Client(kiosk.token, base_url=kiosk.base_url, max_concurrency=7) as client:
        for _ in range(30):
            task = asyncio.create_task(client.sweep(Checkpoint.for_cards(cards)))
            for _ in range(random.randrange(60)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert_idle(client)
            transport: Any = client._transport  # pyright: ignore[reportPrivateUsage]
            assert transport.limiter.places == 7
        sweep = await client.sweep(Checkpoint.for_cards(cards))
        assert len(sweep.steps) == 30
    await assert_nothing_left(but=1)


async def test_end_of_a_card_that_was_added_again(kiosk: Simulator, client: Client) -> None:
    """The end of a card that was added again, before its end was read, is in a checkpoint like any other result."""
    [card] = cards_of(kiosk, 1)
    async with client.wait_until_all_final(None, schedule=EVERY_10) as steps:
        steps.add(card)
        async for _ in steps:
            break
        client.notify(event_of(card, "PRODUCTION_ERROR", sent_at=wall_now()))
        steps.add(card)
        saved = steps.checkpoint().to_json()
    async with client.resume(Checkpoint.from_json(saved)) as steps:
        ended = [step.current.status for _, step in [await anext(aiter(steps))] if isinstance(step, Transition)]
        assert ended == ["PRODUCTION_ERROR"]
        assert steps.progress.pending == 1


async def test_client_closed_meanwhile(kiosk: Simulator) -> None:
    """A client that is closed during a sweep ends it with `UsageError`, and not its cards' waits."""
    cards = cards_of(kiosk, 50, "never")
    client = Client(kiosk.token, base_url=kiosk.base_url, rate_limit=RateLimit(per_second=5, per_minute=100))
    checkpoint = Checkpoint.for_cards(cards)
    task = asyncio.create_task(client.sweep(checkpoint))
    await asyncio.sleep(2)
    await client.close()
    with pytest.raises(UsageError, match="closed"):
        await task
    with pytest.raises(UsageError, match="closed"):
        await client.sweep(checkpoint)
    await assert_nothing_left(but=1)


async def test_token_source_that_raises(kiosk: Simulator) -> None:
    """What a token source raises ends the sweep at once, however many polls are left, and no card's wait."""
    is_locked, raised_at = False, math.inf
    loop = asyncio.get_running_loop()

    async def vault() -> str:
        nonlocal raised_at
        if is_locked:
            raised_at = loop.time()
            raise RuntimeError("the vault is locked")
        return kiosk.token

    cards = cards_of(kiosk, 100)
    async with Client(vault, base_url=kiosk.base_url, rate_limit=RateLimit(per_second=50, per_minute=60)) as client:
        await client.get_statuses(cards[:50])
        is_locked = True
        with pytest.raises(RuntimeError, match="the vault is locked"):
            await client.sweep(Checkpoint.for_cards(cards))
        assert loop.time() == pytest.approx(raised_at, abs=0.01)  # and not when the budget has room for another poll
        assert_idle(client)


async def test_adaptive_schedule_learns_from_sweeps(kiosk: Simulator, client: Client) -> None:
    """Sweeps without a schedule of their own use the client's, which learns from one checkpoint for the next."""
    for batch in range(3):
        cards = [kiosk.add((batch + 1, f"card-{number}"), "prints") for number in range(10)]
        await swept_to_the_end(client, Checkpoint.for_cards(cards))
    assert "READY" in repr(client._schedule)  # pyright: ignore[reportPrivateUsage]
    mine = AdaptiveSchedule()
    await swept_to_the_end(client, Checkpoint.for_cards(cards_of(kiosk, 3)), schedule=mine)
    assert "READY" in repr(mine)


async def test_not_a_checkpoint(client: Client) -> None:
    """The bare JSON is refused, with what to call instead."""
    text: Any = Checkpoint.for_cards([(1, "a")]).to_json()
    with pytest.raises(UsageError, match="from_json"):
        await client.sweep(text)
    with pytest.raises(UsageError, match="from_json"):
        client.resume(text)


# --- Resumed ---


async def test_resumed_wait(kiosk: Simulator, client: Client) -> None:
    """A wait that is saved after a step and resumed by another client reports the rest, and nothing twice."""
    (card,) = cards_of(kiosk, 1, [("READY", 25.0), ("IN_PROGRESS", 30.0), ("PRODUCED", 0.0)])
    wait = client.wait_until_final(card.profile_id, card.card_token, timeout=100, schedule=EVERY_10)
    async for step in wait:
        if step.current.status == "IN_PROGRESS":
            break
    saved = wait.checkpoint().to_json()
    assert wait.checkpoint().id == wait.checkpoint().id
    del wait
    await asyncio.sleep(5)
    async with Client(kiosk.token, base_url=kiosk.base_url) as other:
        async with other.resume(Checkpoint.from_json(saved)) as steps:
            reported = [pair async for pair in steps]
        ((_, end),) = reported
        assert isinstance(end, Transition)
        assert (end.previous and end.previous.status, end.current.status) == ("IN_PROGRESS", "PRODUCED")
        assert (round(end.elapsed), end.polls) == (60, 7)
        assert await other.resume(Checkpoint.from_json(saved)) == {card: end.current}


async def test_deadline_stays(kiosk: Simulator, client: Client) -> None:
    """A wait that is resumed ends when it would have ended, also when that is past: then it polls once, at once."""
    (card,) = cards_of(kiosk, 1, "never")
    wait = client.wait_until_final(card.profile_id, card.card_token, timeout=100, schedule=EVERY_10)
    await anext(wait)
    checkpoint = wait.checkpoint()
    del wait
    await asyncio.sleep(30)
    outcome = await client.resume(checkpoint)
    assert isinstance(outcome[card], WaitTimeout)
    assert round(asyncio.get_running_loop().time()) == 100
    polls = len(kiosk.requests)
    outcome = await client.resume(checkpoint)
    assert isinstance(outcome[card], WaitTimeout)
    assert (len(kiosk.requests), round(asyncio.get_running_loop().time())) == (polls + 1, 100)


async def test_deadlines_that_passed_while_nothing_ran(kiosk: Simulator, client: Client) -> None:
    """Of many waits whose deadline has passed when they are resumed, each is polled once."""
    cards = cards_of(kiosk, 200, [("PRODUCED", 0.0)])
    long_ago = wall_now() - timedelta(hours=1)
    outcome = await client.resume(Checkpoint.for_cards(cards, timeout=60, now=long_ago))
    assert [one for one in outcome.values() if isinstance(one, WaitTimeout)] == []
    assert len(kiosk.requests) == 200


async def test_unbegun_wait(kiosk: Simulator, client: Client) -> None:
    """A wait that has not begun is saved as one that begins now."""
    (card,) = cards_of(kiosk, 1)
    wait = client.wait_until_final(card.profile_id, card.card_token, timeout=100)
    await asyncio.sleep(50)
    (saved,) = wait.checkpoint().pending
    assert saved.deadline_at == unix_time(wall_now().timestamp() + 100)
    assert isinstance((await client.resume(wait.checkpoint()))[card], ProductionStatus)


async def test_delivered_wait_is_done(kiosk: Simulator, client: Client) -> None:
    """After its end was delivered nothing of a wait is left to resume."""
    (card,) = cards_of(kiosk, 1)
    wait = client.wait_until_final(card.profile_id, card.card_token)
    await wait
    assert wait.checkpoint().is_done
    sweep = await client.sweep(wait.checkpoint())
    assert (sweep.steps, sweep.next_poll_at) == ((), None)
    assert await client.resume(wait.checkpoint()) == {}


async def test_undelivered_steps_of_a_wait_come_first(kiosk: Simulator, client: Client) -> None:
    """Transitions that are undelivered when a wait is saved come first when it is resumed or swept."""
    (card,) = cards_of(kiosk, 1, "never")
    wait = client.wait_until_final(card.profile_id, card.card_token)
    await anext(wait)
    client.notify(event_of(card, "IN_PROGRESS", sent_at=wall_now()))
    client.notify(event_of(card, "PRODUCED", sent_at=wall_now()))
    checkpoint = Checkpoint.from_json(wait.checkpoint().to_json())
    requests = len(kiosk.requests)
    async with client.resume(checkpoint) as steps:
        reported = [pair async for pair in steps]
    assert names(reported, card) == ["IN_PROGRESS", "PRODUCED"]
    assert (steps.progress.produced, steps.progress.pending) == (1, 0)
    sweep = await client.sweep(checkpoint)
    assert names(list(sweep.steps), card) == ["IN_PROGRESS", "PRODUCED"]
    assert (sweep.next_poll_at, len(kiosk.requests)) == (None, requests)
    wait.close()


async def test_undelivered_error_is_seen_again(kiosk: Simulator, client: Client) -> None:
    """A card that ended with an undelivered error is polled again, and ends with it again."""
    card = Card(123456, "missing")
    async with client.wait_until_all_final([card]) as steps:
        await asyncio.sleep(5)
        checkpoint = steps.checkpoint()
        ((_, error),) = [pair async for pair in steps]
    assert isinstance(error, CardNotFound)
    assert isinstance((await client.resume(checkpoint))[card], CardNotFound)


async def test_checkpoint_of_a_wait_elsewhere(kiosk: Simulator, client: Client) -> None:
    """A wait that has begun can be saved only in its event loop, as the error elsewhere says."""
    (card,) = cards_of(kiosk, 1, "never")
    wait = client.wait_until_final(card.profile_id, card.card_token, schedule=EVERY_10)
    await anext(wait)
    with pytest.raises(UsageError, match="event loop"):
        await asyncio.to_thread(wait.checkpoint)


async def test_waits_are_resumed(kiosk: Simulator, client: Client) -> None:
    """Waits broken off anywhere and resumed report each transition once, as unbroken ones do."""
    random = Random(11)
    cards = [
        kiosk.add(
            (123456, f"card-{number}"), [("READY", random.uniform(5, 60)), ("IN_PROGRESS", 40.0), ("PRODUCED", 0.0)]
        )
        for number in range(20)
    ]
    cards.append(Card(123456, "missing"))
    reported: list[tuple[Card, Transition | CardprodError]] = []
    checkpoint: Checkpoint | None = None
    async with asyncio.timeout(10_000):
        while checkpoint is None or not checkpoint.is_done:
            if checkpoint is None:
                waits = client.wait_until_all_final(cards, timeout=1000)
            else:
                waits = client.resume(Checkpoint.from_json(checkpoint.to_json()))
            async with waits as steps:
                left = random.randrange(1, 10)
                async for pair in steps:
                    reported.append(pair)
                    left -= 1
                    if not left:
                        break
                else:
                    break
                checkpoint = steps.checkpoint()
                await asyncio.sleep(random.choice([0, 3]))  # some is seen meanwhile, and not delivered
    for card in cards[:-1]:
        assert names(reported, card) == ["READY", "IN_PROGRESS", "PRODUCED"]
    assert names(reported, cards[-1]) == ["CardNotFound"]
    assert_idle(client)


async def test_checkpoint_holds_what_is_unread(kiosk: Simulator, client: Client) -> None:
    """A checkpoint of an unread batch holds every transition that was seen, ends included."""
    cards = cards_of(kiosk, 10)
    async with client.wait_until_all_final(cards) as steps:
        await asyncio.sleep(30)
        checkpoint = steps.checkpoint()
        assert steps.progress.pending == 0
    assert all(len(one.undelivered) == 3 for one in checkpoint.pending)
    requests = len(kiosk.requests)
    sweep = await client.sweep(checkpoint)
    for card in cards:
        assert names(list(sweep.steps), card) == ["READY", "IN_PROGRESS", "PRODUCED"]
    assert (sweep.next_poll_at, len(kiosk.requests)) == (None, requests)


async def test_checkpoint_outside_the_block(client: Client) -> None:
    """A checkpoint of a batch can be taken only inside its block, as the error outside says."""
    waits = client.wait_until_all_final([])
    with pytest.raises(UsageError, match="inside"):
        waits.checkpoint()
    async with waits:
        assert waits.checkpoint().is_done
    with pytest.raises(UsageError, match="inside"):
        waits.checkpoint()


async def test_deadlines_of_resumed_cards(kiosk: Simulator, client: Client) -> None:
    """Resumed cards keep deadlines of their own, in whatever order they come."""
    cards = cards_of(kiosk, 3, "never")
    pending: list[PendingCard] = []
    for card, timeout in zip(cards, (300, 100, 200), strict=True):
        pending.extend(Checkpoint.for_cards([card], timeout=timeout).pending)
    ended: dict[Card, int] = {}
    async with client.resume(Checkpoint(id="x", pending=tuple(pending), schedule=EVERY_10)) as steps:
        async for card, what in steps:
            if isinstance(what, WaitTimeout):
                ended[card] = round(asyncio.get_running_loop().time())
    assert [ended[card] for card in cards] == [300, 100, 200]


# --- Paused, and with another limit ---


async def test_pause(kiosk: Simulator, client: Client) -> None:
    """A paused client sends nothing until its time is over, and says for how long."""
    (card,) = cards_of(kiosk, 1)
    await client.get_status(card.profile_id, card.card_token)
    assert client.paused_for == 0
    client.pause(50)
    client.pause(10)
    assert client.paused_for == pytest.approx(50)
    await client.get_status(card.profile_id, card.card_token)
    assert asyncio.get_running_loop().time() == pytest.approx(50, abs=0.5)
    with pytest.raises(UsageError, match="seconds must be"):
        client.pause(-1)


async def test_pause_elsewhere(client: Client) -> None:
    """A pause from another event loop is refused; how long one lasts can be read anywhere."""

    async def pause() -> None:
        client.pause(50)

    client.pause(50)
    with pytest.raises(UsageError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, pause())
    assert await asyncio.to_thread(lambda: client.paused_for) == pytest.approx(50, abs=5)


async def test_limit_changed(kiosk: Simulator) -> None:
    """A rate limit that is changed holds at once, in either direction, and what left before counts."""
    cards = cards_of(kiosk, 60, "never")
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=RateLimit(10, 600)) as client:
        task = asyncio.ensure_future(client.get_statuses(cards))
        await asyncio.sleep(2.5)
        client.rate_limit = RateLimit(1, 600)
        before = len(kiosk.requests)
        await asyncio.sleep(10)
        assert 8 <= len(kiosk.requests) - before <= 10
        client.rate_limit = None
        await asyncio.sleep(1)
        assert len(kiosk.requests) == 60
        await task
        other: Any = 5
        with pytest.raises(UsageError, match="rate_limit must be"):
            client.rate_limit = other
