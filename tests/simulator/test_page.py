"""The simulator's page without a browser: its files, what it shows and its commands."""

from __future__ import annotations

import asyncio
import html
import json
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from cardprod.simulator import PLANS, Fault, FaultSettings, Simulator, Stage
from cardprod.simulator.page.state import state_as_json
from tests.cards import CARD
from tests.simulator.test_moves import hooks as hooks  # noqa: PLC0414 - a fixture
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cardprod.models import CardLike
    from cardprod.simulator.kiosks import CardState

_CARD = {"profile_id": str(CARD.profile_id), "card_token": CARD.card_token}
_PATH = f"/v3/spend/profiles/{CARD.profile_id}/cards/{CARD.card_token}/production"
_FILES = ("/", "/_kiosk/style.css", "/_kiosk/script.js", "/_kiosk/icon.svg", "/_kiosk/state")


@pytest.fixture
async def kiosk() -> AsyncIterator[Simulator]:
    """A kiosk with a page."""
    async with Simulator(page=True) as simulator:
        yield simulator


@pytest.fixture
async def http(kiosk: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP client of the kiosk."""
    async with aiohttp.ClientSession(kiosk.base_url) as session:
        yield session


async def state_of(http: aiohttp.ClientSession, **query: str) -> dict[str, Any]:
    """Ask for the state as the page does."""
    async with http.get("/_kiosk/state", params=query) as answer:
        assert answer.status == 200
        return dict(json.loads(await answer.text()))


async def ask(
    http: aiohttp.ClientSession, command: str, fields: object = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Give a command, and give the HTTP status and the answer."""
    async with http.post(f"/_kiosk/{command}", json={} if fields is None else fields, headers=headers) as answer:
        return answer.status, json.loads(await answer.text())


# --- Files ---


async def test_files(http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """Each file is served with its type and a strict policy, and is not in the log of requests."""
    with Table() as table:
        for path in _FILES:
            with table.row(path):
                async with http.get(path) as answer:
                    assert answer.status == 200
                    assert await answer.text()
                    assert answer.charset == "utf-8"
                    policy = answer.headers["Content-Security-Policy"]
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert policy.startswith("default-src 'none'; script-src 'self';")
                assert "unsafe" not in policy
    assert kiosk.requests == []


async def test_no_page_unless_asked_for() -> None:
    """A simulator without a page has nothing at its paths."""
    async with Simulator() as kiosk, aiohttp.ClientSession(kiosk.base_url) as http:
        for path in _FILES:
            async with http.get(path) as answer:
                assert answer.status == 404


# --- What it shows ---


async def test_the_page_has_the_state(http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """The page has the address, all plans and errors, and the whole state in it, which is also to be had alone."""
    kiosk.add(CARD, "prints")
    kiosk.fail_next(Fault.too_many_requests(5), times=3)
    async with http.get(_PATH, headers={"Authorization": f"Bearer {kiosk.token}"}) as answer:
        assert answer.status == 429
    async with http.get("/") as answer:
        found = re.search('<meta name="begin" content="(.*?)">', await answer.text())
    assert found is not None
    begin = json.loads(html.unescape(found[1]))
    facts, state = begin["facts"], begin["state"]
    assert state == await state_of(http)
    assert (facts["base_url"], facts["plans"], facts["takes_any_token"]) == (kiosk.base_url, list(PLANS), False)
    assert (len(facts["production_errors"]), len(facts["request_errors"])) == (36, 22)
    error = {"code": "PRD_FEEDER_JAM", "origin": "PRODUCTION", "meaning": "Production error: feeder card jam"}
    assert error in facts["production_errors"]
    assert state["kiosks"] == [{"kiosk_id": "WIS00001", "is_online": True, "in_production": 0}]
    next_answers = [{"what": "429, Retry-After: 5", "times": 2}]
    assert state["faults"] == {"next": next_answers, "error_rate": 0, "latency": 0}
    assert (state["subscriptions"], state["deliveries"]) == ([], [])
    assert [(each["number"], each["http_status"]) for each in state["requests"]] == [(1, 429)]
    [card] = state["cards"]
    assert (card["status"], card["plan"], card["requests"]) == ("READY", "prints", 0)
    assert card["moves"] == ["start", "refuse"]
    assert (card["next_status"], card["next_at"] - card["since"]) == ("IN_PROGRESS", pytest.approx(2, abs=0.01))


async def test_only_what_is_shown_is_described() -> None:
    """However many cards there are, no more of them are described than are shown at once."""

    class Counting(Simulator):
        described = 0

        def state_of(self, card: CardLike) -> CardState:
            self.described += 1
            return super().state_of(card)

    async with Counting() as kiosk:
        for number in range(500):
            kiosk.add((1, f"card-{number}"), "prints")
        assert state_as_json(kiosk, "READY", "card-4")["found"] == 111
        assert kiosk.described == 50


async def test_which_cards_it_shows(http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """Fifty cards are shown at once, the newest first; those in a status, those with some text, and all are counted."""
    for number in range(120):
        kiosk.add((1, f"Card-{number:03}"), "never" if number % 2 else [Stage("IN_PROGRESS")])
    rows: list[tuple[dict[str, str], int, int, str, int]] = [
        ({}, 120, 0, "Card-119", 50),
        ({"page": "1"}, 120, 1, "Card-069", 50),
        ({"page": "99"}, 120, 2, "Card-019", 20),
        ({"page": "-1"}, 120, 0, "Card-119", 50),
        ({"page": "9" * 30}, 120, 0, "Card-119", 50),
        ({"words": "card-05"}, 10, 0, "Card-059", 10),
        ({"words": "1/", "status": "IN_PROGRESS", "page": "1"}, 60, 1, "Card-018", 10),
    ]
    with Table() as table:
        for query, found, page, first, count in rows:
            state = await state_of(http, **query)
            with table.row(query):
                assert (state["all_cards"], state["found"], state["page"]) == (120, found, page)
                assert (state["cards"][0]["card_token"], len(state["cards"])) == (first, count)
    assert (await state_of(http, words="card-05", status="READY"))["counts"] == {"READY": 5, "IN_PROGRESS": 5}
    assert (await state_of(http, words="none"))["cards"] == []


async def test_logs_are_shown(
    http: aiohttp.ClientSession, kiosk: Simulator, hooks: tuple[str, list[dict[str, Any]]]
) -> None:
    """The last requests and webhooks are shown, with what was asked, answered and sent; and no secret."""
    kiosk.add(CARD, "never")
    kiosk.subscribe(hooks[0].replace("://", "://user:hidden@") + "?key=hidden")
    for _ in range(150):
        async with http.get("/nothing"):
            pass
    headers = {"Authorization": f"Bearer {kiosk.token}", "X-External-Correlation-Id": "mine"}
    async with http.get(_PATH, headers=headers) as answer:
        assert answer.status == 200
    kiosk.start(CARD)
    await asyncio.sleep(1)
    state = await state_of(http)
    assert [each["number"] for each in state["requests"]] == list(range(52, 152))
    request = state["requests"][-1]
    assert (request["correlation_id"], request["http_status"], request["status"]) == ("mine", 200, "READY")
    assert (request["card"], request["fault"]) == (CARD.card_token, None)
    [delivery] = state["deliveries"]
    assert (delivery["status"], delivery["attempt"], delivery["http_status"]) == ("IN_PROGRESS", 1, 200)
    assert state["cards"][0]["requests"] == 1
    assert state["subscriptions"] == [hooks[0]]
    assert "hidden" not in json.dumps(state)
    assert kiosk.token not in json.dumps(state)


# --- Commands ---


_NO_FAULT: dict[str, Any] = {"fault": None, "error_rate": 0, "latency": 0}


async def test_every_fault_by_command(http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """Each fault of the next answers can be set, and is described; so can a rate and a latency, until a reset."""
    faults = {
        "429": "429, Retry-After: 7",
        "500": "500",
        "503": "503",
        "gateway_page": "502",
        "late": "7 s late",
        "reset": "connection broken",
        "cut_body": "body cut short",
        "garbage": "not HTTP",
        "bad_reply": "200, not the documented body",
    }
    for fault in faults:
        assert await ask(http, "apply-faults", _NO_FAULT | {"fault": fault, "times": 2, "seconds": 7}) == (200, {})
    assert (await state_of(http))["faults"]["next"] == [{"what": what, "times": 2} for what in faults.values()]
    assert len(kiosk.faults.next) == len(faults)
    await ask(http, "apply-faults", _NO_FAULT | {"error_rate": 0.25, "latency": 2.5})
    assert (kiosk.faults.latency, kiosk.faults.error_rate, len(kiosk.faults.next)) == (2.5, 0.25, len(faults))
    assert await ask(http, "reset-faults") == (200, {})
    assert kiosk.faults == FaultSettings(next=(), error_rate=0, latency=0)


async def test_webhooks_without_the_extra(http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `webhooks` a subscription is answered with what is needed."""

    def no_key() -> None:
        raise ImportError("the simulator's webhooks need the extra 'webhooks'")

    monkeypatch.setattr("cardprod.simulator.webhook_sender._private_key", no_key)
    http_status, answer = await ask(http, "subscribe", {"url": "http://127.0.0.1:9/"})
    assert http_status == 400
    assert "need the extra 'webhooks'" in answer["detail"]


_WRONG: list[tuple[str, Any]] = [
    ("add", {}),
    ("add", _CARD),
    ("add", _CARD | {"plan": "never", "profile_id": "-1"}),
    ("add", _CARD | {"plan": "never", "profile_id": "9" * 19}),
    ("add", _CARD | {"plan": "never", "profile_id": "9" * 5000}),
    ("add", _CARD | {"plan": "never", "profile_id": True}),
    ("start", []),
    ("start", "start"),
    ("start", _CARD | {"kiosk_id": 5}),
    ("fail", _CARD),
    ("take-offline", {}),
    *(
        ("apply-faults", _NO_FAULT | wrong)
        for wrong in (
            {"fault": "flood", "times": 1},
            {"fault": ["500"], "times": 1},
            {"fault": "500"},
            {"fault": "500", "times": 0},
            {"fault": "500", "times": 1.5},
            {"fault": "500", "times": 10**9},
            {"fault": "429", "times": 1, "seconds": "soon"},
            {"fault": "429", "times": 1, "seconds": 1e999},
            {"latency": -1},
            {"latency": float("nan")},
            {"latency": True},
            {"error_rate": 2},
            {"error_rate": None},
        )
    ),
    ("apply-faults", {}),
    ("send-tests", {}),
    ("subscribe", {}),
    ("subscribe", {"url": "nowhere"}),
]


async def test_wrong_command(http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """A command that cannot be right is answered with 400 and words, and changes nothing."""

    def state() -> object:
        return kiosk.cards, kiosk.state_of(CARD), kiosk.kiosks, kiosk.faults, kiosk.subscriptions

    kiosk.add(CARD, "never")
    before = state()
    with Table() as table:
        for command, fields in _WRONG:
            with table.row(command, fields):
                http_status, answer = await ask(http, command, fields)
                assert http_status == 400
                assert answer["detail"]
                assert state() == before


async def test_unknown_command(http: aiohttp.ClientSession) -> None:
    """A command that there is not is a 404 that names those there are."""
    http_status, answer = await ask(http, "explode")
    assert http_status == 404
    assert "start, finish, fail" in answer["detail"]


async def test_large_profile_id(http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """A profile's id that JavaScript's numbers cannot hold is sent and read as it is."""
    largest = 2**63 - 1
    await ask(http, "add", {"profile_id": str(largest), "card_token": "card", "plan": "never"})
    assert kiosk.cards[0].profile_id == largest
    assert (await state_of(http))["cards"][0]["profile_id"] == str(largest)


# --- Who may use it: see `test_access` for every route alike ---


async def test_forms_are_refused(http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """What a form of any website could send is not taken."""
    kiosk.add(CARD, "never")
    with Table() as table:
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            headers = {"Content-Type": content_type}
            with table.row(content_type):
                async with http.post("/_kiosk/start", data=json.dumps(_CARD), headers=headers) as answer:
                    assert answer.status == 415
                assert kiosk.state_of(CARD).status == "READY"


async def test_this_machine_is_accepted(http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """The page itself is accepted under each name of this machine, through a forwarded port too, and so is curl."""
    with Table() as table:
        for host in ("127.0.0.1", "localhost", "[::1]"):
            kiosk.add(CARD, [Stage("IN_PROGRESS")])
            own = {"Host": f"{host}:9999", "Origin": f"http://{host}:9999", "Sec-Fetch-Site": "same-origin"}
            with table.row(host):
                async with http.get("/", headers={"Host": f"{host}:9999", "Sec-Fetch-Site": "none"}) as answer:
                    assert answer.status == 200
                assert (await ask(http, "fail", _CARD | {"error_code": "PRT_PAUSED"}, **own))[0] == 200
                assert (await ask(http, "retry", _CARD))[0] == 200
