"""How looks reach the server: on connections of aiohttp's pool directly, or through a session, request by request.

About half of what a request costs through a session is for what a look has no use for: redirects, cookies, proxies,
settings of a request's own. So where the session is our own, a look takes a connection from its pool, which
opened, verified and kept it, writes the request there and reads the answer with aiohttp's parser.

Through the session, as ever, go the requests of a session that was lent; those of a process where something else
stands in the place of what makes aiohttp's sessions, and so may watch them or send them through a proxy (OpenTelemetry,
Sentry), or of what sends their requests, and so may answer them (aioresponses, vcrpy); and, should aiohttp no longer
have what this room uses of it, all. No pace, time limit or second try lives here.
"""

from __future__ import annotations

import logging
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.hdrs import ACCEPT_ENCODING
from aiohttp.http import HttpProcessingError
from yarl import URL

from cardprod.errors import TransportError
from cardprod.exchange import NO_TIMEOUT, open_session, read_body, send, transport_error

if TYPE_CHECKING:
    import ssl as _ssl
    from collections.abc import Coroutine

    from cardprod.exchange import Answer
    from cardprod.wire import Request

__all__ = ["Channel"]

_logger = logging.getLogger("cardprod")

_SENDER: Final = "_request"
"""What aiohttp's session sends with, and what most tools for tests put something else in the place of."""

_INFORMATIONAL: Final = frozenset(range(100, 200)) - {101}
"""HTTP statuses after which the answer is still to come (RFC 9110, section 15.2); 101 is the last of its kind."""


class Channel:
    """The way to one server. Opening it does no I/O; it belongs to the running event loop.

    Args:
        prefix: What the URL of every request begins with: the scheme, the host, and some of the path.
        session: One that was lent, and is not closed; None to open one.
        ssl: The TLS context; True for the session's own.
    """

    __slots__ = ("_direct", "_is_own", "_length", "_parsed", "_path", "_ssl", "session")

    def __init__(self, prefix: str, session: aiohttp.ClientSession | None, ssl: _ssl.SSLContext | bool) -> None:
        self._length = len(prefix)
        self._parsed = URL(prefix)
        self._path = self._parsed.raw_path
        self._ssl = ssl
        self._is_own = session is None
        self.session: aiohttp.ClientSession = open_session() if session is None else session
        """Where the connections are kept."""
        self._direct = _open_direct(self.session, self._parsed, ssl) if self._is_own else None

    def get(self, request: Request) -> Coroutine[Any, Any, Answer]:
        """Send a GET and read its whole answer.

        Args:
            request: A URL that begins with the prefix and needs no escaping after it, and the headers.

        Returns:
            The HTTP status, the headers and the body, as `exchange.send` has them.

        Raises:
            TransportError: No whole answer came.
            UsageError: The session is closed or cannot be used.
        """
        url, headers = request
        path = self._path + url[self._length :]  # the prefix was parsed before, so that the whole need not be
        if self._direct is not None and self._direct.is_usable():
            return self._direct.get(path, headers)
        return send(self.session, "GET", (self._parsed.with_path(path, encoded=True), headers), ssl=self._ssl)

    async def close(self) -> None:
        """Close the session, if it is our own."""
        if self._is_own:
            await self.session.close()


class _Direct:
    """Requests written on connections of a pool, and answers read from them.

    Args:
        connector: The pool.
        to: Where its connections are to lead; a request that is never sent.
        head: The end of a request's first line, and the headers that all have.
    """

    __slots__ = ("_connector", "_head", "_is_sound", "_request", "_sender", "_to")

    def __init__(self, connector: aiohttp.BaseConnector, to: aiohttp.ClientRequest, head: str) -> None:
        self._connector = connector
        self._to = to
        self._head = head
        self._request, self._sender = _senders()
        self._is_sound = True

    def is_usable(self) -> bool:
        """Whether aiohttp is as it is thought to be here, and nobody stands in for its sessions now."""
        request, sender = _senders()  # compared by identity: what is put around a function may say that it equals it
        return self._is_sound and sender is self._sender and request is self._request

    async def get(self, target: str, headers: dict[str, str]) -> Answer:
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
            # From now on through the session; and this request once more, if whoever counts the attempts says so.
            if self._is_sound:  # else another look, under way at the same time, has said so
                self._is_sound = False
                _logger.warning("aiohttp %s is not as this package knows it: looks cost more now", aiohttp.__version__)
            raise TransportError("this aiohttp is not as expected: try again, which takes another way") from exc
        return message.code, message.headers, body


def _open_direct(session: aiohttp.ClientSession, url: URL, ssl: _ssl.SSLContext | bool) -> _Direct | None:
    """Make ready to use a session's pool directly; None where requests have to go through the session."""
    connector, makes_and_sends = session.connector, (aiohttp.ClientSession.__init__, *_senders())
    if connector is None or session.trace_configs or not all(map(_is_from_aiohttp, makes_and_sends)):
        return None
    try:
        to = aiohttp.ClientRequest("GET", url.origin(), session=session, ssl=ssl)
        encodings = to.DEFAULT_HEADERS[ACCEPT_ENCODING]  # those that this aiohttp can undo
    except (AttributeError, KeyError, TypeError):
        return None
    head = f" HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n{ACCEPT_ENCODING}: {encodings}\r\n"
    return _Direct(connector, to, head)


def _senders() -> tuple[object, object]:
    """Find what requests are sent with now, from outside of a session and within it."""
    return aiohttp.ClientSession.request, getattr(aiohttp.ClientSession, _SENDER, None)


def _is_from_aiohttp(function: object) -> bool:
    """Whether it is what aiohttp defines, and not what somebody put in its place or around it."""
    return type(function) is FunctionType and function.__globals__.get("__name__") == aiohttp.client.__name__
