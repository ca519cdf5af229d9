"""Every error class, reached by a real call over HTTP: one line with what came, what to do and the trace id."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp.hdrs import ACCEPT_ENCODING

import cardprod
from cardprod import errors
from tests.cards import CARD
from tests.fast_path import go_without
from tests.raw_server import RawServer, http_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TRACE = {"x_trace_id": "t-123"}
REACHED: list[tuple[type[errors.CardprodError], str, bytes, str]] = [
    (errors.UsageError, "closed", b"", "make a new one"),
    (errors.TransportError, "poll", b"not HTTP at all\r\n\r\n", "check base_url"),
    (errors.RequestTimeout, "poll", b"", "try again"),
    (errors.ApiError, "poll", http_answer(422, "{}", **TRACE), "422; .*check base_url"),
    (errors.Unauthorized, "poll", http_answer(401, "{}", **TRACE), "401; .*get a new user token"),
    (errors.TokenRefreshFailed, "refresh", http_answer(401, "{}", **TRACE), "401; .*check .*client_secret"),
    (errors.Forbidden, "poll", http_answer(403, "{}", **TRACE), "403; .*check the profile"),
    (
        errors.StrongAuthenticationRequired,
        "poll",
        http_answer(403, "{}", x_2fa_approval_result="REJECTED", **TRACE),
        "403; .*must approve",
    ),
    (errors.CardNotFound, "poll", http_answer(404, "{}", **TRACE), "404; .*check both ids"),
    (errors.RateLimited, "poll", http_answer(429, "{}", **TRACE), "429; .*send fewer"),
    (errors.ServerError, "poll", http_answer(503, "{}", **TRACE), "503; .*try later"),
    (errors.BadReply, "poll", http_answer(200, "[]", **TRACE), "a 200 that is not of the documented shape: .*array"),
    (errors.WaitTimeout, "wait", http_answer(), "last seen READY; .*wait again"),
    (
        errors.ProductionFailed,
        "wait",
        http_answer(200, '{"status":"PRODUCTION_ERROR"}'),
        "not produced: PRODUCTION_ERROR",
    ),
]


LONG_HEADER = (
    "a header or the first line of the answer is over 8 KiB, which is not read: check base_url and proxies on the way"
)
COMPRESSED = "the answer is compressed with br or zstd, which was not requested"
UNREQUESTED = [
    coding for coding in ("br", "zstd") if coding not in aiohttp.ClientRequest.DEFAULT_HEADERS[ACCEPT_ENCODING]
]
"""The codings that this aiohttp cannot undo, and so does not ask for."""
INSTEAD: dict[str, tuple[type[errors.CardprodError], bytes, str]] = {
    "a long header": (errors.TransportError, http_answer(X_Powered_By="x" * 9000), LONG_HEADER),
    "a long name": (
        errors.TransportError,
        http_answer().replace(b"Content-Length", b"X" * 9000 + b": x\r\nContent-Length"),
        LONG_HEADER,
    ),
    "a long first line": (errors.TransportError, b"HTTP/1.1 200 " + b"x" * 9000 + http_answer()[12:], LONG_HEADER),
    **{
        coding: (
            errors.TransportError,
            http_answer(200, "{}", Content_Encoding=coding),
            f"{COMPRESSED}: check proxies on the way, or install Brotli or backports.zstd",
        )
        for coding in UNREQUESTED
    },
}
"""What may come instead of an answer → the error, and what it says."""


@pytest.mark.parametrize("is_direct", [True, False], ids=["direct", "by a session"])
@pytest.mark.parametrize("what", INSTEAD)
async def test_what_came_instead_of_an_answer(what: str, is_direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error says in one sentence what came instead of an answer, and what to do about it."""
    cls, sent, words = INSTEAD[what]

    if not is_direct:
        go_without(monkeypatch)
    async with (
        RawServer.saying(sent) as server,
        cardprod.Client("token", base_url=server.base_url, attempts=1) as client,
    ):
        with pytest.raises(cls) as caught:
            await client.get_status(CARD.profile_id, CARD.card_token)
    assert type(caught.value) is cls
    said = f"card {re.escape(str(CARD))}: {re.escape(words)} \\(\\w+\\); server 127\\.0\\.0\\.1:\\d+"  # with its cause
    assert re.fullmatch(said, str(caught.value))


