"""No secret gets out: every path is driven with canaries for tokens and secrets, and whatever comes out is searched."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import html
import itertools
import json
import logging
import pickle
import re
import socket
import ssl
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import attrs
import pytest
import trustme
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import cardprod
from cardprod import cli
from cardprod.otel import instrument
from cardprod.simulator import Fault, LoggedRequest, Simulator
from tests.cli.commands import output_of, run
from tests.fast_path import go_without
from tests.raw_server import RawServer, http_answer
from tests.table import Table, pairwise_rows
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator

_BEARER = "bearer-canary-5b1d7f9e2c"
_SOURCED = "sourced-canary-0e4c6a8b1d"
_ACCESS = "access-canary-9a7c5e3b1f"
_REFRESH = "refresh-canary-2d4f6b8a0c"
_CLIENT_SECRET = "client-secret-canary-7e9b1d3f5a"
_NEW_ACCESS = "new-access-canary-4c6e8a0b2d"
_NEW_REFRESH = "new-refresh-canary-1f3d5b7c9e"
_BASIC = base64.b64encode(f"client-id:{_CLIENT_SECRET}".encode()).decode()
_SECRETS = [_BEARER, _SOURCED, _ACCESS, _REFRESH, _CLIENT_SECRET, _NEW_ACCESS, _NEW_REFRESH, _BASIC]
_CARD = cardprod.Card(123456, "card-token-canary-" + "0123456789" * 6)


class _Spill:
    """Everything that came out, as text, under the name of the place it came from.

    Args:
        collect: Takes what other people collect: log records, output, warnings.
        clear: Clears what was collected.
    """

    def __init__(
        self, collect: Callable[[_Spill], None] | None = None, redact: Callable[[], None] | None = None
    ) -> None:
        self.texts: list[tuple[str, str]] = []
        self.logs: list[tuple[str, str]] = []
        self._collect = collect
        self._forget = redact
        self.is_checked = False

    def check(self) -> None:
        """Search everything that came out until now."""
        if self._collect is not None:
            self._collect(self)
        self.is_checked = True
        assert self.texts
        assert self.leaks() == []

    @contextlib.contextmanager
    def checked(self) -> Generator[None]:
        """Search what comes out of the block, and nothing else."""
        if self._forget is not None:
            self._forget()
        self.texts, self.logs = [], []
        yield
        self.check()

    def take(self, where: str, *things: object) -> None:
        """Take what would be printed of things."""
        self.texts += [(where, text) for thing in things for text in (str(thing), repr(thing), f"{thing}")]

    def take_error(self, error: BaseException) -> None:
        """Take all that an error shows, and each error it comes from, and what they carry."""
        seen: set[int] = set()
        queue: list[object] = [error]
        depth = {id(error): 0}
        while queue:
            thing = queue.pop()
            if id(thing) in seen:
                continue
            seen.add(id(thing))
            where = f"{type(error).__name__}: {type(thing).__name__}"
            self.take(where, thing)
            carried: list[object] = list(getattr(thing, "__dict__", {}).values())
            if isinstance(thing, BaseException):
                self.take(where, thing.args, vars(thing), getattr(thing, "__notes__", None))
                self.take(where, "".join(traceback.format_exception(thing)))
                self._take_frames(where, thing)
                with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
                    self.take(where, pickle.dumps(thing, 0).decode("latin-1"))
                carried += [*thing.args, thing.__cause__, thing.__context__]
            if depth[id(thing)] < 4:
                for other in carried:
                    depth.setdefault(id(other), depth[id(thing)] + 1)
                    queue.append(other)

    def _take_frames(self, where: str, error: BaseException) -> None:
        """Take the local variables of every frame but the tests' own, as error reporters collect them."""
        for frame, _ in traceback.walk_tb(error.__traceback__):
            file = Path(frame.f_code.co_filename)
            # A card's frames hold what the caller passed for a card, and so does the caller's own.
            if (
                file.is_relative_to(Path(__file__).parents[1])
                or file.name == "card.py"
                or "attrs generated" in file.name
            ):
                continue
            for name, value in frame.f_locals.items():
                shown = value.decode("latin-1") if isinstance(value, bytes | bytearray) else value
                self.take(f"{where}: {frame.f_code.co_qualname}: {name}", shown)

    def take_records(self, records: Iterable[logging.LogRecord]) -> None:
        """Take log records: as they are printed, and all they carry."""
        for record in records:
            where = f"log of {record.name}"
            for text in (
                record.getMessage(),
                str(record.msg),
                *map(str, record.args if isinstance(record.args, tuple) else [record.args]),
                *(f"{name}={value} {value!r}" for name, value in vars(record).items() if name not in {"args", "msg"}),
                logging.Formatter("%(message)s").format(record),
            ):
                self.logs.append((where, text))

    def leaks(self) -> list[str]:
        """Return what should not have come out."""
        found = [
            f"{secret} in {where}" for secret in _SECRETS for where, text in self.texts + self.logs if secret in text
        ]
        return sorted({*found, *(f"card token in {where}" for where, text in self.logs if _CARD.card_token in text)})


