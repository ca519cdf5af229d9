"""One poll over real HTTP: retries, pauses, time limits, broken connections, sessions, tokens, rate, cancelling."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import uuid
from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

import cardprod
from cardprod import Card, Client, RateLimit, RateLimited, UsageError
from cardprod._http.limiter import RequestLimiter
from cardprod.simulator import Fault, Simulator
from tests.cards import CARD, poll
from tests.clock import now
from tests.fast_path import needs_fast_path
from tests.leftovers import assert_idle, assert_nothing_left
from tests.raw_server import RawServer, answer_nothing, http_answer
from tests.table import Table
from tests.waiting import run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Script

SECRET = "secret-bearer-token"


def add_cards(kiosk: Simulator, count: int) -> list[Card]:
    """Add so many cards that never become final."""
    return [kiosk.add((123456, f"card-{number}"), "never") for number in range(count)]


# --- Retries ---


async def test_error_that_passes_is_retried(kiosk: Simulator, client: Client) -> None:
    """An error that may pass and comes twice makes one answer of three requests."""
    kiosk.add(CARD, "never")
    with Table() as table:
        for http_status in (408, 429, 500, 502, 503, 504):
            before = len(kiosk.requests)
            kiosk.fail_next(Fault.server_error(http_status), times=2)
            with table.row(http_status):
                assert (await poll(client)).status == "READY"
                sent = [request.http_status for request in kiosk.requests[before:]]
                assert sent == [http_status, http_status, 200]
            kiosk.clear_faults()


async def test_broken_connection_is_retried(kiosk: Simulator, client: Client) -> None:
    """A connection that broke once, in whichever way, costs a retry and not the poll."""
    kiosk.add(CARD, "never")
    with Table() as table:
        for fault in (Fault.reset(), Fault.cut_body(), Fault.garbage(), Fault.stall()):
            kiosk.fail_next(fault)
            with table.row(fault):
                assert (await poll(client)).status == "READY"
            kiosk.clear_faults()


async def test_poll_is_sent_as_often_as_attempts_say() -> None:
    """A failing poll is sent as often as `attempts` says, on a new and on a used connection alike."""
    faults = [Fault.server_error(503), Fault.garbage(), Fault.cut_body(), Fault.reset()]
    with Table() as table:
        for fault, attempts, is_used in product(faults, (1, 3), (False, True)):
            with table.row(fault, attempts, is_used):
                assert await _requests_of_failing_poll(fault, attempts=attempts, is_used=is_used) == attempts


async def _requests_of_failing_poll(fault: Fault, *, attempts: int, is_used: bool) -> int:
    """Make a poll fail, on a new or a used connection; count its requests."""
    async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url, attempts=attempts) as client:
        kiosk.add(CARD, "never")
        if is_used:
            await poll(client)
        kiosk.fail_next(fault, times=10)
        with pytest.raises(cardprod.CardprodError):
            await poll(client)
        return len(kiosk.requests) - is_used


async def test_error_that_stays_is_not_retried(kiosk: Simulator, client: Client) -> None:
    """An error that no repetition resolves, or a 200 of the wrong shape, is raised after one request."""
    with Table() as table:
        for http_status in (301, 400, 401, 403, 404, 409, 422, 200):
            before = len(kiosk.requests)
            fault = Fault.bad_reply() if http_status == 200 else Fault.server_error(http_status)
            kiosk.fail_next(fault, times=3)
            with table.row(http_status):
                with pytest.raises(cardprod.BadReply if http_status == 200 else cardprod.ApiError) as caught:
                    await poll(client)
                assert getattr(caught.value, "http_status", 200) == http_status
                assert len(kiosk.requests) - before == 1
            kiosk.clear_faults()


async def test_scripted_replies(script: Script) -> None:
    """What a script replies is parsed, and retried, like what a server answers."""
    async with Client("token", base_url="https://kiosk.example", api_version="2026Q3") as client:
        url = f"https://kiosk.example/2026Q3/spend/profiles/{CARD.profile_id}/cards/{CARD.card_token}/production"
        script(url, status=503)
        script(url, body='{"status":"IN_PROGRESS"}')
        assert (await poll(client)).status == "IN_PROGRESS"
        script(url, status=401, body='{"error":"invalid_token"}')
        with pytest.raises(cardprod.Unauthorized) as caught:
            await poll(client)
    assert caught.value.code == "invalid_token"


async def test_each_failing_poll_has_its_own_outcome(kiosk: Simulator, client: Client) -> None:
    """Fifty polls that fail at once, each in another way, each raise their own failure."""
    cards = [Card(123456, f"card-{number}") for number in range(50)]
    for number, card in enumerate(cards):
        kiosk.fail_next(Fault.server_error(500 + number), times=3, card=card)
    outcomes = await asyncio.gather(*(poll(client, card) for card in cards), return_exceptions=True)
    for number, (card, outcome) in enumerate(zip(cards, outcomes, strict=True)):
        assert isinstance(outcome, cardprod.ServerError)
        assert (outcome.card, outcome.http_status) == (card, 500 + number)
    assert Counter(request.card for request in kiosk.requests) == dict.fromkeys(cards, 3)


def test_nothing_is_imported_when_something_fails() -> None:
    """After a client's first request nothing is imported any more, whatever fails."""
    code = """
import asyncio, sys
import cardprod
from cardprod.simulator import Fault, Simulator

class Refuse:
    def find_spec(self, name, path=None, target=None):
        raise OSError(24, "Too many open files", name)

async def main():
    async with Simulator() as kiosk:
        kiosk.add((1, "card"), [("READY", 1), ("PRODUCED", 0)])
        async with cardprod.Client(kiosk.token, base_url=kiosk.base_url) as client:
            print((await client.get_status(1, "card")).status)
            sys.meta_path.insert(0, Refuse())
            for fault in (Fault.server_error(), Fault.reset(), Fault.bad_reply('{"status":5}')):
                kiosk.fail_next(fault)
                print((await client.wait_until_final(1, "card", schedule=cardprod.Backoff(first=0.1))).status)
            print(type((await client.get_statuses([(1, "unknown")])).popitem()[1]).__name__)

asyncio.run(main())
"""
    assert run_program(sys.executable, "-c", code).out.split() == ["READY", *["PRODUCED"] * 3, "CardNotFound"]


