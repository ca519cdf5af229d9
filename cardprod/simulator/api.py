"""Wise's side of HTTP: the routes of cards, of tokens and of the webhooks' key. It writes literal JSON.

Whether a request comes from this machine is checked in `access`, before it is here. Here its token is checked first: a
request without a valid one changes nothing and uses up no fault.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

from cardprod.error_codes import ErrorCode
from cardprod.errors import UsageError
from cardprod.models import Card
from cardprod.simulator.cards import Phase
from cardprod.simulator.plans import Stage, error_stage
from cardprod.simulator.simulation import LoggedRequest
from cardprod.simulator.webhook_sender import public_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardprod.simulator.faults import Fault
    from cardprod.simulator.plans import Plan
    from cardprod.simulator.simulation import KioskSimulation
    from cardprod.simulator.tokens import TokenIssuer

KEY_PATH: Final = "/webhooks/public-key.pem"
_PRODUCTION: Final = "spend/profiles/{profile_id:[0-9]{1,19}}/cards/{card_token}/production"
_CORRELATION_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_LONGEST_PATH: Final = 300
_OK: Final = 200


class KioskApi:
    """Answers the requests of Wise's API. `plan_for_unknown` and `on_request` are as `Simulator` has them."""

    def __init__(
        self,
        simulation: KioskSimulation,
        tokens: TokenIssuer,
        plan_for_unknown: Plan | Callable[[Card], Plan | None] | None,
        on_request: Callable[[LoggedRequest], None] | None,
    ) -> None:
        self._simulation = simulation
        self._cards = simulation.cards
        self._tokens = tokens
        self._plan_for_unknown = plan_for_unknown
        self._on_request = on_request
        self.closing: asyncio.Future[None] | None = None
        """Done when the simulator stops: nobody else ends a late answer whose client has gone."""

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes, and one for every other path."""
        router.add_get(f"/{{version}}/{_PRODUCTION}", self._answer_status, allow_head=False)
        router.add_put(f"/{{version}}/{_PRODUCTION}", self._answer_production)
        router.add_post(f"/{{version}}/simulation/{_PRODUCTION}", self._answer_simulation)
        router.add_get(KEY_PATH, self._answer_key, allow_head=False)
        for route in ("/oauth/token", "/{version}/oauth/token"):
            router.add_post(route, self._answer_refresh)
        router.add_route("*", "/{anything:.*}", self._answer_elsewhere)

    async def _answer_status(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._refused(request)) is not None:
            return refused
        card = _card_of(request)
        self._add_unknown(card)
        fault = self._simulation.faults.take(card)
        seconds = self._simulation.faults.latency + (0.0 if fault is None else fault.seconds)
        if seconds and await self._is_closing_within(seconds):
            return _break_connection(request)
        if fault is not None and fault.kind != "stall":
            return await self._answer_fault(request, fault)
        if (refused := self._refused(request, fault)) is not None:  # its token may have expired meanwhile
            return refused
        if card is None or card not in self._cards:
            return self._answer_not_found(request, fault=fault)
        self._cards[card].requests += 1
        self._simulation.publish(card)
        return self._answer_phase(request, 200, card, fault)

    async def _answer_production(self, request: web.Request) -> web.StreamResponse:
        """Start a card's production, as `PUT` does; a refusal is a 422 with a production status."""
        if (refused := self._refused(request)) is not None:
            return refused
        fields = json_object(await request.read())
        if fields is None:
            return self._answer(request, 400, _problem(request, 400, "The body is no JSON object"))
        card, kiosk_id = _card_of(request), fields.get("kioskId")
        self._add_unknown(card)
        if card is None or card not in self._cards:
            return self._answer_not_found(request)
        if isinstance(kiosk_id, str) and kiosk_id:
            stage = self._simulation.request_production(card, kiosk_id)
        else:
            stage = error_stage("REQUEST_ERROR", ErrorCode.EMPTY_OR_NULL_FIELD_VALUE)
        if stage is not None:  # the card's own status is what it was
            now = self._simulation.clock.now()
            refusal = Phase(stage, now, now, self._cards[card].kiosk_id)
            return self._answer(request, 422, self._status_body(refusal))
        is_refused = self._simulation.phase_of(card).stage.status == "REQUEST_ERROR"
        return self._answer_phase(request, 422 if is_refused else 200, card)

    async def _answer_simulation(self, request: web.Request) -> web.StreamResponse:
        """End a card's production, as the sandbox's simulation call does."""
        if (refused := self._refused(request)) is not None:
            return refused
        card = _card_of(request)
        if card is None or card not in self._cards:
            return self._answer_not_found(request)
        stage = _simulated_stage(json_object(await request.read()))
        if stage is not None and self._simulation.end_production(card, stage):
            return self._answer_phase(request, 200, card)
        expected = "status must be PRODUCED, or PRODUCTION_ERROR with an errorCode of its own, or none"
        detail = expected if stage is None else "The card is not in production"
        return self._answer(request, 422, _problem(request, 422, detail, "unprocessable_entity"))

    async def _answer_refresh(self, request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "")
        form = (await request.read()).decode(errors="replace")
        is_refused = self._tokens.refresh_refusal(authorization, form) is not None
        fault = None if is_refused else self._simulation.faults.next_refresh.take()
        if fault is not None:
            if fault.kind != "stall":
                return await self._answer_fault(request, fault)
            if await self._is_closing_within(fault.seconds):
                return _break_connection(request)
        http_status, body = self._tokens.refresh(authorization, form, self._simulation.clock.now())
        return self._answer(request, http_status, body, fault)

    async def _answer_key(self, request: web.Request) -> web.StreamResponse:
        try:
            return self._answer(request, 200, public_key(), content_type="application/x-pem-file")
        except ImportError as exc:
            return self._answer(request, 501, _problem(request, 501, str(exc)))

    async def _answer_elsewhere(self, request: web.Request) -> web.StreamResponse:
        return self._answer_not_found(request, "There is nothing at this path")

    def _answer_not_found(
        self, request: web.Request, detail: str = "Card not found", fault: Fault | None = None
    ) -> web.Response:
        return self._answer(request, 404, _problem(request, 404, detail, "resource_not_found"), fault)

    async def _answer_fault(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.kind == "answer":
            response = self._answer(request, fault.http_status, fault.body, fault, content_type=fault.content_type)
            if fault.retry_after is not None:
                response.headers["Retry-After"] = str(fault.retry_after)
            return response
        self._log(request, None, fault)
        if fault.kind == "cut_body":
            half = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "200"})
            await half.prepare(request)
            await half.write(b'{"status":"PRODUCED","kioskId":"WI')
            _break_connection(request)
            return half
        if request.transport is not None and fault.kind == "garbage":
            request.transport.write(b"\x00\xff not HTTP at all \r\n\r\n")
            request.transport.close()
            return web.Response()
        return _break_connection(request)

    async def _is_closing_within(self, seconds: float) -> bool:
        """Sleep, but no longer than the simulator runs; return whether it stops."""
        if self.closing is not None:
            await asyncio.wait([self.closing], timeout=seconds)
        return self.closing is None or self.closing.done()

    def _refused(self, request: web.Request, fault: Fault | None = None) -> web.Response | None:
        """Answer a request without a valid token; None if it has one."""
        authorization = request.headers.get("Authorization", "")
        refusal = self._tokens.refusal(authorization, self._simulation.clock.now())
        return None if refusal is None else self._answer(request, 401, refusal, fault)

    def _add_unknown(self, card: Card | None) -> None:
        if card is not None and card not in self._cards:
            plan = self._plan_for_unknown
            plan = plan(card) if callable(plan) else plan
            if plan is not None:
                self._simulation.add(card, plan)

    def _answer_phase(
        self, request: web.Request, http_status: int, card: Card, fault: Fault | None = None
    ) -> web.Response:
        """Answer with the status that a card has now."""
        phase = self._simulation.phase_of(card)
        return self._answer(request, http_status, self._status_body(phase), fault, phase=phase)

    def _status_body(self, phase: Phase) -> str:
        stage, occurred_at = phase.stage, self._simulation.clock.timestamp(phase.requested_at)
        fields = {"status": stage.status, "kioskId": phase.kiosk_id, "occurredAt": occurred_at}
        # As in Wise's samples: these two are left out where there is nothing to say.
        if stage.error_code is not None:
            fields["errorCode"] = stage.error_code
        if stage.description is not None:
            fields["description"] = stage.description
        return json.dumps(fields)

    def _answer(  # noqa: PLR0913 - one for each part of the answer and its line in the log
        self,
        request: web.Request,
        http_status: int,
        body: str,
        fault: Fault | None = None,
        *,
        content_type: str = "application/json",
        phase: Phase | None = None,
    ) -> web.Response:
        self._log(request, http_status, fault, phase if http_status == _OK else None)
        headers = {"x-trace-id": secrets.token_hex(8)}
        correlation_id = _correlation_id(request)
        if correlation_id is not None:
            headers["X-External-Correlation-Id"] = correlation_id
        # A fault's body may be no Unicode.
        written = body.encode(errors="surrogatepass")
        return web.Response(
            status=http_status, body=written, content_type=content_type, charset="utf-8", headers=headers
        )

    def _log(
        self, request: web.Request, http_status: int | None, fault: Fault | None, phase: Phase | None = None
    ) -> None:
        path, card, clock = request.rel_url.raw_path, _card_of(request), self._simulation.clock
        if card is not None:
            path = path.replace(card.card_token, str(card).partition("/")[2])
        logged = LoggedRequest(
            at=clock.now(),
            method=request.method,
            path=path if len(path) <= _LONGEST_PATH else f"{path[: _LONGEST_PATH - 1]}…",
            correlation_id=_correlation_id(request),
            card=card,
            fault=fault,
            http_status=http_status,
            status=None if phase is None else phase.stage.status,
            occurred_at=None if phase is None else clock.timestamp(phase.requested_at),
        )
        self._simulation.requests.append(logged)
        self._simulation.publish("requests")
        if self._on_request is not None:
            self._simulation.call(self._on_request, logged)


