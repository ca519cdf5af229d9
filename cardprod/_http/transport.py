"""`Transport`: one request for a card's status, with its permit, its token, its time limit and its further attempts.

How the exchange goes over aiohttp is `session`'s and `fast_path`'s business, what an answer means `_protocol`'s, when
the next poll is due `_polling`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from importlib import import_module
from inspect import isawaitable
from typing import TYPE_CHECKING, Final

from cardprod._http.auth import OAuthToken, check_token
from cardprod._http.failures import is_retryable
from cardprod._http.limiter import CLOSED, RequestLimiter
from cardprod._http.secrets import parse_redacted, redact
from cardprod._http.session import Channel, check_verifies
from cardprod._http.time_limit import TimeLimit
from cardprod._protocol.documents import status_structurer
from cardprod._protocol.responses import is_answer_to, parse_response
from cardprod.errors import CardprodError, RateLimited, RequestTimeout, TransportError, Unauthorized, UsageError
from cardprod.telemetry import RequestEnded, RequestRefused, RequestRetried, RequestStarted

if TYPE_CHECKING:
    import ssl as _ssl
    from collections.abc import Mapping

    import aiohttp

    from cardprod._http.auth import TokenSource
    from cardprod._http.limiter import LimiterQueue, Permit
    from cardprod._http.rate_limit import RateLimit
    from cardprod._protocol.requests import Endpoint
    from cardprod.models import Card, ProductionStatus
    from cardprod.telemetry import Telemetry

__all__ = ["Transport"]

_MAX_NODE: Final = 2**48 - 1


class Transport:
    """Sends requests, at most so many at once and so many per second, and returns what their answers mean.

    Belongs to the event loop of its first request.

    Args:
        endpoint: Where to send.
        token: The bearer token, or where it comes from.
        telemetry: Where events go.
        session: A session of the caller's, used as it is and never closed; None to make one with the first request.
        request_timeout: Seconds for one exchange, connecting, headers and body together.
        attempts: How often one request may be sent, the first time included.
        rate_limit: The most requests per second and per minute; None for no limit.
        max_concurrency: The most exchanges under way at once.
        ssl: The TLS context; None for aiohttp's own, which verifies.
    """

    def __init__(  # noqa: PLR0913 - one for each thing a user may set
        self,
        endpoint: Endpoint,
        token: str | TokenSource,
        telemetry: Telemetry,
        *,
        session: aiohttp.ClientSession | None,
        request_timeout: float,
        attempts: int,
        rate_limit: RateLimit | None,
        max_concurrency: int,
        ssl: _ssl.SSLContext | None,
    ) -> None:
        check_verifies(ssl, session)
        self._endpoint = endpoint
        self._source = token if callable(token) else None
        self._token = "" if callable(token) else check_token(token)
        self._telemetry = telemetry
        self._lent = session
        self._channel: Channel | None = None
        self._request_timeout = request_timeout
        self._time_limit = TimeLimit(request_timeout)
        self._attempts = attempts
        self.limiter: RequestLimiter = RequestLimiter(rate_limit, max_concurrency)
        """Where permits come from."""
        self._ssl: _ssl.SSLContext | bool = True if ssl is None else ssl
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Future[None] | None = None
        self._is_closed = False
        self._correlation_prefix = ""
        self._correlation_counter = itertools.count()

    @property
    def paused_for(self) -> float:
        """Seconds for which no request may be sent, because of a 429; 0 mostly."""
        if self._loop is None:
            return 0.0
        return max(0.0, self.limiter.window.paused_until - self._loop.time())

    def pause(self, seconds: float) -> None:
        """Send no request for so long."""
        self.limiter.pause_until(asyncio.get_running_loop().time() + seconds)

    def check_usable(self) -> None:
        """Check that a request could be sent in the running loop, and load what one may need.

        Raises:
            UsageError: The transport is closed, or belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._is_closed:
            raise UsageError(CLOSED)
        if self._loop is loop:
            return
        if self._loop is not None:
            raise UsageError("this client belongs to another event loop; make one in each loop that needs one")
        self._loop = loop
        self._closing = loop.create_future()
        # A random UUID whose last 12 digits are counted on from where they are: fresh each time, and cheap. It is made
        # here and not in the constructor, so that forked workers do not send the same ids.
        first_id = uuid.uuid4()
        self._correlation_prefix = str(first_id)[:24]
        self._correlation_counter = itertools.count(first_id.node)
        try:
            import_module("cardprod._http.retries")  # for later, when imports may fail
            status_structurer("answer")
        except (ImportError, OSError) as exc:
            self._loop = None
            raise UsageError(f"this client cannot load what its requests need: {exc}") from exc

    async def acquire(self, queue: LimiterQueue | None = None) -> Permit:
        """Wait for a permit, before it is decided which card it is for.

        Args:
            queue: The batch it is for.

        Raises:
            UsageError: The transport is closed, or belongs to another event loop.
            WouldBlock: Requests are paused, and the queue does not wait for that.
        """
        self.check_usable()
        return await self.limiter.acquire(queue)

    async def request(
        self, card: Card, queue: LimiterQueue | None = None, permit: Permit | None = None
    ) -> ProductionStatus:
        """Ask for a card's status, and again after failures that may pass.

        Args:
            card: Which card.
            queue: The batch it is for; None for a poll that somebody awaits alone.
            permit: One that was acquired, for the first attempt; it is released or given back here.

        Returns:
            What the answer says.

        Raises:
            UsageError: The transport is closed, or belongs to another event loop.
            WouldBlock: Requests are paused, and the queue does not wait for that.
            TransportError: No answer came.
            ApiError: An error came.
            BadReply: What came is not the documented shape.
        """
        loop = asyncio.get_running_loop()
        try:
            # Each coroutine on the way costs: mostly this one sends by itself.
            if self._source is None and self._loop is loop and not self._is_closed:
                permit = permit or self.limiter.try_acquire(loop.time(), queue)
                if permit is not None:
                    return await self._send(card, self._token, loop, permit)
            return await self._exchange(card, queue, permit)
        except CardprodError as error:
            error.card = card
            if self._attempts == 1 or not self._is_worth_another(error, queue):
                raise
            failure = error
        finally:
            if permit is not None:
                permit.give_back()  # unless it was used
        return await self._retry(card, queue, failure)

    async def close(self) -> None:
        """Refuse new requests, end those under way, and close the session if it is our own. Twice does no harm."""
        self._is_closed = True
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
        self.limiter.close()
        self._time_limit.close()
        if self._channel is not None:
            await self._channel.close()
        if isinstance(self._source, OAuthToken):
            await self._source.close()

    # --- Attempts ---

    def _is_worth_another(self, error: BaseException, queue: LimiterQueue | None) -> bool:
        return is_retryable(error) and (queue is None or queue.waits_for(error))

    async def _retry(self, card: Card, queue: LimiterQueue | None, failure: CardprodError) -> ProductionStatus:
        """Go on after a failed first attempt. A tenacity loop costs 25 µs, so it is entered only here."""
        from cardprod._http.retries import retry, retry_delay  # noqa: PLC0415 - loaded before the first request

        delay = retry_delay(1, failure)
        self._report_retry(card, 1, failure, delay)
        del failure  # its traceback holds frames that hold it: separate them
        await self._sleep(delay)
        try:
            return await retry(
                lambda: self._exchange(card, queue, None),
                made=1,
                attempts=self._attempts,
                sleep=self._sleep,
                is_worth_it=lambda error: self._is_worth_another(error, queue),
                before_sleep=lambda attempt, error, seconds: self._report_retry(card, attempt, error, seconds),
            )
        except CardprodError as error:
            error.card = card
            raise

    def _report_retry(self, card: Card, attempt: int, error: CardprodError, seconds: float) -> None:
        if self._telemetry.wants_everything:
            self._telemetry.emit(RequestRetried(card, attempt, error, seconds))

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not on after the client is closed: the attempt that follows finds that out."""
        if self._closing is not None:
            await asyncio.wait([self._closing], timeout=seconds)

    # --- One attempt ---

    async def _exchange(self, card: Card, queue: LimiterQueue | None, permit: Permit | None) -> ProductionStatus:
        """Send one request with a permit, and once more if its token was refused and another has come."""
        loop = asyncio.get_running_loop()
        if self._is_closed or self._loop is not loop:
            self.check_usable()
        if self._source is None:
            if permit is None:
                permit = self.limiter.try_acquire(loop.time(), queue) or await self.limiter.acquire(queue)
            return await self._send(card, self._token, loop, permit)
        token = await self._token_from(self._source, loop)
        if permit is None and (permit := self.limiter.try_acquire(loop.time(), queue)) is None:
            permit = await self.limiter.acquire(queue)
            token = await self._token_with(permit, self._source, loop)  # it may have changed since
        try:
            return await self._send(card, token, loop, permit)
        except Unauthorized as error:
            refusal = error
        try:
            invalidate = getattr(self._source, "invalidate", None)
            if callable(invalidate):
                invalidate(token)
            other = await self._token_from(self._source, loop)
            if other == token:
                raise refusal
            if (permit := self.limiter.try_acquire(loop.time(), queue)) is None:
                permit = await self.limiter.acquire(queue)
                other = await self._token_with(permit, self._source, loop)
            return await self._send(card, other, loop, permit)
        finally:
            del refusal  # its traceback holds this frame: separate them

    async def _token_with(self, permit: Permit, source: TokenSource, loop: asyncio.AbstractEventLoop) -> str:
        """Ask the source for a token with a permit in hand, which is given back if none comes."""
        try:
            return await self._token_from(source, loop)
        except BaseException:
            permit.give_back()
            raise

    async def _send(self, card: Card, token: str, loop: asyncio.AbstractEventLoop, permit: Permit) -> ProductionStatus:
        """Send one request and read its whole answer, both within one time limit that starts now."""
        if self._is_closed:  # between its permit and this line
            permit.give_back()
            raise UsageError(CLOSED)
        task = self._time_limit.start(loop, loop.time())
        if self._telemetry.observer is not None:
            self._telemetry.emit(RequestStarted(card))
        try:
            channel = self._channel
            if channel is None:
                channel = self._channel = Channel(self._endpoint.prefix, self._lent, self._ssl)
            correlation_id = f"{self._correlation_prefix}{next(self._correlation_counter) & _MAX_NODE:012x}"
            request = self._endpoint.build_request(card, token=token, correlation_id=correlation_id)
            http_status, headers, body = await channel.get(request)
            return _parse(token, correlation_id, http_status, headers, body)
        except TransportError as error:
            redact((token,), error)
            raise
        except RateLimited as error:
            self._pause_for(card, error, loop)  # before the place is given to the next request
            raise
        except asyncio.CancelledError as exc:
            if not self._time_limit.has_expired(task):
                raise
            raise self._cut_off("no whole answer") from exc
        finally:
            self._time_limit.stop(task)
            permit.release()
            if self._telemetry.observer is not None:
                self._telemetry.emit(RequestEnded(card))

    def _pause_for(self, card: Card, error: RateLimited, loop: asyncio.AbstractEventLoop) -> None:
        if error.retry_after is not None:
            self.limiter.pause_until(loop.time() + error.retry_after)
        if self._telemetry.observer is not None:
            self._telemetry.emit(RequestRefused(card, error.retry_after, error.limited_by))

    async def _token_from(self, source: TokenSource, loop: asyncio.AbstractEventLoop) -> str:
        """Ask the source for a token, for as long as a request may take."""
        task = self._time_limit.start(loop, loop.time())
        cancelling = task.cancelling()
        try:
            giving: object = source()
            if not isawaitable(giving):
                raise UsageError("the token source must be an async callable: what it gives is awaited")
            return check_token(await giving)
        except asyncio.CancelledError as exc:
            if self._time_limit.has_expired(task):
                raise self._cut_off("no token from its source") from exc
            if task.cancelling() > cancelling:
                raise
            # Nobody cancels us: the source awaited something that somebody else cancelled.
            raise TransportError("no token from its source: what it waited for was cancelled") from exc
        finally:
            self._time_limit.stop(task)

    def _cut_off(self, what: str) -> CardprodError:
        """Make the error for an exchange that was ended: by closing, or by its time limit."""
        if self._is_closed:
            return UsageError(CLOSED)
        return RequestTimeout(f"{what} within {self._request_timeout:g} s: try again")


def _parse(
    token: str, correlation_id: str, http_status: int, headers: Mapping[str, str], body: bytes
) -> ProductionStatus:
    if not is_answer_to(headers, correlation_id):
        raise TransportError("the answer is to another request: try again (the correlation id is not ours)")
    return parse_redacted((token,), parse_response, http_status, headers, body)