def test_nothing_is_imported_when_something_comes() -> None:
    """Once a token that refreshes itself and a verifier are made, nothing is imported by a refresh or a delivery."""
    code = """
import asyncio, sys
import cardprod
from cardprod.simulator import Fault, Simulator
from cardprod.webhooks import Verifier, sign
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

class Refuse:
    def find_spec(self, name, path=None, target=None):
        raise OSError(24, "Too many open files", name)

async def main():
    key = generate_private_key(65537, 2048)
    verifier = Verifier(key.public_key())
    data = b'"data":{"resource":{"profile_id":1,"card_token":"card"},"status":"READY"}'
    body = b'{"event_type":"cards#card-production-status-change",' + data + b'}'
    async with Simulator() as kiosk:
        secrets = kiosk.client_id, kiosk.client_secret, kiosk.refresh_token
        token = cardprod.OAuthToken(*secrets, base_url=kiosk.base_url)
        sys.meta_path.insert(0, Refuse())
        print((await token())[:9], verifier.parse(body, {"X-Signature-SHA256": sign(body, key)}).status)

asyncio.run(main())
"""
    assert run_program(sys.executable, "-c", code).out.split() == ["refreshed", "READY"]


# --- Retry-After and pauses ---


async def test_retry_after() -> None:
    """A poll that is answered with seconds or a date is sent again then, by the server's own clock."""
    date = {"Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    rows: list[tuple[dict[str, str], float, float]] = [
        ({"Retry_After": "7"}, 7.0, 7.1),
        ({"Retry_After": "Wed, 21 Oct 2026 07:28:30 GMT", **date}, 30.0, 30.1),
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0, 0.6),  # by the ordinary backoff
    ]
    with Table() as table:
        for headers, least, most in rows:
            answers = [http_answer(503, **headers), http_answer()]

            with table.row(headers):
                async with RawServer.saying(*answers) as server, Client("token", base_url=server.base_url) as client:
                    await poll(client)
                    assert least <= server.times[1] - server.times[0] <= most


async def test_pause_holds_for_the_queue(kiosk: Simulator) -> None:
    """After one 429 no queued request leaves before its `Retry-After` either."""
    cards = add_cards(kiosk, 5)
    kiosk.fail_next(Fault.too_many_requests(retry_after=30))
    async with Client(kiosk.token, base_url=kiosk.base_url, max_concurrency=1) as client:
        await asyncio.gather(*(poll(client, card) for card in cards))
    refused_at = kiosk.requests[0].at
    assert [request.at for request in kiosk.requests[1:] if request.at < refused_at + 30] == []


