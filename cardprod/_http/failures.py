"""The exceptions of aiohttp, the operating system and TLS, mapped to ours by one table.

Which HTTP statuses are worth another attempt is a fact of `api_errors`; here only how long a `Retry-After` may be.
"""

from __future__ import annotations

import ssl as _ssl
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong
from multidict import CIMultiDict, CIMultiDictProxy

from cardprod._protocol.api_errors import is_transient
from cardprod.errors import ApiError, RequestTimeout, TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_RETRY_AFTER: Final = 60.0
"""Seconds. After a longer `Retry-After` a request fails at once instead of sleeping that long."""
_NO_HEADERS: Final = CIMultiDictProxy[str](CIMultiDict())
_NOT_HTTP: Final = "the answer is not HTTP: check base_url and proxies on the way"
_BROKEN: Final = "the connection broke: try again"
_FAILURES: Final[Mapping[type[BaseException], str]] = {
    TimeoutError: "the connection timed out: check the network and base_url",
    aiohttp.ClientProxyConnectionError: (
        "the proxy could not be reached: check proxy=, or HTTPS_PROXY in the environment"
    ),
    aiohttp.ClientHttpProxyError: "the proxy refused the connection: check proxy=, or HTTPS_PROXY in the environment",
    aiohttp.ClientConnectorDNSError: "the host's name was not found: check base_url and DNS",
    aiohttp.ClientConnectorCertificateError: (
        "the server's TLS certificate was not trusted: check base_url, and the authorities in ssl="
    ),
    aiohttp.ClientSSLError: "no TLS connection could be made: check base_url and ssl=",
    aiohttp.ClientConnectorError: "no connection could be made: check base_url and the network",
    aiohttp.ServerDisconnectedError: "the server closed the connection without a whole answer: try again",
    aiohttp.ClientPayloadError: "the answer's body was cut short or garbled: try again",
    aiohttp.ClientResponseError: _NOT_HTTP,
    HttpProcessingError: _NOT_HTTP,
    aiohttp.ClientOSError: _BROKEN,
    aiohttp.ClientError: "the request failed: see the cause",
    OSError: _BROKEN,
}
"""Every exception of aiohttp, TLS and the operating system → what it means; the first that it is an instance of."""
_REFUSED_HEADS: Final[Mapping[type[BaseException], str]] = {
    LineTooLong: (
        "a header or the first line of the answer is over 8 KiB, which is not read: "
        "check base_url and proxies on the way"
    ),
    ContentEncodingError: (
        "the answer is compressed with br or zstd, which was not requested: "
        "check proxies on the way, or install Brotli or backports.zstd"
    ),
}
"""What aiohttp's parser refuses in the head of an answer that is HTTP → what it means."""
_DISTRUST: Final[Mapping[int, str]] = {
    9: "the server's TLS certificate is not valid yet: check this machine's clock",
    10: "the server's TLS certificate has expired: report it to its operator",
    18: "the server's TLS certificate is self-signed: check base_url, or trust it in ssl=",
    **dict.fromkeys(
        (19, 20, 21),
        "the server's TLS certificate is from an unknown authority: check base_url, or trust the authority in ssl=",
    ),
    **dict.fromkeys((62, 64), "the server's TLS certificate is for another host: check base_url"),
}
"""OpenSSL's X509_V_ERR_… → what it means."""
_ALERTS: Final[Mapping[str, str]] = {
    "CERTIFICATE_REQUIRED": "the server requires a client certificate: load one with ssl=, see load_cert_chain",
    "HANDSHAKE_FAILURE": "the server refused TLS, perhaps because it requires a client certificate: check ssl=",
    "UNKNOWN_CA": "the server does not know the authority of the client certificate: check ssl=",
    "CERTIFICATE_EXPIRED": "the client certificate has expired: load a new one with ssl=",
    "CERTIFICATE_REVOKED": "the server refused the client certificate, which was revoked: load a new one with ssl=",
    **dict.fromkeys(
        ("BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "UNSUPPORTED_CERTIFICATE", "ACCESS_DENIED"),
        "the server refused the client certificate: check ssl=",
    ),
}
"""The TLS alert the server sent (RFC 8446, section 6.2) → what it means."""


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may succeed a little later: a transient failure without a long `Retry-After`."""
    if isinstance(error, ApiError):
        return is_transient(error) and (error.retry_after or 0.0) <= _MAX_RETRY_AFTER
    if isinstance(error.__cause__, aiohttp.ClientHttpProxyError):
        return error.__cause__.status >= 500  # noqa: PLR2004 - a 4xx, such as 407 without credentials, will not change
    return isinstance(error, TransportError)


def transport_error(exc: BaseException) -> TransportError:
    """Make our error of a foreign exception."""
    _drop_credentials(exc)
    # The exception's message may contain the URL, and so the card token: only the system's error text is quoted.
    reason: str | None = getattr(exc, "strerror", None)
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        reason = f"it answered {exc.status}"
    elif isinstance(exc, aiohttp.ClientConnectorDNSError):
        reason = f"{exc.host}: {reason}"
    cls = RequestTimeout if isinstance(exc, TimeoutError) else TransportError
    return cls(f"{_tls_words(exc) or _head_words(exc) or _first(_FAILURES, exc)} ({reason or type(exc).__name__})")


def _drop_credentials(exc: BaseException) -> None:
    """Drop from an exception of aiohttp's what an error reporter would show of it as a cause.

    That is the request's headers, with the token, and the URL of a proxy, with its password.
    """
    if isinstance(exc, aiohttp.ClientResponseError):
        request = exc.request_info
        url, real_url = (one.with_user(None) for one in (request.url, request.real_url))
        exc.request_info = aiohttp.RequestInfo(url, request.method, _NO_HEADERS, real_url)
        exc.args = (exc.request_info, exc.history)
    if isinstance(exc, aiohttp.ClientConnectorError):
        exc.args = tuple(map(_without_proxy, exc.args))
        vars(exc).update({name: _without_proxy(value) for name, value in vars(exc).items()})


def _without_proxy(value: Any) -> Any:  # noqa: ANN401 - a connection's key, which has no public name, or anything else
    return value._replace(proxy=None, proxy_auth=None) if hasattr(value, "proxy_auth") else value


def _head_words(exc: BaseException) -> str | None:
    """Say what is wrong with the head of an answer; aiohttp's parser says it in a cause of what is raised."""
    fault: BaseException | None = exc
    while isinstance(fault, aiohttp.ClientResponseError | HttpProcessingError):
        if words := _first(_REFUSED_HEADS, fault):
            return words
        fault = fault.__cause__
    return None


def _first(table: Mapping[type[BaseException], str], exc: BaseException) -> str | None:
    return next((words for cls, words in table.items() if isinstance(exc, cls)), None)


def _tls_words(exc: BaseException) -> str | None:
    """Describe a TLS failure: whose certificate is wrong, and why. None for any other."""
    for fault in (getattr(exc, "certificate_error", None), getattr(exc, "os_error", None), exc.__cause__, exc):
        if isinstance(fault, _ssl.SSLCertVerificationError):
            return _DISTRUST.get(fault.verify_code)
        if isinstance(fault, _ssl.SSLError):
            text = str(fault)
            return next((words for alert, words in _ALERTS.items() if f"ALERT_{alert}" in text), None)
    return None
