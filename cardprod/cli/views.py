"""How a `watch` is shown while it goes on: `View`, as JSON lines and as plain lines. The live one is in `live`.

What is shown was counted by `tally`; nothing is asked and nothing decided here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from cardprod.cli.wording import clock, count_of, printable, roughly
from cardprod.errors import CardprodError

if TYPE_CHECKING:
    from typing import Self

    from cardprod.cli.reports import Report
    from cardprod.cli.tally import Summary, Tally, Told

__all__ = [
    "Setting",
    "View",
    "WriteJson",
    "WriteText",
    "heading",
    "json_view",
    "lines_view",
    "parting",
    "say",
    "standing",
]

_PROGRESS: Final = 10.0
_AT_LEAST_EVERY: Final = 60.0


@attrs.frozen(kw_only=True)
class Setting:
    """What does not change during a `watch`.

    Args:
        name: The list's name.
        bad_rows: How many of its lines are no cards.
        per_minute: The most looks in a minute; None for no limit.
        checkpoint: The checkpoint file's name; None if there is none.
        is_gone_on_with: Whether an earlier run is gone on with.
    """

    name: str
    bad_rows: int = 0
    per_minute: int | None = None
    checkpoint: str | None = None
    is_gone_on_with: bool = False


class WriteJson(Protocol):
    """Writes one JSON object of a type."""

    def __call__(self, kind: str, **fields: Any) -> None:  # noqa: ANN401 - whatever JSON can say
        """Write it."""
        ...


class WriteText(Protocol):
    """Writes one line for people."""

    def __call__(self, text: str, status: str | None = None) -> None:
        """Write it; `status` is what it is about."""
        ...


class View(Protocol):
    """Shows a `watch`, whoever looks. It is entered when that begins and left when it ends, however it ends."""

    @property
    def pause(self) -> float:
        """Seconds until it is to be refreshed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def told(self, told: Told) -> None:
        """Tell a transition, or the error that ended a card's wait. When it returns, it is out."""
        ...

    def refresh(self) -> None:
        """Show how far it is. The tally was brought up to date."""
        ...

    def warn(self, text: str) -> None:
        """Tell people what they should know."""
        ...

    def summary(self, summary: Summary) -> None:
        """Tell what became of it, after the view was left."""
        ...


def json_view(report: Report, write: WriteJson, tally: Tally, setting: Setting) -> View:
    """Make the view for programs.

    Args:
        report: Who tells transitions and errors.
        write: Writes an object of a type.
        tally: What is shown.
        setting: What does not change meanwhile.
    """
    return _JsonView(report, write, tally, setting)


def lines_view(write: WriteText, tally: Tally, setting: Setting) -> View:
    """Make the view of plain lines.

    Args:
        write: Writes a line, and is told which status it is about.
        tally: What is shown.
        setting: What does not change meanwhile.
    """
    return _LinesView(write, tally, setting)


