"""The `cardprod` command: parses, prints, exits. What it shows comes from the client; nothing is decided here.

Exit codes:

| code | meaning |
| --- | --- |
| 0 | produced (`status`, `wait` and `watch`; the others: it was done) |
| 1 | the card ended in PRODUCTION_ERROR or REQUEST_ERROR |
| 2 | usage: an argument or the environment cannot be right |
| 3 | not final yet: the wait timed out, or, for `status`, the card is still under way |
| 4 | the API or the network: no usable answer |
| 130 | Ctrl-C |

With `--json`, one JSON object per line on standard output, told apart by `type`:

| type | fields |
| --- | --- |
| `status` | `card status is_final kiosk_id occurred_at error_code error_origin error_meaning description` |
| `transition` | as `status`, with `previous` (a status or null), `elapsed` (seconds), `polls` |
| `error` | `card` or null, `error` (the class), `message` |
| `submitted` | `submit` only: `batch_id cards` |
| `batch` | `batch` only: the fields of `cardprod.durable.BatchStatus` |
| `summary` | `demo` only: `cards produced failed unfinished requests seconds` |
| `listening` | `simulate` only: `base_url plan`, with `--webhooks-to` also `public_key_url` |
| `request` | `simulate` only: `at method path http_status status fault` |

What `worker` tells are lines `transition` and `error` that also have `key` and `batch_id`: a line may come again, with
the same key. `card` is `{"profile_id": int, "card_token": str}`. Fields may be added; none will change its meaning.
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
