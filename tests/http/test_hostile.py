"""A hostile server and a hostile network: every way has its named outcome, in bounded time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import aiohttp
import pytest

import cardprod
from cardprod import Client
from tests.clock import now
from tests.fast_path import IS_THERE, go_without, needs_fast_path
from tests.http.hostile import HONEST, WAYS, HostileServer
from tests.leftovers import assert_idle, assert_nothing_left
from tests.raw_server import RawServer, http_answer
from tests.waiting import LONG_LIMIT, LONG_TIMEOUT, run_program

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PROFILE = 123456
ATTEMPTS = 3
TIMEOUT = 10.0
LONGEST = ATTEMPTS * TIMEOUT + (ATTEMPTS - 1) * 1.0
"""Seconds: every attempt takes its whole time, and before each but the first there is at most one of waiting."""

UNASKED = {"unasked-later", "unasked-endlessly"}
ELSEWHERE = {"redirect", "set-cookie"}
"""What a session of aiohttp's would do by itself: these are always tried in each way to send."""

Way = Literal["direct", "own session", "lent session"]
"""How requests go: on connections of a client's own pool, through its own session, or through one that was lent."""

WAYS_TO_SEND: tuple[Way, ...] = get_args(Way)


@contextlib.asynccontextmanager
async def client_of(base_url: str, *, way: Way = "direct", **settings: Any) -> AsyncGenerator[Client]:
    """Make a client whose requests go this way."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession()) if way == "lent session" else None
        if way == "own session":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            go_without(patch)
        client = Client(
            "token", base_url=base_url, session=session, request_timeout=TIMEOUT, attempts=ATTEMPTS, **settings
        )
        yield await stack.enter_async_context(client)


async def assert_right(client: Client, card: str) -> None:
    """Check that a poll returns this very card's status."""
    status = await client.get_status(PROFILE, card)
    assert (status.status, status.kiosk_id, status.description) == ("READY", "WIS00001", card)


async def assert_fails(client: Client, card: str, error: type[cardprod.CardprodError], word: str) -> None:
    """Check that a poll fails in time, with this very error, which names the card and what happened."""
    began = now()
    with pytest.raises(error, match=word) as caught:
        await client.get_status(PROFILE, card)
    assert type(caught.value) is error
    assert caught.value.card == cardprod.Card(PROFILE, card)
    assert now() - began <= LONGEST


@pytest.mark.parametrize("name", WAYS)
async def test_every_way_has_its_outcome(name: str, full_size: bool) -> None:
    """Whichever way a server misbehaves, a poll ends in time as listed, leaves nothing, and the next one is right."""
    for way in WAYS_TO_SEND if full_size or name in ELSEWHERE else WAYS_TO_SEND[:1]:
        # How a lent session keeps its connections is the lender's, and aiohttp's; README says what that means. Without
        # the fast path our own keeps them so too.
        if not (name in UNASKED and (way == "lent session" or not IS_THERE)):
            await assert_outcome(name, way, 0.1 if full_size else 0.5)


async def assert_outcome(name: str, way: Way, pause: float) -> None:
    outcome = WAYS[name]
    async with (
        HostileServer() as elsewhere,
        HostileServer(pause=pause) as server,
        client_of(server.base_url, way=way) as client,
    ):
        server.elsewhere = elsewhere.base_url
        if outcome.error is None:
            began = now()
            await assert_right(client, name)
            assert now() - began <= TIMEOUT
        else:
            await assert_fails(client, name, outcome.error, outcome.word)
        assert_idle(client)
        await asyncio.sleep(1)
        await assert_right(client, HONEST)
        assert_idle(client)
        assert elsewhere.heads == []
        assert not [head for head in server.heads if "\r\ncookie:" in head.lower()]
    await assert_nothing_left()


# --- The network ---


async def test_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without an address is a `TransportError` that says so, and with an address later the client is right."""

    async def not_found(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", not_found)
        async with client_of("https://kiosk.invalid") as client:
            await assert_fails(client, HONEST, cardprod.TransportError, "name was not found")
            assert_idle(client)
    await assert_nothing_left()


@pytest.mark.parametrize("way", WAYS_TO_SEND)
async def test_refused_connection(way: Way) -> None:
    """A port without a listener is a `TransportError` that says so, and once there is one the client is right."""
    async with HostileServer() as server:
        await server.stop()
        async with client_of(server.base_url, way=way) as client:
            await assert_fails(client, HONEST, cardprod.TransportError, "no connection could be made")
            assert_idle(client)
            await server.start()
            await assert_right(client, HONEST)
    await assert_nothing_left()


async def test_ipv6_works() -> None:
    """A server on IPv6 loopback is polled like any other."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with HostileServer(host="::1") as server, client_of(server.base_url) as client:
        await assert_right(client, HONEST)
        await assert_fails(client, "reset-in-headers", cardprod.TransportError, "broke")
        assert_idle(client)
    await assert_nothing_left()


# --- Memory ---


@pytest.mark.timeout(LONG_TIMEOUT)
def test_memory_is_bounded(full_size: bool) -> None:
    """Whatever a server sends to a client, with a session of its own or a lent one, it grows by less than 64 MiB."""
    for session in ("own", "borrowed") if full_size else ("own",):
        assert_memory_is_bounded(session, is_full=full_size)


