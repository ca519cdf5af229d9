r"""`Client`, and recipes for it: web apps, growing lists, SIGTERM, tokens, sessions, TLS, proxies.

Every recipe can be pasted as it is. `Client` itself checks arguments and connects the layers below.

**A card followed in the browser**, by server-sent events: add this to README's `app.py`. A browser connects again
whenever a stream ends, so the stream says with an event that it has ended, and the page closes its side. An error is an
event too, also that there is no such card: the answer has begun by then, with 200. Only a token that no card can have
is a 400. uvicorn waits for open streams when it stops: run it with `--timeout-graceful-shutdown 5`, after which it logs
what it cancelled.

```python
import json

from fastapi.responses import StreamingResponse


@app.get("/cards/{token}/steps")
async def card_steps(token: str) -> StreamingResponse:
    wait = app.state.client.wait_until_final(123456, token, timeout=None)  # as long as the browser stays

    async def events():
        try:
            async for step in wait:
                data = {"status": step.current.status, "error": step.current.error_meaning}
                yield f"data: {json.dumps(data)}\n\n"
        except cardprod.CardprodError as error:
            logging.warning("%s", error)
            yield f"event: failed\ndata: {type(error).__name__}\n\n"
        yield "event: end\ndata: end\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
```

```html
<script>
  const source = new EventSource("/cards/my-card/steps")
  source.onmessage = (message) => console.log(JSON.parse(message.data).status)
  source.addEventListener("failed", (message) => console.log(message.data))
  source.addEventListener("end", () => source.close())
</script>
```

If the browser goes away, the wait is cancelled and nothing is left of it.

**aiohttp.web**: one client for the app's lifetime, and answers for what can go wrong:

```python
import cardprod
from aiohttp import web

CLIENT = web.AppKey("client", cardprod.Client)


async def one_client(app):
    async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as app[CLIENT]:
        yield


async def card_status(request):
    try:
        status = await request.app[CLIENT].get_status(123456, request.match_info["token"])
    except cardprod.UsageError:
        raise web.HTTPBadRequest from None
    except cardprod.CardNotFound:
        raise web.HTTPNotFound from None
    except cardprod.CardprodError:
        raise web.HTTPBadGateway from None
    return web.json_response({"status": status.status, "error": status.error_meaning})


app = web.Application()
app.cleanup_ctx.append(one_client)
app.router.add_get("/cards/{token}", card_status)
```

**A list that grows while you wait**: pass None, and add cards as they come. All waits for one card in one client share
its polls:

```python
import asyncio


async def follow_all(client, new_cards):
    async with client.wait_until_all_final(None) as steps:

        async def add_new():
            async for card in new_cards:
                steps.add(card)
            steps.no_more()

        adding = asyncio.create_task(add_new())
        try:
            async for card, step in steps:
                print(card, step)
        finally:
            adding.cancel()
```

**A list to a CSV, stoppable**: save it as `ends.py`, and run `python ends.py cards.csv ends.csv`. SIGTERM, Ctrl-C or a
refused token end it (exit codes 143, 130 and 1), and the same command goes on: what ended is in `ends.csv`, and what
ended without a status, or is new in the list, is asked for. Even after `kill -9` nothing is lost: Wise still has it.
Otherwise it exits with 0 if every card is PRODUCED and every row is one, else with 1. Once an operator has sent the
failed cards again, `(head -1 ends.csv; grep _ERROR ends.csv) > errors.csv` makes a list of them, with what is known.

```python
import asyncio
import csv
import signal
import sys
from pathlib import Path

import cardprod
from cardprod.card_files import BadRow, read_cards


def saved(target):
    with target.open(newline="") as file:
        return {(int(row[0]), row[1]): row[2:] for row in csv.reader(file) if row[2] in cardprod.FINAL_STATUSES}


def save(target, ends):
    new = target.with_name(f"{target.name}.new")
    with new.open("w", newline="") as file:
        writer = csv.writer(file)
        known = ["after_status", "after_occurred_at", "after_error_code"]
        writer.writerow(["profile_id", "card_token", *known, "meaning"])
        writer.writerows([*card, *end] for card, end in ends.items())
    new.replace(target)  # so that there is always a whole one


async def main(source, target):
    ends = saved(target) if target.exists() else {}
    with source.open(newline="") as file:
        rows = [*read_cards(file)]
    bad = [row for row in rows if isinstance(row, BadRow)]
    for row in bad:
        print(row, file=sys.stderr)
    cards = [row for row in rows if not isinstance(row, BadRow) and row not in ends]
    exit_code, this = 0, asyncio.current_task()

    def stop(number):
        nonlocal exit_code
        exit_code = 128 + number
        this.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        async with cardprod.Client.from_env() as client, client.wait_until_all_final(cards) as steps:
            async for card, step in steps:
                print(card, step, flush=True)
                if isinstance(step, cardprod.Unauthorized):  # so is TokenRefreshFailed; it would end every wait
                    raise step
                if isinstance(step, cardprod.CardprodError):
                    ends[card] = [type(step).__name__, "", "", step]
                elif step.is_final:
                    end = step.current
                    ends[card] = [end.status, end.occurred_at, end.error_code, end.error_meaning]
    except asyncio.CancelledError:
        if not exit_code:
            raise
    finally:
        save(target, ends)
    return exit_code or int(bool(bad) or any(end[0] != "PRODUCED" for end in ends.values()))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]))))
```

To have each transition, whatever happens, use `cardprod.durable`; `help("cardprod.checkpoint")` saves what was seen of
waits in one process. `cardprod watch` does that without code.

**A token that refreshes itself** is an `OAuthToken`, whose help has the recipe. Only one process may refresh a token.
The others pass an async function, which is called before every request, and once more after a 401:

```python
async def from_the_vault():
    return "user-token"


async with cardprod.Client(from_the_vault, base_url=cardprod.SANDBOX) as client:
    status = await client.get_status(123456, "my-card")
```

**A session and TLS of your own**; what a lent session changes is in the help of `Client`:

```python
import ssl

import aiohttp

context = ssl.create_default_context()  # for SANDBOX_MTLS: context.load_cert_chain("client.pem")
async with aiohttp.ClientSession() as session:
    async with cardprod.Client("user-token", base_url=cardprod.SANDBOX, session=session, ssl=context) as client:
        status = await client.get_status(123456, "my-card")
```

**A schedule that has learned** can outlive its process, and you can say what you know of your kiosks:

```python
schedule = cardprod.AdaptiveSchedule(typical={cardprod.Status.IN_PROGRESS: 240})
async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
    outcome = await client.wait_until_all_final([(123456, "my-card")], schedule=schedule)

saved = schedule.to_json()  # and cardprod.AdaptiveSchedule.from_json(saved) in the next process
```
"""

