"""Every Python example in README and in the docstrings runs, in virtual time, against the simulator."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import json
import operator
import os
import re
import socket
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
from aiohttp import web
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
from tests.waiting import LIMIT, Child, run_program, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Sequence
    from datetime import datetime

    from sybil import Example

    from cardprod.durable import Step
    from cardprod.simulator import Plan
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
    """An example of durable waits runs as it stands, but for the address of its database, to where a worker works."""
    real = Database.__init__

    def begin(database: Database, address: str, *more: Any) -> None:
        del address
        real(database, postgres, *more)

    monkeypatch.setattr(Database, "__init__", begin)
    running = asyncio.create_task(test_example(example, monkeypatch))
    await until("its end or a sweep", lambda: running.done() or _sweeps(postgres) > 0)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(running, LIMIT)


def _sweeps(database: str) -> int:
    """Count the sweeps whose outcome was written."""
    with psycopg.connect(database) as connection:
        try:
            return len(connection.execute("SELECT id FROM cardprod.chunks WHERE version > 0").fetchall())
        except psycopg.errors.UndefinedTable:
            return 0


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
        _import_as_before(example)
        for name, value in namespace.items():
            example.namespace.setdefault(name, value)
        example.namespace.update(client=client, SANDBOX=kiosk.base_url, asyncio=asyncio, __name__="example")
        body = eval(code, example.namespace)  # noqa: S307 - our own examples
        for main in [*mains, *([body] if body else [])]:
            await main


def _import_as_before(example: Example) -> None:
    """Import what the examples before this one on its page import, which may have run in another process, or not."""
    for earlier in example.document.examples():
        if earlier.line < example.line:
            for node in ast.parse(str(earlier.parsed)).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    with contextlib.suppress(ImportError):  # an engine that is not installed
                        exec(ast.unparse(node), example.namespace)  # noqa: S102 - our own imports


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
        await until("uvicorn", lambda: server.started or serving.done())
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
import asyncio, logging, os
import cardprod
from cardprod.webhooks import Verifier
{recipe}
DSN = os.environ["DSN"]
VERIFIER = Verifier(os.environ["KEY"])

async def main():
    hourly = cardprod.Backoff(first=3600, factor=1, ceiling=3600)
    async with cardprod.Client("any", base_url=os.environ["KIOSK"]) as client:
        listening = asyncio.create_task(listen(client))
        async for step in client.wait_until_final({card}, schedule=hourly, timeout=None):
            print(step.current.status, step.source, flush=True)
        listening.cancel()

asyncio.run(main())
"""


@asynccontextmanager
async def _deliveries_of(kiosk: Simulator) -> AsyncGenerator[asyncio.Queue[tuple[bytes, Any]]]:
    """Receive the webhooks of a kiosk, bodies and headers."""
    received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        received.put_nowait((await request.read(), request.headers))
        return web.Response()

    app = web.Application()
    app.router.add_post("/", receive)
    async with TestServer(app) as server:
        kiosk.subscribe(str(server.make_url("/")))
        yield received


@pytest.mark.looptime(False)  # another process waits, in real time
async def test_several_processes_recipe(postgres: str) -> None:
    """By the README's lines a delivery that one process got ends a wait in another, and no forged one does."""
    recipe = _recipe("pg_notify")
    namespace: dict[str, Any] = {"cardprod": cardprod}
    exec(recipe, namespace)  # noqa: S102 - our own recipe
    namespace["DSN"] = postgres
    program = _WAITING_PROCESS.format(recipe=recipe, card=f"{CARD.profile_id}, {CARD.card_token!r}")
    with psycopg.connect(postgres) as connection:
        connection.execute(namespace["TABLE"])
    async with Simulator(token=None, plan_for_unknown="never") as kiosk, _deliveries_of(kiosk) as deliveries:
        env = {**os.environ, "DSN": postgres, "KIOSK": kiosk.base_url, "KEY": kiosk.public_key}
        with Child(sys.executable, "-c", program, env=env) as waiting:
            await until("the first poll", lambda: waiting.lines, lambda lines: lines == ["READY poll"], child=waiting)
            await until("a listener", lambda: _listeners(postgres), lambda count: count == 1, child=waiting)
            for count, move in enumerate((kiosk.start, kiosk.finish), 2):
                move(CARD)
                body, headers = await asyncio.wait_for(deliveries.get(), LIMIT)
                with psycopg.connect(postgres) as connection:
                    connection.execute("NOTIFY deliveries, 'no such key'")
                await namespace["publish"](body.replace(b"IN_PROGRESS", b"PRODUCED"), {"X-Signature-SHA256": "AAAA"})
                await namespace["publish"](body, headers)
                await until("a line", lambda: waiting.lines[count - 1 :], child=waiting)  # noqa: B023 - it ends here
            assert await waiting.until_end() == 0, waiting.err
            assert waiting.lines == ["READY poll", "IN_PROGRESS webhook", "PRODUCED webhook"]


