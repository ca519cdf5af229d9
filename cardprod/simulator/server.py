"""`Simulator`: the kiosk's HTTP side, on aiohttp.web. It writes literal JSON and never imports the wire room.

What becomes of cards and kiosks, and who is told, is `world`'s business; what a person sees of it, `page`'s.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from http import HTTPStatus
from random import Random
from typing import TYPE_CHECKING, Final

import attrs
from aiohttp import web

from cardprod.errors import UsageError
from cardprod.models import Card
from cardprod.simulator.plans import Stage, as_stages
from cardprod.simulator.tokens import TokenDesk
from cardprod.simulator.webhooks import public_key
from cardprod.simulator.world import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from cardprod.simulator.cards import Phase, SimulatedCard
    from cardprod.simulator.faults import Fault
    from cardprod.simulator.page import Page
    from cardprod.simulator.plans import Plan

__all__ = ["LoggedRequest", "Simulator"]

_ROUTE: Final = "/{version}/spend/profiles/{profile_id}/cards/{card_token}/production"
_SIMULATION_ROUTE: Final = "/v1/simulation/spend/profiles/{profile_id}/cards/{card_token}/production"
_KEY_PATH: Final = "/webhooks/public-key.pem"
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


class Simulator(World):
    """A kiosk on loopback, for as long as the `async with` block.

    ```python
    async with Simulator() as kiosk:
        kiosk.add((123456, "card-1"), "jams")
        kiosk.add((123456, "card-2"), [("READY", 5), ("IN_PROGRESS", 60), Stage("PRODUCED")])
        kiosk.fail_next(Fault.too_many_requests(retry_after=5))
        client = Client(kiosk.token, base_url=kiosk.base_url)
    ```

    A plan's clock starts when its card is added, and runs on the event loop's time, so virtual time works. A card can
    be driven by hand instead, and leaves its plan then: `start`, `finish`, `fail`, `refuse`, `retry`.

    Args:
        port: The port on 127.0.0.1; 0 takes one that is free.
        token: The bearer token to accept, until it is refreshed at `/oauth/token` as `OAuthToken` does; any other gets
            a 401. None accepts every token, and lets everybody refresh.
        token_seconds: How long the access token of a refresh is good.
        plan_for_unknown: What to do with a card that was not added: a plan to start it on, or None for a 404.
        on_request: Is told of each request as it is answered.
        page: Whether to serve a page at `/` too, where a person sees all this and drives it by hand.
    """

    def __init__(  # noqa: PLR0913 - one for each of its habits
        self,
        *,
        port: int = 0,
        token: str | None = "simulated-token",  # noqa: S107 - not a secret
        token_seconds: float = 43_199.0,
        plan_for_unknown: Plan | None = None,
        on_request: Callable[[LoggedRequest], None] | None = None,
        page: bool = False,
    ) -> None:
        super().__init__()
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
        stages = None if plan_for_unknown is None else as_stages(plan_for_unknown)
        self._plan_for_unknown: Plan | None = plan_for_unknown if isinstance(plan_for_unknown, str) else stages
        self._runner: web.AppRunner | None = None
        self._closing: asyncio.Future[None] | None = None
        self._has_page = page
        self._page: Page | None = None
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
    def takes_any_token(self) -> bool:
        """Whether every bearer token will do."""
        return self._tokens.token is None

    @property
    def refresh_token(self) -> str:
        """The refresh token it takes now, for an `OAuthToken`; a refresh changes it."""
        return self._tokens.refresh_token

    @property
    def public_key_url(self) -> str:
        """Where the key can be fetched."""
        return self.base_url + _KEY_PATH

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

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get(_ROUTE, self._answer)
        app.router.add_post(_SIMULATION_ROUTE, self._answer_simulation)
        app.router.add_get(_KEY_PATH, self._answer_key)
        for route in _TOKEN_ROUTES:
            app.router.add_post(route, self._answer_refresh)
        if self._has_page:
            from cardprod.simulator.page import Page  # noqa: PLC0415 - most simulators have none

            self._page = Page(self)
            self._page.add_to(app.router)
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
        self._begin()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()
        await self._stop()

    async def _stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            self._is_running = False
            if self._closing is not None:
                self._closing.set_result(None)
            if self._page is not None:
                self._page.close()
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
        simulated = None if card is None else self._floor.find(card)
        if card is None or simulated is None:
            return 404, _problem(404, "resource_not_found", "Card not found", request.path)
        stage = _simulated_stage(text)
        if stage is None:
            detail = "status must be PRODUCED or PRODUCTION_ERROR, with errorCode for the latter only"
            return 422, _problem(422, "unprocessable_entity", detail, request.path)
        if simulated.phase_at(self._now()).stage.status != "IN_PROGRESS":
            return 422, _problem(422, "unprocessable_entity", "The card is not in production", request.path)
        simulated.drive(stage, self._now())
        self._moved(card)
        return 200, self._body_of(simulated, simulated.phase_at(self._now()))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        card = self._card_of(request)
        fault = self._next_fault(card)
        seconds = self._weather.latency + (0.0 if fault is None else fault.seconds)
        if seconds:
            await self._stall(seconds)
            if self._runner is None:
                _break(request)
                return web.Response()
        if fault is not None and fault.kind != "stall":
            return await self._go_wrong(request, card, fault)
        refusal = self._refusal(request)
        if refusal is not None:
            self._log(request, card, fault, 401)
            return _response(request, 401, refusal)
        simulated = None if card is None else self._floor.find(card)
        if simulated is None:
            self._log(request, card, fault, 404)
            problem = _problem(404, "resource_not_found", "Card not found", request.path)
            return _response(request, 404, problem)
        simulated.looks += 1
        phase = simulated.phase_at(self._now())
        occurred_at = self._timestamp(phase.requested_at)
        self._log(request, card, fault, 200, status=phase.stage.status, occurred_at=occurred_at)
        return _response(request, 200, self._body_of(simulated, phase))

    def _body_of(self, simulated: SimulatedCard, phase: Phase) -> str:
        kiosk_id = None if phase.stage.status == "READY" else simulated.kiosk_id
        return _status_body(phase.stage, kiosk_id, self._timestamp(phase.requested_at))

    def _next_fault(self, card: Card | None) -> Fault | None:
        fault = self._weather.next_fault(card)
        if fault is not None:
            self._tell_forecast()
        return fault

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
        if card not in self._floor and self._plan_for_unknown is not None:
            self.add(card, self._plan_for_unknown)
        return card

    def _refusal(self, request: web.Request) -> str | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            return '{"error":"missing_token","error_description":"No bearer token was sent"}'
        if not self._tokens.accepts(token, asyncio.get_running_loop().time()):
            return '{"error":"invalid_token","error_description":"The access token is invalid or expired"}'
        return None

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
        for watcher in self._watchers:
            watcher.request_logged()
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


def _status_body(stage: Stage, kiosk_id: str | None, occurred_at: str) -> str:
    kiosk = json.dumps(kiosk_id)
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