async def test_requests_can_be_resumed(kiosk: Simulator, client: Client) -> None:
    """`resume_requests` ends a pause at once, for those who wait for it too."""
    kiosk.add(CARD, "prints")
    await poll(client)
    client.pause(1000)
    waiting = asyncio.create_task(poll(client))
    await asyncio.sleep(10)
    assert not waiting.done()
    client.resume_requests()
    await asyncio.wait_for(waiting, 1)
    assert client.paused_for == 0


async def test_pool_of_a_lent_session_is_not_queued_for(kiosk: Simulator) -> None:
    """No more requests are sent at once than a lent session has connections: queueing there is no timeout."""
    kiosk.add(CARD, "prints")
    kiosk.slow_down(4)
    settings: list[dict[str, Any]] = [{"limit": 2}, {"limit_per_host": 2}]
    for limits in settings:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(**limits)) as session,
            Client(kiosk.token, base_url=kiosk.base_url, session=session, request_timeout=6, attempts=1) as client,
        ):
            statuses = await asyncio.gather(*(poll(client) for _ in range(6)))
            assert len(statuses) == 6


async def test_lent_session_with_credentials(kiosk: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A lent session with credentials of its own is refused in words that name them."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password something")
    monkeypatch.setenv("NETRC", str(netrc))
    async with (
        aiohttp.ClientSession(trust_env=True) as session,
        Client(kiosk.token, base_url=kiosk.base_url, session=session) as client,
    ):
        with pytest.raises(UsageError, match="has credentials of its own"):
            await poll(client)


async def test_long_retry_after_is_raised(kiosk: Simulator, client: Client) -> None:
    """A `Retry-After` of more than a minute is raised at once, and pauses the client for two minutes at most."""
    for retry_after in (61, 3000):
        kiosk.fail_next(Fault.too_many_requests(retry_after=retry_after))
        began = now()
        with pytest.raises(RateLimited) as caught:
            await poll(client)
        assert now() - began < 0.1
        assert caught.value.retry_after == retry_after
        assert client.paused_for == pytest.approx(min(retry_after, 120), abs=1)
        client.resume_requests()
    assert len(kiosk.requests) == 2


# --- Bodies, and time limits ---


async def test_largest_body_is_read() -> None:
    """A body of 1 MiB exactly is read like any other."""
    async with (
        RawServer.saying(http_answer(body='{"status":"READY"}'.ljust(1024 * 1024))) as server,
        Client("token", base_url=server.base_url) as client,
    ):
        assert (await poll(client)).status == "READY"


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"]
)
async def test_stalled_answer_is_cut_off(start: bytes) -> None:
    """An answer that stalls before, within or after its headers is cut off at the request's time limit."""
    async with RawServer.saying(start) as server:
        async with Client("token", base_url=server.base_url, request_timeout=7, attempts=1) as client:
            began = now()
            with pytest.raises(cardprod.RequestTimeout) as caught:
                await poll(client)
            assert now() - began == pytest.approx(7, abs=0.01)
            assert isinstance(caught.value.__cause__, asyncio.CancelledError)
            assert_idle(client)
        await asyncio.sleep(1)
        assert server.connections == 0


async def test_each_poll_has_its_own_time_limit(kiosk: Simulator) -> None:
    """Polls that begin a second apart and all stall are cut off a second apart."""
    cards = add_cards(kiosk, 5)
    kiosk.fail_next(Fault.stall(), times=5)
    ends: list[float] = []

    async def poll_after(delay: float, card: Card) -> None:
        await asyncio.sleep(delay)
        with pytest.raises(cardprod.RequestTimeout):
            await poll(client, card)
        ends.append(now() - began)

    async with Client(kiosk.token, base_url=kiosk.base_url, request_timeout=10, attempts=1) as client:
        began = now()
        await asyncio.gather(*(poll_after(number, card) for number, card in enumerate(cards)))
        assert ends == pytest.approx([10, 11, 12, 13, 14], abs=0.01)
        assert_idle(client)


# --- What is sent ---