from __future__ import annotations

import asyncio
import inspect
import math
import ssl as _ssl
from collections.abc import Iterable
from random import random
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import attrs

from cardprod._http.environment import server_from_env, tls_from_env, token_from_env
from cardprod._http.rate_limit import RateLimit
from cardprod._http.secrets import drop_frames
from cardprod._http.transport import Transport
from cardprod._polling.adaptive import IDLE_GAP, AdaptiveSchedule
from cardprod._polling.bulk import Batches, Statuses
from cardprod._polling.card_source import check_source
from cardprod._polling.coroutine import check_loop, returns_coroutine
from cardprod._polling.poller import Poller
from cardprod._polling.state import PollOptions
from cardprod._polling.subscriptions import Subscriptions
from cardprod._polling.sweep import sweep
from cardprod._polling.wait import Wait
from cardprod._polling.waits import Waits
from cardprod._polling.webhook_trust import WebhookTrust
from cardprod._protocol.requests import PRODUCTION, PRODUCTION_MTLS, SANDBOX, SANDBOX_MTLS, Endpoint
from cardprod._protocol.validation import (
    check_callable,
    check_count,
    check_flag,
    check_seconds,
    check_timeout,
    check_type,
)
from cardprod.checkpoint import Checkpoint, check_after
from cardprod.errors import UsageError
from cardprod.models import Card, ProductionEvent, ProductionStatus, check_known
from cardprod.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType
    from typing import NoReturn, Self

    from cardprod._http.auth import TokenSource
    from cardprod._http.proxies import ProxySetting
    from cardprod._polling.backoff import Schedule
    from cardprod._polling.card_source import Cards
    from cardprod._polling.sweep import Sweep
    from cardprod.checkpoint import After
    from cardprod.errors import Unauthorized
    from cardprod.telemetry import Observer

