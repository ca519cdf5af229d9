"""`cardprod wait`: wait until a card is final, or produced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from cardprod.cli.arguments import add_connection, add_follow, add_profile, add_timeout, card_token
from cardprod.cli.connection import make_client
from cardprod.cli.exit_codes import NOT_FINAL, exit_code_of
from cardprod.cli.follow import counted_on
from cardprod.cli.output.events import Result
from cardprod.errors import WaitTimeout
from cardprod.models import Card

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.output import Output
    from cardprod.models import ProductionStatus

DOES: Final = """wait until a card is final, and show each transition

PRODUCTION_ERROR and REQUEST_ERROR end it, but a card can be sent to the kiosk
again once the cause is gone: with --follow it goes on until the card is PRODUCED."""

EXAMPLES: Final = """
  cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52
  cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52 --timeout 10m && echo printed
  cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52 --follow --timeout 2h"""


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    add_profile(to)
    to.add_argument("card", type=card_token, metavar="CARD", help="the card's token")
    add_timeout(to, 900.0, "15m")
    add_follow(to)
    add_connection(to)


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Wait. What is waited for after an error status counts on: the time and the polls are of the whole command."""
    card = Card(arguments.profile, arguments.card)
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    known: ProductionStatus | None = None
    polls = 0
    async with make_client(arguments) as client:
        while known is None or (arguments.follow and not known.is_produced):
            elapsed = loop.time() - began_at
            timeout = max(0.0, arguments.timeout - elapsed)
            wait = client.wait_until_final(card.profile_id, card.card_token, timeout=timeout, after=known)
            try:
                async for step in wait:
                    known = step.current
                    is_followed = arguments.follow and not known.is_produced
                    shown = counted_on(card, step, elapsed, polls)
                    output.emit(Result(shown, card, elapsed + step.elapsed, is_followed=is_followed))
                    await output.drain()
            except WaitTimeout as error:
                if error.last is None:  # it is no result
                    raise
                output.emit(Result(counted_on(card, error, elapsed, polls), card, elapsed + error.elapsed))
                return NOT_FINAL
            polls += wait.polls
    return exit_code_of(known)
