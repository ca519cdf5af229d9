"""What else a person could use to request one status, each as its own documentation says. Nothing is measured here.

A peer takes the server and how many requests will be in flight, and gives an async callable that makes one.
The cards are many, so that no client profits from requesting one URL again and again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import Any, Final, TypeAlias

import aiohttp

import cardprod
from benchmarks.generated import generated
from benchmarks.server import Server

GetStatus: TypeAlias = Callable[[], Awaitable[object]]
Peer: TypeAlias = Callable[[Server, int], AbstractAsyncContextManager[GetStatus]]

PROFILE: Final = 123456
_TOKENS: Final = [f"{number:08x}-1e14-4464-a1ce-dcea7dc3de52" for number in range(10_000)]


def _next_token() -> Callable[[], str]:
    return itertools.cycle(_TOKENS).__next__


def path_of(card_token: str) -> str:
    """Give the path of a card's production status."""
    return f"/v3/spend/profiles/{PROFILE}/cards/{card_token}/production"


@asynccontextmanager
async def cardprod_client(server: Server, _: int) -> AsyncGenerator[GetStatus, None]:
    """This package as it is. Only its rate limit is off, because no other peer has one."""
    token = _next_token()
    async with cardprod.Client("t", base_url=server.base_url, rate_limit=None, ssl=server.trust) as client:
        yield lambda: client.get_status(PROFILE, token())


@asynccontextmanager
async def aiohttp_default(server: Server, _: int) -> AsyncGenerator[GetStatus, None]:
    """What a person would write with aiohttp and the session's default settings."""
    base_url, token, context = server.base_url, _next_token(), server.trust or True
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer t"}) as session:

        async def get_status() -> object:
            async with session.get(base_url + path_of(token()), ssl=context) as response:
                response.raise_for_status()
                return await response.json()

        yield get_status


@asynccontextmanager
async def aiohttp_tuned(server: Server, _: int) -> AsyncGenerator[GetStatus, None]:
    """The same with each documented setting that makes it faster: no cookies, limits, time limits or redirects."""
    base_url, token, loads = server.base_url, _next_token(), json.loads
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=server.trust or True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),
        headers={"Authorization": "Bearer t", "Accept": "application/json"},
    ) as session:

        async def get_status() -> object:
            async with session.get(base_url + path_of(token()), allow_redirects=False) as response:
                if response.status != 200:
                    response.raise_for_status()
                return loads(await response.read())

        yield get_status


@asynccontextmanager
async def azure_core(server: Server, _: int) -> AsyncGenerator[GetStatus, None]:
    """`AsyncPipelineClient` with its standard policies and its aiohttp transport."""
    from azure.core.rest import HttpRequest  # noqa: PLC0415

    token = _next_token()
    async with azure_client(server.port) as client:

        async def get_status() -> object:
            response = await client.send_request(HttpRequest("GET", client.format_url(path_of(token()))))
            response.raise_for_status()
            return response.json()

        yield get_status


def azure_client(port: int) -> Any:  # noqa: ANN401 - its generics are the transport's affair
    """Make azure-core's client as its guide for authors of client libraries does."""
    from azure.core import AsyncPipelineClient, configuration  # noqa: PLC0415
    from azure.core.pipeline import policies  # noqa: PLC0415

    untyped: Any = configuration
    config = untyped.Configuration()
    config.headers_policy = policies.HeadersPolicy({"Authorization": "Bearer t", "Accept": "application/json"})
    config.user_agent_policy = policies.UserAgentPolicy("benchmark/1")
    config.retry_policy = policies.AsyncRetryPolicy()
    config.redirect_policy = policies.AsyncRedirectPolicy()
    config.proxy_policy = policies.ProxyPolicy()
    config.logging_policy = policies.NetworkTraceLoggingPolicy()
    return AsyncPipelineClient(f"http://127.0.0.1:{port}", config=config)


@asynccontextmanager
async def generated_client(server: Server, in_flight: int) -> AsyncGenerator[GetStatus, None]:
    """What `openapi-python-client` generates, on httpx, with as many connections as requests."""
    import httpx  # noqa: PLC0415

    limits = httpx.Limits(max_connections=max(in_flight, 100), max_keepalive_connections=max(in_flight, 20))
    token = _next_token()
    with generated() as (client_class, call):
        async with client_class(
            base_url=server.base_url,
            token="t",  # noqa: S106
            timeout=httpx.Timeout(60),
            httpx_args={"limits": limits},
        ) as client:
            yield lambda: call.asyncio(PROFILE, token(), client=client)


@asynccontextmanager
async def wise_sdk(server: Server, in_flight: int) -> AsyncGenerator[GetStatus, None]:
    """The other asyncio client for this call. It insists on https, so its transport goes to http underneath."""
    import httpx  # noqa: PLC0415
    from wise_sdk import AsyncWiseClient  # noqa: PLC0415
    from wise_sdk.generated.environment import WiseClientEnvironment  # noqa: PLC0415

    class ToLoopback(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            request.url = request.url.copy_with(scheme="http", port=server.port)
            return await super().handle_async_request(request)

    limits = httpx.Limits(max_connections=max(in_flight, 100), max_keepalive_connections=max(in_flight, 20))
    environment = WiseClientEnvironment(api="https://127.0.0.1/v3", cards="https://127.0.0.1")
    token = _next_token()
    async with httpx.AsyncClient(transport=ToLoopback(limits=limits), timeout=60) as http:
        client = AsyncWiseClient(access_token="t", environment=environment, httpx_client=http)  # noqa: S106
        yield lambda: client.cards.kiosk.get_production(profile_id=PROFILE, card_token=token())


class _RawGet(asyncio.Protocol):
    """A keep-alive connection that knows only to write a GET and to find the end of the answer."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport  # not an `asyncio.Transport` on every loop

    def get(self, request: bytes) -> asyncio.Future[bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length and self._answer is not None:
            self._received = b""
            self._answer.set_result(body)


@asynccontextmanager
async def raw_protocol(server: Server, in_flight: int) -> AsyncGenerator[GetStatus, None]:
    """The least possible: an `asyncio.Protocol` that checks nothing, and `json.loads`."""
    token = _next_token()
    rest = f" HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer t\r\n\r\n"
    loop = asyncio.get_running_loop()
    idle = [
        (await loop.create_connection(_RawGet, "127.0.0.1", server.port, ssl=server.trust))[1] for _ in range(in_flight)
    ]

    async def get_status() -> object:
        connection = idle.pop()
        body = await connection.get(f"GET {path_of(token())}{rest}".encode())
        idle.append(connection)
        return json.loads(body)

    yield get_status
    for connection in idle:
        connection.transport.close()


PEERS: Final[dict[str, Peer]] = {
    "cardprod": cardprod_client,
    "aiohttp, default session": aiohttp_default,
    "aiohttp, tuned": aiohttp_tuned,
    "azure-core": azure_core,
    "openapi-python-client": generated_client,
    "wise-sdk": wise_sdk,
    "raw asyncio.Protocol": raw_protocol,
}

WITH_TLS: Final = ("cardprod", "aiohttp, default session", "aiohttp, tuned", "raw asyncio.Protocol")
"""Those that are measured over TLS too."""


def _loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if find_spec("uvloop"):
        import uvloop  # noqa: PLC0415

        factories["uvloop"] = uvloop.new_event_loop
    if find_spec("aiofastnet"):
        import aiofastnet  # noqa: PLC0415

        factories["aiofastnet"] = aiofastnet.loop_factory()
    return factories


LOOPS: Final = _loop_factories()
"""The event loops there are: asyncio's, uvloop's, and asyncio's with aiofastnet's transports."""
