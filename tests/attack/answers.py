"""Attacks with answers: whose they are."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

import aiohttp

from cardprod import RateLimited
from tests.attack.registry import Found, attack
from tests.attack.target import LIMIT, PLACE, always, attacked, echo, error_of, id_in
from tests.raw_server import http_answer
from tests.waiting import Child

if TYPE_CHECKING:
    from collections.abc import Callable

# --- Correlation ids and strange answers ---

FORKING: Final = """
import asyncio, os, sys, cardprod
client = cardprod.Client("token", base_url=sys.argv[1])
async def poll():
    async with client:
        await client.get_status(1, "card")
workers = []
for _ in range(3):
    workers.append(os.fork())
    if not workers[-1]:
        asyncio.run(poll())
        os._exit(0)
for worker in workers:
    os.waitpid(worker, 0)
"""


@attack("workers that were forked after the client was made send correlation ids of their own")
async def _() -> Found:
    async with attacked(always(http_answer())) as (server, _client):
        with Child(sys.executable, "-c", FORKING, server.base_url) as child:
            await child.until_end(LIMIT)
        ids = [id_in(head) for head in server.heads]
        return [] if len(ids) == len(set(ids)) == 3 else [f"three workers sent {ids}"]


@attack("an example's or an empty correlation id, or the own in upper case or quotes, is believed")
async def _() -> Found:
    spellings: dict[str, Callable[[str], str]] = {
        "an example's": lambda _: "b5d4e8d6-0000-4000-a000-000000000000",
        "an empty": lambda _: "",
        "an upper-case": str.upper,
        "a quoted": '"{}"'.format,
    }
    wrong: Found = []

    def reply(spell: Callable[[str], str], request: str) -> bytes:
        return echo(spell(id_in(request)))

    for name, spell in spellings.items():
        async with attacked(partial(reply, spell)) as (server, client):
            for _ in range(3):
                await client.get_status(*PLACE)
            wrong += [f"{name} id: {len(server.heads)} requests for 3 polls"] if len(server.heads) != 3 else []
    return wrong


@attack("a stray answer from a server that echoes ids is refused, on connections of our own and of a lent session")
async def _() -> Found:
    wrong: Found = []

    def reply(request: str) -> bytes:
        number.append(id_in(request))
        strays = {
            2: http_answer(body='{"status":"PRODUCED"}'),
            3: echo(number[0], status="PRODUCED"),
            5: echo("an example", status="PRODUCED"),
        }
        return strays.get(len(number)) or echo(number[-1])

    for name in ("own", "lent"):
        number: list[str] = []
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession()) if name == "lent" else None
            _, client = await stack.enter_async_context(attacked(reply, session=session))
            statuses = [str((await client.get_status(*PLACE)).status) for _ in range(3)]
            wrong += [f"{name} session: {statuses} by {len(number)} requests"] if "PRODUCED" in statuses else []
    return wrong


@attack("a 429 that carries a foreign id keeps its Retry-After")
async def _() -> Found:
    refusals = iter([b"", echo("another", 429, Retry_After="3000")])
    async with attacked(lambda request: next(refusals) or echo(id_in(request))) as (_, client):
        await client.get_status(*PLACE)
        error = await error_of(client.get_status(*PLACE))
        return [] if isinstance(error, RateLimited) and error.retry_after == 3000 else [f"it is {error!r}"]
