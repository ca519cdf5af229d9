"""Tokens in durable waits: by name, refused and good again; a refused one ends no wait."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from cardprod import PRODUCTION, PRODUCTION_MTLS, SANDBOX, SANDBOX_MTLS, Client, WaitTimeout
from cardprod.durable.store import queue_name
from cardprod.simulator import Simulator
from tests.durable.support import PRODUCED, QUICK, cards_of, over, quick, working
from tests.waiting import until

if TYPE_CHECKING:
    from cardprod.durable import BatchStatus, Durable

pytestmark = pytest.mark.looptime(False)


async def test_refused_token(
    kiosk: Simulator, client: Client, postgres: str, durable: Durable, caplog: pytest.LogCaptureFixture
) -> None:
    """A token that is refused ends no wait: that is logged and shown, and a worker with a good one goes on at once."""
    cards = cards_of(kiosk, 60, "never")
    batch_id = await durable.submit(cards, schedule=QUICK, batch_size=10)

    tokens = [kiosk.token]

    async def source() -> str:
        return tokens[-1]

    async def status() -> BatchStatus:
        return await durable.status(batch_id)

    async with Client(source, base_url=kiosk.base_url) as expiring, working(durable, expiring):
        await until("polls", lambda: len(kiosk.requests), lambda count: count >= 60)
        tokens.append("expired")
        refused = await until("a refusal", status, lambda seen: seen.token_refused_at)
        assert (refused.pending, refused.errors) == (60, 0)
        assert "the token 'default' was refused" in caplog.text
        requests = len(kiosk.requests)
        async with quick(postgres) as other:
            for card in cards:
                kiosk.start(card)
                kiosk.finish(card)
            began_at = time.monotonic()
            async with working(other, client):
                ended = await over(durable, batch_id)
            assert time.monotonic() - began_at < 10
    assert (ended.produced, ended.errors, ended.token_refused_at) == (60, 0, None)
    assert len(kiosk.requests) - requests <= 200


async def test_deadlines_of_a_refused_token(
    kiosk: Simulator, durable: Durable, caplog: pytest.LogCaptureFixture
) -> None:
    """While a token is refused, deadlines are kept, and how those waits ended is delivered."""
    caplog.set_level(logging.CRITICAL, "cardprod")
    ended: list[object] = []

    async def on_steps(steps: object) -> None:
        ended.append(steps)

    batch_id = await durable.submit(cards_of(kiosk, 3, "never"), schedule=QUICK, timeout=1.5)
    async with Client("expired", base_url=kiosk.base_url) as client, working(durable, client, on_steps):
        await over(durable, batch_id)
    results = [result async for _, result in durable.results(batch_id)]
    assert [type(result) for result in results] == [WaitTimeout] * 3
    assert len(ended) == 1


async def test_refused_token_is_tried_again(
    kiosk: Simulator, client: Client, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker tries a refused token again after a while that does not grow: it may be renewed behind its name."""
    (card,) = cards_of(kiosk, 1, "never")
    tokens = ["expired"]

    async def source() -> str:
        return tokens[-1]

    async with (
        quick(postgres, refused=0.3) as durable,
        Client(source, base_url=kiosk.base_url) as renewed,
        working(durable, renewed),
    ):
        batch_id = await durable.submit([card], schedule=QUICK)
        refusals = "the token 'default' was refused"
        await until("refusals", lambda: caplog.text.count(refusals), lambda count: count == 4)
        assert caplog.text.count("it is tried again in 0.3 s") == 4
        tokens.append(kiosk.token)
        kiosk.start(card)
        kiosk.finish(card)
        assert (await over(durable, batch_id)).produced == 1


async def test_api_of_a_batch(kiosk: Simulator, client: Client, durable: Durable, postgres: str) -> None:
    """Cards of one API are never polled by a worker for another, whatever its token is called; else by any worker."""
    [card] = cards_of(kiosk, 1, PRODUCED)
    batch_id = await durable.submit([card], schedule=QUICK, base_url=f"{kiosk.base_url}/")
    anywhere = await durable.submit([card], schedule=QUICK)
    async with Simulator(token=kiosk.token, plan_for_unknown=PRODUCED) as elsewhere:
        async with (
            Client(kiosk.token, base_url=elsewhere.base_url) as wrong,
            quick(postgres) as other,
            working(other, wrong),
        ):
            await over(durable, anywhere)
            assert len(elsewhere.requests) == 1
            status = await durable.status(batch_id)
            assert (status.base_url, status.workers, status.polls) == (kiosk.base_url, 0, 0)
            async with working(durable, client):
                assert (await over(durable, batch_id)).produced == 1
        assert len(elsewhere.requests) == 1


LOCAL = "http://localhost:8080"


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (("MyBank", None), ("mybank", None), True),
        (("my-bank", None), ("MY_BANK", None), True),
        (("my-bank", LOCAL), ("MY_BANK", LOCAL), True),
        (("x" * 32, None), ("X" * 32, None), True),
        (("x" * 32, None), ("x" * 31, None), False),
        (("my-bank", None), ("mybank", None), False),
        (("my-bank", None), ("my-bank", LOCAL), False),
        # with a client certificate, and with the port that its scheme has anyway
        (("a", PRODUCTION_MTLS), ("a", PRODUCTION), True),
        (("a", SANDBOX_MTLS), ("a", SANDBOX), True),
        (("a", "https://api.wise.com:443"), ("a", PRODUCTION), True),
        (("a", "https://API.wise.com:443/"), ("a", PRODUCTION), True),
        (("a", PRODUCTION_MTLS + ":443"), ("a", PRODUCTION), True),
        (("a", "https://localhost:443/wise"), ("a", "https://localhost/wise"), True),
        (("a", "http://[::1]:80"), ("a", "http://[::1]"), True),
        (("a", "https://localhost:80"), ("a", "https://localhost"), False),
        (("a", "http://localhost:443"), ("a", "http://localhost"), False),
        (("a", LOCAL), ("a", "http://localhost"), False),
        (("a", "http://localhost"), ("a", "https://localhost"), False),
        (("a", "https://localhost/a:443"), ("a", "https://localhost/a"), False),
    ],
)
def test_token_of_an_api(one: tuple[str, str | None], other: tuple[str, str | None], *, is_same: bool) -> None:
    """Tokens are the same for any spelling of their name that an environment can have, and of their API's address."""
    assert (queue_name(*one) == queue_name(*other)) is is_same


async def test_token_that_no_worker_has(
    kiosk: Simulator, client: Client, durable: Durable, caplog: pytest.LogCaptureFixture
) -> None:
    """Cards whose token no worker has are polled by none, and named once, and the status counts those that have it."""
    name = "My-" + "x" * 29
    batch_id = await durable.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK, token=name, base_url=kiosk.base_url)
    words = f"cards wait for the token {name!r} for {kiosk.base_url}, which no worker has"
    async with working(durable, client):
        await until("the words", lambda: words in caplog.text)
        status = await durable.status(batch_id)
        assert (status.workers, status.polls) == (0, 0)
        here = await durable.submit([], token="Default")
        assert (await durable.status(here)).workers == 1
    assert (await durable.status(here)).workers == 0  # it has left
    assert caplog.text.count(words) == 1
    async with working(durable, {name.upper().replace("-", "_"): client}):
        assert (await over(durable, batch_id)).token_name == name
