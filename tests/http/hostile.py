"""A server that misbehaves on demand, each way by its name: what it writes, and the error it should become.

It serves the production status call honestly, but to a card that is named like a way it misbehaves in that way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs

from cardprod import ApiError, BadReply, RateLimited, RequestTimeout, ServerError, TransportError
from tests.raw_server import RawServer, answer_nothing
from tests.waiting import LIMIT, wait_until

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from multiprocessing.connection import Connection

    from cardprod import CardprodError

HONEST: Final = "honest"
BURST: Final = 2**16
LATER: Final = 0.1
"""Seconds, in which the client has read what was sent and put the connection back into its pool."""
BOMB_BLOCK: Final = 2**24
BOMB_BLOCKS: Final = 256  # four gibibytes


@attrs.frozen
class Served:
    """One request as the server saw it: the card, the way it was answered, and the body if that went out whole."""

    card: str
    way: str
    body: bytes | None


@attrs.frozen
class Exchange:
    """One request to answer."""

    server: HostileServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body: bytes

    async def send(self, data: bytes) -> None:
        """Send some bytes."""
        self.writer.write(data)
        await self.writer.drain()

    def end(self, how: End) -> None:
        """End the connection, or keep it."""
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.writer.transport.abort()
        elif how == "close":
            self.writer.close()


End: TypeAlias = Literal["keep", "close", "reset"]
Misbehaviour: TypeAlias = Callable[[Exchange], Awaitable[None]]


def reply(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Write an answer with a `Content-Length`, be that right or not."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def stranger(number: int = 0) -> bytes:
    """Write an unasked answer: a card that is not the client's is produced."""
    return reply(b'{"status":"PRODUCED","description":"stranger %d"}' % number)


