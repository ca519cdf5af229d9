"""Who may use the simulator: programs of this machine, and its own page; and how much of it they may occupy.

Any website that is open in a browser on this machine can send requests to a server on loopback. So every route checks,
before anything else happens: the Host must be this machine's, or a name that was pointed at it could read everything; a
browser must say that the request comes from the simulator's own page.

A request must be complete in seconds, and there is a limit to the connections: where it is reached, the oldest one
without a complete request is closed for a new one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from typing import TYPE_CHECKING, Final

from aiohttp import ClientError, web
from aiohttp.http import HttpProcessingError

from cardprod.simulator.api import problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_KEEP_ALIVE: Final = 20.3
"""Seconds that a connection may be without a complete header. Not whole, or a client that polls every 20 seconds of
virtual time would do so at the moment that its connection is closed."""

_BODY_WITHIN: Final = 10.0
_BACKLOG: Final = 1024
_ACCEPTED_AT_ONCE: Final = 8
_MOST_CONNECTIONS: Final = 5_000
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


class Connections:
    """Serves an application on 127.0.0.1, within limits."""

    def __init__(self, app: web.Application) -> None:
        app.middlewares.append(self._check)
        self._runner = web.AppRunner(
            app,
            logger=_log,
            access_log=None,
            shutdown_timeout=0.1,
            keepalive_timeout=_KEEP_ALIVE,
            auto_decompress=False,
        )
        self._server: asyncio.AbstractServer | None = None
        self._busy: set[web.RequestHandler] = set()
        self._most = _most_connections()

    async def open(self, port: int) -> int:
        """Listen, and return the port.

        Raises:
            OSError: The port is not free.
        """
        listener = socket.create_server(("127.0.0.1", port))
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=listener, backlog=_ACCEPTED_AT_ONCE)
        # asyncio accepts as many at once as may queue, before any can be closed: many shall queue, few be accepted.
        listener.listen(_BACKLOG)
        return int(listener.getsockname()[1])

    async def close(self) -> None:
        """Listen no more, and close every connection, whatever it is in the middle of."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None:  # it was closed while this connection came
            return _Refused()
        if len(server.connections) >= self._most:
            is_open = [connection for connection in server.connections if connection.transport is not None]
            idle = [connection for connection in is_open if connection not in self._busy]
            if idle:
                idle[0].force_close()
            elif len(is_open) >= self._most:
                return _Refused()
        return server()

    @web.middleware
    async def _check(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        reason = refusal(request)
        if reason is not None:
            return problem(request, 403, reason)
        try:
            await _read_body(request)
            self._busy.add(request.protocol)
            return await handler(request)
        except web.HTTPException as exc:
            return problem(request, exc.status, exc.reason)
        finally:
            self._busy.discard(request.protocol)


class _Refused(asyncio.Protocol):
    """A connection that is closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


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


def _most_connections() -> int:
    """Leave some of the descriptors that the process may have to the rest of it."""
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return _MOST_CONNECTIONS
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(8, min(_MOST_CONNECTIONS, limit - min(200, limit // 4)))
