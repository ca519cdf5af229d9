"""Every Python example in README and in the docstrings runs, in virtual time, against the simulator."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
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
from cardprod import checkpoint, simulator
from cardprod.durable import Durable
from cardprod.durable.database import Database
from cardprod.simulator import Simulator, Stage, Subscription
from cardprod.webhooks import Verifier
from tests.cards import CARD, event_of
from tests.clock import wall_clock_of_the_loop as _wall_clock_of_the_loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine
    from datetime import datetime

    from sybil import Example

    from tests.durable.postgres import Postgres

_ROOT = Path(__file__).parents[2]
_PAGES = [_ROOT / "README.md", *sorted(Path(cardprod.__file__).parent.rglob("*.py"))]


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


def _other_database(database: str, _: str, most_connections: int) -> Database:
    return Database(database, most_connections)


def _leave_it(**_: object) -> None:
    """Keep Celery from setting up logging: with this receiver it leaves that to us, and the other tests need theirs."""


async def _ignore(_: object) -> None:
    """Be told of steps."""


def _examples(*, durable: bool) -> list[Any]:
    parser = CodeBlockParser(language="python", evaluator=lambda _: None)
    sybil = Sybil(parsers=[parser], document_types={".py": PythonDocStringDocument})
    return [
        pytest.param(example, id=f"{page.parent.name}/{page.name}:{example.line}")
        for page in _PAGES
        for example in sybil.parse(page).examples()
        if ("async with Durable" in str(example.parsed)) is durable
    ]


@pytest.mark.looptime(False)  # PostgreSQL goes by real time
@pytest.mark.parametrize("example", _examples(durable=True))
async def test_durable_example(example: Example, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example of durable waits runs as it stands, but for the address of its database, until it is told to stop."""
    monkeypatch.setattr("cardprod.durable.engine.Database", partial(_other_database, postgres))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):  # a worker works until it is cancelled
            await test_example(example, monkeypatch)


