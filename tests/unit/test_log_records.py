"""The log records of `telemetry`: their level, their words, and the fields that a formatter can write."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from cardprod import telemetry
from cardprod.errors import ServerError, TransportError
from cardprod.models import ProductionStatus, Transition
from cardprod.telemetry import PollEnded, PollFailed, RequestRetried, Telemetry, TransitionSeen
from tests.cards import CARD
from tests.table import Table

if TYPE_CHECKING:
    import pytest

    from cardprod.telemetry import Event

_SHORT = "123456/ca0c…de52"
_BUILT_IN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_READY = ProductionStatus("READY")
_FAILED = ProductionStatus("PRODUCTION_ERROR", kiosk_id="WIS00001", error_code="PRT_PAUSED")
_ERROR = ServerError("said no", http_status=500, card=CARD)


def emit(*events: Event) -> None:
    for event in events:
        Telemetry().emit(event)


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _BUILT_IN}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Read the docstring's table: event → its level and the names of its fields."""
    rows = re.findall(r"^\| `([A-Za-z]+)` \| ([A-Z]+) \| `(.+?)` \|$", telemetry.__doc__ or "", re.MULTILINE)
    return {event: (level, {f"cardprod_{name}" for name in extra.split()}) for event, level, extra in rows}


def test_records(caplog: pytest.LogCaptureFixture) -> None:
    """Each record has the level and the fields that the documented table gives it, and says what happened."""
    first = Transition(previous=None, current=_READY, elapsed=0.04, polls=1)
    second = Transition(previous=_READY, current=_FAILED, elapsed=12.34, polls=3, source="webhook")
    records: list[tuple[Event, str, dict[str, Any]]] = [
        (
            PollEnded(CARD, None, 0.1234, _READY),
            f"poll of card {_SHORT}: READY in 0.123 s",
            {"card": _SHORT, "seconds": 0.1234, "status": "READY", "error": None},
        ),
        (
            PollEnded(CARD, 7, 0.5, _ERROR),
            f"poll of card {_SHORT}: ServerError in 0.500 s",
            {"card": _SHORT, "seconds": 0.5, "status": None, "error": "ServerError"},
        ),
        (
            RequestRetried(CARD, 2, TransportError("reset"), 1.5),
            f"card {_SHORT}: attempt 2 failed with TransportError, sent again after 1.500 s",
            {"card": _SHORT, "attempt": 2, "error": "TransportError", "waited": 1.5},
        ),
        (
            TransitionSeen(CARD, 7, first),
            f"card {_SHORT}: READY after 0.0 s",
            {
                "card": _SHORT,
                "previous_status": None,
                "status": "READY",
                "kiosk_id": None,
                "error_code": None,
                "elapsed": 0.04,
                "polls": 1,
                "source": "poll",
            },
        ),
        (
            TransitionSeen(CARD, 7, second),
            f"card {_SHORT}: {second} after 12.3 s",
            {
                "card": _SHORT,
                "previous_status": "READY",
                "status": "PRODUCTION_ERROR",
                "kiosk_id": "WIS00001",
                "error_code": "PRT_PAUSED",
                "elapsed": 12.34,
                "polls": 3,
                "source": "webhook",
            },
        ),
        (
            PollFailed(CARD, 7, _ERROR, 4),
            f"a poll failed and the wait goes on (4 in a row): card {_SHORT}: said no",
            {"card": _SHORT, "error": "ServerError", "failures": 4},
        ),
    ]
    caplog.set_level(logging.DEBUG, "cardprod")
    with Table() as table:
        for event, message, fields in records:
            with table.row(message):
                caplog.clear()
                emit(event)
                (record,) = caplog.records
                assert (record.name, record.getMessage()) == ("cardprod", message)
                assert extra_of(record) == {f"cardprod_{name}": value for name, value in fields.items()}
                assert (record.levelname, set(extra_of(record))) == documented()[type(event).__name__]
    assert set(documented()) == {type(event).__name__ for event, _, _ in records}


def test_cancelled_poll_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A poll that was cancelled is no record."""
    caplog.set_level(logging.DEBUG, "cardprod")
    emit(PollEnded(CARD, None, 1.0, None))
    assert caplog.records == []


def test_token_is_shortened_in_foreign_words(caplog: pytest.LogCaptureFixture) -> None:
    """A card's token is in no message and in no field, even where the server repeats it."""
    token = CARD.card_token
    named = ProductionStatus(f"LOST {token}", kiosk_id=f"at {token}", error_code=f"{token}!", description=token)
    caplog.set_level(logging.DEBUG, "cardprod")
    emit(
        PollEnded(CARD, None, 1.0, named),
        TransitionSeen(CARD, 7, Transition(previous=named, current=named, elapsed=1.0, polls=1)),
        PollFailed(CARD, 7, ServerError(f"no {token}", http_status=500, card=CARD), 1),
    )
    assert len(caplog.records) == 3
    for record in caplog.records:
        assert token not in record.getMessage()
        assert token not in str(extra_of(record))
        assert "ca0c…de52" in record.getMessage()
    fields = extra_of(caplog.records[1])
    assert [fields[f"cardprod_{name}"] for name in ("previous_status", "status", "kiosk_id", "error_code")] == [
        *("LOST ca0c…de52", "LOST ca0c…de52", "at ca0c…de52", "ca0c…de52!")
    ]


def test_foreign_status_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A status with line breaks or terminal codes cannot forge a line of the log, and keeps 100 characters."""
    caplog.set_level(logging.DEBUG, "cardprod")
    shown = {"READY\n1970 ERROR \x1b[31mforged": "READY 1970 ERROR \ufffd[31mforged", "R" * 101: "R" * 99 + "…"}
    for status, text in shown.items():
        current = ProductionStatus(status)
        emit(
            PollEnded(CARD, None, 1.0, current),
            TransitionSeen(CARD, 7, Transition(previous=None, current=current, elapsed=1.0, polls=1)),
        )
        assert f": {text} in" in caplog.records[-2].getMessage()
        assert caplog.records[-1].getMessage().isprintable()
        assert [extra_of(record)["cardprod_status"] for record in caplog.records[-2:]] == [text, text]


def test_observer_and_handlers_that_raise(caplog: pytest.LogCaptureFixture) -> None:
    """What an observer raises is logged once for each time the observer is set, and not raised."""
    telemetry_ = Telemetry()
    event = PollEnded(CARD, None, 1.0, _READY)

    def fail(_: Event) -> None:
        raise LookupError

    for _ in range(2):
        telemetry_.observer = fail
        telemetry_.emit(event)
        telemetry_.emit(event)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_frequent_events_are_made_only_where_wanted(caplog: pytest.LogCaptureFixture) -> None:
    """Events of each poll are made only with an observer, or where DEBUG is logged."""
    wanted: list[bool] = []
    for level, observer in ((logging.INFO, None), (logging.DEBUG, None), (logging.INFO, print)):
        telemetry_ = Telemetry()
        telemetry_.observer = observer
        caplog.set_level(level, "cardprod")
        wanted.append(telemetry_.wants_everything)
    assert wanted == [False, True, True]
