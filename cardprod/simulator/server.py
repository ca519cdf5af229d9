"""`Simulator`: the kiosk's HTTP side, on aiohttp.web. It writes literal JSON and never imports the wire room.

What is sent by webhook, and how, is `webhooks`' business.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Final

import attrs
from aiohttp import web

from cardprod.errors import UsageError
from cardprod.models import Card
from cardprod.simulator.faults import Fault
from cardprod.simulator.plans import Stage, as_stages
from cardprod.simulator.tokens import TokenDesk
from cardprod.simulator.webhooks import PostOffice, Subscription, public_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from cardprod.models import CardLike
    from cardprod.simulator.plans import Plan
    from cardprod.simulator.webhooks import LoggedDelivery

__all__ = ["LoggedRequest", "Simulator"]

_ROUTE: Final = "/{version}/spend/profiles/{profile_id}/cards/{card_token}/production"
_SIMULATION_ROUTE: Final = "/v1/simulation/spend/profiles/{profile_id}/cards/{card_token}/production"
_KEY_PATH: Final = "/webhooks/public-key.pem"
_KIOSK: Final = "WIS00001"
_TOKEN_ROUTES: Final = ("/oauth/token", "/{version}/oauth/token")


@attrs.frozen
class LoggedRequest:
    """One request the simulator was asked, without its token.

    Args:
        at: Seconds since the simulator started.
        method: The HTTP method.
        path: What was asked for, with the card's token shortened.
        correlation_id: The request's `X-External-Correlation-Id`.
        card: Whose status was asked for, known to the simulator or not; None if the path names no card.
        fault: What went wrong with the answer, on demand.
        http_status: The answer's HTTP status; None if there was no answer.
        status: The production status that was served whole; None if none was.
        occurred_at: The `occurredAt` that was served with it.
    """

    at: float
    method: str
    path: str
    correlation_id: str | None
    card: Card | None
    fault: Fault | None
    http_status: int | None
    status: str | None = None
    occurred_at: str | None = None


class _SimulatedCard:
    """A card on its way through its plan."""

    def __init__(self, stages: tuple[Stage, ...], started_at: float) -> None:
        self._stages = stages
        self._starts = list(accumulate((stage.seconds for stage in stages[:-1]), initial=started_at))

    def stage_at(self, now: float) -> tuple[Stage, float]:
        """Say which stage it is in, and when its production request was made."""
        return self._stage(max(index for index, start in enumerate(self._starts) if index == 0 or start <= now))

    def changes_after(self, now: float) -> list[tuple[float, Stage, float]]:
        """List what is still to become of it: when, which stage, and when its production request will be made."""
        return [
            (start, *self._stage(index)) for index, start in enumerate(self._starts) if start > now and start < math.inf
        ]

    def change(self, stage: Stage, now: float) -> None:
        """Let it be in another stage from now on, for good."""
        passed = sum(start <= now for start in self._starts)
        self._stages = (*self._stages[:passed], stage)
        self._starts = [*self._starts[:passed], now]

    def _stage(self, index: int) -> tuple[Stage, float]:
        requests = (
            start for start, stage in zip(self._starts[: index + 1], self._stages, strict=False) if stage.is_new_request
        )
        return self._stages[index], max(requests, default=self._starts[0])


class Simulator:
    """A kiosk on loopback, for as long as the `async with` block.

    ```python
    async with Simulator() as kiosk:
        kiosk.add((123456, "card-1"), "jams")
        kiosk.add((123456, "card-2"), [("READY", 5), ("IN_PROGRESS", 60), Stage("PRODUCED")])
        kiosk.fail_next(Fault.too_many_requests(retry_after=5))
        client = Client(kiosk.token, base_url=kiosk.base_url)
    ```

    A plan's clock starts when its card is added, and runs on the event loop's time, so virtual time works.

    Args:
        port: The port on 127.0.0.1; 0 takes one that is free.
        token: The bearer token to accept, until it is refreshed at `/oauth/token` as `OAuthToken` does; any other gets
            a 401. None accepts every token, and lets everybody refresh.
        token_seconds: How long the access token of a refresh is good.
        plan_for_unknown: What to do with a card that was not added: a plan to start it on, or None for a 404.
        on_request: Is told of each request as it is answered.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        token: str | None = "simulated-token",  # noqa: S107 - not a secret
        token_seconds: float = 43_199.0,
        plan_for_unknown: Plan | None = None,
        on_request: Callable[[LoggedRequest], None] | None = None,
    ) -> None:
        self._port = port
        self.client_id = "simulated-client"
        """The client that may refresh the token, for an `OAuthToken`."""
        self.client_secret = "simulated-client-secret"  # noqa: S105 - not a secret
        """Its secret."""
        self._tokens = TokenDesk(
            token=token,
            client_id=self.client_id,
            client_secret=self.client_secret,
            refresh_token="simulated-refresh-token",  # noqa: S106 - not a secret
            seconds=token_seconds,
        )
        self._refresh_faults: deque[Fault] = deque()
        self._on_request = on_request
        self._plan_for_unknown = None if plan_for_unknown is None else as_stages(plan_for_unknown)
        self._cards: dict[Card, _SimulatedCard] = {}
        self._faults: deque[Fault] = deque()
        self._card_faults: dict[Card, deque[Fault]] = {}
        self._storm: tuple[float, Random] = (0.0, Random())  # noqa: S311 - simulated bad luck
        self._runner: web.AppRunner | None = None
        self._closing: asyncio.Future[None] | None = None
        self._epoch = datetime.now(UTC)
        self._has_started = False
        self._started_at = 0.0
        self._post: PostOffice | None = None
        self._followers: dict[Card, asyncio.Task[None]] = {}
        self.requests: list[LoggedRequest] = []
        """Every request so far, in the order they were answered. No token is in it."""

    @property
    def base_url(self) -> str:
        """Where it listens, for a client's `base_url`.

        Raises:
            UsageError: It is not running.
        """
        if self._runner is None:
            raise UsageError("the simulator is not running; use it in an `async with` block")
        return f"http://127.0.0.1:{self._port}"

    @property
    def token(self) -> str:
        """The bearer token it accepts now, for a client's `token`."""
        return "any-token" if self._tokens.token is None else self._tokens.token

    @property
    def refresh_token(self) -> str:
        """The refresh token it takes now, for an `OAuthToken`; a refresh changes it."""
        return self._tokens.refresh_token

    def subscribe(self, subscription: Subscription | str) -> None:
        """Send a signed webhook for each change of a card from now on; again, as Wise does, until it is answered 200.

        Needs the extra `webhooks`.

        Args:
            subscription: Where to, and what goes wrong on the way; or only where to.

        Raises:
            UsageError: The simulator is not running.
        """
        if self._post is None:
            raise UsageError("the simulator is not running; subscribe inside its `async with` block")
        self._post.subscribe(Subscription(url=subscription) if isinstance(subscription, str) else subscription)
        for card in self._cards:
            self._follow(card)

    @property
    def public_key(self) -> str:
        """The key that its webhooks are verified with, as PEM, for a `Verifier`."""
        return public_key()

    @property
    def public_key_url(self) -> str:
        """Where the key can be fetched."""
        return self.base_url + _KEY_PATH

    @property
    def deliveries(self) -> list[LoggedDelivery]:
        """Every try to deliver a webhook so far."""
        return [] if self._post is None else self._post.deliveries

    async def send_tests(self) -> list[int | None]:
        """Send a test notification to every subscription.

        Returns:
            What each answered: an HTTP status, or None for no answer.
        """
        return [] if self._post is None else await self._post.send_tests()

    def expire_token(self) -> None:
        """Let the access token be no longer good: each look gets a 401 until it is refreshed."""
        self._tokens.expire()

    def revoke_tokens(self) -> None:
        """Let neither token be good any more: a refresh gets `invalid_grant`."""
        self._tokens.revoke()

    def fail_next_refresh(self, fault: Fault, *, times: int = 1) -> None:
        """Let the next answers of `/oauth/token` go wrong.

        Args:
            fault: What is to go wrong.
            times: With how many answers.
        """
        self._refresh_faults.extend([fault] * times)

    def add(self, card: CardLike, plan: Plan = "prints") -> Card:
        """Put a card on a plan, from now on. A card that is there already starts again.

        Args:
            card: The card, or a `(profile_id, card_token)` tuple.
            plan: A named plan, or stages.

        Returns:
            The card.

        Raises:
            UsageError: The card or the plan cannot be right, or the simulator is not running.
        """
        if self._runner is None:
            raise UsageError("the simulator is not running; add cards inside its `async with` block")
        card = Card.of(card)
        self._cards[card] = _SimulatedCard(as_stages(plan), asyncio.get_running_loop().time())
        if self._post:
            self._follow(card)
        return card

    def fail_next(self, fault: Fault, *, times: int = 1, card: CardLike | None = None) -> None:
        """Let the next answers go wrong.

        Args:
            fault: What is to go wrong.
            times: With how many answers.
            card: Only with answers for this card; None for any.
        """
        queue = self._faults if card is None else self._card_faults.setdefault(Card.of(card), deque())
        queue.extend([fault] * times)

    def storm(self, share: float, seed: int) -> None:
        """Let a share of all answers go wrong, each in any of the ways there are.

        Args:
            share: How many, from 0 (none: the storm is over) to 1 (all).
            seed: Where the bad luck comes from, so that it can be had again.
        """
        self._storm = (share, Random(seed))  # noqa: S311 - simulated bad luck

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get(_ROUTE, self._answer)
        app.router.add_post(_SIMULATION_ROUTE, self._answer_simulation)
        app.router.add_get(_KEY_PATH, self._answer_key)
        for route in _TOKEN_ROUTES:
            app.router.add_post(route, self._answer_refresh)
        app.router.add_route("*", "/{anything:.*}", self._answer_elsewhere)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port, backlog=1024).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._closing = asyncio.get_running_loop().create_future()
        self._port = runner.addresses[0][1]
        if not self._has_started:  # else its times go on
            self._has_started = True
            self._started_at = asyncio.get_running_loop().time()
            self._epoch = datetime.now(UTC)
            self._post = PostOffice(self._started_at, self._timestamp)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for follower in self._followers.values():
            follower.cancel()
        if self._followers:
            await asyncio.wait(self._followers.values())
        if self._post is not None:
            await self._post.close()
        await self._stop()

    async def _stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            if self._closing is not None:
                self._closing.set_result(None)
            await runner.cleanup()

    async def restart(self, *, after: float = 0.0) -> None:
        """Stop, be gone for a while, and start again on the same port, with the cards as far as they are by then.

        Args:
            after: Seconds to be gone.
        """
        await self._stop()
        await asyncio.sleep(after)
        await self.__aenter__()

    async def _answer_elsewhere(self, request: web.Request) -> web.StreamResponse:
        self._log(request, None, None, 404)
        return _response(
            request, 404, _problem(404, "resource_not_found", "There is nothing at this path", request.path)
        )

    async def _answer_refresh(self, request: web.Request) -> web.StreamResponse:
        fault = self._refresh_faults.popleft() if self._refresh_faults else None
        if fault is not None and fault.kind != "stall":
            return await self._go_wrong(request, None, fault)
        if fault is not None:
            await self._stall(fault.seconds)
            if self._runner is None:
                _break(request)
                return web.Response()
        http_status, body = self._tokens.refresh(
            request.headers.get("Authorization", ""), await request.text(), asyncio.get_running_loop().time()
        )
        self._log(request, None, fault, http_status)
        return _response(request, http_status, body)

    def _follow(self, card: Card) -> None:
        """Announce what becomes of a card, from now on."""
        follower = self._followers.pop(card, None)
        if follower is not None:
            follower.cancel()
        self._followers[card] = asyncio.get_running_loop().create_task(self._announce_changes(card))

    async def _announce_changes(self, card: Card) -> None:
        loop = asyncio.get_running_loop()
        for at, stage, requested_at in self._cards[card].changes_after(loop.time()):
            await asyncio.sleep(max(at - loop.time(), 0.0))
            self._announce(card, stage, requested_at)

    def _announce(self, card: Card, stage: Stage, requested_at: float) -> None:
        if self._post:
            self._post.announce(card, stage, requested_at, _kiosk_of(stage))

    async def _answer_key(self, request: web.Request) -> web.StreamResponse:
        self._log(request, None, None, 200)
        return _response(request, 200, public_key(), "application/x-pem-file")

    async def _answer_simulation(self, request: web.Request) -> web.StreamResponse:
        """Do what the sandbox's simulation call does: end a card's production, well or badly."""
        card = self._card_of(request)
        http_status, body = self._simulate(request, card, await request.text())
        self._log(request, card, None, http_status)
        return _response(request, http_status, body)

    def _simulate(self, request: web.Request, card: Card | None, text: str) -> tuple[int, str]:
        refusal = self._refusal(request)
        if refusal is not None:
            return 401, refusal
        simulated = None if card is None else self._cards.get(card)
        if card is None or simulated is None:
            return 404, _problem(404, "resource_not_found", "Card not found", request.path)
        stage = _simulated_stage(text)
        if stage is None:
            detail = "status must be PRODUCED or PRODUCTION_ERROR, with errorCode for the latter only"
            return 422, _problem(422, "unprocessable_entity", detail, request.path)
        now = asyncio.get_running_loop().time()
        if simulated.stage_at(now)[0].status != "IN_PROGRESS":
            return 422, _problem(422, "unprocessable_entity", "The card is not in production", request.path)
        simulated.change(stage, now)
        stage, requested_at = simulated.stage_at(now)
        if self._post:
            self._follow(card)
            self._announce(card, stage, requested_at)
        return 200, _status_body(stage, self._timestamp(requested_at))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        card = self._card_of(request)
        fault = self._next_fault(card)
        if fault is not None and fault.kind != "stall":
            return await self._go_wrong(request, card, fault)
        if fault is not None:
            await self._stall(fault.seconds)
            if self._runner is None:
                _break(request)
                return web.Response()
        refusal = self._refusal(request)
        if refusal is not None:
            self._log(request, card, fault, 401)
            return _response(request, 401, refusal)
        simulated = None if card is None else self._cards.get(card)
        if simulated is None:
            self._log(request, card, fault, 404)
            problem = _problem(404, "resource_not_found", "Card not found", request.path)
            return _response(request, 404, problem)
        stage, requested_at = simulated.stage_at(asyncio.get_running_loop().time())
        occurred_at = self._timestamp(requested_at)
        self._log(request, card, fault, 200, status=stage.status, occurred_at=occurred_at)
        return _response(request, 200, _status_body(stage, occurred_at))

    async def _stall(self, seconds: float) -> None:
        """Sleep, but not on after the simulator is closed."""
        if self._closing is not None:
            await asyncio.wait([self._closing], timeout=seconds)

    async def _go_wrong(self, request: web.Request, card: Card | None, fault: Fault) -> web.StreamResponse:
        if fault.kind == "answer":
            self._log(request, card, fault, fault.http_status)
            response = _response(request, fault.http_status, fault.body, fault.content_type)
            if fault.retry_after is not None:
                response.headers["Retry-After"] = str(fault.retry_after)
            return response
        self._log(request, card, fault, None)
        if fault.kind == "cut_body":
            half = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "200"})
            await half.prepare(request)
            await half.write(b'{"status":"PRODUCED","kioskId":"WI')
            _break(request)
            return half
        if request.transport is not None and fault.kind == "garbage":
            request.transport.write(b"\x00\xff not HTTP at all \r\n\r\n")
            request.transport.close()
        else:
            _break(request)
        return web.Response()

    def _card_of(self, request: web.Request) -> Card | None:
        try:
            card = Card(int(request.match_info["profile_id"]), request.match_info["card_token"])
        except ValueError:
            return None
        if card not in self._cards and self._plan_for_unknown is not None:
            self.add(card, self._plan_for_unknown)
        return card

    def _next_fault(self, card: Card | None) -> Fault | None:
        if card is not None and self._card_faults.get(card):
            return self._card_faults[card].popleft()
        if self._faults:
            return self._faults.popleft()
        share, random = self._storm
        return Fault.any_of_them(random) if random.random() < share else None

    def _refusal(self, request: web.Request) -> str | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            return '{"error":"missing_token","error_description":"No bearer token was sent"}'
        if not self._tokens.accepts(token, asyncio.get_running_loop().time()):
            return '{"error":"invalid_token","error_description":"The access token is invalid or expired"}'
        return None

    def _timestamp(self, loop_time: float) -> str:
        moment = self._epoch + timedelta(seconds=loop_time - self._started_at)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"

    def _log(  # noqa: PLR0913 - one for each column of the log
        self,
        request: web.Request,
        card: Card | None,
        fault: Fault | None,
        http_status: int | None,
        *,
        status: str | None = None,
        occurred_at: str | None = None,
    ) -> None:
        logged = LoggedRequest(
            at=asyncio.get_running_loop().time() - self._started_at,
            method=request.method,
            path=request.path if card is None else request.path.replace(card.card_token, str(card).partition("/")[2]),
            correlation_id=request.headers.get("X-External-Correlation-Id"),
            card=card,
            fault=fault,
            http_status=http_status,
            status=status,
            occurred_at=occurred_at,
        )
        self.requests.append(logged)
        if self._on_request is not None:
            self._on_request(logged)


