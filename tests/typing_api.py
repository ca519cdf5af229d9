"""The public names as a type checker sees them. Nothing here ever runs: it only has to type-check."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, assert_type

import cardprod
from cardprod import (
    AdaptiveSchedule,
    Backoff,
    Card,
    CardprodError,
    Checkpoint,
    Client,
    ErrorCode,
    ErrorOrigin,
    OAuthToken,
    ProductionEvent,
    ProductionStatus,
    Progress,
    RateLimit,
    Status,
    Statuses,
    Sweep,
    TokenPair,
    Transition,
    Wait,
    Waits,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterable, Iterable, Mapping
    from email.message import Message

    import aiohttp
    from multidict import CIMultiDictProxy

    from cardprod.durable import Durable, Step
    from cardprod.simulator import Simulator
    from cardprod.webhooks import Verifier


async def a_token() -> str:
    """Give a token, as a user's vault does."""
    return "user-token"


async def store(pair: TokenPair) -> None:
    """Store a pair."""
    assert_type(pair.access_token, str)


async def making_clients(session: aiohttp.ClientSession, context: ssl.SSLContext) -> None:
    """A client takes a token in any of its three shapes, and everything else by name."""
    async with Client("user-token") as client:
        assert_type(client, Client)
    Client(a_token, base_url=cardprod.SANDBOX, api_version="2026Q3", session=session, ssl=context)
    Client(OAuthToken("id", "secret", "refresh", on_refresh=store), rate_limit=None, max_concurrency=10)
    Client("user-token", rate_limit=RateLimit(per_second=10, per_minute=100).share(2), request_timeout=5, attempts=1)
    assert_type(Client.from_env(), Client)


async def one_card(client: Client) -> None:
    """`get_status` gives a status; a wait gives one when awaited, and transitions when iterated."""
    assert_type(await client.get_status(1, "card"), ProductionStatus)
    wait = client.wait_until_final(1, "card", timeout=None, schedule=Backoff(first=2))
    assert_type(wait, Wait)
    assert_type(await wait, ProductionStatus)
    async for step in client.wait_until_final(1, "card"):
        assert_type(step, Transition)
    assert_type(wait.last, ProductionStatus | None)
    assert_type(wait.polls, int)
    assert_type(wait.checkpoint(), Checkpoint)


async def what_takes_coroutines(client: Client) -> None:
    """A wait is a coroutine to whatever takes one, and its result is known there."""
    first, second = await asyncio.gather(client.wait_until_final(1, "a"), client.wait_until_final(1, "b"))
    assert_type(first, ProductionStatus)
    assert_type(second, ProductionStatus)
    task = asyncio.create_task(client.wait_until_final(1, "a"))
    assert_type(await task, ProductionStatus)
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(client.wait_until_final(1, "a")).result(), ProductionStatus)
    assert_type(await asyncio.wait_for(client.wait_until_final(1, "a"), 5), ProductionStatus)


async def many_cards(client: Client, cards: AsyncIterable[Card]) -> None:
    """Batches take cards or tuples, from any iterable; errors are values beside the others."""
    statuses = client.get_statuses([(1, "a"), Card(1, "b")])
    assert_type(statuses, Statuses)
    assert_type(await statuses, dict[Card, ProductionStatus | CardprodError])
    async with client.get_statuses(cards) as pairs:
        async for card, status in pairs:
            assert_type(card, Card)
            assert_type(status, ProductionStatus | CardprodError)
    client.wait_until_all_final(cards, after=await statuses)
    client.wait_until_all_final(cards, after={(1, "a"): ProductionStatus("PRODUCTION_ERROR")})
    waits = client.wait_until_all_final(cards, timeout=60, schedule=AdaptiveSchedule())
    assert_type(waits, Waits)
    assert_type(await waits, dict[Card, ProductionStatus | CardprodError])
    async with client.wait_until_all_final(None) as steps:
        assert_type(steps.add((1, "a")), Card)
        async for _, step in steps:
            assert_type(step, Transition | CardprodError)
        assert_type(steps.progress, Progress)
        assert_type(steps.checkpoint(), Checkpoint)


async def going_on(client: Client) -> None:
    """A checkpoint is written as JSON and read, and is resumed or swept."""
    checkpoint = Checkpoint.from_json(Checkpoint.for_cards([(1, "a")], timeout=60).to_json())
    assert_type(client.resume(checkpoint), Waits)
    sweep = await client.sweep(checkpoint)
    assert_type(sweep, Sweep)
    assert_type(sweep.next_poll_at, datetime | None)
    for card, step in sweep.steps:
        assert_type(card, Card)
        assert_type(step, Transition | CardprodError)


def what_is_known(status: ProductionStatus, step: Transition) -> None:
    """What is newer than this package is text; what is not known is None."""
    assert_type(status.status, Status | str)
    assert_type(status.error_code, ErrorCode | str | None)
    assert_type(status.error_origin, ErrorOrigin | None)
    assert_type(status.error_meaning, str | None)
    assert_type(status.kiosk_id, str | None)
    assert_type(status.occurred_at, datetime | None)
    assert_type(status.is_final, bool)
    assert_type(status.raise_for_failure(), ProductionStatus)
    assert_type(step.previous, ProductionStatus | None)
    assert_type(step.source, Literal["poll", "webhook"])
    assert_type(cardprod.FINAL_STATUSES, frozenset[Status])


def errors(error: CardprodError) -> None:
    """Each error says what it knows by its own attributes."""
    assert_type(error.card, Card | None)
    if isinstance(error, cardprod.RateLimited):
        assert_type(error.retry_after, float | None)
    if isinstance(error, cardprod.ApiError):
        assert_type(error.http_status, int)
    if isinstance(error, cardprod.WaitTimeout):
        assert_type(error.last, ProductionStatus | None)
        assert_type(error.checkpoint, Checkpoint | None)
    if isinstance(error, cardprod.ProductionFailed):
        assert_type(error.status, ProductionStatus)


def webhooks(client: Client, verifier: Verifier, body: bytes, headers: Mapping[str, str]) -> None:
    """A verified delivery is an event, and `notify` returns how many waits it reached."""
    verifier.verify(body, headers)
    event = verifier.parse(body, headers)
    assert_type(event, ProductionEvent)
    assert_type(event.card, Card | None)
    assert_type(client.notify(event), int)


def headers_of_frameworks(
    verifier: Verifier,
    *,
    starlette: Mapping[str, str],
    http_server: Message,
    asgi: Iterable[tuple[bytes, bytes]],
    wsgi: dict[str, Any],
    aiohttp: CIMultiDictProxy[str],
    lists: dict[str, list[str]],
) -> None:
    """Headers may be whatever a framework has."""
    for headers in (starlette, http_server, asgi, wsgi, aiohttp, lists):
        verifier.parse(b"", headers)


async def the_extras(client: Client, durable: Durable, kiosk: Simulator) -> None:
    """Durable waits give ids and steps; the simulator is a context manager that gives itself."""

    async def on_steps(steps: Any) -> None:
        first: Step = steps[0]
        assert_type(first.key, str)

    assert_type(await durable.submit([(1, "a")], timeout=60), str)
    await durable.work(client, on_steps)
    async with kiosk as running:
        assert_type(running, "Simulator")
        assert_type(running.add((1, "a"), "prints"), Card)
