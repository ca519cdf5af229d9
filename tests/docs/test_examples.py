"""Every Python example in the pages and in the docstrings runs, in virtual time, against the simulator."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import csv
import importlib
import json
import operator
import os
import re
import shlex
import signal
import socket
import sys
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import aiohttp
import psycopg
import pytest
import uvicorn
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import CodeBlockParser
from yarl import URL

import cardprod
from cardprod import checkpoint, simulator
from cardprod.card_files import KnownCard, read_cards
from cardprod.cli.parser import make_parser
from cardprod.durable import Durable
from cardprod.durable.database import Database
from cardprod.simulator import Fault, Simulator, Stage, Subscription
from cardprod.webhooks import Verifier
from tests.cards import CARD, event_of
from tests.clock import wall_clock_of_the_loop as _wall_clock_of_the_loop
from tests.table import Table
from tests.waiting import LIMIT, Child, Finished, run_program, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Sequence
    from datetime import datetime

    from sybil import Example

    from cardprod.durable import Step
    from cardprod.simulator import Plan
    from tests.durable.postgres import Postgres

_ROOT = Path(__file__).parents[2]
_README = _ROOT / "README.md"
_PAGES = [
    _README,
    _ROOT / "benchmarks" / "README.md",
    _ROOT / "tests" / "README.md",
    *sorted(Path(cardprod.__file__).parent.rglob("*.py")),
]
_CLIENT, _DURABLE, _WEBHOOKS, _TESTING = "client.py", "durable/__init__.py", "webhooks.py", "testing.py"
"""The modules whose docstrings have recipes."""


@asynccontextmanager
async def _wise_is_a_kiosk(unknown: Plan | None = "prints") -> AsyncGenerator[Simulator, None]:
    """Let Wise's addresses lead to a simulator that knows every token, and every card unless `unknown` is None."""
    async with Simulator(token=None, plan_for_unknown=unknown) as kiosk:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cardprod, "SANDBOX", kiosk.base_url)
            patch.setattr(cardprod, "PRODUCTION", kiosk.base_url)
            patch.setenv("CARDPROD_TOKEN", "user-token")
            patch.setenv("CARDPROD_BASE_URL", kiosk.base_url)
            yield kiosk


def _leave_it(**_: object) -> None:
    """Keep Celery from setting up logging: with this receiver it leaves that to us, and the other tests need theirs."""


async def _ignore(_: object) -> None:
    """Take steps."""


def _parsed() -> list[Example]:
    parser = CodeBlockParser(language="python", evaluator=lambda _: None)
    sybil = Sybil(parsers=[parser], document_types={".py": PythonDocStringDocument})
    pages = [page for page in _PAGES if "```python" in page.read_text("utf-8")]  # the others take a second to parse
    return [example for page in pages for example in sybil.parse(page).examples()]


_EXAMPLES = _parsed()


def _examples(*, durable: bool) -> list[Any]:
    return [
        pytest.param(example, id=f"{Path(example.path).parent.name}/{Path(example.path).name}:{example.line}")
        for example in _EXAMPLES
        if ("async with Durable" in str(example.parsed)) is durable
    ]


def _recipe(words: str, page: str | None = None) -> str:
    """Take the one example of README, or of a module's docstring, that has these words in it.

    Skip where a job engine it needs is not installed.
    """
    where = _README if page is None else Path(cardprod.__file__).parent / page
    sources = [str(example.parsed) for example in _EXAMPLES if Path(example.path) == where]
    [recipe] = [source for source in sources if words in source]
    _skip_without_engines(recipe)
    return recipe


def _skip_without_engines(source: str) -> None:
    for engine in re.findall(r"^\s*from (celery|taskiq|temporalio) import", source, re.MULTILINE):
        pytest.importorskip(engine, reason=f"{engine} is not installed: pip install -e '.[recipes]'")


