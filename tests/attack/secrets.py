"""Attacks on secrets: failures, echoes and encodings."""

from __future__ import annotations

import asyncio
import base64
import json
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import aiohttp
import attrs

from cardprod import CardprodError, Client, OAuthToken, UsageError
from cardprod.webhooks import Verifier, sign
from tests.attack.leaks import leaks, logged, shown_by
from tests.attack.registry import Found, attack
from tests.attack.target import CLIENT_SECRET, PLACE, REFRESH, TOKEN, always, attacked, error_of, grant_or, oauth
from tests.raw_server import http_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardprod import TokenPair


def failures() -> dict[str, Callable[[str], bytes | None]]:
    """Each way in which a request fails, by what the server does."""

    def echo(http_status: int, request: str) -> bytes:
        # After a longer `Retry-After` than a minute a 429 is raised at once.
        return http_answer(
            http_status, json.dumps({"code": "x", "title": request, "detail": request}), Retry_After="61"
        )

    return {
        **{str(code): partial(echo, code) for code in (401, 403, 404, 422, 429, 500)},
        "a dropped connection": lambda _: None,
        "a timeout": lambda _: b"",
        "the caller's own timeout": lambda _: b"",
    }


async def search_failures(token: str | Callable[[str], OAuthToken]) -> Found:
    wrong: Found = []
    for name, reply in failures().items():
        is_own = name == "the caller's own timeout"
        settings = {"attempts": 1, "request_timeout": 9.0 if is_own else 0.3}
        with logged() as records:
            async with attacked(partial(grant_or, reply), token, **settings) as (_, client):

                async def poll(limit: float | None = 0.3 if is_own else None, client: Client = client) -> None:
                    async with asyncio.timeout(limit):
                        await client.get_status(*PLACE)

                error = await error_of(poll())
        wrong += [f"{name}: {leak}" for leak in leaks([*shown_by(error), *records])]
    return wrong


@attack("no failed request shows a plain token, in its error, frames' variables or logs")
async def _() -> Found:
    return await search_failures(TOKEN)


@attack("no failed request shows an OAuthToken's secrets, in its error, frames' variables or logs")
async def _() -> Found:
    return await search_failures(oauth)


@attack("a refused refresh, whose answer repeats the request, shows no secret")
async def _() -> Found:
    async def search(name: str, reply: Callable[[str], bytes | None]) -> Found:
        async with attacked(reply, partial(oauth, access_token=None)) as (server, client):
            errors = [await error_of(client.get_status(*PLACE)), await error_of(oauth(server.base_url, None)())]
            return [f"{name}: {leak}" for error in errors for leak in leaks(shown_by(error))]

    quick = {name: reply for name, reply in failures().items() if "timeout" not in name}
    with logged() as records:
        found = await asyncio.gather(*(search(name, reply) for name, reply in quick.items()))
    return [*chain.from_iterable(found), *leaks(records)]


@attack("a token that an answer repeats in one of twelve encodings is not shown, encoded or decoded")
async def _() -> Found:
    encodings: dict[str, Callable[[str], str]] = {
        "as it is": str,
        "JSON": lambda text: "".join(f"\\u{ord(one):04x}" for one in text),
        "URL": lambda text: "".join(f"%{ord(one):02x}" for one in text),
        "HTML": lambda text: "".join(f"&#{ord(one)};" for one in text),
        "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(one):x};" for one in text),
        "JavaScript": lambda text: "".join(f"\\x{ord(one):02x}" for one in text),
        "quoted-printable": lambda text: "".join(f"={ord(one):02X}" for one in text),
        "base64": lambda text: base64.b64encode(text.encode()).decode(),
        "URL twice": lambda text: "".join(f"%25{ord(one):02x}" for one in text),
        "HTML twice": lambda text: "".join(f"&amp;#{ord(one)};" for one in text),
        "URL in JSON": lambda text: "".join(f"\\u0025{ord(one):02x}" for one in text),
        "JSON twice": lambda text: "".join(f"\\\\u{ord(one):04x}" for one in text),
    }
    wrong: Found = []
    for (name, encode), http_status in ((one, code) for one in encodings.items() for code in (200, 403, 422)):
        body = json.dumps({"message": "no ?"}).replace("?", encode(TOKEN))
        with logged() as records:
            async with attacked(always(http_answer(http_status, body))) as (_, client):
                try:
                    shown = [("the status", repr(await client.get_status(*PLACE)))]
                except CardprodError as error:
                    shown = [*shown_by(error)]
        texts = [(where, text.replace("\\\\", "\\")) for where, text in shown + records]  # as `repr` doubles them
        found = leaks(texts, (TOKEN, encode(TOKEN)))
        wrong += [f"{name}, {http_status}: {leak}" for leak in found]
    return wrong


