"""Every Python example in README and in the docstrings runs, in virtual time, against the simulator."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psycopg
import pytest
import uvicorn
from aiohttp.test_utils import TestClient, TestServer
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import CodeBlockParser

import cardprod
from cardprod import simulator
from cardprod.simulator import Simulator, Stage, Subscription
from cardprod.webhooks import Verifier
from tests.conftest import CARD, event_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from sybil import Example

_ROOT = Path(__file__).parent.parent
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "cardprod").rglob("*.py"))]


@asynccontextmanager
async def _wise_is_a_kiosk() -> AsyncGenerator[Simulator, None]:
    """Let Wise's addresses lead to a simulator that knows every card and every token."""
    async with Simulator(token=None, plan_for_unknown="prints") as kiosk:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cardprod, "SANDBOX", kiosk.base_url)
            patch.setattr(cardprod, "PRODUCTION", kiosk.base_url)
            patch.setenv("CARDPROD_TOKEN", "user-token")
            patch.setenv("CARDPROD_BASE_URL", kiosk.base_url)
            yield kiosk


def _examples() -> list[Any]:
    parser = CodeBlockParser(language="python", evaluator=lambda _: None)
    sybil = Sybil(parsers=[parser], document_types={".py": PythonDocStringDocument})
    return [
        pytest.param(example, id=f"{page.relative_to(_ROOT)}:{example.line}")
        for page in _PAGES
        for example in sybil.parse(page).examples()
    ]


