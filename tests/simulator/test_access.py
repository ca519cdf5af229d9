"""Who may use the simulator, on every route alike, and what broken, hostile or half-sent requests do to it: nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import sys
from itertools import product
from typing import TYPE_CHECKING, Final

import aiohttp
import pytest

from cardprod.simulator import Fault, Simulator, Stage
from tests.cards import CARD
from tests.table import Table, pairwise_rows
from tests.waiting import Child, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CARD: Final = f"spend/profiles/{CARD.profile_id}/cards/{CARD.card_token}/production"
_UNKNOWN: Final = "spend/profiles/1/cards/unknown/production"
_JSON: Final = {"profile_id": CARD.profile_id, "card_token": CARD.card_token, "kioskId": "WIS00001"}
_REFRESH: Final = "grant_type=refresh_token&refresh_token=simulated-refresh-token"

ROUTES: Final[list[tuple[str, str, str]]] = [
    ("GET", f"/v3/{_CARD}", ""),
    ("GET", f"/v3/{_UNKNOWN}", ""),
    ("PUT", f"/2026Q3/{_CARD}", json.dumps(_JSON)),
    ("PUT", f"/v3/{_UNKNOWN}", json.dumps(_JSON)),
    ("POST", f"/2026Q3/simulation/{_CARD}", '{"status":"PRODUCED"}'),
    ("POST", "/oauth/token", _REFRESH),
    ("POST", "/v1/oauth/token", _REFRESH),
    ("GET", "/webhooks/public-key.pem", ""),
    ("GET", "/", ""),
    ("HEAD", "/", ""),
    ("GET", "/_kiosk/state", ""),
    ("GET", "/_kiosk/script.js", ""),
    ("POST", "/_kiosk/start", json.dumps(_JSON)),
    ("POST", "/_kiosk/add", json.dumps(_JSON | {"card_token": "new", "plan": "never"})),
    ("OPTIONS", "/_kiosk/start", ""),
    ("OPTIONS", f"/v3/{_CARD}", ""),
    ("GET", "/nothing", ""),
]
STRANGERS: Final = {
    "a name pointed at this machine": {"Host": "evil.example"},
    "the same with the port": {"Host": "evil.example:8080"},
    "a name that begins as this machine's": {"Host": "127.0.0.1.evil.example"},
    "a user that is called as this machine": {"Host": "127.0.0.1@evil.example"},
    "this machine, with a user": {"Host": "evil.example@127.0.0.1"},
    "a name that ends as this machine's": {"Host": "evil.localhost"},
    "another machine of the network": {"Host": "192.168.0.1"},
    "no host": {"Host": "["},
    "an empty host": {"Host": ""},
    "another site": {"Origin": "https://evil.example"},
    "another server of this machine": {"Origin": "http://127.0.0.1:1"},
    "a sandboxed page": {"Origin": "null"},
    "an empty origin": {"Origin": ""},
    "another site, as the browser says": {"Sec-Fetch-Site": "cross-site"},
    "an image of another site": {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "no-cors",
        "Sec-Fetch-Dest": "image",
    },
    "another server, as the browser says": {"Sec-Fetch-Site": "same-site"},
    "another site's form": {
        "Origin": "https://evil.example",
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
    },
}


@pytest.fixture
async def kiosk() -> AsyncIterator[Simulator]:
    """A kiosk as `cardprod simulate` runs it: with a page, any token, and a plan for every card."""
    async with Simulator(page=True, token=None, plan_for_unknown="prints") as simulator:
        simulator.add(CARD, [Stage("IN_PROGRESS")])
        simulator.fail_next(Fault.server_error(418), times=5)
        simulator.fail_next_refresh(Fault.server_error(418), times=5)
        yield simulator


def state_of(kiosk: Simulator) -> tuple[object, ...]:
    """All that a request can change or use up."""
    cards = [kiosk.state_of(card) for card in kiosk.cards]
    return cards, kiosk.kiosks, kiosk.faults, kiosk.refresh_token, kiosk.token, kiosk.subscriptions, [*kiosk.requests]


async def raw(kiosk: Simulator, request: bytes, *, within: float = 60.0) -> bytes:
    """Send bytes, and return what comes until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(kiosk.base_url.rpartition(":")[2]))
    try:
        writer.write(request)
        async with asyncio.timeout(within):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_other_websites_are_refused_on_every_route(kiosk: Simulator) -> None:
    """What another website, or a name pointed at this machine, asks for is refused, is not read and changes nothing."""
    before = state_of(kiosk)
    async with aiohttp.ClientSession(kiosk.base_url) as http:
        with Table() as table:
            for (name, headers), (method, path, body) in product(STRANGERS.items(), ROUTES):
                with table.row(name, method, path):
                    all_headers = {"Authorization": "Bearer any", "Content-Type": "application/json"} | headers
                    async with http.request(method, path, data=body or None, headers=all_headers) as answer:
                        assert answer.status == 403
                        assert "PRODUC" not in await answer.text()
                        assert not [each for each in answer.headers if each.startswith("Access-Control-")]
                    assert state_of(kiosk) == before
    # The same requests without such headers are accepted.
    kiosk.clear_faults()
    async with aiohttp.ClientSession(kiosk.base_url) as http, http.put(f"/v3/{_UNKNOWN}", json=_JSON) as answer:
        assert answer.status == 401
    async with aiohttp.ClientSession(kiosk.base_url, headers={"Authorization": "Bearer any"}) as http:
        for path in (f"/v3/{_UNKNOWN}", "/", "/_kiosk/script.js"):
            async with http.get(path) as answer:
                assert answer.status == 200