def test_every_class_is_reached() -> None:
    """No class but the root is missed by the table of those that a real call reaches."""
    by_a_client = {cls.__name__ for cls, *_ in REACHED} | {"CardprodError"}
    by_a_webhook = {"BadSignature", "BadEvent"}  # in tests/unit/test_webhooks_verify.py
    by_the_database = {"DurableError"}  # in tests/durable
    assert by_a_client | by_a_webhook | by_the_database == set(errors.__all__)


async def ask(client: cardprod.Client, how: str) -> None:
    if how == "wait":
        final = await client.wait_until_final(CARD.profile_id, CARD.card_token, timeout=5)
        final.raise_for_failure()
    else:
        await client.get_status(CARD.profile_id, CARD.card_token)


@pytest.mark.parametrize(("cls", "how", "reply", "words"), REACHED, ids=[cls.__name__ for cls, *_ in REACHED])
async def test_reached_error_is_whole(cls: type[errors.CardprodError], how: str, reply: bytes, words: str) -> None:
    """A real call's error is one line with what came, what to do, the trace id and the server; it survives pickle."""
    async with RawServer.saying(reply) as server:
        token: Any = "token"
        if how == "refresh":
            token = cardprod.OAuthToken("client-id", "client-secret", "refresh-token", base_url=server.base_url)
        async with cardprod.Client(token, base_url=server.base_url, attempts=1) as client:
            if how == "closed":
                await client.close()
            with pytest.raises(cls) as caught:
                await ask(client, how)
    error = caught.value
    assert type(error) is cls
    assert str(error).isprintable()
    assert re.search(words, str(error))
    assert (getattr(error, "trace_id", None) is not None) == (b"x-trace-id" in reply) == ("t-123" in str(error))
    is_of_the_server = cls not in {errors.UsageError, errors.WaitTimeout, errors.ProductionFailed}
    assert str(error).count(server.base_url.removeprefix("http://")) == is_of_the_server
    if cls is not errors.ProductionFailed:  # a status does not know its card
        assert error.card == CARD
        assert str(error).startswith(f"card {CARD}: ")
    crossed: errors.CardprodError = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    for again in (crossed, copy.copy(error), copy.deepcopy(error)):
        assert (type(again), str(again), vars(again)) == (cls, str(error), vars(error))
    if type(error) in {errors.TransportError, errors.RequestTimeout}:
        assert error.__cause__ is not None


class _Soon:
    """A schedule whose delay is wrong."""

    def delay(self, unchanged: int, random: float) -> float:
        del unchanged, random
        return -1.0


async def _sync_token(client: cardprod.Client) -> None:
    """Its token source is no async function."""
    await client.get_status(CARD.profile_id, CARD.card_token)


async def _bad_schedule(client: cardprod.Client) -> None:
    await client.wait_until_final(CARD.profile_id, CARD.card_token, schedule=_Soon())


async def _used_twice(client: cardprod.Client) -> None:
    wait = client.wait_until_final(CARD.profile_id, CARD.card_token)
    wait.close()
    await wait


async def _closed_meanwhile(client: cardprod.Client) -> None:
    wait = asyncio.ensure_future(client.wait_until_final(CARD.profile_id, CARD.card_token, timeout=60))
    await asyncio.sleep(1)
    await client.close()
    await wait


async def _of_another_loop(client: cardprod.Client) -> None:
    await client.get_status(CARD.profile_id, CARD.card_token)

    async def ask_there() -> None:
        await client.get_status(CARD.profile_id, CARD.card_token)

    await asyncio.to_thread(asyncio.run, ask_there())


@pytest.mark.parametrize("misuse", [_sync_token, _bad_schedule, _used_twice, _closed_meanwhile, _of_another_loop])
async def test_misuse_names_the_card(misuse: Callable[[cardprod.Client], Awaitable[None]]) -> None:
    """A request or a wait that its caller misuses names its card too, and says in one line what to do instead."""
    token: Any = (lambda: "token") if misuse is _sync_token else "token"
    async with (
        RawServer.saying(http_answer()) as server,
        cardprod.Client(token, base_url=server.base_url, attempts=1) as client,
    ):
        with pytest.raises(errors.UsageError) as caught:
            await misuse(client)
    assert caught.value.card == CARD
    assert str(caught.value).startswith(f"card {CARD}: ")
    assert str(caught.value).isprintable()
