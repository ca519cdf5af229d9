"""One look over the network: pace, send, read, decipher, try again. The only room that knows aiohttp.

What an answer means is `wire`'s business, when the next look is due is `watch`'s.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import deque
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from cardprod.auth import check_token
from cardprod.errors import ApiError, CardprodError, RateLimited, RequestTimeout, TransportError, UsageError
from cardprod.pacing import Pacer
from cardprod.wire import MAX_BODY, decipher, is_transient, over_long

if TYPE_CHECKING:
    import ssl

    from tenacity import RetryCallState

    from cardprod.auth import TokenSource
    from cardprod.models import Card, ProductionStatus
    from cardprod.pacing import RateLimit
    from cardprod.wire import Endpoint

__all__ = ["Transport"]

_RETRY_FIRST: Final = 0.5
_RETRY_CEILING: Final = 8.0
"""Seconds: the first retry waits up to the one, later ones up to twice as long each time, at most the other."""

_PATIENCE: Final = 60.0
"""Seconds. A look that is told to come back later than this gives up at once and says so, rather than sleep on."""

_FAILURES: Final[tuple[tuple[type[BaseException], type[TransportError], str], ...]] = (
    (aiohttp.ConnectionTimeoutError, RequestTimeout, "no connection within {timeout:g} s"),
    (TimeoutError, RequestTimeout, "no whole answer within {timeout:g} s"),
    (aiohttp.ClientConnectorDNSError, TransportError, "the host's name was not found"),
    (aiohttp.ClientConnectorCertificateError, TransportError, "the server's TLS certificate was not trusted"),
    (aiohttp.ClientSSLError, TransportError, "no TLS connection could be made"),
    (aiohttp.ClientConnectorError, TransportError, "no connection could be made"),
    (aiohttp.ServerDisconnectedError, TransportError, "the server closed the connection without a whole answer"),
    (aiohttp.ClientPayloadError, TransportError, "the answer's body was cut short or garbled"),
    (aiohttp.ClientResponseError, TransportError, "the answer is not HTTP"),
    (aiohttp.ClientOSError, TransportError, "the connection broke"),
    (aiohttp.ClientError, TransportError, "the request failed"),
    (OSError, TransportError, "the connection broke"),
)
"""Every failure of aiohttp, TLS and the operating system → the error it becomes; the first that fits counts."""


class Transport:
    """Carries looks to the server, at most so many at once and so many per second, and brings their answers.

    Belongs to the event loop of its first look.

    Args:
        endpoint: Where to ask.
        token: The bearer token, or where it comes from.
        session: A session of the caller's, used as it is and never closed; None to make one at the first look.
        request_timeout: Seconds for one exchange, connecting, headers and body together.
        attempts: How often one look may be sent, the first time included.
        rate_limit: What the pacer holds; None for no limit.
        max_concurrency: The most exchanges under way at once.
        ssl: The TLS context; None for aiohttp's own, which verifies.
    """

    def __init__(  # noqa: PLR0913 - one for each thing a user may set
        self,
        endpoint: Endpoint,
        token: str | TokenSource,
        *,
        session: aiohttp.ClientSession | None,
        request_timeout: float,
        attempts: int,
        rate_limit: RateLimit | None,
        max_concurrency: int,
        ssl: ssl.SSLContext | None,
    ) -> None:
        self._endpoint = endpoint
        self._token = token if callable(token) else check_token(token)
        self._borrowed = session
        self._session: aiohttp.ClientSession | None = session
        self._request_timeout = request_timeout
        self._timeout = aiohttp.ClientTimeout(total=request_timeout, ceil_threshold=float("inf"))
        self._attempts = attempts
        self._places = asyncio.Semaphore(max_concurrency)
        self._turnstile = _Turnstile(Pacer(rate_limit))
        self._ssl: ssl.SSLContext | bool = True if ssl is None else ssl
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def look(self, card: Card) -> ProductionStatus:
        """Ask once for a card's status, trying again after trouble that may pass.

        Args:
            card: Which card.

        Returns:
            What the answer says.

        Raises:
            UsageError: The transport is closed, or belongs to another event loop.
            TransportError: No answer came.
            ApiError: An error came.
            BadReply: What came is not the documented shape.
        """
        try:
            return await self._exchange(card)
        except CardprodError as error:
            error.card = card
            if self._attempts == 1 or not _may_pass(error):
                raise
            failure = error
        return await self._retry(card, failure)

    async def close(self) -> None:
        """Refuse new looks, end those under way, and close the session if it is our own. Twice does no harm."""
        self._closed = True
        self._turnstile.close()
        if self._session is not None and self._borrowed is None:
            await self._session.close()

    def check_usable(self) -> None:
        """Make sure that a look could begin in the running loop.

        Raises:
            UsageError: The transport is closed, or belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise UsageError("this client is closed; make a new one, or look before leaving its `async with`")
        if self._loop is None:
            self._loop = loop
        elif loop is not self._loop:
            raise UsageError("this client belongs to another event loop; make one in each loop that needs one")
        if self._session is not None and self._session.closed:
            raise UsageError("the session lent to this client is closed; keep it open for as long as the client")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Places and pace are kept here: aiohttp's timeout would count the queueing for its connections too.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _exchange(self, card: Card) -> ProductionStatus:
        """Send one request and read its whole answer, both within one timeout that starts when it may leave."""
        self.check_usable()
        async with self._places:
            token = self._token if isinstance(self._token, str) else check_token(await self._token())
            await self._turnstile.pass_through()
            self.check_usable()  # it may have been closed while this look was queueing
            request = self._endpoint.build_request(card, token=token, correlation_id=str(uuid.uuid4()))
            try:
                async with self._open_session().get(
                    URL(request.url, encoded=True),
                    headers=request.headers,
                    allow_redirects=False,
                    raise_for_status=False,
                    ssl=self._ssl,
                    timeout=self._timeout,
                ) as answer:
                    body = await _read_at_most(answer.content, MAX_BODY)
                    http_status, headers = answer.status, answer.headers
            except (aiohttp.ClientError, OSError) as exc:
                self.check_usable()  # closing breaks what is under way, which is no trouble of the network's
                raise _transport_error(exc, self._request_timeout) from exc
        if len(body) > MAX_BODY and http_status < 300:  # noqa: PLR2004
            raise over_long(headers, body)
        try:
            return decipher(http_status, headers, body)
        except RateLimited as error:
            if error.retry_after is not None:
                self._turnstile.close_until(asyncio.get_running_loop().time() + error.retry_after)
            raise

    async def _retry(self, card: Card, failure: CardprodError) -> ProductionStatus:
        """Go on after a failed first attempt. Only here is tenacity met, with a fresh object for each failing look."""
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt  # noqa: PLC0415

        first: CardprodError | None = failure

        async def attempt() -> ProductionStatus:
            nonlocal first
            if first is not None:
                failed, first = first, None
                raise failed
            return await self._exchange(card)

        retrying = AsyncRetrying(
            sleep=asyncio.sleep,
            stop=stop_after_attempt(self._attempts),
            wait=_seconds_to_retry,
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except CardprodError as error:
            error.card = card
            raise
        finally:
            # The failure's traceback holds this frame, and this frame the failure: part them.
            del failure, retrying


def _may_pass(error: BaseException) -> bool:
    """Whether the same look may well succeed a little later, and soon enough to try again within this one."""
    if isinstance(error, ApiError):
        return is_transient(error) and (error.retry_after or 0.0) <= _PATIENCE
    return isinstance(error, TransportError)


def _seconds_to_retry(state: RetryCallState) -> float:
    """Exponential backoff with full jitter, or `Retry-After` if that is longer."""
    backoff = random.uniform(0, min(_RETRY_FIRST * 2 ** (state.attempt_number - 1), _RETRY_CEILING))  # noqa: S311
    error = state.outcome.exception() if state.outcome is not None else None
    return max(backoff, (error.retry_after or 0.0) if isinstance(error, ApiError) else 0.0)


def _transport_error(exc: BaseException, timeout: float) -> TransportError:
    _, cls, words = next(row for row in _FAILURES if isinstance(exc, row[0]))
    return cls(f"{words.format(timeout=timeout)} ({type(exc).__name__})")


async def _read_at_most(content: aiohttp.StreamReader, limit: int) -> bytes:
    """Read to the end, or until there is more than the limit."""
    body = await content.readany()
    while len(body) <= limit and (chunk := await content.readany()):
        body += chunk
    return body


class _Turnstile:
    """Lets requests out one by one, first come first served, as the pacer allows. No task: one timer at the most."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._queue: deque[asyncio.Future[float]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def pass_through(self) -> None:
        """Wait for leave to send one request. Cancelled, it leaves its turn to the next."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._queue and self._pacer.ready_at() <= now:
            self._pacer.depart(now)
            return
        turn: asyncio.Future[float] = loop.create_future()
        self._queue.append(turn)
        if self._timer is None:
            self._let_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pacer.take_back(turn.result())  # its turn had just come
            self._let_out()
            raise

    def close_until(self, opens_at: float) -> None:
        """Let nobody out before then."""
        self._pacer.close_until(opens_at)

    def close(self) -> None:
        """Send everybody on: each finds out for itself that the client is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(float("-inf"))

    def _let_out(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            if self._queue[0].done():  # cancelled while it queued
                self._queue.popleft()
                continue
            now = loop.time()
            ready_at = self._pacer.ready_at()
            if ready_at > now:
                self._timer = loop.call_at(ready_at, self._let_out)
                return
            self._pacer.depart(now)
            self._queue.popleft().set_result(now)