def assert_memory_is_bounded(session: str, *, is_full: bool) -> None:
    root = Path(__file__).parents[2]
    is_guarded = session == "own" and IS_THERE
    worst = ["gzip-bomb", "gibibyte", "endless-headers", *(["unasked-endlessly"] if is_guarded else [])]
    ways = [] if is_full else worst  # all of them
    ran = run_program(sys.executable, "-m", "tests.http.peak", session, *ways, cwd=root, limit=LONG_LIMIT)
    grown: dict[str, int] = json.loads(ran.out)
    assert {*worst} <= grown.keys()
    if not is_guarded:
        grown.pop("unasked-endlessly", None)
    assert {way: size for way, size in grown.items() if size > 64 * 2**20} == {}


# --- aiohttp's connections ---


def _id_in(head: str) -> str:
    (line,) = (line for line in head.split("\r\n") if line.startswith("X-External-Correlation-Id: "))
    return line.partition(": ")[2]


@pytest.mark.parametrize("way", WAYS_TO_SEND)
async def test_stray_answer_from_a_server_that_echoes(way: Way) -> None:
    """From a server that echoes correlation ids, a 200 without the request's own is refused, and the poll retried."""
    strays: list[Any] = [{}, {"X_External_Correlation_Id": "an example"}]

    async def answer(writer: asyncio.StreamWriter) -> None:
        number = len(server.heads)
        if number > 1 and strays:
            writer.write(http_answer(body='{"status":"PRODUCED"}', **strays.pop()))
        else:
            writer.write(http_answer(X_External_Correlation_Id=_id_in(server.heads[-1])))

    async with RawServer(answer) as server, client_of(server.base_url, way=way) as client:
        for _ in range(2):
            assert (await client.get_status(PROFILE, HONEST)).status == "READY"
        assert len(server.heads) == 4


@needs_fast_path
async def test_connection_of_a_stray_answer_is_dropped() -> None:
    """The connection over which an answer to another request came is not used again."""
    ports: list[int] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        ports.append(writer.get_extra_info("peername")[1])
        echoed = _id_in(server.heads[-1])
        writer.write(http_answer(X_External_Correlation_Id="an example" if len(ports) == 2 else echoed))

    async with RawServer(answer) as server, client_of(server.base_url) as client:
        for _ in range(2):
            await client.get_status(PROFILE, HONEST)
    assert ports[0] == ports[1] != ports[2]


async def test_foreign_id_from_a_server_that_never_echoed() -> None:
    """A mock or a recording, whose answers carry an id of their own, is believed."""
    async with (
        RawServer.saying(http_answer(X_External_Correlation_Id="b5d4e8d6-0000-4000-a000-000000000000")) as server,
        client_of(server.base_url) as client,
    ):
        for _ in range(3):
            assert (await client.get_status(PROFILE, HONEST)).status == "READY"
        assert len(server.heads) == 3


@needs_fast_path
@pytest.mark.parametrize("way", WAYS_TO_SEND)
@pytest.mark.parametrize("delay", [0.0, 0.1])
async def test_answer_before_its_request(way: Way, delay: float) -> None:
    """An answer that came before its request, with the one before it or later, is taken for none, on any connection."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer())
        if len(server.heads) == 1:
            asyncio.get_running_loop().call_later(delay, writer.write, http_answer(body='{"status":"PRODUCED"}'))

    async with RawServer(answer) as server, client_of(server.base_url, way=way) as client:
        for _ in range(2):
            assert (await client.get_status(PROFILE, HONEST)).status == "READY"
            await asyncio.sleep(1)
        assert len(server.heads) == 2


async def test_answers_that_are_no_json_are_not_kept() -> None:
    """The errors of 30 answers of nearly 1 MiB each, which are no JSON or no UTF-8, keep a hundredth of them."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        body = b"x" * (2**20 - 1) + (b"\xff" if len(server.heads) % 2 else b"x")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with RawServer(answer) as server, client_of(server.base_url, max_concurrency=2) as client:
        await client.get_statuses([(PROFILE, "first")])
        tracemalloc.start()
        try:
            outcome = await client.get_statuses([(PROFILE, f"card-{number}") for number in range(30)])
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert {type(error) for error in outcome.values()} == {cardprod.BadReply}
    assert kept < 30 * 2**20 / 100 + 2**20


@needs_fast_path
@pytest.mark.parametrize("way", ["direct", "own session"])
async def test_flood_within_an_answer(way: Way) -> None:
    """A connection that is closed for a flood while its answer is under way fails like a broken one."""
    async with (
        RawServer.saying(
            b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1500 + b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"
        ) as server,
        client_of(server.base_url, way=way) as client,
    ):
        await assert_fails(client, HONEST, cardprod.TransportError, "cut short")
        assert len(server.heads) == ATTEMPTS
        assert_idle(client)
    await assert_nothing_left()


@needs_fast_path
@pytest.mark.parametrize("name", ["_PROTOCOL", "_PROTOCOL_FACTORY"])
async def test_polls_without_the_guard_too(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without the names of aiohttp that the guard against floods uses, polls go on without the guard."""
    monkeypatch.setattr(f"cardprod._http.fast_path.{name}", "_gone_one_day")
    async with HostileServer() as server, client_of(server.base_url) as client:
        await assert_right(client, HONEST)
        await assert_right(client, HONEST)
