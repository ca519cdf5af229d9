"""`look`: one status call at so many in flight, beside what else a person could use, through the same server.

Rounds alternate A B C A B C, so that a noisy machine cancels out; what is reported is the median round of each. Each
round has a warm-up that does not count: wise-sdk needs some three seconds until its connections are open.
CPU is this process's own (user and system); the server is in another.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import aiohttp
import attrs

import cardprod
from benchmarks import server
from benchmarks.table import markdown

if TYPE_CHECKING:
    import argparse

_PROFILE = 123456
_TOKEN = "ca0c8154-1e14-4464-a1ce-dcea7dc3de52"  # noqa: S105 - a card's, from Wise's samples
_PATH = f"/v3/spend/profiles/{_PROFILE}/cards/{_TOKEN}/production"

Look: TypeAlias = Callable[[], Awaitable[object]]
Peer: TypeAlias = Callable[[int, int], AbstractAsyncContextManager[Look]]


@asynccontextmanager
async def cardprod_client(port: int, in_flight: int) -> AsyncGenerator[Look, None]:
    """This package. Its rate limit is off, because no other peer has one."""
    base_url = f"http://127.0.0.1:{port}"
    async with cardprod.Client("t", base_url=base_url, rate_limit=None, max_concurrency=in_flight) as client:
        yield lambda: client.get_status(_PROFILE, _TOKEN)


@asynccontextmanager
async def aiohttp_by_hand(port: int, _: int) -> AsyncGenerator[Look, None]:
    """What a person would write with aiohttp and the session's default settings."""
    url = f"http://127.0.0.1:{port}{_PATH}"
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer t"}) as session:

        async def look() -> object:
            async with session.get(url) as response:
                response.raise_for_status()
                return await response.json()

        yield look


@asynccontextmanager
async def wise_sdk(port: int, in_flight: int) -> AsyncGenerator[Look, None]:
    """The other asyncio client for this call. It insists on https, so its transport goes to http underneath."""
    import httpx  # noqa: PLC0415
    from wise_sdk import AsyncWiseClient  # noqa: PLC0415
    from wise_sdk.generated.environment import WiseClientEnvironment  # noqa: PLC0415

    class ToLoopback(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            request.url = request.url.copy_with(scheme="http", port=port)
            return await super().handle_async_request(request)

    limits = httpx.Limits(max_connections=max(in_flight, 100), max_keepalive_connections=max(in_flight, 20))
    environment = WiseClientEnvironment(api="https://127.0.0.1/v3", cards="https://127.0.0.1")
    async with httpx.AsyncClient(transport=ToLoopback(limits=limits), timeout=60) as http:
        client = AsyncWiseClient(access_token="t", environment=environment, httpx_client=http)  # noqa: S106
        yield lambda: client.cards.kiosk.get_production(profile_id=_PROFILE, card_token=_TOKEN)


class _RawGet(asyncio.Protocol):
    """A keep-alive connection that knows only to write a GET and to find the end of the answer."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP connection's transport is
        self.transport = transport

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
async def raw_protocol(port: int, in_flight: int) -> AsyncGenerator[Look, None]:
    """The floor: an `asyncio.Protocol` that checks nothing, and `json.loads`."""
    request = f"GET {_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer t\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    idle = [(await loop.create_connection(_RawGet, "127.0.0.1", port))[1] for _ in range(in_flight)]

    async def look() -> object:
        connection = idle.pop()
        body = await connection.get(request)
        idle.append(connection)
        return json.loads(body)

    yield look
    for connection in idle:
        connection.transport.close()


PEERS: dict[str, Peer] = {
    "cardprod": cardprod_client,
    "aiohttp by hand": aiohttp_by_hand,
    "wise-sdk 0.1.1": wise_sdk,
    "raw asyncio.Protocol": raw_protocol,
}


@attrs.frozen
class Round:
    """One round of one peer: looks per second and CPU microseconds per look."""

    rate: float
    cpu: float


async def _measure(look: Look, in_flight: int, seconds: float) -> Round:
    """Keep so many looks in flight for so long."""
    done = 0
    end = time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await look()
            done += 1

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
    took, used = time.perf_counter() - started, time.process_time() - cpu
    return Round(rate=done / took, cpu=used / done * 1e6)


async def _play(port: int, in_flight: int, *, rounds: int, warm_up: float, seconds: float) -> dict[str, list[Round]]:
    results: dict[str, list[Round]] = {name: [] for name in PEERS}
    for _ in range(rounds):
        for name, peer in PEERS.items():
            async with peer(port, in_flight) as look:
                await _measure(look, in_flight, warm_up)
                results[name].append(await _measure(look, in_flight, seconds))
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--in-flight", type=int, default=100, help="looks under way at once (default 100)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each peer (default 7)")
    parser.add_argument(
        "--warm-up", type=float, default=3.0, help="seconds before each round that do not count (default 3)"
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a round (default 1.5)")


def run(arguments: argparse.Namespace) -> str:
    """Measure, and give the table."""
    with server.running() as port:
        results = asyncio.run(
            _play(
                port,
                arguments.in_flight,
                rounds=arguments.rounds,
                warm_up=arguments.warm_up,
                seconds=arguments.seconds,
            )
        )
    rows: list[list[str]] = []
    for name, each in results.items():
        rates = sorted(result.rate for result in each)
        cpu = statistics.median(result.cpu for result in each)
        # Round by round, so that what slows the machine for a while slows both sides of a ratio.
        ratios = [ours.rate / theirs.rate for ours, theirs in zip(results["cardprod"], each, strict=True)]
        spread = f"{rates[0]:,.0f} to {rates[-1]:,.0f}"
        ratio = f"{statistics.median(ratios):.2f}"
        rows.append([name, f"{statistics.median(rates):,.0f}", spread, f"{cpu:.0f}", ratio])
    return markdown(["peer", "looks/s (median)", "spread", "CPU µs per look", "cardprod is … times as fast"], rows)