__all__ = [
    "PRODUCTION",
    "PRODUCTION_MTLS",
    "SANDBOX",
    "SANDBOX_MTLS",
    "Client",
    "notify_stored",
    "requests_of",
    "server_of",
    "sweep_stored",
]

_DEFAULT_LIMIT: Final = RateLimit()


class Client:
    """Requests the production status of cards from the Wise Platform API, once or until it is final.

    ```python
    async with Client("user-token", base_url=SANDBOX) as client:
        status = await client.get_status(123456, "card-1")  # one request
        final = await client.wait_until_final(123456, "card-1", timeout=600)  # polls until the status is final
        async for step in client.wait_until_final(123456, "card-2"):  # or: each transition
            print(step)
        outcome = await client.wait_until_all_final([(123456, "card-3"), (123456, "card-4")])  # a dict by card
    ```

    Share one client among everything in a process that uses the same token: the rate limit holds for all of its
    requests together. It belongs to the event loop that first uses it. Creating one does no I/O; close it with
    `async with` or `close`. Recipes are in `help("cardprod.client")`.

    Args:
        token: A user token (Wise documents no personal tokens for this call), an `OAuthToken`, which refreshes itself,
            or another `TokenSource`. `Client.from_env()` takes it from the environment.
        base_url: `PRODUCTION`, `SANDBOX`, or another server with the same API, such as the simulator; with a client
            certificate in `ssl`, `PRODUCTION_MTLS` or `SANDBOX_MTLS`.
        api_version: The first segment of the path, "v3" or a calendar version such as "2026Q3".
        session: An `aiohttp.ClientSession` to use instead of an own one, with its connector, proxies, trace configs
            and cookie jar. It is neither closed nor changed here. So aiohttp still resends a request by itself when
            a kept-alive connection breaks, which neither `attempts` nor `rate_limit` counts. A session that does not
            verify the server is refused. Only the connections that it keeps to the server are closed after one of them
            has failed.
        request_timeout: Seconds for one request and its whole answer, 10 by default; time spent queueing does not
            count.
        attempts: How often a request is sent before its poll fails, the first time included; 3 by default. Connection
            errors, timeouts, 408 and 5xx are retried. A 429 is no attempt: the request is sent again when the client
            may, until two minutes after its first 429. With a `Retry-After` of more than a minute any of these is
            raised at once.
        rate_limit: The most requests per second and per minute, for all that this client does; by default Wise's
            limits, 100 and 1,000. None for no limit.
        max_concurrency: The most requests in flight at once.
        ssl: A TLS context, for a client certificate or a private authority; None for the system's authorities. One
            that does not verify the server is refused.
        proxy: The URL of an http proxy, with its credentials if it needs some; False for none; None for the
            environment's `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, which are not for loopback. A lent
            session keeps its own proxies unless a URL is given.
        allow_plain_http: Accept plain http to hosts other than loopback. For test networks only: any machine on the
            network can read the token.
        safety_net: For clients that are given webhook events by `notify`: the most seconds between two polls of a card
            once events have proved to report each change; 300 by default, 0 to poll as often as without events. Each
            change that its event shows before a poll does, or within 15 s after, makes the polls of all cards of this
            client rarer, up to that; each that only a poll shows makes them more frequent again. Where a share of the
            events is lost, polls stay so frequent that this delays changes by 3 s on average.

    Raises:
        UsageError: An argument is invalid; the message says which, and what would be valid.
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
        proxy: ProxySetting = None,
        allow_plain_http: bool = False,
        safety_net: float = 300.0,
    ) -> None:
        try:
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
                proxy=proxy,
            )
            self._poller = Poller(self._transport, Subscriptions(WebhookTrust(safety_net)), self._telemetry)
            self._batches: Batches = set()
        except UsageError as error:
            drop_frames(error)
            del token, base_url, api_version, proxy  # this frame stays in the traceback, and any may hold a secret
            raise

    @classmethod
    def from_env(cls, **options: Any) -> Self:  # noqa: ANN401 - each is checked as the constructor's
        """Create a client from the environment, as the command does.

        Reads `CARDPROD_TOKEN` (required), `CARDPROD_BASE_URL` (default `PRODUCTION`), `CARDPROD_API_VERSION` (default
        "v3"), and for TLS the files `CARDPROD_CA`, `CARDPROD_CERT` and `CARDPROD_KEY` (PEM: authorities to trust
        instead of the system's, a client certificate, its key if that is in another file), with
        `CARDPROD_KEY_PASSWORD`. Proxies are those of the environment too: see `proxy`.

        Args:
            options: Keyword arguments of `Client`, such as `rate_limit`; they go before the environment.

        Raises:
            UsageError: `CARDPROD_TOKEN` is not set, or a variable or an option is invalid.
        """
        try:
            _check_names(sorted(options), inspect.signature(cls).parameters.keys() - {"token"})
            if "ssl" not in options:
                options["ssl"] = tls_from_env()
            return cls(token_from_env(), **(server_from_env() | options))
        except BaseException:
            del options  # this frame stays in the traceback, and a proxy may hold a password
            raise

    async def get_status(self, profile_id: int, card_token: str) -> ProductionStatus:
        """Request the card's production status once.

        The request waits for the rate limit and, after a 429 to any request of this client, for its `Retry-After`, two
        minutes at most; then one request is sent, and the others at a rising rate. Use `asyncio.timeout` to limit that.

        Args:
            profile_id: The id of the profile that owns the card.
            card_token: The card's token.

        Returns:
            The status as the API gives it, which may lag a little behind the machine.

        Raises:
            UsageError: An argument is invalid, or the client is closed or belongs to another event loop.
            TransportError: No attempt was answered.
            ApiError: The answer is an error; the subclass says which.
            BadReply: The answer is not of the documented shape.
        """
        return await self._poller.request(Card(profile_id, card_token))

    @returns_coroutine
    def wait_until_final(  # noqa: PLR0913 - one for each thing a user may set
        self,
        profile_id: int,
        card_token: str,
        *,
        timeout: float | None = 900.0,
        schedule: Schedule | None = None,
        max_failures: int = 5,
        max_outage: float = 300.0,
        after: ProductionStatus | None = None,
    ) -> Wait:
        """Wait until the card is PRODUCED, PRODUCTION_ERROR or REQUEST_ERROR.

        Await the result for the final status, or iterate it for each transition. An error status is returned, not
        raised: check the status, or call its `raise_for_failure()`.

        ```python
        try:
            final = await client.wait_until_final(123456, "my-card", timeout=600)
        except cardprod.WaitTimeout as error:
            print(error.last)  # the last status seen, or None
        ```

        Args:
            profile_id: The id of the profile that owns the card.
            card_token: The card's token.
            timeout: Seconds to wait, on the event loop's clock; None for no limit. At the deadline there is one last
                poll, which may take `request_timeout` seconds more, retries included.
            schedule: When to poll: an `AdaptiveSchedule`, a `Backoff`, or any object with a method
                `delay(unchanged, random)` as `Schedule` has it; None for the client's own `AdaptiveSchedule`, which
                polls every few seconds while the rate limit allows it, and where changes are likeliest while it does
                not.
            max_failures: How many polls in a row may fail, each after its own attempts, before the wait does. An
                answer, or an event with something new, resets the count. Before the first answer nothing else counts.
            max_outage: Once the wait has had an answer, these failures end it only if the first of them was this many
                seconds ago, or more: so no shorter outage ends it, and none at all with a `max_outage` of `timeout`.
            after: A status that you know already. What equals it, in status, `occurred_at` and error code, is not
                reported and does not end the wait: pass an error status to wait for what an operator's retry brings.

        Returns:
            The wait, not started yet.

        Raises:
            UsageError: At the call: an argument is invalid.
            WaitTimeout: When awaited or iterated: the card was not final in time.
            CardprodError: When awaited or iterated: it was refused, or polls failed too often; see `Wait`.
        """
        card = Card(profile_id, card_token)
        if after is not None:
            check_known("after", after)
        options = self._options(schedule, timeout, max_failures, max_outage, least_gap=IDLE_GAP)
        return Wait(card, self._poller, options, after)

    @returns_coroutine
    def get_statuses(self, cards: Cards) -> Statuses:
        """Request the production status of many cards, once each.

        Await the result for a dict, or use it as `async with … as pairs` and iterate the pairs as they come.

        Args:
            cards: `Card`s or `(profile_id, card_token)` tuples, from any iterable or async iterable. They are read as
                requests can be sent; a duplicate is requested once.

        Returns:
            The statuses, not started yet: for each card a `ProductionStatus`, or the `CardprodError` that its request
            ended with.

        Raises:
            UsageError: `cards` cannot be iterated. See `Statuses` for what iterating raises.
        """
        check_source(cards)
        return Statuses(cards, self._poller, self._batches)

    @returns_coroutine
    def wait_until_all_final(  # noqa: PLR0913 - one for each thing a user may set
        self,
        cards: Cards | None,
        *,
        timeout: float | None = None,
        batch_timeout: float | None = None,
        schedule: Schedule | None = None,
        max_failures: int = 5,
        max_outage: float = 300.0,
        after: After | None = None,
    ) -> Waits:
        """Wait until each of many cards is PRODUCED, PRODUCTION_ERROR or REQUEST_ERROR.

        Await the result for a dict of how each card ended, or use it as `async with … as steps` and iterate the
        transitions of all cards as they are seen.

        ```python
        outcome = await client.wait_until_all_final(cards, timeout=3600)
        failed = [card for card, end in outcome.items() if not getattr(end, "is_produced", False)]
        outcome |= await client.wait_until_all_final(failed, after=outcome, timeout=3600)  # for an operator's retry
        ```

        Args:
            cards: `Card`s or `(profile_id, card_token)` tuples, from any iterable or async iterable. A duplicate is
                waited for once. None for cards that are passed to `add` until `no_more`.
            timeout: Seconds to wait for each card, from when it is read; None for no limit. At the deadline there is
                one last poll; if it gets no permit within `request_timeout` seconds, the wait ends without it.
            batch_timeout: Seconds to wait for all cards, from when the block is entered; None for no limit. Cards not
                read from their source by then stay there; with None it ends then.
            schedule: As for `wait_until_final`; what the client's own learns serves all of its waits.
            max_failures: For each card, as for `wait_until_final`.
            max_outage: For each card, as for `wait_until_final`.
            after: Statuses that are known already, by card, as `get_statuses` or an earlier wait gave them: errors
                among them are ignored, and what equals the status of its card is not reported and does not end its
                wait, PRODUCED included. It is looked up when a card is read, so leave it unchanged until then; an
                invalid entry after the first 1,000 is an error of its card.

        Returns:
            The waits, not started yet.

        Raises:
            UsageError: An argument is invalid. See `Waits` for what iterating raises.
        """
        if cards is not None:
            check_source(cards)
        batch_timeout = check_timeout("batch_timeout", batch_timeout)
        options = self._options(schedule, timeout, max_failures, max_outage)
        after = check_after(after)
        return Waits(cards, self._poller, self._batches, options, batch_timeout=batch_timeout, after=after)

    @returns_coroutine
    def resume(self, checkpoint: Checkpoint, *, schedule: Schedule | None = None) -> Waits:
        """Continue the waits of a checkpoint in this process, until each of its cards is final.

        Await the result for a dict of how each card ended, or use it as `async with … as steps`, as that of
        `wait_until_all_final`. Transitions that were delivered before are not delivered again, those seen but
        undelivered come first, and deadlines stay as they were. (To end a pause of requests: `resume_requests`.)

        Args:
            checkpoint: What `Wait.checkpoint`, `Waits.checkpoint`, `Checkpoint.for_cards` or a sweep returned.
            schedule: When to poll; None for the checkpoint's `Backoff`, or, without one, the client's own
                `AdaptiveSchedule`.

        Returns:
            The waits, not started yet; awaited, a dict by card, of a `ProductionStatus` or a `CardprodError`.

        Raises:
            UsageError: An argument is invalid. See `Waits` for what iterating raises.
        """
        options = self._options_of(checkpoint, schedule)
        return Waits((), self._poller, self._batches, options, resumed=checkpoint)

    async def sweep(
        self,
        checkpoint: Checkpoint,
        *,
        schedule: Schedule | None = None,
        events: Iterable[ProductionEvent] = (),
        stop: asyncio.Event | None = None,
    ) -> Sweep:
        """Apply events and poll every card of a checkpoint that is due once, for a job engine that does the waiting.

        It does not sleep until cards are due: it returns once every due poll was answered or has failed, after its own
        attempts. Requests stay within the rate limit. After a 429 with a `Retry-After` no further poll starts: the
        remaining cards stay due, and `next_poll_at` is when requests may be sent again, or a wait's time is over.

        Args:
            checkpoint: The waits.
            schedule: As for `resume`.
            events: Webhook events that came since the last sweep, in the order they came. They count as for `notify`;
                those of other cards change nothing.
            stop: Set it to end the sweep early: polls in flight finish, no other starts, and the remaining cards stay
                due.

        Returns:
            What was seen, the next checkpoint, and when to sweep again.

        Raises:
            UsageError: An argument, the client or its token source is invalid. The checkpoint is still valid.
        """
        check_type("stop", stop, asyncio.Event, or_none=True)
        check_type("events", events, Iterable, "an iterable of ProductionEvents")
        events = tuple(events)
        for event in events:
            check_type("an event", event, ProductionEvent, "what Verifier.parse gives")
        options = self._sweep_options(checkpoint, schedule)
        return await sweep(checkpoint, self._poller, options, stop=stop, events=events)

    def _sweep_options(self, checkpoint: Checkpoint, schedule: Schedule | None = None) -> PollOptions:
        jitter = random()  # noqa: S311 - one for all, so that cards that are due together stay together
        return attrs.evolve(self._options_of(checkpoint, schedule), random=lambda: jitter)

    def notify(self, event: ProductionEvent) -> int:
        """Deliver a webhook event to all waits for its card, single and in batches. Call it in the client's event loop.

        A wait reports a change from whichever comes first, event or poll. An event that comes twice, late or out of
        order changes nothing, nor does one for a card that is not waited for. While an event reports each change, cards
        are polled once per `safety_net` seconds; when events stop, polling returns to its schedule by itself.

        Args:
            event: What `cardprod.webhooks.Verifier.parse` returned for a delivery, here or in another process.

        Returns:
            How many waits for the card there are.

        Raises:
            UsageError: It is no `ProductionEvent`; or the client is closed or belongs to another event loop.
        """
        # A caller without a type checker may pass the bare JSON.
        check_type("event", event, ProductionEvent, "what Verifier.parse gives")
        self._check_loop("notify")
        return self._poller.subscriptions.notify(event)

    def _options_of(self, checkpoint: Checkpoint, schedule: Schedule | None) -> PollOptions:
        # A caller without a type checker may pass the bare JSON.
        check_type("checkpoint", checkpoint, Checkpoint, "a Checkpoint, as Checkpoint.from_json gives")
        schedule = checkpoint.schedule if schedule is None else schedule
        return self._options(schedule, None, checkpoint.max_failures, checkpoint.max_outage)

    def _options(
        self,
        schedule: Schedule | None,
        timeout: float | None,
        max_failures: int,
        max_outage: float,
        *,
        least_gap: float = 0.0,
    ) -> PollOptions:
        if schedule is None:
            schedule = self._schedule = self._schedule or AdaptiveSchedule()
        timeout = check_timeout("timeout", timeout)
        check_count("max_failures", max_failures)
        check_seconds("max_outage", max_outage)
        if isinstance(schedule, type) or not callable(getattr(schedule, "delay", None)):
            raise UsageError(
                "schedule must be an AdaptiveSchedule, a Backoff, an object with a method delay(unchanged, random), or "
                f"None, not {schedule!r}"
            )
        limit = self._rate_limit
        return PollOptions(
            schedule=schedule,
            timeout=timeout,
            max_failures=max_failures,
            max_outage=max_outage,
            last_poll_seconds=self._request_timeout,
            requests_per_second=math.inf if limit is None else min(limit.per_second, limit.per_minute / 60),
            least_gap=least_gap,
        )

    @property
    def rate_limit(self) -> RateLimit | None:
        """The most requests per second and per minute. It may be changed while requests are in flight.

        Raises (when set):
            UsageError: It is neither a `RateLimit` nor None; or the client runs in the event loop of another thread.
        """
        return self._rate_limit

    @rate_limit.setter
    def rate_limit(self, rate_limit: RateLimit | None) -> None:
        check_type("rate_limit", rate_limit, RateLimit, or_none=True)
        words = "from another thread use loop.call_soon_threadsafe(setattr, client, 'rate_limit', ...)"
        check_loop(self._transport.loop, f"rate_limit must be set in the client's event loop; {words}")
        self._rate_limit = rate_limit
        self._transport.limiter.change_limit(rate_limit)

    @property
    def paused_for(self) -> float:
        """Seconds for which this client still sends nothing, after a 429 or a call of `pause`; 0 without a pause."""
        return self._transport.paused_for

    def pause(self, seconds: float) -> None:
        """Send nothing for a while, and then at a rising rate, as after a 429: for when another process got one.

        Args:
            seconds: For how long from now. A longer pause is not shortened.

        Raises:
            UsageError: `seconds` is invalid; or the client is closed or belongs to another event loop.
        """
        check_seconds("seconds", seconds)
        self._check_loop("pause")
        self._transport.limiter.pause_until(asyncio.get_running_loop().time() + seconds)

    def resume_requests(self) -> None:
        """End a pause now, and what follows it: one after a 429, or of `pause`. Only the rate limit holds again.

        Raises:
            UsageError: The client is closed or belongs to another event loop.
        """
        self._check_loop("resume_requests")
        self._transport.limiter.resume()

    @property
    def on_event(self) -> Observer | None:
        """The observer called with each event of `cardprod.telemetry`; `cardprod.otel.instrument` sets one.

        Raises (when set):
            UsageError: It is neither callable nor None, or async: nothing would await it.
        """
        return self._telemetry.observer

    @on_event.setter
    def on_event(self, observer: Observer | None) -> None:
        check_callable("on_event", observer, "a callable that takes an event")
        if inspect.iscoroutinefunction(observer):
            raise UsageError("on_event must not be async: nothing would await it; let it put events into a queue")
        self._telemetry.observer = observer

    def _check_loop(self, name: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                f"{name} must be called in the client's event loop; "
                f"from another thread use loop.call_soon_threadsafe(client.{name}, ...)"
            ) from None
        self._transport.check_usable()

    async def close(self) -> None:
        """Close the client. Requests in flight and pending waits end with `UsageError`. Closing it twice is allowed.

        If its `OAuthToken` is being refreshed, that is awaited, so that the new pair is stored.

        Raises:
            UsageError: It runs in the event loop of another thread.
        """
        words = "from another thread use asyncio.run_coroutine_threadsafe(client.close(), loop)"
        check_loop(self._transport.loop, f"close must be awaited in the client's event loop; {words}")
        for batch in tuple(self._batches):
            batch.break_off(
                UsageError("this client was closed while cards were waited for: keep it open until the batch has ended")
            )
        self._poller.close()
        await self._transport.close()

    async def __aenter__(self) -> Self:
        self._transport.check_usable()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client cannot be copied or pickled: it belongs to its process, so make one in each")

    def __repr__(self) -> str:
        return f"<Client of {self._endpoint.base_url}, {self._endpoint.api_version}>"


# --- For durable waits, whose store has its own time and its own events ---


async def sweep_stored(
    client: Client,
    checkpoint: Checkpoint,
    *,
    stop: asyncio.Event,
    clock: Callable[[], float],
    refusals: list[Unauthorized],
) -> Sweep:
    """Sweep waits by the clock of the store they are in. A refused token ends none of them: see `refusals`."""
    options = client._sweep_options(checkpoint)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module
    return await sweep(checkpoint, _engine_of(client), options, stop=stop, clock=clock, refusals=refusals)


def server_of(client: Client) -> str:
    """Return the address of the API that a client asks."""
    return client._endpoint.base_url  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module


def requests_of(client: Client, seconds: float) -> int:
    """Return how many requests a client with a rate limit sent in the last so many seconds, a minute at most."""
    transport = client._transport  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module
    return transport.limiter.window.sent_since(asyncio.get_running_loop().time() - seconds)


def notify_stored(client: Client, event: ProductionEvent, wall_now: float, *, is_news: bool) -> None:
    """Count an event that was applied to a stored wait, so that polls thin out."""
    _engine_of(client).subscriptions.notify(event, wall_now, is_news=is_news)


def _engine_of(client: Client) -> Poller:
    return client._poller  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module


def _check_names(names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"from_env has no option {name}: pass one of Client's, but not the token")
