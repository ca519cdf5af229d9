"""After a 429, over real HTTP: the pause, the probe, the rising rate, and what they cost those who wait."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

import cardprod
from cardprod import Backoff, Card, CardprodError, Client, RateLimit, RateLimited, WaitTimeout
from cardprod._http.limiter import RequestLimiter
from cardprod.simulator import Fault, Simulator, Stage
from tests.cards import CARD, poll
from tests.clock import now
from tests.leftovers import assert_idle, assert_nothing_left
from tests.raw_server import RawServer, http_answer
from tests.table import Table
from tests.waiting import LONG_TIMEOUT, Child, until

CARDS: Final = [Card(1, f"card-{number}") for number in range(100)]


@attrs.define
class Limited:
    """A server's limit: a bucket of `burst` requests, refilled at a rate. What exceeds it gets a 429.

    With a burst of 1 it is nginx's `limit_req` without `burst=`. Each card is PRODUCED after so many answers.
    """

    per_second: float
    burst: float = 1.0
    retry_after: str | None = None
    answers: int = 1
    tokens: float = 0.0
    at: float = 0.0
    refused: int = 0
    _answered: Counter[str] = attrs.field(factory=Counter[str])

    def reply(self, head: str) -> bytes:
        """Answer a request that comes now."""
        self.tokens = min(self.burst, self.tokens + (now() - self.at) * self.per_second)
        self.at = now()
        if self.tokens < 1:
            self.refused += 1
            return http_answer(429, "", **({} if self.retry_after is None else {"Retry_After": self.retry_after}))
        self.tokens -= 1
        path = head.split(" ")[1]
        self._answered[path] += 1
        return http_answer(body=json.dumps({"status": "PRODUCED" if self._answered[path] >= self.answers else "READY"}))

    def server(self) -> RawServer:
        """Make a server on loopback with this limit."""

        async def answer(writer: asyncio.StreamWriter) -> None:
            writer.write(self.reply(server.heads[-1]))

        server = RawServer(answer)
        self.tokens, self.at = self.burst, now()
        return server


# --- The pause, the probe, and after ---


async def test_probe_goes_first() -> None:
    """After a pause one request is sent and answered before any other, and then they do not all leave at once."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        if len(server.heads) == 1:
            writer.write(http_answer(429, Retry_After="10"))
            return
        await asyncio.sleep(3)
        writer.write(http_answer())

    async with RawServer(answer) as server, Client("token", base_url=server.base_url) as client:
        first = asyncio.create_task(poll(client))
        await asyncio.sleep(1)
        await asyncio.gather(first, *(poll(client) for _ in range(40)))
        refused, probe, *others = server.times
        assert probe - refused == pytest.approx(10, abs=0.1)
        assert min(others) - probe >= 3
        assert len(others) == 40
        assert sum(at - min(others) < 1 for at in others) <= 7  # they doubled each second
        assert max(others) - min(others) < 6
        assert_idle(client)