async def test_each_request_identifies_itself(kiosk: Simulator) -> None:
    """Each request has a correlation id of its own, a UUID, and the package's version."""
    async with (
        RawServer.saying(http_answer(503), http_answer()) as server,
        Client("token", base_url=server.base_url) as client,
    ):
        await poll(client)
        await poll(client)
        headers = [dict(line.split(": ", 1) for line in head.splitlines() if ": " in line) for head in server.heads]
    ids = [sent["X-External-Correlation-Id"] for sent in headers]
    assert len(set(ids)) == 3
    assert all(str(uuid.UUID(sent)) == sent and uuid.UUID(sent).version == 4 for sent in ids)
    assert {sent["User-Agent"] for sent in headers} == {f"cardprod/{cardprod.__version__}"}


# --- Sessions ---


async def test_borrowed_session_is_left_as_it_was(kiosk: Simulator) -> None:
    """A borrowed session is used, is open afterwards, and has the defaults it had."""
    kiosk.add(CARD, "never")
    seen: list[str] = []

    async def remember(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(params.url.path)

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(remember)
    timeout = aiohttp.ClientTimeout(total=1)
    async with aiohttp.ClientSession(
        headers={"X-Mine": "1"}, timeout=timeout, raise_for_status=True, trace_configs=[tracing]
    ) as session:
        async with Client(kiosk.token, base_url=kiosk.base_url, session=session) as client:
            await poll(client)
            with pytest.raises(cardprod.CardNotFound):
                await client.get_status(1, "unknown")
        assert len(seen) == 2
        assert not session.closed
        assert dict(session.headers) == {"X-Mine": "1"}
        assert session.timeout is timeout
        assert session.raise_for_status is True
        assert len(session.cookie_jar) == 0
        async with session.get(kiosk.base_url, raise_for_status=False) as answer:
            assert answer.status == 404


async def test_borrowed_session_that_decompresses_nothing() -> None:
    """With a borrowed session that does not decompress answers, none are requested compressed."""
    async with RawServer.saying(http_answer()) as server, aiohttp.ClientSession(auto_decompress=False) as session:
        async with Client("token", base_url=server.base_url, session=session) as client:
            await poll(client)
        encodings = [line for line in server.heads[0].split("\r\n") if line.lower().startswith("accept-encoding:")]
        assert encodings == ["Accept-Encoding: identity"]


async def test_closed_borrowed_session_is_a_usage_error(kiosk: Simulator) -> None:
    """A client whose borrowed session is closed says so."""
    async with aiohttp.ClientSession() as session:
        client = Client(kiosk.token, base_url=kiosk.base_url, session=session)
    with pytest.raises(UsageError, match="session lent to this client is closed"):
        await poll(client)


async def test_borrowed_session_closed_during_a_poll() -> None:
    """A borrowed session that is closed during a poll ends it with `UsageError`."""
    async with RawServer(answer_nothing) as server, aiohttp.ClientSession() as session:
        client = Client("token", base_url=server.base_url, session=session)
        polling = asyncio.create_task(poll(client))
        await asyncio.sleep(1)
        await session.close()
        with pytest.raises(UsageError, match="session lent to this client is closed"):
            await polling


# --- Tokens ---


async def test_token_source_is_asked_for_each_request() -> None:
    """A token source is asked before every request, and what it gives is what is sent."""
    tokens = [f"token-{number}" for number in range(3)]
    left = list(tokens)

    async def source() -> str:
        return left.pop(0)

    async with (
        RawServer.saying(http_answer(503), http_answer()) as server,
        Client(source, base_url=server.base_url) as client,
    ):
        await poll(client)
        await poll(client)
        assert [
            token for head, token in zip(server.heads, tokens, strict=True) if f"Bearer {token}\r" in head
        ] == tokens


async def test_bad_token_from_a_source_is_not_shown(kiosk: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    """A token that cannot be right is a `UsageError` that does not show it, before any request."""
    caplog.set_level(logging.DEBUG)

    async def refused(token: str) -> BaseException:
        async def source() -> str:
            return token

        async with Client(source, base_url=kiosk.base_url) as client:
            with pytest.raises(UsageError, match="token") as caught:
                await poll(client)
        return caught.value

    with Table() as table:
        for token in ("", f"{SECRET}\n", f"two {SECRET}", f"{SECRET}é", f"{SECRET}\r\nX: y"):
            with table.row(token):
                error = await refused(token)
                assert SECRET not in f"{error!r} {error} {error.__cause__!r} {caplog.text}"
    assert kiosk.requests == []


# --- Concurrency and rate limit ---


async def test_concurrency_is_limited() -> None:
    """No more requests are under way at once than `max_concurrency`."""
    most = under_way = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1)
        under_way -= 1
        writer.write(http_answer())

    async with RawServer(answer) as server, Client("token", base_url=server.base_url, max_concurrency=7) as client:
        await asyncio.gather(*(poll(client) for _ in range(50)))
        assert most == 7
        assert len(server.heads) == 50
        assert_idle(client)


async def test_queueing_costs_no_time() -> None:
    """Time spent queueing for a permit does not count towards the request's time limit."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(6)
        writer.write(http_answer())

    async with (
        RawServer(answer) as server,
        Client("token", base_url=server.base_url, max_concurrency=1, request_timeout=10, attempts=1) as client,
    ):
        began = now()
        await asyncio.gather(*(poll(client) for _ in range(5)))
        assert now() - began == pytest.approx(30, abs=0.1)


async def test_rate_limit_is_first_come_first_served(kiosk: Simulator) -> None:
    """250 polls at once leave at most 100 in any second, and in the order they came."""
    cards = add_cards(kiosk, 250)
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=RateLimit(100, 1000)) as client:
        await asyncio.gather(*(poll(client, card) for card in cards))
    times = [request.at for request in kiosk.requests]
    assert len(times) == 250
    assert max(sum(at <= other < at + 1 for other in times) for at in times) == 100
    assert times[-1] - times[0] < 2.1
    for start in (0, 100, 200):  # within a batch, the kernel decides which connection is read first
        batch = {request.card for request in kiosk.requests[start : start + 100]}
        assert batch == set(cards[start : start + 100])


async def test_one_permit_is_first_come_first_served(kiosk: Simulator) -> None:
    """With one permit, polls are answered strictly in the order they came."""
    cards = add_cards(kiosk, 30)
    async with Client(kiosk.token, base_url=kiosk.base_url, max_concurrency=1) as client:
        await asyncio.gather(*(poll(client, card) for card in cards))
    assert [request.card for request in kiosk.requests] == cards


async def test_retries_keep_the_rate_limit_too(kiosk: Simulator) -> None:
    """Retries count towards the rate limit like first attempts."""
    cards = add_cards(kiosk, 20)
    for card in cards:
        kiosk.fail_next(Fault.reset(), card=card)
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=RateLimit(5, 1000)) as client:
        await asyncio.gather(*(poll(client, card) for card in cards))
    times = [request.at for request in kiosk.requests]
    assert max(sum(at <= other < at + 1 for other in times) for at in times) == 5


@pytest.mark.parametrize("limit", [RateLimit(1, 1000), None], ids=["rate", "concurrency"])
async def test_cancelled_queued_polls_lose_no_permit(limit: RateLimit | None) -> None:
    """Polls cancelled while they queue are never sent and do not delay those behind them."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)
        writer.write(http_answer())

    async with (
        RawServer(answer) as server,
        Client("token", base_url=server.base_url, rate_limit=limit, max_concurrency=1) as client,
    ):
        polls = [asyncio.create_task(poll(client)) for _ in range(10)]
        await asyncio.sleep(0.5)
        for cancelled in (polls[1], polls[2], polls[5], polls[9]):
            cancelled.cancel()
        began = now()
        await asyncio.gather(*polls, return_exceptions=True)
        assert [task.cancelled() for task in polls] == [number in {1, 2, 5, 9} for number in range(10)]
        assert len(server.heads) == 6
        assert now() - began < 6.1
        await poll(client)
        assert_idle(client)


@pytest.mark.parametrize(("limit", "places"), [(None, 1), (RateLimit(1, 1000), 10)], ids=["concurrency", "rate"])
async def test_permit_that_was_just_granted_is_given_back(limit: RateLimit | None, places: int) -> None:
    """A request cancelled in the instant its permit is granted passes it to the next in the same instant."""
    limiter = RequestLimiter(limit, places)
    first = await limiter.acquire()
    second, third = (asyncio.create_task(limiter.acquire()) for _ in range(2))
    began = now()
    await asyncio.sleep(0.5)
    first.release()
    if limit is None:
        second.cancel()
    else:
        asyncio.get_running_loop().call_at(limiter.window.ready_at() + 1e-12, second.cancel)
    (await asyncio.wait_for(third, 5)).release()
    assert now() - began == pytest.approx(0.5 if limit is None else 1.001)
    assert second.cancelled()
    assert limiter.in_use == 0


# --- Cancelling ---


async def stalled_client(server: RawServer, **settings: Any) -> Client:
    """Make a client of a server that never answers."""
    return Client("token", base_url=server.base_url, request_timeout=10, attempts=1, **settings)


async def test_outer_timeout_stays_the_callers() -> None:
    """A timeout of the caller's around a poll is a plain `TimeoutError` and no `RequestTimeout`."""
    async with RawServer(answer_nothing) as server, await stalled_client(server) as client:
        began = now()
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(3):
                await poll(client)
        assert type(caught.value) is TimeoutError
        assert now() - began == pytest.approx(3, abs=0.01)
        assert_idle(client)


async def test_cancelled_poll_is_cancelled() -> None:
    """A poll that is cancelled during its request ends at once, and its connection is closed."""
    async with RawServer(answer_nothing) as server, await stalled_client(server) as client:
        polling = asyncio.create_task(poll(client))
        await asyncio.sleep(3)
        assert server.connections == 1
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
        assert polling.cancelled()
        assert_idle(client)
        await asyncio.sleep(1)
        assert server.connections == 0
        await asyncio.sleep(60)
        assert len(server.heads) == 1


@pytest.mark.parametrize("is_outer_first", [True, False])
async def test_cancel_beats_the_time_limit(*, is_outer_first: bool) -> None:
    """When a caller cancels in the instant of the request's time limit, the poll ends cancelled."""
    async with RawServer(answer_nothing) as server, await stalled_client(server) as client:
        loop = asyncio.get_running_loop()
        polling = asyncio.create_task(poll(client))
        if is_outer_first:
            loop.call_later(10, polling.cancel)
        await asyncio.sleep(0)
        if not is_outer_first:
            loop.call_later(10, polling.cancel)
        with pytest.raises(asyncio.CancelledError):
            await polling
        assert polling.cancelled()
        assert polling.cancelling() == 1
        assert_idle(client)


@pytest.mark.parametrize("is_outer_first", [True, False])
async def test_outer_timeout_at_the_time_limit(*, is_outer_first: bool) -> None:
    """When the caller's timeout comes in the instant of the request's, exactly one of them ends the poll."""
    async with RawServer(answer_nothing) as server, await stalled_client(server) as client:
        limit = asyncio.timeout(10 if is_outer_first else 10.0000001)
        with pytest.raises(TimeoutError):
            async with limit:
                await poll(client)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(1)
        assert_idle(client)


async def test_caught_time_limit_leaves_no_cancelling(kiosk: Simulator) -> None:
    """After a `RequestTimeout` is caught the task is not being cancelled, and can go on."""
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.stall(), times=3)
    async with Client(kiosk.token, base_url=kiosk.base_url, attempts=1) as client:
        task = asyncio.current_task()
        assert task is not None
        for _ in range(3):
            with pytest.raises(cardprod.RequestTimeout):
                await poll(client)
            assert task.cancelling() == 0
        async with asyncio.timeout(5):
            assert (await poll(client)).status == "READY"


