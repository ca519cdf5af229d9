"""How much memory polls of a hostile server take at their peak, as a program: `python -m tests.http.peak own [WAY …]`.

It prints, for each way that sends much, or for those named, by how many bytes the process grew, as one JSON object.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp

from cardprod import CardprodError, Client
from tests.http.hostile import HONEST, WAYS, HostileServer, in_another_process

TIMEOUT: Final = 1.5
IDLE: Final = 1.5
_HIGH_WATER: Final = "VmHWM:"


def reset_peak() -> None:
    """Reset the peak, where the system can; elsewhere it only ever rises, and only the first way over it is seen."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """Return the largest resident size, in bytes."""
    # Linux's ru_maxrss counts what the parent had before this program was loaded into its child.
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(_HIGH_WATER))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def poll(client: Client, card: str) -> None:
    """Poll once, with whatever outcome."""
    with contextlib.suppress(CardprodError):
        await client.get_status(123456, card)


async def growth(base_url: str, way: str, *, is_borrowed: bool) -> int:
    """Poll one card, idle a while with the connection open, and return by how much the peak rose."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession()) if is_borrowed else None
        client = Client("token", base_url=base_url, session=session, request_timeout=TIMEOUT, attempts=1)
        await stack.enter_async_context(client)
        await poll(client, HONEST)
        gc.collect()
        reset_peak()
        before = peak()
        await poll(client, way)
        if WAYS[way].error is None:
            await asyncio.sleep(IDLE)
        return peak() - before


def main() -> None:
    """Measure every way that sends much, or those that are named."""
    is_borrowed = sys.argv[1] == "borrowed"
    much = ("endless", "gzip-bomb", "deflate-bomb", "gibibyte", "unasked-endlessly")
    floods = sys.argv[2:] or [way for way in WAYS if way.startswith(much)]
    with in_another_process(partial(HostileServer, pause=0)) as server:
        grown = {way: asyncio.run(growth(server.base_url, way, is_borrowed=is_borrowed)) for way in floods}
    sys.stdout.write(json.dumps(grown))


if __name__ == "__main__":
    main()