@pytest.fixture
def spill(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> Iterator[_Spill]:
    """Collects what comes out of a test, and searches it when the test says so."""
    for name in (None, "asyncio", "aiohttp", "cardprod"):
        caplog.set_level(logging.DEBUG, name)

    def collect(spill: _Spill) -> None:
        spill.take_records(caplog.records)
        spill.take("stdout and stderr", *capfd.readouterr())
        spill.take("warnings", *(warning.message for warning in recwarn))

    def clear() -> None:
        caplog.clear()
        capfd.readouterr()
        recwarn.clear()

    spill = _Spill(collect, clear)
    yield spill
    assert spill.is_checked


@attrs.define
class _Seen:
    """What OpenTelemetry saw."""

    spans: InMemorySpanExporter = attrs.Factory(InMemorySpanExporter)
    metrics: InMemoryMetricReader = attrs.Factory(InMemoryMetricReader)

    def instrument(self, client: cardprod.Client) -> None:
        """Instrument a client."""
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        meters = MeterProvider([self.metrics], shutdown_on_exit=False)
        instrument(client, tracer_provider=provider, meter_provider=meters)

    def add_to(self, spill: _Spill) -> None:
        """Add it to what is searched. Spans and metrics are sent on like logs: they have no whole card token either."""
        for span in self.spans.get_finished_spans():
            spill.logs.append(("span", span.to_json()))
        data = self.metrics.get_metrics_data()
        if data is not None:
            spill.logs.append(("metrics", data.to_json()))


class _EchoServer(RawServer):
    """A server that is shown each whole request, its body too, and answers with any bytes."""

    def __init__(self, answer: Callable[[str], bytes], *, tls: ssl.SSLContext | None = None) -> None:
        async def reply(writer: asyncio.StreamWriter) -> None:
            writer.write(answer(self.heads[-1] + self.bodies[-1]))

        super().__init__(reply, tls=tls)


def _authorization(request: str) -> str:
    return next(line.partition(" ")[2] for line in request.splitlines() if line.lower().startswith("authorization:"))


_Echo = tuple[str, str]

_ECHOES: dict[str, Callable[[str], _Echo]] = {
    "text": lambda request: ("text/plain", request),
    "html": lambda request: ("text/html", f"<pre>{html.escape(request)}</pre>"),
    "oauth": lambda request: (
        "application/json",
        json.dumps({"error": _authorization(request), "error_description": request}),
    ),
    "problem": lambda request: (
        "application/json",
        json.dumps({"code": _authorization(request), "title": request, "detail": request}),
    ),
    "errors": lambda request: (
        "application/json",
        json.dumps({"errors": [{"code": _authorization(request), "message": request, "path": request}]}),
    ),
    "form": lambda request: ("text/plain", f"what you sent: {request.partition(chr(13) + chr(10) * 1)[2][-200:]}"),
}


def _echo(http_status: int, kind: str, *, with_trace: bool = False) -> Callable[[str], bytes]:
    def answer(request: str) -> bytes:
        content_type, body = _ECHOES[kind](request)
        headers = {"x_trace_id": _authorization(request)} if with_trace else {}
        return http_answer(http_status, body, Content_Type=content_type, **headers)

    return answer


async def _collect(spill: _Spill, doing: Awaitable[object], *shown: object) -> BaseException | None:
    """Do it, and collect what it returns or raises, and the repr of things after it."""
    try:
        spill.take("result", await doing)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is searched
        spill.take_error(error)
        return error
    finally:
        spill.take("repr", *shown)
    return None


def _oauth(base_url: str, **more: Any) -> cardprod.OAuthToken:
    refresh_token = more.pop("refresh_token", _REFRESH)
    return cardprod.OAuthToken("client-id", _CLIENT_SECRET, refresh_token, base_url=base_url, **more)


async def _sourced() -> str:
    return _SOURCED


async def _drive(spill: _Spill, token: Any, base_url: str, **more: Any) -> list[BaseException | None]:
    """Poll once, wait, and iterate, with every kind of telemetry."""
    seen = _Seen()
    card = (_CARD.profile_id, _CARD.card_token)
    async with cardprod.Client(token, base_url=base_url, rate_limit=None, request_timeout=5, **more) as client:
        seen.instrument(client)
        wait = client.wait_until_final(*card, timeout=30, max_failures=2)
        steps = client.wait_until_final(*card, timeout=30, max_failures=2)

        async def iterate() -> None:
            async for step in steps:
                spill.take("step", step)

        ends = [
            await _collect(
                spill, client.get_status(*card), client, _CARD, *([] if isinstance(token, str) else [token])
            ),
            await _collect(spill, wait, client, wait, wait.last),
            await _collect(spill, iterate(), steps),
        ]
    ends.append(await _collect(spill, client.get_status(*card), client))  # it is closed
    seen.add_to(spill)
    return ends


# --- The search itself ---


def test_the_search_finds_a_leak(caplog: pytest.LogCaptureFixture) -> None:
    """A secret in any place that is searched is found there, so that finding none means something."""
    with Table() as table:
        for secret in (*_SECRETS, _CARD.card_token):
            with table.row(secret):
                _assert_found(secret, caplog)


def _assert_found(secret: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("aiohttp").debug("of %s", secret)
        logging.getLogger().debug("extra", extra={"carried": [secret]})
        logging.getLogger("asyncio").error("formatted", exc_info=RuntimeError(secret))
    assert len(caplog.records) == 3
    for record in caplog.records:
        spill = _Spill()
        spill.take_records([record])
        assert spill.leaks(), record.name
    if secret == _CARD.card_token:
        return
    deep = ValueError("innocent")
    deep.headers = {"Authorization": secret}  # type: ignore[attr-defined]
    outer = KeyError("innocent")
    outer.__context__ = deep
    for error in (ValueError(secret), outer, cardprod.BadReply("innocent", body=secret)):
        spill = _Spill()
        spill.take_error(error)
        assert spill.leaks(), error


# --- Servers that repeat what they were sent ---


_STATUSES = [200, 401, 422, 503]
_MORE_STATUSES = [201, 302, 400, 403, 404, 408, 429, 500]


def _statuses(full_size: bool) -> list[int]:
    return [*_STATUSES, *_MORE_STATUSES] if full_size else _STATUSES


@pytest.mark.slow
@pytest.mark.timeout(300)  # at full size
async def test_echoed_request(spill: _Spill, *, full_size: bool) -> None:
    """A server that repeats a whole request, with any status, in any shape, as its trace id too, leaks no secret."""
    tokens: dict[str, Any] = {"token": _BEARER, "source": _sourced}
    with Table() as table:
        for row in pairwise_rows(_statuses(full_size), [*_ECHOES], [*tokens], [False, True], is_full=full_size):
            http_status, kind, token, with_trace = row
            with table.row(*row), spill.checked():
                async with _EchoServer(_echo(http_status, kind, with_trace=with_trace)) as server:
                    ends = await _drive(spill, tokens[token], server.base_url, attempts=2)
                    assert all(isinstance(end, cardprod.CardprodError) for end in ends)
                    assert _authorization(server.heads[0]) in {f"Bearer {_BEARER}", f"Bearer {_SOURCED}"}


@pytest.mark.slow
@pytest.mark.timeout(300)  # at full size
async def test_echoed_refresh(spill: _Spill, *, full_size: bool) -> None:
    """A token endpoint that repeats the form and the credentials, in any shape, leaks none of them."""
    expired = {"access_token": _ACCESS, "expires_at": datetime.now(UTC) + timedelta(seconds=1)}
    tokens: dict[str, dict[str, Any]] = {"no access token": {}, "expired": expired}
    with Table() as table:
        for row in pairwise_rows(_statuses(full_size), [*_ECHOES], [*tokens], [False, True], is_full=full_size):
            http_status, kind, token, with_trace = row
            with table.row(*row), spill.checked():
                echo = _echo(http_status, kind, with_trace=with_trace)
                async with _EchoServer(_only_refreshes(echo)) as server:
                    ends = await _drive(spill, _oauth(server.base_url, **tokens[token]), server.base_url, attempts=1)
                    assert all(isinstance(end, cardprod.CardprodError) for end in ends)
                    assert f"Basic {_BASIC}" in map(_authorization, server.heads)
                    assert any(_REFRESH in body for body in server.bodies)


def _only_refreshes(answer: Callable[[str], bytes]) -> Callable[[str], bytes]:
    return lambda request: answer(request) if request.startswith("POST") else http_answer(503)


_AWKWARD: dict[str, Callable[[str], str]] = {
    "form": lambda secret: quote(secret, safe=""),
    "html": html.escape,
    "json": lambda secret: secret.replace("/", "\\/").replace('"', '\\"'),
}


async def test_echoed_in_another_spelling(spill: _Spill) -> None:
    """A secret that the token endpoint repeats as a form, HTML or JSON spells it is not shown either."""
    awkward = f'a/b+"&<>={_REFRESH}'
    with Table() as table:
        for name, spell in _AWKWARD.items():
            answer = _always(400, f"bad token {spell(awkward)}")
            with table.row(name), spill.checked():
                async with _EchoServer(answer) as server:
                    await _drive(spill, _oauth(server.base_url, refresh_token=awkward), server.base_url, attempts=1)


_ENCODED: dict[str, Callable[[str], str]] = {
    "JSON": lambda secret: '{"message":"no ' + "".join(f"\\u{ord(one):04x}" for one in secret) + '"}',
    "URL": lambda secret: "no " + "".join(f"%{ord(one):02x}" for one in secret),
    "HTML": lambda secret: "no " + "".join(f"&#{ord(one)};" for one in secret),
    "HTML, hexadecimal": lambda secret: "no " + "".join(f"&#x{ord(one):x};" for one in secret),
    "JavaScript": lambda secret: "no " + "".join(f"\\x{ord(one):02x}" for one in secret),
    "quoted-printable": lambda secret: "no " + "".join(f"={ord(one):02X}" for one in secret),
    "URL twice": lambda secret: "no " + "".join(f"%25{ord(one):02x}" for one in secret),
    "HTML twice": lambda secret: "no " + "".join(f"&amp;#{ord(one)};" for one in secret),
    "URL in JSON": lambda secret: "no " + "".join(f"\\u0025{ord(one):02x}" for one in secret),
    "JSON twice": lambda secret: '{"message":"no ' + "".join(f"\\\\u{ord(one):04x}" for one in secret) + '"}',
    "base64": lambda secret: "no " + base64.b64encode(secret.encode()).decode(),
    "base64 of more": lambda secret: "no " + base64.b64encode(f"x:{secret}:x".encode()).decode(),
}


async def test_echoed_in_any_encoding(spill: _Spill) -> None:
    """A token that an answer repeats encoded character by character is not shown, encoded or decoded."""
    with Table() as table:
        for name, encode in _ENCODED.items():
            for http_status in (200, 403, 422):
                with table.row(name, http_status), spill.checked():
                    async with _EchoServer(_always(http_status, encode(_BEARER))) as server:
                        await _drive(spill, _BEARER, server.base_url, attempts=1)
                    shown = "\n".join(text for _, text in spill.texts)
                    assert encode(_BEARER)[4:] not in shown


_PADDED: dict[str, tuple[int, str]] = {
    "description": (2048, '{{"status":"READY","description":"{}"}}'),
    "kioskId": (100, '{{"status":"READY","kioskId":"{}"}}'),
    "message": (300, '{{"message":"{}"}}'),
    "code": (100, '{{"code":"{}"}}'),
    "text": (2048, "{}"),
}
"""How many characters are kept of a text, and an answer with it."""


async def test_echoed_where_a_text_is_cut(spill: _Spill) -> None:
    """A token whose end is cut off with the text that repeats it, as it is or encoded, is not shown but for its end."""
    begin, encoded = _BEARER[:-4], "".join(f"%{ord(one):02x}" for one in _BEARER)
    with Table() as table:
        for name, (limit, body) in _PADDED.items():
            for secret, shown in ((_BEARER, begin), (encoded, encoded[:-12])):
                for kept in (2, 3, 4):
                    text = "x" * (limit - len(secret) + kept) + secret + "y" * 50
                    with table.row(name, shown, kept), spill.checked():
                        answer = _always(200 if "status" in body else 422, body.format(text))
                        async with _EchoServer(answer) as server:
                            await _drive(spill, _BEARER, server.base_url, attempts=1)
                        assert not [where for where, text in spill.texts + spill.logs if shown in text]


async def test_status_that_repeats_the_token(spill: _Spill) -> None:
    """A token that a server repeats in a status is redacted there, so that neither logs nor reprs show it."""
    encode = _ENCODED["URL"]
    for name in ("kioskId", "errorCode", "description"):
        body = json.dumps({"status": "READY", name: encode(_BEARER[:20])})
        async with (
            _EchoServer(_always(200, body)) as server,
            cardprod.Client(_BEARER[:20], base_url=server.base_url) as client,
        ):
            status = await client.get_status(_CARD.profile_id, _CARD.card_token)
        assert "%" not in repr(status)
    texts = {"status": "READY {}", "kioskId": "{}", "errorCode": "E {}", "description": "x{}x"}
    with Table() as table:
        for name, text in texts.items():
            body = json.dumps({"status": "READY", name: text.format(_BEARER)})
            with table.row(name), spill.checked():
                async with (
                    _EchoServer(_always(200, body)) as server,
                    cardprod.Client(_BEARER, base_url=server.base_url) as client,
                ):
                    status = await client.get_status(_CARD.profile_id, _CARD.card_token)
                spill.take(name, status, *attrs.astuple(status))
                assert "[secret]" in repr(status)


# --- Everything that can happen on the way ---


_FAULTS = {
    "none": None,
    "reset": Fault.reset(),
    "timeout": Fault.stall(),
    "cut body": Fault.cut_body(),
    "garbage": Fault.garbage(),
    "429": Fault.too_many_requests(1),
    "500": Fault.server_error(500),
    "403": Fault.server_error(403),
    "404": Fault.server_error(404),
    "page": Fault.gateway_page(),
    "bad reply": Fault.bad_reply(),
}


_TIMES = {"passing": 1, "lasting": 30}


async def test_poll_of_the_kiosk(spill: _Spill) -> None:
    """Whatever goes wrong at the kiosk, once or for good, no secret comes out, and nothing of it is in its own log."""
    with Table() as table:
        for name, times in itertools.product(_FAULTS, _TIMES):
            logged: list[LoggedRequest] = []
            with table.row(name, times), spill.checked():
                async with Simulator(token=_BEARER, on_request=logged.append) as kiosk:
                    kiosk.add(_CARD, "jams")
                    if (fault := _FAULTS[name]) is not None:
                        kiosk.fail_next(fault, times=_TIMES[times])
                    await _drive(spill, _BEARER, kiosk.base_url, attempts=2)
                    spill.take("simulator", kiosk, logged, kiosk.requests)
                assert logged == kiosk.requests


async def test_refresh_at_the_kiosk(spill: _Spill, *, full_size: bool) -> None:
    """Whatever goes wrong with a refresh, with an old token that is good still or none, no secret comes out."""
    pairs: list[cardprod.TokenPair] = []

    async def store(pair: cardprod.TokenPair) -> None:
        pairs.append(pair)

    good = {"access_token": _ACCESS, "expires_at": datetime.now(UTC) + timedelta(seconds=100)}
    tokens: dict[str, dict[str, Any]] = {"no access token": {}, "good": good}
    with Table() as table:
        for row in pairwise_rows([*_FAULTS], [*_TIMES], [*tokens], is_full=full_size):
            name, times, access = row
            with table.row(*row), spill.checked():
                async with Simulator(token=None) as kiosk:
                    kiosk.add(_CARD, "prints")
                    if (fault := _FAULTS[name]) is not None:
                        kiosk.fail_next_refresh(fault, times=_TIMES[times])
                    token = _oauth(kiosk.base_url, on_refresh=store, refresh_before=1000, **tokens[access])
                    await _drive(spill, token, kiosk.base_url, attempts=2)
                    spill.take("simulator", kiosk, kiosk.requests, pairs)
    assert pairs


def _grant(request: str) -> bytes:
    if request.startswith("POST"):
        return http_answer(
            200, json.dumps({"access_token": _NEW_ACCESS, "refresh_token": _NEW_REFRESH, "expires_in": 1000})
        )
    return http_answer(200 if _NEW_ACCESS in request else 401, '{"status":"PRODUCED"}')


async def test_refresh_that_works(spill: _Spill) -> None:
    """A refresh after a 401, and the pair it brings, show neither the old nor the new tokens."""
    pairs: list[cardprod.TokenPair] = []

    async def store(pair: cardprod.TokenPair) -> None:
        pairs.append(pair)

    async with _EchoServer(_grant) as server:
        token = _oauth(server.base_url, access_token=_ACCESS, on_refresh=store)
        ends = await _drive(spill, token, server.base_url)
        assert ends[:3] == [None, None, None]
        assert [pair.access_token for pair in pairs] == [_NEW_ACCESS]
        spill.take("pair", *pairs, copy.copy(pairs[0]), attrs.evolve(pairs[0], expires_at=None))
    spill.check()


_UNREADABLE = ["{}", "[]", "", '{"access_token":"a b"}', f'{{"access_token":["{_NEW_ACCESS}"]}}',
               f'{{"access_token":"{_NEW_ACCESS}', f'{{"access_token":"{_NEW_ACCESS}\\n"}}',
               f'{{"refresh_token":"{_NEW_REFRESH}"}}']  # fmt: skip


async def test_grant_that_cannot_be_read(spill: _Spill) -> None:
    """A grant that is cut, nested or misspelt shows nothing of the tokens in it."""
    with Table() as table:
        for body in _UNREADABLE:
            with table.row(body), spill.checked():
                async with _EchoServer(_always(200, body)) as server:
                    ends = await _drive(spill, _oauth(server.base_url), server.base_url, attempts=1)
                    assert isinstance(ends[0], cardprod.BadReply)


async def test_on_refresh_raises(spill: _Spill) -> None:
    """What `on_refresh` raises passes through with what it says itself, here the pair, and so without a secret."""

    async def store(pair: cardprod.TokenPair) -> None:
        raise LookupError(f"no room for {pair!r}")

    async with _EchoServer(_grant) as server:
        for attempts in (1, 3):
            ends = await _drive(spill, _oauth(server.base_url, on_refresh=store), server.base_url, attempts=attempts)
            assert isinstance(ends[0], LookupError)
    spill.check()


_GARBLED: dict[str, Callable[[str], str]] = {
    "no head": lambda secret: f"POST / HTTP/1.1\r\nAuthorization: {secret}\r\n\r\n",
    "status line": lambda secret: f"{secret}\r\n\r\n",
    "status": lambda secret: f"HTTP/1.1 {secret}\r\n\r\n",
    "header": lambda secret: f"HTTP/1.1 200 OK\r\nAuthorization {secret}: x\r\n\r\n",
    "length": lambda secret: f"HTTP/1.1 200 OK\r\nContent-Length: {secret}\r\n\r\n",
    "chunk": lambda secret: f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{secret}\r\n",
    "cut short": lambda secret: f"HTTP/1.1 200 OK\r\nAuthorization: {secret}\r\nX",
}


async def test_garbage_that_repeats_the_secret(
    spill: _Spill, monkeypatch: pytest.MonkeyPatch, *, full_size: bool
) -> None:
    """A server that puts the secret where its answer goes wrong does not get it into the error's cause."""
    with Table() as table:
        for row in pairwise_rows([*_GARBLED], ["token", "oauth"], ["direct", "session"], is_full=full_size):
            name, token, way = row
            with table.row(*row), spill.checked(), monkeypatch.context() as patch:
                if way == "session":
                    go_without(patch)
                async with _EchoServer(_garbled(_GARBLED[name])) as server:
                    secret = _oauth(server.base_url) if token == "oauth" else _BEARER
                    ends = await _drive(spill, secret, server.base_url, attempts=2)
                    assert isinstance(ends[0], cardprod.TransportError)


def _garbled(garble: Callable[[str], str]) -> Callable[[str], bytes]:
    return lambda request: garble(_authorization(request).split()[-1]).encode()


async def test_abandoned_half_way(spill: _Spill) -> None:
    """A poll that is cancelled, timed out, closed under way or dropped shows no secret."""
    with Table() as table:
        for what, at in itertools.product(["cancelled", "timed out", "closed", "dropped"], ["poll", "refresh"]):
            with table.row(what, at), spill.checked():
                await _give_up(spill, what, at)


async def _give_up(spill: _Spill, what: str, at: str) -> None:
    card = (_CARD.profile_id, _CARD.card_token)
    seen = _Seen()
    async with Simulator(token=None) as kiosk:
        kiosk.fail_next(Fault.stall(), times=9)
        if at == "refresh":
            kiosk.fail_next_refresh(Fault.stall(5), times=9)
        token = _oauth(kiosk.base_url) if at == "refresh" else _BEARER
        client = cardprod.Client(token, base_url=kiosk.base_url)
        seen.instrument(client)
        wait = client.wait_until_final(*card, timeout=3 if what == "timed out" else 100)
        tasks = [asyncio.create_task(client.get_status(*card)), asyncio.create_task(wait)]
        await asyncio.sleep(2)
        spill.take("tasks", *tasks, *asyncio.all_tasks())
        if what == "cancelled":
            for task in tasks:
                task.cancel()
        elif what == "closed":
            await client.close()
        elif what == "dropped":
            wait.close()
            tasks[1].cancel()
        for task in tasks:
            if what == "timed out" or task is tasks[0]:
                await _collect(spill, task, client, wait)
        spill.take("wait", wait)
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
    del wait, tasks
    seen.add_to(spill)


async def test_no_connection(spill: _Spill, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection, a name that is not found and a certificate of a stranger show no secret."""
    authority: Any = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def find_no_name(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with _EchoServer(_grant, tls=context) as server:
            for base_url in (
                server.base_url,
                f"http://127.0.0.1:{closed.getsockname()[1]}",
                "https://no-such-host.invalid",
            ):
                with monkeypatch.context() as patch:
                    if "invalid" in base_url:
                        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", find_no_name)
                    for token in (_BEARER, _sourced, _oauth(base_url)):
                        ends = await _drive(spill, token, base_url, attempts=2)
                        assert isinstance(ends[0], cardprod.TransportError), ends
            assert server.heads == []
    spill.check()


async def test_borrowed_session_is_closed(spill: _Spill, kiosk: Simulator) -> None:
    """A session that was closed under a client, or cannot be used, is reported without a secret."""
    session = aiohttp.ClientSession()
    await session.close()
    for token in (_BEARER, _oauth(kiosk.base_url, session=session)):
        ends = await _drive(spill, token, kiosk.base_url, session=session)
        assert isinstance(ends[0], cardprod.UsageError)
    spill.check()


def _always(http_status: int, body: str) -> Callable[[str], bytes]:
    return lambda _: http_answer(http_status, body)


async def test_reported_card_token_is_short_in_logs(spill: _Spill) -> None:
    """A server that names the card in its words, as an error or as a status, gets its whole token into no log."""
    words = json.dumps({"code": "x", "detail": f"no card {_CARD.card_token} here"})
    seen = json.dumps({"status": "ODD", "errorCode": "NEW", "description": f"card {_CARD.card_token}"})
    with Table() as table:
        for http_status, body in ((503, words), (404, words), (422, words), (200, seen)):
            with table.row(http_status), spill.checked():
                async with _EchoServer(_always(http_status, body)) as server:
                    await _drive(spill, _BEARER, server.base_url, attempts=1)


# --- Arguments in the wrong place ---


_GOOD_CLIENT: dict[str, Any] = {"token": _BEARER}
_GOOD_OAUTH: dict[str, Any] = {
    "client_id": "client-id",
    "client_secret": _CLIENT_SECRET,
    "refresh_token": _REFRESH,
    "access_token": _ACCESS,
}


_MISPLACED: list[Any] = [_BEARER, f"{_BEARER}\n", f"Bearer {_BEARER}", f" {_BEARER}", f"{_BEARER}é",
                         _BEARER.encode(), [_BEARER]]  # fmt: skip
_PLACES: list[tuple[Any, str, list[Any]]] = [
    *((cardprod.Client, name, _MISPLACED) for name in ("token", "base_url")),
    *((cardprod.OAuthToken, name, _MISPLACED) for name in ("client_secret", "refresh_token", "access_token")),
    (cardprod.OAuthToken, "base_url", _MISPLACED),
    *((cardprod.Client, name, [f"Bearer {_BEARER}"]) for name in ("api_version", "session")),
    *(
        (cardprod.OAuthToken, name, [f"Bearer {_BEARER}"])
        for name in ("api_version", "expires_at", "on_refresh", "session")
    ),
]


def test_secret_in_the_wrong_place(spill: _Spill) -> None:
    """A constructor that is given a secret in the wrong place, or with white space, refuses it without showing it."""
    with Table() as table:
        for cls, name, values in _PLACES:
            good = _GOOD_CLIENT if cls is cardprod.Client else _GOOD_OAUTH
            for value in values:
                with table.row(cls.__name__, name, value), spill.checked():
                    try:
                        spill.take("repr", cls(**{**good, name: value}))
                    except cardprod.UsageError as error:
                        spill.take_error(error)


def test_secret_for_a_card(spill: _Spill) -> None:
    """A bearer token in the place of the profile or the card is not shown."""
    places: list[tuple[Any, str]] = [(_BEARER, "card"), (_BEARER, _BEARER), (1, f"Bearer {_BEARER}")]
    for arguments in places:
        with pytest.raises(cardprod.UsageError) as caught:
            cardprod.Card(*arguments)
        spill.take_error(caught.value)
    spill.take("card", cardprod.Card(1, _BEARER))
    spill.check()


# --- The command ---


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the base URL of the command, and the canary as its token."""
    monkeypatch.setenv("CARDPROD_TOKEN", _BEARER)
    return lambda base_url: monkeypatch.setenv("CARDPROD_BASE_URL", base_url)


_SERVERS: dict[str, Callable[[str], bytes]] = {
    "produced": lambda _: http_answer(200, '{"status":"PRODUCED"}'),
    **{str(http_status): _echo(http_status, "oauth") for http_status in (200, 401, 403, 404, 500)},
}


async def test_command(at: Callable[[str], None], spill: _Spill) -> None:
    """`status` and `wait` print no secret: with a card that is produced, and with a server that repeats the request."""
    with Table() as table:
        for name, as_json in itertools.product(_SERVERS, [False, True]):
            with table.row(name, as_json), spill.checked():
                async with _EchoServer(_SERVERS[name]) as server:
                    at(server.base_url)
                    for command in (["status"], ["wait", "--timeout", "5"]):
                        argv = [*command, str(_CARD.profile_id), _CARD.card_token, *(["--json"] if as_json else [])]
                        exit_code, out = await run(*argv)
                        assert (exit_code == 0) == (name == "produced")
                        spill.take("output", out)


async def test_watch(
    at: Callable[[str], None], spill: _Spill, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`watch` and its checkpoint file hold no secret, whatever a server says and a list has."""
    file = tmp_path / "cards"
    file.write_text(f"{_CARD.profile_id},{_CARD.card_token}\n{_BEARER}\n")
    with Table() as table:
        for name, as_json in itertools.product(_SERVERS, [False, True]):
            state = tmp_path / f"{name}-{as_json}"
            with table.row(name, as_json), spill.checked():
                async with _EchoServer(_SERVERS[name]) as server:
                    at(server.base_url)
                    argv = ["watch", str(file), "--checkpoint", str(state), *(["--json"] if as_json else [])]
                    exit_code, out = await run(*argv)
                    assert exit_code == (2 if name == "produced" else 4)
                spill.take("checkpoint", state.read_bytes().decode("latin-1"))
                spill.take("output", out, capfd.readouterr().err)


async def test_command_with_a_bad_token(monkeypatch: pytest.MonkeyPatch, spill: _Spill) -> None:
    """A token in the environment that cannot be right is refused without printing it."""
    with Table() as table:
        for bad, as_json in itertools.product([f"{_BEARER}\n", f"Bearer {_BEARER}"], [False, True]):
            monkeypatch.setenv("CARDPROD_TOKEN", bad)
            with table.row(bad, as_json), spill.checked():
                exit_code, out = await run("status", "1", "card", *(["--json"] if as_json else []))
                assert exit_code == 2
                spill.take("output", out)


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
async def test_simulate(as_json: bool, spill: _Spill) -> None:
    """`simulate` prints each request and refresh without a secret."""
    argv = ["simulate", "--port", "0", *(["--json"] if as_json else [])]
    with output_of(*argv) as (output, printed):
        running = asyncio.create_task(cli.run(cli.make_parser().parse_args(argv), output))
        await until("where it listens", printed)
        base_url = re.findall(r"http://[0-9.:]*[0-9]", printed())[0]
        await _drive(spill, _BEARER, base_url)
        await _drive(spill, _oauth(base_url), base_url)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert "oauth/token" in printed()
        spill.take("output", printed())
    spill.check()
