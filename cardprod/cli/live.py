"""What a terminal shows, with the extra `cli`: colours, and the live view of a `watch`. Only this module knows rich.

A frame is made of what `tally` has counted already, so it costs the same for ten cards as for a million.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final, TextIO

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cardprod.cli.views import heading, parting, say, standing
from cardprod.cli.wording import clock, count_of, printable, roughly

if TYPE_CHECKING:
    from typing import Self

    from cardprod.cli.tally import Fate, Summary, Tally, Told
    from cardprod.cli.views import Setting, View

__all__ = ["Terminal", "frame"]

_COLOURS: Final = {
    "READY": "cyan",
    "IN_PROGRESS": "yellow",
    "PRODUCED": "bold green",
    "PRODUCTION_ERROR": "bold red",
    "REQUEST_ERROR": "bold red",
}
_OTHERWISE: Final = "magenta"
"""Cards whose wait ended with an error: nobody knows what has become of them."""

_FASTEST: Final = 0.2
_SHARE: Final = 0.05
"""The most of the time that may go into drawing."""

_FATES: Final = 6
_LATEST: Final = 8
_NARROW: Final = 72
"""Columns below which what can be done without is left out."""

_WIDE: Final = 100
"""Columns from which there is room for what was before."""

_METER: Final = 20


class Terminal:
    """A terminal: lines in colours, and a place for a view that moves.

    Args:
        console: What rich knows of it.
        can_move: Whether what was written can be written over.
    """

    def __init__(self, console: Console, *, can_move: bool) -> None:
        self._console = console
        self._can_move = can_move

    @classmethod
    def of(cls, out: TextIO) -> Self | None:
        """Make one of an output, if that is a terminal."""
        console = Console(file=out, highlight=False)
        if not console.is_terminal:
            return None
        # FORCE_COLOR makes rich take a log file for a terminal: good for colours, and no place for what moves.
        can_move = out.isatty() and console.is_interactive and not console.options.ascii_only
        return cls(console, can_move=can_move)

    def write(self, text: str, status: str | None = None) -> None:
        """Write a line in the colour of the status it is about."""
        self._console.print(Text(printable(text), style=_COLOURS.get(status or "", "")), soft_wrap=True)

    def live_view(self, tally: Tally, setting: Setting) -> View | None:
        """Make the view that moves, if it can.

        Args:
            tally: What is shown.
            setting: What does not change meanwhile.
        """
        return _LiveView(self._console, tally, setting) if self._can_move else None


class _LiveView:
    """Draws a `watch` again and again in the same place, and leaves only its summary behind."""

    def __init__(self, console: Console, tally: Tally, setting: Setting) -> None:
        self._console = console
        self._tally = tally
        self._setting = setting
        self._live = Live(console=console, auto_refresh=False, transient=True, get_renderable=self._frame)
        self._cost = 0.0

    @property
    def pause(self) -> float:
        """Seconds until it is to be drawn again: five times a second, and less often where that is slow."""
        return max(_FASTEST, self._cost / _SHARE)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def told(self, told: Told) -> None:
        """Do nothing: the tally knows it, and the next frame will show it."""

    def refresh(self) -> None:
        began = perf_counter()
        self._live.refresh()
        self._cost = perf_counter() - began

    def warn(self, text: str) -> None:
        say(text)

    def summary(self, summary: Summary) -> None:
        for told in summary.named:
            self._print(_line(told, told.short))
        more = summary.failed + summary.errors - len(summary.named)
        if summary.named and more > 0:
            self._print(Text(f"{'…':>8}  and {more:,} more; --json tells all", "dim"))
        self._console.print(Text(("\n" if summary.named else "") + heading(summary), "bold"))
        for line in _counts(self._tally):
            self._print(line)
        if summary.stopped_by is not None:
            say(parting(summary, self._setting))

    def _print(self, line: Text) -> None:
        self._console.print(line, no_wrap=True, overflow="ellipsis")

    def _frame(self) -> Group:
        return frame(self._tally, self._setting, *self._console.size)


# --- A frame ----------------------------------------------------------------------------------------------------------


def frame(tally: Tally, setting: Setting, width: int, height: int) -> Group:
    """Draw how far it is.

    Args:
        tally: What is shown.
        setting: What does not change.
        width: The terminal's columns.
        height: The terminal's rows; the frame takes fewer.

    Returns:
        Lines, none longer than the terminal is wide.
    """
    width = max(width, 1)
    head = [_title(tally, setting, width), _bar(tally, width), Text()]
    state = [*_counts(tally), Text(), *_looks(tally, setting, width)]
    room = height - 1 - len(head) - len(state) - 1
    latest = list(tally.latest)[-min(_LATEST, room) :] if room > 0 else []
    lines = [*head, *state, *([Text()] if latest else [])]
    lines += [_line(told, str(told) if width >= _WIDE else told.short) for told in latest]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return Group(*lines[: max(1, height - 1)])


def _title(tally: Tally, setting: Setting, width: int) -> Text:
    left = Text.assemble((printable(setting.name), "bold"), f"  {count_of(tally.total, 'card')}")
    if setting.bad_rows:
        left.append(f", {count_of(setting.bad_rows, 'bad row')}", "red")
    right = Text(f"{clock(tally.seconds)}, {roughly(tally.seconds_left)} left")
    gap = width - left.cell_len - right.cell_len
    if gap < 2:  # noqa: PLR2004 - else they would touch
        left.truncate(max(1, width - right.cell_len - 2), overflow="ellipsis")
        gap = max(1, width - left.cell_len - right.cell_len)
    return Text.assemble(left, " " * gap, right)


def _bar(tally: Tally, width: int) -> Text:
    """Draw how many cards have ended, each kind in its colour, and thin the rest."""
    label = f"  {tally.total - tally.pending:,} of {tally.total:,}"
    length = max(0, width - cell_len(label))
    bar = Text()
    drawn = passed = 0
    for fate, count in sorted(tally.fates.items(), key=_weight):
        passed += count
        end = passed * length // max(1, tally.total)
        bar.append("━" * (end - drawn), _COLOURS.get(fate.name, _OTHERWISE))
        drawn = end
    bar.append("─" * (length - drawn), "dim")
    bar.append(label, "bold")
    return bar


def _counts(tally: Tally) -> list[Text]:
    """Say how many cards are where, and how the others ended."""
    fates = sorted(((fate, count) for fate, count in tally.fates.items() if count), key=_weight)
    rows: list[tuple[int, str, Fate | None]] = [(count, name, None) for name, count in standing(tally)]
    rows += [(count, fate.name, fate) for fate, count in fates[:_FATES]]
    if len(fates) > _FATES:
        rows.append((sum(count for _, count in fates[_FATES:]), f"in {len(fates) - _FATES} other ways", None))
    wide = max(len(f"{count:,}") for count, _, _ in rows) if rows else 0
    named = max((len(name) for _, name, fate in rows if fate and fate.error_code), default=0)
    return [_count(count, name, fate, wide=wide, named=named) for count, name, fate in rows]


def _weight(counted: tuple[Fate, int]) -> tuple[int, int]:
    """Put what is well first, then the most frequent."""
    fate, count = counted
    return fate.exit_code > 0, -count


def _count(count: int, name: str, fate: Fate | None, *, wide: int, named: int) -> Text:
    line = Text().append(f"  {count:>{wide},}  ", "bold")
    style = _COLOURS.get(name, "dim" if fate is None else _OTHERWISE)
    if fate is None or (fate.error_code is None and fate.meaning is None):
        return line.append(printable(name), style)
    if fate.error_code is None:
        line.append(printable(name), style)
    else:
        line.append(f"{printable(name):<{named}}  {printable(fate.error_code)}", style)
    if fate.meaning is not None:
        line.append(f"  {printable(fate.meaning)}", "dim")
    return line


def _looks(tally: Tally, setting: Setting, width: int) -> list[Text]:
    """Say how much of the rate limit is used, and what is in the way."""
    used, most = tally.requests_in_last_minute, setting.per_minute
    line = Text(f"{used:,}" + ("" if most is None else f" of {most:,}") + " looks in the last minute")
    if width >= _NARROW:
        if most is not None:
            filled = min(_METER, -(-used * _METER // most))
            line = Text.assemble(line, "  ", ("━" * filled, "blue"), ("─" * (_METER - filled), "dim"))
        line.append(f"  {tally.requests:,} in all", "dim")
    lines = [line]
    if tally.paused_for > 0:
        lines.append(Text(f"paused for {tally.paused_for:.0f} s more, as the API asked", "yellow"))
    if tally.trouble is not None:
        lines.append(Text(printable(tally.trouble), "yellow"))
    if setting.checkpoint is not None:
        ago = "" if tally.saved_ago is None else f"  saved {clock(tally.saved_ago)} ago"
        lines.append(Text(f"checkpoint {printable(setting.checkpoint)}{ago}", "dim"))
    return lines


def _line(told: Told, words: str) -> Text:
    style = _COLOURS.get(told.status or "", _OTHERWISE)
    return Text.assemble((f"{clock(told.seconds):>8}  ", "dim"), f"{told.card}  ", (printable(words), style))
