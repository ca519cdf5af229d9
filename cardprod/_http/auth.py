"""Where the bearer token comes from: a `TokenSource` of the user's, or `OAuthToken`, which refreshes itself.

Access tokens, refresh tokens and client secrets appear in no repr, log or error.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl as _ssl
import uuid
from datetime import UTC, datetime, timedelta
from importlib import import_module
from inspect import isawaitable
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp
import attrs

from cardprod._http.failures import is_retryable
from cardprod._http.secrets import Secret, drop_frames, drop_inner_frames, parse_redacted, redact
from cardprod._http.session import Channel
from cardprod._protocol.requests import PRODUCTION, Endpoint, is_token
from cardprod._protocol.responses import parse_token_response
from cardprod._protocol.validation import check_aware, check_callable, check_flag, check_seconds, check_text, check_type
from cardprod.errors import (
    ApiError,
    BadReply,
    CardprodError,
    RequestTimeout,
    TokenRefreshFailed,
    TransportError,
    UsageError,
    copy_of,
)
from cardprod.telemetry import warn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cardprod._http.proxies import ProxySetting
    from cardprod._protocol.responses import TokenGrant

_ATTEMPTS: Final = 3
"""How often one refresh is sent before it fails."""
_BACKOFF_FIRST: Final = 1.0
_BACKOFF_CEILING: Final = 60.0
"""Seconds: after a failed refresh the next one is not sent for the first of these, doubled with each further failure up
to the second."""
_GRACE: Final = 2.0
"""Seconds that callers wait for a refresh while the old token is still valid. A refresh revokes that token, so its
callers wait for it; but not for long, because the endpoint may not answer."""
_REFUSED_PAUSE: Final = 30.0
"""Seconds after a refresh in which a 401 to the new token starts no other: a refresh did not help."""
_NEAR_END: Final = 60.0
"""Seconds before the old token's expiry, or a tenth of what is left of it, in which a refresh whose answer was lost is
sent again."""
_NOT_TAKEN: Final = 503
"""The server's failure that says that a request was not processed; 500, or a gateway's 502 and 504, leave that open."""
_PERMANENT: Final = frozenset({"invalid_grant", "invalid_client", "unauthorized_client"})
"""Error codes after which no later refresh can succeed."""
_CLIENT_ID: Final = re.compile(r"[\x20-\x39\x3b-\x7e]+")
"""RFC 7617, section 2: the user-id of HTTP Basic contains no colon."""
_CLIENT_SECRET: Final = re.compile(r"[\x20-\x7e]+")


class TokenSource(Protocol):
    """Returns the token for the next request. Any async function without arguments is one.

    It is awaited before every request, for at most `request_timeout` seconds, so it should return a cached token and
    fetch one only when it must. After a 401 it is called once more, and if it returns another token, the request is
    repeated with that one; if it has a method `invalidate(token)`, that is called with the refused token first. An
    exception that it raises is raised as it is, and ends a wait; but a `CardprodError` is a failure of the request, of
    which each caller gets a copy that names its card.
    """

    def __call__(self) -> Awaitable[str]:
        """Return a bearer token that is valid now."""
        ...


def check_token(token: object, name: str = "token") -> str:
    """Check a token, and return it. It is in no error."""
    if not isinstance(token, str):
        or_source = " or an async callable that gives one" if name == "token" else ""
        raise UsageError(f"the {name} must be a str{or_source}, not a {type(token).__name__}")
    if not token:
        or_env = ", or call Client.from_env()" if name == "token" else ""
        raise UsageError(f"the {name} is empty: pass the whole token, as Wise gave it{or_env}")
    if token[:7].lower() == "bearer ":
        raise UsageError(f"the {name} begins with 'Bearer ': pass only what follows it")
    if not is_token(token):
        raise UsageError(
            f"the {name} holds white space, control or non-ASCII characters; "
            "strip it, if it was read from a file that ends with a line break"
        )
    return token


@attrs.frozen
class TokenPair:
    """An access token and its refresh token: store both, for the next process to continue with.

    Its repr shows neither token.

    Args:
        access_token: The bearer token.
        refresh_token: The token for the next refresh; the previous one may be invalid already.
        expires_at: When the access token expires, aware and in UTC; None if unknown.
    """

    access_token: str = attrs.field(repr=False)
    refresh_token: str = attrs.field(repr=False)
    expires_at: datetime | None = None


class OAuthToken:
    """A Wise user token that refreshes itself: a `TokenSource` for `Client`.

    ```python
    async def store(pair: TokenPair) -> None:
        ...  # where the next process finds it


    token = OAuthToken("client-id", "client-secret", "refresh-token", base_url=SANDBOX, on_refresh=store)
    async with Client(token, base_url=SANDBOX) as client:
        status = await client.get_status(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")
    ```

    All requests share one refresh at a time, because Wise revokes the old access token with it. A request that got a
    401 with the old token is sent once more with the new one; a 401 to the current token causes one refresh and one
    repetition. While the old token is still valid, it is used after a refresh that failed or takes longer than
    2 seconds. The next refresh after a failure is sent up to 60 seconds later, or after the answer's `Retry-After`.
    One whose answer was lost may have been carried out, and its refresh token be used up: servers that detect reuse
    then revoke everything. So it is sent again only when the old token gets a 401 or is a minute from its expiry.
    After a permanent refusal, such as `invalid_grant`, no refresh is sent any more, and once the old token is not valid
    every call raises it. Cancelling a caller does not cancel the refresh.

    Share one instance among all clients of a process that act for the same user, in one event loop. Among several
    processes let one refresh; the others use an async callable that reads what `on_refresh` stored.

    Args:
        client_id: The client's id, from Wise.
        client_secret: The client's secret, from Wise.
        refresh_token: The newest refresh token.
        access_token: The access token that came with it; None to get one with the first request.
        expires_at: When that expires, an aware datetime; None if unknown: it is used until it gets a 401.
        base_url: `PRODUCTION`, `SANDBOX`, or another server with the same API; with a client certificate,
            `PRODUCTION_MTLS` or `SANDBOX_MTLS`.
        api_version: As for `Client`: with "v3" and the like the path is `/oauth/token`, with a calendar version
            `/2026Q3/oauth/token`.
        on_refresh: Is awaited with each new `TokenPair`, before any request uses it, to store it. What it raises is
            raised by the requests that wait for the token; the next request calls it with the same pair again.
        refresh_before: How many seconds before its expiry a token is refreshed, at most half its lifetime; by default
            six hours, as Wise advises. Increased randomly by up to half, so that many processes do not refresh at once.
        session: A session to use instead of one for each refresh; it is never closed here.
        ssl: A TLS context, for a client certificate or a private authority.
        proxy: As for `Client`.
        request_timeout: Seconds for one token request. One refresh is up to three of them.
        allow_plain_http: Accept plain http to hosts other than loopback. For test networks only.

    Raises:
        UsageError: An argument is invalid; the message says which, and what would be valid.
    """

    def __init__(  # noqa: PLR0913 - one for each thing a user may set
        self,
        client_id: str,
        client_secret: str,
        refresh_token: str,
        *,
        access_token: str | None = None,
        expires_at: datetime | None = None,
        base_url: str = PRODUCTION,
        api_version: str = "v3",
        on_refresh: Callable[[TokenPair], Awaitable[None]] | None = None,
        refresh_before: float = 21600.0,
        session: aiohttp.ClientSession | None = None,
        ssl: _ssl.SSLContext | None = None,
        proxy: ProxySetting = None,
        request_timeout: float = 10.0,
        allow_plain_http: bool = False,
    ) -> None:
        try:
            check_text("client_id", client_id, "a str of printable ASCII without a colon", _CLIENT_ID)
            check_text("client_secret", client_secret, "a str of printable ASCII", _CLIENT_SECRET)
            check_token(refresh_token, "refresh token")
            if access_token is not None:
                check_token(access_token, "access token")
            check_aware("expires_at", expires_at)
            if expires_at is not None and access_token is None:
                raise UsageError("expires_at says when the access_token expires: pass that too, or neither")  # noqa: TRY301
            check_callable("on_refresh", on_refresh, "an async callable that takes a TokenPair")
            check_seconds("refresh_before", refresh_before)
            check_seconds("request_timeout", request_timeout, above_zero=True)
            check_type("session", session, aiohttp.ClientSession, or_none=True)
            check_flag("allow_plain_http", allow_plain_http)
            check_type("ssl", ssl, _ssl.SSLContext, or_none=True)
            self._endpoint = Endpoint(base_url, api_version, allow_plain_http)
            self._channel = Channel(self._endpoint, session, ssl, proxy)
        except UsageError as error:
            drop_frames(error)
            # This frame stays in the traceback, and any of these may hold a secret.
            del client_id, client_secret, refresh_token, access_token, expires_at, on_refresh
            del base_url, api_version, proxy
            raise
        self._client_id = client_id
        self._client_secret = client_secret
        self._refresh_token = refresh_token
        self._access_token = access_token
        self._expires_at = expires_at
        self._on_refresh = on_refresh
        self._refresh_before = refresh_before
        self._request_timeout = request_timeout
        # On the event loop's clock; None until the first call computes it from `expires_at`.
        self._refresh_at: float | None = None
        self._valid_until = float("inf")
        self._is_refused = False  # the current access token got a 401
        self._unstored: TokenPair | None = None  # received, but not stored by `on_refresh` yet
        self._refreshing: asyncio.Task[Exception | None] | None = None
        self._began_at = 0.0
        self._failure: CardprodError | None = None
        self._no_refresh_until = 0.0
        self._lost_until = float("-inf")  # no refresh before this, while the old token is valid: an answer was lost
        self._failures = 0
        self._refreshed_at = float("-inf")
        self._is_on_refresh_sync = False  # found out when it was called
        import_module("cardprod._http.retries")  # when it is refreshed, an import may fail

    @property
    def access_token(self) -> str | None:
        """The newest access token, whether or not `on_refresh` has stored it; None before the first."""
        return self._access_token

    @property
    def refresh_token(self) -> str:
        """The newest refresh token, whether or not `on_refresh` has stored it."""
        return self._refresh_token

    @property
    def expires_at(self) -> datetime | None:
        """When the newest access token expires, in UTC; None if unknown."""
        return self._expires_at

    async def __call__(self) -> str:
        """Return an access token that is valid now, after refreshing it if that is due.

        Raises:
            TokenRefreshFailed: The endpoint refused; with `code` "invalid_grant", the user must authorise again.
            TransportError: The endpoint did not answer.
            ApiError: It answered with another error.
            BadReply: It answered without a token.
            UsageError: A refresh is in progress in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._refresh_at is None:
            self._schedule_refresh(loop)
        if self._access_token is None or self._unstored is not None or self._is_due(loop.time()):
            return await self._renew(loop)
        return self._access_token

    def invalidate(self, token: str) -> None:
        """Mark a token as refused after a 401. If it is the current one, the next call refreshes it.

        A token that is refused within 30 seconds after its refresh is not refreshed before that: with a profile that
        the user may not see, for instance, each refresh would work and none would help.
        """
        if token == self._access_token:
            self._is_refused = True

    async def close(self) -> None:
        """Wait for a refresh in progress, so that its pair is stored. `Client.close` calls it.

        It waits for at most as long as the requests of one refresh may take: `on_refresh` may hang.
        """
        task = self._refreshing
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([task], timeout=_ATTEMPTS * self._request_timeout)

    def __repr__(self) -> str:
        return f"<OAuthToken at {self._endpoint.base_url}, expires at {self._expires_at}>"

    def _is_due(self, now: float) -> bool:
        if self._refresh_at is None or now >= self._refresh_at:
            return True
        return self._is_refused and now >= self._refreshed_at + _REFUSED_PAUSE

    def _is_valid(self, now: float) -> bool:
        """Whether the current token can still be used, although a refresh is due."""
        is_usable = self._access_token is not None and self._unstored is None
        return is_usable and not self._is_refused and now < self._valid_until

    def _schedule_refresh(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compute from the token's expiry when to refresh it, on the loop's clock."""
        self._refresh_at = self._valid_until = float("inf")
        if self._expires_at is not None:
            left = (self._expires_at - datetime.now(UTC)).total_seconds()
            early = min(self._refresh_before * random.uniform(1, 1.5), left / 2)  # noqa: S311 - to spread the load
            self._valid_until = loop.time() + left
            self._refresh_at = self._valid_until - max(early, 0)

    async def _renew(self, loop: asyncio.AbstractEventLoop) -> str:
        """Wait for the refresh in progress, or start one, and return the token. The refresh outlives its callers."""
        failure: Exception | None = self._failure
        now = loop.time()
        is_kept = now < self._lost_until and self._is_valid(now)
        if failure is None or (now >= self._no_refresh_until and not is_kept):
            task = self._refreshing
            if task is None:
                self._began_at = now
                task = self._refreshing = loop.create_task(self._refresh(loop))
                task.add_done_callback(self._end_refresh)
            elif task.get_loop() is not loop:
                raise UsageError("this token is being refreshed in another event loop; make one in each loop")
            failure = await self._outcome_of(task, loop)
        is_usable = self._unstored is None and (failure is None or self._is_valid(loop.time()))
        if is_usable and self._access_token is not None:
            return self._access_token
        try:
            # Each caller raises its own: this one is kept, and would keep the frames of all of them.
            raise (
                copy_of(failure)
                if isinstance(failure, CardprodError)
                else failure or UsageError("the refresh gave no token: check on_refresh")
            )
        finally:
            del failure  # its traceback holds this frame: break the cycle

    async def _outcome_of(
        self, task: asyncio.Task[Exception | None], loop: asyncio.AbstractEventLoop
    ) -> Exception | None:
        """Wait for a refresh, which goes on if this caller is cancelled; return its failure."""
        if self._is_valid(loop.time()):
            await asyncio.wait([task], timeout=max(self._began_at + _GRACE - loop.time(), 0))
            if not task.done() and self._is_valid(loop.time()):
                return RequestTimeout("refreshing the token: no answer yet: try again")
        if not task.done():
            await asyncio.wait([task])
        if task.cancelled():
            return TransportError(
                "the token's refresh was cancelled, for instance by the end of its event loop: try again"
            )
        return task.result()

    def _end_refresh(self, _: object) -> None:
        self._refreshing = None  # it may hold an error, and its frames

    async def _refresh(self, loop: asyncio.AbstractEventLoop) -> Exception | None:
        """Get a new pair and have it stored. A failure is returned, because each caller raises its own copy."""
        if self._unstored is None:
            try:
                self._accept(await self._request_token(), loop)
            except CardprodError as error:
                self._postpone_refresh(error, loop.time())
                return error
        pair = self._unstored
        if self._on_refresh is not None and pair is not None:
            try:
                storing: object = None if self._is_on_refresh_sync else self._on_refresh(pair)
                if not isawaitable(storing):
                    self._is_on_refresh_sync = True
                    return UsageError("on_refresh must be an async callable: what it returns is awaited")
                await storing
            except Exception as error:  # noqa: BLE001 - the user's own; the callers that wait for the token raise it
                return error
        self._unstored = None
        return None

    def _accept(self, grant: TokenGrant, loop: asyncio.AbstractEventLoop) -> None:
        self._refreshed_at = loop.time()
        self._access_token = grant.access_token
        self._refresh_token = grant.refresh_token or self._refresh_token
        self._expires_at = None
        if grant.expires_in is not None:
            self._expires_at = datetime.now(UTC) + timedelta(seconds=grant.expires_in)
        self._schedule_refresh(loop)
        self._is_refused = False
        self._failure, self._failures = None, 0
        self._lost_until = float("-inf")
        self._unstored = TokenPair(self._access_token, self._refresh_token, self._expires_at)

    def _postpone_refresh(self, failure: CardprodError, now: float) -> None:
        """Send no refresh for a while after a failure, or never again after a permanent refusal."""
        delay = min(_BACKOFF_FIRST * 2**self._failures, _BACKOFF_CEILING) * random.uniform(0.5, 1)  # noqa: S311 - as above
        if isinstance(failure, ApiError):
            delay = max(delay, failure.retry_after or 0.0)
        is_permanent = isinstance(failure, TokenRefreshFailed) and failure.code in _PERMANENT
        self._failure = failure
        self._failures = min(self._failures + 1, 10)
        self._no_refresh_until = float("inf") if is_permanent else now + delay
        if self._is_valid(now) and _is_lost(failure):
            self._lost_until = self._valid_until - min(_NEAR_END, (self._valid_until - now) / 10)
        if self._is_valid(now):
            message = "the token could not be refreshed, the old one is still used: %s"
            warn(message, str(failure), error=type(failure).__name__)

    async def _request_token(self) -> TokenGrant:
        """Send the refresh, with retries, unless the old token is valid and it may have been carried out."""
        from cardprod._http.retries import retry  # noqa: PLC0415 - loaded by the constructor

        now = asyncio.get_running_loop().time

        def should_retry(error: BaseException) -> bool:
            return is_retryable(error) and not (_is_lost(error) and self._is_valid(now()))

        try:
            return await retry(
                self._request_token_once, made=0, attempts=_ATTEMPTS, sleep=asyncio.sleep, should_retry=should_retry
            )
        except CardprodError as error:
            error.args = (f"refreshing the token: {error.args[0]}",)
            self._endpoint.name_server(error)
            drop_frames(error)
            raise
        except Exception as error:
            drop_inner_frames(error)  # a trace config's own
            raise

    async def _request_token_once(self) -> TokenGrant:
        request, body = self._endpoint.build_refresh(
            client_id=self._client_id,
            client_secret=self._client_secret,
            refresh_token=self._refresh_token,
            correlation_id=str(uuid.uuid4()),
        )
        basic = request[1]["Authorization"].removeprefix("Basic ")
        secrets = [*map(Secret, (basic, self._client_secret, self._refresh_token, self._access_token or ""))]
        try:
            async with asyncio.timeout(self._request_timeout):
                answer = await self._channel.send("POST", request, body=body)
        except CardprodError as error:
            redact(secrets, error)
            self._channel.drop_idle()
            raise
        except TimeoutError as exc:
            self._channel.drop_idle()
            raise RequestTimeout(f"no whole answer within {self._request_timeout:g} s: try again") from exc
        finally:
            await self._channel.close()
        return parse_redacted(secrets, parse_token_response, *answer)


def _is_lost(error: BaseException) -> bool:
    """Whether a refresh that failed may have been carried out: it was sent, and no answer says that it was refused."""
    if isinstance(error, ApiError):
        return error.http_status >= 500 and error.http_status != _NOT_TAKEN  # noqa: PLR2004 - a server's failure
    never_sent = isinstance(error.__cause__, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError)
    return isinstance(error, TransportError | BadReply) and not never_sent
