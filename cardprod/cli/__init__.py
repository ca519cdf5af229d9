"""The `cardprod` command: parses, prints, exits. What it shows comes from the client; nothing is decided here.

Exit codes:

| code | meaning |
| --- | --- |
| 0 | produced (`status`, `wait` and `watch`; the others: it was done) |
| 1 | the card ended in PRODUCTION_ERROR or REQUEST_ERROR |
| 2 | usage: an argument or the environment cannot be right; or, with many cards, a line of the list is no card |
| 3 | not final yet: the wait timed out, or, for `status`, the card is still under way |
| 4 | the API or the network: no usable answer |
| 130, 143 | Ctrl-C; SIGTERM, of `watch` |

With many cards the one that most needs attention decides: 4 if one has no usable answer, else 3 if one is not final,
else 1 if one ended in an error status, else 2 if a line was no card, else 0. With `--strict` such a line is refused
before anything is asked: 2.

With `--json`, one JSON object per line on standard output, told apart by `type`:

| type | fields |
| --- | --- |
| `status` | `card status is_final kiosk_id occurred_at error_code error_origin error_meaning description` |
| `transition` | as `status`, with `previous` (a status or null), `elapsed` (seconds), `polls` |
| `error` | `card` or null, `error` (the class), `message` |
| `bad_row` | `watch` and `status --file`: a line of the list that is no card: `line` (from 1), `reason` |
| `watching` | `watch`, first: `cards`, `ended` (in earlier runs), `bad_rows`, `checkpoint` (the file's name or null) |
| `progress` | `watch`, every 10 s, or every minute if nothing changes: see below |
| `summary` | `demo`: `cards produced failed unfinished requests seconds`; `watch`, last: see below |
| `submitted` | `submit` only: `batch_id cards` |
| `batch` | `batch` only: the fields of `cardprod.durable.BatchStatus` |
| `listening` | `simulate` only: `base_url plan`, with `--webhooks-to` also `public_key_url` |
| `request` | `simulate` only: `at method path http_status status fault` |

Both `progress` and the `summary` of `watch` have `cards`, of which `produced`, `failed` (ended in an error status),
`unfinished` (not final: under way, or their time ran out) and `errors` (no usable answer) add up to all; `bad_rows`;
`requests` and `seconds` of this run. `progress` also has `pending` (what is waited for), `statuses` (how many of
those were seen where), `requests_in_last_minute` and `seconds_left` (null if nobody knows). `summary` also has
`ends`, a list of `name` (the status, or the error's class), `error_code`, `meaning` and `cards`; and `stopped_by`:
null, "SIGINT", "SIGTERM", or "Unauthorized" if the token was refused.

What `worker` tells are lines `transition` and `error` that also have `key` and `batch_id`: a line may come again, with
the same key. `watch --checkpoint` may tell a `transition` or `error` again after it was killed. `card` is
`{"profile_id": int, "card_token": str}`. Fields may be added; none will change its meaning.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from cardprod.cli.arguments import parser
from cardprod.cli.exit_codes import INTERRUPTED, NO_ANSWER, exit_code_of
from cardprod.cli.reports import Report, report_to
from cardprod.errors import CardprodError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["Report", "main", "parser", "report_to", "run"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; None takes the process's.

    Returns:
        The exit code.
    """
    arguments = parser().parse_args(argv)
    report = report_to(sys.stdout, as_json=arguments.json)
    try:
        return asyncio.run(run(arguments, report))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_ANSWER


async def run(arguments: argparse.Namespace, report: Report) -> int:
    """Run a parsed command inside an event loop, and say how it ended."""
    try:
        exit_code: int = await arguments.run(arguments, report)
    except CardprodError as error:
        report.error(error)
        return exit_code_of(error)
    return exit_code