@pytest.mark.parametrize("how", ["cancelled", "lost", "timed out"])
async def test_probe_that_gets_no_answer(how: str) -> None:
    """If the probe is cancelled or gets no answer, the others go on without it."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        if len(server.heads) == 1:
            writer.write(http_answer(429, Retry_After="10"))
        elif len(server.heads) > 2:
            writer.write(http_answer())
        elif how == "lost":
            writer.transport.abort()

    async with RawServer(answer) as server, Client("token", base_url=server.base_url) as client:
        probe = asyncio.create_task(poll(client))
        await asyncio.sleep(1)
        others = [asyncio.create_task(poll(client)) for _ in range(5)]
        await until("the probe", lambda: len(server.heads) == 2)
        if how == "cancelled":
            probe.cancel()
        outcome = await asyncio.gather(probe, *others, return_exceptions=True)
        assert [one for one in outcome[1:] if isinstance(one, BaseException)] == []
        assert isinstance(outcome[0], BaseException) is (how == "cancelled")
        assert_idle(client)


async def test_cancelled_while_it_waits_for_the_pause() -> None:
    """A request that is cancelled while it waits for the pause after its 429 leaves nothing behind."""
    limited = Limited(per_second=0.001, retry_after="30")
    async with limited.server() as server, Client("token", base_url=server.base_url) as client:
        await poll(client)
        polls = [asyncio.create_task(poll(client)) for _ in range(3)]
        await asyncio.sleep(5)
        polls[0].cancel()
        await asyncio.sleep(28)  # the probe was refused, and is not cancelled yet
        for task in polls:
            task.cancel()
        assert {type(one) for one in await asyncio.gather(*polls, return_exceptions=True)} == {asyncio.CancelledError}
        assert_idle(client)
        await assert_nothing_left(but=1 + server.connections)


# --- Attempts ---


@pytest.mark.parametrize("attempts", [1, 3])
async def test_429_is_no_attempt(kiosk: Simulator, attempts: int) -> None:
    """However many attempts a request has, a 429 is none of them, and other failures beside it still are."""
    kiosk.add(CARD, "never")
    async with Client(kiosk.token, base_url=kiosk.base_url, attempts=attempts) as client:
        for retry_after in (None, 0, 3):
            kiosk.fail_next(Fault.too_many_requests(retry_after), times=5)
            assert (await poll(client)).status == "READY"
        before = len(kiosk.requests)
        kiosk.fail_next(Fault.too_many_requests(1), times=2)
        kiosk.fail_next(Fault.server_error(503), times=10)
        with pytest.raises(cardprod.ServerError):
            await poll(client)
        assert len(kiosk.requests) - before == 2 + attempts


async def test_429_of_a_token_source(kiosk: Simulator) -> None:
    """A 429 that a token source got is a failed attempt, and pauses no request of the client."""
    calls = 0

    async def source() -> str:
        nonlocal calls
        calls += 1
        raise RateLimited("429", http_status=429)

    async with Client(source, base_url=kiosk.base_url, attempts=3) as client:
        with pytest.raises(RateLimited):
            await poll(client)
        assert calls == 3
        assert client.paused_for == 0
        assert not kiosk.requests


@pytest.mark.parametrize("retry_after", [None, "0", "1", "50"])
async def test_429_for_ever_is_raised_at_last(retry_after: str | None) -> None:
    """Who gets nothing but 429s gets `RateLimited` two minutes after the first at the latest, as do all beside them."""
    limited = Limited(per_second=1e-9, burst=0.0, retry_after=retry_after)
    async with limited.server() as server, Client("token", base_url=server.base_url) as client:
        began = now()
        outcome = await asyncio.gather(*(poll(client) for _ in range(30)), return_exceptions=True)
        assert {type(one) for one in outcome} == {RateLimited}
        assert 60 <= now() - began <= 121
        assert limited.refused <= 30 + 120
        assert_idle(client)


# --- A server whose limit is lower than ours ---


@pytest.mark.parametrize("retry_after", [None, "2"])
@pytest.mark.parametrize("burst", [1.0, 5.0])
async def test_many_cards_at_a_lower_limit(retry_after: str | None, burst: float) -> None:
    """At a server that allows five requests a second, 100 cards polled at once all get their answer."""
    limited = Limited(5.0, burst, retry_after)
    async with limited.server() as server, Client("token", base_url=server.base_url) as client:
        began = now()
        outcome = await client.get_statuses(CARDS)
        assert [str(one) for one in outcome.values() if isinstance(one, CardprodError)] == []
        assert now() - began < 60


@pytest.mark.parametrize("retry_after", [None, "2"])
async def test_waits_at_a_lower_limit(retry_after: str | None) -> None:
    """At a server that allows five requests a second, 40 waits end well, each alone or as a batch."""
    with Table() as table:
        for is_batch in (True, False):
            limited = Limited(5.0, retry_after=retry_after, answers=4)
            async with limited.server() as server, Client("token", base_url=server.base_url) as client:
                cards = CARDS[:40]
                with table.row(is_batch):
                    if is_batch:
                        outcome = await client.wait_until_all_final(cards, timeout=300)
                        statuses = [*outcome.values()]
                    else:
                        waits = [client.wait_until_final(*attrs.astuple(card), timeout=300) for card in cards]
                        statuses = await asyncio.gather(*waits)
                    assert [one.status for one in statuses if not isinstance(one, CardprodError)] == ["PRODUCED"] * 40


# --- Deadlines ---


@pytest.mark.parametrize("retry_after", [None, "2", "50", "3600"])
async def test_deadlines_hold_under_429(retry_after: str | None) -> None:
    """While a server refuses everything, or nearly, no wait of a batch ends later than its time and a request's."""
    with Table() as table:
        for per_second, timeout in ((1e-9, 30.0), (2.0, 30.0), (2.0, 0.0)):
            limited = Limited(per_second, retry_after=retry_after, answers=1000)
            settings: dict[str, Any] = {"request_timeout": 10, "max_concurrency": 20}
            async with limited.server() as server, Client("token", base_url=server.base_url, **settings) as client:
                began = now()
                late: list[float] = []
                errors: set[type] = set()
                with table.row(per_second, timeout):
                    batch = client.wait_until_all_final(CARDS, timeout=timeout, schedule=Backoff(first=1, ceiling=5))
                    async with batch as steps:
                        async for _, step in steps:
                            if isinstance(step, CardprodError):
                                late.append(now() - began - timeout)
                                errors.add(type(step))
                    assert len(late) == 100
                    assert max(late) <= 10.1
                    assert errors <= {WaitTimeout, RateLimited}
                    assert_idle(client)


