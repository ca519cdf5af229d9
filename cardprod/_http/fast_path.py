"""The fast path: an exchange on a pooled connection of aiohttp's, with its parser, but without its session.

About half of a request's cost through a session is for what a poll does not need: redirects, cookies, per-request
settings. So, in a session of our own, a request is written directly to a connection of the session's pool, and the
answer is read with aiohttp's parser.

This is the only module that uses non-public names of aiohttp. It checks for each before it uses it. Requests go through
the session instead where a name or this module is missing, where something has replaced or wrapped the functions that
create aiohttp's sessions or send their requests (OpenTelemetry, Sentry, aioresponses, vcrpy), and where the session
has trace configs.
"""

from __future__ import annotations

import asyncio
from functools import cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.hdrs import ACCEPT_ENCODING
from aiohttp.http import HttpProcessingError

from cardprod._http.answer import NO_TIMEOUT, Answer, read_body
from cardprod._http.failures import transport_error
from cardprod._http.loopback import check_is_local
from cardprod.errors import TransportError
from cardprod.telemetry import warn

if TYPE_CHECKING:
    import ssl as _ssl

    from yarl import URL

    from cardprod._protocol.correlation import CorrelationIds

_SENDER: Final = "_request"
"""The method that aiohttp's session sends with, which most test tools replace."""
_PROTOCOL: Final = "ResponseHandler"
_PROTOCOL_FACTORY: Final = "_factory"
_SSL_SETTING: Final = "_ssl"
_KEPT: Final = "_conns"
_MIDDLEWARES: Final = "_middlewares"
_WRITER: Final = "send"
"""The method that a request is written with, once it has a connection."""

_INFORMATIONAL: Final = frozenset(range(100, 200)) - {101}
"""HTTP statuses that the final answer follows (RFC 9110, section 15.2); none follows a 101."""

_MOST_UNREQUESTED: Final = 1000
"""Answers. A connection that receives more than that without a request is aborted."""


def ssl_setting(session: aiohttp.ClientSession) -> object:
    """Return the `ssl=` of a session's connector; None if unknown."""
    return getattr(session.connector, _SSL_SETTING, None)


def drop_idle(session: aiohttp.ClientSession, host: str | None, port: int | None) -> bool:
    """Close the connections to a host that a session keeps and no request uses; return whether that can be done."""
    kept: Any = getattr(session.connector, _KEPT, None)
    try:
        for key in [key for key in kept if (key.host, key.port) == (host, port)]:
            for protocol, _ in kept.pop(key):
                protocol.abort()  # closing one that is dead would wait for its other end
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def lent_options(session: aiohttp.ClientSession, *, is_local: bool) -> dict[str, Any] | None:
    """Return options of a lent session's requests that check their connection first; None for unknown."""
    own = getattr(session, _MIDDLEWARES, None)
    if not isinstance(own, tuple) or not hasattr(aiohttp.ClientRequest, _WRITER):
        return None
    return {"middlewares": (*own, partial(_send_checked, is_local))}


async def _send_checked(
    is_local: bool,
    request: aiohttp.ClientRequest,
    send: aiohttp.ClientHandlerType,
) -> aiohttp.ClientResponse:
    """Check a connection before the request is written to it: its other end, and that no answer came on it yet."""
    write: Any = getattr(request, _WRITER)

    async def write_checked(connection: Any) -> Any:  # noqa: ANN401 - as aiohttp's
        if is_local:
            check_is_local(connection.transport)
        if len(connection.protocol or ()):  # aiohttp would take it for the answer to this request
            raise aiohttp.ServerDisconnectedError("an answer came on this connection before its request")
        return await write(connection)

    setattr(request, _WRITER, write_checked)
    return await send(request)


def guard_connector(connector: aiohttp.BaseConnector) -> None:
    """Make a connector drop connections that received an answer without a request. Call it in the running event loop.

    aiohttp would take such an answer for the one to the next request.
    """
    handler = getattr(aiohttp.client_proto, _PROTOCOL, None)
    if handler is not None and hasattr(connector, _PROTOCOL_FACTORY):
        setattr(connector, _PROTOCOL_FACTORY, partial(_guarded(handler), loop=asyncio.get_running_loop()))


