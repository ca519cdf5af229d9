"""Webhook events reach durable waits: applied in one transaction, in any process, and delivered soon."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from cardprod import Backoff, Card, Client, DurableError, Transition, UsageError
from cardprod.durable import database
from cardprod.simulator import Fault, Simulator
from tests.durable.support import QUICK, Sink, cards_of, event_of, execute, over, quick, statuses_of, working
from tests.waiting import until

if TYPE_CHECKING:
    from cardprod.durable import Durable

pytestmark = pytest.mark.looptime(False)

SLOW = Backoff(first=3600, factor=1, ceiling=3600)


async def test_event_is_delivered_soon(kiosk: Simulator, client: Client, postgres: str, durable: Durable) -> None:
    """An event that reaches another process than a worker's is delivered within two seconds, long before any poll."""
    cards = cards_of(kiosk, 3, "never")
    sink = Sink()
    batch_id = await durable.submit(cards, schedule=SLOW)
    async with quick(postgres, poll=0.5) as other, working(other, client, sink):
        await until("the first polls", lambda: len(sink.steps), lambda count: count == 3)
        began_at = time.monotonic()
        assert await durable.notify(event_of(cards[0], "IN_PROGRESS", requested=0)) == 1
        assert await durable.notify(event_of(cards[0], "PRODUCED", requested=-1)) == 1
        await until("the transitions", lambda: len(sink.steps), lambda count: count == 5)
        assert sink.at[-1] - began_at < 2
        assert statuses_of(sink.steps, cards[0]) == ["READY", "IN_PROGRESS", "PRODUCED"]
        assert [step.what.source for step in sink.steps if isinstance(step.what, Transition)][3:] == ["webhook"] * 2
        assert len({step.key for step in sink.steps}) == 5
        for card in cards[1:]:
            await durable.notify(event_of(card, "PRODUCED", requested=-1))
        assert (await over(durable, batch_id)).produced == 3
    assert len(kiosk.requests) == 3


async def test_event_that_is_no_news(kiosk: Simulator, client: Client, postgres: str, durable: Durable) -> None:
    """An event that comes twice, late or out of order, or for a card that nobody waits for, changes nothing."""
    (card,) = cards_of(kiosk, 1, "never")
    sink = Sink()
    await durable.submit([card], schedule=SLOW)
    async with working(durable, client, sink):
        await until("the first poll", lambda: len(sink.steps), lambda count: count == 1)
        news = event_of(card, "IN_PROGRESS", requested=0)
        for event in (news, news, event_of(card, "READY", requested=50), event_of(card, "PRODUCED", requested=3000)):
            assert await durable.notify(event) == 1
        await until("the news", lambda: len(sink.steps), lambda count: count == 2)
        assert await durable.notify(attrs.evolve(news, card=Card(1, "unknown"))) == 0
        assert await durable.notify(attrs.evolve(news, is_test=True)) == 0
        assert await durable.notify(attrs.evolve(news, card=None, is_test=True)) == 0
    assert statuses_of(sink.steps, card) == ["READY", "IN_PROGRESS"]
    assert execute(postgres, "SELECT count(*) FROM transitions") == [(0,)]
    wrong: Any = news.to_json()
    with pytest.raises(UsageError, match="event must be"):
        await durable.notify(wrong)


async def test_event_for_several_batches(kiosk: Simulator, client: Client, durable: Durable) -> None:
    """An event counts for every batch that waits for its card, and for none that was cancelled."""
    (card,) = cards_of(kiosk, 1, "never")
    batches = [await durable.submit([card], schedule=SLOW) for _ in range(3)]
    await durable.cancel(batches[2])
    assert await durable.notify(event_of(card, "PRODUCED")) == 2
    sink = Sink()
    async with working(durable, client, sink):
        for batch_id in batches[:2]:
            assert (await over(durable, batch_id)).produced == 1
    assert sorted(step.batch_id for step in sink.steps) == sorted(batches[:2])
    assert kiosk.requests == []


async def test_many_events_at_once(kiosk: Simulator, durable: Durable) -> None:
    """Events that come together, more than one transaction takes, are all applied, each card's in order."""
    cards = cards_of(kiosk, 120, "never")
    batch_id = await durable.submit(cards, schedule=SLOW, batch_size=2)
    shuffled = Random(1).sample(cards, len(cards))
    events = [event_of(card, "IN_PROGRESS", requested=50) for card in shuffled]
    events += [event_of(card, "PRODUCED", requested=40) for card in reversed(shuffled)]
    assert await asyncio.gather(*map(durable.notify, events)) == [1] * 240
    assert (await durable.status(batch_id)).pending == 0
    sink = Sink()
    async with (
        Client(kiosk.token, base_url=kiosk.base_url) as client,
        working(durable, client, sink),
    ):
        await over(durable, batch_id)
    assert {tuple(statuses_of(sink.steps, card)) for card in cards} == {("IN_PROGRESS", "PRODUCED")}
    assert kiosk.requests == []