@cache
def bomb(coding: str) -> bytes:
    """Write an answer of some megabytes that unpacks to gigabytes of JSON's white space."""
    packer = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    first, again = (packer.compress(b" " * BOMB_BLOCK) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return reply(first + again * (BOMB_BLOCKS - 1), f"Content-Encoding: {coding}")


def says(make: Callable[[bytes], bytes], end: End = "keep") -> Misbehaviour:
    """Send what is made of the honest body, once."""

    async def misbehave(exchange: Exchange) -> None:
        await exchange.send(make(exchange.body))
        exchange.end(end)

    return misbehave


def goes_on(start: bytes, more: bytes) -> Misbehaviour:
    """Send a start, and then more and more, without an end."""

    async def misbehave(exchange: Exchange) -> None:
        await exchange.send(start)
        while True:
            await exchange.send(more)
            await asyncio.sleep(exchange.server.pause)

    return misbehave


async def stays_silent(exchange: Exchange) -> None:
    """Answer nothing, for as long as the client stays."""
    await exchange.reader.read()


async def closes_at_next_request(exchange: Exchange) -> None:
    """Answer honestly, and close the connection at the next request."""
    await exchange.send(reply(exchange.body))
    exchange.server.record(await exchange.server.read_card(exchange.reader), "closed-on")
    exchange.end("close")


async def redirects(exchange: Exchange) -> None:
    """Send the client elsewhere."""
    await exchange.send(reply(b"", f"Location: {exchange.server.elsewhere}/", status="307 Temporary Redirect"))


async def says_the_rest_later(exchange: Exchange) -> None:
    """Announce less than there is, and send what is over when the connection is back in the client's pool."""
    await exchange.send(reply(exchange.body[:9]))
    await asyncio.sleep(LATER)
    await exchange.send(exchange.body[9:])


async def answers_unasked_later(exchange: Exchange) -> None:
    """Answer honestly, and once more when the connection is back in the client's pool."""
    await exchange.send(reply(exchange.body))
    await asyncio.sleep(LATER)
    await exchange.send(stranger())


async def answers_unasked_endlessly(exchange: Exchange) -> None:
    """Answer honestly, and then on and on when the connection is back in the client's pool."""
    await exchange.send(reply(exchange.body))
    await asyncio.sleep(LATER)
    await goes_on(b"", stranger() * (BURST // len(stranger())))(exchange)


@attrs.frozen
class Way:
    """A way to misbehave, and what should come of it: an error with a word in its message, or the right status."""

    misbehave: Misbehaviour
    error: type[CardprodError] | None = None
    word: str = ""


OK: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK: Final = b"%x\r\n%b\r\n"
IN_TIME: Final = "no whole answer within"
NOT_HTTP: Final = "not HTTP"
LONG_HEADER: Final = "over 8 KiB"
CUT: Final = "cut short or garbled"
GARBLED: Final = f"{NOT_HTTP}|{CUT}"  # the one if it comes in one piece with the head, the other if after it
BROKE: Final = "the connection broke"
TOO_LONG: Final = "over 1 MiB"
UNDOCUMENTED: Final = "an undocumented answer to this call"

WAYS: Final[Mapping[str, Way]] = {
    HONEST: Way(says(reply)),
    # Slowly, or without an end
    "silence": Way(stays_silent, RequestTimeout, IN_TIME),
    "slow-headers": Way(goes_on(OK + b"X: ", b"x"), RequestTimeout, IN_TIME),
    "slow-body": Way(goes_on(reply(b"{", length=10_000), b" "), RequestTimeout, IN_TIME),
    "endless-100": Way(goes_on(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), RequestTimeout, IN_TIME),
    "endless-103": Way(goes_on(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000), RequestTimeout, IN_TIME),
    "endless-reason": Way(goes_on(b"HTTP/1.1 200 ", b"O" * BURST), TransportError, LONG_HEADER),
    "endless-headers": Way(goes_on(OK, b"X: x\r\n" * 10_000), TransportError, NOT_HTTP),
    "endless-header-line": Way(goes_on(OK + b"X: ", b"x" * BURST), TransportError, LONG_HEADER),
    "endless-chunks": Way(goes_on(CHUNKED, CHUNK % (BURST, b" " * BURST)), BadReply, TOO_LONG),
    "endless-tiny-chunks": Way(goes_on(CHUNKED, CHUNK % (5, b" " * 5) * 40_000), BadReply, TOO_LONG),
    "endless-chunk-extension": Way(goes_on(CHUNKED + b"1;", b"x" * BURST), RequestTimeout, IN_TIME),
    "endless-trailers": Way(goes_on(CHUNKED + b"0\r\n", b"X: x\r\n" * 10_000), TransportError, GARBLED),
    "gibibyte": Way(goes_on(reply(b"", length=2**30), b" " * BURST), BadReply, TOO_LONG),
    "gzip-bomb": Way(says(lambda _: bomb("gzip")), BadReply, TOO_LONG),
    "deflate-bomb": Way(says(lambda _: bomb("deflate")), BadReply, TOO_LONG),
    # Of a wrong length
    "cut-chunk": Way(says(lambda body: CHUNKED + CHUNK % (99, body[:9]), "close"), TransportError, CUT),
    "garbled-gzip": Way(says(lambda body: reply(body, "Content-Encoding: gzip")), TransportError, GARBLED),
    "garbled-length": Way(says(lambda body: OK + b"Content-Length: many\r\n\r\n" + body), TransportError, NOT_HTTP),
    "garbled-chunk": Way(says(lambda body: CHUNKED + b"no number\r\n" + body), TransportError, GARBLED),
    "length-too-long": Way(says(lambda body: reply(body, length=9999), "close"), TransportError, CUT),
    "length-too-short": Way(says(lambda body: reply(body, length=9)), TransportError, NOT_HTTP),
    "length-too-short-later": Way(says_the_rest_later, BadReply, "not JSON"),
    "two-lengths": Way(says(lambda body: reply(body, "Content-Length: 9")), TransportError, NOT_HTTP),
    "length-and-chunked": Way(says(lambda body: reply(body, "Transfer-Encoding: chunked")), TransportError, NOT_HTTP),
    # Broken off
    "reset-at-once": Way(says(lambda _: b"", "reset"), TransportError, BROKE),
    "reset-in-headers": Way(says(lambda _: OK + b"Content-", "reset"), TransportError, BROKE),
    "reset-in-body": Way(says(lambda body: reply(body, length=9999), "reset"), TransportError, CUT),
    "closed-on": Way(says(lambda _: b"", "close"), TransportError, "closed the connection"),
    "closed-after": Way(says(reply, "close")),
    "closed-at-next": Way(closes_at_next_request),
    # Other than asked for
    "http-1.0": Way(says(lambda body: b"HTTP/1.0" + reply(body)[8:])),
    "http-1.0-until-close": Way(says(lambda body: b"HTTP/1.0 200 OK\r\n\r\n" + body, "close")),
    "greeting": Way(says(lambda _: b"220 mail.example ESMTP\r\n"), TransportError, NOT_HTTP),
    "br": Way(says(lambda _: reply(b"\x0b\x02\x80{}\x03", "Content-Encoding: br")), TransportError, "compressed"),
    "html": Way(says(lambda _: reply(b"<html>", "Content-Type: text/html")), BadReply, "an HTML page"),
    "redirect": Way(redirects, ApiError, "redirect"),
    "status-099": Way(says(lambda body: reply(body, status="099 Low")), ApiError, UNDOCUMENTED),
    "status-99": Way(says(lambda body: reply(body, status="99 Low")), TransportError, NOT_HTTP),
    "status-101": Way(
        says(lambda body: reply(body, "Connection: Upgrade", "Upgrade: websocket", status="101 Switch")),
        ApiError,
        UNDOCUMENTED,
    ),
    "status-204": Way(says(lambda _: b"HTTP/1.1 204 No Content\r\n\r\n"), BadReply, "got a 204"),
    "status-205": Way(says(lambda _: reply(b"", status="205 Reset")), BadReply, "got a 205"),
    "status-206": Way(says(lambda body: reply(body, status="206 Partial")), BadReply, "got a 206"),
    "status-999": Way(says(lambda body: reply(body, status="999 High")), ApiError, UNDOCUMENTED),
    "status-1000": Way(says(lambda body: reply(body, status="1000 High")), TransportError, NOT_HTTP),
    "429": Way(says(lambda _: reply(b"", "Retry-After: 61", status="429 Slow")), RateLimited, "429"),
    "status-500": Way(says(lambda _: reply(b"", status="500 Oh")), ServerError, "500"),
    "status-503": Way(says(lambda _: reply(b"", status="503 Oh", length=0)), ServerError, "503"),
    # With something beside it
    "set-cookie": Way(says(lambda body: reply(body, "Set-Cookie: crumb=1; Path=/"))),
    "control-bytes": Way(says(lambda body: reply(body, "X: \x01\x1b[31m\x7f\xff"))),
    "nul-byte": Way(says(lambda body: reply(body, "X: \x00")), TransportError, NOT_HTTP),
    "unasked-at-once": Way(says(lambda body: reply(body) + stranger())),
    "unasked-later": Way(answers_unasked_later),
    "unasked-endlessly": Way(answers_unasked_endlessly),
}


def way_of_name(card: str) -> str:
    """Misbehave to a card in the way it is named like."""
    return card if card in WAYS else HONEST


def ready(card: str) -> bytes:
    """Write the body of a card that is ready."""
    return json.dumps({"status": "READY", "kioskId": "WIS00001", "description": card}).encode()


class HostileServer(RawServer):
    """Serves the production status call on loopback, in the ways that `choose` picks for the cards.

    Args:
        choose: Which way, for the card's token.
        body_of: The honest body, for the card's token.
        pause: Seconds between the bytes of what is slow or endless; 0 for as fast as the client takes them.
        host: Where to listen.
    """

    def __init__(
        self,
        choose: Callable[[str], str] = way_of_name,
        body_of: Callable[[str], bytes] = ready,
        *,
        pause: float = 0.1,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(answer_nothing, host=host)
        self._choose = choose
        self._body_of = body_of
        self.pause = pause
        self.elsewhere = "https://elsewhere.invalid"
        self.log: list[Served] = []
        """What was made of each request."""

    def record(self, card: str, way: str, body: bytes | None = None) -> None:
        """Write a request into the log."""
        self.log.append(Served(card, way, body))

    async def read_card(self, reader: asyncio.StreamReader) -> str:
        """Read a request, and return its card's token."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        return head.split(" ", 2)[1].split("/")[-2]

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            card = await self.read_card(reader)
            way, body = self._choose(card), self._body_of(card)
            self.record(card, way, body if WAYS[way].error is None else None)
            await WAYS[way].misbehave(Exchange(self, reader, writer, body))
        await writer.wait_closed()  # with all that was written to it


# --- In a process of its own ---


def _serve_until_asked_to_end(pipe: Connection, make: Callable[[], HostileServer]) -> None:
    async def serve() -> None:
        async with make() as server:
            pipe.send(server.base_url)
            await asyncio.to_thread(pipe.recv)
        pipe.send(server.log)

    asyncio.run(serve())


@attrs.define
class FarServer:
    """A server in another process: where it is and, once it has ended, what it logged."""

    base_url: str
    log: list[Served] = attrs.field(factory=list[Served])


@contextlib.contextmanager
def in_another_process(make: Callable[[], HostileServer]) -> Generator[FarServer]:
    """Run the server that `make` makes in a process of its own; its log is there when it has ended."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_until_asked_to_end, args=(theirs, make), daemon=True)
    process.start()
    theirs.close()  # so that ours ends with the process

    def receive(what: str) -> Any:
        wait_until(what, ours.poll)
        return ours.recv()

    try:
        far = FarServer(receive("the address of the server"))
        yield far
        ours.send("end")
        far.log = receive("the log of the server")
    finally:
        process.kill()
        process.join(LIMIT)
        process.close()
        ours.close()
