"""What the arguments of several commands have in common: types, and options for a connection, a list, a database."""

from __future__ import annotations

import argparse
import math
import re
from functools import partial
from typing import Any, Final

from cardprod.errors import UsageError
from cardprod.models import Card

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+|\d+(?:\.\d+)?", re.ASCII)
_LONGEST: Final = 1e9


def duration(text: str) -> float:
    """Read a duration as people write it, such as 90, 10m or 1h30m; in seconds, infinite for "none"."""
    if text == "none":
        return math.inf
    if not _DURATION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"a duration is like 90 (seconds), 10m, 2h or 1h30m, or none; not {text!r}")
    parts: list[tuple[str, str]] = _PART.findall(text) or [(text, "")]
    if (seconds := sum(float(number) * _UNITS[unit] for number, unit in parts)) > _LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is too long; none is without end")
    return seconds


def _whole(text: str, least: int, most: int) -> int:
    """Read a whole number."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most:,}, not {text!r}")
    return number


count: Final = partial(_whole, least=1, most=10**9)
port: Final = partial(_whole, least=0, most=65_535)


def profile(text: str) -> int:
    """Read a profile's id."""
    try:
        return Card(int(text) if text.isascii() and text.isdigit() else 0, "any").profile_id
    except ValueError:
        words = f"a profile's id is a whole number, such as 123456, not {text!r}; the card comes after it"
        raise argparse.ArgumentTypeError(words) from None


def card_token(text: str) -> str:
    """Read a card's token."""
    try:
        return Card(1, text).card_token
    except UsageError:
        words = "a card's token has 1 to 128 characters of A-Z a-z 0-9 . _ ~ -, and is not . or .."
        raise argparse.ArgumentTypeError(f"{words}; not {text!r}") from None


def add_file(to: Any, *names: str, **more: Any) -> None:  # noqa: ANN401 - a parser or a group
    """Add an argument that is a file's name, which shells complete: shtab reads the attribute."""
    action = to.add_argument(*names, metavar="FILE", **more)
    action.complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "fish": "__fish_complete_path"}


def add_profile(to: argparse.ArgumentParser, **more: Any) -> None:  # noqa: ANN401 - argparse's own
    """Add the profile."""
    words = "the id of the profile that owns the card"
    to.add_argument("profile", type=profile, metavar="PROFILE", help=words, **more)


def add_list(to: argparse.ArgumentParser, *names: str, words: str = "", **more: Any) -> None:  # noqa: ANN401 - as above
    """Add a list of cards."""
    words += "CSV or JSON lines with profile_id and card_token; - for standard input"
    add_file(to, *names or ("file",), help=words, **more)
    to.add_argument("--allow-empty", action="store_true", help="a list without cards is no error")


def add_timeout(to: argparse.ArgumentParser, default: float, words: str) -> None:
    """Add `--timeout`."""
    words = f"stop waiting for a card after: 90 (seconds), 10m, 2h, or none (default {words})"
    to.add_argument("--timeout", type=duration, default=default, metavar="TIME", help=words)


def add_follow(to: argparse.ArgumentParser) -> None:
    """Add `--follow`."""
    words = "go on after an error status until the card is PRODUCED, within the same --timeout"
    to.add_argument("--follow", action="store_true", help=words)


def add_connection(to: argparse.ArgumentParser) -> None:
    """Add how the API is reached."""
    group = to.add_argument_group("connection")
    words = "an http proxy, or none; without it the environment's HTTPS_PROXY and NO_PROXY"
    group.add_argument("--proxy", metavar="URL", help=words)
    add_file(group, "--ca", help="the authorities to trust instead of the system's, PEM (or CARDPROD_CA)")
    add_file(group, "--cert", help="a client certificate, PEM (or CARDPROD_CERT)")
    add_file(group, "--key", help="its key, if it is not in the same file (or CARDPROD_KEY)")


def add_database(to: argparse.ArgumentParser) -> None:
    """Add `--database`, and where in it the tables are."""
    words = "PostgreSQL (default CARDPROD_DATABASE_URL, where its password is not seen; without one, a server is "
    words += "started for this user, which all of the user's commands share)"
    to.add_argument("--database", metavar="URL", help=words)
    words = "the schema of the tables (default CARDPROD_DATABASE_SCHEMA, or cardprod)"
    to.add_argument("--schema", metavar="NAME", help=words)
    words = "who made the tables, unless you, the database's owner or a superuser (default CARDPROD_DATABASE_OWNER)"
    to.add_argument("--owner", metavar="ROLE", help=words)
