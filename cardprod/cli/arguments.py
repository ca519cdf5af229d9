"""What the arguments of several commands have in common: types, and options for a connection, a list, a database."""

from __future__ import annotations

import argparse
import math
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from cardprod.errors import CardprodError, UsageError
from cardprod.models import Card

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cardprod.cli.output import Output

__all__ = [
    "LIST",
    "Add",
    "add_connection",
    "add_database",
    "add_json",
    "add_list",
    "add_timeout",
    "card_token",
    "completes_files",
    "count",
    "duration",
    "port",
    "profile",
]

LIST: Final = "CSV or JSON lines with profile_id and card_token; - for standard input"

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"(?:(?:\d+(?:\.\d+)?)[smhd])+|\d+(?:\.\d+)?", re.ASCII)
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)


class Add(Protocol):
    """Adds a command to the parser."""

    def __call__(
        self,
        name: str,
        run: Callable[[argparse.Namespace, Output], Awaitable[int]],
        *,
        does: str,
        examples: tuple[str, ...],
        more: str = "",
    ) -> argparse.ArgumentParser:
        """Add it.

        Args:
            name: Its name.
            run: Runs it, and returns the exit code.
            does: What it does, in a few words.
            examples: Command lines.
            more: What else its help says.
        """
        ...


# --- Types ---


def duration(text: str) -> float:
    """Read a duration as people write it, such as 90, 10m or 1h30m; in seconds, infinite for "none"."""
    if text == "none":
        return math.inf
    if not _DURATION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"a duration is like 90 (seconds), 10m, 2h or 1h30m, or none; not {text!r}")
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in _PART.findall(text))
    if seconds > 1e9:  # noqa: PLR2004 - thirty years, which clocks can still add to now
        raise argparse.ArgumentTypeError(f"{text} is too long; none is without end")
    return seconds


def count(text: str) -> int:
    """Read a whole number of 1 or more."""
    return _whole(text, 1, 10**9)


def port(text: str) -> int:
    """Read a port's number."""
    return _whole(text, 0, 65_535)


def _whole(text: str, least: int, most: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most:,}, not {text!r}")
    return number


def profile(text: str) -> int:
    """Read a profile's id."""
    try:
        return Card(int(text) if text.isascii() and text.isdigit() else 0, "any").profile_id
    except (CardprodError, ValueError):
        raise argparse.ArgumentTypeError(f"a profile's id is a whole number, such as 123456, not {text!r}") from None


def card_token(text: str) -> str:
    """Read a card's token."""
    try:
        return Card(1, text).card_token
    except UsageError:
        words = "a card's token has 1 to 128 characters of A-Z a-z 0-9 . _ ~ -, and is not . or .."
        raise argparse.ArgumentTypeError(f"{words}; not {text!r}") from None


# --- Options ---


def add_json(to: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    to.add_argument("--json", action="store_true", help="JSON lines instead of text")


def add_list(to: argparse.ArgumentParser) -> None:
    """Add the list of cards."""
    completes_files(to.add_argument("file", metavar="FILE", help=LIST))
    to.add_argument("--allow-empty", action="store_true", help="a list without cards is no error")


def add_timeout(to: argparse.ArgumentParser, default: float, words: str) -> None:
    """Add `--timeout`."""
    to.add_argument(
        "--timeout",
        type=duration,
        default=default,
        metavar="TIME",
        help=f"stop waiting for a card after: 90 (seconds), 10m, 2h, or none (default {words})",
    )


def add_connection(to: argparse.ArgumentParser) -> None:
    """Add how the API is reached."""
    group = to.add_argument_group("connection")
    group.add_argument(
        "--proxy", metavar="URL", help="an http proxy, or none; without it the environment's HTTPS_PROXY and NO_PROXY"
    )
    for name, words in (
        ("ca", "the authorities to trust instead of the system's, PEM"),
        ("cert", "a client certificate, PEM"),
        ("key", "its key, if it is not in the same file"),
    ):
        completes_files(group.add_argument(f"--{name}", metavar="FILE", help=f"{words} (or CARDPROD_{name.upper()})"))


def add_database(to: argparse.ArgumentParser) -> None:
    """Add `--database`."""
    to.add_argument(
        "--database",
        metavar="URL",
        help="PostgreSQL; better in CARDPROD_DATABASE_URL, where nobody else can read its password",
    )


def completes_files(action: argparse.Action) -> None:
    """Let shells complete the names of files; shtab reads this."""
    completes: Any = action
    completes.complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "fish": "__fish_complete_path"}
