"""A loopback server in a process of its own, fast enough not to be what is measured: it parses next to nothing.

It answers every GET with a card's production status, READY at first and PRODUCED from the `polls`-th time a path is
requested. No HTTP library, no JSON: the answers are constants.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import ssl
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from multiprocessing.connection import Connection


def _answer(status: str, kiosk: str) -> bytes:
    body = (
        f'{{"status":"{status}","kioskId":{kiosk},"occurredAt":"2024-01-01T12:24:56.124Z",'
        '"errorCode":null,"description":"Card ready for production"}'
    ).encode()
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        f"x-trace-id: 8b1c3a5e7d9f0b2d\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_READY = _answer("READY", "null")
_PRODUCED = _answer("PRODUCED", '"WIS00001"')


class _Kiosk(asyncio.Protocol):
    def __init__(self, polls: int, counts: dict[bytes, int]) -> None:
        self._polls = polls
        self._counts = counts
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # not an `asyncio.Transport` on every loop

    def data_received(self, data: bytes) -> None:
        *requests, self._pending = (self._pending + data).split(b"\r\n\r\n")
        for request in requests:
            self._transport.write(self._next_answer(request))

    def _next_answer(self, request: bytes) -> bytes:
        if self._polls <= 1:
            return _PRODUCED
        path = request.split(b" ", 2)[1]
        count = self._counts[path] = self._counts.get(path, 0) + 1
        return _PRODUCED if count % self._polls == 0 else _READY


def _serve(port: Connection, polls: int, certificate: str | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)

    async def serve() -> None:
        counts: dict[bytes, int] = {}
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Kiosk(polls, counts), "127.0.0.1", 0, backlog=4096, ssl=context)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        runner.run(serve())


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - where there is none, asyncio's own does
    except ImportError:
        return None
    return uvloop.new_event_loop


@attrs.frozen
class Server:
    """A server that is running.

    Args:
        port: Its port on 127.0.0.1.
        pid: Its process.
        trust: For a server that speaks TLS, a client's context that trusts it.
    """

    port: int
    pid: int
    trust: ssl.SSLContext | None = None

    @property
    def base_url(self) -> str:
        """Where it is."""
        return f"{'http' if self.trust is None else 'https'}://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """Give the CPU time that its process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(polls: int = 1) -> Generator[int, None, None]:
    """Run the server as `started` does, and give its port only."""
    with started(polls) as server:
        yield server.port


@contextmanager
def started(polls: int = 1, *, tls: bool = False) -> Generator[Server, None, None]:
    """Run the server until the block is left.

    Args:
        polls: Which answer for a path is PRODUCED; the ones before are READY.
        tls: Whether it speaks TLS, with a certificate of an authority made up for it (wants trustme).

    Yields:
        The server.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with ExitStack() as stack:
        trust, certificate = None, None
        if tls:
            trust, certificate = _made_up(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        process = context.Process(target=_serve, args=(theirs, polls, certificate), daemon=True)
        process.start()
        theirs.close()  # so that a server that does not start ends the waiting for its port
        try:
            yield Server(ours.recv(), process.pid or 0, trust)
        finally:
            process.terminate()
            process.join()


def _made_up(folder: Path) -> tuple[ssl.SSLContext, str]:
    """Make up an authority and a certificate of it; give what trusts the one, and the file of the other."""
    import trustme  # noqa: PLC0415 - only for TLS

    authority: Any = trustme.CA()  # its own annotations name a type that it does not bring
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return trust, str(folder / "server.pem")
