"""`cardprod demo`: seven cards at a simulated kiosk, and the real client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from cardprod._polling.backoff import Backoff
from cardprod.cli.exit_codes import PRODUCED
from cardprod.cli.output.events import Report, Result
from cardprod.client import Client
from cardprod.errors import WaitTimeout

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.output import Output
    from cardprod.models import ProductionStatus

_PLANS: Final = ("prints", "jams", "prints", "rejected", "retried", "never", "prints")
_UNLUCKY: Final = 2
"""The card whose first requests fail."""

_RETRIED: Final = 4
"""The card that is sent to the kiosk again."""

_SCHEDULE: Final = Backoff(first=0.4, factor=1.4, ceiling=1.0)
_TIMEOUT: Final = 9.0

DOES: Final = "wait for seven cards at a simulated kiosk, for ten seconds or so"

EXAMPLES: Final = """
  cardprod demo
  cardprod demo --json"""


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Add nothing: it takes none."""


async def run(_: argparse.Namespace, output: Output) -> int:
    """Play the scenes."""
    from cardprod.simulator import Fault, Simulator  # noqa: PLC0415 - other commands need no web server

    loop = asyncio.get_running_loop()
    began_at = loop.time()

    async def play(number: int) -> ProductionStatus | None:
        """Wait for one card; return its final status, None if it has none."""
        await asyncio.sleep(number * 0.3)  # people do not come to a kiosk all at once
        card = kiosk.add((123456, f"card-{number + 1}"), _PLANS[number])
        for fault in (Fault.server_error(503), Fault.reset()) if number == _UNLUCKY else ():
            kiosk.fail_next(fault, card=card)
        last: ProductionStatus | None = None
        is_followed = number == _RETRIED
        while last is None or (is_followed and not last.is_produced):
            if last is not None:
                output.emit(
                    Report(f"{card.card_token}: the ribbon is replaced, and the card is sent to the kiosk again")
                )
            wait = client.wait_until_final(
                card.profile_id, card.card_token, timeout=_TIMEOUT, schedule=_SCHEDULE, after=last
            )
            try:
                async for step in wait:
                    last = step.current
                    seconds = loop.time() - began_at
                    output.emit(Result(step, card, seconds, is_followed=is_followed and not last.is_produced))
            except WaitTimeout as error:
                output.emit(Result(error))
                return None
        return last

    async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url) as client:
        cards = len(_PLANS)
        output.emit(
            Report(f"A simulated kiosk at {kiosk.base_url}, {cards} cards, and the real client over real HTTP:")
        )
        finals = await asyncio.gather(*map(play, range(cards)))
        produced = sum(final is not None and final.is_produced for final in finals)
        counts = {"cards": cards, "produced": produced, "unfinished": finals.count(None)}
        counts["failed"] = cards - produced - counts["unfinished"]
        requests, seconds = len(kiosk.requests), round(loop.time() - began_at, 1)
        text = (
            f"\n{cards} cards: {produced} produced, {counts['failed']} ended in an error, {counts['unfinished']} "
            f"not final when its time ran out; {requests} requests in {seconds} s"
        )
        output.emit(Report(text, "summary", {**counts, "requests": requests, "seconds": seconds}))
    return PRODUCED