@pytest.mark.looptime(False)  # PostgreSQL goes by real time
@pytest.mark.parametrize("example", _examples(durable=True))
async def test_durable_example(
    example: Example, postgres: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An example of durable waits runs as it stands, but for the address of its database, to where a worker works."""
    real = Database.__init__

    def begin(database: Database, address: str, *more: Any) -> None:
        del address
        real(database, postgres, *more)

    monkeypatch.setattr(Database, "__init__", begin)
    running = asyncio.create_task(test_example(example, monkeypatch, tmp_path))
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
async def test_example(example: Example, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An example in README or a docstring runs as it stands; with `await` outside a function, as the body of one."""
    monkeypatch.chdir(tmp_path)
    source = "\n" * (example.line + example.parsed.line_offset) + str(example.parsed)
    _skip_without_engines(source)
    _stand_in_for_taskiq_redis(monkeypatch)
    code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    mains: list[Coroutine[Any, Any, object]] = []
    monkeypatch.setitem(sys.modules, "example", ModuleType("example"))
    web_app = ModuleType("app")  # README's, which a test of it imports
    vars(web_app)["app"] = None
    monkeypatch.setitem(sys.modules, "app", web_app)
    monkeypatch.setattr(asyncio, "run", mains.append)  # there is a loop already, in virtual time
    async with (
        _wise_is_a_kiosk() as kiosk,
        cardprod.Client("user-token", base_url=kiosk.base_url) as client,
    ):
        public = {
            name: value for module in (cardprod, simulator) for name, value in vars(module).items() if name[:1] != "_"
        }
        cards = [CARD, (123456, "card-2"), (123456, "card-3")]
        namespace = public | {"cardprod": cardprod, "client": client, "kiosk": kiosk, "token": "card-1", "card": CARD}
        namespace |= {"cards": cards, "Durable": Durable, "on_steps": _ignore, "app": FastAPI()}
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


def test_commands(capfd: pytest.CaptureFixture[str]) -> None:
    """Each `cardprod` command in README, the other pages and the docstrings is one that the command takes."""
    found = {
        command.partition(" >")[0].partition(" |")[0]
        for page in _PAGES
        for command in re.findall(r"`(cardprod [a-z]+(?: [^`]+)?)`", page.read_text("utf-8"))
    }
    assert len(found) > 10
    with Table() as table:
        for command in sorted(found):
            with table.row(command):
                words = shlex.split(command)[1:]
                # A command that is only named, or whose arguments are, is known by its first word.
                is_named = len(words) == 1 or not {"URL", "ROLE"}.isdisjoint(words)
                arguments = ["--help"] if is_named else words[1:]
                try:
                    make_parser().parse_args([words[0], *arguments])
                except SystemExit as exc:
                    assert exc.code == 0, capfd.readouterr().err  # noqa: PT017 - of --help


async def test_aiohttp_recipe() -> None:
    """The web app for aiohttp.web answers with a card's status, 404 if there is none, and 400 if there can be none."""
    namespace: dict[str, Any] = {"__name__": "recipe"}
    exec(_recipe("web.HTTPBadRequest", _CLIENT), namespace)  # noqa: S102 - our own recipe
    async with _wise_is_a_kiosk(None) as kiosk, TestClient(TestServer(namespace["app"])) as browser:
        kiosk.add((123456, "my-card"), "never")
        response = await browser.get("/cards/my-card")
        assert await response.json() == {"status": "READY", "error": None}
        for token, status in _ODD_TOKENS.items():
            assert (await browser.get(URL(f"/cards/{token}", encoded=True))).status == status, token
        kiosk.fail_next(Fault.server_error(503), times=3)
        assert (await browser.get("/cards/my-card")).status == 502


_ODD_TOKENS = {"no-such-card": 404, "%00": 400, "a%2Fb": 400, "%20": 400, "a" * 1000: 400, "%E2%98%83": 400}
"""Cards' tokens as they may stand in a URL, and what is answered."""


async def test_retry_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's loop follows a card over an error status, until an operator's retry has printed it."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    code = compile(_recipe("after=final"), "README", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with _wise_is_a_kiosk() as kiosk:
        jammed = Stage("PRODUCTION_ERROR", 300, error_code="PRD_FEEDER_JAM")
        again = Stage("IN_PROGRESS", 60, is_new_request=True)
        kiosk.add((123456, "my-card"), [Stage("READY", 60), jammed, again, Stage("PRODUCED")])
        await eval(code, namespace)  # noqa: S307 - our own recipe
    assert namespace["final"].is_produced
    assert capsys.readouterr().out == "Production error: feeder card jam - waiting for an operator\n"


async def test_many_cards_recipe() -> None:
    """The README's cards that jammed are waited for again, until an operator's retry has printed them."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    code = compile(_recipe("after=statuses"), "README", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with _wise_is_a_kiosk(None) as kiosk:
        kiosk.add((123456, "card-0"), "prints")
        kiosk.add((123456, "card-1"), "retried")
        await eval(code, namespace)  # noqa: S307 - our own recipe
    outcome = {card.card_token: end for card, end in namespace["outcome"].items()}
    assert (outcome.pop("card-0").status, outcome.pop("card-1").status) == ("PRODUCED", "PRODUCED")
    assert {type(end) for end in outcome.values()} == {cardprod.CardNotFound}


async def test_lifetime_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe's open batch follows cards that come while it runs, and ends when no more will."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "asyncio": asyncio}
    exec(_recipe("follow_all", _CLIENT), namespace)  # noqa: S102 - our own recipe

    async def new_cards() -> AsyncGenerator[tuple[int, str]]:
        for number in range(3):
            yield (123456, f"card-{number}")
            await asyncio.sleep(60)

    async with _wise_is_a_kiosk(), cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
        await namespace["follow_all"](client, new_cards())
    assert capsys.readouterr().out.count("PRODUCED") == 3


@pytest.mark.looptime(False)  # another process waits, in real time
async def test_stoppable_recipe(tmp_path: Path) -> None:
    """The program for a list is stopped by SIGTERM, Ctrl-C and a refused token; run again it goes on, and ends."""
    program, ends = tmp_path / "ends.py", tmp_path / "ends.csv"
    program.write_text(_recipe("signal.SIGTERM", _CLIENT))
    tokens = [f"card-{number}" for number in range(4)]
    (tmp_path / "cards.csv").write_text("\n".join([*(f"123456,{token}" for token in tokens), "no card"]))

    async def run(until_lines: int, stop: signal.Signals | None, *, token: str | None = None) -> tuple[int, str]:
        env = {**os.environ, "CARDPROD_BASE_URL": kiosk.base_url, "CARDPROD_TOKEN": token or kiosk.token}
        command = [sys.executable, str(program), "cards.csv", "ends.csv"]
        with Child(*command, env={**env, "PYTHONPATH": str(_ROOT)}, cwd=tmp_path) as child:
            await until("its lines", lambda: len(child.lines), lambda count: count >= until_lines, child=child)
            if stop is not None:
                child.send(stop)
            assert await child.until_end() is not None
            assert "cards.csv:5: " in child.err
            return child.exit_code or 0, child.err

    def statuses() -> list[str]:
        return [row[2] for row in csv.reader(ends.read_text().splitlines()[1:])]

    async with Simulator() as kiosk:
        cards = [kiosk.add((123456, token), "never") for token in tokens[1:]]
        exit_code, err = await run(4, signal.SIGTERM)
        assert (exit_code, statuses()) == (143, ["CardNotFound"]), err
        kiosk.start(cards[0])
        kiosk.finish(cards[0])
        exit_code, err = await run(4, signal.SIGINT)
        assert (exit_code, sorted(statuses())) == (130, ["CardNotFound", "PRODUCED"]), err
        exit_code, err = await run(0, None, token="another")
        assert (exit_code, statuses()) == (1, ["PRODUCED"]), err
        assert "cardprod.errors.Unauthorized: " in err
        for card in [kiosk.add((123456, tokens[0]), "never"), *cards[1:]]:
            kiosk.start(card)
            kiosk.finish(card)
        requests = len(kiosk.requests)
        exit_code, err = await run(0, None)
        assert (exit_code, statuses()) == (1, ["PRODUCED"] * 4), err  # a row is no card
        with ends.open(newline="") as file:
            known = [row for row in read_cards(file) if isinstance(row, KnownCard) and row.after.is_produced]
        assert {card.card_token for card in known} == {*tokens}
        assert len(kiosk.requests) == requests + 3  # what has ended is not asked for


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


async def test_fastapi_recipe(caplog: pytest.LogCaptureFixture) -> None:
    """The README's app answers 202 with the last state after 20 s, 200 at the end, and takes the kiosk's webhooks.

    It answers 404 for a card there is not, 400 with the reason for an odd one, and 504 where no answer came at all.
    """
    namespace: dict[str, Any] = {"__name__": "recipe"}
    exec(_recipe("FastAPI(lifespan"), namespace)  # noqa: S102 - our own recipe
    async with (
        _wise_is_a_kiosk(None) as kiosk,
        _served(namespace["app"]) as url,
        aiohttp.ClientSession(url) as browser,
    ):
        async with browser.post("/wise", data=b"{}", headers={"X-Signature-SHA256": "AAAA"}) as answer:
            assert answer.status == 400
        for token, status in _ODD_TOKENS.items():
            async with browser.get(URL(f"/cards/{token}", encoded=True)) as answer:
                assert answer.status == status or (token == "a%2Fb" and answer.status == 404), token
                if answer.status == 400:
                    assert "card_token must be " in (await answer.json())["error"]
        kiosk.fail_next(Fault.too_many_requests(60))
        async with asyncio.timeout(_ENOUGH), browser.get("/cards/my-card") as answer:
            assert (answer.status, await answer.json()) == (504, {"error": "WaitTimeout"})
        assert "requests are paused for " in caplog.text
        namespace["app"].state.client.resume_requests()
        namespace["VERIFIER"] = Verifier(kiosk.public_key)
        for seed in range(4):
            kiosk.subscribe(Subscription(url=f"{url}/wise", seed=seed, **_ROUGH))  # type: ignore[arg-type]
        assert await kiosk.send_tests() == [200] * 4
        kiosk.add((123456, "my-card"), _PRINTED)
        answers: list[Any] = []
        while not answers or answers[-1][0] == 202:
            async with asyncio.timeout(_ENOUGH), browser.get("/cards/my-card") as answer:
                answers.append((answer.status, await answer.json()))
        assert answers[0] == (202, {"status": "READY", "error": None})
        assert answers[-1] == (200, {"status": "PRODUCED", "error": None})
        assert 6 <= len(answers) <= 8
        assert {delivery.http_status for delivery in kiosk.deliveries} == {200}
        client = namespace["app"].state.client
    with pytest.raises(cardprod.UsageError, match="closed"):
        await client.get_status(*CARD)


async def test_server_sent_events_recipe() -> None:
    """The recipe streams each transition, an error as an event, and in both cases that it has ended."""
    namespace: dict[str, Any] = {"__name__": "recipe"}
    exec(_recipe("FastAPI(lifespan"), namespace)  # noqa: S102 - our own recipe
    exec(_recipe("StreamingResponse(events", _CLIENT), namespace)  # noqa: S102 - our own recipe
    async with (
        _wise_is_a_kiosk(None) as kiosk,
        _served(namespace["app"]) as url,
        aiohttp.ClientSession(url) as browser,
    ):
        kiosk.add((123456, "my-card"), "jams")
        async with browser.get("/cards/my-card/steps") as stream:
            assert stream.content_type == "text/event-stream"
            events = (await stream.text()).split("\n\n")
        shown = [json.loads(event.removeprefix("data: ")) for event in events[:3]]
        assert [step["status"] for step in shown] == ["READY", "IN_PROGRESS", "PRODUCTION_ERROR"]
        assert shown[-1]["error"] == "Production error: feeder card jam"
        assert events[3:] == ["event: end\ndata: end", ""]
        async with browser.get("/cards/no-such-card/steps") as stream:
            assert await stream.text() == "event: failed\ndata: CardNotFound\n\nevent: end\ndata: end\n\n"
        async with browser.get(URL("/cards/%00/steps", encoded=True)) as answer:
            assert answer.status == 400  # a browser does not connect again after that
        kiosk.add(CARD, "never")
        async with browser.get(f"/cards/{CARD.card_token}/steps") as stream:
            assert json.loads((await stream.content.readline())[6:])["status"] == "READY"
        await asyncio.sleep(5)  # the browser has gone, and uvicorn finds out
        assert namespace["app"].state.client.notify(event_of(CARD, "PRODUCED")) == 0


@pytest.mark.slow
@pytest.mark.looptime(False)  # a browser goes by real time
async def test_server_sent_events_in_a_browser() -> None:
    """The recipe's page shows transitions, and closes its side at the end: it does not connect again."""
    pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[browser]'")
    browsers = importlib.import_module("tests.simulator.browser")
    if browsers.browser_programs() is None:
        pytest.skip("Chromium or chromedriver is not installed")
    namespace: dict[str, Any] = {"__name__": "recipe"}
    exec(_recipe("FastAPI(lifespan"), namespace)  # noqa: S102 - our own recipe
    exec(_recipe("StreamingResponse(events", _CLIENT), namespace)  # noqa: S102 - our own recipe
    [page] = re.findall(r"```html\n(.*?)```", sys.modules["cardprod.client"].__doc__ or "", re.DOTALL)
    namespace["app"].add_api_route("/", lambda: HTMLResponse(f"<!doctype html>{page}"))

    def watch(url: str) -> tuple[int, list[str]]:
        with browsers.Browser() as browser:
            browser.open(url)
            browser.wait_for(lambda: browser.run("return source.readyState === EventSource.CLOSED"), "the end")
            streams = "return performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/steps'))"
            return len(browser.run(streams)), browser.complaints()

    async with _wise_is_a_kiosk(_SOON), _served(namespace["app"]) as url:
        connections, console = await asyncio.to_thread(watch, url)
    assert connections == 1
    assert all(any(status in line for line in console) for status in ("READY", "PRODUCED"))


async def test_aiohttp_webhook_recipe() -> None:
    """The endpoint for aiohttp.web takes the kiosk's webhooks, and refuses what it has not signed."""
    namespace: dict[str, Any] = {"__name__": "recipe"}
    exec(_recipe("await request.read()", _WEBHOOKS), namespace)  # noqa: S102 - our own recipe
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
        seen = [(step.current.status, step.source) async for step in wait]
        assert seen == [("READY", "poll"), ("IN_PROGRESS", "webhook"), ("PRODUCED", "webhook")]


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
    """By the recipe's lines a delivery that one process got ends a wait in another, and no forged one does."""
    recipe = _recipe("pg_notify", _WEBHOOKS)
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


_TESTS_OF_APPS = {
    "test_readme.py": ("import pytest\n", None),
    "test_testing.py": ("test_a_jam", _TESTING),
    "test_endpoint.py": ("import uvicorn", _TESTING),
}


def test_pytest_recipes(tmp_path: Path) -> None:
    """The tests of a user's own app pass under pytest with pytest-asyncio, outside this project."""
    sources = {name: _recipe(words, page) for name, (words, page) in _TESTS_OF_APPS.items()}
    finished = _run_pytest(tmp_path, sources, _recipe("FastAPI(lifespan"))
    assert finished.exit_code == 0, finished.out
    assert {*re.findall(r"^(\w+\.py)::\w+ PASSED", finished.out, re.MULTILINE)} == {*_TESTS_OF_APPS}


def test_endpoint_recipe_can_fail(tmp_path: Path) -> None:
    """The test of an app's webhooks fails if the app refuses them all."""
    source = _recipe("import uvicorn", _TESTING).replace("Verifier(kiosk.public_key)", "Verifier.for_production()")
    app = _recipe("FastAPI(lifespan").replace("timeout=20", "timeout=1")
    finished = _run_pytest(tmp_path, {"test_endpoint.py": source}, app)
    assert (finished.exit_code, "'READY' == 'PRODUCED'" in finished.out) == (1, True), finished.out


def _run_pytest(folder: Path, sources: dict[str, str], app: str) -> Finished:
    for name, source in {**sources, "app.py": app}.items():
        (folder / name).write_text(source)
    # Only the plugins that the recipes need: others that happen to be installed take longer to load than they to run.
    plugins = ["-p", "pytest_asyncio.plugin", "-p", "cardprod.testing"]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *plugins]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": f"{_ROOT}{os.pathsep}{folder}"}
    return run_program(*command, *sources, cwd=folder, env=env, check=False)


