"""Requests through proxies: which one, and what is said when it does not let them through."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final

import pytest

import cardprod
from cardprod import Client, OAuthToken, UsageError
from cardprod._http.proxies import proxy_for
from tests.attack.leaks import leaks, shown_by
from tests.attack.target import error_of
from tests.cards import CARD
from tests.http.test_tls import authority, server_context
from tests.raw_server import RawServer, http_answer
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

WISE: Final = "https://api.wise.com"
NAMES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxies count by scheme, but not for hosts in `NO_PROXY`, nor ever for loopback."""
    http = "http://kiosk.test"
    rows: list[tuple[dict[str, str], str, str | None]] = [
        ({}, WISE, None),
        ({"HTTPS_PROXY": "http://p:1"}, WISE, "http://p:1"),
        ({"https_proxy": "http://p:2"}, WISE, "http://p:2"),
        ({"HTTPS_PROXY": "http://p:1"}, http, None),
        ({"HTTP_PROXY": "http://p:1"}, http, "http://p:1"),
        ({"ALL_PROXY": "http://p:3"}, WISE, "http://p:3"),
        ({"ALL_PROXY": "http://p:3", "NO_PROXY": "api.wise.com"}, WISE, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".wise.com,other"}, WISE, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, WISE, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "wise-sandbox.com"}, WISE, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "notapi.wise.com, ,wise.com.evil"}, WISE, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*.wise.com"}, WISE, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": " API.wise.com:443"}, WISE, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "api.wise.com:8443"}, WISE, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "https://11.1.2.3", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "2001:db8::/32"}, "https://[2001:db8::5]", None),
        ({"HTTPS_PROXY": "p:1"}, WISE, "http://p:1"),
        ({"HTTPS_PROXY": "somebody:thing@p:1"}, WISE, "http://somebody:thing@p:1"),
        ({"HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://p:3"}, "http://127.0.0.1:8080", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://localhost", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://[::1]:99", None),
    ]
    with Table() as table:
        for variables, base_url, expected in rows:
            with table.row(str(variables), base_url), monkeypatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                found = proxy_for(base_url, None)
                assert (None if found is None else str(found)) == expected
                assert proxy_for(base_url, False) is None


def test_proxy_that_is_set() -> None:
    """A proxy that is set counts for loopback too, where the environment's does not."""
    for base_url in (WISE, "http://127.0.0.1:8080", "http://localhost"):
        assert str(proxy_for(base_url, "http://p:1")) == "http://p:1"


