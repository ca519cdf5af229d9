"""The `cardprod` command: parses, reports, exits. What it reports comes from the client; nothing is decided here.

`cardprod --help` lists the exit codes and the environment's variables. Results are on standard output; what is for
people, such as warnings, is text on standard error, with `--json` too.

With `--json`, one JSON object per line on standard output, distinguished by `type`:

| type | fields |
| --- | --- |
| `status` | `card status is_final kiosk_id occurred_at error_code error_origin error_meaning description seen_at` |
| `transition` | as `status`, with `previous` (a status or null), `elapsed` (seconds since its wait began), `polls` |
| `error` | `card` or null, `error` (the class), `message`; a `WaitTimeout` also: see below |
| `bad_row` | a row of a list that is no card: `line` (from 1), `reason` |
| `watching` | `watch`, first: `cards ended bad_rows checkpoint is_resumed`: see below |
| `progress` | `watch`, every 10 s, or every minute if nothing changes: see below |
| `summary` | `demo`: `cards produced failed unfinished requests seconds`; `watch`, last: see below |
| `submitted` | `submit` only: `batch_id cards` |
| `batch` | `batch` only: the fields of `cardprod.durable.BatchStatus` |
| `listening` | `simulate` only: `base_url plan`, with `--webhooks-to` also `public_key_url` |
| `request` | `simulate` only: `at method path http_status status fault` |
| `delivery` | `simulate --webhooks-to` only: `at status attempt http_status`, and the card, unless it is a test |

`watching` begins each run: `cards` and `bad_rows` count what is known then, of a list on standard input nothing;
`ended` is how many cards ended in earlier runs; `checkpoint` is the file's name or null, and `is_resumed` whether an
earlier run is continued from it. Both `progress` and the `summary` of `watch`
have `cards`, of which `produced`, `failed` (ended in an error status), `unfinished` (not final: under way, or their
time ran out) and `errors` (no usable answer) add up to all; `bad_rows`; `requests` and `seconds` of this run.
`progress` also has `pending` (what is waited for), `statuses` (how many of those were seen in which),
`requests_in_last_minute` and `seconds_left` (null if unknown). `summary` also has `ends`, a list of `name` (the status,
or the error's class), `error_code`, `meaning` and `cards`; and `stopped_by`: null, "SIGINT", "SIGTERM", or
"Unauthorized" if the token was refused.

`status`, `transition` and `error` have `is_last` where they have a card: it is true on the last line of each card,
which says how its wait ended, and only there; of a card that was still waited for when a run was stopped there is none.
`is_final` is about the status alone: with `--follow` an error status is final, and the wait goes on.

`card` is `{"profile_id": int, "card_token": str}`. `seen_at` is when the status was seen, or read from this command if
the reader is slow (UTC, ISO 8601); `occurred_at` is not that, nor when the status changed, but when the production
request was sent to the kiosk. The `error` of a card whose time ran out, a `WaitTimeout`, has its last `status`, or null
if there was no usable answer; with a status also the other fields of a line `status`; and `elapsed` and `polls`. With
`--follow`, these count on after an error status. What `worker` reports are lines `transition` and `error`
without `seen_at`, but with `key` and `batch_id`: a line can come again, with the same key. Those of `batch --results`
are `status` and `error`, with `batch_id` alone. Fields may be added; none will change its meaning.

`watch --checkpoint` shows of cards only what is new: append its output to a file with `>>`. After it was killed, it can
show a `transition` or `error` again. Each run reads the list anew, and shows its rows that are no cards: in a file of
several runs, those `bad_row` and that `summary` count that come after the last `watching`. The checkpoint
is an SQLite database with a row for each card: `cardprod watch --help` has a query for it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from typing import TYPE_CHECKING, Final

from cardprod.cli.exit_codes import DEFECT, INTERRUPTED, NO_ANSWER, exit_code_of
from cardprod.cli.output import Output
from cardprod.cli.output.events import Result
from cardprod.cli.output.streams import OutputLost, open_missing_streams, print_stderr
from cardprod.cli.parser import make_parser
from cardprod.cli.words import count_of, in_words
from cardprod.errors import CardprodError
from cardprod.models import one_line
from cardprod.telemetry import LOGGER

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["Output", "main", "make_parser", "run"]

_FEW_FAILED: Final = 3
_SUMMED_UP: Final = 30
"""Seconds after which it is printed how many more polls failed."""


class _Warnings(logging.Handler):
    """Prints warnings of the client as everything else is printed: without a handler Python does so as they come.

    Of polls that fail with the same error, the first few are printed, and then how many more there were.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._failed: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        error: str | None = getattr(record, "cardprod_error", None)
        if error is not None:
            count = self._failed[error] = self._failed.get(error, 0) + 1
            if count == 1:
                asyncio.get_running_loop().call_later(_SUMMED_UP, self._sum_up, error)
            if count > _FEW_FAILED:
                return
        print_stderr(f"cardprod: {one_line(in_words(record.getMessage()), 300)}")
        if record.exc_info:
            print_stderr(logging.Formatter().formatException(record.exc_info))

    def close(self) -> None:
        """Print what is still to be summed up."""
        for error in [*self._failed]:
            self._sum_up(error)
        super().close()

    def _sum_up(self, error: str) -> None:
        more = self._failed.pop(error, 0) - _FEW_FAILED
        if more > 0:
            print_stderr(f"cardprod: {count_of(more, 'more poll')} failed with {error} in the last {_SUMMED_UP} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; None takes the process's.

    Returns:
        The exit code.
    """
    open_missing_streams()
    try:
        arguments = make_parser().parse_args(argv)
        # Closed when this started, standard output is None.
        file = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - it stays open
        is_live = arguments.is_live and not arguments.plain
        return asyncio.run(run(arguments, Output.to(file, as_json=arguments.json, is_live=is_live)))
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputLost as lost:
        if lost.reason is not None:
            print_stderr(f"cardprod: standard output cannot be written: {lost.reason}")
        return NO_ANSWER
    except Exception:  # noqa: BLE001 - Python's exit code would say that a card ended in an error
        print_stderr(f"cardprod: a defect of this command, please report it:\n{traceback.format_exc()}")
        return DEFECT


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Run a parsed command inside an event loop."""
    # A watch counts the polls that failed, and shows why.
    handler = logging.NullHandler() if arguments.is_live else _Warnings()
    LOGGER.addHandler(handler)
    try:
        try:
            exit_code: int = await arguments.run(arguments, output)
        except CardprodError as error:
            output.emit(Result(error))
            exit_code = exit_code_of(error)
        await output.drain()
    finally:
        LOGGER.removeHandler(handler)
        handler.close()
        output.close()
    return exit_code