async def test_a_header_that_is_there_twice_hides_nothing(kiosk: Simulator) -> None:
    """A second Host, Origin or Sec-Fetch-Site, or a host in the request line, is no way round the checks."""
    before = state_of(kiosk)
    host = b"Host: 127.0.0.1\r\n"
    target = f"/v3/{_CARD}".encode()
    with Table() as table:
        for line, headers in (
            (target, host + b"Host: evil.example\r\n"),
            (target, b"Host: evil.example\r\n" + host),
            (target, host + b"Origin: http://127.0.0.1\r\nOrigin: https://evil.example\r\n"),
            (target, host + b"Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n"),
            (b"http://evil.example" + target, host),
            (target, b""),
        ):
            request = (
                b"GET " + line + b" HTTP/1.1\r\nAuthorization: Bearer any\r\nConnection: close\r\n" + headers + b"\r\n"
            )
            with table.row(request):
                assert (await raw(kiosk, request)).partition(b"\r\n")[0].split()[1] in {b"400", b"403"}
                assert state_of(kiosk) == before


async def test_a_link_to_the_page_may_be_followed(kiosk: Simulator) -> None:
    """Somebody who follows a link to the page, in a mail or a ticket, sees it; nothing else can be reached so."""
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Authorization": "Bearer any"}
    async with aiohttp.ClientSession(kiosk.base_url, headers=headers) as http:
        for method, path, body in ROUTES:
            async with http.request(method, path, data=body or None) as answer:
                assert answer.status == (200 if (method, path) == ("GET", "/") else 403)


async def test_without_a_valid_token_nothing_changes() -> None:
    """A request with no token, a wrong one or wrong client credentials adds no card and uses up no fault."""
    async with Simulator(plan_for_unknown="prints") as kiosk, aiohttp.ClientSession(kiosk.base_url) as http:
        kiosk.add(CARD, [Stage("IN_PROGRESS")])
        kiosk.fail_next(Fault.server_error(418))
        kiosk.fail_next(Fault.server_error(418), card=CARD)
        kiosk.fail_next_refresh(Fault.server_error(418))
        before = state_of(kiosk)[:-1]
        with Table() as table:
            for authorization, (method, path, body) in product(("", "Bearer wrong", "Basic abc"), ROUTES):
                if "production" in path or "oauth" in path:
                    with table.row(authorization, method, path):
                        async with http.request(
                            method, path, data=body or None, headers={"Authorization": authorization}
                        ) as answer:
                            assert answer.status == (404 if method == "OPTIONS" else 401)
                        assert state_of(kiosk)[:-1] == before
        basic = base64.b64encode(f"{kiosk.client_id}:{kiosk.client_secret}".encode()).decode()
        for form, status in (("grant_type=refresh_token", 400), (_REFRESH, 418)):
            async with http.post("/oauth/token", data=form, headers={"Authorization": f"Basic {basic}"}) as answer:
                assert answer.status == status


