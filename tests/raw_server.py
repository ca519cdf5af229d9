"""A server on loopback that answers with whatever bytes a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from typing import Self


def http_answer(http_status: int = 200, body: str = '{"status":"READY"}', **headers: str) -> bytes:
    """Write out an HTTP answer; `Retry_After="5"` makes a `Retry-After: 5`."""
    lines = [f"HTTP/1.1 {http_status} Whatever", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", body]).encode()


async def answer_nothing(_: asyncio.StreamWriter) -> None:
    """Answer nothing, and keep the connection open."""


class RawServer:
    """A server that lets `answer` write, once for each request, to the connection it came by."""

    def __init__(
        self,
        answer: Callable[[asyncio.StreamWriter], Awaitable[None]],
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._answer = answer
        self._tls = tls
        self._host = host
        self._port = 0
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()
        self.base_url = ""
        self.heads: list[str] = []
        """The head of each request, as it came."""
        self.bodies: list[str] = []
        """The body of each request."""
        self.times: list[float] = []
        """When each request came, on the loop's clock."""

    @classmethod
    def saying(cls, *answers: bytes, tls: ssl.SSLContext | None = None) -> Self:
        """Make a server that gives these answers, one after the other, and then the last one again and again."""

        async def answer(writer: asyncio.StreamWriter) -> None:
            writer.write(answers[min(len(server.heads), len(answers)) - 1])

        server = cls(answer, tls=tls)
        return server

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._serving)

    async def start(self) -> None:
        """Listen, the second time on the same port as the first."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port, ssl=self._tls, backlog=1000)
        self._port = self._server.sockets[0].getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.base_url = f"{'http' if self._tls is None else 'https'}://{host}:{self._port}"

    async def stop(self) -> None:
        """Stop listening, and drop every connection."""
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.sleep(0.01)  # closed transports take a few iterations of the loop to go

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with contextlib.suppress(OSError, EOFError):
                await self._converse(reader, writer)
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: *([0-9]+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            self.heads.append(head.decode())
            self.bodies.append(body.decode())
            self.times.append(asyncio.get_running_loop().time())
            await self._answer(writer)
            await writer.drain()
