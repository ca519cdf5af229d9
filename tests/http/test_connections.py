"""Connections: dead ones that a pool keeps, and those of plain http that would leave this machine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from cardprod import CardprodError, Client, OAuthToken, TransportError, UsageError
from cardprod._http import session as session_module
from cardprod.telemetry import RequestStarted
from tests.attack.registry import NotTried
from tests.attack.sessions import own_address
from tests.attack.target import replace_resolver
from tests.cards import poll
from tests.clock import now
from tests.fast_path import go_without, needs_fast_path
from tests.raw_server import RawServer, http_answer
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


KINDS = [
    pytest.param("fast path", marks=needs_fast_path),
    "session",
    pytest.param("lent session", marks=needs_fast_path),
    "no fast path",
    "no fast path, lent session",
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How requests are sent."""
    kind: str = request.param
    if kind == "session":
        go_without(monkeypatch)
    elif kind.startswith("no fast path"):
        monkeypatch.setattr(session_module, "_FAST_PATH", None)
    return kind


@contextlib.asynccontextmanager
async def lent(kind: str) -> AsyncGenerator[dict[str, Any]]:
    """Lend a session, if it is of the kind."""
    if not kind.endswith("lent session"):
        yield {}
        return
    async with aiohttp.ClientSession() as session:
        yield {"session": session}


@pytest.fixture
def own_host() -> str:
    """An address of this machine that is not loopback, as another machine's would be."""
    try:
        return own_address()
    except NotTried as reason:
        pytest.skip(str(reason))


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks are of Python 3.12 and later")
async def test_no_session_after_closing(kind: str) -> None:
    """An observer that closes the client in the first steps of an eager task leaves no session open."""
    loop = asyncio.get_running_loop()
    eager: Any = getattr(asyncio, "eager_task_factory", None)
    loop.set_task_factory(eager)
    closing: list[asyncio.Task[None]] = []

    def close(event: object) -> None:
        if isinstance(event, RequestStarted):
            closing.append(loop.create_task(client.close()))

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer())

    async with RawServer(answer) as server, lent(kind) as options:
        client = Client("token", base_url=server.base_url, **options)
        await poll(client)
        client.on_event = close
        with pytest.raises(UsageError, match="closed"):
            await poll(client)
        await asyncio.gather(*closing)
        assert len(server.heads) == 1
    gc.collect()  # which warns of an open session


# --- A dead pool ---


class Firewall:
    """A server before which a firewall forgets all connections at a moment, and lets new ones pass."""

    def __init__(self) -> None:
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._known: set[asyncio.StreamWriter] = set()
        self.server = RawServer(self._answer)

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        self._known.add(writer)
        if writer not in self._forgotten:
            await asyncio.sleep(0.1)
            is_token = self.server.heads[-1].startswith("POST")
            body = {"access_token": f"access-{len(self.server.heads)}", "expires_in": 40_000}
            writer.write(http_answer(body=json.dumps(body)) if is_token else http_answer())

    def forget(self) -> None:
        """Let all connections that there are be silent from now on."""
        self._forgotten |= self._known


@pytest.mark.parametrize("many", [1, 20])
async def test_dead_pool(kind: str, many: int) -> None:
    """Where all kept connections are silent and new ones work, an answer comes within `request_timeout` and a second.

    So do further answers, at once; and once more when the connections die again later.
    """
    firewall = Firewall()
    async with (
        firewall.server as server,
        lent(kind) as options,
        Client("token", base_url=server.base_url, request_timeout=5, **options) as client,
    ):
        for _ in range(2):
            await asyncio.sleep(20)  # a pool keeps connections for 15 seconds
            await asyncio.gather(*(poll(client) for _ in range(20)))
            firewall.forget()
            began = now()
            await asyncio.gather(*(poll(client) for _ in range(many)))
            assert 5 < now() - began < 6
            began = now()
            await asyncio.gather(*(poll(client) for _ in range(20)))
            assert now() - began < 1


@needs_fast_path
async def test_dead_pool_of_other_hosts() -> None:
    """Of a lent session only the connections to the host that failed are dropped."""
    firewall, other = Firewall(), Firewall()
    async with firewall.server as server, other.server as elsewhere, lent("lent session") as options:
        session: aiohttp.ClientSession = options["session"]
        async with Client("token", base_url=server.base_url, request_timeout=5, **options) as client:
            await poll(client)
            async with session.get(elsewhere.base_url):
                pass
            firewall.forget()
            await poll(client)
            assert elsewhere.connections == 1


