"""For programs: each event as one JSON object on a line. ASCII only, so that no terminal and no encoding alters it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import attrs

from cardprod._protocol.codec import as_datetime, unix_time
from cardprod.checkpoint import wall_clock
from cardprod.cli.output import Output, events
from cardprod.cli.output.text import stop_message
from cardprod.cli.words import message_of
from cardprod.errors import WaitTimeout
from cardprod.models import ProductionStatus, Transition

_COUNTS = ("cards", "produced", "failed", "unfinished", "errors", "bad_rows", "requests")


class JsonLines(Output):
    """Writes JSON lines; `cardprod.cli` documents them."""

    def emit(self, event: events.Event) -> None:
        """Write an event; what is for people alone goes to standard error."""
        if (found := _object_of(event)) is not None:
            kind, fields = found
            # DEL is the one character of ASCII that JSON leaves as it is and a terminal does not.
            line = json.dumps({"type": kind, **fields}, default=_as_text).replace("\x7f", "\\u007f")
            self.stream.write(f"{line}\n")
        if isinstance(event, events.Warned):
            self.note(event.text)
        elif isinstance(event, events.WatchEnded) and (words := stop_message(event)):
            self.note(words)


def _object_of(event: events.Event) -> tuple[str, dict[str, Any]] | None:  # noqa: PLR0911 - a table
    match event:
        case events.Result():
            return _result(event)
        case events.BadRowFound():
            return "bad_row", _fields(event.row, "line", "reason")
        case events.WatchStarted():
            return "watching", _fields(event, "cards", "ended", "bad_rows", "checkpoint", "is_resumed")
        case events.WatchProgress(seconds_left=left):
            more = _fields(event, "pending", "statuses", "requests_in_last_minute")
            return "progress", _counts(event) | more | {"seconds_left": None if left is None else round(left)}
        case events.WatchEnded(progress, stopped_by):
            ends = [{**_fields(kind, "name", "error_code", "meaning"), "cards": count} for kind, count in progress.ends]
            return "summary", _counts(progress) | {"ends": ends, "stopped_by": stopped_by}
        case events.Report(_, str(kind), fields):
            return kind, dict(fields)
        case _:  # for people
            return None


def _result(event: events.Result) -> tuple[str, dict[str, Any]]:
    card, seen_at, is_last = event.card, unix_time(wall_clock()), True
    fields: dict[str, Any]
    match event.outcome:
        case ProductionStatus() as status:
            kind, fields = "status", _status(status)
        case Transition(previous, current) as step:
            kind, fields = "transition", {"previous": previous and previous.status, **_status(current), **_effort(step)}
            is_last = step.is_final and not event.is_followed
        case error:
            kind, card = "error", card or error.card
            fields = {"error": type(error).__name__, "message": message_of(error)}
            if isinstance(error, WaitTimeout):
                if error.checkpoint is not None:  # polls may have failed since
                    seen_at = error.checkpoint.pending[0].polled_at or seen_at
                fields |= ({"status": None} if error.last is None else _status(error.last)) | _effort(error)
    if fields.get("status") is not None and not event.stored:  # a worker delivers later
        fields["seen_at"] = as_datetime(seen_at)
    if card is not None:
        fields["is_last"] = is_last
    return kind, {"card": card and attrs.asdict(card), **fields, **event.stored}


def _fields(value: object, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _counts(progress: events.WatchProgress) -> dict[str, Any]:
    return _fields(progress, *_COUNTS) | {"seconds": round(progress.seconds, 1)}


def _effort(of: Transition | WaitTimeout) -> dict[str, Any]:
    return {"elapsed": round(of.elapsed, 3), "polls": of.polls}


def _status(status: ProductionStatus) -> dict[str, Any]:
    card = _fields(status, "status", "is_final", "kiosk_id", "occurred_at")
    return card | _fields(status, "error_code", "error_origin", "error_meaning", "description")


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
