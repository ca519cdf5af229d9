"""`cardprod wait`: wait until a card is final, or produced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

from cardprod._polling.state import timed_out
from cardprod.cli.arguments import add_connection, add_profile, add_timeout, card_token
from cardprod.cli.connection import make_client
from cardprod.cli.exit_codes import NOT_FINAL, exit_code_of
from cardprod.cli.output.events import Result, last_seen_at
from cardprod.errors import WaitTimeout
from cardprod.models import Card

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.output import Output
    from cardprod.cli.parser import Commands
    from cardprod.models import ProductionStatus

__all__ = ["add", "run"]

_DOES = """wait until a card is final, and show each transition

PRODUCTION_ERROR and REQUEST_ERROR end it, but a card can be sent to the kiosk
again once the cause is gone: with --follow it goes on until the card is PRODUCED.
When its time runs out, the last status is shown as well."""


def add(to: Commands) -> None:
    """Add the command."""
    wait = to.add(
        "wait",
        run,
        _DOES,
        "cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52",
        "cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52 --timeout 10m && echo printed",
        "cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52 --follow --timeout 2h",
    )
    add_profile(wait)
    wait.add_argument("card", type=card_token, metavar="CARD", help="the card's token")
    add_timeout(wait, 900.0, "15m")
    wait.add_argument("--follow", action="store_true", help="go on after an error status, within --timeout")
    add_connection(wait)


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
                    seconds = elapsed + step.elapsed
                    output.emit(Result(attrs.evolve(step, elapsed=seconds, polls=polls + step.polls), card, seconds))
                    await output.drain()
            except WaitTimeout as error:
                if error.last is not None:
                    output.emit(Result(error.last, card, seen_at=last_seen_at(error)))
                ended = timed_out(card, error.last, polls + error.polls, elapsed + error.elapsed, error.__cause__)
                ended.checkpoint = error.checkpoint
                raise ended from error.__cause__
            if known is None:
                return NOT_FINAL
            polls += wait.polls
    return exit_code_of(known)
