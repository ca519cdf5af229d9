"""A proxy before PostgreSQL whose connections can be frozen: half-open, as after a network that went away."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["FreezingProxy", "freezing_proxy"]

_KEEPALIVE: Final = 60.0
"""After so many seconds the network closes a frozen connection over which something was sent."""


class FreezingProxy:
    """Forwards bytes between two sockets, each in its folder, but for connections that are frozen, which stay open."""

    def __init__(self, target: str, directory: str) -> None:
        self._target = f"{target}/.s.PGSQL.5432"
        self.directory: str = directory
        self.fuse: list[bytes] = []
        """What must have passed, in this order, before the connections freeze."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def freeze(self) -> None:
        """Let no more bytes through on the connections that are open; new ones work."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a connection."""
        flowing = self._flowing
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        except OSError:  # the server is not there
            writer.close()
            return
        for one, other in ((reader, server_writer), (server_reader, writer)):
            task = asyncio.create_task(self._forward(one, other, flowing))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(65536):
                await asyncio.wait_for(flowing.wait(), _KEEPALIVE)
                writer.write(data)
                if self.fuse and self.fuse[0] in data:
                    del self.fuse[0]
                    if not self.fuse:
                        self.freeze()
        except (OSError, TimeoutError):
            pass  # one of the two ends has gone
        finally:
            writer.close()

    async def close(self) -> None:
        """End all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def freezing_proxy(target: str) -> AsyncGenerator[FreezingProxy]:
    """Run a proxy before the server whose socket is in a folder."""
    with tempfile.TemporaryDirectory(prefix="pgf") as directory:
        proxy = FreezingProxy(target, directory)
        server = await asyncio.start_unix_server(proxy.accept, f"{directory}/.s.PGSQL.5432")
        try:
            yield proxy
        finally:
            server.close()
            await proxy.close()
