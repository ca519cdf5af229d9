"""How tests run the `cardprod` command: in the test's own event loop and virtual time, or as a real process."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cardprod import cli
from tests.waiting import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from pathlib import Path

    from cardprod import Card


@contextmanager
def output_of(*argv: str) -> Generator[tuple[cli.Output, Callable[[], str]]]:
    """Make the output of a command, and what gives all that it has printed."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:

        def printed() -> str:
            return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()

        yield cli.Output.to(file, as_json="--json" in argv), printed


async def run(*argv: str) -> tuple[int, str]:
    """Run the command in this event loop; give its exit code and what it printed."""
    try:
        arguments = cli.make_parser().parse_args(argv)
    except SystemExit as exc:
        return int(exc.code or 0), ""
    with output_of(*argv) as (output, printed):
        return await cli.run(arguments, output), printed()


async def run_json(*argv: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the command with `--json`; give its exit code and what it printed, line by line."""
    exit_code, out = await run(*argv, "--json")
    return exit_code, [json.loads(line) for line in out.splitlines()]


def clean_environment(**environment: str) -> dict[str, str]:
    """Give this process's environment without what the command reads, and with this."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CARDPROD_")} | environment


def start_command(*argv: str, environment: Mapping[str, str] | None = None, **child: Any) -> Child:
    """Start the command, or a program after "-c", as a process, with these variables in its environment."""
    program = argv if argv[0] == "-c" else ("-m", "cardprod", *argv)
    return Child(sys.executable, "-P", *program, env=clean_environment(**environment or {}), **child)


def write_list(path: Path, cards: Iterable[Card], *more: str) -> str:
    """Write a list of cards, and more lines after them; give its name."""
    rows = [f"{card.profile_id},{card.card_token}" for card in cards]
    path.write_text("\n".join(["profile_id,card_token", *rows, *more, ""]))
    return str(path)
