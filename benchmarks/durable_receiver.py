"""An endpoint for webhooks in a process of its own, as a web application's is: it notes each event that it applied."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from cardprod.durable import Durable
from cardprod.errors import DurableError
from cardprod.webhooks import Verifier


async def main(database: str, key: str, file: str) -> None:
    """Print the endpoint's address, and apply what comes until the process is ended."""
    verifier = Verifier(Path(key).read_text("ascii"))  # noqa: ASYNC240 - it is small
    with Path(file).open("a", buffering=1, encoding="utf-8") as out:  # noqa: ASYNC230 - while it lives
        async with Durable(database) as durable:

            async def receive(request: web.Request) -> web.Response:
                event = verifier.parse(await request.read(), request.headers)
                received_at = time.time()
                try:
                    await durable.notify(event)
                except DurableError:
                    return web.Response(status=503)
                if event.card is not None and event.sent_at is not None:
                    took, late = time.time() - received_at, received_at - event.sent_at.timestamp()
                    card, is_final = event.card.card_token, event.status.is_final
                    out.write(json.dumps([card, is_final, late, received_at, took]) + "\n")
                return web.Response()

            app = web.Application()
            app.router.add_post("/", receive)
            async with TestServer(app) as server:
                print(server.make_url("/"), flush=True)
                await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
