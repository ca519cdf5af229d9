"""`Page`: a page that shows the cards and kiosks live in a browser, and has a button for each move.

All that it knows and does goes through the public methods of `Simulator`: `feed` reads, `commands` writes, and this
serves both, and the files. Who may use it is checked in `access`, as for every route.

| | |
| --- | --- |
| `GET /` | the page, with the present state in it |
| `GET /_kiosk/style.css`, `script.js`, `icon.svg` | what it needs |
| `GET /_kiosk/changes` | server-sent events: `hello`, then each `change` |
| `POST /_kiosk/start`, `finish`, … | the commands, in JSON, which no form can send: see `cardprod.simulator` |

None of it is in the log of requests. A strict Content-Security-Policy lets nothing run but the page's own script.
"""

from __future__ import annotations

import asyncio
import html
import json
from contextlib import suppress
from functools import cache
from importlib.resources import files
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from cardprod.error_codes import PRODUCTION_ERROR_MEANINGS, REQUEST_ERROR_MEANINGS
from cardprod.errors import UsageError
from cardprod.simulator.api import problem
from cardprod.simulator.kiosks import CardState
from cardprod.simulator.page.commands import run_command
from cardprod.simulator.page.feed import Feed, Position, card_as_json
from cardprod.simulator.plans import PLANS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod.error_codes import ErrorCode
    from cardprod.simulator.server import Simulator

__all__ = ["Page"]

_FILES: Final[Mapping[str, str]] = {
    "style.css": "text/css",
    "script.js": "text/javascript",
    "icon.svg": "image/svg+xml",
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
_MOST_READERS: Final = 50
_HEARTBEAT: Final = 15.0
_BETWEEN: Final = 0.05
"""Seconds between two messages to one reader: what happens meanwhile goes together."""
_STOPS: Final = "The simulator stops, or too many pages are open"


class Page:
    """Serves the page of a simulator, from one start of it to its end."""

    def __init__(self, kiosk: Simulator) -> None:
        self._kiosk = kiosk
        self._feed = Feed(kiosk)
        self._is_closed = False

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the page's routes."""
        router.add_get("/", self._answer_page, allow_head=False)
        router.add_get("/_kiosk/changes", self._answer_changes, allow_head=False)
        router.add_get("/_kiosk/{name}", self._answer_file, allow_head=False)
        router.add_post("/_kiosk/{name}", self._answer_command)

    def open(self) -> None:
        """Begin to observe the simulator, which has started."""
        self._feed.open()

    def close(self) -> None:
        """Observe no more, and let every reader go: nobody else ends one whose client has gone."""
        self._is_closed = True
        self._feed.close()

    async def _answer_page(self, request: web.Request) -> web.StreamResponse:
        if self._is_closed:
            return problem(request, 503, _STOPS)
        event_id, state = self._feed.state()
        written = html.escape(json.dumps({"hello": self._hello(), "id": event_id, "state": state}))
        page = _file("index.html").decode().replace("{{state}}", written, 1)
        return web.Response(text=page, content_type="text/html", headers=_HEADERS)

    async def _answer_file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in _FILES:
            return problem(request, 404, "There is nothing at this path")
        return web.Response(body=_file(name), content_type=_FILES[name], charset="utf-8", headers=_HEADERS)

    async def _answer_command(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            return problem(request, 415, "A command must be application/json")
        try:
            done = run_command(self._kiosk, request.match_info["name"], await request.read())
            if isawaitable(done):
                await done
        except KeyError as error:
            return problem(request, 404, f"There is no such command; there are {error.args[0]}")
        except UsageError as error:
            return problem(request, 400, str(error))
        return web.json_response({"card": card_as_json(done)} if isinstance(done, CardState) else {}, headers=_HEADERS)

    async def _answer_changes(self, request: web.Request) -> web.StreamResponse:
        if self._is_closed or self._feed.readers >= _MOST_READERS:
            return problem(request, 503, _STOPS)
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream; charset=utf-8"})
        # A browser that reconnects by itself sends where it was in a header; the page's script can only send it so.
        event_id = request.headers.get("Last-Event-ID") or request.query.get("after", "")
        with suppress(ConnectionError), self._feed.reader() as changed:
            await response.prepare(request)
            await self._send(response, changed, self._feed.position_of(event_id))
        return response

    async def _send(self, response: web.StreamResponse, changed: asyncio.Event, position: Position) -> None:
        """Send one reader everything after a position, until it goes or the page is closed."""
        hello = {**self._hello(), "is_resumed": position != Position()}
        await response.write(f"retry: 1000\nevent: hello\ndata: {json.dumps(hello)}\n\n".encode())
        while not self._is_closed:
            changed.clear()
            for upto, changes in self._feed.changes_after(position):
                # A slow reader is waited for here, and delays no other.
                event = f"id: {self._feed.id_of(upto)}\nevent: change\ndata: {json.dumps(changes)}\n\n"
                await response.write(event.encode())
                position = upto
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    await changed.wait()
            except TimeoutError:
                await response.write(b": still here\n\n")
            else:
                await asyncio.sleep(_BETWEEN)

    def _hello(self) -> dict[str, Any]:
        return {
            "base_url": self._kiosk.base_url,
            "takes_any_token": self._kiosk.takes_any_token,
            "started_at": self._kiosk.started_at.timestamp(),
            "plans": list(PLANS),
            "production_errors": _errors(PRODUCTION_ERROR_MEANINGS),
            "request_errors": _errors(REQUEST_ERROR_MEANINGS),
        }


def _errors(meanings: Mapping[ErrorCode, str]) -> list[dict[str, str]]:
    return [{"code": code, "origin": code.origin, "meaning": meaning} for code, meaning in meanings.items()]


@cache
def _file(name: str) -> bytes:
    return files("cardprod.simulator.page").joinpath(name).read_bytes()
