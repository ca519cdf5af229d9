"""How requests reach the server: directly on aiohttp's connections or through a session, alike to the server."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import pytest
from aiohttp.connector import Connection

import cardprod
from cardprod import Client
from cardprod._http.session import Channel
from cardprod._protocol.requests import Endpoint
from tests.cards import CARD
from tests.fast_path import needs_fast_path
from tests.leftovers import assert_idle, assert_nothing_left
from tests.raw_server import RawServer, http_answer
from tests.table import Table

if TYPE_CHECKING:
    from cardprod.simulator import Simulator


pytestmark = needs_fast_path


async def answer_ready(writer: asyncio.StreamWriter) -> None:
    """Answer that the card is READY."""
    writer.write(http_answer())


async def status_of(client: Client) -> str:
    """Poll the card once."""
    return (await client.get_status(CARD.profile_id, CARD.card_token)).status


@pytest.fixture
def by_session(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs of the requests that went through a session."""
    urls: list[str] = []
    send = Channel.send

    def record(channel: Channel, method: Literal["GET"], request: Any, **settings: Any) -> Any:
        urls.append(str(request[0]))
        return send(channel, method, request, **settings)

    monkeypatch.setattr(Channel, "send", record)
    return urls


# --- Which way ---


async def test_own_requests_go_directly(kiosk: Simulator, client: Client, by_session: list[str]) -> None:
    """A client with a session of its own sends its requests on that session's connections, and keeps them open."""
    kiosk.add(CARD, "never")
    assert [await status_of(client) for _ in range(3)] == ["READY"] * 3
    assert by_session == []
    assert_idle(client)


async def test_settings_of_all_sessions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is given to every session of the process, such as a proxy, applies to requests."""
    make = aiohttp.ClientSession.__init__

    async with RawServer(answer_ready) as proxy, RawServer(answer_ready) as server:

        def proxied(session: aiohttp.ClientSession, **settings: Any) -> None:
            make(session, **settings, proxy=proxy.base_url)

        monkeypatch.setattr(aiohttp.ClientSession, "__init__", proxied)
        async with Client("token", base_url=server.base_url) as client:
            assert await status_of(client) == "READY"
        assert (len(proxy.heads), len(server.heads)) == (1, 0)


@pytest.mark.parametrize("name", ["request", "_request"])
async def test_scripted_replies_come_and_go(
    kiosk: Simulator, client: Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A patch of aiohttp's sessions counts for as long as it is there."""
    kiosk.add(CARD, "never")
    assert await status_of(client) == "READY"

    async def refuse(*_: object, **__: object) -> None:
        raise aiohttp.ClientConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(aiohttp.ClientSession, name, refuse)
        with pytest.raises(cardprod.TransportError):
            await status_of(client)
    assert await status_of(client) == "READY"
    assert len(kiosk.requests) == 2


# --- The same request, the same answer ---


def lines_of(head: str) -> set[str]:
    """Split a request into lines, without the id that differs each time."""
    return {line for line in head.split("\r\n") if not line.startswith("X-External-Correlation-Id: ")}


async def test_request_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server gets the same path with the same headers, whichever way a request goes."""
    with Table() as table:
        for path in ("", "/", "/a/b/", "/käse/%7e/x", "/a;b=c"):
            with table.row(path):
                async with RawServer(answer_ready) as server:
                    async with Client("token", base_url=server.base_url + path) as client:
                        assert await status_of(client) == "READY"
                    with monkeypatch.context() as patch:
                        patch.setattr("cardprod._http.fast_path._SENDER", "_gone_one_day")
                        async with Client("token", base_url=server.base_url + path) as client:
                            assert await status_of(client) == "READY"
                direct, through_session = server.heads
                assert lines_of(direct) == lines_of(through_session)
                assert direct.count("\r\n") == through_session.count("\r\n")


async def test_host_is_the_same() -> None:
    """The `Host` of a request is the one that aiohttp gives it, for any host and port."""
    with Table() as table:
        for base_url in ("https://h", "https://H:443/", "http://[::1]:8080", "https://bücher.example"):
            with table.row(base_url):
                channel: Any = Channel(Endpoint(base_url), None, None, None)
                channel._open()
                assert f"\r\nHost: {channel._fast._to.headers['Host']}\r\n" in channel._fast._head
                await channel.close()


async def test_connection_is_kept() -> None:
    """Successive requests share a connection, and one that the server closes is replaced."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer(Connection="close" if len(server.heads) == 2 else "keep-alive"))

    async with RawServer(answer) as server, Client("token", base_url=server.base_url) as client:
        for _ in range(4):
            assert await status_of(client) == "READY"
            assert server.connections == 1
        assert_idle(client)
    await assert_nothing_left()


async def test_interim_answers_are_passed_over() -> None:
    """An answer after 103s is the answer."""
    async with (
        RawServer.saying(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + http_answer()) as server,
        Client("token", base_url=server.base_url) as client,
    ):
        assert await status_of(client) == "READY"
        assert_idle(client)


async def test_flood_before_the_request(
    by_session: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that sends answers before it was asked fails a poll, and is not taken for another aiohttp."""
    connect = aiohttp.TCPConnector.connect

    async def connect_slowly(*args: Any, **settings: Any) -> Connection:
        connection = await connect(*args, **settings)
        await asyncio.sleep(1)  # as long as a TLS handshake may take, with answers arriving meanwhile
        return connection

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer(500) * 1500)
        await asyncio.sleep(2)
        writer.close()

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", connect_slowly)
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Client("token", base_url=f"http://127.0.0.1:{port}", attempts=1) as client:
            for _ in range(2):
                with pytest.raises(cardprod.CardprodError):
                    await status_of(client)
                assert_idle(client)
        await asyncio.sleep(2)
    assert by_session == []
    assert caplog.records == []


# --- Another aiohttp ---


def made_otherwise(*, something_new: object) -> None:
    raise AssertionError(something_new)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cardprod._http.fast_path._SENDER", "_gone_one_day"),
        ("aiohttp.ClientRequest.DEFAULT_HEADERS", {}),
        ("aiohttp.ClientRequest", made_otherwise),
    ],
)
async def test_without_a_name(
    kiosk: Simulator, client: Client, by_session: list[str], monkeypatch: pytest.MonkeyPatch, *, name: str, value: Any
) -> None:
    """Without what the fast path uses of aiohttp, or if it is used otherwise, requests go through the session."""
    kiosk.add(CARD, "never")
    monkeypatch.setattr(name, value)
    assert await status_of(client) == "READY"
    assert len(by_session) == 1


async def test_other_connections(
    kiosk: Simulator,
    client: Client,
    by_session: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An aiohttp whose connections differ costs one attempt, and a warning says so."""
    kiosk.add(CARD, "never")
    connect = aiohttp.TCPConnector.connect

    class Otherwise(Connection):
        @property
        def protocol(self) -> Any:
            return super().protocol if by_session else object()

    async def connect_otherwise(*args: Any, **settings: Any) -> Connection:
        connection = await connect(*args, **settings)
        connection.__class__ = Otherwise
        return connection

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", connect_otherwise)
    with caplog.at_level(logging.WARNING, "cardprod"):
        assert await asyncio.gather(*(status_of(client) for _ in range(2))) == ["READY", "READY"]
    assert len(by_session) == 2
    [record] = caplog.records
    assert aiohttp.__version__ in record.getMessage()
    assert_idle(client)
