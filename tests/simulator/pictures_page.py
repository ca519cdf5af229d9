"""The picture of the simulator's page for README: `python -m tests.simulator.pictures_page tests/pictures/page.png`.

The page is the real one, in a real browser, and so is all that is seen on it: cards that were added and moved through
`Simulator`, requests of a real client, webhooks to a real server. Needs Chromium and chromedriver.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from aiohttp import web
from aiohttp.test_utils import TestServer

from cardprod import Backoff, CardprodError, Client
from cardprod.simulator import Fault, Simulator
from tests.simulator.browser import Browser
from tests.simulator.test_browser import furnish


async def main(path: str) -> None:
    """Take the picture."""
    app = web.Application()
    app.router.add_post("/wise", _take_webhook)
    async with TestServer(app) as endpoint, Simulator(port=8080, token=None, page=True) as kiosk:
        kiosk.subscribe(str(endpoint.make_url("/wise")))
        await furnish(kiosk)
        await use(kiosk)
        await asyncio.to_thread(_take, kiosk.base_url, path)


async def use(kiosk: Simulator) -> None:
    """Ask for the cards with a client, some of its requests failing."""
    kiosk.fail_next(Fault.reset())
    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        for card in kiosk.cards:
            with suppress(CardprodError):
                await client.get_status(card.profile_id, card.card_token)
        last = kiosk.cards[-1]
        await client.wait_until_final(last.profile_id, last.card_token, schedule=Backoff(first=0.5, factor=1))
    kiosk.fail_next(Fault.too_many_requests(5), times=3)
    kiosk.slow_down(2)


async def _take_webhook(_: web.Request) -> web.Response:
    return web.Response()


def _take(base_url: str, path: str) -> None:
    with Browser() as browser:
        browser.set_width(1280, 640)
        browser.open(base_url)
        browser.wait_for_text("#connection", "Live")
        browser.wait_for_text("#card-rows", "IN_PROGRESS")
        browser.driver.save_screenshot(path)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