# --- Waits that outlive a process ---

_SOON = [Stage("READY", 0.3), Stage("IN_PROGRESS", 0.3), Stage("PRODUCED")]
_ENOUGH = 60
"""Seconds, of virtual time, in which a job engine must have come to the end."""
_QUICK = cardprod.Backoff(first=0.1, factor=1, ceiling=0.1)


def _saved(kiosk: Simulator, plan: Plan = _SOON) -> str:
    return cardprod.Checkpoint.for_cards([kiosk.add(CARD, plan)], schedule=_QUICK).to_json()


def _printed_statuses(out: str) -> list[str]:
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
    """The recipe's parts submit a card, store its steps in a table of their own, and report its end."""
    namespace: dict[str, Any] = {"__name__": "cards"}
    async with _wise_is_a_kiosk() as kiosk:
        exec(_recipe("async def submit(", _DURABLE), namespace)  # noqa: S102 - our own recipe
        namespace["DATABASE"] = postgres
        batch = await namespace["submit"]([kiosk.add(CARD, "never")])
        assert capsys.readouterr().out == f"python cards.py report {batch}\n"
        working = asyncio.create_task(namespace["work"]())
        printed = await _printed(capsys, kiosk)
        working.cancel()
        await asyncio.wait([working], timeout=LIMIT)
        await namespace["report"](batch)
    assert printed == _STATUSES
    assert f"{CARD} PRODUCED at WIS00001" in capsys.readouterr().out
    async with await psycopg.AsyncConnection.connect(postgres) as connection:
        rows = await (await connection.execute("SELECT status FROM steps ORDER BY key")).fetchall()
        await connection.execute("DROP TABLE steps")
    assert [status for (status,) in rows] == _STATUSES