_ODD_BODIES: Final = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"PRODUCED"',
    b"1e999",
    b"NaN",
    b"9" * 5000,
    b"[" * 100_000,
    b"\xff\xfe",
    b'\xef\xbb\xbf{"status":"PRODUCED"}x',
    b"{}",
    b'{"status":null}',
    b'{"status":[]}',
    b'{"status":{}}',
    b'{"status":["PRODUCED"]}',
    b'{"status":"READY"}',
    b'{"status":"\\ud800"}',
    b'{"status":"PRODUCED","errorCode":"PRD_FEEDER_JAM"}',
    b'{"status":"PRODUCED","errorCode":[]}',
    b'{"status":"PRODUCTION_ERROR","errorCode":1}',
    b'{"status":"PRODUCTION_ERROR","errorCode":{"a":1}}',
    b'{"status":"PRODUCTION_ERROR","errorCode":"\\ud800"}',
    b'{"status":"PRODUCTION_ERROR","errorCode":"KIOSK_ID_NOT_FOUND"}',
    b'{"kioskId":null}',
    b'{"kioskId":[]}',
    b'{"kioskId":{"a":1}}',
    b'{"kioskId":1}',
    b'{"kioskId":""}',
    b"grant_type=refresh_token&refresh_token=%ff%00&" + b"a=1&" * 1000,
    b"x" * 200_000,
)


async def test_odd_bodies_are_refused(kiosk: Simulator, caplog: pytest.LogCaptureFixture, *, full_size: bool) -> None:
    """Whatever the body of whichever call, the answer is a 4xx of JSON; nothing changes and no traceback is logged."""
    kiosk.clear_faults()
    async with aiohttp.ClientSession(kiosk.base_url, headers={"Authorization": "Bearer any"}) as http:
        before = state_of(kiosk)[:-1]
        content_types = ("application/json", "application/json; charset=nonsense", "text/plain; charset=utf-7", "x")
        encodings: tuple[dict[str, str], ...] = ({}, {"Content-Encoding": "gzip"}, {"Content-Encoding": "br"})
        calls = [(method, path) for method, path, valid in ROUTES if valid and "oauth" not in path]
        with Table() as table:
            for call, body, *kind in pairwise_rows(calls, _ODD_BODIES, content_types, encodings, is_full=full_size):
                content_type, encoding = kind
                headers = {"Content-Type": content_type, **encoding}
                with table.row(call, body, content_type, encoding):
                    async with http.request(*call, data=body, headers=headers) as answer:
                        assert 400 <= answer.status < 500
                        assert isinstance(json.loads(await answer.text()), dict)
                    assert [each for each in kiosk.cards if each.card_token != "unknown"] == [CARD]
                    assert kiosk.state_of(CARD) == before[0][0]  # type: ignore[index]
    assert caplog.records == []


