"""The kiosk simulator as its users see it: over plain HTTP, without the client whose judge it is."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

import cardprod
from cardprod.simulator import PLANS, Fault, LoggedRequest, Simulator, Stage
from tests.cards import CARD
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATH = f"/v3/spend/profiles/{CARD.profile_id}/cards/{CARD.card_token}/production"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(
    http: aiohttp.ClientSession, kiosk: Simulator, path: str = PATH, *, authorization: str | None = "", **headers: str
) -> tuple[int, dict[str, str], str]:
    """GET a path: the HTTP status, the headers and the body."""
    if authorization is not None:
        headers["Authorization"] = authorization or f"Bearer {kiosk.token}"
    async with http.get(kiosk.base_url + path, headers=headers, allow_redirects=False) as answer:
        return answer.status, dict(answer.headers), await answer.text()


async def statuses(http: aiohttp.ClientSession, kiosk: Simulator) -> list[dict[str, Any]]:
    """Ask every second for 20 seconds, and keep what is new."""
    seen: list[dict[str, Any]] = []
    for _ in range(20):
        body = json.loads((await ask(http, kiosk))[2])
        if body not in seen:
            seen.append(body)
        await asyncio.sleep(1)
    return seen


async def test_every_plan_runs(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """A card on a named plan goes through its statuses in their order, and ends with its error code."""
    plans: dict[str, tuple[list[str], str | None]] = {
        "prints": (["READY", "IN_PROGRESS", "PRODUCED"], None),
        "jams": (["READY", "IN_PROGRESS", "PRODUCTION_ERROR"], "PRD_FEEDER_JAM"),
        "rejected": (["READY", "REQUEST_ERROR"], "KIOSK_ID_NOT_FOUND"),
        "retried": (["READY", "IN_PROGRESS", "PRODUCTION_ERROR", "IN_PROGRESS", "PRODUCED"], None),
        "never": (["READY"], None),
    }
    assert set(PLANS) == set(plans)
    with Table() as table:
        for plan, (expected, error_code) in plans.items():
            kiosk.add(CARD, plan)
            with table.row(plan):
                seen = await statuses(http, kiosk)
                assert [body["status"] for body in seen] == expected
                assert seen[-1].get("errorCode") == error_code


async def test_own_plan_runs_from_when_its_card_was_added(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """A plan of one's own, tuples and stages, runs from the moment its card was added."""
    await asyncio.sleep(100)
    kiosk.add((CARD.profile_id, CARD.card_token), [("READY", 5), ("HEATING_UP", 5), Stage("PRODUCED")])
    assert [body["status"] for body in await statuses(http, kiosk)] == ["READY", "HEATING_UP", "PRODUCED"]


@pytest.fixture
async def printing(kiosk: Simulator) -> None:
    """A card that was added before the test, and so before its virtual time, has begun."""
    kiosk.add(CARD, "prints")