@cache
def _guarded(handler: Any) -> Any:  # noqa: ANN401 - a class of aiohttp's that has no public name
    """Derive a protocol class from aiohttp's that refuses answers without a request.

    After one such answer a connection is not reused: aiohttp checks `is_connected` before. After very many, its
    transport is aborted, so that a request in flight fails as on any broken connection.
    """
    received, is_connected = handler.data_received, handler.is_connected

    def data_received(self: Any, data: bytes) -> None:  # noqa: ANN401
        received(self, data)
        if len(self) > _MOST_UNREQUESTED and self.transport is not None:
            self.transport.abort()

    def is_reusable(self: Any) -> bool:  # noqa: ANN401
        return is_connected(self) and not len(self)

    return type(handler.__name__, (handler,), {"data_received": data_received, "is_connected": is_reusable})


class FastPath:
    """Exchanges on the connections of a pool.

    Args:
        connector: The pool.
        to: A request to the server, which is never sent: the pool needs it to connect.
        head: The end of the request line, and the headers that all requests share.
    """

    __slots__ = ("_connector", "_head", "_is_sound", "_request", "_sender", "_to")

    def __init__(self, connector: aiohttp.BaseConnector, to: aiohttp.ClientRequest, head: str) -> None:
        self._connector = connector
        self._to = to
        self._head = head
        self._request, self._sender = _senders()
        self._is_sound = True

    def is_usable(self) -> bool:
        """Whether aiohttp works as expected, and its sessions are not replaced or wrapped now."""
        cls = aiohttp.ClientSession  # compared by identity: a wrapper may claim to equal what it wraps
        return self._is_sound and getattr(cls, _SENDER, None) is self._sender and cls.request is self._request

    async def get(self, target: str, headers: dict[str, str], ids: CorrelationIds, correlation_id: str) -> Answer:
        """Send a GET and read its whole answer.

        Raises:
            TransportError: No whole answer came, or one to another request.
        """
        lines = "\r\n".join(map(": ".join, headers.items()))
        request = f"GET {target}{self._head}{lines}\r\n\r\n".encode("ascii")
        try:
            connection = await self._connector.connect(self._to, traces=[], timeout=NO_TIMEOUT)
            try:
                protocol = connection.protocol
                if protocol is None or protocol.transport is None:  # it was lost at once
                    raise aiohttp.ServerDisconnectedError  # noqa: TRY301 - as aiohttp would
                protocol.set_response_params(read_until_eof=True)
                protocol.transport.write(request)
                message, content = await protocol.read()
                while message.code in _INFORMATIONAL:
                    message, content = await protocol.read()
                ids.check(correlation_id, message.code, message.headers)
                body = content.read_nowait() if content.is_eof() else await read_body(content)
            except BaseException:
                connection.close()
                raise
            connection.release()  # which closes one whose answer was not read to its end
        except (aiohttp.ClientError, HttpProcessingError, OSError) as exc:
            raise transport_error(exc) from exc
        except (AttributeError, TypeError) as exc:
            # Further requests go through the session, and so do further attempts of this one.
            if self._is_sound:  # else another request in flight has warned already
                self._is_sound = False
                warn("aiohttp %s is not as expected: requests cost more now", aiohttp.__version__)
            raise TransportError(
                "this aiohttp is not as expected: try again, further requests use its public interface"
            ) from exc
        return message.code, message.headers, body


def open_fast_path(session: aiohttp.ClientSession, url: URL, ssl: _ssl.SSLContext | bool) -> FastPath | None:
    """Return a fast path to a server over the pool of a session of our own; None if that must be used itself."""
    connector, makes_and_sends = session.connector, (aiohttp.ClientSession.__init__, *_senders())
    if connector is None or session.trace_configs or not all(map(_is_from_aiohttp, makes_and_sends)):
        return None
    try:
        to = aiohttp.ClientRequest("GET", url.origin(), session=session, ssl=ssl)
        encodings = to.DEFAULT_HEADERS[ACCEPT_ENCODING]  # those that this aiohttp can undo
    except (AttributeError, KeyError, TypeError):
        return None
    head = f" HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n{ACCEPT_ENCODING}: {encodings}\r\n"
    return FastPath(connector, to, head)


def _senders() -> tuple[object, object]:
    """Return the functions that requests are sent with now: the session's public method, and its internal one."""
    return aiohttp.ClientSession.request, getattr(aiohttp.ClientSession, _SENDER, None)


def _is_from_aiohttp(function: object) -> bool:
    """Whether it is the function that aiohttp defines, not replaced or wrapped."""
    return type(function) is FunctionType and function.__globals__.get("__name__") == aiohttp.client.__name__
