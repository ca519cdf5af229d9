"""What every test gets: virtual time, a simulator on loopback, the options of the run, PostgreSQL on demand."""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol
from unittest import mock

import aiohttp
import psycopg
import pytest
from aioresponses import aioresponses
from hypothesis import settings

import cardprod
from cardprod.durable.schema import migration_script
from cardprod.durable.settings import Settings
from cardprod.simulator import Simulator
from tests.durable.postgres import EMPTY, Postgres, postgres_programs, running_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

# looptime asks for the current loop before every test; without this, asyncio would make one for a test that has none,
# and leave it open.
asyncio.set_event_loop(None)

# Let bytecode be written, also where the environment says not to: README's command has pip compile nothing, so each
# process that a test starts would compile for a second all that it imports.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The same examples in every run, so that a failure comes from the change. The full size draws new ones.
settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("full", max_examples=500, deadline=None, print_blob=True)


# --- The options of a run ---


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of CI."""
    group = parser.getgroup("cardprod")
    group.addoption("--full-size", action="store_true", help="Run with the full number of cards, waits and examples.")
    group.addoption("--slow", action="store_true", help="Run also the tests that are slow, as nothing fast would do.")
    group.addoption("--only-sized", action="store_true", help="Leave out what is as large, and fast, without it.")
    group.addoption("--examples", type=int, metavar="N", help="Try so many new examples of each property.")
    group.addoption("--no-skips", action="store_true", help="Fail where a test is skipped for want of something.")


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples Hypothesis tries, and describe the markers."""
    config.addinivalue_line("markers", "slow: runs with --slow only, in one job of CI.")
    config.addinivalue_line("markers", "seeds(small, full): run with so many values of `seed`, small or full size.")
    profile = "full" if config.getoption("--full-size") else "quick"
    examples = config.getoption("--examples")
    if examples is not None:
        profile = "examples"
        settings.register_profile(profile, settings.get_profile("full"), max_examples=examples)
    settings.load_profile(profile)


@pytest.hookimpl(trylast=True)  # after Hypothesis has marked its tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep slow tests only with `--slow` or `--full-size`, and with `--only-sized` only those that these two change."""
    left_out = [
        item
        for item in items
        if (item.get_closest_marker("slow") and not (config.getoption("--slow") or config.getoption("--full-size")))
        or (config.getoption("--only-sized") and not _has_sizes(item) and not item.get_closest_marker("slow"))
    ]
    gone = {*left_out}
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in gone]


def _has_sizes(item: pytest.Item) -> bool:
    fixtures = item.fixturenames if isinstance(item, pytest.Function) else []
    return "full_size" in fixtures or any(item.get_closest_marker(name) for name in ("seeds", "hypothesis"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that is marked with `seeds` its seeds."""
    for marker in metafunc.definition.iter_markers("seeds"):
        small, full = marker.args
        metafunc.parametrize("seed", range(full if metafunc.config.getoption("--full-size") else small))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skipped test a failed one with `--no-skips`."""
    report = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, although the run has --no-skips: {call.excinfo and call.excinfo.value}"
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker that is free the next test, or all those that share a browser, which takes seconds to start.

    The option and the marks that pytest-xdist 3.8 has for this change nothing with pytest 9.2.
    """
    browser = "tests/simulator/test_browser.py"

    def group_of(nodeid: str) -> str:
        return browser if nodeid.startswith(browser) else nodeid

    scheduling = importlib.import_module("xdist.scheduler").LoadScopeScheduling(config, log)
    scheduling._split_scope = group_of
    return scheduling


@pytest.fixture(autouse=True, scope="module")
def small_heap() -> None:
    """Take what there is by now out of garbage collections, of which tests ask for many: 1 ms each instead of 100."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def full_size(request: pytest.FixtureRequest) -> bool:
    """Whether a test runs at full size, or at the size that is quick enough for each run."""
    return bool(request.config.getoption("--full-size"))


# --- Virtual time ---


def pytest_itemcollected(item: pytest.Item) -> None:
    """Virtual time jumps after the loop was idle 5 times: the 42 of looptime cost more CPU and change no result."""
    item.add_marker(pytest.mark.looptime(noop_cycles=5))


def _monotonic() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # a connector that is closed after its loop
        return time.monotonic()


@pytest.fixture(autouse=True, scope="session")
def pool_ages_in_virtual_time() -> Iterator[None]:
    """Let aiohttp's connection pool, which takes the time from `time.monotonic`, take it from the event loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aiohttp.connector.monotonic", _monotonic)
        yield


def _no_frames(_: object) -> Iterator[Any]:
    return iter(())


@pytest.fixture(autouse=True, scope="session")
def no_stacks_in_debug_mode(pytestconfig: pytest.Config) -> Iterator[None]:
    """Let asyncio's debug mode not keep the stack of where each future was made: these cost as much as all tests."""
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.getini("asyncio_debug"):
            patch.setattr("traceback.walk_stack", _no_frames)
        yield


# --- A simulator and its client ---


@pytest.fixture
async def kiosk() -> AsyncIterator[Simulator]:
    """A kiosk on loopback, in the test's own event loop and so in its virtual time."""
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def client(kiosk: Simulator) -> AsyncIterator[cardprod.Client]:
    """A client of the kiosk, with default settings."""
    async with cardprod.Client(kiosk.token, base_url=kiosk.base_url) as client:
        yield client


@pytest.fixture
def environment(kiosk: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a command that asks the kiosk."""
    monkeypatch.setenv("CARDPROD_TOKEN", kiosk.token)
    monkeypatch.setenv("CARDPROD_BASE_URL", kiosk.base_url)


# --- PostgreSQL ---


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server of the tests' own; skips where PostgreSQL is not installed."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on the path or under /usr/lib/postgresql")
    with running_postgres(programs) as server:
        yield server


@pytest.fixture(scope="session")
def tables(postgres_server: Postgres) -> str:
    """A database with the tables of durable waits, for one test after the other: making one takes longer than most."""
    database = postgres_server.new_database()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(migration_script(Settings()).encode())
    return database


@pytest.fixture
def postgres(tables: str) -> str:
    """A database on that server with the tables of durable waits, in which a test may change rows alone."""
    with psycopg.connect(tables, autocommit=True) as connection:
        connection.execute(EMPTY.encode())
    return tables


@pytest.fixture
def empty_postgres(postgres_server: Postgres) -> Iterator[str]:
    """A new database on that server without any tables, in which a test may change everything."""
    database = postgres_server.new_database()
    yield database
    postgres_server.drop_database(database)


# --- Scripted replies, without a server ---


class _Reply(aiohttp.ClientResponse):
    """What lets aioresponses 0.7.9 work on aiohttp 3.14, whose responses require a `stream_writer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters:
            kwargs["stream_writer"] = mock.Mock()
        super().__init__(*args, **kwargs)


class Script(Protocol):
    """Scripts the next reply to a GET of a URL."""

    def __call__(self, url: str, *, status: int = 200, body: str = "") -> None:
        """Reply so to the next GET of this URL that has no reply yet."""
        ...


@pytest.fixture
def script() -> Iterator[Script]:
    """Reply to aiohttp's requests from a script, without any network."""
    replies: Any = aioresponses()  # its own annotations are incomplete
    with replies:

        def reply(url: str, *, status: int = 200, body: str = "") -> None:
            replies.get(url, status=status, body=body, response_class=_Reply)

        yield reply
