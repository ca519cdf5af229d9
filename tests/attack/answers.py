"""Attacks with answers: whose they are."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Final

import aiohttp

from cardprod import Client, ProductionStatus, RateLimited
from tests.attack.registry import Found, attack
from tests.attack.target import LIMIT, PLACE, TOKEN, always, attacked, echo, error_of, id_in
from tests.raw_server import RawServer, http_answer
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


@attack("an answer that came before its request is not believed, on connections of our own and of a lent session")
async def _() -> Found:
    async def status_after_stray(session: aiohttp.ClientSession | None, delay: float) -> ProductionStatus:
        async def answer(writer: asyncio.StreamWriter) -> None:
            writer.write(http_answer())
            if len(server.heads) == 1:
                stray = http_answer(body='{"status":"PRODUCED"}')
                asyncio.get_running_loop().call_later(delay, writer.write, stray)

        async with RawServer(answer) as server, Client(TOKEN, base_url=server.base_url, session=session) as client:
            await client.get_status(*PLACE)
            await asyncio.sleep(1)
            return await client.get_status(*PLACE)

    async with aiohttp.ClientSession() as session:
        rows = list(product((None, session), (0.0, 0.05)))
        statuses = [await status_after_stray(*row) for row in rows]
    return [f"{row}: {status}" for row, status in zip(rows, statuses, strict=True) if status.is_final]


@attack("a connection that is an answer behind fails none of 300 cards")
async def _() -> Found:
    ids: list[str] = []

    def reply(request: str) -> bytes:
        ids.append(id_in(request))
        return (echo(ids[0]) if len(ids) == 10 else b"") + echo(ids[-1])

    async with attacked(reply, max_concurrency=1) as (_, client):
        outcome = await client.get_statuses([(1, f"card-{number}") for number in range(300)])
    failed = [one for one in outcome.values() if isinstance(one, Exception)]
    return [f"{len(failed)} failed: {failed[0]}"] if failed else []


INSTEAD: Final[dict[str, tuple[bytes, str]]] = {
    "a header over 8 KiB": (http_answer(X_Powered_By="x" * 9000), "over 8 KiB"),
    "nginx without a certificate": (http_answer(400, "<p>No required SSL certificate was sent"), "load one with ssl="),
    "nginx with too long headers": (http_answer(400, "<p>Request Header Or Cookie Too Large"), "check the token"),
    "a login page": (http_answer(200, "<html>Welcome"), "a network's login"),
    "a login page's redirect": (http_answer(302), "the network wants a login"),
    "a 511": (http_answer(511), "the network wants a login"),
    "an unrequested coding": (http_answer(200, "\x1f\x9d", Content_Encoding="compress"), "compressed as 'compress'"),
    "another limit's 429": (http_answer(429, X_Rate_Limited_By="wise-x", Retry_After="61"), "limited by wise-x"),
    "another protocol": (b"SSH-2.0-OpenSSH_9\r\n", "is not HTTP"),
}


@attack("what came instead of an answer is named as what it is")
async def _() -> Found:
    wrong: Found = []
    for name, (content, words) in INSTEAD.items():
        async with attacked(always(content), attempts=1) as (_, client):
            error = await error_of(client.get_status(*PLACE))
        wrong += [] if words in str(error) else [f"{name}: {error}"]
    return wrong