async def test_time_limit_holds_in_a_task_being_cancelled(kiosk: Simulator) -> None:
    """A poll in the clean-up of a cancelled task has its time limit like any other, and the task stays cancelled."""
    kiosk.fail_next(Fault.stall())
    failures: list[Exception] = []

    async def clean_up() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            try:
                await poll(client)
            except cardprod.RequestTimeout as error:
                failures.append(error)

    async with Client(kiosk.token, base_url=kiosk.base_url, attempts=1) as client:
        task = asyncio.create_task(clean_up())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(failures) == 1


async def test_answer_in_the_instant_of_the_time_limit() -> None:
    """An answer in the instant of the time limit is an answer or a `RequestTimeout`, and nothing is left."""
    outcomes: list[object] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(10)
        writer.write(http_answer())

    async with RawServer(answer) as server, await stalled_client(server) as client:
        task = asyncio.current_task()
        assert task is not None
        for _ in range(10):
            outcomes += await asyncio.gather(poll(client), return_exceptions=True)
            assert task.cancelling() == 0
        assert_idle(client)
    assert all(isinstance(outcome, cardprod.ProductionStatus | cardprod.RequestTimeout) for outcome in outcomes)


async def test_cancelling_after_any_number_of_iterations() -> None:
    """A poll cancelled after any number of iterations of the loop ends cancelled or answered, and leaves nothing."""
    with Table() as table:
        for iterations in range(12):
            with table.row(iterations):
                await _assert_cancelled_or_answered(iterations)