async def test_virtual_time_goes_on(printing: None, kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """Where virtual time begins after a card was added, plans and logs go on: no time is negative or very long."""
    seen = [body["status"] for body in await statuses(http, kiosk)]
    assert seen == ["READY", "IN_PROGRESS", "PRODUCED"]
    assert 0 <= kiosk.state_of(CARD).since <= kiosk.requests[-1].at < 30


async def test_body_is_as_wises(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """A body has Wise's names, a null kiosk while READY, a UTC time in milliseconds, and nothing where is nothing."""
    kiosk.add(CARD, [("READY", 5), Stage("IN_PROGRESS", 5), Stage("PRODUCED", is_new_request=True)])
    ready, printing, produced = await statuses(http, kiosk)
    assert list(ready) == list(printing) == ["status", "kioskId", "occurredAt"]
    assert (ready["kioskId"], printing["kioskId"]) == (None, "WIS00001")
    assert ready["occurredAt"] == printing["occurredAt"] < produced["occurredAt"]
    assert len(ready["occurredAt"]) == len("2026-01-01T00:00:00.000Z")
    assert ready["occurredAt"].endswith("Z")


async def test_wrong_token_is_refused(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """Without the token the answer is a 401 in Wise's shape."""
    kiosk.add(CARD)
    missing: list[str | None] = [None, "Bearer ", "Basic abc"]
    with Table() as table:
        for authorization in (*missing, "Bearer wrong"):
            with table.row(authorization):
                http_status, _, body = await ask(http, kiosk, authorization=authorization)
                assert http_status == 401
                assert json.loads(body)["error"] == ("missing_token" if authorization in missing else "invalid_token")
                assert set(json.loads(body)) == {"error", "error_description"}


async def test_unknown_is_a_problem_document(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """What is not there is a 404 with a problem document, in the log as well."""
    paths = (PATH, "/v3/spend/profiles/0/cards/x/production", "/nothing", "/")
    with Table() as table:
        for path in paths:
            with table.row(path):
                http_status, _, body = await ask(http, kiosk, path)
                assert http_status == 404
                problem = json.loads(body)
                assert set(problem) == {"type", "title", "status", "code", "detail", "instance"}
                assert (problem["status"], problem["code"], problem["instance"]) == (404, "resource_not_found", path)
    assert [(request.http_status, request.path) for request in kiosk.requests] == [
        (404, path.replace(CARD.card_token, "ca0c…de52")) for path in paths
    ]


async def test_unknown_card_starts_on_a_plan(http: aiohttp.ClientSession) -> None:
    """With a plan for unknown cards, a card that was not added starts on it when first asked for."""
    async with Simulator(plan_for_unknown=[("READY", 5), ("PRODUCED", 1)]) as kiosk:
        await asyncio.sleep(60)
        assert [body["status"] for body in await statuses(http, kiosk)] == ["READY", "PRODUCED"]


async def call(
    http: aiohttp.ClientSession, kiosk: Simulator, method: str, path: str, fields: object
) -> tuple[int, dict[str, Any]]:
    """Send JSON with the token: the HTTP status and the answer's JSON."""
    headers = {"Authorization": f"Bearer {kiosk.token}"}
    async with http.request(method, kiosk.base_url + path, json=fields, headers=headers) as answer:
        return answer.status, json.loads(await answer.text())


def produce_path(version: str, call: str = "") -> str:
    return f"/{version}/{call}spend/profiles/{CARD.profile_id}/cards/{CARD.card_token}/production"


@pytest.mark.parametrize("version", ["v3", "2026Q3"])
async def test_production_request(kiosk: Simulator, http: aiohttp.ClientSession, version: str) -> None:
    """`PUT` starts a card, or sends it to a kiosk again, under a new `occurredAt`; the answer is its new status."""
    kiosk.add_kiosk("LOBBY")
    kiosk.add(CARD, "never")
    path = produce_path(version)
    http_status, started = await call(http, kiosk, "PUT", path, {"kioskId": "LOBBY"})
    assert (http_status, started["status"], started["kioskId"]) == (200, "IN_PROGRESS", "LOBBY")
    assert started == json.loads((await ask(http, kiosk))[2])
    await asyncio.sleep(5)
    kiosk.fail(CARD, "PRD_FEEDER_JAM")
    http_status, again = await call(http, kiosk, "PUT", path, {"kioskId": "WIS00001"})
    assert (http_status, again["status"], again["kioskId"]) == (200, "IN_PROGRESS", "WIS00001")
    assert again["occurredAt"] > started["occurredAt"]
    assert [request.method for request in kiosk.requests] == ["PUT", "GET", "PUT"]


async def test_production_request_of_a_planned_card(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """With a plan, `PUT` brings its next stage at once, whichever that is, and the plan goes on from there."""
    with Table() as table:
        for plan, http_status, status, later in (
            ("prints", 200, "IN_PROGRESS", "PRODUCED"),
            ("jams", 200, "IN_PROGRESS", "PRODUCTION_ERROR"),
            ("rejected", 422, "REQUEST_ERROR", "REQUEST_ERROR"),
            ([("READY", 1e6), ("IN_PROGRESS", 3), ("PRODUCED", 1)], 200, "IN_PROGRESS", "PRODUCED"),
        ):
            kiosk.add(CARD, plan)
            await asyncio.sleep(1)
            with table.row(plan):
                answer = await call(http, kiosk, "PUT", produce_path("v3"), {"kioskId": "WIS00001"})
                assert (answer[0], answer[1]["status"]) == (http_status, status)
                assert kiosk.state_of(CARD).status == status
                await asyncio.sleep(3)
                assert kiosk.state_of(CARD).status == later


async def test_refused_production_request(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """A refused `PUT` is a 422 with a production status that says why."""
    body = {"kioskId": "WIS00001"}
    with Table() as table:
        for status, fields, code, after in (
            ("READY", {"kioskId": "WIS99999"}, "KIOSK_ID_NOT_FOUND", "REQUEST_ERROR"),
            ("PRODUCTION_ERROR", {"kioskId": "WIS99999"}, "KIOSK_ID_NOT_FOUND", "REQUEST_ERROR"),
            ("IN_PROGRESS", body, "REQUEST_ALREADY_EXISTS", "IN_PROGRESS"),
            ("PRODUCED", body, "REQUEST_ALREADY_EXISTS", "PRODUCED"),
            ("QUALITY_CHECK", body, "REQUEST_ALREADY_EXISTS", "QUALITY_CHECK"),
            ("READY", {}, "EMPTY_OR_NULL_FIELD_VALUE", "READY"),
            ("READY", {"kioskId": ["WIS00001"]}, "EMPTY_OR_NULL_FIELD_VALUE", "READY"),
        ):
            kiosk.add(CARD, [Stage(status)])
            with table.row(status, fields):
                http_status, answer = await call(http, kiosk, "PUT", produce_path("v3"), fields)
                assert (http_status, answer["status"], answer["errorCode"]) == (422, "REQUEST_ERROR", code)
                assert cardprod.ErrorCode(answer["errorCode"])
                assert kiosk.state_of(CARD).status == after
    kiosk.add(CARD, "prints")
    kiosk.take_offline()
    http_status, answer = await call(http, kiosk, "PUT", produce_path("v3"), body)
    assert (http_status, answer["errorCode"]) == (422, "REQUEST_CREATED_BUT_NOT_STARTED")
    assert kiosk.state_of(CARD).is_pending
    http_status, answer = await call(http, kiosk, "PUT", "/v3/spend/profiles/1/cards/x/production", body)
    assert (http_status, answer["code"]) == (404, "resource_not_found")


@pytest.mark.parametrize("version", ["v1", "2026Q3"])
async def test_simulation_call(kiosk: Simulator, http: aiohttp.ClientSession, version: str) -> None:
    """The sandbox's simulation call ends a card that is in production, well or with a code; else it is a 422."""
    path = produce_path(version, "simulation/")
    kiosk.add(CARD, "never")
    assert (await call(http, kiosk, "POST", path, {"status": "PRODUCED"}))[0] == 422
    with Table() as table:
        for fields, code in (
            ({"status": "PRODUCED"}, None),
            ({"status": "PRODUCED", "errorCode": None}, None),
            ({"status": "PRODUCTION_ERROR"}, None),
            ({"status": "PRODUCTION_ERROR", "errorCode": "PRD_FEEDER_JAM"}, "PRD_FEEDER_JAM"),
        ):
            kiosk.add(CARD, [Stage("IN_PROGRESS")])
            with table.row(fields):
                assert (await call(http, kiosk, "POST", path, fields))[0] == 200
                state = kiosk.state_of(CARD)
                assert (state.status, state.error_code) == (fields["status"], code)


async def test_headers_are_as_wises(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """Every answer has a trace id of its own, and echoes the correlation id."""
    kiosk.add(CARD)
    sent = {"X-External-Correlation-Id": "b5d4e8d6-0000-4000-a000-000000000000"}
    _, first, _ = await ask(http, kiosk, **sent)
    _, second, _ = await ask(http, kiosk, "/nothing", **sent)
    assert first["x-trace-id"] != second["x-trace-id"]
    assert {headers["X-External-Correlation-Id"] for headers in (first, second)} == set(sent.values())
    assert kiosk.requests[0].correlation_id == sent["X-External-Correlation-Id"]


async def test_fault_is_answered(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """A fault with an answer gives just that answer, once, and is in the log."""
    kiosk.add(CARD)
    is_json = ("Content-Type", "application/json; charset=utf-8")
    answers = [
        (Fault.too_many_requests(7), 429, "Too many", ("Retry-After", "7")),
        (Fault.too_many_requests("soon"), 429, "Too many", ("Retry-After", "soon")),
        (Fault.server_error(), 500, "internal_error", is_json),
        (Fault.server_error(503, 9), 503, "internal_error", ("Retry-After", "9")),
        (Fault.gateway_page(), 502, "<html>", ("Content-Type", "text/html; charset=utf-8")),
        (Fault.bad_reply(), 200, '{"kioskId":"WIS00001"}', is_json),
    ]
    with Table() as table:
        for fault, http_status, body, (header, value) in answers:
            kiosk.fail_next(fault)
            with table.row(fault):
                answer = await ask(http, kiosk)
                assert (answer[0], answer[1][header]) == (http_status, value)
                assert body in answer[2]
                assert (await ask(http, kiosk))[0] == 200
                assert [request.fault for request in kiosk.requests[-2:]] == [fault, None]


async def test_fault_breaks_the_connection(http: aiohttp.ClientSession) -> None:
    """A fault without an answer breaks the connection in its own way, and is in the log without an HTTP status."""
    failures: list[tuple[Fault, type[Exception]]] = [
        (Fault.reset(), aiohttp.ClientConnectionError),
        (Fault.cut_body(), aiohttp.ClientPayloadError),
        (Fault.garbage(), aiohttp.ClientResponseError),
    ]
    with Table() as table:
        for fault, failure in failures:
            async with Simulator() as kiosk:
                kiosk.add(CARD)
                kiosk.fail_next(fault, times=2)  # aiohttp tries a broken connection once more by itself
                with table.row(fault):
                    with pytest.raises(failure):
                        await ask(http, kiosk)
                    logged = {(request.fault, request.http_status, request.status) for request in kiosk.requests}
                    assert logged == {(fault, None, None)}


async def test_stall_answers_late(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """A stall answers correctly, only later."""
    kiosk.add(CARD, [("READY", 10), Stage("PRODUCED")])
    kiosk.fail_next(Fault.stall(30))
    began = asyncio.get_running_loop().time()
    http_status, _, body = await ask(http, kiosk)
    assert asyncio.get_running_loop().time() - began == pytest.approx(30, abs=0.01)
    assert (http_status, json.loads(body)["status"]) == (200, "PRODUCED")
    assert kiosk.requests[0].fault == Fault.stall(30)


async def test_fault_for_one_card_spares_the_others(kiosk: Simulator, http: aiohttp.ClientSession) -> None:
    """A fault for one card leaves the others alone."""
    kiosk.add(CARD)
    kiosk.add((1, "other"))
    kiosk.fail_next(Fault.server_error(), card=CARD)
    assert (await ask(http, kiosk, "/v3/spend/profiles/1/cards/other/production"))[0] == 200
    assert (await ask(http, kiosk))[0] == 500


async def random_faults(http: aiohttp.ClientSession, share: float, seed: int) -> list[Fault | None]:
    """List the fault of each of a hundred answers."""
    async with Simulator() as kiosk:
        kiosk.add(CARD, "never")
        kiosk.set_error_rate(share, seed)
        client = cardprod.Client(kiosk.token, base_url=kiosk.base_url, session=http, attempts=1, rate_limit=None)
        while len(kiosk.requests) < 100:
            await asyncio.gather(client.get_status(CARD.profile_id, CARD.card_token), return_exceptions=True)
        await asyncio.sleep(3600)  # the stalled ones are logged when they end
        return [request.fault for request in kiosk.requests]


async def test_error_rate(http: aiohttp.ClientSession) -> None:
    """The same seed gives the same faults, another seed others, about as many as asked for; 0 gives none, 1 all."""
    first, again, other = [await random_faults(http, 0.3, seed) for seed in (1, 1, 2)]
    assert first[:100] == again[:100] != other[:100]
    assert 15 <= sum(fault is not None for fault in first[:100]) <= 45
    assert {*await random_faults(http, 0.0, 1)} == {None}
    assert None not in await random_faults(http, 1.0, 1)


async def test_log_has_what_was_served_and_no_token(http: aiohttp.ClientSession) -> None:
    """The log, and `on_request`, have when, what for and what came, no bearer token, and the card's token shortened."""
    logged: list[LoggedRequest] = []
    async with Simulator(on_request=logged.append) as kiosk:
        kiosk.add(CARD, "never")
        await ask(http, kiosk)
        await asyncio.sleep(5)
        await ask(http, kiosk, authorization="Bearer wrong-token")
        assert kiosk.requests == logged
    first, second = logged
    assert first.path == PATH.replace(CARD.card_token, "ca0c…de52")
    assert (first.card, first.http_status, first.status) == (CARD, 200, "READY")
    assert first.occurred_at is not None
    assert (second.http_status, second.status, second.occurred_at) == (401, None, None)
    assert second.at - first.at == pytest.approx(5, abs=0.01)
    for hidden in (kiosk.token, CARD.card_token, "wrong-token"):
        assert hidden not in repr(logged)
