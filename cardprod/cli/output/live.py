"""For a terminal, with the extra `cli`: lines in colours, and the live view of a watch. Only this module knows rich.

A frame is made of counts, so it costs the same for ten cards as for a million.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TextIO

import attrs
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cardprod.cli.output import events
from cardprod.cli.output.text import (
    TextLines,
    headline,
    outcome_text,
    pending_counts,
    status_of,
    stop_message,
    trouble,
)
from cardprod.cli.words import clock, count_of, printable, roughly, whole
from cardprod.models import FINAL_STATUSES, Card, Transition, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cardprod.cli.output.streams import Stream
    from cardprod.cli.watch.stats import OutcomeKind
    from cardprod.errors import CardprodError
    from cardprod.models import ProductionStatus

_ERROR: Final = "bold red"
_COLOURS: Final = {
    "READY": "cyan",
    "IN_PROGRESS": "yellow",
    "PRODUCED": "bold green",
    "PRODUCTION_ERROR": _ERROR,
    "REQUEST_ERROR": _ERROR,
}
_FAILED: Final = FINAL_STATUSES - {"PRODUCED"}
_OTHER: Final = "magenta"
"""The colour of what is no documented status."""

_FASTEST: Final = 0.2
_SHARE: Final = 0.05
"""The most of the time that may be spent on drawing."""

_KINDS: Final = 6
_LATEST: Final = 8
_NAMED: Final = 20
_NARROW: Final = 72
"""Columns below which details are left out."""

_METER: Final = 20
_CLOCK: Final = 10
_WORDS: Final = 24
"""Columns that a card's status has beside its token, and those that a token has at least."""
_CARD: Final = 12


def output_to(file: TextIO, stream: Stream, *, is_live: bool) -> TextLines:
    """Make the output to a terminal: a live view, or lines, in colours if it has them."""
    written: Any = SimpleNamespace(
        encoding=file.encoding, isatty=file.isatty, fileno=file.fileno, write=stream.write, flush=lambda: None
    )
    console = Console(file=written, highlight=False)
    if not console.is_terminal:
        return TextLines(stream)

    def paint(text: str, status: str | None) -> str:
        with console.capture() as capture:
            console.print(Text(text, style=_COLOURS.get(status or "", "")), soft_wrap=True, end="")
        return capture.get()

    # FORCE_COLOR makes rich take a log file for a terminal: good for colours, but nothing can move in it.
    if is_live and file.isatty() and console.is_interactive and not console.options.ascii_only:
        return LiveView(console, stream, paint)
    return TextLines(stream, paint)


@attrs.frozen
class Seen:
    """A result of a card as the view shows it; without a status it is an error."""

    card: str
    words: str
    status: str | None
    seconds: float

    @classmethod
    def of(cls, card: Card, outcome: ProductionStatus | Transition | CardprodError, seconds: float) -> Seen:
        """Return what is shown of a result: of a transition, the status that it led to."""
        now = outcome.current if isinstance(outcome, Transition) else outcome
        return cls(whole(card), outcome_text(now), status_of(now), seconds)


class LiveView(TextLines):
    """Draws a watch in the same place again and again; in the end only its summary stays."""

    redraws = True
    interval: float = _FASTEST

    def __init__(self, console: Console, stream: Stream, paint: Callable[[str, str | None], str]) -> None:
        super().__init__(stream, paint)
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._latest: deque[Seen] = deque(maxlen=_LATEST)
        self._named: list[Seen] = []  # the first cards that were not produced

    def emit(self, event: events.Event) -> None:
        """Show an event."""
        match event:
            case events.Result(outcome, Card() as card, seconds):
                self._latest.append(seen := Seen.of(card, outcome, seconds or 0.0))
                if (seen.status is None or seen.status in _FAILED) and len(self._named) < _NAMED:
                    self._named.append(seen)
            case events.WatchStarted():
                self._started = event
                self._live.start()
            case events.WatchProgress() if self._started is not None:
                began = perf_counter()
                self._live.update(frame(self._started, event, self._latest, *self._console.size), refresh=True)
                self.interval = max(_FASTEST, (perf_counter() - began) / _SHARE)
            case events.WatchEnded(progress):
                self._live.stop()
                self._summarize(event, progress)
            case _:
                super().emit(event)

    def note(self, text: str) -> None:
        """Write one line, above the view if that is shown."""
        if self._live.is_started:
            self._console.print(Text(f"cardprod: {printable(text)}"), soft_wrap=True)
        else:
            super().note(text)

    def close(self) -> None:
        """Take the view away, and give the cursor back."""
        self._live.stop()

    def _summarize(self, event: events.WatchEnded, progress: events.WatchProgress) -> None:
        for seen in self._named:
            self.line(f"{clock(seen.seconds):>8}  {seen.card}  {seen.words}", seen.status)
        if (more := progress.failed + progress.errors - len(self._named)) > 0 and self._named:
            self.line(f"{'…':>8}  and {more:,} more; --plain and --json show all")
        self.line(headline(progress))
        for text in _counts(progress):
            self._console.print(text, no_wrap=True, overflow="ellipsis")
        if words := stop_message(event):
            self.note(words)


