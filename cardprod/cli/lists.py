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
from typing import TYPE_CHECKING, Final

import attrs

from cardprod.card_files import EXPECTED, BadRow, encoding_of, read_cards
from cardprod.cli.output.events import BadRowFound, Warned
from cardprod.cli.words import count_of
from cardprod.errors import UsageError
from cardprod.models import Card, KnownCard, ProductionStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from cardprod.cli.output import Output

_STDIN: Final = 0
_BLOCK: Final = 65_536
_LONGEST_LINE: Final = 1_048_576
_AHEAD: Final = 8
"""Blocks that are read before anybody wants them."""


@attrs.define
class CardList:
    """A list, or a part of one: its name for messages, its cards in their order, and its rows that are no cards.

    One card may come twice. `after` are the statuses that the list says are known, by card.
    """

    name: str
    cards: list[Card] = attrs.field(factory=list[Card])
    bad_rows: list[BadRow] = attrs.field(factory=list[BadRow])
    after: dict[Card, ProductionStatus] = attrs.field(factory=dict[Card, ProductionStatus])

    def add(self, row: Card | BadRow) -> None:
        """Add a row."""
        if isinstance(row, BadRow):
            self.bad_rows.append(row)
        elif isinstance(row, KnownCard):
            self.cards.append(Card(row.profile_id, row.card_token))
            self.after[row] = row.after
        else:
            self.cards.append(row)

    def check_not_empty(self) -> None:
        """Check that there is any row: `UsageError`."""
        if not (self.cards or self.bad_rows):
            raise UsageError(f"{self.name}: it has no cards; expected {EXPECTED}. With --allow-empty that is no error")


async def read_list(file: str, *, allow_empty: bool = False) -> CardList:
    """Read a list to its end: `UsageError` if it cannot be read, or is empty."""
    listed = CardList(_shown(file))
    async with aclosing(read_blocks(file)) as blocks:
        async for block in blocks:
            listed.cards += block.cards
            listed.bad_rows += block.bad_rows
            listed.after |= block.after
    if not allow_empty:
        listed.check_not_empty()
    return listed


async def read_blocks(file: str) -> AsyncGenerator[CardList]:
    """Iterate what comes of a list at once, of a file or of "-" for standard input: `UsageError` if it cannot be read.

    The thread that reads is not joined: it may be blocked until somebody types.
    """
    loop = asyncio.get_running_loop()
    blocks: asyncio.Queue[CardList | Exception | None] = asyncio.Queue()
    room = Semaphore(_AHEAD)
    is_wanted = True

    def hand_over(block: CardList | Exception | None) -> bool:
        room.acquire()
        with suppress(RuntimeError):  # the event loop is closed by now
            loop.call_soon_threadsafe(blocks.put_nowait, block)
        return is_wanted

    Thread(target=_read, args=(file, hand_over), daemon=True, name="cardprod list").start()
    try:
        while (block := await blocks.get()) is not None:
            room.release()
            if isinstance(block, OSError):
                raise UsageError(f"{_shown(file)} cannot be read: {block.strerror}") from block
            if isinstance(block, Exception):
                raise block
            yield block
    finally:
        is_wanted = False
        room.release(_AHEAD)


def warn_of_bad_rows(output: Output, cards: int, bad_rows: int) -> None:
    """Say why the exit code is 2 though nothing is wrong with any card."""
    why = f"{count_of(bad_rows, 'bad row')}, though all cards are produced" if cards else "no row of the list is a card"
    output.emit(Warned(f"the exit code is 2: {why}"))


def report_bad_rows(listed: CardList, output: Output, refusal: str | None = None) -> None:
    """Report the rows of a list that are no cards. With a refusal, any such row is a `UsageError` as well."""
    for row in listed.bad_rows:
        output.emit(BadRowFound(listed.name, row))
    if listed.bad_rows and refusal is not None:
        raise UsageError(refusal)


def _shown(file: str) -> str:
    return "standard input" if file == "-" else file


def _read(name: str, hand_over: Callable[[CardList | Exception | None], bool]) -> None:
    """Read a list, in a thread, and hand over its rows, what went wrong, and None in the end, while it is wanted."""
    found = CardList(_shown(name))

    def read() -> bytes:
        """Hand over what was read before, because what comes next may take long."""
        nonlocal found
        handed, found = found, CardList(found.name)
        if (handed.cards or handed.bad_rows) and not hand_over(handed):
            return b""
        # Not through sys.stdin, whose lock would be held when Python exits.
        return os.read(file, _BLOCK)

    try:
        file = _STDIN if name == "-" else os.open(name, os.O_RDONLY)
        try:
            for row in read_cards(_lines(read)):
                found.add(row)
        finally:
            if name != "-":
                os.close(file)
    except Exception as exc:  # noqa: BLE001 - a defect too: nobody else would end the wait for the next block
        hand_over(exc)
    else:
        hand_over(found)
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
