"""`cardprod watch`: wait for all cards of a list."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cardprod._http.rate_limit import RateLimit
from cardprod.cli.arguments import add_connection, add_file, add_follow, add_list, add_timeout, count
from cardprod.cli.connection import make_client
from cardprod.cli.lists import read_list, report_bad_rows
from cardprod.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.output import Output

DOES: Final = """wait until all cards of a list are final, with a live view in a terminal

With --checkpoint the same command continues where it was, whatever ended it, even
kill -9: what was shown is in the file within a second, and is shown again only if
it was not, so append what it prints with >>. Cards that are final are not asked
for again, except that --follow waits again for those in an error status. Those whose
time ran out, or that had no usable answer, as after a 404, begin anew, and are shown
again. The time of the others goes on: --timeout counts
from when a card's wait began, and can be another one. Requests are counted anew:
if those of the run before make more than 1,000 a minute, the API says so, and that
is waited for. Ctrl-C is fine. When all are final, the file says so: remove it to
begin anew.

The file is an SQLite database, with a row for each card; its error is null unless
the card's wait ended with one, and begins anew with the next run:
  sqlite3 -csv -header FILE "SELECT profile_id, card_token, status, error_code,
    error, datetime(seen_at / 1000000, 'unixepoch') AS seen_at FROM card"

A list can name the status of a card that is known, to wait for what comes after it,
in the columns after_status, after_occurred_at and after_error_code. This is the list
of the cards that ended in an error status, to wait for them once they are retried:
  sqlite3 -csv -header FILE "SELECT profile_id, card_token, status AS after_status,
    strftime('%Y-%m-%dT%H:%M:%S', occurred_at / 1000000, 'unixepoch') ||
    printf('.%06dZ', occurred_at % 1000000) AS after_occurred_at,
    error_code AS after_error_code FROM card WHERE status LIKE '%ERROR'" > retry.csv

A list on standard input is read while its first cards are waited for already; with
--strict, and if it is a file, it is read to its end first.

Rows that are no cards are shown and counted, and the others go on."""

EXAMPLES: Final = """
  cardprod watch cards.csv
  cardprod watch cards.csv --checkpoint cards.state --timeout 2h
  list-cards | cardprod watch - --checkpoint cards.state --json >> steps.jsonl"""


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    add_list(to)
    add_file(to, "--checkpoint", help="keep in this file how far it is, and continue from it if it is there")
    add_timeout(to, math.inf, "none")
    add_follow(to)
    to.add_argument("--strict", action="store_true", help="begin nothing if a row of the list is no card")
    to.add_argument("--plain", action="store_true", help="lines instead of a live view, in a terminal too")
    limit = RateLimit()
    for name, most in (("second", limit.per_second), ("minute", limit.per_minute)):
        words = f"the most requests in a {name} (default {most:,})"
        to.add_argument(f"--per-{name}", type=count, default=most, metavar="N", help=words)
    add_connection(to)
    to.set_defaults(is_live=True)


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Wait for the cards."""
    # sqlite3 is nothing to import for another command.
    from cardprod.cli.watch.session import WatchSession, no_long_collections  # noqa: PLC0415
    from cardprod.cli.watch.store import CheckpointStore  # noqa: PLC0415

    client = make_client(arguments, RateLimit(per_second=arguments.per_second, per_minute=arguments.per_minute))
    if arguments.checkpoint is not None:
        _check_two_files(arguments.checkpoint, arguments.file)
    store = None if arguments.checkpoint is None else CheckpointStore(arguments.checkpoint)
    listed = None
    with no_long_collections():
        if arguments.file != "-" or arguments.strict:
            listed = await read_list(arguments.file, allow_empty=arguments.allow_empty)
            if arguments.strict and listed.bad_rows:
                because = "nothing was begun, because --strict accepts no bad rows: fix them, or run without it"
                report_bad_rows(listed, output, because)
        async with client:
            return await WatchSession(client, output, arguments, store).run(listed)


def _check_two_files(checkpoint: str, file: str) -> None:
    with suppress(OSError):  # one of them is not there
        if Path(checkpoint).samefile("/dev/stdin" if file == "-" else file):
            raise UsageError("--checkpoint names the list itself: name another file")