async def _assert_cancelled_or_answered(iterations: int) -> None:
    async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url) as client:
        kiosk.add(CARD, "never")
        polling = asyncio.create_task(poll(client))
        for _ in range(iterations):
            await asyncio.sleep(0)
        polling.cancel()
        await asyncio.wait([polling])
        assert polling.cancelled() or polling.result().status == "READY"
        await asyncio.sleep(1)
        assert_idle(client)
        assert (await poll(client)).status == "READY"


async def test_cancelled_retry_is_cancelled(kiosk: Simulator, client: Client) -> None:
    """A poll that is cancelled while it waits for a retry ends cancelled and is not sent again."""
    kiosk.fail_next(Fault.server_error(503, retry_after=30))
    polling = asyncio.create_task(poll(client))
    await asyncio.sleep(5)
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling
    await asyncio.sleep(60)
    assert len(kiosk.requests) == 1
    assert_idle(client)


# --- Closing ---


async def ends_promptly(client: Client, polls: list[asyncio.Task[Any]]) -> None:
    """Check that closing the client ends these polls with `UsageError` in the same second."""
    await asyncio.sleep(1)
    assert not any(task.done() for task in polls)
    began = now()
    await client.close()
    _, pending = await asyncio.wait(polls, timeout=1)
    try:
        assert not pending, f"{len(pending)} of {len(polls)} polls go on after close()"
    finally:
        for task in pending:
            task.cancel()
        outcomes = await asyncio.gather(*polls, return_exceptions=True)
    assert now() - began <= 1
    assert {type(outcome) for outcome in outcomes} == {UsageError}
    assert_idle(client)


