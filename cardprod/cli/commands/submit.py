"""`cardprod submit`: hand cards over to workers."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from cardprod.cli.arguments import add_database, add_list, add_timeout
from cardprod.cli.database import find_database
from cardprod.cli.exit_codes import PRODUCED
from cardprod.cli.lists import read_list
from cardprod.cli.output import BadRowFound, BatchSubmitted
from cardprod.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.arguments import Add
    from cardprod.cli.output import Output

__all__ = ["add"]


def add(to: Add) -> None:
    """Add the command."""
    submit = to(
        "submit",
        run,
        does="submit cards, to be waited for by workers",
        examples=("cardprod submit cards.csv --timeout 2h", "list-cards | cardprod submit - --token my-bank"),
    )
    add_list(submit)
    add_timeout(submit, math.inf, "none")
    submit.add_argument("--token", default="default", metavar="NAME", help="the name of the token to poll with")
    add_database(submit)


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Submit all cards of a list, or none."""
    listed = await read_list(arguments.file, allow_empty=arguments.allow_empty)
    for row in listed.bad_rows:
        output.emit(BadRowFound(listed.name, row))
    if listed.bad_rows:
        raise UsageError("nothing was submitted, because of the bad rows")
    timeout = arguments.timeout if arguments.timeout < math.inf else None
    async with await asyncio.to_thread(find_database, arguments.database) as durable:
        batch_id = await durable.submit(listed.cards, timeout=timeout, token=arguments.token)
    output.emit(BatchSubmitted(batch_id, len(dict.fromkeys(listed.cards))))
    return PRODUCED