def _listeners(database: str) -> int:
    with psycopg.connect(database) as connection:
        statement = "SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN deliveries' AND state = 'idle'"
        return len(connection.execute(statement).fetchall())


def test_pytest_recipe(tmp_path: Path) -> None:
    """The README's test of somebody's own app passes under pytest with pytest-asyncio, outside this project."""
    (tmp_path / "test_recipe.py").write_text("import cardprod\n" + _recipe("pytest_asyncio"))
    # Only the plugin that the recipe needs: others that happen to be installed take longer to load than it to run.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin"]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    finished = run_program(*command, "test_recipe.py", cwd=tmp_path, env=env, check=False)
    assert finished.exit_code == 0, finished.out
    assert "1 passed" in finished.out


# --- Waits that outlive a process ---

_SOON = [Stage("READY", 0.3), Stage("IN_PROGRESS", 0.3), Stage("PRODUCED")]
_ENOUGH = 60
"""Seconds, of virtual time, in which a job engine must have come to the end."""
_QUICK = cardprod.Backoff(first=0.1, factor=1, ceiling=0.1)


def _saved(kiosk: Simulator, plan: Plan = _SOON) -> str:
    return cardprod.Checkpoint.for_cards([kiosk.add(CARD, plan)], schedule=_QUICK).to_json()


def _told(out: str) -> list[str]:
    return [line.rpartition("->")[2].split()[-1] if "->" in line else line.split()[-1] for line in _short(out)]


def _short(out: str) -> list[str]:
    return [line.removesuffix(" at WIS00001") for line in out.splitlines() if line.startswith("123456/")]


_STATUSES = ["READY", "IN_PROGRESS", "PRODUCED"]


async def _printed(capsys: pytest.CaptureFixture[str], kiosk: Simulator, *, is_short: bool = False) -> list[str]:
    """Move the card on whenever a worker has printed its status, and give the statuses that it printed to the end."""
    out = ""

    def read() -> str:
        nonlocal out
        out += capsys.readouterr().out
        return out

    await until("READY", read, lambda text: "READY" in text)
    kiosk.start(CARD)
    if not is_short:
        await until("IN_PROGRESS", read, lambda text: "IN_PROGRESS" in text)
    kiosk.finish(CARD)
    await until("PRODUCED", read, lambda text: "PRODUCED" in text)
    return [next(status for status in reversed(_STATUSES) if status in line) for line in out.splitlines()]


