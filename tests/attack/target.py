"""The client that is attacked, the servers that attack it, and its secrets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from cardprod import Client, OAuthToken
from tests.cards import CARD
from tests.raw_server import RawServer, http_answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

TOKEN: Final = "bearer-canary-5b1d7f9e2c"
ACCESS: Final = "access-canary-9a7c5e3b1f"
NEW_ACCESS: Final = "new-access-canary-4c6e8a0b2d"
REFRESH: Final = "refresh-canary-2d4f6b8a0c"
CLIENT_SECRET: Final = "client-secret-canary-7e9b1d3f5a"
BASIC: Final = base64.b64encode(f"client-id:{CLIENT_SECRET}".encode()).decode()
SECRETS: Final = (TOKEN, ACCESS, NEW_ACCESS, REFRESH, CLIENT_SECRET, BASIC)
PLACE: Final = (CARD.profile_id, CARD.card_token)
LIMIT: Final = 20.0
"""Seconds that an attack may take."""


@contextlib.asynccontextmanager
async def attacked(
    reply: Callable[[str], bytes | None],
    token: str | Callable[[str], OAuthToken] = TOKEN,
    *,
    delay: float = 0.0,
    **settings: Any,
) -> AsyncGenerator[tuple[RawServer, Client]]:
    """Serve what `reply` makes of each request, None for a dropped connection, to a client."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        content = reply(server.heads[-1] + server.bodies[-1])
        await asyncio.sleep(delay)
        if content is None:
            writer.transport.abort()
        else:
            writer.write(content)

    async with RawServer(answer) as server:
        settings.setdefault("rate_limit", None)
        given = token if isinstance(token, str) else token(server.base_url)
        async with Client(given, base_url=server.base_url, **settings) as client:
            yield server, client


def always(content: bytes) -> Callable[[str], bytes]:
    return lambda _: content


def echo(correlation_id: str, http_status: int = 200, status: str = "READY", **headers: str) -> bytes:
    """Answer with this correlation id."""
    return http_answer(http_status, json.dumps({"status": status}), X_External_Correlation_Id=correlation_id, **headers)


def id_in(request: str) -> str:
    return request.partition("X-External-Correlation-Id: ")[2].partition("\r\n")[0]


def oauth(base_url: str, access_token: str | None = ACCESS) -> OAuthToken:
    return OAuthToken("client-id", CLIENT_SECRET, REFRESH, access_token=access_token, base_url=base_url)


def grant_or(reply: Callable[[str], bytes | None], request: str) -> bytes | None:
    """Grant a new token, or reply to any other request."""
    if request.startswith("POST"):
        return http_answer(body=json.dumps({"access_token": NEW_ACCESS, "expires_in": 43_199}))
    return reply(request)


async def error_of(doing: Awaitable[object]) -> Exception:
    """Return the error that this must end with."""
    try:
        await doing
    except Exception as error:  # noqa: BLE001 - whichever it is, it is searched or compared
        return error
    raise AssertionError("it succeeded, and must not")


def replace_resolver(addresses: Iterable[str]) -> Any:
    """Let every name resolve to these addresses, or to none."""

    async def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    return mock.patch.object(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
