"""What the command reports: events in, and JSON lines, lines of text or a live view out."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TextIO

from cardprod.cli.output.json_lines import JsonLines
from cardprod.cli.output.streams import Stream
from cardprod.cli.output.text import TextLines

if TYPE_CHECKING:
    from typing import Self

    from cardprod.cli.output.events import Event

__all__ = ["Output"]


class Output:
    """What a command reports through: a renderer, and the stream that it writes to."""

    def __init__(self, renderer: JsonLines | TextLines, out: Stream) -> None:
        self.renderer: JsonLines | TextLines = renderer
        self._out = out

    @classmethod
    def to(cls, file: TextIO, *, as_json: bool = False, is_live: bool = False) -> Self:
        """Make the output to standard output: for programs, or for people, with a live view if that is possible."""
        out = Stream(file.fileno(), file.encoding)
        if as_json:
            return cls(JsonLines(out), out)
        renderer = TextLines(out)
        if file.isatty() or "FORCE_COLOR" in os.environ:  # else without rich, which takes longer than a request
            try:
                from cardprod.cli.output.live import renderer_for  # noqa: PLC0415 - an extra
            except ImportError:
                pass
            else:
                renderer = renderer_for(file, out, is_live=is_live)
        return cls(renderer, out)

    @property
    def kept(self) -> int:
        """How many bytes were emitted and are not written yet."""
        return self._out.kept

    def emit(self, event: Event) -> None:
        """Report an event; `OutputLost` if standard output cannot be written any more."""
        self.renderer.emit(event)

    def print_raw(self, text: str) -> None:
        """Write a text for another program as it is, such as SQL or a shell's script."""
        self._out.write(text)

    async def drain(self, limit: float | None = None) -> None:
        """Wait until everything that was emitted is written; or, after so many seconds, give up the rest."""
        try:
            await asyncio.wait_for(self._out.drain(), limit)
        except TimeoutError:
            self._out.drop()
