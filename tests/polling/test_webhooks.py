"""Webhooks: what a client does with their events, and how the simulator delivers them."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from itertools import pairwise, product
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cardprod import (
    Backoff,
    BadSignature,
    Card,
    CardprodError,
    Client,
    ProductionEvent,
    ProductionStatus,
    RateLimit,
    Transition,
    UsageError,
    WaitTimeout,
)
from cardprod.simulator import Simulator, Stage, Subscription
from cardprod.telemetry import Event, TransitionSeen
from cardprod.webhooks import Verifier
from tests.cards import CARD, event_of
from tests.leftovers import assert_idle, assert_nothing_left
from tests.raw_server import RawServer, answer_nothing, http_answer
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def subscriptions_of(client: Client) -> Any:
    """Return which waits a client has for which card, which no user sees."""
    return client._poller.subscriptions  # pyright: ignore[reportPrivateUsage]


# --- What a client does with it ---


@pytest.fixture
async def endpoint(client: Client, kiosk: Simulator) -> AsyncIterator[str]:
    """An endpoint that passes what the kiosk delivers to the client."""
    verifier = Verifier(kiosk.public_key)

    async def take(request: web.Request) -> web.Response:
        try:
            client.notify(verifier.parse(await request.read(), request.headers))
        except BadSignature:
            return web.Response(status=400)
        return web.Response()

    app = web.Application()
    app.router.add_post("/wise", take)
    async with TestServer(app) as server:
        yield str(server.make_url("/wise"))


HOURLY = Backoff(first=3600, factor=1, ceiling=3600)
PLAN = [Stage("READY", 20), Stage("IN_PROGRESS", 30), Stage("PRODUCED")]


async def test_event_interrupts_a_poll() -> None:
    """An event is reported at once even while a poll hangs, and the poll is cut off."""
    async with (
        RawServer(answer_nothing) as server,
        Client("token", base_url=server.base_url, request_timeout=600) as client,
    ):
        wait = client.wait_until_final(CARD.profile_id, CARD.card_token, timeout=None)
        waiting = asyncio.create_task(asyncio.wait_for(wait, None))
        await asyncio.sleep(100)
        began_at = asyncio.get_running_loop().time()
        assert client.notify(event_of(CARD, "PRODUCED")) == 1
        assert (await waiting).is_produced
        assert asyncio.get_running_loop().time() - began_at < 0.1
        assert len(subscriptions_of(client)) == 0
        assert_idle(client)
    await assert_nothing_left()


async def test_followers_of_an_interrupted_poll() -> None:
    """All waits that shared a poll that an event cut off get the event."""
    async with (
        RawServer(answer_nothing) as server,
        Client("token", base_url=server.base_url, request_timeout=600) as client,
    ):
        waits = [asyncio.ensure_future(client.wait_until_all_final([CARD]))]
        singles = [
            asyncio.create_task(asyncio.wait_for(client.wait_until_final(1, "other"), None)),
            *(
                asyncio.create_task(
                    asyncio.wait_for(client.wait_until_final(CARD.profile_id, CARD.card_token, timeout=None), None)
                )
                for _ in range(5)
            ),
        ]
        await asyncio.sleep(1)
        assert client.notify(event_of(CARD, "IN_PROGRESS")) == 6
        await asyncio.sleep(1)
        assert client.notify(event_of(CARD, "PRODUCED")) == 6
        assert [(await single).status for single in singles[1:]] == ["PRODUCED"] * 5
        assert (await waits[0])[CARD] == event_of(CARD, "PRODUCED").status
        singles[0].cancel()
        await asyncio.wait(singles)


async def test_busy_consumer_misses_nothing(kiosk: Simulator, client: Client, endpoint: str) -> None:
    """Each event that comes while the consumer is busy is delivered when it asks for the next step."""
    kiosk.subscribe(endpoint)
    kiosk.add(CARD, PLAN)
    reported: list[tuple[str, int]] = []
    async for step in client.wait_until_final(CARD.profile_id, CARD.card_token, schedule=HOURLY, timeout=None):
        reported.append((step.current.status, round(step.elapsed)))
        await asyncio.sleep(100)
    assert reported == [("READY", 0), ("IN_PROGRESS", 20), ("PRODUCED", 50)]
    assert len(subscriptions_of(client)) == 0


async def test_cancelled_wait_receives_no_more(kiosk: Simulator, client: Client) -> None:
    """A wait that is cancelled receives no more events, even while it is referenced."""
    kiosk.add(CARD, "never")
    wait = client.wait_until_final(CARD.profile_id, CARD.card_token)
    waiting = asyncio.create_task(asyncio.wait_for(wait, None))
    await asyncio.sleep(5)
    assert client.notify(event_of(CARD, "IN_PROGRESS")) == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    assert client.notify(event_of(CARD, "PRODUCED")) == 0
    assert wait.last is not None


async def test_event_just_before_the_wait() -> None:
    """An event that came up to a minute before a wait began ends it, if the first poll lags behind it."""
    with Table() as table:
        for seconds, is_batch in product((0, 59, 61), (False, True)):
            with table.row(seconds, is_batch):
                assert await _ends_by_event_before(seconds, is_batch=is_batch) == (seconds < 60)


async def _ends_by_event_before(seconds: float, *, is_batch: bool) -> bool:
    """Begin a wait so long after an event, at a server that lags behind it; return whether the event ended it."""

    async def lag(writer: asyncio.StreamWriter) -> None:
        body = '{"status":"IN_PROGRESS","kioskId":"WIS00001","occurredAt":"2026-01-01T12:00:00.125Z"}'
        writer.write(http_answer(body=body))

    occurred_at = datetime(2026, 1, 1, 12, 0, 0, 125_000, UTC)
    async with RawServer(lag) as server, Client("token", base_url=server.base_url) as client:
        old = event_of(CARD, "READY", occurred_at=occurred_at, sent_at=occurred_at)
        for event in (event_of(CARD, "PRODUCED", occurred_at=occurred_at), old):
            assert client.notify(event) == 0
        await asyncio.sleep(seconds - 0.001)
        if is_batch:
            outcome = await client.wait_until_all_final([CARD], schedule=HOURLY, timeout=10)
            is_ended = isinstance(outcome[CARD], ProductionStatus)
        else:
            wait = client.wait_until_final(CARD.profile_id, CARD.card_token, schedule=HOURLY, timeout=10)
            steps: list[tuple[str, str]] = []
            with contextlib.suppress(WaitTimeout):
                steps += [(step.current.status, step.source) async for step in wait]
            is_ended = steps == [("IN_PROGRESS", "poll"), ("PRODUCED", "webhook")]
        assert len(subscriptions_of(client)) == 0
        return is_ended


async def test_replay_is_not_recent(client: Client) -> None:
    """An event that comes again is remembered from when it came first."""
    event = event_of(CARD, "PRODUCED", occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
    client.notify(event)
    await asyncio.sleep(50)
    client.notify(event)
    assert subscriptions_of(client).recent_event(CARD) == event
    await asyncio.sleep(20)
    assert subscriptions_of(client).recent_event(CARD) is None


async def test_event_of_the_production_before(kiosk: Simulator, client: Client) -> None:
    """An event that came just before a wait began, of the production before, does not change it."""
    kiosk.add(CARD, [Stage("IN_PROGRESS", 5), Stage("PRODUCED")])
    before = datetime(2026, 1, 1, tzinfo=UTC)
    assert client.notify(event_of(CARD, "PRODUCTION_ERROR", occurred_at=before)) == 0
    assert (await client.wait_until_final(CARD.profile_id, CARD.card_token)).is_produced


async def test_recent_events_are_bounded(client: Client) -> None:
    """However many events come for cards without waits, a bounded number is remembered."""
    for number in range(5000):
        client.notify(event_of(Card(1, f"card-{number}"), "PRODUCED", occurred_at=datetime(2026, 1, 1, tzinfo=UTC)))
    assert len(subscriptions_of(client)._recent) == 4096
    assert subscriptions_of(client).recent_event(Card(1, "card-4999")) is not None
    assert subscriptions_of(client).recent_event(Card(1, "card-0")) is None


async def test_event_without_waits(client: Client) -> None:
    """An event for a card without waits, for no card, or of a test, reaches no wait."""
    assert client.notify(event_of(CARD, "PRODUCED")) == 0
    assert client.notify(ProductionEvent(card=None, status=ProductionStatus("PRODUCED"))) == 0
    assert client.notify(ProductionEvent(card=CARD, status=ProductionStatus("PRODUCED"), is_test=True)) == 0


async def test_test_event_changes_nothing(kiosk: Simulator, client: Client) -> None:
    """A test event does not change the wait for the card it names."""
    kiosk.add(CARD, "never")
    waiting = asyncio.create_task(asyncio.wait_for(client.wait_until_final(CARD.profile_id, CARD.card_token), None))
    await asyncio.sleep(5)
    test = ProductionEvent(card=CARD, status=ProductionStatus("PRODUCED"), sent_at=datetime.now(UTC), is_test=True)
    assert client.notify(test) == 0
    await asyncio.sleep(5)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_bad_notify(kiosk: Simulator) -> None:
    """`notify` refuses what is no event, and refuses everything once the client is closed."""
    client = Client(kiosk.token, base_url=kiosk.base_url)
    with pytest.raises(UsageError, match="event must be"):
        client.notify({"status": "PRODUCED"})  # type: ignore[arg-type]
    await client.close()
    with pytest.raises(UsageError, match="closed"):
        client.notify(event_of(CARD, "PRODUCED"))
    with pytest.raises(UsageError, match="safety_net"):
        Client("token", safety_net=-1)


class _Wrong:
    """A schedule that raises while `is_wrong` is set."""

    is_wrong = False

    def delay(self, unchanged: int, random: float) -> float:
        del unchanged, random
        if self.is_wrong:
            raise LookupError("a schedule's own mistake")
        return 3600.0


@pytest.mark.parametrize("at_an_event", [True, False])
async def test_schedule_that_raises(kiosk: Simulator, client: Client, *, at_an_event: bool) -> None:
    """What a schedule raises, at an event or a shared poll, ends the waits with that schedule, and no other."""
    kiosk.add(CARD, [Stage("READY", 10), Stage("PRODUCED")])
    wrong = _Wrong()
    wait = client.wait_until_final(CARD.profile_id, CARD.card_token, schedule=wrong, timeout=None)
    alone = asyncio.create_task(asyncio.wait_for(wait, None))
    batch = asyncio.ensure_future(client.wait_until_all_final([CARD], schedule=wrong))
    good = asyncio.create_task(asyncio.wait_for(client.wait_until_final(CARD.profile_id, CARD.card_token), None))
    await asyncio.sleep(1.5)
    wrong.is_wrong = True
    if at_an_event:
        assert client.notify(event_of(CARD, "IN_PROGRESS")) == 3
    async with asyncio.timeout(0.1 if at_an_event else 7.5):
        for broken in (alone, batch):
            with pytest.raises(LookupError, match="a schedule's own mistake"):
                await broken
    assert (await good).is_produced
    assert len(subscriptions_of(client)) == 0


# --- Polls become rare, and come back ---

SLOW = [Stage("READY", 300), Stage("IN_PROGRESS", 240), Stage("PRODUCED")]


async def _follow_fleet(
    kiosk: Simulator, client: Client, cards: int, *, apart: float = 5.0
) -> tuple[int, list[tuple[float, float]]]:
    """Wait for cards that come one after another. Return how many requests that took, and for each card when its end
    was seen and how late.
    """
    loop = asyncio.get_running_loop()
    requests_before = len(kiosk.requests)
    ends: list[tuple[float, float]] = []
    due: dict[Card, float] = {}

    async def come() -> AsyncIterator[Card]:
        for number in range(cards):
            card = kiosk.add((1, f"card-{number}"), SLOW)
            due[card] = loop.time() + 540
            yield card
            await asyncio.sleep(apart)

    async with client.wait_until_all_final(come(), schedule=Backoff()) as steps:
        async for card, step in steps:
            assert isinstance(step, Transition)
            if step.is_final:
                ends.append((loop.time(), loop.time() - due[card]))
    return len(kiosk.requests) - requests_before, ends


async def test_polls_become_rare(kiosk: Simulator, client: Client, endpoint: str) -> None:
    """Once events have reported some changes, a card costs a tenth of the polls it costs without."""
    without, _ = await _follow_fleet(kiosk, client, 8)
    kiosk.subscribe(endpoint)
    await _follow_fleet(kiosk, client, 10)
    with_events, ends = await _follow_fleet(kiosk, client, 8)
    assert with_events <= 0.1 * without
    assert max(late for _, late in ends) < 1


async def test_old_events_raise_no_trust(kiosk: Simulator, client: Client) -> None:
    """Events of years ago, each redelivered right after a poll showed the same, make no poll rarer."""
    without, _ = await _follow_fleet(kiosk, client, 8)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)

    def redeliver(event: Event) -> None:
        if isinstance(event, TransitionSeen):
            client.notify(event_of(event.card, event.transition.current.status, sent_at=long_ago))

    client.on_event = redeliver
    await _follow_fleet(kiosk, client, 10)
    with_events, _ = await _follow_fleet(kiosk, client, 8)
    assert with_events > 0.9 * without


async def test_slow_events_raise_trust_too(kiosk: Simulator, client: Client, endpoint: str) -> None:
    """Events that always come a little after quick polls still raise the trust."""
    quick = Backoff(first=1, factor=1)
    kiosk.subscribe(Subscription(url=endpoint, latency=(3, 4)))
    for number in range(30):
        card = kiosk.add((1, f"card-{number}"), "prints")
        await client.wait_until_final(card.profile_id, card.card_token, schedule=quick)
        await asyncio.sleep(5)
    assert subscriptions_of(client).trust.trust > 0.9


async def test_polls_come_back(kiosk: Simulator, client: Client, endpoint: str) -> None:
    """When events stop in the middle, the ends are seen as soon as without events, but for the first few."""
    kiosk.subscribe(endpoint)
    await _follow_fleet(kiosk, client, 20)
    assert subscriptions_of(client).trust.trust > 0.9
    await kiosk.unsubscribe()
    _, ends = await _follow_fleet(kiosk, client, 30)
    assert len(ends) == 30
    assert all(late <= 31 for _, late in ends[15:])
    assert subscriptions_of(client).trust.gap(asyncio.get_running_loop().time()) < 1


async def test_safety_net_of_zero(kiosk: Simulator, endpoint: str) -> None:
    """With a safety net of 0 no poll is postponed, however well events come."""
    async with Client(kiosk.token, base_url=kiosk.base_url, safety_net=0) as client:
        polls: list[int] = []
        for _ in range(2):
            before = len(kiosk.requests)
            kiosk.add(CARD, [Stage("READY", 30), Stage("IN_PROGRESS", 300), Stage("PRODUCED")])
            await client.wait_until_final(CARD.profile_id, CARD.card_token, schedule=Backoff(jitter=0))
            polls.append(len(kiosk.requests) - before)
            subscriptions_of(client).trust.trust = 0.99
        assert polls[0] == polls[1]


async def test_lost_events_are_found_by_the_net(kiosk: Simulator, client: Client, endpoint: str) -> None:
    """An event that is lost delays its card by the safety net at most."""
    kiosk.subscribe(endpoint)
    await _follow_fleet(kiosk, client, 20)
    loop = asyncio.get_running_loop()
    await kiosk.unsubscribe()
    kiosk.add(CARD, [Stage("READY", 20), Stage("PRODUCED")])
    began_at = loop.time()
    await client.wait_until_final(CARD.profile_id, CARD.card_token, timeout=None)
    assert loop.time() - began_at < 20 + 300 + 31


# --- Many events, and faults ---


@pytest.mark.seeds(1, 4)
async def test_many_events(kiosk: Simulator, seed: int) -> None:
    """With events late, twice, lost, out of order and replayed, and polls that fail, each card ends rightly, in steps
    that follow each other, none reported twice; and nothing is left.
    """
    random = Random(seed)
    ends = [Stage("PRODUCED"), Stage("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM")]
    limit = RateLimit(per_second=1000, per_minute=20_000)
    verifier = Verifier(kiosk.public_key)
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit, request_timeout=5) as client:

        async def take(request: web.Request) -> web.Response:
            if random.random() < 0.1:
                return web.Response(status=503)
            client.notify(verifier.parse(await request.read(), request.headers))
            return web.Response()

        app = web.Application()
        app.router.add_post("/wise", take)
        async with TestServer(app) as server:
            url = str(server.make_url("/wise"))
            versions: tuple[Literal["2.0.0"], Literal["4.0.0"]] = ("2.0.0", "4.0.0")
            for version in versions:
                kiosk.subscribe(
                    Subscription(
                        url=url,
                        schema_version=version,
                        latency=(0, 90),
                        duplicates=0.3,
                        losses=0.3,
                        replays=0.3,
                        seed=seed,
                    )
                )
            kiosk.set_error_rate(0.1, seed)
            plans: dict[Card, list[Stage]] = {}
            for number in range(12):
                stages = [Stage("READY", random.uniform(5, 200)), Stage("IN_PROGRESS", random.uniform(5, 200))]
                if random.random() < 0.3:
                    stages.append(Stage("IN_PROGRESS", random.uniform(60, 100), is_new_request=True))
                plans[kiosk.add((1, f"card-{number}"), [*stages, random.choice(ends)])] = [*stages]
            reported: dict[Card, list[Transition | CardprodError]] = {card: [] for card in plans}
            singles = {card: asyncio.create_task(_steps(client, card)) for card in list(plans)[::3]}
            async with client.wait_until_all_final(plans, max_failures=100) as steps:
                async for card, step in steps:
                    reported[card].append(step)
            for card, single in singles.items():
                _check_steps(await single, kiosk, card)
            for card, seen in reported.items():
                _check_steps(seen, kiosk, card)
            assert len(subscriptions_of(client)) == 0
            assert_idle(client)


async def _steps(client: Client, card: Card) -> list[Transition | CardprodError]:
    wait = client.wait_until_final(card.profile_id, card.card_token, timeout=None, max_failures=100)
    return [step async for step in wait]


def _check_steps(steps: list[Transition | CardprodError], kiosk: Simulator, card: Card) -> None:
    seen = [step.current for step in steps if isinstance(step, Transition)]
    assert len(seen) == len(steps)
    order = ["READY", "IN_PROGRESS", "PRODUCED", "PRODUCTION_ERROR"]
    for before, after in pairwise(seen):
        assert before.occurred_at is not None
        assert after.occurred_at is not None
        later = (after.occurred_at - before.occurred_at).total_seconds() >= 1
        assert later or order.index(after.status) > order.index(before.status), (before, after)
    assert seen[-1].is_final
    assert seen[-1].status == kiosk.state_of(card).status


# --- The simulated kiosk's deliveries ---


async def test_retries_like_wise(kiosk: Simulator) -> None:
    """A delivery that is not answered 200 within five seconds is sent again, with growing gaps, 25 times at most."""
    answers = iter([500, None, 404])
    came: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        came.append(asyncio.get_running_loop().time())
        http_status = next(answers, 204)
        if http_status is None:
            await asyncio.sleep(10)
        return web.Response(status=http_status or 200)

    app = web.Application()
    app.router.add_post("/", answer)
    async with TestServer(app) as server:
        kiosk.subscribe(str(server.make_url("/")))
        kiosk.add(CARD, [Stage("READY", 1), Stage("PRODUCED")])
        await asyncio.sleep(20 * 86_400)
    assert len(came) == 25
    gaps = [after - before for before, after in pairwise(came)]
    assert gaps[0] == pytest.approx(9, abs=1)
    assert gaps == sorted(gaps)
    assert 12 * 86_400 < came[-1] - came[0] < 14 * 86_400
    assert [delivery.http_status for delivery in kiosk.deliveries][:4] == [500, None, 404, 204]
    assert {delivery.delivery_id for delivery in kiosk.deliveries} == {kiosk.deliveries[0].delivery_id}


async def test_test_notifications(kiosk: Simulator, client: Client, endpoint: str) -> None:
    """The kiosk's test notification passes through an endpoint."""
    assert await kiosk.send_tests() == []
    kiosk.subscribe(endpoint)
    assert await kiosk.send_tests() == [200]
    kiosk.subscribe("http://127.0.0.1:9/unreachable")
    assert await kiosk.send_tests() == [200, None]


async def test_public_key_is_published(kiosk: Simulator, client: Client) -> None:
    """The kiosk's key can be fetched, and verifies what it sends."""
    async with aiohttp.ClientSession() as session, session.get(kiosk.public_key_url) as answer:
        assert await answer.text() == kiosk.public_key