@attack("a token that a 200 repeats as kioskId, errorCode or description is not shown")
async def _() -> Found:
    wrong: Found = []
    for text in (f"x {TOKEN}", "".join(f"%{ord(one):02x}" for one in TOKEN[:24])):
        body = json.dumps({"status": "READY", **dict.fromkeys(("kioskId", "errorCode", "description"), text)})
        with logged() as records:
            async with attacked(always(http_answer(body=body)), TOKEN[:24]) as (_, client):
                status = await client.get_status(*PLACE)
        shown = [("the status", f"{status!r} {attrs.astuple(status)}"), *records]
        wrong += leaks(shown, (TOKEN[:24], text.removeprefix("x ")))
    return wrong


@attack("a token of which a long text shows the beginning, because it is cut there, is not shown")
async def _() -> Found:
    wrong: Found = []
    for name, limit in (("description", 2048), ("kioskId", 100), ("errorCode", 100)):
        text = "x" * (limit - len(TOKEN) + 3) + TOKEN
        async with attacked(always(http_answer(body=json.dumps({"status": "READY", name: text})))) as (_, client):
            status = await client.get_status(*PLACE)
        wrong += leaks([(name, repr(status))], (TOKEN[:-4],))
    return wrong


@attack("a proxy's password is not shown by a proxy that is down, or that refuses")
async def _() -> Found:
    wrong: Found = []
    for http_status in (407, 502):
        async with attacked(always(http_answer(http_status))) as (server, _client):
            down = "http://127.0.0.1:9"
            for url in (server.base_url, down):
                proxy = url.replace("//", f"//somebody:{CLIENT_SECRET}@")
                async with Client(TOKEN, base_url="https://kiosk.invalid", proxy=proxy, attempts=1) as client:
                    wrong += leaks(shown_by(await error_of(client.get_status(*PLACE))))
    return wrong


@attack("constructors that refuse an argument show no secret that is in another")
async def _() -> Found:
    proxy = f"socks5://somebody:{CLIENT_SECRET}@proxy.example"
    refused: list[Callable[[], object]] = [
        lambda: Client(TOKEN, base_url="ftp://kiosk.example"),
        lambda: Client(TOKEN, attempts=0),
        lambda: Client("token", proxy=proxy),
        lambda: Client("token", base_url=f"https://somebody:{CLIENT_SECRET}@kiosk.example"),
        lambda: OAuthToken("client-id", CLIENT_SECRET, f"{REFRESH} "),
        lambda: OAuthToken("client-id", CLIENT_SECRET, REFRESH, proxy=proxy),
        lambda: Verifier(f"-----BEGIN RSA PRIVATE KEY-----\n{CLIENT_SECRET}"),
        lambda: sign(b"", f"-----BEGIN RSA PRIVATE KEY-----\n{CLIENT_SECRET}"),
    ]
    wrong: Found = []
    for number, make in enumerate(refused):
        try:
            make()
        except UsageError as error:
            wrong += leaks(shown_by(error))
        else:
            wrong.append(f"number {number} is not refused")
    return wrong


@attack("an error of on_refresh shows no secret")
async def _() -> Found:
    async def fail(_: TokenPair) -> None:
        raise LookupError("the database is away")

    def storing(base_url: str) -> OAuthToken:
        return OAuthToken("client-id", CLIENT_SECRET, REFRESH, base_url=base_url, on_refresh=fail)

    with logged() as records:
        async with attacked(partial(grant_or, always(http_answer())), storing) as (_, client):
            error = await error_of(client.get_status(*PLACE))
    return leaks([*shown_by(error), *records])


@attack("an error of a lent session's trace config shows no secret")
async def _() -> Found:
    async def fail(*_: object) -> None:
        raise LookupError("a fault of the tracing")

    config = aiohttp.TraceConfig()
    config.on_request_start.append(fail)
    wrong: Found = []
    for token in (TOKEN, oauth):
        async with (
            aiohttp.ClientSession(trace_configs=[config]) as session,
            attacked(always(http_answer()), token, session=session) as (_, client),
        ):
            wrong += leaks(shown_by(await error_of(client.get_status(*PLACE))))
    return wrong
