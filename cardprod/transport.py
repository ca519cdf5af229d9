"""One look over the network: pace, send, read, decipher, try again. The only room that knows aiohttp.

What an answer means is `wire`'s business, when the next look is due is `watch`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections import deque
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from cardprod.auth import check_token
from cardprod.errors import ApiError, CardprodError, RateLimited, RequestTimeout, TransportError, UsageError
from cardprod.pacing import Pacer
from cardprod.wire import MAX_BODY, decipher, is_transient, over_long

if TYPE_CHECKING:
    import ssl as _ssl
    from collections.abc import Mapping

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
    (TimeoutError, RequestTimeout, "the connection timed out"),
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


_SENDS_AGAIN: Final = "_retry_connection"

_SECRET: Final = 12
"""Characters. No real token is shorter, and a shorter one may be a word that the error says for another reason."""

_NO_HEADERS: Final = CIMultiDictProxy[str](CIMultiDict())

_MAX_NODE: Final = 2**48 - 1

_CLOSED: Final = "this client is closed; make a new one, or look before leaving its `async with`"

_NO_TIMEOUT: Final = aiohttp.ClientTimeout()
"""Not aiohttp's: `_Cutoff` holds the whole exchange to its time, for much less than a timer for each would cost."""


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
        ssl: _ssl.SSLContext | None,
    ) -> None:
        self._endpoint = endpoint
        self._token = token if callable(token) else check_token(token)
        self._borrowed = session
        self._session: aiohttp.ClientSession | None = session
        self._request_timeout = request_timeout
        self._cutoff = _Cutoff(request_timeout)
        self._attempts = attempts
        self._turnstile = _Turnstile(Pacer(rate_limit), max_concurrency)
        self._ssl: _ssl.SSLContext | bool = True if ssl is None else ssl
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Future[None] | None = None
        self._closed = False
        # A random UUID whose last 12 digits are counted on from where they are: fresh each time, and cheap.
        first_id = uuid.uuid4()
        self._correlation_prefix = str(first_id)[:24]
        self._correlation_counter = itertools.count(first_id.node)

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
        try:
            return await self._retry(card, failure)
        finally:
            del failure  # its traceback holds this frame: part them, so that nothing waits for the garbage collector

    async def close(self) -> None:
        """Refuse new looks, end those under way, and close the session if it is our own. Twice does no harm."""
        self._closed = True
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
        self._turnstile.close()
        self._cutoff.close()
        if self._session is not None and self._borrowed is None:
            await self._session.close()

    def check_usable(self) -> None:
        """Make sure that a look could begin in the running loop.

        Raises:
            UsageError: The transport is closed, or belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise UsageError(_CLOSED)
        if self._loop is not loop:
            if self._loop is not None:
                raise UsageError("this client belongs to another event loop; make one in each loop that needs one")
            self._loop = loop
            self._closing = loop.create_future()

    def _open_session(self) -> aiohttp.ClientSession:
        # Places and pace are kept here: aiohttp's timeout would count the queueing for its connections too.
        connector = aiohttp.TCPConnector(limit=0)
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
        self._session = session
        return session

    async def _exchange(self, card: Card) -> ProductionStatus:
        """Send one request and read its whole answer, both within one timeout that starts when it may leave."""
        loop = asyncio.get_running_loop()
        if self._closed or self._loop is not loop:
            self.check_usable()
        token = self._token
        if not isinstance(token, str):
            token = await self._token_from(token, loop)
        now = loop.time()
        if not self._turnstile.pass_at_once(now):
            await self._turnstile.queue(loop)
            if self._closed:  # between its turn and this line
                self._turnstile.leave()
                raise UsageError(_CLOSED)
            now = loop.time()
        task = self._cutoff.start(loop, now)
        try:
            return decipher(*await self._send(card, token))
        except RateLimited as error:
            # Before the place is given to the next, so that the gate is closed to that one already.
            if error.retry_after is not None:
                self._turnstile.close_until(loop.time() + error.retry_after)
            raise
        except (aiohttp.ClientError, OSError) as exc:
            raise _transport_error(exc) from exc
        except asyncio.CancelledError as exc:
            if not self._cutoff.came(task):
                raise
            raise self._cut_off("no whole answer") from exc
        finally:
            self._cutoff.stop(task)
            self._turnstile.leave()

    async def _token_from(self, source: TokenSource, loop: asyncio.AbstractEventLoop) -> str:
        """Ask the source for a token, for as long as a request may take."""
        task = self._cutoff.start(loop, loop.time())
        try:
            giving: object = source()
            if not isawaitable(giving):
                raise UsageError("the token source must be an async callable: what it gives is awaited")
            return check_token(await giving)
        except asyncio.CancelledError as exc:
            if not self._cutoff.came(task):
                raise
            raise self._cut_off("no token from its source") from exc
        finally:
            self._cutoff.stop(task)

    def _cut_off(self, what: str) -> CardprodError:
        """Make the error for what was cut off: by closing, or by its time."""
        return UsageError(_CLOSED) if self._closed else RequestTimeout(f"{what} within {self._request_timeout:g} s")

    async def _send(self, card: Card, token: str) -> tuple[int, Mapping[str, str], bytes]:
        session = self._session or self._open_session()
        correlation_id = f"{self._correlation_prefix}{next(self._correlation_counter) & _MAX_NODE:012x}"
        url, headers = self._endpoint.build_request(card, token=token, correlation_id=correlation_id)
        try:
            answer = await session.get(
                url,
                headers=headers,
                allow_redirects=False,
                raise_for_status=False,
                ssl=self._ssl,
                timeout=_NO_TIMEOUT,
            )
        except (RuntimeError, ValueError) as exc:
            if self._borrowed is None or isinstance(exc, aiohttp.ClientError):
                raise
            if session.closed:
                raise UsageError(
                    "the session lent to this client is closed; keep it open as long as the client"
                ) from exc
            raise UsageError(f"the session lent to this client cannot be used: {exc}") from exc
        content = answer.content
        try:
            body = content.read_nowait() if content.is_eof() else await content.readany()
            while not content.at_eof() and len(body) <= MAX_BODY:
                body += await content.readany()
        finally:
            if not content.at_eof():  # at its end, the connection has gone back to the pool by itself
                answer.close()
        if len(body) > MAX_BODY and answer.status < 300:  # noqa: PLR2004 - an error says enough in its first MiB
            raise over_long(answer.headers, body)
        if answer.status != 200 and len(token) >= _SECRET:  # noqa: PLR2004 - it may repeat the token it complains of
            body = body.replace(token.encode(), b"[token]")
        return answer.status, answer.headers, body

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
            sleep=self._sleep,
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
            first = None
            del failure, retrying  # as in `look`

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not on after the client is closed: the attempt that follows finds that out."""
        if self._closing is not None:
            await asyncio.wait([self._closing], timeout=seconds)


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET again by itself: it does so after these two errors, and not after ours."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise _transport_error(exc) from exc


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


