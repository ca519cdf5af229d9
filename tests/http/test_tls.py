"""Whom the client trusts, and who trusts the client: real TLS on loopback, with made-up authorities."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

import cardprod
from cardprod import Client, OAuthToken, UsageError
from tests.fast_path import needs_fast_path
from tests.table import Table
from tests.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import Generator

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\nConnection: close\r\n\r\n{"status":"READY"}'


@cache
def authority(name: str) -> Any:  # trustme's own annotations name a type it does not bring
    """Make an authority, once; keys are slow to make."""
    return trustme.CA(organization_name=name)


def server_context(certificate: Any, clients: Any = None) -> ssl.SSLContext:
    """Make a server's context; with `clients`, it requires a certificate of that authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)
    return context


def client_context(certificate: Any = None) -> ssl.SSLContext:
    """Make a client's context, as README says."""
    context = ssl.create_default_context()
    authority("ours").configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


@contextlib.contextmanager
def tls_server(context: ssl.SSLContext) -> Generator[str]:
    """Serve one answer to each connection, in a thread: asyncio's own server breaks off without a TLS alert."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secure:
                    try:
                        secure.do_handshake()
                        secure.recv(65536)
                        secure.sendall(ANSWER)
                    except ssl.SSLError:
                        # Unread bytes at closing would make it a reset, which may overtake the alert.
                        plain = socket.socket(fileno=secure.detach())
                        with plain:
                            plain.settimeout(5)
                            plain.shutdown(socket.SHUT_WR)
                            with plain.makefile("rb") as rest:
                                rest.read()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(LIMIT)


def issue(identity: str = "127.0.0.1", *, by: str = "ours", years: tuple[int, int] = (2020, 2099)) -> Any:
    """Issue a certificate that is good in these years."""
    first, last = (datetime(year, 1, 1, tzinfo=UTC) for year in years)
    return authority(by).issue_cert(identity, not_before=first, not_after=last)


async def poll(base_url: str, context: ssl.SSLContext | None) -> cardprod.ProductionStatus:
    async with Client("bearer-token", base_url=base_url, ssl=context, attempts=1) as client:
        return await client.get_status(1, "card")


@pytest.mark.looptime(False)  # the server is a thread, and does not follow virtual time
async def test_server_that_is_not_trusted() -> None:
    """A server whose certificate is not good is a `TransportError` that says why, before it gets the token."""
    certificates: dict[str, dict[str, Any]] = {
        "unknown authority": {"by": "theirs"},
        "has expired": {"years": (2020, 2021)},
        "not valid yet": {"years": (2098, 2099)},
        "for another host": {"identity": "kiosk.example"},
    }
    with Table() as table:
        for words, certificate in certificates.items():
            with table.row(words), tls_server(server_context(issue(**certificate))) as base_url:
                with pytest.raises(cardprod.TransportError, match=words) as caught:
                    await poll(base_url, client_context())
                assert isinstance(caught.value.__cause__, aiohttp.ClientConnectorCertificateError)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.looptime(False)
async def test_client_that_is_not_trusted(version: ssl.TLSVersion) -> None:
    """A server that refuses the client's certificate, or its absence, is a `TransportError` that says so."""
    certificates: dict[str, Any] = {
        "client certificate": None,
        "does not know the authority of the client certificate": {"by": "theirs"},
        "client certificate has expired": {"years": (2020, 2021)},
    }
    context = server_context(issue(), authority("ours"))
    context.minimum_version = context.maximum_version = version
    with Table() as table:
        for words, certificate in certificates.items():
            own = None if certificate is None else issue("client@bank.example", **certificate)
            refused = pytest.raises(cardprod.TransportError, match=words)
            with table.row(words), tls_server(context) as base_url, refused:
                await poll(base_url, client_context(own))


@pytest.mark.looptime(False)
async def test_client_that_is_trusted() -> None:
    """A client certificate in the context that the caller gives lets the client in, on a lent session too."""
    context = client_context(issue("client@bank.example"))
    with tls_server(server_context(issue(), authority("ours"))) as base_url:
        assert (await poll(base_url, context)).status == "READY"
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            Client("bearer-token", base_url=base_url, session=session) as client,
        ):
            assert (await client.get_status(1, "card")).status == "READY"


@pytest.mark.looptime(False)
async def test_token_endpoint_is_verified_too() -> None:
    """A refresh goes only to a server whose certificate is trusted."""
    with tls_server(server_context(issue())) as base_url:
        stranger = OAuthToken("id", "secret", "refresh-token", base_url=base_url)
        with pytest.raises(cardprod.TransportError, match=r"refreshing the token: .*unknown authority"):
            await stranger()
        friend = OAuthToken("id", "secret", "refresh-token", base_url=base_url, ssl=client_context())
        with pytest.raises(cardprod.BadReply, match="without a token"):  # it was let in, and this is no token endpoint
            await friend()


def unverified(*, is_host_alone: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    if not is_host_alone:
        context.verify_mode = ssl.CERT_NONE
    return context


@needs_fast_path
async def test_verification_is_not_turned_off() -> None:
    """A context that does not verify the server is refused, wherever it comes from, before any I/O."""
    contexts = {
        "nothing": unverified(),
        "no host": unverified(is_host_alone=True),
        "a server's": ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),  # the purpose is the server's
    }
    with Table() as table:
        for name, context in contexts.items():
            with table.row(name, "client"), pytest.raises(UsageError, match=r"ssl context .*create_default_context"):
                Client("token", ssl=context)
            with table.row(name, "token"), pytest.raises(UsageError, match="the ssl context does not verify"):
                OAuthToken("id", "secret", "refresh-token", ssl=context)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                with table.row(name, "session"), pytest.raises(UsageError, match="session's ssl context does not"):
                    Client("token", session=session)


@needs_fast_path
async def test_lent_session_may_not_turn_it_off() -> None:
    """A lent session with `ssl=False` is refused, unless a context of its own goes with it."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
        with pytest.raises(UsageError, match="ssl=False"):
            Client("token", session=session)
        with pytest.raises(UsageError, match="ssl=False"):
            OAuthToken("id", "secret", "refresh-token", session=session)
        Client("token", session=session, ssl=ssl.create_default_context())
