"""The same exchange, written on a pooled connection: aiohttp's pool and parser, without its session's work per request.

About half of what a request costs through a session is for what a poll does not need: redirects, cookies, settings of
a single request. So where the session is our own, a request takes a connection from its pool, which opened, verified
and kept it, is written there, and its answer is read with aiohttp's parser.

This is the only module that knows names of aiohttp that are not public. Each is looked up before it is used; where one
is gone, or this module is, requests go through the session. They also do where something else stands in the place of
what makes aiohttp's sessions or sends their requests (OpenTelemetry, Sentry, aioresponses, vcrpy), and for sessions
with trace configs.
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
from cardprod.errors import TransportError
from cardprod.telemetry import warn

if TYPE_CHECKING:
    import ssl as _ssl

    from yarl import URL

__all__ = ["FastPath", "guard_connector", "open_fast_path", "ssl_setting", "turn_off_resending"]

_SENDER: Final = "_request"
"""What aiohttp's session sends with, and what most tools for tests replace."""
_RESENDS: Final = "_retry_connection"
_PROTOCOL: Final = "ResponseHandler"
_PROTOCOL_FACTORY: Final = "_factory"
_SSL_SETTING: Final = "_ssl"

_INFORMATIONAL: Final = frozenset(range(100, 200)) - {101}
"""HTTP statuses after which the answer is still to come (RFC 9110, section 15.2); 101 is the last of its kind."""

_MOST_UNREQUESTED: Final = 1000
"""Answers. A server has one to give at a time; a connection over which more pour is aborted."""


def ssl_setting(session: aiohttp.ClientSession) -> object:
    """Return what a session's connector was given as `ssl=`; None where that cannot be known."""
    return getattr(session.connector, _SSL_SETTING, None)


def turn_off_resending(session: aiohttp.ClientSession) -> bool:
    """Keep aiohttp from sending a GET once more by itself when a kept connection breaks; say whether that worked.

    Neither the rate limit nor `attempts` would know of it. aiohttp's own test client uses this attribute.
    """
    if not hasattr(session, _RESENDS):
        return False
    setattr(session, _RESENDS, False)
    return True


def guard_connector(connector: aiohttp.BaseConnector) -> None:
    """Make a connector drop connections on which an answer came that was not requested.

    aiohttp would take such an answer for the one to the next request. Called in the running event loop.
    """
    handler = getattr(aiohttp.client_proto, _PROTOCOL, None)
    if handler is not None and hasattr(connector, _PROTOCOL_FACTORY):
        setattr(connector, _PROTOCOL_FACTORY, partial(_guarded(handler), loop=asyncio.get_running_loop()))


@cache
def _guarded(handler: Any) -> Any:  # noqa: ANN401 - a class of aiohttp's that has no public name
    """Make aiohttp's protocol refuse what was not requested.

    With one such answer received, a connection is not used again: aiohttp asks `is_connected` before it is. With very
    many, it is aborted at its transport, so that a request under way on it fails as on any other broken connection.
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
    """Requests written on connections of a pool, and answers read from them.

    Args:
        connector: The pool.
        to: Where its connections lead; a request that is never sent.
        head: The end of a request's first line, and the headers that all requests have.
    """

    __slots__ = ("_connector", "_head", "_is_sound", "_request", "_sender", "_to")

    def __init__(self, connector: aiohttp.BaseConnector, to: aiohttp.ClientRequest, head: str) -> None:
        self._connector = connector
        self._to = to
        self._head = head
        self._request, self._sender = _senders()
        self._is_sound = True

    def is_usable(self) -> bool:
        """Whether aiohttp is as expected here, and nothing stands in for its sessions at the moment."""
        request, sender = _senders()  # compared by identity: a wrapper may claim to equal what it wraps
        return self._is_sound and sender is self._sender and request is self._request

    async def get(self, target: str, headers: dict[str, str]) -> Answer:
        """Send a GET and read its whole answer.

        Raises:
            TransportError: No whole answer came.
        """
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        request = f"GET {target}{self._head}{lines}\r\n".encode("ascii")
        try:
            connection = await self._connector.connect(self._to, traces=[], timeout=NO_TIMEOUT)
            try:
                protocol = connection.protocol
                if protocol is None or protocol.transport is None:  # it broke as soon as it was there
                    raise aiohttp.ServerDisconnectedError  # noqa: TRY301 - as aiohttp would
                protocol.set_response_params(read_until_eof=True)
                protocol.transport.write(request)
                message, content = await protocol.read()
                while message.code in _INFORMATIONAL:
                    message, content = await protocol.read()
                body = content.read_nowait() if content.is_eof() else await read_body(content)
            except BaseException:
                connection.close()
                raise
            if content.at_eof():
                connection.release()
            else:
                connection.close()
        except (aiohttp.ClientError, HttpProcessingError, OSError) as exc:
            raise transport_error(exc) from exc
        except (AttributeError, TypeError) as exc:
            # The next request goes through the session; and this one once more, if there are attempts left.
            if self._is_sound:  # else another request, under way at the same time, has said so
                self._is_sound = False
                warn("aiohttp %s is not as expected: requests cost more now", aiohttp.__version__)
            raise TransportError("this aiohttp is not as expected: try again, which takes another way") from exc
        return message.code, message.headers, body


def open_fast_path(session: aiohttp.ClientSession, url: URL, ssl: _ssl.SSLContext | bool) -> FastPath | None:
    """Prepare to use a session's pool directly; None where requests have to go through the session.

    Args:
        session: A session of our own.
        url: Where all requests go.
        ssl: The TLS context; True for the session's own.
    """
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
    """Return what requests are sent with at the moment, from outside of a session and within it."""
    return aiohttp.ClientSession.request, getattr(aiohttp.ClientSession, _SENDER, None)


def _is_from_aiohttp(function: object) -> bool:
    """Whether it is what aiohttp defines, and not what somebody put in its place or around it."""
    return type(function) is FunctionType and function.__globals__.get("__name__") == aiohttp.client.__name__
