"""`Page`: the page's files, its stream of changes and its commands, over HTTP; and who is kept away from them.

| | |
| --- | --- |
| `GET /` | the page |
| `GET /_kiosk/style.css`, `script.js`, `icon.svg` | what it needs |
| `GET /_kiosk/changes` | server-sent events: `hello`, the whole state as `change`, and then each `change` |
| `POST /_kiosk/start`, `finish`, … | the commands, with JSON |

Nothing of it is in the simulator's log of requests. Any website that is open in the same browser can reach a server on
loopback. So: the request's Host must be this machine's, or a name that was pointed at it could read everything; a
browser must say that a request comes from the page itself; a command must be JSON, which no form can send; and a strict
Content-Security-Policy lets nothing run but the page's own script.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from functools import cache
from importlib.resources import files
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from yarl import URL

from cardprod._version import VERSION
from cardprod.error_codes import PRODUCTION_ERROR_MEANINGS, REQUEST_ERROR_MEANINGS
from cardprod.errors import UsageError
from cardprod.simulator.page.commands import COMMANDS, Arguments
from cardprod.simulator.page.feed import Feed, card_as_json
from cardprod.simulator.plans import PLANS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod.error_codes import ErrorCode
    from cardprod.simulator.server import Simulator

__all__ = ["Page"]

_PREFIX: Final = "/_kiosk"
_FILES: Final[Mapping[str, tuple[str, str]]] = {
    "/": ("index.html", "text/html"),
    f"{_PREFIX}/style.css": ("style.css", "text/css"),
    f"{_PREFIX}/script.js": ("script.js", "text/javascript"),
    f"{_PREFIX}/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_THIS_MACHINE: Final = frozenset({"127.0.0.1", "localhost", "::1"})

_MOST_READERS: Final = 50
_HEARTBEAT: Final = 15.0
_BETWEEN: Final = 0.05
"""Seconds between two messages to one reader: what happens meanwhile goes together."""
_LINGER: Final = 60.0
"""Seconds to go on watching when nobody reads, so that a page that comes back is told only what it missed."""


class Page:
    """Serves the page of a simulator, from one start of it to its end.

    Args:
        kiosk: The simulator.
    """

    def __init__(self, kiosk: Simulator) -> None:
        self._kiosk = kiosk
        self._feed: Feed | None = None
        self._is_closed = False
        self._lingering: asyncio.TimerHandle | None = None

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the page's paths."""
        for path in _FILES:
            router.add_get(path, self._answer_file)
        router.add_get(f"{_PREFIX}/changes", self._answer_changes)
        router.add_post(f"{_PREFIX}/{{command}}", self._answer_command)

    def close(self) -> None:
        """Let every reader go."""
        self._is_closed = True
        self._stop_watching()

    async def _answer_file(self, request: web.Request) -> web.StreamResponse:
        refusal = _refusal(request)
        if refusal is not None:
            return refusal
        name, content_type = _FILES[request.path]
        return web.Response(body=_file(name), content_type=content_type, charset="utf-8", headers=_HEADERS)

    async def _answer_command(self, request: web.Request) -> web.StreamResponse:
        refusal = _refusal(request)
        if refusal is not None:
            return refusal
        if request.content_type != "application/json":
            return _refuse(415, "A command must be application/json.")
        command = COMMANDS.get(request.match_info["command"])
        if command is None:
            return _answer({"message": f"There is no such command; there are {', '.join(COMMANDS)}."}, 404)
        try:
            done = command(self._kiosk, Arguments(await request.read()))
            if isawaitable(done):
                await done
        except UsageError as error:
            return _answer({"message": str(error)}, 400)
        return _answer({} if done is None or isawaitable(done) else {"card": card_as_json(done)}, 200)

    async def _answer_changes(self, request: web.Request) -> web.StreamResponse:
        refusal = _refusal(request)
        if refusal is not None:
            return refusal
        if self._is_closed or (self._feed is not None and self._feed.readers >= _MOST_READERS):
            return _refuse(503, "The simulator stops, or too many pages are open.")
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream; charset=utf-8"})
        feed = self._watch()
        # A browser that comes back by itself says where it was in a header; the page itself can only say it so.
        known = request.headers.get("Last-Event-ID") or request.query.get("after", "")
        with suppress(ConnectionError), feed.reader() as news:
            await response.prepare(request)
            await self._tell(response, feed, news, _count_of(known, feed.epoch))
        self._linger()
        return response

    async def _tell(self, response: web.StreamResponse, feed: Feed, news: asyncio.Event, count: int) -> None:
        """Tell one reader everything after a count, until it goes or the page is closed."""
        hello = {**self._hello(), "is_resumed": count > 0}
        await response.write(f"retry: 1000\nevent: hello\ndata: {json.dumps(hello)}\n\n".encode())
        while not self._is_closed:
            news.clear()
            for known, changes in feed.changes_after(count):
                # Whoever reads slowly is waited for here, and holds up nobody else.
                event = f"id: {feed.epoch}.{known}\nevent: change\ndata: {json.dumps(changes)}\n\n"
                await response.write(event.encode())
                count = known
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    await news.wait()
            except TimeoutError:
                await response.write(b": still here\n\n")
            else:
                await asyncio.sleep(_BETWEEN)

    def _hello(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "base_url": self._kiosk.base_url,
            "takes_any_token": self._kiosk.takes_any_token,
            "started_at": self._kiosk.started_at.timestamp(),
            "plans": list(PLANS),
            "production_errors": _errors(PRODUCTION_ERROR_MEANINGS),
            "request_errors": _errors(REQUEST_ERROR_MEANINGS),
        }

    def _watch(self) -> Feed:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._feed is None:
            self._feed = Feed(self._kiosk)
            self._feed.open()
        return self._feed

    def _linger(self) -> None:
        if self._feed is not None and not self._feed.readers:
            self._lingering = asyncio.get_running_loop().call_later(_LINGER, self._stop_watching)

    def _stop_watching(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._feed is not None:
            feed, self._feed = self._feed, None
            feed.close()


def _refusal(request: web.Request) -> web.Response | None:
    """Refuse what does not come from the page itself, or from a program of this machine."""
    if not _is_this_machine(request.host):
        return _refuse(403, "The Host is not this machine's: open the page at 127.0.0.1 or localhost.")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.host}":
        return _refuse(403, "This comes from another site's page.")
    site = request.headers.get("Sec-Fetch-Site", "none")
    # Somebody may follow a link to the page; only what the page is made of, and what it does, is for itself alone.
    is_visit = request.path == "/" and request.headers.get("Sec-Fetch-Mode") == "navigate"
    if site not in {"none", "same-origin"} and not is_visit:
        return _refuse(403, "This comes from another site's page.")
    return None


def _is_this_machine(host: str) -> bool:
    try:
        return URL(f"http://{host}").host in _THIS_MACHINE
    except ValueError:
        return False


def _refuse(http_status: int, message: str) -> web.Response:
    return _answer({"message": message}, http_status)


def _answer(fields: dict[str, Any], http_status: int) -> web.Response:
    return web.json_response(fields, status=http_status, headers=_HEADERS)


def _count_of(event_id: str, epoch: str) -> int:
    """Read up to where a reader knows everything; nothing, if it was told that by another feed."""
    its_epoch, _, count = event_id.partition(".")
    return int(count) if its_epoch == epoch and count.isascii() and count.isdigit() else 0


def _errors(meanings: Mapping[ErrorCode, str]) -> list[dict[str, str]]:
    return [{"code": code, "origin": code.origin, "meaning": meaning} for code, meaning in meanings.items()]


@cache
def _file(name: str) -> bytes:
    return files("cardprod.simulator.page").joinpath(name).read_bytes()
