"""`cardprod batch`: how far a submitted batch is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cardprod.cli.arguments import add_database
from cardprod.cli.database import find_database
from cardprod.cli.exit_codes import NOT_FINAL, PRODUCED
from cardprod.cli.output import BatchReported, CardFailed, StatusReported
from cardprod.models import ProductionStatus

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.arguments import Add
    from cardprod.cli.output import Output

__all__ = ["add"]


def add(to: Add) -> None:
    """Add the command."""
    batch = to(
        "batch",
        run,
        does="show how far a batch is",
        more="It exits with 3 while cards are pending.",
        examples=("cardprod batch ID", "cardprod batch ID --results --json", "cardprod batch ID --cancel"),
    )
    batch.add_argument("batch", metavar="BATCH", help="what `submit` printed")
    batch.add_argument("--results", action="store_true", help="show how each card ended, as far as it has")
    batch.add_argument("--cancel", action="store_true", help="stop waiting for its cards")
    add_database(batch)


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Show a batch, and its cards; or cancel it."""
    async with await asyncio.to_thread(find_database, arguments.database) as durable:
        if arguments.cancel:
            await durable.cancel(arguments.batch)
        status = await durable.status(arguments.batch)
        output.emit(BatchReported(status))
        if arguments.results:
            async for card, outcome in durable.results(arguments.batch):
                if isinstance(outcome, ProductionStatus):
                    output.emit(StatusReported(card, outcome))
                else:
                    output.emit(CardFailed(card, outcome))
                await output.drain()
    return NOT_FINAL if status.pending and status.cancelled_at is None else PRODUCED
