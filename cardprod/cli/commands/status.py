"""`cardprod status`: request the status of one card, or of each of many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cardprod.cli.arguments import add_connection, add_list, add_profile, card_token
from cardprod.cli.connection import make_client
from cardprod.cli.exit_codes import USAGE, exit_code_of, worst_of
from cardprod.cli.lists import CardList, read_list, report_bad_rows, warn_of_bad_rows
from cardprod.cli.output.events import Result, Warned
from cardprod.cli.output.text import TOKEN_REFUSED
from cardprod.errors import Unauthorized, UsageError
from cardprod.models import Card

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.output import Output

DOES: Final = "request the status of a card, or of each of many, once"

EXAMPLES: Final = """
  cardprod status 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52
  cardprod status 123456 card-1 card-2 card-3
  cardprod status --file cards.csv --json"""


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    add_profile(to, nargs="?")
    to.add_argument("cards", nargs="*", type=card_token, metavar="CARD", help="a card's token")
    add_list(to, "--file", words="a list of cards instead: ")
    to.add_argument("--strict", action="store_true", help="request nothing if a row of the list is no card")
    add_connection(to)


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Request the statuses."""
    profile_id: int | None = arguments.profile
    if (arguments.file is None) == (profile_id is None) or (profile_id is None) != (not arguments.cards):
        raise UsageError("name either PROFILE CARD [CARD …] or a list of cards with --file")
    client = make_client(arguments)
    if profile_id is None:
        listed = await read_list(arguments.file, allow_empty=arguments.allow_empty)
    else:
        listed = CardList("", [Card(profile_id, token) for token in arguments.cards])
    because = "nothing was requested, because --strict accepts no bad rows: fix them, or run without it"
    report_bad_rows(listed, output, because if arguments.strict else None)
    codes = {USAGE} if listed.bad_rows else set[int]()
    async with client:
        if profile_id is not None and len(listed.cards) == 1:
            [card] = listed.cards
            status = await client.get_status(card.profile_id, card.card_token)
            output.emit(Result(status, card))
            return exit_code_of(status)
        async with client.get_statuses(listed.cards) as pairs:
            async for card, outcome in pairs:
                codes.add(exit_code_of(outcome))
                output.emit(Result(outcome, card))
                await output.drain()
                if isinstance(outcome, Unauthorized):  # every other card would get the same answer
                    output.emit(Warned(f"stopped, because {TOKEN_REFUSED}"))
                    break
    if (exit_code := worst_of(codes)) == USAGE:
        warn_of_bad_rows(output, len(listed.cards), len(listed.bad_rows))
    return exit_code
