"""The aiohttp session, our own or a lent one, and one exchange over it, without rate limit, time limit or retries."""

from __future__ import annotations

import math
import ssl as _ssl
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal

import aiohttp
from aiohttp.hdrs import ACCEPT_ENCODING
from yarl import URL

from cardprod._http.answer import NO_TIMEOUT, read_body
from cardprod._http.failures import transport_error
from cardprod._http.loopback import loopback_socket
from cardprod._http.proxies import proxy_for
from cardprod.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from cardprod._http.answer import Answer
    from cardprod._http.proxies import ProxySetting
    from cardprod._protocol.correlation import CorrelationIds
    from cardprod._protocol.requests import Endpoint, Request


def _load_fast_path() -> Any:  # noqa: ANN401 - a module, or None
    try:
        return import_module("cardprod._http.fast_path")
    except ImportError:  # it was removed, or does not work with this aiohttp: the package works without it
        return None


_FAST_PATH: Final[Any] = _load_fast_path()


class Channel:
    """Sends requests to one server. Creating it does no I/O; it belongs to the event loop of its first request.

    Args:
        endpoint: The server.
        session: A lent session, which is not closed; None to open one with the first request.
        ssl: The TLS context; None for the session's own.
        proxy: The proxy, as for `proxy_for`; None for a lent session's own.

    Raises:
        UsageError: The TLS context verifies nothing, the proxy is invalid, or a lent session cannot be kept from
            sending plain http elsewhere.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        session: aiohttp.ClientSession | None,
        ssl: _ssl.SSLContext | None,
        proxy: ProxySetting,
    ) -> None:
        _check_verifies(ssl, session)
        self._proxy = None if session is not None and proxy is None else proxy_for(endpoint.base_url, proxy)
        self._ssl: _ssl.SSLContext | bool = True if ssl is None else ssl
        self._length = len(endpoint.prefix)
        self._parsed = URL(endpoint.prefix)
        self._path = self._parsed.raw_path
        self._is_local = endpoint.is_local
        self._is_own = session is None
        self._options: dict[str, Any] = (
            {} if session is None else _lent_options(session, self._parsed, is_local=endpoint.is_local)
        )
        self._fast: Any = None
        self.session: aiohttp.ClientSession | None = session
        """The session, with its pool of connections; None before the first request, unless it is lent."""

    def _open(self) -> aiohttp.ClientSession:
        """Open a session of our own, without cookies and without a limit of connections.

        The limiter limits concurrent requests; with aiohttp's limit, time spent queueing would count as the request's.
        """
        connector = aiohttp.TCPConnector(limit=0, socket_factory=loopback_socket if self._is_local else None)
        cookies = aiohttp.DummyCookieJar()
        self.session = aiohttp.ClientSession(connector=connector, cookie_jar=cookies, middlewares=(_send_once,))
        if _FAST_PATH is not None:
            _FAST_PATH.guard_connector(connector)
            if self._proxy is None:
                self._fast = _FAST_PATH.open_fast_path(self.session, self._parsed, self._ssl)
        return self.session

    def get(self, request: Request, ids: CorrelationIds, correlation_id: str) -> Coroutine[object, object, Answer]:
        """Send a GET, whose URL begins with the prefix and needs no escaping, and read its whole answer.

        Raises:
            TransportError: No whole answer came, or one to another request.
            UsageError: The session is closed or cannot be used.
        """
        prefixed, headers = request
        if self.session is None:
            self._open()
        path = self._path + prefixed[self._length :]  # parsing the whole URL each time would cost more
        if self._fast is not None and self._fast.is_usable():
            answer: Coroutine[object, object, Answer] = self._fast.get(path, headers, ids, correlation_id)
            return answer
        url = self._parsed.with_path(path, encoded=True)
        return self.send("GET", (url, headers), check=partial(ids.check, correlation_id))

    async def send(
        self,
        method: Literal["GET", "POST"],
        request: tuple[str | URL, dict[str, str]],
        *,
        body: bytes | None = None,
        check: Callable[[int, Mapping[str, str]], None] | None = None,
    ) -> Answer:
        """Send a request over the session, and read its whole answer.

        Args:
            method: The HTTP method.
            request: The URL and the headers.
            body: The request's body.
            check: Checks the status and the headers before the body is read, and ends the exchange by raising.

        Raises:
            TransportError, UsageError: As `get`.
        """
        url, headers = request
        session = self.session or self._open()
        if not session.auto_decompress:
            headers = {**headers, ACCEPT_ENCODING: "identity"}
        try:
            answer = await session.request(
                method,
                url,
                headers=headers,
                data=body,
                allow_redirects=False,
                raise_for_status=False,
                ssl=self._ssl,
                proxy=self._proxy,
                timeout=NO_TIMEOUT,
                **self._options,
            )
            content = answer.content
            try:
                if check is not None:
                    check(answer.status, answer.headers)
                received = content.read_nowait() if content.is_eof() else await read_body(content)
            finally:
                if not answer.closed:  # once it is read to its end, its connection is back in the pool already
                    answer.close()
        except (aiohttp.ClientError, OSError) as exc:
            raise transport_error(exc) from exc
        except (RuntimeError, ValueError) as exc:
            raise _session_error(session, exc) from exc
        return answer.status, answer.headers, received

    def drop_idle(self) -> None:
        """Let no further request use a connection that is kept now: one has failed, so the others may be dead as well.

        A firewall can forget connections without closing them, and each of them would cost an attempt.
        """
        if self.session is None:  # it was closed meanwhile
            return
        server = self._parsed
        if _FAST_PATH is None or not _FAST_PATH.drop_idle(self.session, server.raw_host, server.port):
            # A pool keeps connections apart by this option, which changes nothing else: it is the host by default. When
            # they come back into use with the next failure, aiohttp has mostly dropped them: it keeps them for 15 s.
            others = {name: value for name, value in self._options.items() if name != "server_hostname"}
            is_named = len(others) < len(self._options)
            self._options = others if is_named else {**others, "server_hostname": server.raw_host}

    async def close(self) -> None:
        """Close the session, if it is our own; the next request would open another."""
        if self._is_own and self.session is not None:
            session, self.session = self.session, None
            await session.close()


def _lent_options(lent: aiohttp.ClientSession, server: URL, *, is_local: bool) -> dict[str, Any]:
    """Return the options of a lent session's requests that check the connection before they are written to it."""
    options: dict[str, Any] | None = None
    if _FAST_PATH is not None:
        options = _FAST_PATH.lent_options(lent, is_local=is_local)
    if options is None and is_local and server.host == "localhost":
        raise UsageError(
            "base_url is plain http to localhost, and with this aiohttp nothing shows to which machine a lent session "
            "connects: use an address, such as http://127.0.0.1, or lend no session"
        )
    return options or {}


