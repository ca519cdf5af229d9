"""One request and its whole answer over aiohttp, and a name for every way in which that can fail.

No pace, no places, no time limit and no second try live here; only the word on whether a second try makes sense.
"""

from __future__ import annotations

import asyncio
import html
import json
import random
import ssl as _ssl
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar
from urllib.parse import quote, quote_plus

import aiohttp
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from cardprod.errors import ApiError, BadReply, RequestTimeout, TransportError, UsageError
from cardprod.wire import MAX_BODY, is_transient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tenacity import RetryCallState
    from yarl import URL

__all__ = [
    "NO_TIMEOUT",
    "Answer",
    "check_verifies",
    "decipher_without",
    "forget",
    "may_pass",
    "open_session",
    "read_body",
    "seconds_to_retry",
    "send",
    "transport_error",
]

Answer: TypeAlias = "tuple[int, Mapping[str, str], bytes]"
"""The HTTP status, the headers and the body; of one that is over `MAX_BODY`, a start that is as well."""

_Said = TypeVar("_Said")

_RETRY_FIRST: Final = 0.5
_RETRY_CEILING: Final = 8.0
"""Seconds: the first retry waits up to the one, later ones up to twice as long each time, at most the other."""

_PATIENCE: Final = 60.0
"""Seconds. A request that is told to come back later than this is given up at once, rather than slept on."""

_SENDS_AGAIN: Final = "_retry_connection"

_PROTOCOL: Final = "ResponseHandler"
_PROTOCOL_FACTORY: Final = "_factory"

_UNASKED: Final = 1000
"""Answers. A server has one to give at a time; one that pours more over a connection is not listened to any more."""

_SECRET: Final = 12
"""Characters. No real token is shorter, and a shorter one may be a word that the error says for another reason."""

_NO_HEADERS: Final = CIMultiDictProxy[str](CIMultiDict())

NO_TIMEOUT: Final = aiohttp.ClientTimeout()
"""Not aiohttp's: whoever sends holds the whole exchange to its time, from when it may leave."""

_FAILURES: Final[tuple[tuple[type[BaseException], type[TransportError], str], ...]] = (
    (TimeoutError, RequestTimeout, "the connection timed out: check the network and base_url"),
    (aiohttp.ClientConnectorDNSError, TransportError, "the host's name was not found: check base_url and DNS"),
    (
        aiohttp.ClientConnectorCertificateError,
        TransportError,
        "the server's TLS certificate was not trusted: check base_url, and the authorities in ssl=",
    ),
    (aiohttp.ClientSSLError, TransportError, "no TLS connection could be made: check base_url and ssl="),
    (aiohttp.ClientConnectorError, TransportError, "no connection could be made: check base_url and the network"),
    (
        aiohttp.ServerDisconnectedError,
        TransportError,
        "the server closed the connection without a whole answer: try again",
    ),
    (aiohttp.ClientPayloadError, TransportError, "the answer's body was cut short or garbled: try again"),
    (aiohttp.ClientResponseError, TransportError, "the answer is not HTTP: check base_url and proxies on the way"),
    (HttpProcessingError, TransportError, "the answer is not HTTP: check base_url and proxies on the way"),
    (aiohttp.ClientOSError, TransportError, "the connection broke: try again"),
    (aiohttp.ClientError, TransportError, "the request failed: see the cause"),
    (OSError, TransportError, "the connection broke: try again"),
)
"""Every failure of aiohttp, TLS and the operating system → the error it becomes; the first that fits counts."""

_DISTRUST: Final[Mapping[int, str]] = {
    9: "the server's TLS certificate is not valid yet: check this machine's clock",
    10: "the server's TLS certificate has expired: tell whoever runs it",
    18: "the server's TLS certificate is signed by itself: check base_url, or trust it in ssl=",
    19: "the server's TLS certificate is from an unknown authority: check base_url, or trust the authority in ssl=",
    20: "the server's TLS certificate is from an unknown authority: check base_url, or trust the authority in ssl=",
    21: "the server's TLS certificate is from an unknown authority: check base_url, or trust the authority in ssl=",
    62: "the server's TLS certificate is for another host: check base_url",
    64: "the server's TLS certificate is for another host: check base_url",
}
"""OpenSSL's X509_V_ERR_… → what it means."""

