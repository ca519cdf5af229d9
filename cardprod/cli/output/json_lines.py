"""For programs: each event as one JSON object on a line. ASCII only, so that no terminal and no encoding alters it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from cardprod.cli.output import events
from cardprod.cli.output.streams import print_stderr
from cardprod.cli.output.text import stop_message
from cardprod.cli.words import in_words, printable

if TYPE_CHECKING:
    from cardprod.cli.output.streams import Stream
    from cardprod.errors import CardprodError
    from cardprod.models import Card, ProductionStatus

__all__ = ["JsonLines"]

_COUNTS = ("cards", "produced", "failed", "unfinished", "errors", "bad_rows", "requests")


class JsonLines:
    """Writes JSON lines; `cardprod.cli` documents them.

    Args:
        out: Where to.
    """

    interval = 10.0
    redraws = False

    def __init__(self, out: Stream) -> None:
        self._out = out

    def emit(self, event: events.Event) -> None:
        """Write an event."""
        if isinstance(event, events.Warned):
            print_stderr(f"cardprod: {printable(event.text)}")
        elif (found := _object_of(event)) is not None:
            kind, fields = found
            # DEL is the one character of ASCII that JSON leaves as it is and a terminal does not.
            line = json.dumps({"type": kind, **fields}).replace("\x7f", "\\u007f")
            self._out.write(f"{line}\n")
        if isinstance(event, events.WatchEnded) and event.stopped_by is not None:
            print_stderr(f"cardprod: {printable(stop_message(event))}")

    def close(self) -> None:
        """Do nothing: what was emitted is written."""


def _object_of(event: events.Event) -> tuple[str, dict[str, Any]] | None:  # noqa: C901, PLR0911, PLR0912 - a table
    match event:
        case events.StatusReported(card, status):
            return "status", {"card": attrs.asdict(card), **_status(status)}
        case events.TransitionReported(card, step, _, key, batch_id):
            return "transition", {
                "card": attrs.asdict(card),
                "previous": None if step.previous is None else step.previous.status,
                **_status(step.current),
                "elapsed": round(step.elapsed, 3),
                "polls": step.polls,
                **_of_worker(key, batch_id),
            }
        case events.CardFailed(card, error, _, key, batch_id):
            return "error", _error(card, error) | _of_worker(key, batch_id)
        case events.CommandFailed(error):
            return "error", _error(error.card, error)
        case events.BadRowFound(_, row):
            return "bad_row", {"line": row.line, "reason": row.reason}
        case events.WatchStarted():
            return "watching", _fields(event, "cards", "ended", "bad_rows", "checkpoint")
        case events.WatchProgress():
            left = event.seconds_left
            more = _fields(event, "pending", "statuses", "requests_in_last_minute")
            return "progress", _counts(event) | more | {"seconds_left": None if left is None else round(left)}
        case events.WatchEnded(progress, stopped_by):
            ends = [
                {"name": kind.name, "error_code": kind.error_code, "meaning": kind.meaning, "cards": count}
                for kind, count in progress.ends
            ]
            return "summary", _counts(progress) | {"ends": ends, "stopped_by": stopped_by}
        case events.DemoEnded():
            return "summary", attrs.asdict(event) | {"seconds": round(event.seconds, 1)}
        case events.SimulatorStarted():
            return "listening", attrs.asdict(event, filter=lambda _, value: value is not None)
        case events.RequestLogged(request):
            more = _fields(request, "method", "path", "http_status", "status")
            fault = None if request.fault is None else request.fault.kind
            return "request", {"at": round(request.at, 3), **more, "fault": fault}
        case events.BatchSubmitted():
            return "submitted", attrs.asdict(event)
        case events.BatchReported(status):
            fields = attrs.asdict(status)
            return "batch", {
                name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()
            }
        case _:  # for people
            return None


def _fields(value: object, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _counts(progress: events.WatchProgress) -> dict[str, Any]:
    return _fields(progress, *_COUNTS) | {"seconds": round(progress.seconds, 1)}


def _status(status: ProductionStatus) -> dict[str, Any]:
    occurred_at = None if status.occurred_at is None else status.occurred_at.isoformat()
    return {
        **_fields(status, "status", "is_final", "kiosk_id"),
        "occurred_at": occurred_at,
        **_fields(status, "error_code", "error_origin", "error_meaning", "description"),
    }


def _error(card: Card | None, error: CardprodError) -> dict[str, Any]:
    return {
        "card": None if card is None else attrs.asdict(card),
        "error": type(error).__name__,
        "message": in_words(str(error)),
    }


def _of_worker(key: str | None, batch_id: str | None) -> dict[str, str]:
    return {} if key is None or batch_id is None else {"key": key, "batch_id": batch_id}