def _break(request: web.Request) -> None:
    if isinstance(request.transport, asyncio.Transport):
        request.transport.abort()


def _response(
    request: web.Request, http_status: int, body: str, content_type: str = "application/json"
) -> web.Response:
    headers = {"x-trace-id": f"{Random().getrandbits(64):016x}"}  # noqa: S311 - an id, not a secret
    correlation_id = request.headers.get("X-External-Correlation-Id")
    if correlation_id is not None:
        headers["X-External-Correlation-Id"] = correlation_id
    return web.Response(status=http_status, text=body, content_type=content_type, headers=headers)


def _kiosk_of(stage: Stage) -> str | None:
    return None if stage.status == "READY" else _KIOSK


def _simulated_stage(text: str) -> Stage | None:
    """Read what the simulation call asks for; None if it cannot be."""
    try:
        asked = json.loads(text)
        status, error_code = asked["status"], asked.get("errorCode")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if status == "PRODUCED" and error_code is None:
        return Stage("PRODUCED")
    if status == "PRODUCTION_ERROR" and (error_code is None or isinstance(error_code, str)):
        return Stage("PRODUCTION_ERROR", error_code=error_code)
    return None


def _status_body(stage: Stage, occurred_at: str) -> str:
    kiosk = json.dumps(_kiosk_of(stage))
    body = f'{{"status":{json.dumps(stage.status)},"kioskId":{kiosk},"occurredAt":"{occurred_at}"'
    # As in Wise's samples: the last two are left out altogether where there is nothing to say.
    if stage.error_code is not None:
        body += f',"errorCode":{json.dumps(stage.error_code)}'
    if stage.description is not None:
        body += f',"description":{json.dumps(stage.description)}'
    return body + "}"


def _problem(http_status: int, code: str, detail: str, instance: str) -> str:
    return (
        f'{{"type":"https://api.wise.com/problems/{code}","title":"{HTTPStatus(http_status).phrase}","status":{http_status},'
        f'"code":"{code}","detail":"{detail}","instance":{json.dumps(instance)}}}'
    )