def _transport_error(exc: BaseException) -> TransportError:
    name = type(exc).__name__
    if isinstance(exc, aiohttp.ClientResponseError):
        # It carries the request's headers, and so the token, to wherever an error's cause is shown.
        request = exc.request_info
        exc.request_info = aiohttp.RequestInfo(request.url, request.method, _NO_HEADERS, request.real_url)
        exc.args = (exc.request_info, exc.history)
    _, cls, words = next(row for row in _FAILURES if isinstance(exc, row[0]))
    # The exception's own text may hold the whole URL, and so the whole card token: only the system's words are quoted.
    reason: str | None = getattr(exc, "strerror", None)
    return cls(f"{words} ({reason or name})")


class _Cutoff:
    """Cuts off exchanges that take longer than all of them may, with one timer for all.

    The one that started first is the first to be due, because each may take equally long. A timer for each would cost
    more than everything else this package adds to a look: 8 of 65 µs, as `asyncio.timeout` or aiohttp's own.
    Cutting off is cancelling, and is told from a caller's cancelling as `asyncio.timeout` tells it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # Whose exchange → when it is due, and how often the task was being cancelled before; in the order they started.
        self._under_way: dict[asyncio.Task[Any], tuple[float, int]] = {}
        self._cut_off: dict[asyncio.Task[Any], int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop, now: float) -> asyncio.Task[Any]:
        """Start the clock for what the current task does next, and say which task that is."""
        task = asyncio.current_task()
        if task is None:
            raise UsageError("a look must be awaited inside a task, as every coroutine under asyncio.run is")
        due_at = now + self._seconds
        self._under_way[task] = due_at, task.cancelling()
        if self._timer is None:
            self._timer = loop.call_at(due_at, self._cut_off_overdue)
        return task

    def came(self, task: asyncio.Task[Any]) -> bool:
        """Say, of a cancellation, whether it is the cut-off alone, and no caller is cancelling the task as well."""
        cancelling = self._cut_off.pop(task, None)
        return cancelling is not None and task.uncancel() <= cancelling

    def stop(self, task: asyncio.Task[Any]) -> None:
        """Stop the task's clock."""
        if self._under_way.pop(task, None) is None and self._cut_off.pop(task, None) is not None:
            task.uncancel()  # it was cut off and ended in another way at the same time

    def close(self) -> None:
        """Cut off everything that is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._under_way:
            self._cut_off_first()

    def _cut_off_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        while self._under_way:
            due_at, _ = next(iter(self._under_way.values()))
            if due_at > now:
                self._timer = loop.call_at(due_at, self._cut_off_overdue)
                return
            self._cut_off_first()

    def _cut_off_first(self) -> None:
        task, (_, cancelling) = next(iter(self._under_way.items()))
        del self._under_way[task]
        self._cut_off[task] = cancelling
        task.cancel()


class _Turnstile:
    """Lets requests out first come first served, as there are places and the pacer allows.

    Holds no task, and one timer at the most. Whoever passed must leave.
    """

    def __init__(self, pacer: Pacer, places: int) -> None:
        self._pacer = pacer
        self._places = places
        self._queue: deque[asyncio.Future[float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def pass_at_once(self, now: float) -> bool:
        """Pass if there is nothing to wait for."""
        if self._queue or not self._places or self._pacer.ready_at() > now:
            return False
        self._pacer.depart(now)
        self._places -= 1
        return True

    async def queue(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for one's turn, and pass. Cancelled, one's turn goes to the next."""
        self._loop = loop
        turn: asyncio.Future[float] = loop.create_future()
        self._queue.append(turn)
        if self._timer is None:
            self._let_out()
        try:
            await turn
        except BaseException:  # cancelled, or its coroutine closed
            if not turn.done():
                turn.cancel()
            elif not turn.cancelled() and turn.exception() is None:  # the turn had just come
                self._pacer.take_back(turn.result())
                self._places += 1
            self._let_out()
            raise

    def leave(self) -> None:
        """Give the place to the next."""
        self._places += 1
        if self._queue and self._timer is None:
            self._let_out()

    def close_until(self, opens_at: float) -> None:
        """Let nobody out before then."""
        self._pacer.close_until(opens_at)

    def close(self) -> None:
        """Send everybody away."""
        self._set_timer(None)
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(UsageError(_CLOSED))
        self._queue.clear()

    def _let_out(self) -> None:
        self._set_timer(None)
        if self._loop is None or self._loop.is_closed():
            return
        now = self._loop.time()
        while self._queue and self._places:
            if self._queue[0].done():  # cancelled while it queued
                self._queue.popleft()
            elif (ready_at := self._pacer.ready_at()) > now:
                self._set_timer(ready_at)
                return
            else:
                self._pacer.depart(now)
                self._places -= 1
                self._queue.popleft().set_result(now)

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None or self._loop is None else self._loop.call_at(at, self._let_out)
