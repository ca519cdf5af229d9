"""For people: each event as lines of text, results on standard output and the rest on standard error.

`TextLines.line` is the one place where text is written. It writes one line, whatever is in it: a server's words can
neither play with the terminal nor make a line of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardprod.cli.output import events
from cardprod.cli.output.streams import print_stderr
from cardprod.cli.words import clock, count_of, message_of, printable, roughly, whole
from cardprod.models import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardprod.cli.output.streams import Stream
    from cardprod.cli.watch.stats import OutcomeKind

__all__ = ["TextLines", "headline", "kind_text", "pending_counts", "stop_message", "trouble"]

_SHOWN_NAME = 60


class TextLines:
    """Writes lines.

    Args:
        out: Where to.
        paint: Puts a line into the colour of the status that it is about.
    """

    interval = 10.0
    redraws = False

    def __init__(self, out: Stream, paint: Callable[[str, str | None], str] | None = None) -> None:
        self._out = out
        self._paint = paint
        self._started: events.WatchStarted | None = None

    def line(self, text: str, status: str | None = None) -> None:
        """Write one line of results; `status` is what it is about."""
        text = printable(text)
        self._out.write(f"{text if self._paint is None else self._paint(text, status)}\n")

    def note(self, text: str) -> None:
        """Write one line beside the results."""
        print_stderr(f"cardprod: {printable(text)}")

    def close(self) -> None:
        """Do nothing: what was emitted is written."""

    def emit(self, event: events.Event) -> None:  # noqa: C901, PLR0912, PLR0915 - a table
        """Write an event."""
        match event:
            case events.StatusReported(card, status):
                self.line(f"{whole(card)}  {status}", status.status)
            case events.TransitionReported(card, step, seconds):
                self.line(f"{seconds:6.1f} s  {whole(card)}  {step}", step.current.status)
            case events.CardFailed(card, error, seconds):
                at = "" if seconds is None else f"{seconds:6.1f} s  "
                self.line(f"{at}{whole(card)}  {message_of(error)}")
            case events.CommandFailed(error):
                of = "" if error.card is None else f"{whole(error.card)}: "
                self.note(f"{of}{message_of(error)}")
            case events.BadRowFound(name, row):
                self.note(f"{name}:{row}")
            case events.WatchStarted():
                self._started = event
                if event.is_resumed:
                    ended = f"{event.ended:,} of {count_of(event.cards, 'card')} had ended"
                    self.note(f"continuing from {event.checkpoint}: {ended}")
            case events.WatchProgress():
                self.note(self._progress(event))
            case events.WatchEnded(progress):
                self.line("")
                self.line(headline(progress))
                width = max((len(f"{count:,}") for _, count in progress.ends), default=0)
                for kind, count in progress.ends:
                    self.line(f"  {count:>{width},}  {kind_text(kind)}", kind.name)
                if event.stopped_by is not None:
                    self.note(stop_message(event))
            case events.DemoEnded():
                self.line("")
                self.line(
                    f"{event.cards} cards: {event.produced} produced, {event.failed} ended in an error, "
                    f"{event.unfinished} not final when its time ran out; "
                    f"{event.requests} requests in {event.seconds:.1f} s"
                )
            case events.SimulatorStarted(base_url, plan, public_key_url):
                self.line(f"Kiosk simulator at {base_url}: a card begins the plan {plan!r} at its first request.")
                self.line(f"See and drive it in a browser: {base_url}/")
                self.line("In another terminal:")
                self.line(f"  CARDPROD_BASE_URL={base_url} CARDPROD_TOKEN=any cardprod wait 123456 my-card")
                if public_key_url is not None:
                    self.line(f"Its webhooks are verified with the key at {public_key_url}")
                self.line("Ctrl-C stops it.")
            case events.RequestLogged(request):
                answer = "no answer" if request.http_status is None else f"{request.http_status} {request.status or ''}"
                self.line(f"{request.at:6.1f} s  {request.method} {request.path}  {answer}")
            case events.BatchSubmitted(batch_id, cards):
                self.note(f"{count_of(cards, 'card')} submitted; see how far they are with `cardprod batch {batch_id}`")
                self.line(batch_id)
            case events.BatchReported(status):
                ends = f"{status.produced} produced, {status.failed} ended in an error, {status.errors} gave up"
                pending = f"{status.pending} to go"
                state = "cancelled" if status.cancelled_at else "over" if status.finished_at else pending
                self.line(f"{count_of(status.total, 'card')}: {ends}; {state}")
            case events.Notice(text):
                self.line(text)
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
            trouble(progress) or "",
        ]
        return "; ".join(part for part in parts if part)


# --- Words of a watch, here and in the live view ---


def pending_counts(progress: events.WatchProgress) -> list[tuple[str, int]]:
    """Return in which statuses the pending cards are, and how many were never polled."""
    counts = [("not polled yet", progress.unseen), *progress.statuses.items()]
    return [(name, count) for name, count in counts if count]


def kind_text(kind: OutcomeKind) -> str:
    """Return how cards ended, in words."""
    if not kind.is_status:
        return kind.meaning or kind.name
    text = kind.name if kind.error_code is None else f"{kind.name}  {kind.error_code}"
    return text if kind.meaning is None else f"{text} ({one_line(kind.meaning, _SHOWN_NAME)})"


def trouble(progress: events.WatchProgress) -> str | None:
    """Return how many polls failed lately, and why; None if none did."""
    if not progress.failed_polls:
        return None
    failed = count_of(progress.failed_polls, "poll")
    return f"{failed} failed in the last minute and will be repeated: {progress.why_failed}"


def headline(progress: events.WatchProgress) -> str:
    """Return what became of all cards, in one line."""
    counts = [
        (progress.produced, "produced"),
        (progress.failed, "ended in an error"),
        (progress.unfinished, "not final"),
        (progress.errors, "without a usable answer"),
    ]
    text = ", ".join(f"{count:,} {words}" for count, words in counts if count) or "nothing to wait for"
    bad_rows = f", {count_of(progress.bad_rows, 'bad row')}" if progress.bad_rows else ""
    requests = count_of(progress.requests, "request")
    return f"{count_of(progress.cards, 'card')}{bad_rows}: {text}; {requests} in {clock(progress.seconds)}"


def stop_message(ended: events.WatchEnded) -> str:
    """Return what stopped a watch, and how to continue."""
    if ended.stopped_by == "Unauthorized":
        text = "stopped, because the token is not accepted: set CARDPROD_TOKEN to a new one"
    else:
        text = f"stopped by {ended.stopped_by}"
    return text if ended.checkpoint is None else f"{text}; the same command continues from {ended.checkpoint}"
