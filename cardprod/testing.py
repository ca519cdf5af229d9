"""Fixtures for pytest: a simulated kiosk, and a client of it. They are there wherever cardprod is installed.

Needs pytest and pytest-asyncio, or another plugin that runs async tests, such as anyio's.

```python
import cardprod
import pytest
from cardprod.simulator import Fault, Stage


@pytest.mark.asyncio
async def test_a_jam_is_reported(kiosk, kiosk_client):
    kiosk.add((123456, "my-card"), [("READY", 0.1), Stage("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM")])
    kiosk.fail_next(Fault.server_error(503))
    final = await kiosk_client.wait_until_final(123456, "my-card", schedule=cardprod.Backoff(first=0.1))
    assert final.error_meaning == "Production error: feeder card jam"


@pytest.mark.asyncio
async def test_an_operators_retry(kiosk, kiosk_client):
    card = kiosk.add((123456, "my-card"), "never")  # READY until it is moved
    kiosk.start(card)
    kiosk.fail(card, "PRD_FEEDER_JAM")
    jammed = await kiosk_client.wait_until_final(123456, "my-card")
    kiosk.retry(card)
    kiosk.finish(card)
    final = await kiosk_client.wait_until_final(123456, "my-card", after=jammed)
    assert final.is_produced
```

To test an app's endpoint, serve the app in the test's own event loop, where the kiosk is as well. FastAPI's
`TestClient` would block that loop until the endpoint has answered. Here with README's `app.py` and uvicorn:

```python
import asyncio

import aiohttp
import pytest
import uvicorn
from app import app
from cardprod.simulator import Fault, Subscription
from cardprod.webhooks import Verifier


@pytest.mark.asyncio
async def test_a_webhook_ends_the_wait(kiosk, monkeypatch):
    monkeypatch.setenv("CARDPROD_TOKEN", kiosk.token)
    monkeypatch.setenv("CARDPROD_BASE_URL", kiosk.base_url)
    monkeypatch.setattr("app.VERIFIER", Verifier(kiosk.public_key))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    kiosk.subscribe(Subscription(url=f"http://127.0.0.1:{port}/wise"))
    card = kiosk.add((123456, "my-card"), "never")
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as browser:
        waiting = asyncio.create_task(browser.get("/cards/my-card"))
        while not kiosk.requests:
            await asyncio.sleep(0.01)
        kiosk.fail_next(Fault.server_error(503), times=100)  # every later poll fails: only webhooks show what happens
        kiosk.start(card)
        kiosk.finish(card)
        answer = await waiting
        assert (await answer.json())["status"] == "PRODUCED"
    server.should_exit = True
    await serving
    assert {delivery.http_status for delivery in kiosk.deliveries} == {200}
```

pytest takes its settings from the `pyproject.toml` of the folder it runs in, or of one above. cardprod's own clone has
settings for its own tests: in there, give the folder of yours a file `pytest.ini`, which may be empty.

| fixture | is |
| --- | --- |
| `kiosk` | a running `cardprod.simulator.Simulator`, new for each test |
| `kiosk_client` | a `cardprod.Client` of it, with default settings |

They are for async test functions, each in an event loop of its own (pytest-asyncio's loop scope "function", its
default), with pytest-asyncio in either mode (in auto mode without the marks) or with anyio. In real time the plan
"jams" takes five seconds, and stages of your own, such as `[("IN_PROGRESS", 0.1), ("PRODUCED", 0)]`, what they say;
the last one stays. With the package looptime, and `@pytest.mark.looptime` at a test, time is virtual: a wait of
hours takes seconds.

A fixture of your own with the same name replaces one of these; if that is `kiosk`, then `kiosk_client` is a client of
it. `pytest -p no:cardprod` turns them off.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from cardprod.client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pytest_asyncio import fixture

    from cardprod.simulator import Simulator
elif find_spec("pytest_asyncio"):
    from pytest_asyncio import fixture
elif find_spec("pytest"):  # another plugin runs async tests
    from pytest import fixture  # noqa: PT013 - the same, of another library
else:
    raise ImportError("cardprod.testing has fixtures for pytest: install pytest and pytest-asyncio")

__all__ = ["kiosk", "kiosk_client"]


@fixture
async def kiosk() -> AsyncIterator[Simulator]:
    """A simulated kiosk on loopback, in the test's own event loop and so in its real or virtual time."""
    from cardprod.simulator import Simulator  # noqa: PLC0415 - pytest imports this module at each start

    async with Simulator() as simulator:
        yield simulator


@fixture
async def kiosk_client(kiosk: Simulator) -> AsyncIterator[Client]:
    """A client of `kiosk`, with default settings."""
    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        yield client