def _session_error(session: aiohttp.ClientSession, exc: RuntimeError | ValueError) -> UsageError:
    if session.closed:
        return UsageError("the session lent to this client is closed; keep it open as long as the client")
    if "AUTHORIZATION" in str(exc):
        return UsageError(
            "the session lent to this client has credentials of its own (auth=, or netrc by trust_env=True), "
            "which cannot go with the token: lend one without"
        )
    return UsageError(f"the session lent to this client cannot be used ({exc}): lend another, or none")


def pool_size(session: aiohttp.ClientSession | None) -> float:
    """Return how many connections a lent session may open to one server; infinite for as many as it likes.

    More requests at once would queue for them, and time spent there would count as the server's.
    """
    connector = None if session is None else session.connector
    limits = () if connector is None else (connector.limit, connector.limit_per_host)
    return min((limit for limit in limits if limit), default=math.inf)


def _check_verifies(context: _ssl.SSLContext | None, session: aiohttp.ClientSession | None) -> None:
    """Refuse a TLS context that does not verify the server's certificate and host; without one, the session's own."""
    own = "the ssl context"
    if context is None and session is not None and _FAST_PATH is not None:
        setting = _FAST_PATH.ssl_setting(session)
        if setting is False:
            raise UsageError(
                "the session's connector has ssl=False, and would send the token to any server: lend one that verifies"
            )
        context, own = (setting if isinstance(setting, _ssl.SSLContext) else None), "the session's ssl context"
    if context is not None and not (context.verify_mode is _ssl.CERT_REQUIRED and context.check_hostname):
        raise UsageError(
            f"{own} does not verify the server's certificate and host, so anybody could take the token; "
            "make it with ssl.create_default_context(), without Purpose.CLIENT_AUTH, which is for servers"
        )


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from resending a GET by itself, which neither the rate limit nor `attempts` would count.

    It does so when a kept-alive connection breaks, after these two errors, but not after ours.
    """
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise transport_error(exc) from exc
