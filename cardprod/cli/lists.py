"""Lists of cards as they come to the command: a file, a pipe, or standard input, read in a thread while it goes on.

What a row means is decided in `card_files`.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import os
from contextlib import aclosing, suppress
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from cardprod.card_files import EXPECTED, BadRow, KnownCard, encoding_of, read_cards
from cardprod.errors import UsageError
from cardprod.models import Card, ProductionStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence

__all__ = ["CardList", "no_cards", "read_list", "read_rows", "shown_name"]

Rows: TypeAlias = "list[Card | KnownCard | BadRow]"

_STDIN: Final = 0
_BLOCK: Final = 65_536
_LONGEST_LINE: Final = 1_048_576
_AHEAD: Final = 8
"""Blocks that are read before anybody wants them."""


@attrs.frozen
class CardList:
    """A list that was read to its end.

    Args:
        name: Its name, for messages.
        cards: Its cards in their order; one may come twice.
        bad_rows: Its rows that are no cards.
        after: The statuses that it says are known, by card.
    """

    name: str
    cards: Sequence[Card]
    bad_rows: Sequence[BadRow]
    after: Mapping[Card, ProductionStatus] = attrs.field(factory=dict[Card, ProductionStatus])


def shown_name(name: str) -> str:
    """Return what a list is called in messages."""
    return "standard input" if name == "-" else name


def no_cards(name: str) -> UsageError:
    """Make the error for a list without anything in it."""
    return UsageError(f"{shown_name(name)}: it has no cards; expected {EXPECTED}. With --allow-empty that is no error")


async def read_list(name: str, *, allow_empty: bool = False) -> CardList:
    """Read a list to its end.

    Args:
        name: The file, or "-" for standard input.
        allow_empty: Accept a list without any row.

    Raises:
        UsageError: It cannot be read, or is empty.
    """
    cards: list[Card] = []
    bad_rows: list[BadRow] = []
    after: dict[Card, ProductionStatus] = {}
    async with aclosing(read_rows(name)) as blocks:
        async for rows in blocks:
            for row in rows:
                if isinstance(row, BadRow):
                    bad_rows.append(row)
                elif isinstance(row, Card):
                    cards.append(row)
                else:
                    cards.append(row.card)
                    after[row.card] = row.after
    if not (cards or bad_rows or allow_empty):
        raise no_cards(name)
    return CardList(shown_name(name), cards, bad_rows, after)


async def read_rows(name: str) -> AsyncGenerator[Rows]:
    """Iterate the rows of a list as they come, some at once.

    The thread that reads is not joined: it may be blocked until somebody types.

    Args:
        name: The file, or "-" for standard input.

    Raises:
        UsageError: It cannot be read.
    """
    loop = asyncio.get_running_loop()
    blocks: asyncio.Queue[Rows | OSError | None] = asyncio.Queue()
    room = Semaphore(_AHEAD)
    is_wanted = True

    def hand_over(rows: Rows | OSError | None) -> bool:
        room.acquire()
        with suppress(RuntimeError):  # the event loop is closed by now
            loop.call_soon_threadsafe(blocks.put_nowait, rows)
        return is_wanted

    Thread(target=_read, args=(name, hand_over), daemon=True, name="cardprod list").start()
    try:
        while (rows := await blocks.get()) is not None:
            room.release()
            if isinstance(rows, OSError):
                raise UsageError(f"{shown_name(name)} cannot be read: {rows.strerror}") from rows
            yield rows
    finally:
        is_wanted = False
        room.release(_AHEAD)


def _read(name: str, hand_over: Callable[[Rows | OSError | None], bool]) -> None:
    """Read a list, in a thread, and hand over its rows, what went wrong, and None in the end, while it is wanted."""
    rows: Rows = []

    def read() -> bytes:
        """Hand over what was read before, because what comes next may take long."""
        handed, rows[:] = [*rows], []
        if handed and not hand_over(handed):
            return b""
        # Not through sys.stdin, whose lock would be held when Python exits.
        return os.read(file, _BLOCK)

    try:
        file = _STDIN if name == "-" else os.open(name, os.O_RDONLY)
        try:
            for row in read_cards(_lines(read)):
                rows.append(row)
        finally:
            if name != "-":
                os.close(file)
    except OSError as exc:
        hand_over(exc)
    else:
        hand_over(rows)
        hand_over(None)


def _lines(read: Callable[[], bytes]) -> Iterator[str]:
    """Split what is read into lines, at the ends of lines of any system and at no other character."""
    block = read()
    while 0 < len(block) < 4 and b"\n" not in block and (more := read()):  # noqa: PLR2004 - as `encoding_of` needs
        block += more
    # What is not of the encoding does no harm in other columns; in a card's it makes a bad row.
    decoder = codecs.getincrementaldecoder(encoding_of(block))("replace")
    newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
    rest = ""
    while block:
        *lines, rest = (rest + newlines.decode(block)).split("\n")
        for line in lines:
            yield f"{line}\n"
        if len(rest) > _LONGEST_LINE:
            yield rest
            rest = ""
        block = read()
    rest += newlines.decode(b"", final=True)
    if rest:
        yield rest
