"""Reads lists of cards in CSV or JSON lines: lines in, cards and bad rows out; no I/O.

A CSV file may begin with a header that contains `profile_id` and `card_token`; without one, these are its first two
columns. A line of JSON is an object with these two fields. Empty lines are skipped.
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, Final

import attrs

from cardprod.errors import UsageError
from cardprod.models import Card

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["BadRow", "read_cards"]

_COLUMNS: Final = ("profile_id", "card_token")


@attrs.frozen
class BadRow:
    """A line that could not be read as a card.

    Args:
        line: Its number, from 1.
        reason: What is wrong with it.
    """

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


def read_cards(lines: Iterable[str]) -> Iterator[Card | BadRow]:
    """Read a list of cards.

    Args:
        lines: The file's lines.

    Returns:
        A `Card` or a `BadRow` for each line that is not empty.
    """
    columns: tuple[str, ...] = _COLUMNS
    is_first = True
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("\ufeff")
        if not text:
            continue
        try:
            if text.startswith("{"):
                yield _card_of(json.loads(text))
            else:
                cells = [cell.strip() for cell in next(csv.reader([text], strict=True))]
                if is_first and set(_COLUMNS) <= set(cells):
                    columns = tuple(cells)
                else:
                    yield _card_of(dict(zip(columns, cells, strict=False)))
        except (ValueError, csv.Error, RecursionError) as exc:
            yield BadRow(number, str(exc) if isinstance(exc, UsageError) else "neither CSV nor a JSON object")
        is_first = False


def _card_of(row: dict[str, Any]) -> Card:
    for name in _COLUMNS:
        if name not in row:
            raise UsageError(f"no {name}: a row is profile_id,card_token")
    profile_id: object = row["profile_id"]
    if isinstance(profile_id, str) and profile_id.isascii() and profile_id.isdigit():
        profile_id = int(profile_id)
    if type(profile_id) is not int:
        raise UsageError("profile_id must be a whole number, such as 123456")
    return Card(profile_id, row["card_token"])
