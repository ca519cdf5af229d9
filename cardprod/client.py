"""`Client`, the façade: it checks arguments and puts the parts together. No logic of its own."""

from __future__ import annotations

import asyncio
import math
import os
import ssl as _ssl
from random import random
from typing import TYPE_CHECKING, Final

import aiohttp
import attrs

from cardprod._http.rate_limit import RateLimit
from cardprod._http.transport import Transport
from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff
from cardprod._polling.bulk import Batches, Statuses
from cardprod._polling.coroutine import returns_coroutine
from cardprod._polling.poller import Poller
from cardprod._polling.source import check_source
from cardprod._polling.state import PollOptions
from cardprod._polling.subscriptions import Subscriptions
from cardprod._polling.sweep import sweep
from cardprod._polling.wait import Wait
from cardprod._polling.waits import Waits
from cardprod._polling.webhook_trust import WebhookTrust
from cardprod._protocol.requests import PRODUCTION, PRODUCTION_MTLS, SANDBOX, SANDBOX_MTLS, Endpoint
from cardprod._protocol.validation import check_callable, check_count, check_flag, check_seconds, check_type
from cardprod.checkpoint import Checkpoint
from cardprod.errors import UsageError
from cardprod.models import Card, ProductionEvent
from cardprod.telemetry import Telemetry

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from cardprod._http.auth import TokenSource
    from cardprod._polling.backoff import Schedule
    from cardprod._polling.source import Cards
    from cardprod._polling.sweep import Sweep
    from cardprod.models import ProductionStatus
    from cardprod.telemetry import Observer

__all__ = ["PRODUCTION", "PRODUCTION_MTLS", "SANDBOX", "SANDBOX_MTLS", "Client"]

_DEFAULT_LIMIT: Final = RateLimit()
_DEFAULT_SCHEDULE: Final = Backoff()