@pytest.mark.looptime(False)
async def test_durable_webhooks_recipe(postgres: str) -> None:
    """The recipe's endpoint takes a kiosk's webhooks for waits whose worker is elsewhere, and refuses forged ones."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "__name__": "recipe"}
    for words in ("async def submit(", "async def with_database"):
        exec(_recipe(words, _DURABLE), namespace)  # noqa: S102 - our own recipe
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
    """The job for arq enqueues itself until the card is final; a list stands in for arq's Redis."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    exec(_recipe("enqueue_job", _DURABLE), namespace)  # noqa: S102 - our own recipe
    jobs: list[tuple[Any, ...]] = []

    class Pool:
        async def enqueue_job(self, name: str, saved: str, *, _defer_until: datetime) -> None:
            jobs.append((name, saved, _defer_until))

    settings = namespace["WorkerSettings"]
    ctx: dict[str, Any] = {"redis": Pool()}
    with _wall_clock_of_the_loop():
        async with _wise_is_a_kiosk() as kiosk:
            await settings.on_startup(ctx)
            [sweep] = settings.functions
            await sweep(ctx, _saved(kiosk))
            async with asyncio.timeout(_ENOUGH):
                while jobs:
                    name, saved, at = jobs.pop()
                    assert name == sweep.__name__
                    await asyncio.sleep(at.timestamp() - checkpoint.wall_clock())
                    await sweep(ctx, saved)
            await settings.on_shutdown(ctx)
    assert _printed_statuses(capsys.readouterr().out) == _STATUSES


