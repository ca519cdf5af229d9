"""Attacks by way of sessions, proxies and names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from typing import Any
from unittest import mock

import aiohttp

from cardprod import CardprodError, Client, UsageError
from tests.attack.leaks import leaks
from tests.attack.registry import Found, NotTried, attack
from tests.attack.target import PLACE, TOKEN, always, attacked, error_of, replace_resolver
from tests.raw_server import RawServer, http_answer


@attack("queueing in the small pool of a lent session is no timeout")
async def _() -> Found:
    connector = aiohttp.TCPConnector(limit=2)
    settings: dict[str, Any] = {"request_timeout": 2, "attempts": 1}
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        attacked(always(http_answer()), session=session, delay=0.5, **settings) as (_, client),
    ):
        outcome = await asyncio.gather(*(client.get_status(*PLACE) for _ in range(10)), return_exceptions=True)
        return sorted({repr(one) for one in outcome if isinstance(one, BaseException)})


@attack("a lent session that takes credentials from a netrc file is refused in words that name them")
async def _() -> Found:
    with tempfile.NamedTemporaryFile("w", suffix="netrc") as netrc, mock.patch.dict(os.environ, NETRC=netrc.name):
        netrc.write("machine 127.0.0.1 login somebody password something")
        netrc.flush()
        async with (
            aiohttp.ClientSession(trust_env=True) as session,
            attacked(always(http_answer()), session=session) as (_, client),
        ):
            error = await error_of(client.get_status(*PLACE))
    return [] if isinstance(error, UsageError) and "credentials of its own" in str(error) else [repr(error)]


@attack("HTTPS_PROXY, HTTP_PROXY and NO_PROXY are honoured by a client's own session")
async def _() -> Found:
    settings: dict[str, Any] = {"allow_plain_http": True, "attempts": 1, "request_timeout": 2}
    wrong: Found = []
    for scheme, begin in (("http", "GET http://kiosk.invalid/"), ("https", "CONNECT kiosk.invalid:443 ")):
        for excepted in ("elsewhere.invalid", "kiosk.invalid"):
            async with attacked(always(http_answer(503))) as (server, _client):
                environment = {f"{scheme.upper()}_PROXY": server.base_url, "NO_PROXY": excepted}
                with mock.patch.dict(os.environ, environment), replace_resolver([]):
                    async with Client(TOKEN, base_url=f"{scheme}://kiosk.invalid", **settings) as client:
                        await error_of(client.get_status(*PLACE))
                is_used = any(head.startswith(begin) for head in server.heads)
                must_be = excepted != "kiosk.invalid"
                wrong += [] if is_used is must_be else [f"{environment}: requests {server.heads}"]
    return wrong


def own_address() -> str:
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses a route
        except OSError:
            raise NotTried("this machine has no address but loopback") from None
        return str(probe.getsockname()[0])


@attack("http://localhost is refused where the name resolves to what is not loopback")
async def _() -> Found:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer())

    async with RawServer(answer, host=own_address()) as server:
        port = server.base_url.rpartition(":")[2]
        with replace_resolver([server.base_url.split("/")[2].partition(":")[0]]):
            async with Client(TOKEN, base_url=f"http://localhost:{port}", attempts=1, request_timeout=2) as client:
                with contextlib.suppress(CardprodError):
                    await client.get_status(*PLACE)
        return leaks((f"a request to {server.base_url}", head) for head in server.heads)


@attack("a proxy that refuses, or is down, is named as that, and a 4xx of it is not retried")
async def _() -> Found:
    wrong: Found = []
    for http_status, requests in ((403, 1), (407, 1), (502, 2)):
        async with attacked(always(http_answer(http_status))) as (proxy, _client):
            settings: dict[str, Any] = {"base_url": "https://kiosk.invalid", "attempts": 2}
            for url, words in ((proxy.base_url, f"it answered {http_status}"), ("http://127.0.0.1:9", "be reached")):
                async with Client(TOKEN, proxy=url, **settings) as client:
                    error = await error_of(client.get_status(*PLACE))
                wrong += (
                    [] if f"the proxy {'refused' if url == proxy.base_url else 'could'}" in str(error) else [str(error)]
                )
                wrong += [] if words in str(error) else [str(error)]
        wrong += [] if len(proxy.heads) == requests else [f"{http_status}: {len(proxy.heads)} requests"]
    return wrong


@attack("a proxy that is set is used for loopback too, and one that cannot be is refused")
async def _() -> Found:
    async with attacked(always(http_answer())) as (proxy, _client):
        async with Client(TOKEN, base_url="http://127.0.0.1:9", proxy=proxy.base_url, attempts=1) as client:
            await client.get_status(*PLACE)
        wrong = [] if len(proxy.heads) == 1 else ["it was not used"]
    try:
        Client(TOKEN, base_url="http://127.0.0.1:9", proxy="nonsense")
    except UsageError:
        return wrong
    return [*wrong, "nonsense was accepted"]
