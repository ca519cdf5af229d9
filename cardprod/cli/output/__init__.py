"""What the command reports: events in, and JSON lines, lines of text or a live view out."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TextIO

from cardprod._extras import needs_extra
from cardprod.cli.output.streams import Stream, print_stderr
from cardprod.cli.words import printable

if TYPE_CHECKING:
    from cardprod.cli.output.events import Event


class Output:
    """What a command reports through; a subclass decides how events are shown."""

    interval: float = 10.0
    """Seconds between two reports of progress."""
    redraws: bool = False
    """Whether progress takes the place of the progress before."""

    def __init__(self, stream: Stream) -> None:
        self.stream: Stream = stream
        """What it is written to; text for another program, such as SQL or a shell's script, goes there as it is."""

    @staticmethod
    def to(file: TextIO, *, as_json: bool = False, is_live: bool = False) -> Output:
        """Make the output to standard output: for programs, or for people, with a live view if that is possible."""
        from cardprod.cli.output.json_lines import JsonLines  # noqa: PLC0415 - they import this module
        from cardprod.cli.output.text import TextLines  # noqa: PLC0415

        stream = Stream(file.fileno(), file.encoding)
        if as_json:
            return JsonLines(stream)
        if file.isatty() or "FORCE_COLOR" in os.environ:  # else without rich, which takes longer than a request
            try:
                from cardprod.cli.output.live import output_to  # noqa: PLC0415 - an extra
            except ImportError:
                if is_live and file.isatty():
                    print_stderr(f"cardprod: {needs_extra('the live view', 'cli')}; or use --plain")
            else:
                return output_to(file, stream, is_live=is_live)
        return TextLines(stream)

    def emit(self, event: Event) -> None:
        """Report an event; `OutputLost` if standard output cannot be written any more."""
        raise NotImplementedError

    def note(self, text: str) -> None:
        """Write one line for people, beside the results."""
        print_stderr(f"cardprod: {printable(text)}")

    async def drain(self, limit: float | None = None) -> None:
        """Wait until everything that was emitted is written; or, after so many seconds, give up the rest."""
        try:
            await asyncio.wait_for(self.stream.drain(), limit)
        except TimeoutError:
            self.stream.drop()

    def close(self) -> None:
        """Leave standard output as it was."""
