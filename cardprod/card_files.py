"""Reads lists of cards in CSV or JSON lines, as people and spreadsheets write them. Pure: lines in, cards out.

The first line that is not blank decides. If it begins with `{`, each line is a JSON object with `profile_id` and
`card_token`. Else the list is CSV, separated by commas, semicolons or tabs, or as `sep=` on the first line says. A CSV
list can begin with a header, in any case and order; without one, the first two columns are the two. A first row that
is neither ends the list: it may be a header with other names. Rows and lines without anything in them are skipped.

A row can name the status that is known of its card already, to wait for what comes after it: `after_status`,
`after_occurred_at` (ISO 8601, with its offset) and `after_error_code`, each as it was reported. Without the time, a
status that has one counts as a new one.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from contextlib import suppress
from datetime import datetime
from difflib import get_close_matches
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from cardprod.errors import UsageError
from cardprod.models import Card, KnownCard, ProductionStatus, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["EXPECTED", "BadRow", "KnownCard", "encoding_of", "read_cards"]

EXPECTED: Final = "profile_id,card_token"
"""The header that is expected."""

_NAMES: Final[dict[str, str]] = dict(zip(("profileid", "cardtoken"), EXPECTED.split(","), strict=True))
"""The two columns, without what people write differently, and as they are expected."""
_AFTER: Final = ("afterstatus", "afteroccurredat", "aftererrorcode")
_EXPECTED_OBJECT: Final = '{"profile_id": 123456, "card_token": "…"}'
_SEPARATORS: Final = ",;\t"
_MOST_SHOWN: Final = 9
_MOST_HEADER: Final = 100
"""Lines that a header can have."""

_SEP: Final = re.compile(r"\"?sep=([^\s\"]|\t)\"?\s*", re.IGNORECASE)
_FIRST_CELL: Final = re.compile(rf'\s*"?\d+"?\s*([{_SEPARATORS}])')
_BOMS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@attrs.frozen
class BadRow:
    """A row that is no card.

    Args:
        line: The number of the line that it begins on, from 1.
        reason: What is wrong with it, and what was expected.
        file: The name of the file, if the lines are one's.
    """

    line: int
    reason: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{'line ' if self.file is None else f'{self.file}:'}{self.line}: {self.reason}"


def encoding_of(beginning: bytes) -> str:
    """Return the encoding of a list by its first four bytes: UTF-8, or UTF-16 as spreadsheets export it."""
    for bom, encoding in _BOMS.items():
        if beginning.startswith(bom):
            return encoding
    # Without a mark, the first character decides: that of a list is ASCII, half of which is zero in UTF-16.
    if 0 not in beginning[:2]:
        return "utf-8"
    return "utf-16-be" if beginning[0] == 0 else "utf-16-le"


def read_cards(lines: Iterable[str]) -> Iterator[Card | BadRow]:
    """Read a list of cards from its lines, with their ends, one by one: the first card is there with its line.

    Args:
        lines: The lines, such as an open text file, by whose name a `BadRow` is then called.

    Returns:
        A `Card` for each row, a `KnownCard` for one that names its status, and a `BadRow` for one that is no card.

    Raises:
        UsageError: They are one text instead.
    """
    if isinstance(lines, str):
        raise UsageError("lines must be many, such as an open file, not one text: pass text.splitlines(keepends=True)")
    name = getattr(lines, "name", None)
    rows = _read(iter(lines))
    if not isinstance(name, str):
        return rows
    return (attrs.evolve(row, file=name) if isinstance(row, BadRow) else row for row in rows)


def _read(lines: Iterator[str]) -> Iterator[Card | BadRow]:
    before, first, separator = 0, "", None
    for before, first in enumerate(lines):
        first = first.removeprefix("\ufeff") if before == 0 else first  # noqa: PLW2901
        sep = None if separator else _SEP.fullmatch(first)
        if sep is not None:
            separator = sep[1]
        elif first.strip():
            break
    else:
        return
    if first.lstrip().startswith(("{", "[")):
        yield from _read_json_lines(chain([first], lines), before)
        return
    header = [first]
    for line in islice(lines, _MOST_HEADER if first.count('"') % 2 else 0):  # a line break within quotes
        header.append(line)
        if sum(one.count('"') for one in header) % 2 == 0:
            break
    yield from _read_csv(chain(header, lines), before, separator or _separator_of(header))


def _separator_of(header: list[str]) -> str:
    for separator in _SEPARATORS:
        if {*_NAMES} <= {*map(_plain, "".join(header).split(separator))}:
            return separator
    found = _FIRST_CELL.match(header[0])
    return found[1] if found else ","


def _plain(name: str) -> str:
    """Return a column's name without what people write differently: case, spaces and punctuation."""
    return re.sub(r"[\W_]", "", name).lower()


