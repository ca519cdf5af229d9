"""`Page`: a page that shows the cards and kiosks live in a browser, and has a button for each move.

All that it knows and does goes through the public methods of `Simulator`: `state` reads, `commands` writes, and this
serves both, and the files. Who may use it is checked in `access`, as for every route.

| | |
| --- | --- |
| `GET /` | the page, with the present state in it |
| `GET /_kiosk/style.css`, `script.js`, `icon.svg` | what it needs |
| `GET /_kiosk/state` | the present state again, of the cards on `page` of those in `status` whose token has `words` |
| `POST /_kiosk/start`, `finish`, … | the commands, in JSON, which no form can send: see `cardprod.simulator` |

None of it is in the log of requests. A strict Content-Security-Policy lets nothing run but the page's own script.
"""

from __future__ import annotations

import html
import json
import re
from collections import defaultdict
from functools import cache
from importlib.resources import files
from inspect import isawaitable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from cardprod.error_codes import PRODUCTION_ERROR_MEANINGS, REQUEST_ERROR_MEANINGS
from cardprod.errors import UsageError
from cardprod.simulator.api import json_object, problem
from cardprod.simulator.kiosks import CardState
from cardprod.simulator.page.commands import COMMANDS
from cardprod.simulator.page.state import card_as_json, state_as_json
from cardprod.simulator.plans import PLANS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod.error_codes import ErrorCode
    from cardprod.simulator.server import Simulator

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


class Page:
    """Serves the page of a simulator."""

    def __init__(self, kiosk: Simulator) -> None:
        self._kiosk = kiosk

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the page's routes."""
        router.add_get("/", self._answer_page, allow_head=False)
        router.add_get("/_kiosk/state", self._answer_state, allow_head=False)
        router.add_get("/_kiosk/{name}", self._answer_file, allow_head=False)
        router.add_post("/_kiosk/{name}", self._answer_command)

    async def _answer_page(self, request: web.Request) -> web.StreamResponse:
        facts = {
            "base_url": str(request.url.origin()),
            "takes_any_token": self._kiosk.takes_any_token,
            "plans": list(PLANS),
            "production_errors": _errors(PRODUCTION_ERROR_MEANINGS),
            "request_errors": _errors(REQUEST_ERROR_MEANINGS),
        }
        written = html.escape(json.dumps({"facts": facts, "state": state_as_json(self._kiosk)}))
        page = _file("index.html").decode().replace("{{begin}}", written, 1)
        return web.Response(text=page, content_type="text/html", headers=_HEADERS)

    async def _answer_state(self, request: web.Request) -> web.StreamResponse:
        status, words, page = (request.query.get(name, "") for name in ("status", "words", "page"))
        number = int(page) if re.fullmatch(r"[0-9]{1,9}", page) else 0
        return web.json_response(state_as_json(self._kiosk, status, words, number), headers=_HEADERS)

    async def _answer_file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in _FILES:
            return problem(request, 404, "There is nothing at this path")
        return web.Response(body=_file(name), content_type=_FILES[name], charset="utf-8", headers=_HEADERS)

    async def _answer_command(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            return problem(request, 415, "A command must be application/json")
        command, fields = COMMANDS.get(request.match_info["name"]), json_object(await request.read())
        if command is None:
            return problem(request, 404, f"There is no such command; there are {', '.join(COMMANDS)}")
        if fields is None:
            return problem(request, 400, "A command's arguments must be a JSON object")
        try:
            done = command(self._kiosk, defaultdict(lambda: None, fields))
            if isawaitable(done):
                await done
        except UsageError as error:
            return problem(request, 400, str(error))
        return web.json_response({"card": card_as_json(done)} if isinstance(done, CardState) else {}, headers=_HEADERS)


def _errors(meanings: Mapping[ErrorCode, str]) -> list[dict[str, str]]:
    return [{"code": code, "origin": code.origin, "meaning": meaning} for code, meaning in meanings.items()]


@cache
def _file(name: str) -> bytes:
    return files("cardprod.simulator.page").joinpath(name).read_bytes()