_ALERTS: Final[Mapping[str, str]] = {
    "CERTIFICATE_REQUIRED": "the server wants a client certificate: load one with ssl=, see load_cert_chain",
    "HANDSHAKE_FAILURE": "the server refused TLS, perhaps for want of a client certificate: check ssl=",
    "UNKNOWN_CA": "the server does not know the authority of the client certificate: check ssl=",
    "CERTIFICATE_EXPIRED": "the client certificate has expired: load a new one with ssl=",
    "BAD_CERTIFICATE": "the server refused the client certificate: check ssl=",
    "CERTIFICATE_REVOKED": "the server refused the client certificate, which was revoked: load a new one with ssl=",
    "CERTIFICATE_UNKNOWN": "the server refused the client certificate: check ssl=",
    "UNSUPPORTED_CERTIFICATE": "the server refused the client certificate: check ssl=",
    "ACCESS_DENIED": "the server refused the client certificate: check ssl=",
}
"""The TLS alert the server sent (RFC 8446, section 6.2) → what it means."""


def open_session() -> aiohttp.ClientSession:
    """Open a session of our own: no cookies, and no places, which are kept where the pace is."""
    # aiohttp's timeout would count the queueing for its connections too.
    connector = aiohttp.TCPConnector(limit=0)
    handler = getattr(aiohttp.client_proto, _PROTOCOL, None)
    if handler is not None and hasattr(connector, _PROTOCOL_FACTORY):  # else unasked answers are kept, as ever
        setattr(connector, _PROTOCOL_FACTORY, partial(_guarded(handler), loop=asyncio.get_running_loop()))
    session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
    # aiohttp sends a GET again by itself if a connection that was kept alive breaks, which neither the pacer nor
    # `attempts` would know of. Its own test client turns that off with this attribute; should it be gone one day,
    # a middleware does the same for 4 µs more.
    if hasattr(session, _SENDS_AGAIN):
        setattr(session, _SENDS_AGAIN, False)
    else:
        session.detach()
        session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), middlewares=(_send_once,)
        )
    return session


async def send(
    session: aiohttp.ClientSession,
    method: Literal["GET", "POST"],
    request: tuple[str | URL, dict[str, str]],
    *,
    ssl: _ssl.SSLContext | bool,
    body: bytes | None = None,
) -> Answer:
    """Send one request and read its whole answer.

    Args:
        session: Our own, or one that was lent.
        method: The method.
        request: The URL and the headers.
        ssl: The TLS context; True for the session's own.
        body: What to send along.

    Returns:
        The answer.

    Raises:
        TransportError: No whole answer came.
        UsageError: The session is closed or cannot be used.
    """
    url, headers = request
    try:
        answer = await session.request(
            method,
            url,
            headers=headers,
            data=body,
            allow_redirects=False,
            raise_for_status=False,
            ssl=ssl,
            timeout=NO_TIMEOUT,
        )
        content = answer.content
        try:
            received = content.read_nowait() if content.is_eof() else await read_body(content)
        finally:
            if not answer.closed:  # at its end, the connection has gone back to the pool by itself
                answer.close()
    except (aiohttp.ClientError, OSError) as exc:
        raise transport_error(exc) from exc
    except (RuntimeError, ValueError) as exc:
        if session.closed:
            raise UsageError("the session lent to this client is closed; keep it open as long as the client") from exc
        raise UsageError(f"the session lent to this client cannot be used: {exc}") from exc
    return answer.status, answer.headers, received


async def read_body(content: aiohttp.StreamReader) -> bytes:
    """Read a body that is still under way, to its end or until it is over `MAX_BODY`."""
    received = await content.readany()
    while not content.at_eof() and len(received) <= MAX_BODY:
        received += await content.readany()
    return received