async def test_closing_ends_polls_under_way_and_queued() -> None:
    """Closing the client ends the polls under way and those that queue for a permit with `UsageError`."""
    async with RawServer(answer_nothing) as server:
        client = await stalled_client(server, max_concurrency=3)
        await ends_promptly(client, [asyncio.create_task(poll(client)) for _ in range(10)])
        assert len(server.heads) == 3
        await assert_nothing_left(but=3)


async def test_closing_ends_polls_that_wait_for_a_retry(kiosk: Simulator) -> None:
    """Closing the client ends the polls that wait for a retry with `UsageError`."""
    kiosk.fail_next(Fault.server_error(503, retry_after=50))
    client = Client(kiosk.token, base_url=kiosk.base_url)
    await ends_promptly(client, [asyncio.create_task(poll(client))])


async def test_closing_ends_polls_that_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the client ends the polls whose host is not resolved yet with `UsageError`."""

    async def never(*_: object, **__: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    client = Client("token", base_url="https://kiosk.example", request_timeout=60)
    await ends_promptly(client, [asyncio.create_task(poll(client)) for _ in range(2)])


@pytest.mark.parametrize("is_borrowed", [True, False])
async def test_closing_ends_polls_that_wait_for_their_token(kiosk: Simulator, *, is_borrowed: bool) -> None:
    """A poll whose token comes after the client was closed ends with `UsageError`, unsent, and opens no session."""
    kiosk.add(CARD, "never")

    async def source() -> str:
        await asyncio.sleep(5)
        return kiosk.token

    async with aiohttp.ClientSession() as session:
        client = Client(source, base_url=kiosk.base_url, session=session if is_borrowed else None)
        polling = asyncio.create_task(poll(client))
        await asyncio.sleep(1)
        await client.close()
        (outcome,) = await asyncio.gather(polling, return_exceptions=True)
        await client.close()  # should a session have been opened
        assert isinstance(outcome, UsageError)
        assert kiosk.requests == []


async def test_cancelling_after_closing_is_cancelling() -> None:
    """A queued request that is cancelled right after the client was closed ends cancelled."""
    limiter = RequestLimiter(None, 1)
    await limiter.acquire()
    queued = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    limiter.close()
    queued.cancel()
    await asyncio.wait([queued])
    assert queued.cancelled()


async def test_closed_client_leaves_nothing(kiosk: Simulator) -> None:
    """A client that was used and closed leaves no task, and no timer."""
    cards = add_cards(kiosk, 20)
    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        await asyncio.gather(*(poll(client, card) for card in cards))
    assert_idle(client)
    transport: Any = client._transport  # pyright: ignore[reportPrivateUsage] # no user can see a timer
    assert transport._time_limit._timer is None
    assert transport.limiter._timer is None


# --- Corner cases ---


async def test_closed_coroutine_in_the_queue_keeps_no_permit(kiosk: Simulator) -> None:
    """A poll whose coroutine is closed while it queues takes no permit from those behind it."""
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.stall(5))
    async with Client(kiosk.token, base_url=kiosk.base_url, max_concurrency=1) as client:
        first = asyncio.create_task(poll(client))
        await asyncio.sleep(1)
        queued = client.wait_until_final(CARD.profile_id, CARD.card_token)
        queued.send(None)  # as a task would, until it queues
        queued.close()
        await first
        assert (await asyncio.wait_for(poll(client), 60)).status == "READY"
        assert_idle(client)


async def test_request_outside_of_a_task_keeps_no_permit(kiosk: Simulator) -> None:
    """A poll that runs in no task is refused, and takes no permit from those that do."""
    kiosk.add(CARD, "never")
    async with Client(kiosk.token, base_url=kiosk.base_url, max_concurrency=1) as client:
        refused = asyncio.get_running_loop().create_future()

        def run_by_hand() -> None:
            with pytest.raises(UsageError, match="inside a task") as caught:
                poll(client).send(None)
            refused.set_result(caught.value)

        asyncio.get_running_loop().call_soon(run_by_hand)
        await refused
        assert (await asyncio.wait_for(poll(client), 60)).status == "READY"
        assert_idle(client)


@pytest.mark.parametrize("is_borrowed", [True, False])
async def test_permit_granted_while_closing_is_not_used(kiosk: Simulator, *, is_borrowed: bool) -> None:
    """A poll that gets its permit while the client is being closed ends with `UsageError`, unsent."""
    kiosk.add(CARD, "never")
    async with aiohttp.ClientSession() as session:
        lent = session if is_borrowed else None
        client = Client(kiosk.token, base_url=kiosk.base_url, max_concurrency=1, session=lent)

        async def poll_and_close() -> None:
            await poll(client)
            await client.close()

        closing = asyncio.create_task(poll_and_close())
        await asyncio.sleep(0)
        queued = asyncio.create_task(poll(client))
        _, outcome = await asyncio.gather(closing, queued, return_exceptions=True)
        assert isinstance(outcome, UsageError)
        assert len(kiosk.requests) == 1


async def test_token_source_has_as_long_as_a_request(kiosk: Simulator) -> None:
    """A token source that hangs ends the poll after the request's time, at each attempt."""

    async def source() -> str:
        await asyncio.sleep(3600)
        return "never"

    async with Client(source, base_url=kiosk.base_url, request_timeout=7, attempts=1) as client:
        began = now()
        with pytest.raises(cardprod.RequestTimeout, match="no token"):
            await poll(client)
        assert now() - began == pytest.approx(7, abs=0.1)