@pytest.mark.parametrize("proxy", ["proxy.example:3128", "socks5://proxy", "http://", "", True, 5])
def test_what_is_no_proxy(proxy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be a proxy is refused before any I/O, without showing it: it may contain a password."""
    make: Any = Client
    with pytest.raises(UsageError, match="proxy must be the URL of an http proxy, such as "):
        make("token", proxy=proxy)
    with pytest.raises(UsageError, match="proxy must be"):
        make("token", base_url="http://127.0.0.1:1", proxy=proxy)
    if isinstance(proxy, str) and "://" in proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(UsageError, match="the environment's HTTPS_PROXY"):
            Client("token")


@contextlib.asynccontextmanager
async def a_proxy(target: str, http_status: int = 200) -> AsyncGenerator[tuple[str, list[str]]]:
    """Run a proxy that connects everybody to one target, or answers with another HTTP status."""
    heads: list[str] = []
    tunnels: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(f"HTTP/1.1 {http_status} Whatever\r\n\r\n".encode())
        if http_status != 200:
            writer.close()
            return
        host, _, port = target.rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writers.append(back)
        tunnels.update(asyncio.ensure_future(one) for one in (copy(reader, back), copy(there, writer)))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
        for tunnel in tunnels:
            tunnel.cancel()
        await asyncio.gather(*tunnels, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)  # closed transports take a few iterations of the loop to go


async def _answer(writer: asyncio.StreamWriter) -> None:
    writer.write(http_answer(body='{"status":"PRODUCED","access_token":"access-token"}'))


async def test_requests_go_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests for statuses and tokens go through the proxy that is set, or the environment's, with its credentials."""
    ca = authority("kiosk")
    context = ssl.create_default_context()
    ca.configure_trust(context)
    async with RawServer(_answer, tls=server_context(ca.issue_cert("kiosk.test"))) as server:
        target = server.base_url.removeprefix("https://")
        async with a_proxy(target) as (proxy, heads):
            url, base_url = f"http://somebody:some%20thing@{proxy}", "https://kiosk.test"
            for setting in (url, None):
                if setting is None:
                    monkeypatch.setenv("HTTPS_PROXY", url)
                token = OAuthToken("id", "secret", "refresh", base_url=base_url, ssl=context, proxy=setting)
                async with Client(token, base_url=base_url, ssl=context, proxy=setting) as client:
                    status = await client.get_status(CARD.profile_id, CARD.card_token)
                assert status.is_produced
    basic = base64.b64encode(b"somebody:some thing").decode()
    assert len(heads) == 4
    for head in heads:
        assert head.startswith("CONNECT kiosk.test:443 ")
        assert f"Proxy-Authorization: Basic {basic}" in head
        assert "Bearer" not in head


@pytest.mark.parametrize(("http_status", "attempts"), [(407, 1), (403, 1), (502, 3)])
async def test_proxy_that_refuses(http_status: int, attempts: int) -> None:
    """A proxy's refusal is named as that, with its HTTP status, and only a 5xx is retried."""
    async with a_proxy("127.0.0.1:1", http_status) as (proxy, heads):
        async with Client("token", base_url="https://kiosk.test", proxy=f"http://{proxy}") as client:
            with pytest.raises(cardprod.TransportError, match=rf"the proxy refused .* \(it answered {http_status}\)"):
                await client.get_status(CARD.profile_id, CARD.card_token)
        assert len(heads) == attempts


async def test_proxy_of_plain_http_that_wants_credentials() -> None:
    """A proxy's 407 to plain http is named as that, for a request and for a refresh, and not retried."""
    async with RawServer.saying(
        http_answer(407, "<html>Cache Access Denied</html>", Proxy_Authenticate="Basic", Server="squid")
    ) as proxy:
        settings: dict[str, Any] = {"base_url": "http://kiosk.test", "proxy": proxy.base_url, "allow_plain_http": True}
        for token in ("token", OAuthToken("id", "secret", "refresh", **settings)):
            async with Client(token, **settings) as client:
                with pytest.raises(cardprod.ApiError, match="the proxy wants other credentials") as caught:
                    await client.get_status(CARD.profile_id, CARD.card_token)
                assert type(caught.value) is cardprod.ApiError
        assert len(proxy.heads) == 2


async def test_proxy_that_is_down() -> None:
    """A proxy that cannot be reached is named as that."""
    async with a_proxy("127.0.0.1:1") as (proxy, _):
        pass
    async with Client("token", base_url="https://kiosk.test", proxy=f"http://{proxy}", attempts=1) as client:
        with pytest.raises(cardprod.TransportError, match="the proxy could not be reached: check proxy="):
            await client.get_status(CARD.profile_id, CARD.card_token)


async def test_proxy_for_loopback() -> None:
    """A request to loopback goes through a proxy that is set, but plain http to no proxy on another machine."""
    async with RawServer(_answer) as proxy:
        async with Client("token", base_url="http://127.0.0.1:1", proxy=proxy.base_url) as client:
            assert (await client.get_status(CARD.profile_id, CARD.card_token)).is_produced
        assert [head.split()[1][:19] for head in proxy.heads] == ["http://127.0.0.1:1/"]
    async with Client("token", base_url="http://127.0.0.1:1", proxy="http://192.0.2.1:1", attempts=1) as client:
        with pytest.raises(
            cardprod.TransportError, match=r"could not be reached.*192\.0\.2\.1, which is not this machine"
        ):
            await client.get_status(CARD.profile_id, CARD.card_token)


@pytest.mark.parametrize("http_status", [None, 407, 502])
async def test_password_of_a_proxy_is_not_shown(http_status: int | None) -> None:
    """The password of a proxy that refuses, or is down, is in no error, cause of one, or local variable of a frame."""
    password = "proxy-canary-5b1d7f9e2c"
    basic = base64.b64encode(f"somebody:{password}".encode()).decode()
    async with a_proxy("127.0.0.1:1", http_status or 502) as (proxy, heads):
        url = f"http://somebody:{password}@{proxy if http_status else '127.0.0.1:9'}"
        settings: dict[str, Any] = {"base_url": "https://kiosk.test", "proxy": url}
        for token in ("token", OAuthToken("id", "secret", "refresh", **settings)):
            async with Client(token, attempts=1, **settings) as client:
                error = await error_of(client.get_status(CARD.profile_id, CARD.card_token))
            assert isinstance(error, cardprod.TransportError)
            assert leaks(shown_by(error), (password, basic)) == []
    assert all(basic in head for head in heads)