@pytest.mark.looptime(False)
async def test_durable_recipe(postgres: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's web app hands cards over, and its worker tells their steps."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    async with _wise_is_a_kiosk() as kiosk:
        exec(_recipe("cards_sent_to_kiosks"), namespace)  # noqa: S102 - our own recipe
        namespace["DATABASE"] = postgres
        await namespace["cards_sent_to_kiosks"]([kiosk.add(CARD, "never")])
        working = asyncio.create_task(namespace["work"]())
        printed = await _printed(capsys, kiosk)
        working.cancel()
        await asyncio.wait([working], timeout=LIMIT)
    assert printed == _STATUSES


@pytest.mark.looptime(False)
async def test_durable_webhooks_recipe(postgres: str) -> None:
    """The README's endpoint takes a kiosk's webhooks for waits whose worker is elsewhere, and refuses forged ones."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "__name__": "recipe"}
    for words in ("StreamingResponse(lines", "async def cards_sent_to_kiosks", "wise_calls_for_durable_waits"):
        exec(_recipe(words), namespace)  # noqa: S102 - our own recipe
    namespace["DATABASE"] = postgres
    delivered: list[str] = []

    async def on_steps(steps: Sequence[Step]) -> None:
        for step in steps:
            assert isinstance(step.what, cardprod.Transition)
            delivered.append(f"{step.what.current.status} {step.what.source}")

    async with (
        Simulator(token=None) as kiosk,
        _served(namespace["intake"]) as url,
        cardprod.Client("any", base_url=kiosk.base_url) as client,
        Durable(postgres) as durable,
    ):
        namespace["VERIFIER"] = Verifier(kiosk.public_key)
        kiosk.subscribe(f"{url}/wise")
        assert await kiosk.send_tests() == [200]
        hourly = cardprod.Backoff(first=3600, factor=1, ceiling=3600)
        await durable.submit([kiosk.add(CARD, "never")], schedule=hourly)
        working = asyncio.create_task(durable.work(client, on_steps))
        for count, move in enumerate((None, kiosk.start, kiosk.finish), 1):
            if move is not None:
                move(CARD)
            await until("a transition", lambda: len(delivered), partial(operator.le, count))
        working.cancel()
        await asyncio.wait([working], timeout=LIMIT)
    assert delivered == ["READY poll", "IN_PROGRESS webhook", "PRODUCED webhook"]


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
            async with asyncio.timeout(_ENOUGH):
                while jobs:
                    name, saved, at = jobs.pop()
                    await asyncio.sleep(at.timestamp() - checkpoint.wall_clock())
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

        timers: Any = {"schedule": 0.05}  # not once a second
        worker = saq.Worker(queue, functions=[namespace["sweep_in_saq"]], startup=startup, concurrency=1, timers=timers)
        working = asyncio.create_task(worker.start())
        await queue.enqueue("sweep_in_saq", saved=_saved(kiosk, "never"), timeout=0)
        assert await _printed(capsys, kiosk, is_short=True) == ["READY", "PRODUCED"]
        await worker.stop()
        working.cancel()
        await asyncio.wait([working], timeout=LIMIT)
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
                async with asyncio.timeout(_ENOUGH):
                    while schedules:
                        schedule = schedules.pop()
                        await asyncio.sleep(schedule.time.timestamp() - checkpoint.wall_clock())
                        await (await task.kiq(*schedule.args)).wait_result()
            await broker.shutdown()
    assert _told(capsys.readouterr().out) == _STATUSES


@pytest.mark.looptime(False)
@pytest.mark.filterwarnings("ignore")  # Celery's own
async def test_celery_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's task for Celery retries itself until the card is final, in a real worker with a broker in memory."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "SHARE": None}
    recipe = _recipe("sweep_in_celery")  # before anything of Celery's: this skips where it is not installed
    testing: Any = importlib.import_module("celery.contrib.testing.worker")
    async with _wise_is_a_kiosk() as kiosk:
        exec(recipe, namespace)  # noqa: S102 - our own recipe
        setup_logging = importlib.import_module("celery.signals").setup_logging
        setup_logging.connect(_leave_it)
        app = namespace["celery"]
        app.conf.update(broker_transport_options={"polling_interval": 0.05}, worker_timer_precision=0.05)
        context = testing.start_worker(app, perform_ping_check=False, loglevel="ERROR")
        await asyncio.to_thread(context.__enter__)
        try:
            namespace["sweep_in_celery"].delay(_saved(kiosk, "never"))
            assert await _printed(capsys, kiosk) == _STATUSES
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
            saved, at = _saved(kiosk), checkpoint.wall_clock()
            async with asyncio.timeout(_ENOUGH):
                while at:
                    saved, at = await testing.ActivityEnvironment().run(namespace["sweep_once"], saved)
                    if at:
                        await asyncio.sleep(at - checkpoint.wall_clock())
    assert _told(capsys.readouterr().out) == _STATUSES
    assert cardprod.Checkpoint.from_json(saved).is_done