async def test_failed_poll_leaves_no_garbage(kiosk: Simulator, client: Client) -> None:
    """A poll that failed, for good or until another attempt, leaves no error for the garbage collector."""

    def errors_there_are() -> int:  # other tests keep some as their parameters
        return sum(isinstance(thing, cardprod.CardprodError) for thing in gc.get_objects())

    missing = Card(CARD.profile_id, "missing")
    kiosk.add(CARD, "never")
    failures: dict[str, tuple[Card, list[Fault]]] = {
        "no such card": (missing, []),
        "a server's failure once": (CARD, [Fault.server_error()]),
        "too many requests once": (CARD, [Fault.too_many_requests()]),
        "broken connections": (CARD, [Fault.reset()] * 3),
    }
    with Table() as table:
        for name, (card, faults) in failures.items():
            with table.row(name):
                gc.collect()
                before = errors_there_are()
                gc.disable()
                try:
                    for fault in faults:
                        kiosk.fail_next(fault)
                    with contextlib.suppress(cardprod.CardprodError):
                        await poll(client, card)
                    await asyncio.sleep(0)
                    assert errors_there_are() == before
                finally:
                    gc.enable()


@needs_fast_path
async def test_sent_once_by_the_session_too(kiosk: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through aiohttp's session, too, a poll whose connection breaks is sent no more than `attempts` times."""
    monkeypatch.setattr("cardprod._http.fast_path._SENDER", "_gone_one_day")
    kiosk.add(CARD, "never")
    async with Client(kiosk.token, base_url=kiosk.base_url, attempts=1) as client:
        await poll(client)  # a connection is kept alive
        kiosk.fail_next(Fault.reset())
        with pytest.raises(cardprod.TransportError):
            await poll(client)
        assert (await poll(client)).status == "READY"
    assert len(kiosk.requests) == 3