@pytest.mark.parametrize("example", _examples(durable=False))
async def test_example(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example in README or a docstring runs as it stands; with `await` outside a function, as the body of one."""
    source = "\n" * (example.line + example.parsed.line_offset) + str(example.parsed)
    _skip_without_engines(source)
    code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    mains: list[Coroutine[Any, Any, object]] = []
    monkeypatch.setitem(sys.modules, "example", ModuleType("example"))
    monkeypatch.setattr(asyncio, "run", mains.append)  # there is a loop already, in virtual time
    async with (
        _wise_is_a_kiosk() as kiosk,
        cardprod.Client("user-token", base_url=kiosk.base_url) as client,
    ):
        public = {name: getattr(module, name) for module in (cardprod, simulator) for name in module.__all__}
        cards = [CARD, (123456, "card-2"), (123456, "card-3")]
        namespace = public | {"cardprod": cardprod, "client": client, "kiosk": kiosk, "token": "card-1", "card": CARD}
        namespace |= {"cards": cards, "Durable": Durable, "on_steps": _ignore}
        for name, value in namespace.items():
            example.namespace.setdefault(name, value)
        example.namespace.update(client=client, SANDBOX=kiosk.base_url, asyncio=asyncio, __name__="example")
        body = eval(code, example.namespace)  # noqa: S307 - our own examples
        for main in [*mains, *([body] if body else [])]:
            await main


def _recipe(words: str) -> str:
    """Take the README's one example that has these words in it; skip where a job engine it needs is not installed."""
    blocks = (_ROOT / "README.md").read_text().split("```python\n")[1:]
    [recipe] = [block.partition("```")[0] for block in blocks if words in block]
    _skip_without_engines(recipe)
    return recipe


def _skip_without_engines(source: str) -> None:
    for engine in re.findall(r"^\s*from (celery|taskiq|temporalio) import", source, re.MULTILINE):
        pytest.importorskip(engine, reason=f"{engine} is not installed: pip install -e '.[recipes]'")


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


# --- Waits that outlive a process ---

_SOON = [Stage("READY", 3), Stage("IN_PROGRESS", 3), Stage("PRODUCED")]
_QUICK = cardprod.Backoff(first=0.5, factor=1, ceiling=0.5)


def _saved(kiosk: Simulator) -> str:
    return cardprod.Checkpoint.for_cards([kiosk.add(CARD, _SOON)], schedule=_QUICK).to_json()


def _told(out: str) -> list[str]:
    return [line.rpartition("->")[2].split()[-1] if "->" in line else line.split()[-1] for line in _short(out)]


def _short(out: str) -> list[str]:
    return [line.removesuffix(" at WIS00001") for line in out.splitlines() if line.startswith("123456/")]


_STATUSES = ["READY", "IN_PROGRESS", "PRODUCED"]


async def _printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Wait until a worker has told the end, and give its lines."""
    out = ""
    async with asyncio.timeout(60):
        while "PRODUCED" not in out:
            await asyncio.sleep(0.1)
            out += capsys.readouterr().out
    return out.splitlines()


def _assert_in_order(lines: list[str]) -> None:
    """Check that the statuses a worker told follow each other; a slow machine may not have seen each."""
    told = [next(status for status in reversed(_STATUSES) if status in line) for line in lines]
    assert told == [status for status in _STATUSES if status in told]
    assert told[-1] == "PRODUCED"


@pytest.mark.looptime(False)
async def test_durable_recipe(postgres: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's web app hands cards over, and its worker tells their steps."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    async with _wise_is_a_kiosk() as kiosk:
        exec(_recipe("cards_sent_to_kiosks"), namespace)  # noqa: S102 - our own recipe
        namespace["DATABASE"] = postgres
        await namespace["cards_sent_to_kiosks"]([kiosk.add(CARD, _SOON)])
        working = asyncio.create_task(namespace["work"]())
        lines = await _printed(capsys)
        working.cancel()
        await asyncio.wait([working])
    _assert_in_order(lines)


async def test_arq_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's job for arq enqueues itself until the card is final; a list stands in for arq's Redis."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    exec(_recipe("enqueue_job"), namespace)  # noqa: S102 - our own recipe
    jobs: list[tuple[Any, ...]] = []

    class Pool:
        async def enqueue_job(self, name: str, saved: str, *, _defer_until: datetime) -> None:
            jobs.append((name, saved, _defer_until))

    with _wall_clock_of_the_loop():
        async with _wise_is_a_kiosk() as kiosk, cardprod.Client("x", base_url=kiosk.base_url) as client:
            await namespace["sweep_cards"]({"client": client, "redis": Pool()}, _saved(kiosk))
            while jobs:
                name, saved, at = jobs.pop()
                await asyncio.sleep((at - checkpoint.wall_clock()).total_seconds())
                await namespace[name]({"client": client, "redis": Pool()}, saved)
    assert _told(capsys.readouterr().out) == _STATUSES


@pytest.mark.looptime(False)
async def test_saq_recipe(postgres_server: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's job for SAQ enqueues itself until the card is final, in a real worker on PostgreSQL."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    exec(_recipe("sweep_in_saq"), namespace)  # noqa: S102 - our own recipe
    saq: Any = pytest.importorskip("saq", reason="saq is not installed: pip install -e '.[recipes]'")
    name = postgres_server.new_database().rpartition("=")[2]
    queue = saq.Queue.from_url(f"postgresql://tester@/{name}?host={postgres_server.directory}")
    await queue.connect()
    async with _wise_is_a_kiosk() as kiosk, cardprod.Client("x", base_url=kiosk.base_url) as client:

        async def startup(ctx: Any) -> None:
            ctx["client"] = client

        worker = saq.Worker(queue, functions=[namespace["sweep_in_saq"]], startup=startup, concurrency=1)
        working = asyncio.create_task(worker.start())
        await queue.enqueue("sweep_in_saq", saved=_saved(kiosk))
        _assert_in_order(await _printed(capsys))
        await worker.stop()
        working.cancel()
        await asyncio.wait([working])
    await queue.disconnect()


async def test_taskiq_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's task for taskiq schedules itself until the card is final, with taskiq's broker in memory."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "__name__": __name__}
    schedules: list[Any] = []

    class Source:
        async def add_schedule(self, schedule: Any) -> None:
            schedules.append(schedule)

    with _wall_clock_of_the_loop():
        async with _wise_is_a_kiosk() as kiosk:
            exec(_recipe("sweep_in_taskiq"), namespace)  # noqa: S102 - our own recipe
            broker, task = namespace["broker"], namespace["sweep_in_taskiq"]
            broker.state.schedules = Source()
            async with broker.state.client:
                await (await task.kiq(_saved(kiosk))).wait_result()
                while schedules:
                    schedule = schedules.pop()
                    await asyncio.sleep((schedule.time - checkpoint.wall_clock()).total_seconds())
                    await (await task.kiq(*schedule.args)).wait_result()
            await broker.shutdown()
    assert _told(capsys.readouterr().out) == _STATUSES


@pytest.mark.looptime(False)
@pytest.mark.filterwarnings("ignore")  # Celery's own
async def test_celery_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's task for Celery retries itself until the card is final, in a real worker with a broker in memory."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "SHARE": None}
    testing: Any = importlib.import_module("celery.contrib.testing.worker")
    async with _wise_is_a_kiosk() as kiosk:
        exec(_recipe("sweep_in_celery"), namespace)  # noqa: S102 - our own recipe
        setup_logging = importlib.import_module("celery.signals").setup_logging
        setup_logging.connect(_leave_it)
        context = testing.start_worker(namespace["celery"], perform_ping_check=False, loglevel="ERROR")
        await asyncio.to_thread(context.__enter__)
        try:
            namespace["sweep_in_celery"].delay(_saved(kiosk))
            _assert_in_order(await _printed(capsys))
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)
            setup_logging.disconnect(_leave_it)


async def test_temporal_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's activity for Temporal sweeps in Temporal's test environment; its workflow would need a server."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "__name__": __name__}
    exec(_recipe("temporalio"), namespace)  # noqa: S102 - our own recipe
    testing: Any = importlib.import_module("temporalio.testing")
    with _wall_clock_of_the_loop():
        async with _wise_is_a_kiosk() as kiosk, cardprod.Client("x", base_url=kiosk.base_url) as namespace["CLIENT"]:
            saved, at = _saved(kiosk), checkpoint.wall_clock().timestamp()
            while at:
                saved, at = await testing.ActivityEnvironment().run(namespace["sweep_once"], saved)
                if at:
                    await asyncio.sleep(at - checkpoint.wall_clock().timestamp())
    assert _told(capsys.readouterr().out) == _STATUSES
    assert cardprod.Checkpoint.from_json(saved).is_done