def _read_csv(lines: Iterator[str], before: int, separator: str) -> Iterator[Card | BadRow]:
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    header, positions, is_first = EXPECTED, dict(zip(_NAMES, (0, 1), strict=True)), True
    while True:
        line = before + reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as exc:
            last = before + reader.line_num
            until = f" (up to line {last})" if last > line else ""
            yield BadRow(line, f"this is not CSV{until}: {exc}; expected {header}")
            is_first = False
            continue
        if not any(cells):
            continue
        names = [_plain(cell) for cell in cells] if is_first else []
        if {*_NAMES} <= {*names}:
            header = separator.join(cells)
            if twice := [_NAMES[name] for name in _NAMES if names.count(name) > 1]:
                yield BadRow(line, f"the header has {' and '.join(twice)} twice; expected {EXPECTED}, each once")
                return  # which of the columns is meant is unknown
            positions = {name: names.index(name) for name in (*_NAMES, *_AFTER) if name in names}
        elif missing := {*_NAMES} - {*names} if {*_NAMES} & {*names} else set[str]():
            yield BadRow(line, f"the header has no {_NAMES[missing.pop()]}; expected {EXPECTED}, among any others")
            return  # which of the other columns it is, is unknown
        elif is_first and re.search(r"[^\W\d_]", cells[0]):
            yield BadRow(
                line,
                f"the first row is no card, because {_shown(cells[0])} is no number, and no header; expected {header}",
            )
            return  # which columns are meant is unknown
        elif len(cells) <= max(positions[name] for name in _NAMES):
            yield BadRow(line, f"the row has {len(cells)} columns; expected {header}")
        else:
            yield _card_of(line, {name: cells[at] for name, at in positions.items() if at < len(cells)})
        is_first = False


def _read_json_lines(lines: Iterator[str], before: int) -> Iterator[Card | BadRow]:
    for line, text in enumerate(lines, start=before + 1):
        if not text.strip():
            continue
        try:
            row: object = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            yield BadRow(line, f"the line is no JSON object; expected {_EXPECTED_OBJECT}")
            continue
        fields = {_plain(name): value for name, value in cast("dict[str, Any]", row).items()}
        if not {*_NAMES} <= fields.keys():
            yield BadRow(line, f"profile_id or card_token is missing; expected {_EXPECTED_OBJECT}")
        else:
            yield _card_of(line, fields)


def _card_of(line: int, fields: Mapping[str, Any]) -> Card | BadRow:
    profile_id, card_token = (fields[name] for name in _NAMES)
    try:
        if isinstance(profile_id, str) and profile_id.isascii() and profile_id.isdigit():
            profile_id = int(profile_id)
        if type(profile_id) is not int:
            raise UsageError(f"profile_id must be a whole number, such as 123456; this row has {_shown(profile_id)}")
        card, after = Card(profile_id, card_token), _status_of(*(fields.get(name) or None for name in _AFTER))
        return card if after is None else KnownCard(card.profile_id, card.card_token, after)
    except ValueError as exc:
        return BadRow(line, str(exc) if isinstance(exc, UsageError) else "profile_id is too long a number")


def _shown(value: object) -> str:
    """Show what a row has instead of an id, and no more of it than of a token, which it may be."""
    text = "nothing" if value is None or value == "" else ascii(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _status_of(status: object, occurred_at: object, error_code: object) -> ProductionStatus | None:
    if status is None:
        if occurred_at is not None or error_code is not None:
            raise UsageError("after_status must be given where after_occurred_at or after_error_code is")
        return None
    moment = None
    if occurred_at is not None:
        with suppress(ValueError, TypeError):
            moment = datetime.fromisoformat(cast("str", occurred_at))
        if moment is None or moment.tzinfo is None:
            wrong = f"{occurred_at!a:.40}"
            raise UsageError(
                f"after_occurred_at must be a time with its offset, such as 2026-11-26T09:30:00Z, not {wrong}"
            )
    if not isinstance(status, str) or not isinstance(error_code, str | None):
        raise UsageError("after_status and after_error_code must be texts, such as PRODUCTION_ERROR")
    # One that Wise does not document may have been reported; one that is nearly documented is mistyped.
    if status not in {*Status} and (meant := get_close_matches(status.upper(), [*Status], 1, 0.85)):
        raise UsageError(f"after_status must be as it was reported: {meant[0]}, not {status!a:.40}")
    return ProductionStatus(status, occurred_at=moment, error_code=error_code)