@needs_fast_path
async def test_dead_pool_of_a_refresh() -> None:
    """A refresh by a lent session does not wait for its dead connections one after the other either."""
    firewall = Firewall()
    async with firewall.server as server, lent("lent session") as options:
        token = OAuthToken("id", "secret", "refresh", base_url=server.base_url, request_timeout=5, **options)
        async with Client(token, base_url=server.base_url, request_timeout=15, **options) as client:
            await asyncio.gather(*(poll(client) for _ in range(20)))
            firewall.forget()
            token.invalidate(token.access_token or "")
            await asyncio.sleep(31)  # the pool forgets its connections later, and refreshes may follow refreshes again
            await asyncio.gather(*(poll(client) for _ in range(20)))
            firewall.forget()
            token.invalidate(token.access_token or "")
            began = now()
            await token()
            assert now() - began < 7


# --- Plain http stays on this machine ---


def name_of(server: RawServer) -> str:
    return f"http://localhost:{server.base_url.rpartition(':')[2]}"


async def answer(writer: asyncio.StreamWriter) -> None:
    """Answer anything."""
    writer.write(http_answer(body='{"status":"READY","access_token":"access"}'))


async def test_localhost_elsewhere(kind: str, own_host: str) -> None:
    """Plain http to a `localhost` that is another machine sends nothing, of a request or of a refresh."""
    async with RawServer(answer, host=own_host) as server, lent(kind) as options:
        host = server.base_url.split("/")[2].partition(":")[0]

        async def send_poll() -> None:
            async with Client("token", base_url=name_of(server), request_timeout=2, **options) as client:
                await poll(client)

        async def send_refresh() -> None:
            await OAuthToken("id", "secret", "refresh", base_url=name_of(server), request_timeout=2, **options)()

        with replace_resolver([host]), Table() as table:
            for send in (send_poll, send_refresh):
                with table.row(send.__name__):
                    with pytest.raises(CardprodError) as caught:
                        await send()
                    if kind == "no fast path, lent session":
                        assert isinstance(caught.value, UsageError)
                        assert "use an address" in str(caught.value)
                    else:
                        assert isinstance(caught.value, TransportError)
                        assert host in str(caught.value)
                        assert "is not this machine" in str(caught.value)
        assert server.heads == []


async def test_localhost_here(kind: str) -> None:
    """Plain http to a `localhost` that is this machine works, as does an address of it."""
    async with RawServer(answer) as server, lent(kind) as options:
        names = [server.base_url] if kind == "no fast path, lent session" else [server.base_url, name_of(server)]
        with replace_resolver(["127.0.0.1"]), Table() as table:
            for base_url in names:
                with table.row(base_url):
                    token = OAuthToken("id", "secret", "refresh", base_url=base_url, **options)
                    async with Client(token, base_url=base_url, **options) as client:
                        assert (await poll(client)).status == "READY"


async def test_localhost_is_both(kind: str, own_host: str) -> None:
    """Of a `localhost` that is this machine and another only this machine gets a request."""
    if kind == "no fast path, lent session":
        return
    async with RawServer(answer, host=own_host) as elsewhere:
        port = int(elsewhere.base_url.rpartition(":")[2])
        host = elsewhere.base_url.split("/")[2].partition(":")[0]
        async with await asyncio.start_server(_refuse, "127.0.0.1", port), lent(kind) as options:
            with replace_resolver([host, "127.0.0.1"]):
                async with Client("token", base_url=name_of(elsewhere), request_timeout=2, **options) as client:
                    with pytest.raises(TransportError):
                        await poll(client)
            assert elsewhere.heads == []


async def _refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@needs_fast_path
async def test_proxy_of_a_lent_session(own_host: str) -> None:
    """A lent session's proxy on another machine gets no plain http that is meant for this one."""
    async with RawServer(answer) as server, RawServer(answer, host=own_host) as proxy:
        async with (
            aiohttp.ClientSession(proxy=proxy.base_url) as session,
            Client("token", base_url=server.base_url, session=session, attempts=1) as client,
        ):
            with pytest.raises(TransportError, match="is not this machine"):
                await poll(client)
        assert proxy.heads == server.heads == []


async def test_plain_http_that_is_allowed(kind: str, own_host: str) -> None:
    """`allow_plain_http` lets requests go to other machines."""
    async with RawServer(answer, host=own_host) as server, lent(kind) as options:
        settings: dict[str, Any] = {"base_url": server.base_url, "allow_plain_http": True, **options}
        async with Client(OAuthToken("id", "secret", "refresh", **settings), **settings) as client:
            assert (await poll(client)).status == "READY"


@needs_fast_path
async def test_middlewares_of_a_lent_session() -> None:
    """A lent session's own middlewares are used as before."""
    seen: list[str] = []

    async def note(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        seen.append(request.method)
        return await send(request)

    async with (
        RawServer(answer) as server,
        aiohttp.ClientSession(middlewares=[note]) as session,
        Client("token", base_url=server.base_url, session=session) as client,
    ):
        await poll(client)
    assert seen == ["GET"]
