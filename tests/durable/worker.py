"""A worker to kill: it writes each step that it is given to a file, a line for each, before it takes the next."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from cardprod import Client, RateLimit
from cardprod.durable import Durable, Step
from cardprod.durable.transitions import written_step

if TYPE_CHECKING:
    from collections.abc import Sequence

OFTEN: Final[dict[str, Any]] = {"poll": 0.05, "tick": 0.2, "recover": 1.0, "clear": 1.0}
"""What a worker does five to ten times as often in tests, which take real time."""


async def main(arguments: argparse.Namespace) -> None:
    """Work until SIGTERM. The kiosk's address is in the environment, the token there or in a file."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    out = Path(arguments.file).open("a", buffering=1, encoding="utf-8")  # noqa: ASYNC230, SIM115 - while it lives

    async def on_steps(steps: Sequence[Step]) -> None:
        for step in steps:
            line = {"key": step.key, "card": step.card.card_token, "what": str(step.what), "final": step.is_final}
            line["body"] = written_step(step.card, step.what)
            out.write(json.dumps({**line, "at": time.time(), "pid": os.getpid()}) + "\n")
        if arguments.stuck:
            await asyncio.Event().wait()

    async def token() -> str:
        return Path(arguments.token_file).read_text(encoding="ascii")  # noqa: ASYNC240 - it is small

    limit = RateLimit(arguments.per_minute, arguments.per_minute) if arguments.per_minute else None
    durable = Durable(arguments.database, heartbeat=arguments.heartbeat)
    if arguments.often:
        durable.settings = attrs.evolve(durable.settings, **OFTEN)
    async with (
        Client(
            token if arguments.token_file else os.environ["CARDPROD_TOKEN"],
            base_url=os.environ["CARDPROD_BASE_URL"],
            rate_limit=limit,
            safety_net=arguments.safety_net,
        ) as client,
        durable,
    ):
        await durable.work(client, on_steps, stop=stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database")
    parser.add_argument("file")
    parser.add_argument("heartbeat", type=float)
    parser.add_argument("--token-file", help="read the token from here, each time")
    parser.add_argument("--per-minute", type=int, help="the rate limit; without it there is none")
    parser.add_argument("--safety-net", type=float, default=300.0, help="seconds between polls while events come")
    parser.add_argument("--often", action="store_true", help="poll, tick and recover as often as in the tests")
    parser.add_argument("--stuck", action="store_true", help="never say that steps were taken")
    options = parser.parse_args()
    asyncio.run(main(options))
