"""`cardprod batch`: how far a submitted batch is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import attrs

from cardprod.cli.arguments import add_database
from cardprod.cli.connection import find_database
from cardprod.cli.exit_codes import NO_ANSWER, NOT_FINAL, PRODUCED
from cardprod.cli.output.events import Report, Result
from cardprod.cli.words import count_of

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.output import Output

DOES: Final = """show how far a batch is

It is finished when no card is pending, however they ended, and all was delivered.
A worker that was killed is counted for 15 s more."""

EXAMPLES: Final = """
  cardprod batch ID
  cardprod batch ID --results --json
  cardprod batch ID --cancel"""


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    to.add_argument("batch", metavar="BATCH", help="what `submit` printed")
    to.add_argument("--results", action="store_true", help="show how each card ended, as far as it has")
    to.add_argument("--cancel", action="store_true", help="stop waiting for its cards")
    add_database(to)


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Show a batch, and its cards; or cancel it."""
    async with await asyncio.to_thread(find_database, arguments) as durable:
        if arguments.cancel:
            await durable.cancel(arguments.batch)
        status = await durable.status(arguments.batch)
        ends = f"{status.produced} produced, {status.failed} failed, {status.errors} errors"
        if status.cancelled_at is not None:
            state = f"cancelled, {status.pending} not waited for any more"
        elif status.finished_at is not None:
            state = "finished"
        else:
            state = f"{status.pending} pending" + ("" if status.pending else ", not all delivered yet")
            state += f"; {count_of(status.workers, 'worker')}"
        text = f"{count_of(status.total, 'card')}: {ends}; {state}; {count_of(status.polls, 'poll')}"
        if status.token_refused_at is not None:
            text += f"; the token {status.token_name!r} is refused"
        if status.finished_at is None and not status.workers:
            text += f"; no worker has the token {status.token_name!r} for {status.base_url or 'any API'}"
        output.emit(Report(text, "batch", attrs.asdict(status)))
        if arguments.results:
            async for card, outcome in durable.results(arguments.batch):
                output.emit(Result(outcome, card, stored={"batch_id": arguments.batch}))
                await output.drain()
    if status.finished_at is None:
        return NOT_FINAL
    return PRODUCED if status.cancelled_at is None or arguments.cancel else NO_ANSWER
