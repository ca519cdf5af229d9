"""`cardprod submit`: hand cards over to workers."""

from __future__ import annotations

import asyncio
import math
import shlex
from typing import TYPE_CHECKING, Final

from cardprod._http.environment import base_url
from cardprod.cli.arguments import add_database, add_list, add_timeout
from cardprod.cli.connection import find_database
from cardprod.cli.exit_codes import PRODUCED
from cardprod.cli.lists import read_list, report_bad_rows
from cardprod.cli.output.events import Report, Warned
from cardprod.cli.words import count_of

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.output import Output

DOES: Final = """submit cards, to be waited for by workers

Only workers with the same CARDPROD_BASE_URL and a token of that name take them."""

EXAMPLES: Final = """
  cardprod submit cards.csv --timeout 2h
  list-cards | cardprod submit - --token my-bank"""


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    add_list(to)
    add_timeout(to, math.inf, "none")
    to.add_argument(
        "--token",
        default="default",
        metavar="NAME",
        help="poll with the token of this name: my-bank is a worker's CARDPROD_TOKEN_MY_BANK",
    )
    add_database(to)


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Submit all cards of a list, or none."""
    listed = await read_list(arguments.file, allow_empty=arguments.allow_empty)
    report_bad_rows(listed, output, "nothing was submitted, because of the bad rows: fix or remove them")
    async with await asyncio.to_thread(find_database, arguments) as durable:
        batch_id = await durable.submit(
            listed.cards, timeout=arguments.timeout, token=arguments.token, base_url=base_url(), after=listed.after
        )
    cards = len({*listed.cards})
    if not arguments.json:
        submitted = f"{count_of(cards, 'card')} submitted, for workers of {base_url()}"
        options = {"database": arguments.database and "URL", "schema": arguments.schema, "owner": arguments.owner}
        same = "".join(f" --{name} {shlex.quote(value)}" for name, value in options.items() if value)
        output.emit(Warned(f"{submitted}; see how far they are with `cardprod batch {batch_id}{same}`"))
    output.emit(Report(batch_id, "submitted", {"batch_id": batch_id, "cards": cards}))
    return PRODUCED
