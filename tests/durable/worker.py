"""A worker for tests to kill: writes what it is told to a file, one line per step, before it says that it has it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cardprod import Client, RateLimit
from cardprod.durable import Durable, Step

if TYPE_CHECKING:
    from collections.abc import Sequence


async def main(database: str, file: str, heartbeat: float, per_second: int) -> None:
    """Work until SIGTERM. The kiosk's address and token are in the environment."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    out = Path(file).open("a", buffering=1, encoding="utf-8")  # noqa: ASYNC230, SIM115 - for as long as it lives

    async def on_steps(steps: Sequence[Step]) -> None:
        for step in steps:
            line = {"key": step.key, "card": step.card.card_token, "what": str(step.what), "final": step.is_final}
            out.write(json.dumps({**line, "at": time.time(), "pid": os.getpid()}) + "\n")

    async with (
        Client(
            os.environ["CARDPROD_TOKEN"],
            base_url=os.environ["CARDPROD_BASE_URL"],
            rate_limit=RateLimit(per_second, per_second * 60) if per_second else None,
        ) as client,
        Durable(database, heartbeat=heartbeat) as durable,
    ):
        await durable.work(client, on_steps, stop=stop)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