@pytest.mark.parametrize("example", _examples())
async def test_example(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example in README or a docstring runs as it stands; with `await` outside a function, as the body of one."""
    source = "\n" * (example.line + example.parsed.line_offset) + str(example.parsed)
    code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    mains: list[Coroutine[Any, Any, object]] = []
    monkeypatch.setattr(asyncio, "run", mains.append)  # there is a loop already, in virtual time
    async with (
        _wise_is_a_kiosk() as kiosk,
        cardprod.Client("user-token", base_url=kiosk.base_url) as client,
    ):
        public = {name: getattr(module, name) for module in (cardprod, simulator) for name in module.__all__}
        cards = [CARD, (123456, "card-2"), (123456, "card-3")]
        namespace = public | {"cardprod": cardprod, "client": client, "kiosk": kiosk, "token": "card-1", "card": CARD}
        namespace["cards"] = cards
        for name, value in namespace.items():
            example.namespace.setdefault(name, value)
        example.namespace.update(client=client, SANDBOX=kiosk.base_url, asyncio=asyncio, __name__="example")
        body = eval(code, example.namespace)  # noqa: S307 - our own examples
        for main in [*mains, *([body] if body else [])]:
            await main


def _recipe(words: str) -> str:
    """Take the README's one example that has these words in it."""
    blocks = (_ROOT / "README.md").read_text().split("```python\n")[1:]
    [recipe] = [block.partition("```")[0] for block in blocks if words in block]
    return recipe


async def test_web_app_recipe() -> None:
    """The README's web app answers a browser with the card's status."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "__name__": "recipe"}
    exec(_recipe("async def one_client"), namespace)  # noqa: S102 - our own recipe
    async with _wise_is_a_kiosk(), TestClient(TestServer(namespace["app"])) as browser:
        response = await browser.get("/cards/my-card")
        assert await response.json() == {"status": "READY", "why": None}


async def test_worker_recipe() -> None:
    """The README's worker waits for a card until it is final."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    async with _wise_is_a_kiosk():
        exec(_recipe("check_card"), namespace)  # noqa: S102 - our own recipe
        async with namespace["CLIENT"]:
            assert (await namespace["check_card"](123456, "my-card")).is_produced


async def test_lifetime_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's open batch follows cards that come while it runs, and ends when no more will."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "asyncio": asyncio}
    exec(_recipe("follow_all"), namespace)  # noqa: S102 - our own recipe

    async def new_cards() -> AsyncGenerator[tuple[int, str]]:
        for number in range(3):
            yield (123456, f"card-{number}")
            await asyncio.sleep(60)

    async with _wise_is_a_kiosk(), cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
        await namespace["follow_all"](client, new_cards())
    assert capsys.readouterr().out.count("PRODUCED") == 3


@asynccontextmanager
async def _served(app: Any) -> AsyncGenerator[str, None]:
    """Serve an ASGI app as its users do, by uvicorn."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="warning", lifespan="on", ws="none", http="h11")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:  # noqa: ASYNC110 - it has nothing to wait for
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await serving


_PRINTED = [Stage("READY", 60), Stage("IN_PROGRESS", 60), Stage("PRODUCED")]
_ROUGH = {"latency": (0.0, 5.0), "duplicates": 0.5, "replays": 0.5}


async def test_fastapi_recipe() -> None:
    """The README's FastAPI app streams a card's transitions to a browser as the kiosk's webhooks tell them."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "__name__": "recipe"}
    exec(_recipe("StreamingResponse(lines"), namespace)  # noqa: S102 - our own recipe
    async with (
        _wise_is_a_kiosk() as kiosk,
        _served(namespace["api"]) as url,
        aiohttp.ClientSession(url) as browser,
    ):
        async with browser.post("/wise", data=b"{}", headers={"X-Signature-SHA256": "AAAA"}) as answer:
            assert answer.status == 400
        namespace["VERIFIER"] = Verifier(kiosk.public_key)
        for seed in range(4):
            kiosk.subscribe(Subscription(url=f"{url}/wise", seed=seed, **_ROUGH))  # type: ignore[arg-type]
        assert await kiosk.send_tests() == [200] * 4
        kiosk.add((123456, "my-card"), _PRINTED)
        async with browser.get("/cards/my-card/steps") as stream:
            assert stream.content_type == "text/event-stream"
            told = [json.loads(line[6:]) async for line in stream.content if line.startswith(b"data: ")]
        assert [(step["status"], step["final"]) for step in told] == [
            ("READY", False),
            ("IN_PROGRESS", False),
            ("PRODUCED", True),
        ]
        await asyncio.sleep(600)  # what is replayed comes now
        kiosk.add((123456, "my-card"), "never")
        async with browser.get("/cards/my-card/steps") as stream:
            assert json.loads((await stream.content.readline())[6:])["status"] == "READY"
        await asyncio.sleep(5)  # the browser has gone, and uvicorn finds out
        assert namespace["api"].state.client.notify(event_of(cardprod.Card(123456, "my-card"), "PRODUCED")) == 0
        assert {delivery.http_status for delivery in kiosk.deliveries} == {200}


async def test_aiohttp_webhook_recipe() -> None:
    """The README's endpoint for aiohttp.web takes the kiosk's webhooks, and refuses what it has not signed."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "__name__": "recipe"}
    exec(_recipe("async def one_client"), namespace)  # noqa: S102 - our own recipe
    exec(_recipe("import logging"), namespace)  # noqa: S102
    exec(_recipe("await request.read()"), namespace)  # noqa: S102
    async with _wise_is_a_kiosk() as kiosk, TestServer(namespace["app"]) as server:
        namespace["VERIFIER"] = Verifier(kiosk.public_key)
        url = server.make_url("/wise")
        async with aiohttp.ClientSession() as stranger, stranger.post(url, data=b"{}") as answer:
            assert answer.status == 400
        kiosk.subscribe(Subscription(url=str(url), **_ROUGH))  # type: ignore[arg-type]
        assert await kiosk.send_tests() == [200]
        kiosk.add(CARD, _PRINTED)
        client = namespace["app"][namespace["CLIENT"]]
        hourly = cardprod.Backoff(first=3600, factor=1, ceiling=3600)
        wait = client.wait_until_final(CARD.profile_id, CARD.card_token, schedule=hourly, timeout=None)
        told = [(step.current.status, step.source) async for step in wait]
        assert told == [("READY", "poll"), ("IN_PROGRESS", "webhook"), ("PRODUCED", "webhook")]


_WAITING_PROCESS = """
import asyncio, os
import cardprod
{recipe}
DSN = os.environ["DSN"]

async def main():
    hourly = cardprod.Backoff(first=3600, factor=1, ceiling=3600)
    async with cardprod.Client("any", base_url=os.environ["KIOSK"]) as client:
        listening = asyncio.create_task(listen(client))
        async for step in client.wait_until_final({card}, schedule=hourly, timeout=None):
            print(step.current.status, step.source, flush=True)
        listening.cancel()

asyncio.run(main())
"""


@pytest.mark.looptime(False)  # another process waits, in real time
async def test_several_processes_recipe(postgres: str) -> None:
    """By the README's ten lines an event that one process got ends a wait in another."""
    recipe = _recipe("pg_notify")
    namespace: dict[str, Any] = {"cardprod": cardprod}
    exec(recipe, namespace)  # noqa: S102 - our own recipe
    namespace["DSN"] = postgres
    program = _WAITING_PROCESS.format(recipe=recipe, card=f"{CARD.profile_id}, {CARD.card_token!r}")
    async with asyncio.timeout(60), Simulator(token=None, plan_for_unknown="never") as kiosk:
        waiting = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "DSN": postgres, "KIOSK": kiosk.base_url},
        )
        try:
            assert waiting.stdout is not None
            assert await waiting.stdout.readline() == b"READY poll\n"
            async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as database:
                listeners = "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN cardprod' AND state = 'idle'"
                while await (await database.execute(listeners)).fetchone() != (1,):
                    pass
            for status in ("IN_PROGRESS", "PRODUCED"):
                await namespace["publish"](event_of(CARD, status))
                assert await waiting.stdout.readline() == f"{status} webhook\n".encode()
            assert await waiting.wait() == 0
        finally:
            if waiting.returncode is None:
                waiting.kill()
                await waiting.wait()


def test_pytest_recipe(tmp_path: Path) -> None:
    """The README's test of somebody's own app passes under pytest with pytest-asyncio, outside this project."""
    (tmp_path / "test_recipe.py").write_text("import cardprod\n" + _recipe("pytest_asyncio"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_recipe.py"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
    assert "1 passed" in finished.stdout