def decipher_without(
    secrets: Iterable[str],
    decipher: Callable[[int, Mapping[str, str], bytes], _Said],
    http_status: int,
    headers: Mapping[str, str],
    body: bytes,
) -> _Said:
    """Decipher an answer; an error of it repeats no secret, however the answer spells what it complains of.

    Raises:
        ApiError, BadReply: As `decipher` does.
    """
    try:
        return decipher(http_status, headers, body)
    except (ApiError, BadReply):
        pass
    shown: dict[str, bytes] = {name: value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
    for secret in filter(lambda secret: len(secret) >= _SECRET, secrets):
        as_json = json.dumps(secret)[1:-1]
        spellings = {secret, quote(secret, safe=""), quote_plus(secret), html.escape(secret), as_json}
        spellings.add(as_json.replace("/", "\\/"))  # as some write JSON
        for spelling in sorted(spellings, key=len, reverse=True):
            body = body.replace(spelling.encode(), b"[secret]")
            shown = {name: value.replace(spelling.encode(), b"[secret]") for name, value in shown.items()}
    return decipher(http_status, {name: value.decode("utf-8", "replace") for name, value in shown.items()}, body)


def forget(secrets: Iterable[str], error: BaseException) -> None:
    """Let no cause of an error repeat a secret: what is wrong with an answer is told in the answer's own words."""
    hidden = [secret for secret in secrets if len(secret) >= _SECRET]

    def without(value: object) -> object:
        text = f"{value} {value!r}"
        return "[secret]" if any(secret in text for secret in hidden) else value

    cause, seen = error.__cause__, [error]
    while cause is not None and cause not in seen:
        seen.append(cause)
        vars(cause).update({name: without(value) for name, value in vars(cause).items()})
        cause.args = tuple(map(without, cause.args))
        cause = cause.__cause__ or cause.__context__


def check_verifies(context: _ssl.SSLContext | None, session: aiohttp.ClientSession | None) -> None:
    """Make sure that the server will be verified: neither may turn that off, as some do by accident.

    Raises:
        UsageError: The context does not verify the certificate or the host; or, with no context, the session's.
    """
    own = "the ssl context"
    if context is None and session is not None:
        # aiohttp keeps a connector's setting to itself; where it is not found, the session's word is taken.
        setting = getattr(session.connector, "_ssl", None)
        if setting is False:
            raise UsageError("the session's connector has ssl=False: it would send the token to whoever answers")
        context, own = (setting if isinstance(setting, _ssl.SSLContext) else None), "the session's ssl context"
    if context is not None and not (context.verify_mode is _ssl.CERT_REQUIRED and context.check_hostname):
        raise UsageError(
            f"{own} does not verify the server's certificate and host, so anybody could take the token; "
            "make it with ssl.create_default_context(), without Purpose.CLIENT_AUTH, which is for servers"
        )


def may_pass(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later, and soon enough to be worth waiting for."""
    if isinstance(error, ApiError):
        return is_transient(error) and (error.retry_after or 0.0) <= _PATIENCE
    return isinstance(error, TransportError)


def seconds_to_retry(state: RetryCallState) -> float:
    """Exponential backoff with full jitter, or `Retry-After` if that is longer; for tenacity."""
    backoff = random.uniform(0, min(_RETRY_FIRST * 2 ** (state.attempt_number - 1), _RETRY_CEILING))  # noqa: S311
    error = state.outcome.exception() if state.outcome is not None else None
    return max(backoff, (error.retry_after or 0.0) if isinstance(error, ApiError) else 0.0)


@cache
def _guarded(handler: Any) -> Any:  # noqa: ANN401 - a class of aiohttp's that has no public name
    """Make aiohttp's protocol mind answers that nobody asked for, which it keeps for whoever asks next.

    With one of them kept, a connection is not used again: the answer would be taken for that to the next request.
    aiohttp looks only whether it is still open, and asks this method. With very many, it is broken off at once: at its
    transport, so that whoever reads from it is told as of any other that breaks.
    """
    received, is_connected = handler.data_received, handler.is_connected

    def data_received(self: Any, data: bytes) -> None:  # noqa: ANN401
        received(self, data)
        if len(self) > _UNASKED and self.transport is not None:
            self.transport.abort()

    def is_reusable(self: Any) -> bool:  # noqa: ANN401
        return is_connected(self) and not len(self)

    return type(handler.__name__, (handler,), {"data_received": data_received, "is_connected": is_reusable})


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET again by itself: it does so after these two errors, and not after ours."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise transport_error(exc) from exc


def transport_error(exc: BaseException) -> TransportError:
    """Name what happened, by the table of failures."""
    name = type(exc).__name__
    if isinstance(exc, aiohttp.ClientResponseError):
        # It carries the request's headers, and so the token, to wherever an error's cause is shown.
        request = exc.request_info
        exc.request_info = aiohttp.RequestInfo(request.url, request.method, _NO_HEADERS, request.real_url)
        exc.args = (exc.request_info, exc.history)
    _, cls, words = next(row for row in _FAILURES if isinstance(exc, row[0]))
    # The exception's own text may hold the whole URL, and so the whole card token: only the system's words are quoted.
    reason: str | None = getattr(exc, "strerror", None)
    return cls(f"{_tls_words(exc) or words} ({reason or name})")


def _tls_words(exc: BaseException) -> str | None:
    """Say which of the two sides' certificates is at fault, and why, where TLS is."""
    for fault in (getattr(exc, "certificate_error", None), getattr(exc, "os_error", None), exc.__cause__, exc):
        if isinstance(fault, _ssl.SSLCertVerificationError):
            return _DISTRUST.get(fault.verify_code)
        if isinstance(fault, _ssl.SSLError):
            text = str(fault)
            return next((words for alert, words in _ALERTS.items() if f"ALERT_{alert}" in text), None)
    return None
