"""Lists of cards as the command gets them: a file, or standard input, read to its end.

What a line means is `card_files`' business.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final

import attrs

from cardprod.card_files import BadRow, read_cards
from cardprod.errors import UsageError
from cardprod.models import Card

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CardList", "read_list"]

_SHOWN_ROWS: Final = 10
_STDIN: Final = 0
_AT_ONCE: Final = 65_536


@attrs.frozen
class CardList:
    """What a list holds.

    Args:
        name: What it is called: the file's name, or "standard input".
        cards: The cards, in their order; one may come twice.
        bad_rows: The lines that are no cards.
    """

    name: str
    cards: Sequence[Card]
    bad_rows: Sequence[BadRow]

    @property
    def complaint(self) -> str:
        """Which lines are no cards, and why, in one line; of very many the first."""
        more = len(self.bad_rows) - _SHOWN_ROWS
        shown = "; ".join(map(str, self.bad_rows[:_SHOWN_ROWS]))
        return f"{self.name}: {shown}" + (f", and {more} more" if more > 0 else "")

    def refuse_bad_rows(self, *, so: str) -> None:
        """Refuse the list if it has a line that is no card.

        Args:
            so: What was not done because of it, such as "nothing was submitted".

        Raises:
            UsageError: It has such lines; which.
        """
        if self.bad_rows:
            raise UsageError(f"{self.complaint}; {so}")


async def read_list(name: str) -> CardList:
    """Read a list of cards, to its end.

    Args:
        name: The file, or "-" for standard input.

    Raises:
        UsageError: It cannot be read.
    """
    called = "standard input" if name == "-" else name
    try:
        read = await (_standard_input() if name == "-" else asyncio.to_thread(Path(name).read_bytes))
        return await asyncio.to_thread(_card_list, called, read.decode())
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{called} cannot be read: {getattr(exc, 'strerror', None) or 'it is not UTF-8'}") from exc


def _card_list(name: str, text: str) -> CardList:
    cards: list[Card] = []
    bad_rows: list[BadRow] = []
    for row in read_cards(text.splitlines()):
        if isinstance(row, Card):
            cards.append(row)
        else:
            bad_rows.append(row)
    return CardList(name, cards, bad_rows)


async def _standard_input() -> bytes:
    """Read standard input in a thread that nobody waits for: somebody may type, and then press Ctrl-C."""
    loop = asyncio.get_running_loop()
    read: asyncio.Future[bytes] = loop.create_future()

    def settle(text: bytes | OSError) -> None:
        if read.done():
            return  # cancelled meanwhile
        if isinstance(text, OSError):
            read.set_exception(text)
        else:
            read.set_result(text)

    def work() -> None:
        text: bytes | OSError
        try:
            # Not through sys.stdin, whose lock would be held when Python exits.
            text = b"".join(iter(lambda: os.read(_STDIN, _AT_ONCE), b""))
        except OSError as exc:
            text = exc
        with suppress(RuntimeError):  # the loop is closed by now
            loop.call_soon_threadsafe(settle, text)

    Thread(target=work, daemon=True).start()
    return await read
