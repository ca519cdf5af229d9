"""A hostile server and a hostile network: every way has its named outcome, in bounded time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

import cardprod
from cardprod import Backoff, Client
from tests.conftest import assert_idle, assert_nothing_left
from tests.hostile import HONEST, WAYS, HostileServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROFILE = 123456
ATTEMPTS = 3
TIMEOUT = 10.0
LONGEST = ATTEMPTS * TIMEOUT + (ATTEMPTS - 1) * 1.0
"""Seconds: every attempt takes its whole time, and before each but the first there is at most one of waiting."""

SESSIONS = pytest.mark.parametrize("is_borrowed", [False, True], ids=["own session", "borrowed session"])


def now() -> float:
    """Tell the loop's virtual time."""
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def client_of(base_url: str, *, is_borrowed: bool = False, **settings: Any) -> AsyncIterator[Client]:
    """Make a client with a session of its own or of ours."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession()) if is_borrowed else None
        client = Client(
            "token", base_url=base_url, session=session, request_timeout=TIMEOUT, attempts=ATTEMPTS, **settings
        )
        yield await stack.enter_async_context(client)


async def assert_right(client: Client, card: str) -> None:
    """Check that a look brings this very card's status."""
    status = await client.get_status(PROFILE, card)
    assert (status.status, status.kiosk_id, status.description) == ("READY", "WIS00001", card)


async def assert_fails(client: Client, card: str, error: type[cardprod.CardprodError], word: str) -> None:
    """Check that a look fails in time, with this very error, which names the card and what happened."""
    began = now()
    with pytest.raises(error, match=word) as caught:
        await client.get_status(PROFILE, card)
    assert type(caught.value) is error
    assert caught.value.card == cardprod.Card(PROFILE, card)
    assert now() - began <= LONGEST


@SESSIONS
@pytest.mark.parametrize("name", WAYS)
async def test_every_way_has_its_outcome(name: str, *, is_borrowed: bool) -> None:
    """Whichever way a server misbehaves, a look ends in time as told, leaves nothing, and the next one is right."""
    way = WAYS[name]
    async with (
        HostileServer() as elsewhere,
        HostileServer() as server,
        client_of(server.base_url, is_borrowed=is_borrowed) as client,
    ):
        server.elsewhere = elsewhere.base_url
        if way.error is None:
            began = now()
            await assert_right(client, name)
            assert now() - began <= TIMEOUT
        else:
            await assert_fails(client, name, way.error, way.word)
        assert_idle(client)
        await asyncio.sleep(1)
        await assert_right(client, HONEST)
        assert_idle(client)
        assert elsewhere.heads == []
        assert not [head for head in server.heads if "\r\ncookie:" in head.lower()]
    await assert_nothing_left()