# --- A real nginx ---

NGINX: Final = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; worker_rlimit_nofile 1024;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  limit_req_zone $http_authorization zone=polls:1m rate=5r/s;
  limit_req_status 429;
  upstream kiosk {{ server {kiosk}; keepalive 64; }}
  map $status $pause {{ 429 "{retry_after}"; default ""; }}
  server {{
    listen unix:{folder}/unused; listen 127.0.0.1:{port};
    location / {{
      limit_req zone=polls {burst};
      proxy_pass http://kiosk; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
    }}
    add_header Retry-After $pause always;
  }}
}}
"""


@pytest.mark.slow
@pytest.mark.looptime(False)
@pytest.mark.timeout(LONG_TIMEOUT)
async def test_real_nginx(unused_tcp_port: int, *, full_size: bool) -> None:
    """Behind nginx's `limit_req` of five requests a second all waits end well, and 40 of 40 polls at least."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    for burst, retry_after in (("", "2"), ("burst=5 nodelay", ""))[: 2 if full_size else 1]:
        with tempfile.TemporaryDirectory(prefix="nginx") as folder:
            async with Simulator() as kiosk:
                config = f"{folder}/nginx.conf"
                values: dict[str, object] = {"folder": folder, "port": unused_tcp_port, "burst": burst}
                values |= {"kiosk": kiosk.base_url.removeprefix("http://"), "retry_after": retry_after}
                await asyncio.to_thread(Path(config).write_text, NGINX.format(**values))
                with Child(program, "-c", config, "-p", folder) as nginx:
                    await _use_nginx(kiosk, f"http://127.0.0.1:{unused_tcp_port}", nginx, 8 if full_size else 1)


async def _use_nginx(kiosk: Simulator, base_url: str, nginx: Child, scale: int) -> None:
    async def is_up() -> bool:
        try:
            (await asyncio.open_connection(*base_url.removeprefix("http://").split(":")))[1].close()
        except OSError:
            return False
        return True

    await until("nginx", is_up, child=nginx)
    cards = [
        kiosk.add(card, [Stage("READY", 0.5), Stage("IN_PROGRESS", 0.5), Stage("PRODUCED")])
        for card in CARDS[: 5 * scale]
    ]
    async with Client(kiosk.token, base_url=base_url) as client:
        waits = [client.wait_until_final(*attrs.astuple(card)) for card in cards[: 2 * scale]]
        statuses = await asyncio.gather(*waits, return_exceptions=True)
    assert [one for one in statuses if isinstance(one, BaseException)] == []
    async with Client(kiosk.token, base_url=base_url) as client:
        outcome = await client.get_statuses(cards)
    assert sum(isinstance(one, CardprodError) for one in outcome.values()) <= scale // 4


async def test_permit_that_is_given_back() -> None:
    """A permit that is given back is granted again at once, however late the next one would have been."""
    limiter = RequestLimiter(RateLimit(per_second=1, per_minute=1), 10)
    permit = await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(1)
    permit.give_back()
    async with asyncio.timeout(1):
        (await waiting).release()
