"""A picture of the simulator's page, as README shows it.

`python -m tests.simulator.pictures_page OUT.png [--dark] [--width W]` makes it.

The page is the real one, in a real browser, and so is all that is seen on it: cards that were added and moved through
`Simulator`, requests of a real client, webhooks to a real server. Needs Chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from aiohttp import web

from cardprod import Backoff, CardprodError, Client
from cardprod.simulator import Fault, Simulator, Stage
from tests.simulator.browser import Browser

_CARDS = (
    "ca0c8154-1e14-4464-a1ce-dcea7dc3de52",
    "5c7a1d20-64a5-4f0e-9b52-0b6a4d6b7c11",
    "e3b1f0aa-7d5e-4c0b-8a41-2f6f2f0c9d02",
    "9f4e2c6b-0c1d-4b7e-a5d8-6e1f7a3b5c93",
    "1b8d7e3f-2a4c-4d6e-8f90-a1b2c3d4e5f6",
    "7d2f9a1c-5e3b-4c8d-b6a7-0f1e2d3c4b5a",
    "c4a8e6d2-9b1f-4e3a-8c7d-5b6a7f8e9d0c",
    "0e9d8c7b-6a5f-4e4d-b3c2-1a0f9e8d7c6b",
    "a7b6c5d4-e3f2-4a1b-9c0d-e8f7a6b5c4d3",
    "3c5e7a9b-1d2f-4b4c-a6d8-f0e1d2c3b4a5",
    "f8e7d6c5-b4a3-4291-80fe-dcba98765432",
    "62b4d6f8-0a1c-4e3e-9587-a9cbedf01234",
)


async def furnish(kiosk: Simulator, cards: int = 0) -> None:
    """Add twelve cards in all their states, and so many more, at three kiosks, one of them offline."""
    for number in range(cards):
        kiosk.add((123456, f"card-{number + 1:04}"), ("never", "jams", "prints", [("READY", 1e4)])[number % 4])
    kiosk.add_kiosk()
    kiosk.add_kiosk()
    ready, printing, produced, jammed, refused, waiting, held, again, *planned = [
        kiosk.add((123456, token), "never") for token in _CARDS
    ]
    del ready
    for card in (printing, produced, jammed, again):
        kiosk.start(card)
    kiosk.finish(produced)
    kiosk.fail(jammed, "PRD_FEEDER_JAM")
    kiosk.refuse(refused, "NO_BRANCH_LINKED_TO_KIOSK")
    kiosk.fail(again, "PRT_RIBBON_ENDED")
    kiosk.retry(again, kiosk_id="WIS00002")
    kiosk.start(held, kiosk_id="WIS00003")
    kiosk.take_offline("WIS00003")
    kiosk.start(waiting, kiosk_id="WIS00003")
    kiosk.add(planned[0], [Stage("READY", 240), Stage("PRODUCED")])
    kiosk.add(planned[1], [Stage("IN_PROGRESS", 90), Stage("PRODUCED")])
    kiosk.add(planned[2], [Stage("QUALITY_CHECK", 900), Stage("PRODUCED")])
    kiosk.add(planned[3], "prints")


async def use(kiosk: Simulator) -> None:
    """Ask for the cards with a client, some of its requests failing."""
    kiosk.fail_next(Fault.too_many_requests(0), times=1)
    kiosk.fail_next(Fault.reset())
    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        for card in kiosk.cards[-12:]:
            try:
                await client.get_status(card.profile_id, card.card_token)
            except CardprodError as error:
                sys.stderr.write(f"{error}\n")
        await client.wait_until_final(123456, _CARDS[11], schedule=Backoff(first=0.5, factor=1))
    kiosk.fail_next(Fault.too_many_requests(5), times=3)
    kiosk.slow_down(2)


async def _take_webhook(_: web.Request) -> web.Response:
    return web.Response()


async def main(arguments: argparse.Namespace) -> None:
    """Take the picture."""
    app = web.Application()
    app.router.add_post("/wise", _take_webhook)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with Simulator(port=arguments.port, token=None, page=True) as kiosk:
        kiosk.subscribe(f"http://127.0.0.1:{runner.addresses[0][1]}/wise")
        await furnish(kiosk, arguments.cards)
        await use(kiosk)
        await asyncio.to_thread(_take, kiosk.base_url, arguments)
    await runner.cleanup()


def _take(base_url: str, arguments: argparse.Namespace) -> None:
    with Browser(is_dark=arguments.dark) as browser:
        browser.set_width(arguments.width, arguments.height or 900)
        browser.open(base_url)
        browser.wait_for_text("#connection", "Live")
        browser.wait_for_text("#card-rows", "IN_PROGRESS")
        browser.save_picture(arguments.out, height=arguments.height)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulator.pictures_page", description="Take a picture of the page."
    )
    parser.add_argument("out", type=Path, help="where to put it")
    parser.add_argument("--dark", action="store_true", help="as those see it who like it dark")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels (default 1280)")
    parser.add_argument("--height", type=int, help="of the picture, in pixels; all of the page by default")
    parser.add_argument("--cards", type=int, default=0, help="so many cards more")
    parser.add_argument("--port", type=int, default=8080, help="which the picture shows (default 8080, 0 for any)")
    asyncio.run(main(parser.parse_args()))