@pytest.mark.looptime(False)
async def test_saq_recipe(postgres_server: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    """The job for SAQ enqueues itself until the card is final, in a real worker on PostgreSQL."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    for words in ("class WorkerSettings", "async def sweep_in_saq"):
        exec(_recipe(words, _DURABLE), namespace)  # noqa: S102 - our own recipe
    saq: Any = pytest.importorskip("saq", reason="saq is not installed: pip install -e '.[recipes]'")
    name = postgres_server.new_database().rpartition("=")[2]
    queue = saq.Queue.from_url(f"postgresql://tester@/{name}?host={postgres_server.directory}")
    await queue.connect()
    async with _wise_is_a_kiosk() as kiosk:
        timers: Any = {"schedule": 0.05}  # not once a second
        settings = await namespace["first_job_in_saq"](queue, _saved(kiosk, "never"))
        worker = saq.Worker(queue, concurrency=1, timers=timers, **settings)
        working = asyncio.create_task(worker.start())
        assert await _printed(capsys, kiosk, is_short=True) == ["READY", "PRODUCED"]
        await worker.stop()
        working.cancel()
        await asyncio.wait([working], timeout=LIMIT)
    await queue.disconnect()


class _Schedules:
    """What stands in for taskiq-redis's schedule source."""

    def __init__(self, url: str) -> None:
        self.planned: list[Any] = []

    async def add_schedule(self, schedule: Any) -> None:
        """Plan a job."""
        self.planned.append(schedule)


def _stand_in_for_taskiq_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a broker and a schedule source in memory where taskiq-redis, which needs a Redis, would be."""
    if find_spec("taskiq") is not None:
        taskiq: Any = importlib.import_module("taskiq")
        module: Any = ModuleType("taskiq_redis")
        module.ListRedisScheduleSource = _Schedules

        def broker(url: str) -> Any:
            return taskiq.InMemoryBroker()

        module.RedisStreamBroker = broker
        monkeypatch.setitem(sys.modules, "taskiq_redis", module)


async def test_taskiq_recipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The task for taskiq schedules itself until the card is final, with brokers in memory; its client is closed."""
    _stand_in_for_taskiq_redis(monkeypatch)
    namespace: dict[str, Any] = {"__name__": __name__}
    with _wall_clock_of_the_loop():
        async with _wise_is_a_kiosk() as kiosk:
            exec(_recipe("sweep_in_taskiq", _DURABLE), namespace)  # noqa: S102 - our own recipe
            broker, task, planned = namespace["broker"], namespace["sweep_in_taskiq"], namespace["schedules"].planned
            await broker.startup()
            await (await task.kiq(_saved(kiosk))).wait_result()
            async with asyncio.timeout(_ENOUGH):
                while planned:
                    schedule = planned.pop()
                    await asyncio.sleep(schedule.time.timestamp() - checkpoint.wall_clock())
                    await (await task.kiq(*schedule.args)).wait_result()
            client = broker.state.client
            await broker.shutdown()
            with pytest.raises(cardprod.UsageError, match="closed"):
                await client.get_status(*CARD)
    assert _printed_statuses(capsys.readouterr().out) == _STATUSES


@pytest.mark.slow
@pytest.mark.looptime(False)
@pytest.mark.filterwarnings("ignore")  # Celery's own
async def test_celery_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The task for Celery retries itself until the card is final, in a real worker with a broker in memory."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    recipe = _recipe("sweep_in_celery", _DURABLE)  # before anything of Celery's: this skips where it is not installed
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
    """The activity for Temporal sweeps in Temporal's test environment; its workflow would need a server."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "__name__": __name__}
    exec(_recipe("temporalio", _DURABLE), namespace)  # noqa: S102 - our own recipe
    testing: Any = importlib.import_module("temporalio.testing")
    with _wall_clock_of_the_loop():
        async with _wise_is_a_kiosk() as kiosk, cardprod.Client("x", base_url=kiosk.base_url) as client:
            sweep_once = namespace["Activities"](client).sweep_once
            saved, at = _saved(kiosk), checkpoint.wall_clock()
            async with asyncio.timeout(_ENOUGH):
                while at:
                    saved, at = await testing.ActivityEnvironment().run(sweep_once, saved)
                    if at:
                        await asyncio.sleep(at - checkpoint.wall_clock())
    assert _printed_statuses(capsys.readouterr().out) == _STATUSES
    assert cardprod.Checkpoint.from_json(saved).is_done