def problem(request: web.Request, http_status: int, detail: str) -> web.Response:
    """Answer a request that is refused before it is here; it is in no log."""
    body = _problem(request, http_status, detail)
    return web.Response(status=http_status, text=body, content_type="application/json")


def _problem(request: web.Request, http_status: int, detail: str, code: str | None = None) -> str:
    code = code or HTTPStatus(http_status).name.lower()
    fields = {
        "type": f"https://api.wise.com/problems/{code}",
        "title": HTTPStatus(http_status).phrase,
        "status": http_status,
        "code": code,
        "detail": detail,
        "instance": request.rel_url.raw_path[:_LONGEST_PATH],
    }
    return json.dumps(fields)


def _card_of(request: web.Request) -> Card | None:
    try:
        return Card(int(request.match_info["profile_id"]), request.match_info["card_token"])
    except (KeyError, UsageError):
        return None


def _correlation_id(request: web.Request) -> str | None:
    """Return the request's correlation id, if it is one that can be sent back."""
    correlation_id = request.headers.get("X-External-Correlation-Id", "")
    return correlation_id if _CORRELATION_ID.fullmatch(correlation_id) else None


def _break_connection(request: web.Request) -> web.Response:
    if isinstance(request.transport, asyncio.Transport):
        request.transport.abort()
    return web.Response()


def json_object(body: bytes) -> dict[str, Any] | None:
    """Read a body that is a JSON object; None if it is not."""
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", fields) if isinstance(fields, dict) else None


def _simulated_stage(fields: dict[str, Any] | None) -> Stage | None:
    """Read what the simulation call asks for; None if it cannot be done."""
    match (fields or {}).get("status"), (fields or {}).get("errorCode"):
        case ("PRODUCED" | "PRODUCTION_ERROR") as status, None:
            return Stage(status)
        case "PRODUCTION_ERROR", str(code):
            with suppress(UsageError):
                return error_stage("PRODUCTION_ERROR", code)
        case _:
            pass
    return None
