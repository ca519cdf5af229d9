"""For people: each event as lines of text, results on standard output and the rest on standard error.

`line` and `note` are where text is written. Each writes one line, whatever is in it: a server's words can neither play
with the terminal nor make a line of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardprod.cli.output import Output, events
from cardprod.cli.words import clock, count_of, message_of, printable, roughly, whole
from cardprod.errors import CardprodError
from cardprod.models import Card, ProductionStatus, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardprod.cli.output.streams import Stream
    from cardprod.cli.watch.stats import OutcomeKind
    from cardprod.models import Transition

_SHOWN = 60
TOKEN_REFUSED = "the token is not accepted: set CARDPROD_TOKEN to a new one"  # noqa: S105 - a message


class TextLines(Output):
    """Writes lines, in the colour of the status that each is about if there is something that paints them so."""

    def __init__(self, stream: Stream, paint: Callable[[str, str | None], str] | None = None) -> None:
        super().__init__(stream)
        self._paint = paint
        self._started: events.WatchStarted | None = None

    def line(self, text: str, status: str | None = None) -> None:
        """Write one line of results; `status` is what it is about."""
        text = printable(text)
        self.stream.write(f"{text if self._paint is None else self._paint(text, status)}\n")

    def emit(self, event: events.Event) -> None:  # noqa: C901 - a table
        """Write an event."""
        match event:
            case events.Result(outcome, Card() as card, seconds):
                at = "" if seconds is None else f"{seconds:6.1f} s  "
                self.line(f"{at}{whole(card)}  {outcome_text(outcome)}", status_of(outcome))
            case events.Result(outcome):
                about = outcome.card if isinstance(outcome, CardprodError) else None
                self.note(outcome_text(outcome) if about is None else f"{whole(about)}: {outcome_text(outcome)}")
            case events.BadRowFound(name, row):
                self.note(f"{name}:{row.line}: {row.reason}")
            case events.WatchStarted():
                self._started = event
                if event.is_resumed:
                    ended = f"{event.ended:,} of {count_of(event.cards, 'card')} had ended"
                    self.note(f"continuing from {event.checkpoint}: {ended}")
            case events.WatchProgress():
                self.note(self._progress(event))
            case events.WatchEnded(progress):
                self.note(headline(progress))  # beside the results: those of several runs can be in one file
                width = max((len(f"{count:,}") for _, count in progress.ends), default=0)
                for kind, count in progress.ends:
                    self.note(f"  {count:>{width},}  {kind_text(kind)}")
                if words := stop_message(event):
                    self.note(words)
            case events.Report(text):
                for line in text.split("\n"):
                    self.line(line)
            case events.Warned(text):
                self.note(text)

    def _progress(self, progress: events.WatchProgress) -> str:
        ended = f"{progress.cards - progress.pending:,} of {count_of(progress.cards, 'card')}"
        budget = "" if self._started is None else f" of {self._started.per_minute:,}"
        parts = [
            f"{clock(progress.seconds)}: {ended} ended",
            ", ".join(f"{count:,} {name}" for name, count in pending_counts(progress)),
            f"{progress.requests_in_last_minute:,}{budget} requests in the last minute",
            f"{roughly(progress.seconds_left)} left",
            trouble(progress),
        ]
        return "; ".join(filter(None, parts))


def status_of(outcome: ProductionStatus | Transition | CardprodError) -> str | None:
    """Return the status that an outcome is about; None for an error."""
    if isinstance(outcome, CardprodError):
        return None
    return outcome.status if isinstance(outcome, ProductionStatus) else outcome.current.status


def outcome_text(outcome: ProductionStatus | Transition | CardprodError) -> str:
    """Return an outcome in words."""
    return message_of(outcome) if isinstance(outcome, CardprodError) else str(outcome)


# --- Words of a watch, here and in the live view ---


def pending_counts(progress: events.WatchProgress) -> list[tuple[str, int]]:
    """Return in which statuses the pending cards are, and how many were never polled."""
    counts = [("not answered yet", progress.unseen), *progress.statuses.items()]
    return [(name, count) for name, count in counts if count]


def kind_text(kind: OutcomeKind) -> str:
    """Return how cards ended, in words."""
    if not kind.is_status:
        return str(kind.meaning)
    text = kind.name if kind.error_code is None else f"{kind.name}  {kind.error_code}"
    return text if kind.meaning is None else f"{text} ({one_line(kind.meaning, _SHOWN)})"


def trouble(progress: events.WatchProgress) -> str:
    """Return how many polls failed lately, and why; nothing if none did."""
    failed = count_of(progress.failed_polls, "poll")
    text = f"{failed} failed in the last minute and will be repeated: {progress.why_failed}"
    return text if progress.failed_polls else ""


def headline(progress: events.WatchProgress) -> str:
    """Return what became of all cards, in one line."""
    counts = {
        "produced": progress.produced,
        "ended in an error": progress.failed,
        "not final": progress.unfinished,
        "without a usable answer": progress.errors,
    }
    text = ", ".join(f"{count:,} {words}" for words, count in counts.items() if count) or "nothing to wait for"
    bad_rows = f", {count_of(progress.bad_rows, 'bad row')}" if progress.bad_rows else ""
    requests = count_of(progress.requests, "request")
    return f"{count_of(progress.cards, 'card')}{bad_rows}: {text}; {requests} in {clock(progress.seconds)}"


def stop_message(ended: events.WatchEnded) -> str:
    """Return what stopped a watch, if anything did, and what another run would do; nothing if there is nothing to."""
    progress = ended.progress
    text = f"stopped by {ended.stopped_by}; "
    if ended.stopped_by == "Unauthorized":
        text = f"stopped, because {TOKEN_REFUSED}; "
    elif ended.stopped_by is None:
        text = ""
        if not progress.unfinished + progress.errors:
            return text
    if ended.checkpoint is not None:
        return f"{text}the same command continues from {ended.checkpoint}"
    return f"{text}the same command begins with all cards again; with --checkpoint it would continue"