async def test_odd_requests_are_refused(kiosk: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes instead of a request, the answer is a 4xx or none; no traceback is logged."""
    host = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    chunked = b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\nAuthorization: Bearer any\r\n\r\n"
    target = f"/v3/simulation/{_CARD}".encode()
    with Table() as table:
        for request in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"nonsense\r\n\r\n",
            b"GET /" + host + b"X: " + b"y" * 20_000 + b"\r\n\r\n",
            b"GET /" + b"x" * 20_000 + host + b"\r\n",
            b"OPTIONS *" + host + b"\r\n",
            b"GET /%ff%00%0a/../.." + host + b"\r\n",
            b"GET /_kiosk/%2e%2e%2fserver.py" + host + b"\r\n",
            b"HEAD /" + host + b"\r\n",
            b"GET /nothing" + host + b"Expect: nonsense\r\n\r\n",
            b"GET /nothing" + host + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\nx",
            b"GET /nothing" + host + b"X-External-Correlation-Id: \xff\xfe\r\n\r\n",
            b"GET /nothing" + host + b"X-External-Correlation-Id: " + b"x" * 5000 + b"\r\n\r\n",
            b"GET /v3/" + _CARD.replace(str(CARD.profile_id), "\u0661").encode() + host + b"\r\n",
            b"POST " + target + host + chunked + b"zz\r\n",
            b"POST " + target + host + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST " + target + host + b"Content-Length: 50\r\n\r\n{",
        ):
            with table.row(request):
                answer = await raw(kiosk, request)
                status = answer.partition(b"\r\n")[0].split()[1:2]
                assert status == [] or b"400" <= status[0] < b"500"
                assert b"Traceback" not in answer
    for logged in kiosk.requests:
        assert logged.path.isascii() or logged.path.endswith("…")
        assert logged.path.isprintable()
        assert len(logged.path) <= 300
        assert logged.correlation_id is None
    assert caplog.records == []


# --- What is half-sent ---


async def test_half_sent_requests_are_ended(kiosk: Simulator) -> None:
    """A header that does not end is given up after some 20 seconds, a body after 10; and so after a first request."""
    whole = b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    half = b"POST /_kiosk/start HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    loop = asyncio.get_running_loop()
    with Table() as table:
        for request, seconds in (
            (b"", 20.3),
            (b"G", 20.3),
            (half, 20.3),
            (whole, 20.3),
            (whole + half, 20.3),
            (half + b"Content-Length: 9\r\n\r\n{", 20),  # 10 for the body, and 10 in which aiohttp would drop its rest
        ):
            began = loop.time()
            with table.row(request):
                answer = await raw(kiosk, request)
                assert loop.time() - began == pytest.approx(seconds, abs=0.5)
                assert (b" 408 " in answer) == (b"{" in request)


_LIMITED: Final = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from cardprod.simulator import Simulator
async def main():
    async with Simulator(token=None, plan_for_unknown="never") as kiosk:
        print(kiosk.base_url, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of descriptors")
def test_many_half_sent_requests_block_nobody() -> None:
    """More half-sent requests than the process may have descriptors delay nobody, and write nothing to its log."""

    async def main() -> None:
        with Child(sys.executable, "-c", _LIMITED) as child:
            base_url = (await until("its address", lambda: child.out, child=child)).strip()
            address = ("127.0.0.1", int(base_url.rpartition(":")[2]))
            for half in (b"G", b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"):
                connections = [socket.create_connection(address) for _ in range(400)]
                for connection in connections:
                    connection.sendall(half)
                async with aiohttp.ClientSession(base_url, headers={"Authorization": "Bearer any"}) as http:
                    for _ in range(20):
                        async with http.get(f"/v3/{_CARD}", timeout=aiohttp.ClientTimeout(total=5)) as answer:
                            assert answer.status == 200
                for connection in connections:
                    connection.close()
            assert child.err == ""

    asyncio.run(main())


async def test_too_many_busy_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every connection has a request under way, one more is closed, and none of the others."""
    monkeypatch.setattr("cardprod.simulator.access._most_connections", lambda: 3)
    async with (
        Simulator(token=None, plan_for_unknown="never") as small,
        aiohttp.ClientSession(small.base_url, headers={"Authorization": "Bearer any"}) as http,
        asyncio.TaskGroup() as tasks,
    ):
        small.slow_down(30)
        busy = [tasks.create_task(http.get(f"/v3/{_CARD}")) for _ in range(3)]
        await asyncio.sleep(1)
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get("/nothing")
        for request in busy:
            async with await request as answer:
                assert answer.status == 200


async def test_logs_are_bounded() -> None:
    """The logs keep the last entries, and count all."""
    async with Simulator(log_size=10) as kiosk, aiohttp.ClientSession(kiosk.base_url) as http:
        for number in range(25):
            async with http.get(f"/{number}"):
                pass
        assert [request.path for request in kiosk.requests] == [f"/{number}" for number in range(15, 25)]
        assert kiosk.requests.total == 25
        assert kiosk.requests.last(2) == [(24, kiosk.requests[8]), (25, kiosk.requests[9])]