# --- A frame ---


def frame(
    started: events.WatchStarted, progress: events.WatchProgress, latest: Iterable[Seen], width: int, height: int
) -> Group:
    """Draw how far a watch is, in fewer rows than the terminal has, none longer than it is wide."""
    width = max(width, 1)
    lines = [_title(started, progress, width), _bar(progress, width), Text(), *_counts(progress), Text()]
    lines += _requests(started, progress, width)
    if (room := height - len(lines) - 2) > 0 and (shown := list(latest)[-min(_LATEST, room) :]):
        lines += [Text(), *_results(shown, width)]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return Group(*lines[: max(1, height - 1)])


def _title(started: events.WatchStarted, progress: events.WatchProgress, width: int) -> Text:
    name = printable(one_line(started.name, 60))
    left = Text.assemble((name, "bold"), f"  {count_of(progress.cards, 'card')}")
    if progress.bad_rows:
        left.append(f", {count_of(progress.bad_rows, 'bad row')}", "red")
    right = Text(f"{clock(progress.seconds)}, {roughly(progress.seconds_left)} left")
    room = max(1, width - right.cell_len - 2)
    left.truncate(room, overflow="ellipsis", pad=True)
    return Text.assemble(left, "  ", right)


def _bar(progress: events.WatchProgress, width: int) -> Text:
    """Draw how many cards have ended, each kind in its colour, and thin the rest."""
    label = f"  {progress.cards - progress.pending:,} of {progress.cards:,}"
    length = max(0, width - cell_len(label))
    bar = Text()
    passed = 0
    for kind, count in sorted(progress.ends, key=_weight):
        passed += count
        end = passed * length // max(1, progress.cards)
        bar.append("━" * (end - len(bar)), _COLOURS.get(kind.name, _OTHER))
    return bar.append("─" * (length - len(bar)), "dim").append(label, "bold")


def _weight(counted: tuple[OutcomeKind, int]) -> tuple[int, int]:
    """Put what is well first, then the most frequent."""
    kind, count = counted
    return kind.exit_code > 0, -count


def _counts(progress: events.WatchProgress) -> list[Text]:
    """Show how many cards are in which status, and how the others ended."""
    ends = sorted(progress.ends, key=_weight)
    codes = max((len(kind.name) for kind, _ in ends[:_KINDS] if kind.error_code), default=0)
    rows = [(count, name, _COLOURS.get(name, "dim"), "") for name, count in pending_counts(progress)]
    for kind, count in ends[:_KINDS]:
        name = kind.name if kind.error_code is None else f"{kind.name:<{codes}}  {kind.error_code}"
        name, meaning = (name, kind.meaning or "") if kind.is_status else (str(kind.meaning), "")
        rows.append((count, name, _COLOURS.get(kind.name, _OTHER), meaning))
    if others := ends[_KINDS:]:
        rows.append((sum(count for _, count in others), f"in {len(others)} other ways", "dim", ""))
    width = max((len(f"{count:,}") for count, *_ in rows), default=0)
    return [
        Text.assemble((f"  {count:>{width},}  ", "bold"), (printable(name), style), (printable(f"  {more}"), "dim"))
        for count, name, style, more in rows
    ]


def _requests(started: events.WatchStarted, progress: events.WatchProgress, width: int) -> list[Text]:
    """Show how much of the rate limit is used, and what is in the way."""
    used, most = progress.requests_in_last_minute, started.per_minute
    lines = [Text(f"{used:,} of {most:,} requests in the last minute")]
    if width >= _NARROW:
        filled = min(_METER, -(-used * _METER // most))
        lines[0].append("  ").append("━" * filled, "blue").append("─" * (_METER - filled), "dim")
        lines[0].append(f"  {progress.requests:,} in all", "dim")
    if progress.paused_for > 0:
        lines.append(Text(f"paused for {progress.paused_for:.0f} s more, as the API asked", "yellow"))
    if words := trouble(progress):
        lines.append(Text(printable(words), "yellow"))
    if started.checkpoint is not None:
        ago = "" if progress.saved_ago is None else f"  saved {clock(progress.saved_ago)} ago"
        lines.append(Text(f"checkpoint {printable(started.checkpoint)}{ago}", "dim"))
    return lines


def _results(shown: list[Seen], width: int) -> list[Text]:
    """Show results in columns, with as much of each token as there is room for: its end, which differs."""
    words = min(max(len(seen.words) for seen in shown), _WORDS)
    column = min(max(_CARD, width - _CLOCK - 2 - words), max(len(seen.card) for seen in shown))
    lines: list[Text] = []
    for seen in shown:
        card = seen.card if len(seen.card) <= column else f"…{seen.card[1 - column :]}"
        status = (printable(seen.words), _COLOURS.get(seen.status or "", _OTHER))
        lines.append(Text.assemble((f"{clock(seen.seconds):>8}  ", "dim"), f"{card:<{column}}  ", status))
    return lines
