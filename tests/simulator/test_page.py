"""The simulator's page without a browser: its files, its stream of changes and its commands."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest

from cardprod.simulator import PLANS, Fault, FaultSettings, Simulator, Stage
from tests.cards import CARD
from tests.simulator.test_moves import hooks as hooks  # noqa: PLC0414 - a fixture
from tests.simulator.test_webhook_sender import UNUSABLE_URLS
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CARD = {"profile_id": str(CARD.profile_id), "card_token": CARD.card_token}
_FILES = ("/", "/_kiosk/style.css", "/_kiosk/script.js", "/_kiosk/icon.svg")


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


class Tab:
    """An open page: reads the stream of changes, and keeps what it was sent."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self._rest = b""
        self.size = 0
        """How many bytes were read."""
        self.hello: dict[str, Any] = {}
        self.last_id = ""
        self.messages: list[dict[str, Any]] = []
        self.comments = 0
        self.cards: dict[str, dict[str, Any]] = {}
        self.state: dict[str, Any] = {"requests": [], "deliveries": []}

    def close(self) -> None:
        """Go away."""
        self._answer.close()

    async def read(self) -> str:
        """Read one event, and say which it is."""
        while b"\n\n" not in self._rest:
            part = await self._answer.content.readany()
            assert part, "the stream has ended"
            self._rest += part
            self.size += len(part)
        event, _, self._rest = self._rest.partition(b"\n\n")
        fields = dict(line.split(": ", 1) for line in event.decode().splitlines())
        if "data" not in fields:
            self.comments += 1
            return "comment"
        data = json.loads(fields["data"])
        if fields["event"] == "hello":
            self.hello = data
        else:
            self.last_id = fields["id"]
            self.messages.append(data)
            self._take(data)
        return fields["event"]

    def _take(self, data: dict[str, Any]) -> None:
        for card in data.pop("cards"):
            self.cards[card["card_token"]] = card
        for name in ("requests", "deliveries"):
            self.state[name] += data.get(name, [])
        self.state |= {name: value for name, value in data.items() if name not in {"requests", "deliveries"}}

    async def until_state_is_complete(self) -> None:
        """Read the first state, to its end."""
        async with asyncio.timeout(600):
            while await self.read() != "change" or "requests" not in self.messages[-1]:
                pass

    async def status_of(self, status: str, token: str = CARD.card_token) -> dict[str, Any]:
        """Read until a card has a status."""
        async with asyncio.timeout(600):
            while self.cards.get(token, {}).get("status") != status:
                await self.read()
        return self.cards[token]


class OpenTab(Protocol):
    """Opens the page's stream."""

    async def __call__(self, path: str = "/_kiosk/changes", **headers: str) -> Tab:
        """Open it, and read its first event."""
        ...


@pytest.fixture
async def open_tab(http: aiohttp.ClientSession) -> AsyncIterator[OpenTab]:
    """Open the page's stream, until the test is over."""
    answers: list[aiohttp.ClientResponse] = []

    async def open_it(path: str = "/_kiosk/changes", **headers: str) -> Tab:
        answer = await http.get(path, headers=headers)
        answers.append(answer)
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        tab = Tab(answer)
        assert await tab.read() == "hello"
        return tab

    yield open_it
    for answer in answers:
        answer.close()


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
        for path in (*_FILES, "/_kiosk/changes"):
            async with http.get(path) as answer:
                assert answer.status == 404


# --- Changes ---


async def test_whole_state_comes_first(open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """A page that opens gets the address, all plans and errors, and then the whole state."""
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.too_many_requests(5), times=3)
    path = f"/v3/spend/profiles/{CARD.profile_id}/cards/{CARD.card_token}/production"
    async with http.get(path, headers={"Authorization": f"Bearer {kiosk.token}"}) as answer:
        assert answer.status == 429
    tab = await open_tab()
    await tab.until_state_is_complete()
    assert tab.hello["base_url"] == kiosk.base_url
    assert tab.hello["plans"] == list(PLANS)
    assert (len(tab.hello["production_errors"]), len(tab.hello["request_errors"])) == (36, 22)
    assert {"code": "PRD_FEEDER_JAM", "origin": "PRODUCTION", "meaning": "Production error: feeder card jam"} in (
        tab.hello["production_errors"]
    )
    assert tab.state["kiosks"] == [{"id": "WIS00001", "is_online": True}]
    assert tab.state["faults"] == {
        "next": [{"what": "429, Retry-After: 5", "times": 2}],
        "error_rate": 0,
        "latency": 0,
    }
    assert tab.state["subscriptions"] == []
    assert [(each["number"], each["http_status"]) for each in tab.state["requests"]] == [(1, 429)]
    card = tab.cards[CARD.card_token]
    assert (card["status"], card["plan"], card["moves"], card["requests"]) == ("READY", "never", ["start", "refuse"], 0)


