"""What every test gets: virtual time (looptime, in pyproject.toml), a kiosk on loopback, a search for left-overs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import tempfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from unittest import mock

import aiohttp
import pytest
from aioresponses import aioresponses
from hypothesis import settings

import cardprod
from cardprod.simulator import Simulator
from tests.postgres import Postgres, postgres_programs

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
    from typing import Self

CARD = cardprod.Card(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")

# looptime asks for the current loop before every test; without this, asyncio would make one for a test that has none,
# and nobody would close it.
asyncio.set_event_loop(None)

settings.register_profile("quick", max_examples=200, deadline=None)
settings.register_profile("thorough", max_examples=100_000, deadline=None)
settings.load_profile(os.environ.get("CARDPROD_HYPOTHESIS", "quick"))


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
    """The environment of somebody who asks the kiosk with the command."""
    monkeypatch.setenv("CARDPROD_TOKEN", kiosk.token)
    monkeypatch.setenv("CARDPROD_BASE_URL", kiosk.base_url)


def event_of(
    card: cardprod.Card, status: str, *, occurred_at: datetime | None = None, sent_at: datetime | None = None
) -> cardprod.ProductionEvent:
    """Make what a delivery tells of a card, sent just now unless told."""
    told = cardprod.ProductionStatus(status, kiosk_id="WIS00001", occurred_at=occurred_at)
    return cardprod.ProductionEvent(card=card, status=told, sent_at=sent_at or datetime.now(UTC))


@contextlib.contextmanager
def wall_clock_of_the_loop() -> Generator[None]:
    """Let the wall's clock, as checkpoints have it, go by the event loop's virtual time, which begins at noon."""

    def now() -> datetime:
        return datetime(2026, 11, 24, 12, tzinfo=UTC) + timedelta(seconds=asyncio.get_running_loop().time())

    with pytest.MonkeyPatch.context() as patch:
        for room in ("checkpoint", "sharing", "wait", "bulk", "sweep"):
            patch.setattr(f"cardprod.{room}.wall_clock", now)
        yield


async def assert_nothing_left(*, but: int = 0) -> None:
    """Check that no task is left in the running loop but the caller's, and `but` more that the test knows of."""
    for _ in range(10):  # closed connections take a few turns of the loop to go
        await asyncio.sleep(0)
    gc.collect()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert len(others) <= but, others


def assert_idle(client: cardprod.Client) -> None:
    """Check that nothing of the client's is under way: no exchange, no place taken, no queued turn, no connection."""
    # No user can see these, and a left-over is just what no user would see either.
    transport: Any = client._transport  # pyright: ignore[reportPrivateUsage]
    assert not transport._cutoff._under_way
    assert not transport._cutoff._cut_off
    assert [turn for turn in transport._turnstile._queue if not turn.done()] == []
    if transport._channel is not None and transport._channel.session.connector is not None:
        assert not transport._channel.session.connector._acquired


# --- PostgreSQL ---


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server of the tests' own; skips where PostgreSQL is not installed."""
    programs = postgres_programs()
    if programs is None:
        if "CARDPROD_NEED_POSTGRES" in os.environ:
            pytest.fail("PostgreSQL is not installed, and CARDPROD_NEED_POSTGRES says that it must be")
        pytest.skip("PostgreSQL is not installed: no initdb on the path or under /usr/lib/postgresql")
    with tempfile.TemporaryDirectory(prefix="pg") as directory:
        server = Postgres(directory, programs)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def postgres(postgres_server: Postgres) -> str:
    """A new database on that server, by its connection string."""
    return postgres_server.new_database()


# --- A server that answers with whatever bytes a test wants ---


def http_answer(http_status: int = 200, body: str = '{"status":"READY"}', **headers: str) -> bytes:
    """Write an HTTP answer by hand; `Retry_After="5"` makes a `Retry-After: 5`."""
    lines = [f"HTTP/1.1 {http_status} Whatever", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", body]).encode()


class RawServer:
    """A server on loopback that lets `answer` write, once for each request, to the connection it came by."""

    def __init__(
        self, answer: Callable[[asyncio.StreamWriter], Awaitable[None]], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._answer = answer
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()
        self.base_url = ""
        self.heads: list[str] = []
        """The head of each request, as it came."""
        self.times: list[float] = []
        """When each request came, on the loop's clock."""

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._serving)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"{'http' if self._tls is None else 'https'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.sleep(0.01)  # closed transports take a few turns of the loop to go

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with contextlib.suppress(OSError, EOFError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    self.heads.append(head.decode())
                    self.times.append(asyncio.get_running_loop().time())
                    await self._answer(writer)
                    await writer.drain()
        finally:
            self._serving.discard(task)
            writer.transport.abort()


# --- Scripted replies, without a server ---


class _Reply(aiohttp.ClientResponse):
    """What lets aioresponses 0.7.9 work on aiohttp 3.14, whose answers want to be told the `stream_writer`."""

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
