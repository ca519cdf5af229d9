"""`Transport`: one request for a card's status, with its permit, token, time limit and retries.

It is the one place of this layer that emits telemetry, and that pauses requests after a 429.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from contextlib import suppress
from importlib import import_module
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from cardprod._http.auth import OAuthToken, check_token
from cardprod._http.failures import is_retryable
from cardprod._http.limiter import CLOSED, RequestLimiter
from cardprod._http.secrets import Secret, drop_frames, drop_inner_frames, parse_redacted, redact, redact_status
from cardprod._http.session import Channel, pool_size
from cardprod._http.time_limit import TimeLimit
from cardprod._protocol.correlation import CorrelationIds
from cardprod._protocol.documents import status_structurer
from cardprod._protocol.responses import parse_response
from cardprod.errors import (
    ApiError,
    BadReply,
    CardprodError,
    RateLimited,
    RequestTimeout,
    TransportError,
    Unauthorized,
    UsageError,
    copy_of,
)
from cardprod.telemetry import RequestEnded, RequestRefused, RequestRetried, RequestStarted

if TYPE_CHECKING:
    import ssl as _ssl
    from collections.abc import Callable

    import aiohttp

    from cardprod._http.auth import TokenSource
    from cardprod._http.limiter import LimiterQueue, Permit
    from cardprod._http.proxies import ProxySetting
    from cardprod._http.rate_limit import RateLimit
    from cardprod._protocol.requests import Endpoint
    from cardprod.models import Card, ProductionStatus
    from cardprod.telemetry import Telemetry

_RESENT_FOR: Final = 120.0
"""Seconds from its first 429 on for which a request is sent again, without counting as an attempt."""


class Transport:
    """Sends requests, within the rate limit and the limit of concurrent ones, and returns their parsed answers.

    It belongs to the event loop of its first request. The arguments are those of `Client`.
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
        proxy: ProxySetting = None,
    ) -> None:
        self._endpoint = endpoint
        self._source = token if callable(token) else None
        self._token = Secret("" if callable(token) else check_token(token))
        self._source_errors: WeakSet[RateLimited] = WeakSet()  # raised by the token source, and of its own endpoint
        self._telemetry = telemetry
        self._channel = Channel(endpoint, session, ssl, proxy)
        self._ids: CorrelationIds  # made when it is first used, so that forked workers do not send the same ones
        self._request_timeout = request_timeout
        self._time_limit = TimeLimit(request_timeout)
        self._attempts = attempts
        self.limiter: RequestLimiter = RequestLimiter(rate_limit, min(max_concurrency, pool_size(session)))
        """Grants the permits."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that it belongs to; None before its first request."""
        return self._loop

    @property
    def paused_for(self) -> float:
        """Seconds for which no request may be sent, after a 429 or a call of `pause`; 0 without a pause."""
        if self._loop is None:
            return 0.0
        return max(0.0, self.limiter.paused_until - self._loop.time())

    def check_usable(self) -> None:
        """Check that a request can be sent in the running loop, and load what one may need.

        Raises:
            UsageError: The transport is closed, or belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._time_limit.is_closed:
            raise UsageError(CLOSED)
        if self._loop is loop:
            return
        if self._loop is not None:
            raise UsageError("this client belongs to another event loop; make one in each loop that needs one")
        try:
            import_module("cardprod._http.retries")  # after a failure an import may fail as well
            status_structurer("answer")
        except (ImportError, OSError) as exc:
            raise UsageError(
                f"this client cannot import what it needs ({exc}): check the installation, and the limit of open files"
            ) from exc
        self._ids = CorrelationIds(uuid.uuid4())
        self._closing = loop.create_future()
        self._loop = loop

    async def acquire(self, queue: LimiterQueue | None) -> Permit:
        """Wait for a permit, before a card is chosen for it."""
        self.check_usable()
        now = asyncio.get_running_loop().time()
        return self.limiter.try_acquire(now, queue) or await self.limiter.acquire(queue)

    async def request(
        self, card: Card, queue: LimiterQueue | None = None, permit: Permit | None = None
    ) -> ProductionStatus:
        """Request a card's status, with retries, and raise what `Client.get_status` does.

        Args:
            card: The card.
            queue: The batch it is for; None for a single poll.
            permit: A permit for the first attempt, which is released or given back here; None to acquire one.

        Raises:
            WouldBlock: Requests are paused, and the queue does not wait for pauses.
        """
        loop = asyncio.get_running_loop()
        try:
            try:
                # Each nested coroutine costs time, so the usual case sends from here.
                if self._source is None and self._loop is loop:
                    now, is_granted_now = loop.time(), permit is None
                    permit = permit or self.limiter.try_acquire(now, queue)
                    if permit is not None and (is_granted_now or self.limiter.renew(permit, now)):
                        return await self._send(card, self._token, loop, permit, now)
                return await self._send_with_token(permit, card, queue)
            except CardprodError as error:
                if not self._is_retryable(error, queue) or (self._attempts == 1 and not self._is_rate_limited(error)):
                    raise
                drop_frames(error)  # of which one holds it
                failure = error
            return await self._retry(card, queue, failure)
        except CardprodError as error:
            error.card = card
            drop_frames(error)
            raise
        except asyncio.CancelledError as exc:
            drop_frames(exc)
            raise
        except Exception as exc:
            drop_inner_frames(exc)  # a token source's own, a trace config's own
            raise

    async def close(self) -> None:
        """Refuse new requests, end those in flight, and close the session if it is our own. Can be called twice."""
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
        self.limiter.close()
        self._time_limit.close()
        await self._channel.close()
        if isinstance(self._source, OAuthToken):
            await self._source.close()

    # --- Attempts ---

    def _is_retryable(self, error: BaseException, queue: LimiterQueue | None) -> bool:
        return is_retryable(error) and (queue is None or queue.waits_for(error))

    def _is_rate_limited(self, error: BaseException) -> bool:
        """Whether a request of this client got a 429; one that a token source got is a failure like any other."""
        return isinstance(error, RateLimited) and error not in self._source_errors

    async def _retry(self, card: Card, queue: LimiterQueue | None, failure: CardprodError) -> ProductionStatus:
        """Retry after a failed first attempt. A tenacity loop costs 25 µs, so it is only used here.

        A 429 is no attempt: the request goes back to the limiter's queue, before those that were never sent, until two
        minutes after its first 429.
        """
        from cardprod._http.retries import retry, retry_delay  # noqa: PLC0415 - loaded before the first request

        loop = asyncio.get_running_loop()
        attempts_made, give_up_at = 0, math.inf
        rate_limited: RateLimited | None = None
        failed: tuple[int, CardprodError, float] | None = None  # the last attempt, its error, and when that came

        def report_retry() -> None:
            nonlocal failed
            if failed is not None and self._telemetry.wants_everything:
                attempt, error, failed_at = failed
                error.card = card
                drop_frames(error)
                self._telemetry.emit(RequestRetried(card, attempt, error, loop.time() - failed_at))
            failed = None

        async def attempt() -> ProductionStatus:
            nonlocal rate_limited, failed, give_up_at
            while True:
                permit = None
                if rate_limited is not None:
                    failed = attempts_made + 1, rate_limited, loop.time()
                    give_up_at = min(give_up_at, loop.time() + _RESENT_FOR)
                    permit = await self._acquire_again(queue, rate_limited, give_up_at)
                    rate_limited = None
                try:
                    return await self._send_with_token(permit, card, queue, report_retry)
                except RateLimited as error:
                    if not self._is_rate_limited(error) or not self._is_retryable(error, queue):
                        raise
                    drop_frames(error)
                    rate_limited = error

        def before_sleep(number: int, error: CardprodError) -> None:
            nonlocal attempts_made, failed
            attempts_made, failed = number, (number, error, loop.time())

        if isinstance(failure, RateLimited) and self._is_rate_limited(failure):
            rate_limited = failure
        else:
            before_sleep(1, failure)
            await self._sleep(retry_delay(1, failure))
        del failure  # its traceback holds frames that hold it: break the cycle
        try:
            return await retry(
                attempt,
                made=attempts_made,
                attempts=self._attempts,
                sleep=self._sleep,
                should_retry=lambda error: not self._is_rate_limited(error) and self._is_retryable(error, queue),
                before_sleep=before_sleep,
            )
        finally:
            failed = rate_limited = None  # as above

    async def _acquire_again(self, queue: LimiterQueue | None, error: RateLimited, give_up_at: float) -> Permit:
        """Wait for the permit of a request that got a 429, and raise that when it has waited long enough."""
        if self.limiter.paused_until < give_up_at:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(give_up_at):
                    return await self.limiter.acquire(queue, was_refused=True)
        try:
            raise error
        finally:
            del error  # as above

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but only until the client is closed, and raise `UsageError` then."""
        if self._closing is not None:
            await asyncio.wait([self._closing], timeout=seconds)
        self.check_usable()

    # --- One attempt ---

    async def _send_with_token(
        self,
        permit: Permit | None,
        card: Card,
        queue: LimiterQueue | None,
        report_retry: Callable[[], None] | None = None,
    ) -> ProductionStatus:
        """Get a token and a permit, send one request, and once more after a 401 if the source returns another token.

        A permit that was not used is given back.
        """
        loop = asyncio.get_running_loop()
        unauthorized: Unauthorized | None = None
        rejected: Secret | None = None
        try:
            self.check_usable()
            while True:
                token = await self._token_from(self._source, loop, rejected)
                if unauthorized is not None and rejected is not None and token.value == rejected.value:
                    raise unauthorized
                if permit is not None and not self.limiter.renew(permit, loop.time()):
                    permit.give_back()
                    permit = None
                if permit is None and (permit := self.limiter.try_acquire(loop.time(), queue)) is None:
                    permit = await self.limiter.acquire(queue)
                    token = await self._token_from(self._source, loop)  # it may have changed since
                try:
                    return await self._send(card, token, loop, permit, report_retry=report_retry)
                except Unauthorized as error:
                    if self._source is None or unauthorized is not None:
                        raise
                    unauthorized, rejected, permit = error, token, None
        finally:
            del unauthorized  # its traceback holds this frame: break the cycle
            if permit is not None:
                permit.give_back()

    async def _send(  # noqa: PLR0913, PLR0917 - by position, as it is called for each request
        self,
        card: Card,
        token: Secret,
        loop: asyncio.AbstractEventLoop,
        permit: Permit,
        now: float | None = None,
        report_retry: Callable[[], None] | None = None,
    ) -> ProductionStatus:
        """Send one request and read its whole answer, within one time limit."""
        try:
            if (current := asyncio.current_task()) is not None and current.cancelling():
                # Perhaps in this step of the event loop, as by an observer. This raises it, while nothing is awaited
                # whose own CancelledError it could be taken for.
                await asyncio.sleep(0)
            task = self._time_limit.start(current, loop.time() if now is None else now)
        except BaseException:  # closed since the permit was granted, or cancelled
            permit.give_back()
            raise
        try:
            if report_retry is not None or self._telemetry.is_observed:
                self._report_start(card, report_retry)
            correlation_id = self._ids.make()
            http_status, headers, body = await self._channel.get(
                # Not a local variable: it holds the token.
                self._endpoint.build_request(card, token=token.value, correlation_id=correlation_id),
                self._ids,
                correlation_id,
            )
            return redact_status(token, body, parse_redacted((token,), parse_response, http_status, headers, body))
        except (TransportError, ApiError, BadReply) as error:
            self._endpoint.name_server(error)
            if isinstance(error, TransportError):
                redact((token,), error)
                self._channel.drop_idle()
            elif isinstance(error, RateLimited):
                # Before the next request gets the permit's place.
                self.limiter.refuse(permit, loop.time(), error.retry_after)
                self._telemetry.emit(RequestRefused(card, error.retry_after, error.limited_by))
            raise
        except asyncio.CancelledError as exc:
            failure = self._failure_of_cancellation(task, "no whole answer")
            if failure is None:
                raise
            self._endpoint.name_server(failure)
            self._channel.drop_idle()
            raise failure from exc
        finally:
            self._time_limit.stop(task)
            permit.release()
            if self._telemetry.is_observed:
                self._telemetry.emit(RequestEnded(card))

    def _report_start(self, card: Card, report_retry: Callable[[], None] | None) -> None:
        if report_retry is not None:
            report_retry()
        self._telemetry.emit(RequestStarted(card))
        if self._time_limit.is_closed:  # by an observer, just now: the channel would open another session
            raise UsageError(CLOSED)

    async def _token_from(
        self, source: TokenSource | None, loop: asyncio.AbstractEventLoop, rejected: Secret | None = None
    ) -> Secret:
        """Get a token, after one that got a 401, from the source if there is one, within the limit of a request."""
        if source is None:
            return self._token
        if (current := asyncio.current_task()) is not None and current.cancelling():
            await asyncio.sleep(0)  # as above
        task = self._time_limit.start(current, loop.time())
        try:
            invalidate = getattr(source, "invalidate", None)
            if rejected is not None and callable(invalidate):
                invalidating: object = invalidate(rejected.value)
                if isawaitable(invalidating):
                    await invalidating
            giving: object = source()
            if not isawaitable(giving):
                raise UsageError("the token source must be an async callable: what it returns is awaited")
            return Secret(check_token(await giving))
        except CardprodError as error:
            # A source may raise one for all who ask, and each sets its card on it; `OAuthToken` makes each its own.
            own = error if type(source) is OAuthToken else copy_of(error)
            if isinstance(own, RateLimited):
                self._source_errors.add(own)
            raise own from error.__cause__
        except asyncio.CancelledError as exc:
            failure = self._failure_of_cancellation(task, "no token from its source")
            if failure is None:
                raise
            raise failure from exc
        finally:
            self._time_limit.stop(task)

    def _failure_of_cancellation(self, task: asyncio.Task[Any], what: str) -> CardprodError | None:
        """Return what a `CancelledError` in an exchange means; None if its caller cancelled it.

        Besides closing and the time limit, a token source or a trace config of the user's may have awaited something
        that was cancelled.
        """
        if self._time_limit.has_expired(task):
            if self._time_limit.is_closed:
                return UsageError(CLOSED)
            return RequestTimeout(f"{what} within {self._request_timeout:g} s: try again")
        if self._time_limit.is_cancelled(task):
            return None
        return TransportError(f"{what}, because something that it awaited was cancelled: try again")