async def test_planned_changes_are_live(open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """However many pages are open, each gets each change of a plan when it comes, without asking."""
    kiosk.add(CARD, "prints")
    tabs = [await open_tab() for _ in range(5)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    for tab in tabs:
        card = await tab.status_of("READY")
        assert (card["next_status"], card["next_at"] - card["since"]) == ("IN_PROGRESS", pytest.approx(2, abs=0.01))
    for status, seconds in (("IN_PROGRESS", 2), ("PRODUCED", 5)):
        await asyncio.gather(*(tab.status_of(status) for tab in tabs))
        assert loop.time() - began == pytest.approx(seconds, abs=0.2)


async def test_heartbeat(open_tab: OpenTab, http: aiohttp.ClientSession) -> None:
    """When nothing happens, something still comes every 15 seconds."""
    tab = await open_tab()
    await tab.until_state_is_complete()
    began = asyncio.get_running_loop().time()
    assert [await tab.read() for _ in range(4)] == ["comment"] * 4
    assert asyncio.get_running_loop().time() - began == pytest.approx(60, abs=1)


@pytest.mark.parametrize("is_header", [True, False])
async def test_reconnect_goes_on(
    open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator, *, is_header: bool
) -> None:
    """A page that was away for a moment gets only what has changed meanwhile."""
    kiosk.add((1, "other"), "never")
    kiosk.add(CARD, "never")
    tab = await open_tab()
    await tab.until_state_is_complete()
    tab.close()
    await asyncio.sleep(20)
    kiosk.start(CARD)
    if is_header:
        again = await open_tab(**{"Last-Event-ID": tab.last_id})
    else:
        again = await open_tab(f"/_kiosk/changes?after={tab.last_id}")
    await again.until_state_is_complete()
    assert again.hello["is_resumed"]
    assert set(again.cards) == {CARD.card_token}
    assert "kiosks" not in again.state


async def test_reconnect_from_elsewhere(open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """A page with another simulator's position, or nonsense, gets everything."""
    kiosk.add(CARD, "never")
    first = await open_tab()
    await first.until_state_is_complete()
    own = first.last_id.partition(".")[0]
    with Table() as table:
        for last_id in (
            "",
            "0badf00d.5.0.0",
            "nonsense",
            ".",
            f"{own}.-1.0.0",
            f"{own}.1",
            f"{own}.\xb2.0.0",
            "x" * 1000,
        ):
            with table.row(last_id):
                tab = await open_tab(**{"Last-Event-ID": last_id})
                await tab.until_state_is_complete()
                assert not tab.hello["is_resumed"]
                assert set(tab.cards) == {CARD.card_token}


@pytest.mark.slow
async def test_slow_reader_piles_up_nothing(open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """A page that reads nothing for a while gets the present state then, and not all that has been."""
    cards = [kiosk.add((1, f"card-{number}"), "never") for number in range(200)]
    tab = await open_tab()
    changes = 0
    for _ in range(40):
        for card in cards:
            kiosk.add(card, "never")
            kiosk.start(card)
            changes += 2
        await asyncio.sleep(0.1)
    kiosk.add(CARD, "never")
    await tab.status_of("READY")
    assert len(tab.messages) < 200
    assert tab.size < 4_000_000  # each change for itself would be over 5 MB
    assert {card["status"] for token, card in tab.cards.items() if token != CARD.card_token} == {"IN_PROGRESS"}
    assert changes == 16_000


async def test_very_many_cards_come_in_parts(open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """A thousand cards come in several messages."""
    for number in range(1000):
        kiosk.add((1, f"card-{number}"), "never")
    tab = await open_tab()
    await tab.until_state_is_complete()
    assert len(tab.cards) == 1000
    assert len(tab.messages) >= 4


async def test_too_many_tabs(open_tab: OpenTab, http: aiohttp.ClientSession) -> None:
    """There is an end to how many pages may be open."""
    tabs = [await open_tab() for _ in range(50)]
    async with http.get("/_kiosk/changes") as answer:
        assert answer.status == 503
    tabs[0].close()


async def test_logs_are_live(
    open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator, hooks: tuple[str, list[dict[str, Any]]]
) -> None:
    """Requests and webhooks are shown as they happen, with what was asked, answered and sent; and no secret."""
    kiosk.add(CARD, "never")
    tab = await open_tab()
    await tab.until_state_is_complete()
    kiosk.subscribe(hooks[0].replace("://", "://user:hidden@") + "?key=hidden")
    headers = {"Authorization": f"Bearer {kiosk.token}", "X-External-Correlation-Id": "mine"}
    path = f"/v3/spend/profiles/{CARD.profile_id}/cards/{CARD.card_token}/production"
    async with http.get(path, headers=headers) as answer:
        assert answer.status == 200
    kiosk.start(CARD)
    while not tab.state["deliveries"]:
        await tab.read()
    [request] = tab.state["requests"]
    assert (request["correlation_id"], request["http_status"], request["status"]) == ("mine", 200, "READY")
    assert (request["card"], request["fault"]) == (CARD.card_token, None)
    [delivery] = tab.state["deliveries"]
    assert (delivery["status"], delivery["attempt"], delivery["http_status"]) == ("IN_PROGRESS", 1, 200)
    assert tab.cards[CARD.card_token]["requests"] == 1
    assert tab.state["subscriptions"] == [hooks[0]]
    assert "hidden" not in json.dumps([tab.messages, tab.state, tab.hello])
    assert kiosk.token not in json.dumps([tab.messages, tab.state, tab.hello])
    late = await open_tab()
    await late.until_state_is_complete()
    assert late.state == tab.state


async def test_end_of_the_log(open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """A page that opens late gets the last 200 requests."""
    for _ in range(250):
        async with http.get("/nothing"):
            pass
    tab = await open_tab()
    await tab.until_state_is_complete()
    assert [each["number"] for each in tab.state["requests"]] == list(range(51, 251))


async def test_restart(open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """After a restart of the simulator a page comes back, and gets everything anew."""
    kiosk.add(CARD, "never")
    tab = await open_tab()
    await tab.until_state_is_complete()
    await kiosk.restart(after=1)
    again = await open_tab(**{"Last-Event-ID": tab.last_id})
    await again.status_of("READY")
    assert not again.hello["is_resumed"]


# --- Commands ---


async def test_every_move_by_command(open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """Each move of a card can be made through the page, and is seen on it."""
    tab = await open_tab()
    assert (await ask(http, "add", _CARD | {"plan": "never"}))[1]["card"]["status"] == "READY"
    await tab.status_of("READY")
    await ask(http, "add-kiosk")
    for command, fields, status in (
        ("refuse", {"error_code": "PAN_ALREADY_EXISTS"}, "REQUEST_ERROR"),
        ("retry", {}, "IN_PROGRESS"),
        ("fail", {"error_code": "PRD_FEEDER_JAM"}, "PRODUCTION_ERROR"),
        ("retry", {"kiosk_id": "WIS00002"}, "IN_PROGRESS"),
        ("finish", {}, "PRODUCED"),
    ):
        http_status, answer = await ask(http, command, _CARD | fields)
        assert (http_status, answer["card"]["status"]) == (200, status)
        assert await tab.status_of(status) == answer["card"]
    assert kiosk.state_of(CARD).kiosk_id == "WIS00002"


_NO_FAULT: dict[str, Any] = {"fault": None, "error_rate": 0, "latency": 0}


async def test_every_fault_by_command(open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator) -> None:
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
    tab = await open_tab()
    await tab.until_state_is_complete()
    assert tab.state["faults"]["next"] == [{"what": what, "times": 2} for what in faults.values()]
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
    ("add", _CARD | {"plan": "explodes"}),
    ("add", _CARD | {"plan": 5}),
    ("add", _CARD | {"plan": "never", "profile_id": "-1"}),
    ("add", _CARD | {"plan": "never", "profile_id": "9" * 19}),
    ("add", _CARD | {"plan": "never", "profile_id": "9" * 5000}),
    ("add", _CARD | {"plan": "never", "profile_id": True}),
    ("add", _CARD | {"plan": "never", "card_token": "a b"}),
    ("start", []),
    ("start", "start"),
    ("start", _CARD | {"kiosk_id": "WIS00009"}),
    ("start", _CARD | {"kiosk_id": 5}),
    ("fail", _CARD),
    ("refuse", _CARD | {"error_code": "PRD_FEEDER_JAM"}),
    ("take-offline", {}),
    ("add-kiosk", {"kiosk_id": "WIS00001"}),
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
    *(("subscribe", {"url": url}) for url in UNUSABLE_URLS),
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


async def test_large_profile_id(open_tab: OpenTab, http: aiohttp.ClientSession, kiosk: Simulator) -> None:
    """A profile's id that JavaScript's numbers cannot hold is sent and read as it is."""
    largest = 2**63 - 1
    await ask(http, "add", {"profile_id": str(largest), "card_token": "card", "plan": "never"})
    assert kiosk.cards[0].profile_id == largest
    tab = await open_tab()
    assert (await tab.status_of("READY", "card"))["profile_id"] == str(largest)


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
