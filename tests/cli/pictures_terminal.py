"""A picture of the live view of `cardprod watch`, for README: `python -m tests.cli.pictures_terminal watch.svg`.

It is of the real thing: the real client waits for cards at the simulated kiosk, over real HTTP and in virtual time, and
what is drawn is the frame that a terminal would show at that moment.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import re
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import attrs
import looptime
from rich.console import Console
from rich.terminal_theme import MONOKAI

from cardprod import Card, CardprodError, Client, RateLimit
from cardprod.cli.output.events import WatchStarted
from cardprod.cli.output.live import Seen, frame
from cardprod.cli.watch.stats import WatchStats
from cardprod.simulator import Fault, Simulator, Stage

CARDS: Final = 400
WIDTH: Final = 100
HEIGHT: Final = 26
MOMENT: Final = 13 * 60 + 20
"""Seconds after the beginning at which the picture is taken."""

JAM: Final = Stage("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM")
RIBBON: Final = Stage("PRODUCTION_ERROR", error_code="PRT_RIBBON_ENDED")
REJECTED: Final = Stage("REQUEST_ERROR", error_code="KIOSK_ID_NOT_FOUND")


def add_cards(kiosk: Simulator, random: Random) -> list[Card]:
    """Put cards on their way: most are printed after some minutes, some jam, and one is nobody's."""
    cards: list[Card] = []
    for _ in range(CARDS - 1):
        card = Card(123456, str(UUID(int=random.getrandbits(128), version=4)))
        ready, printing = random.uniform(30, 900), random.gauss(240, 40)
        end = random.choices([Stage("PRODUCED"), JAM, RIBBON, REJECTED], [90, 4, 2, 3])[0]
        between = [] if end is REJECTED else [("IN_PROGRESS", printing)]
        cards.append(kiosk.add(card, [("READY", ready), *between, end]))
    return [*cards, Card(123456, "nobodys-card")]


async def picture(name: str) -> None:
    """Watch, and take the picture."""
    random, limit = Random(7), RateLimit()
    loop = asyncio.get_running_loop()
    async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit) as client:
        began_at = loop.time()
        stats, latest = WatchStats(began_at), list[Seen]()
        stats.add(cards := add_cards(kiosk, random))
        async with client.wait_until_all_final(cards) as steps:

            async def read() -> None:
                async for card, result in steps:
                    outcome = result if isinstance(result, CardprodError) else result.current
                    is_end = isinstance(outcome, CardprodError) or outcome.is_final
                    stats.report(card, outcome, loop.time(), is_end=is_end)
                    latest.append(Seen.of(card, outcome, loop.time() - began_at))

            reading = asyncio.create_task(read())
            kiosk.fail_next(Fault.server_error(503), times=6)
            for _ in range(MOMENT):
                await asyncio.sleep(1)
                stats.progress(loop.time(), steps.progress.requests, client.paused_for)
            progress = stats.progress(loop.time(), steps.progress.requests, client.paused_for)
            reading.cancel()
    started = WatchStarted(
        "cards.csv", CARDS, ended=0, bad_rows=0, per_minute=limit.per_minute, checkpoint="cards.state", is_resumed=False
    )
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(frame(started, attrs.evolve(progress, saved_ago=0.4), latest, WIDTH, HEIGHT))
    svg = console.export_svg(title="cardprod watch cards.csv --checkpoint cards.state", theme=MONOKAI)
    # A reader of the picture is to fetch no fonts from elsewhere; any monospaced one does.
    await asyncio.to_thread(Path(name).write_text, re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), "utf-8")


def main() -> None:
    """Take the picture."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("name", help="the SVG to write")
    new_loop: Any = looptime.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(picture(arguments.parse_args().name))


if __name__ == "__main__":
    main()