async def test_statements_for_events(kiosk: Simulator, durable: Durable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events take as many statements for many chunks as for one: while they go on, workers wait for the chunks."""
    names: list[str] = []

    async def fetch(connection: Any, name: str, **values: object) -> list[dict[str, Any]]:
        names.append(name)
        return await database.fetch(connection, name, **values)

    monkeypatch.setattr("cardprod.durable.store.fetch", fetch)
    counts: list[int] = []
    for count in (1, 10):
        cards = [kiosk.add((123456, f"{count}-{number}"), "never") for number in range(count)]
        await durable.submit(cards, schedule=SLOW, batch_size=1)
        names.clear()
        await asyncio.gather(*(durable.notify(event_of(card, "IN_PROGRESS")) for card in cards))
        counts.append(len(names))
    assert counts[0] == counts[1]


async def test_cancelled_while_events_come(kiosk: Simulator, client: Client, durable: Durable) -> None:
    """Batches that are cancelled while events are applied and delivered hold up neither: none waits for the other."""
    for _ in range(3):
        cards = cards_of(kiosk, 60, "never")
        batches = [await durable.submit(cards, schedule=SLOW, batch_size=3) for _ in range(2)]
        async with working(durable, client, Sink()):
            events = [event_of(card, "IN_PROGRESS", requested=50) for card in cards]
            events += [event_of(card, "PRODUCED", requested=40) for card in reversed(cards)]
            first = [asyncio.create_task(durable.notify(event)) for event in events[:90]]
            await asyncio.wait(first, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            assert await asyncio.gather(*map(durable.cancel, batches)) == [True, True]
            await asyncio.gather(*first, *map(durable.notify, events[90:]))


async def test_event_during_a_sweep(kiosk: Simulator, durable: Durable) -> None:
    """An event that comes while its chunk is swept is delivered at once, and no poll that it overtook undoes it."""
    card, slow = cards_of(kiosk, 2, "never")
    sink = Sink()
    await durable.submit([card, slow], schedule=QUICK)
    async with (
        Client(kiosk.token, base_url=kiosk.base_url, safety_net=0) as client,
        working(durable, client, sink),
    ):
        await until("the first polls", lambda: len(sink.steps), lambda count: count == 2)
        kiosk.fail_next(Fault.stall(4), card=slow)
        requests = len(kiosk.requests)
        await until("a sweep", lambda: len(kiosk.requests), lambda count: count > requests + 2)
        began_at = time.monotonic()
        await durable.notify(event_of(card, "PRODUCED", requested=-1))
        await until("the transition", lambda: len(sink.steps), lambda count: count == 3)
        assert sink.at[-1] - began_at < 2
        kiosk.start(slow)
        kiosk.finish(slow)
        await until("the end", lambda: statuses_of(sink.steps, slow), lambda statuses: "PRODUCED" in statuses)
    assert statuses_of(sink.steps, card) == ["READY", "PRODUCED"]


async def test_polls_thin_out(kiosk: Simulator, client: Client, postgres: str, durable: Durable) -> None:
    """While an event comes for each change, most sweeps of a chunk poll no card at all."""
    cards = cards_of(kiosk, 40, "never")
    await durable.submit(cards, schedule=Backoff(first=0.2, factor=1, ceiling=0.2), batch_size=10)

    def sweeps_so_far() -> int:
        return int(execute(postgres, "SELECT sum(version) FROM chunks")[0][0])

    async with working(durable, client):
        await until("polls", lambda: len(kiosk.requests), lambda count: count >= 80)
        for card in cards[:25]:
            kiosk.start(card)
            await durable.notify(event_of(card, "IN_PROGRESS", requested=-1))
        noticed = sweeps_so_far() + 32  # a worker learns of events at its ticks
        await until("sweeps", sweeps_so_far, lambda count: count >= noticed)
        before = len(kiosk.requests)
        await until("more sweeps", sweeps_so_far, lambda count: count >= noticed + 30)
        assert len(kiosk.requests) - before < 60  # of 300


async def test_fault_in_a_transaction(kiosk: Simulator, durable: Durable, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no database would raise reaches each who notified as a `DurableError`, and later events are applied."""
    cards = cards_of(kiosk, 2, "never")
    await durable.submit(cards, schedule=SLOW)
    with monkeypatch.context() as patch:
        patch.setattr("cardprod.durable.store.apply_events", None)
        for outcome in await asyncio.gather(
            *(durable.notify(event_of(card, "READY")) for card in cards), return_exceptions=True
        ):
            assert isinstance(outcome, DurableError)
            assert isinstance(outcome.__cause__, TypeError)
    assert await durable.notify(event_of(cards[0], "READY")) == 1