class Client:
    """Asks the Wise Platform API whether cards are printed yet.

    ```python
    async with Client("user-token", base_url=SANDBOX) as client:
        status = await client.get_status(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")
    ```

    One client is meant to be shared by everything in a process that uses the same token: its looks keep the rate limit
    together. It belongs to the event loop that first uses it. Making one does no I/O.

    Args:
        token: A user token (personal tokens are not documented for this call), an `OAuthToken`, which refreshes itself,
            or another async callable that gives one.
        base_url: `PRODUCTION`, `SANDBOX`, or another place that speaks Wise's HTTP, such as the simulator; with a
            client certificate in `ssl`, `PRODUCTION_MTLS` or `SANDBOX_MTLS`.
        api_version: The first segment of the path, "v3" or a calendar version such as "2026Q3".
        session: An `aiohttp.ClientSession` to use instead of an own one, with its connector, proxies, trace configs
            and cookie jar. It is never closed here and none of its defaults is changed; so aiohttp goes on
            sending a request once more by itself when a connection that was kept alive breaks, beyond `attempts` and
            `rate_limit`, and does not mind an answer that came before its request. One that does not verify the
            server is refused.
        request_timeout: Seconds for one request and its whole answer; time spent queueing does not count.
        attempts: How often one look may be sent before it fails, the first time included. Tried again are connection
            trouble, timeouts, 408, 429 and 5xx.
        rate_limit: The most requests per second and per minute, for all that this client does; None for no limit.
        max_concurrency: The most requests under way at once.
        ssl: A TLS context, for a client certificate or a private authority; None for the machine's authorities. One
            that does not verify the server is refused.
        allow_plain_http: Accept plain http to hosts other than this machine. For test networks only: whoever is on the
            way can read the token.
        safety_net: Seconds between looks at a card while events given to `notify` tell every change; 0 to look as
            often as without events. See `cardprod._polling.webhook_trust` for what "while" means.

    Raises:
        UsageError: An argument that cannot be right; which, and what would be.
    """

    def __init__(  # noqa: PLR0913 - one for each thing a user may set
        self,
        token: str | TokenSource,
        *,
        base_url: str = PRODUCTION,
        api_version: str = "v3",
        session: aiohttp.ClientSession | None = None,
        request_timeout: float = 10.0,
        attempts: int = 3,
        rate_limit: RateLimit | None = _DEFAULT_LIMIT,
        max_concurrency: int = 100,
        ssl: _ssl.SSLContext | None = None,
        allow_plain_http: bool = False,
        safety_net: float = 300.0,
    ) -> None:
        check_seconds("request_timeout", request_timeout, above_zero=True)
        check_count("attempts", attempts)
        check_count("max_concurrency", max_concurrency)
        check_flag("allow_plain_http", allow_plain_http)
        check_type("session", session, aiohttp.ClientSession, or_none=True)
        check_type("rate_limit", rate_limit, RateLimit, or_none=True)
        check_type("ssl", ssl, _ssl.SSLContext, or_none=True)
        self._request_timeout = request_timeout
        self._rate_limit = rate_limit
        self._schedule: AdaptiveSchedule | None = None
        self._endpoint = Endpoint(base_url, api_version, allow_plain_http)
        self._telemetry = Telemetry()
        self._transport = Transport(
            self._endpoint,
            token,
            self._telemetry,
            session=session,
            request_timeout=request_timeout,
            attempts=attempts,
            rate_limit=rate_limit,
            max_concurrency=max_concurrency,
            ssl=ssl,
        )
        self._poller = Poller(self._transport, Subscriptions(WebhookTrust(safety_net)), self._telemetry)
        self._batches: Batches = set()

    @classmethod
    def from_env(cls) -> Self:
        """Make a client from the environment.

        Reads `CARDPROD_TOKEN` (required), `CARDPROD_BASE_URL` (default `PRODUCTION`) and `CARDPROD_API_VERSION`
        (default "v3").

        Raises:
            UsageError: `CARDPROD_TOKEN` is not set, or one of them cannot be right.
        """
        token = os.environ.get("CARDPROD_TOKEN", "")
        if not token:
            raise UsageError("the environment has no CARDPROD_TOKEN: set it to a Wise user token")
        return cls(
            token,
            base_url=os.environ.get("CARDPROD_BASE_URL") or PRODUCTION,
            api_version=os.environ.get("CARDPROD_API_VERSION") or "v3",
        )

    async def get_status(self, profile_id: int, card_token: str) -> ProductionStatus:
        """Look once: what is the card's production status now?

        It queues for the rate limit, and, after a 429 to any look of this client, for the `Retry-After` of that, an
        hour at most. Use `asyncio.timeout` to wait for less.

        Args:
            profile_id: The id of the profile that owns the card.
            card_token: The card's token.

        Returns:
            The status as the API gives it, which may lag a little behind the machine.

        Raises:
            UsageError: An argument that cannot be right, a closed client, or a client of another event loop.
            TransportError: No answer came, in any attempt.
            ApiError: The answer is an error; the subclass says which.
            BadReply: The answer is not of the documented shape.
        """
        return await self._poller.request(Card(profile_id, card_token))

    @returns_coroutine
    def wait_until_final(
        self,
        profile_id: int,
        card_token: str,
        *,
        timeout: float | None = 900.0,
        schedule: Schedule = _DEFAULT_SCHEDULE,
        max_failures: int = 5,
    ) -> Wait:
        """Wait until the card is PRODUCED, PRODUCTION_ERROR or REQUEST_ERROR.

        Await what this returns for the final status, or iterate it for each transition. A card that ends in an error
        status does not raise: look at the status, or call its `raise_for_failure()`.

        Args:
            profile_id: The id of the profile that owns the card.
            card_token: The card's token.
            timeout: Seconds to wait, on the event loop's clock; None for as long as it takes. The last sleep is cut to
                it and one last look is taken there, which may take `request_timeout` seconds more, retries included.
            schedule: When to look: a `Backoff`, or anything with its `delay` method.
            max_failures: How many looks in a row may fail, each after its own attempts, before the wait does. An
                answer, or an event that is news, resets the count.

        Returns:
            The wait, not begun yet.

        Raises:
            UsageError: An argument that cannot be right. See `Wait` for what waiting raises.
        """
        card = Card(profile_id, card_token)
        return Wait(card, self._poller, self._options(schedule, timeout, max_failures))

    @returns_coroutine
    def get_statuses(self, cards: Cards) -> Statuses:
        """Look once at each of many cards.

        Await what this returns for a dict, or use it as `async with … as pairs` and iterate those as they come.

        Args:
            cards: `Card`s or `(profile_id, card_token)` tuples, from any iterable or async iterable. They are taken as
                they can be looked up; one that comes twice is looked up once.

        Returns:
            The statuses, not begun yet: for each card a `ProductionStatus`, or the `CardprodError` that its look
            ended with.

        Raises:
            UsageError: `cards` cannot be iterated. See `Statuses` for what iterating raises.
        """
        check_source(cards)
        return Statuses(cards, self._poller, self._batches)

    @returns_coroutine
    def wait_until_all_final(
        self,
        cards: Cards | None,
        *,
        timeout: float | None = None,
        batch_timeout: float | None = None,
        schedule: Schedule | None = None,
        max_failures: int = 5,
    ) -> Waits:
        """Wait until each of many cards is PRODUCED, PRODUCTION_ERROR or REQUEST_ERROR.

        Await what this returns for a dict of how each ended, or use it as `async with … as steps` and iterate the
        transitions of all cards as they are seen.

        Args:
            cards: `Card`s or `(profile_id, card_token)` tuples, from any iterable or async iterable. One that comes
                twice is waited for once. None for none yet: they come by `add`, until `no_more`.
            timeout: Seconds to wait for each card, from when it is taken; None for as long as it takes. If its last
                look, at the deadline, has not had its turn within `request_timeout`, its wait ends without.
            batch_timeout: Seconds to wait for all of them, from when the block is entered; None for as long as it
                takes. Cards not taken from their source by then are left there.
            schedule: When to look: an `AdaptiveSchedule`, a `Backoff`, or anything with its `delay` method; None for an
                `AdaptiveSchedule` of the client's own, which learns from all its batches that say None.
            max_failures: How many looks in a row may fail, each after its own attempts, before a card's wait does. An
                answer, or an event that is news, resets the count.

        Returns:
            The waits, not begun yet.

        Raises:
            UsageError: An argument that cannot be right. See `Waits` for what iterating raises.
        """
        if cards is not None:
            check_source(cards)
        if schedule is None:
            schedule = self._own_schedule()
        if batch_timeout is not None:
            batch_timeout = _check_timeout("batch_timeout", batch_timeout)
        options = self._options(schedule, timeout, max_failures)
        return Waits(cards, self._poller, self._batches, options, batch_timeout=batch_timeout)

    @returns_coroutine
    def resume(self, checkpoint: Checkpoint, *, schedule: Schedule | None = None) -> Waits:
        """Go on with the waits of a checkpoint, in this process, until each of its cards is final.

        Nothing that was told before is told again, transitions that were seen and not told come first, and every
        deadline stays where it was.

        Args:
            checkpoint: What `Wait.checkpoint`, `Waits.checkpoint`, `Checkpoint.for_cards` or a sweep gave.
            schedule: When to look; None for the checkpoint's own `Backoff`, or, where it has none, for the
                `AdaptiveSchedule` of this client's own.

        Returns:
            The waits, not begun yet.

        Raises:
            UsageError: An argument that cannot be right. See `Waits` for what iterating raises.
        """
        options = self._options_of(checkpoint, schedule)
        return Waits((), self._poller, self._batches, options, resumed=checkpoint)

    async def sweep(
        self, checkpoint: Checkpoint, *, schedule: Schedule | None = None, stop: asyncio.Event | None = None
    ) -> Sweep:
        """Look once at every card of a checkpoint that is due, for a job engine that does the waiting.

        It never sleeps: it ends when every look that was due has its answer or has failed, after its own attempts. The
        rate limit is kept, so that many looks take as long as that asks for. After a 429 with a `Retry-After` the cards
        that are left stay due, and `next_poll_at` is when requests are welcome again.

        Args:
            checkpoint: The waits.
            schedule: When to look; None for the checkpoint's own `Backoff`, or, where it has none, for the
                `AdaptiveSchedule` of this client's own.
            stop: An event that somebody sets who cannot wait for all of it: looks under way are finished and no other
                begins; what is left stays due.

        Returns:
            What was seen, the next checkpoint, and when to come back.

        Raises:
            UsageError: An argument, the client or its token source cannot be right. The checkpoint is still good.
        """
        check_type("stop", stop, asyncio.Event, or_none=True)
        jitter = random()  # noqa: S311 - one for all, so that cards that are due together stay together
        options = attrs.evolve(self._options_of(checkpoint, schedule), random=lambda: jitter)
        return await sweep(checkpoint, self._poller, options, stop)

    def notify(self, event: ProductionEvent) -> int:
        """Tell the waits for a card, single and in batches, what a webhook says of it. Call it in the client's loop.

        Whichever comes first wins, event or look. An event that comes twice, late or out of order changes nothing, nor
        does one for a card that nobody waits for. While events tell every change, looks thin out to one per
        `safety_net`; when they stop, the looks come back by themselves.

        Args:
            event: What `cardprod.webhooks.Verifier.parse` made of a delivery, here or in another process.

        Returns:
            How many waits it concerns.

        Raises:
            UsageError: It is no `ProductionEvent`; or the client is closed or belongs to another event loop.
        """
        # A caller without a type checker may pass the bare JSON.
        check_type("event", event, ProductionEvent, "what Verifier.parse gives")
        self._check_loop("notify")
        self._transport.check_usable()
        return self._poller.subscriptions.notify(event)

    def _options_of(self, checkpoint: Checkpoint, schedule: Schedule | None) -> PollOptions:
        # A caller without a type checker may pass the bare JSON.
        check_type("checkpoint", checkpoint, Checkpoint, "a Checkpoint, as Checkpoint.from_json gives")
        if schedule is None:
            schedule = checkpoint.schedule or self._own_schedule()
        return self._options(schedule, None, checkpoint.max_failures)

    def _own_schedule(self) -> AdaptiveSchedule:
        self._schedule = self._schedule or AdaptiveSchedule()
        return self._schedule

    def _options(self, schedule: Schedule, timeout: float | None, max_failures: int) -> PollOptions:
        if timeout is not None:
            timeout = _check_timeout("timeout", timeout)
        check_count("max_failures", max_failures)
        if isinstance(schedule, type) or not callable(getattr(schedule, "delay", None)):
            raise UsageError(f"schedule must be a Backoff or have its delay method, unlike {schedule!r}")
        limit = self._rate_limit
        return PollOptions(
            schedule=schedule,
            timeout=timeout,
            max_failures=max_failures,
            last_poll_seconds=self._request_timeout,
            requests_per_second=math.inf if limit is None else min(limit.per_second, limit.per_minute / 60),
        )

    @property
    def rate_limit(self) -> RateLimit | None:
        """The most requests per second and per minute. It may be changed while looks are under way.

        Raises (when set):
            UsageError: It is neither a `RateLimit` nor None.
        """
        return self._rate_limit

    @rate_limit.setter
    def rate_limit(self, rate_limit: RateLimit | None) -> None:
        check_type("rate_limit", rate_limit, RateLimit, or_none=True)
        self._rate_limit = rate_limit
        self._transport.limiter.change_limit(rate_limit)

    @property
    def paused_for(self) -> float:
        """Seconds for which this client sends nothing, because it was told 429, or `pause` was called; 0 mostly."""
        return self._transport.paused_for

    def pause(self, seconds: float) -> None:
        """Send nothing for a while, as after a 429: for one that another process with the same token was told.

        Args:
            seconds: For how long from now. A pause that is longer already is not cut short.

        Raises:
            UsageError: `seconds` cannot be right; or the client is closed or belongs to another event loop.
        """
        check_seconds("seconds", seconds)
        self._check_loop("pause")
        self._transport.check_usable()
        self._transport.pause(seconds)

    @property
    def on_event(self) -> Observer | None:
        """What gets each event of `cardprod.telemetry` as it happens; `cardprod.otel.instrument` sets it.

        Raises (when set):
            UsageError: It is neither callable nor None.
        """
        return self._telemetry.observer

    @on_event.setter
    def on_event(self, observer: Observer | None) -> None:
        check_callable("on_event", observer, "a callable that takes an event")
        self._telemetry.observer = observer

    @staticmethod
    def _check_loop(name: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                f"{name} must be called in the client's event loop; "
                f"from another thread use loop.call_soon_threadsafe(client.{name}, ...)"
            ) from None

    async def close(self) -> None:
        """Close the client: looks under way and waits that go on after it end with `UsageError`. Twice does no harm.

        If its `OAuthToken` is being refreshed, that is waited for, so that the new pair is stored.
        """
        for batch in tuple(self._batches):
            batch.break_off(UsageError("this client was closed while cards were waited for"))
        await self._transport.close()

    async def __aenter__(self) -> Self:
        self._transport.check_usable()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Client of {self._endpoint.base_url}, {self._endpoint.api_version}>"


def _check_timeout(name: str, seconds: float) -> float | None:
    """Check a timeout; infinite is none."""
    if seconds == math.inf:
        return None
    check_seconds(name, seconds)
    return seconds
