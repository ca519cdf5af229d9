"""What the command reports: events in, and JSON lines, lines of text or a live view out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol, TextIO

from cardprod.cli.output.events import (
    BadRowFound,
    BatchReported,
    BatchSubmitted,
    CardFailed,
    CommandFailed,
    DemoEnded,
    Event,
    Notice,
    RequestLogged,
    SimulatorStarted,
    StatusReported,
    TransitionReported,
    Warned,
    WatchEnded,
    WatchProgress,
    WatchStarted,
)
from cardprod.cli.output.json_lines import JsonLines
from cardprod.cli.output.streams import OutputLost, Stream, open_missing_streams, print_stderr
from cardprod.cli.output.text import TextLines

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "BadRowFound",
    "BatchReported",
    "BatchSubmitted",
    "CardFailed",
    "CommandFailed",
    "DemoEnded",
    "Event",
    "Notice",
    "Output",
    "OutputLost",
    "RequestLogged",
    "SimulatorStarted",
    "StatusReported",
    "Stream",
    "TransitionReported",
    "Warned",
    "WatchEnded",
    "WatchProgress",
    "WatchStarted",
    "open_missing_streams",
    "print_stderr",
]


class Renderer(Protocol):
    """Shows events, to a program or to people."""

    @property
    def interval(self) -> float:
        """Seconds between two reports of progress."""
        ...

    @property
    def redraws(self) -> bool:
        """Whether progress takes the place of the progress before."""
        ...

    def emit(self, event: Event) -> None:
        """Show an event."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class Output:
    """What a command reports through.

    Args:
        renderer: Shows the events.
        out: Where it writes.
    """

    def __init__(self, renderer: Renderer, out: Stream) -> None:
        self._renderer = renderer
        self._out = out

    @classmethod
    def to(cls, file: TextIO, *, as_json: bool = False, is_live: bool = False) -> Self:
        """Make the output of a command.

        Args:
            file: Standard output, or a file in its place.
            as_json: For programs, not for people.
            is_live: Whether a live view may be shown, where there is a terminal and the extra `cli`.
        """
        out = Stream(file.fileno(), file.encoding)
        if as_json:
            return cls(JsonLines(out), out)
        return cls(_for_people(file, out, is_live=is_live), out)

    @property
    def interval(self) -> float:
        """Seconds between two reports of progress."""
        return self._renderer.interval

    @property
    def redraws(self) -> bool:
        """Whether progress takes the place of the progress before."""
        return self._renderer.redraws

    @property
    def kept(self) -> int:
        """How many bytes were emitted and are not written yet."""
        return self._out.kept

    def emit(self, event: Event) -> None:
        """Report an event.

        Raises:
            OutputLost: Standard output cannot be written any more.
        """
        self._renderer.emit(event)

    async def drain(self) -> None:
        """Wait until everything that was emitted is written.

        Raises:
            OutputLost: Standard output cannot be written any more.
        """
        await self._out.drain()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._renderer.close()


def _for_people(file: TextIO, out: Stream, *, is_live: bool) -> Renderer:
    if "FORCE_COLOR" not in os.environ and not file.isatty():
        return TextLines(out)  # without importing rich, which takes longer than a request
    try:
        from cardprod.cli.output.live import renderer_for  # noqa: PLC0415 - an extra
    except ImportError:
        return TextLines(out)
    return renderer_for(file, out, is_live=is_live)