class _JsonView:
    """For programs: one JSON object per line."""

    pause = _PROGRESS

    def __init__(self, report: Report, write: WriteJson, tally: Tally, setting: Setting) -> None:
        self._report = report
        self._write = write
        self._tally = tally
        self._setting = setting
        self._rhythm = _Rhythm(tally)

    def __enter__(self) -> Self:
        tally, setting = self._tally, self._setting
        self._write(
            "watching",
            cards=tally.total,
            ended=tally.total - tally.pending,
            bad_rows=setting.bad_rows,
            checkpoint=setting.checkpoint,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        """Do nothing: what was told is out."""

    def told(self, told: Told) -> None:
        if isinstance(told.what, CardprodError):
            self._report.error(told.what)
        else:
            self._report.transition(told.card, told.what, told.seconds)

    def refresh(self) -> None:
        if not self._rhythm.is_due():
            return
        tally = self._tally
        left = tally.seconds_left
        self._write(
            "progress",
            **_counts(tally.summary()),
            pending=tally.pending,
            statuses={status: count for status, count in tally.statuses.items() if count},
            requests_in_last_minute=tally.requests_in_last_minute,
            seconds_left=None if left is None else round(left),
        )

    def warn(self, text: str) -> None:
        say(text)

    def summary(self, summary: Summary) -> None:
        ends: list[dict[str, Any]] = [
            {"name": fate.name, "error_code": fate.error_code, "meaning": fate.meaning, "cards": count}
            for fate, count in summary.ends
        ]
        self._write("summary", **_counts(summary), ends=ends, stopped_by=summary.stopped_by)
        if summary.stopped_by is not None:
            say(parting(summary, self._setting))


def _counts(summary: Summary) -> dict[str, Any]:
    counts = attrs.asdict(summary, filter=attrs.filters.exclude("ends", "named", "stopped_by"))
    return {**counts, "seconds": round(summary.seconds, 1)}


class _LinesView:
    """For people without a terminal, or who like lines: what is told on standard output, progress on standard error."""

    pause = _PROGRESS

    def __init__(self, write: WriteText, tally: Tally, setting: Setting) -> None:
        self._write = write
        self._tally = tally
        self._setting = setting
        self._rhythm = _Rhythm(tally)

    def __enter__(self) -> Self:
        tally, setting = self._tally, self._setting
        if setting.is_gone_on_with:
            ended = f"{tally.total - tally.pending} of {count_of(tally.total, 'card')} had ended"
            say(f"going on from {setting.checkpoint}: {ended}")
        return self

    def __exit__(self, *exc: object) -> None:
        """Do nothing: what was told is out."""

    def told(self, told: Told) -> None:
        self._write(f"{told.seconds:8.1f} s  {told.card}  {told}", told.status)

    def refresh(self) -> None:
        if not self._rhythm.is_due():
            return
        tally, per_minute = self._tally, self._setting.per_minute
        parts = [f"{clock(tally.seconds)}: {tally.total - tally.pending:,} of {count_of(tally.total, 'card')} ended"]
        parts += [", ".join(f"{count:,} {name}" for name, count in standing(tally))]
        budget = "" if per_minute is None else f" of {per_minute:,}"
        parts += [
            f"{tally.requests_in_last_minute:,}{budget} looks in the last minute",
            f"{roughly(tally.seconds_left)} left",
        ]
        parts.append(tally.trouble or "")
        say("; ".join(part for part in parts if part))

    def warn(self, text: str) -> None:
        say(text)

    def summary(self, summary: Summary) -> None:
        self._write(f"\n{heading(summary)}")
        wide = max((len(f"{count:,}") for _, count in summary.ends), default=0)
        for fate, count in summary.ends:
            self._write(f"  {count:>{wide},}  {fate}", fate.name)
        if summary.stopped_by is not None:
            say(parting(summary, self._setting))


def say(text: str) -> None:
    """Tell people something beside the output."""
    print(f"cardprod: {printable(text)}", file=sys.stderr, flush=True)


def standing(tally: Tally) -> list[tuple[str, int]]:
    """List where the cards stand that have not ended."""
    counts = [("not looked at yet", tally.unseen), *sorted(tally.statuses.items(), key=_progress_of)]
    return [(name, count) for name, count in counts if count]


def _progress_of(counted: tuple[str, int]) -> tuple[int, str]:
    """Order statuses by how far along they are; those nobody documents come last."""
    known = ("READY", "IN_PROGRESS")
    status = counted[0]
    return (known.index(status) if status in known else len(known)), status


def heading(summary: Summary) -> str:
    """Say in one line what became of the cards."""
    counts = [
        (summary.produced, "produced"),
        (summary.failed, "ended in an error"),
        (summary.unfinished, "not final"),
        (summary.errors, "without an answer"),
    ]
    text = ", ".join(f"{count:,} {words}" for count, words in counts if count) or "nothing to wait for"
    bad_rows = f", {count_of(summary.bad_rows, 'bad row')}" if summary.bad_rows else ""
    requests = count_of(summary.requests, "request")
    return f"{count_of(summary.cards, 'card')}{bad_rows}: {text}; {requests} in {clock(summary.seconds)}"


def parting(summary: Summary, setting: Setting) -> str:
    """Say what ended it before its time, and how to go on."""
    if summary.stopped_by == "Unauthorized":
        text = "stopped, because the token is not accepted: set CARDPROD_TOKEN to a new one"
    else:
        text = f"stopped by {summary.stopped_by}"
    return text if setting.checkpoint is None else f"{text}; the same command goes on from {setting.checkpoint}"


class _Rhythm:
    """Says when progress is worth a line: not while nothing changes, but for once a minute."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._before: object = None
        self._said_at = 0.0

    def is_due(self) -> bool:
        tally = self._tally
        now = tally.pending, tally.failed_looks, dict(tally.statuses)
        if now == self._before and tally.seconds - self._said_at < _AT_LEAST_EVERY:
            return False
        self._before, self._said_at = now, tally.seconds
        return True
