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
from random import Random
from uuid import UUID

from aiohttp import web
from aiohttp.test_utils import TestServer

from cardprod import Backoff, CardprodError, Client
from cardprod.simulator import Fault, Simulator, Stage
from tests.simulator.browser import Browser

_CARDS = [str(UUID(int=Random(seed).getrandbits(128), version=4)) for seed in range(12)]


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


async def main(arguments: argparse.Namespace) -> None:
    """Take the picture."""
    app = web.Application()
    app.router.add_post("/wise", _take_webhook)
    async with TestServer(app) as endpoint, Simulator(port=arguments.port, token=None, page=True) as kiosk:
        kiosk.subscribe(str(endpoint.make_url("/wise")))
        await furnish(kiosk, arguments.cards)
        await use(kiosk)
        await asyncio.to_thread(_take, kiosk.base_url, arguments)


async def _take_webhook(_: web.Request) -> web.Response:
    return web.Response()


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
