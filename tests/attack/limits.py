"""Attacks that make a client wait, ask or keep too much."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from cardprod import Client, OAuthToken, TokenPair, Unauthorized, UsageError
from cardprod.simulator import Simulator
from tests.attack.registry import Found, attack
from tests.attack.target import (
    ACCESS,
    CLIENT_SECRET,
    LIMIT,
    PLACE,
    REFRESH,
    TOKEN,
    always,
    attacked,
    error_of,
    grant_or,
    id_in,
    oauth,
)
from tests.cards import CARD
from tests.raw_server import RawServer, http_answer
from tests.waiting import until


@attack("Retry-After: 3600 pauses for two minutes at most, and resume_requests ends the pause")
async def _() -> Found:
    answers = iter([http_answer(429, Retry_After="3600"), http_answer(), http_answer()])
    async with attacked(lambda _: next(answers)) as (_, client):
        await error_of(client.get_status(*PLACE))
        wrong = [] if 100 < client.paused_for <= 120 else [f"it pauses for {client.paused_for:.0f} s"]
        waiting = asyncio.create_task(client.get_status(*PLACE))
        _, still = await asyncio.wait([waiting], timeout=0.2)
        client.resume_requests()
        await waiting
        return wrong + ([] if still else ["a request was sent within the pause"])


@attack("where each request gets a 401 although refreshes succeed, 100 cards make one refresh")
async def _() -> Found:
    async with attacked(partial(grant_or, always(http_answer(401))), oauth, max_concurrency=5) as (server, client):
        outcome = await client.get_statuses([(1, f"card-{number}") for number in range(100)])
        refreshes = sum(head.startswith("POST") for head in server.heads)
        kinds = {type(error) for error in outcome.values()}
        return [] if (refreshes, kinds) == (1, {Unauthorized}) else [f"{refreshes} refreshes, {kinds}"]


@attack("a synchronous on_refresh is named as that, and called once")
async def _() -> Found:
    stored: list[TokenPair] = []
    store: Any = stored.append
    async with Simulator() as kiosk:
        kiosk.add(CARD, "never")
        known = (kiosk.client_id, kiosk.client_secret, kiosk.refresh_token)
        token = OAuthToken(*known, base_url=kiosk.base_url, on_refresh=store)
        async with Client(token, base_url=kiosk.base_url) as client:
            errors = [await error_of(client.get_status(*PLACE)) for _ in range(3)]
    wrong = [repr(error) for error in errors if not (isinstance(error, UsageError) and "async" in str(error))]
    return wrong + ([] if len(stored) == 1 else [f"it was called {len(stored)} times"])


@attack("texts of 1 MiB in a status are cut")
async def _() -> Found:
    wrong: Found = []
    for name, attribute, most in (("description", "description", 2048), ("errorCode", "error_code", 100)):
        body = json.dumps({"status": "READY", name: "x" * (2**20 - 100)})
        async with attacked(always(http_answer(body=body))) as (_, client):
            length = len(getattr(await client.get_status(*PLACE), attribute))
            wrong += [f"{name}: {length} characters are kept"] if length > most else []
    return wrong


@attack("after a 429's pause one request is sent before the others")
async def _() -> Found:
    seen: list[int] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        if len(server.heads) == 1:
            writer.write(http_answer(429, Retry_After="1"))
            return
        if len(server.heads) == 2:
            await asyncio.sleep(0.5)
            seen.append(len(server.heads))
        writer.write(http_answer())

    async with RawServer(answer) as server, Client(TOKEN, base_url=server.base_url) as client:
        first = asyncio.create_task(client.get_status(*PLACE))
        await until("the pause", lambda: client.paused_for, limit=LIMIT)
        await asyncio.gather(first, *(client.get_status(*PLACE) for _ in range(10)))
    return [] if seen == [2] else [f"{seen[0] - 1} requests were sent before one was answered"]


@attack("a refresh whose answer was lost is not sent again while the old token is good")
async def _() -> Found:
    async def answer(writer: asyncio.StreamWriter) -> None:
        if server.heads[-1].startswith("POST"):
            writer.transport.abort()
        else:
            writer.write(http_answer())

    async with RawServer(answer) as server:
        known: dict[str, Any] = {"access_token": ACCESS, "expires_at": datetime.now(UTC) + timedelta(seconds=3)}
        token = OAuthToken("client-id", CLIENT_SECRET, REFRESH, base_url=server.base_url, **known)
        async with Client(token, base_url=server.base_url) as client:
            for _ in range(22):
                await client.get_status(*PLACE)
                await asyncio.sleep(0.1)
        refreshes = sum(head.startswith("POST") for head in server.heads)
    return [] if refreshes == 1 else [f"it was sent {refreshes} times"]


@attack("where every kept connection is dead, the second attempt takes a new one")
async def _() -> Found:
    dead: set[asyncio.StreamWriter] = set()
    known: set[asyncio.StreamWriter] = set()

    async def answer(writer: asyncio.StreamWriter) -> None:
        known.add(writer)
        if writer not in dead:
            await asyncio.sleep(0.05)
            writer.write(http_answer())

    async with (
        RawServer(answer) as server,
        Client(TOKEN, base_url=server.base_url, request_timeout=1, rate_limit=None) as client,
    ):
        await asyncio.gather(*(client.get_status(*PLACE) for _ in range(20)))
        dead |= known
        began = asyncio.get_running_loop().time()
        await client.get_status(*PLACE)
        seconds = asyncio.get_running_loop().time() - began
    return [] if seconds < 2 else [f"the answer came after {seconds:.1f} s"]


@attack("errors of answers of 1 MiB that are no JSON do not keep them")
async def _() -> Found:
    async with attacked(always(http_answer(200, "x" * (2**20 - 1))), max_concurrency=2) as (_, client):
        await client.get_statuses([(1, "first")])
        tracemalloc.start()
        try:
            outcome = await client.get_statuses([(1, f"card-{number}") for number in range(30)])
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return [f"{len(outcome)} keep {kept / 2**20:.1f} MiB"] if kept > 2**20 else []


@attack("a grant's lifetime counts as a number, as text and as a time, and its request has a correlation id")
async def _() -> Found:
    wrong: Found = []
    at = (datetime.now(UTC) + timedelta(hours=12)).isoformat()
    for lifetime in ({"expires_in": 43_200}, {"expires_in": "43200"}, {"expires_in": None, "expires_at": at}):
        grant = http_answer(body=json.dumps({"access_token": ACCESS, **lifetime}))
        async with attacked(always(grant), partial(oauth, access_token=None)) as (server, _client):
            token = oauth(server.base_url, None)
            await token()
        left = None if token.expires_at is None else (token.expires_at - datetime.now(UTC)).total_seconds()
        wrong += [] if left is not None and 43_100 < left <= 43_200 else [f"{lifetime}: {left} s"]
        wrong += [] if id_in(server.heads[0]) else ["no correlation id"]
    return wrong
