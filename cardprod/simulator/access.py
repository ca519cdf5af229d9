"""Who may use the simulator: programs of this machine, and its own page.

Any website that is open in a browser on this machine can send requests to a server on loopback. So every route checks,
before anything else happens: the Host must be this machine's, or a name that was pointed at it could read everything; a
browser must say that the request comes from the simulator's own page.

A request must be complete in seconds.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Final

from aiohttp import ClientError, web
from aiohttp.http import HttpProcessingError

from cardprod.simulator.api import problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["refusal", "runner_of"]

_KEEP_ALIVE: Final = 20.3
"""Seconds that a connection may be without a complete header. Not whole, or a client that polls every 20 seconds of
virtual time would do so at the moment that its connection is closed."""

_BODY_WITHIN: Final = 10.0
_log: Final = logging.getLogger("cardprod.simulator.http")
_log.addFilter(lambda record: not isinstance((record.exc_info or (None, None))[1], HttpProcessingError))
"""Where the simulator's own mistakes are logged; what is wrong with a request, only its answer says."""

_HOST: Final = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)


def refusal(request: web.Request) -> str | None:
    """Return why a request is not accepted; None if it is the page's own, or that of a program of this machine."""
    headers = request.headers
    hosts, origins = headers.getall("Host", []), headers.getall("Origin", [])
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]) or request.host != hosts[0]:
        return "The Host is not this machine's: use 127.0.0.1 or localhost."
    # A link to the page may be followed from anywhere; what the page loads and does is for itself alone.
    is_visit = request.method == "GET" and request.path == "/" and headers.get("Sec-Fetch-Mode") == "navigate"
    is_own = {*origins} <= {f"http://{hosts[0]}"} and {*headers.getall("Sec-Fetch-Site", [])} <= {"none", "same-origin"}
    return None if is_own or (is_visit and not origins) else "This comes from another site's page."


def runner_of(app: web.Application) -> web.AppRunner:
    """Make what runs an application, with these checks before each of its routes."""
    app.middlewares.append(_check)
    return web.AppRunner(
        app,
        logger=_log,
        access_log=None,
        shutdown_timeout=0.1,
        keepalive_timeout=_KEEP_ALIVE,
        auto_decompress=False,
    )


@web.middleware
async def _check(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    reason = refusal(request)
    if reason is not None:
        return problem(request, 403, reason)
    try:
        await _read_body(request)
        return await handler(request)
    except web.HTTPException as exc:
        return problem(request, exc.status, exc.reason)


async def _read_body(request: web.Request) -> None:
    """Read a request's body, which `request.read` returns from then on.

    Raises:
        web.HTTPException: It is too long, takes too long or is broken.
    """
    try:
        async with asyncio.timeout(_BODY_WITHIN):
            await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except (ConnectionError, ClientError, HttpProcessingError, web.RequestPayloadError, RuntimeError):
        # The last is what aiohttp raises where the connection is closed already.
        raise web.HTTPBadRequest from None
