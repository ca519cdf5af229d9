"""The log records of `telemetry`: their level, their words, and the fields that a formatter can write."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from cardprod import telemetry
from cardprod.errors import ServerError, TransportError
from cardprod.models import ProductionStatus, Transition
from cardprod.telemetry import log_failed_look, log_look, log_retry, log_transition
from tests.cards import CARD
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

_SHORT = "123456/ca0c8154…"
_BUILT_IN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_READY = ProductionStatus("READY")
_FAILED = ProductionStatus("PRODUCTION_ERROR", kiosk_id="WIS00001", error_code="PRT_PAUSED")
_ERROR = ServerError("said no", http_status=500, card=CARD)


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _BUILT_IN}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Read the docstring's table: record → its level and the names of its fields."""
    rows = re.findall(r"^\| ([A-Z]+) \| (.+?) \| (?:`(.+?)` )?\|$", telemetry.__doc__ or "", re.MULTILINE)
    return {record: (level, set(extra.split())) for level, record, extra in rows}


def test_records(caplog: pytest.LogCaptureFixture) -> None:
    """Each record has the level and the fields that the documented table gives it, and says what happened."""
    first = Transition(previous=None, current=_READY, elapsed=0.04, polls=1)
    second = Transition(previous=_READY, current=_FAILED, elapsed=12.34, polls=3, source="webhook")
    records: list[tuple[Callable[[], None], str, str, dict[str, Any]]] = [
        (
            lambda: log_look(CARD, 0.1234, _READY),
            "a look was answered or failed",
            f"look at card {_SHORT}: READY in 0.123 s",
            {"card": _SHORT, "seconds": 0.1234, "status": "READY", "error": None},
        ),
        (
            lambda: log_look(CARD, 0.5, _ERROR),
            "a look was answered or failed",
            f"look at card {_SHORT}: ServerError in 0.500 s",
            {"card": _SHORT, "seconds": 0.5, "status": None, "error": "ServerError"},
        ),
        (
            lambda: log_retry(CARD, 2, TransportError("reset"), 1.5),
            "a request failed and is tried again",
            f"card {_SHORT}: attempt 2 failed with TransportError, again in 1.500 s",
            {"card": _SHORT, "attempt": 2, "error": "TransportError", "retry_in": 1.5},
        ),
        (
            lambda: log_transition(CARD, first),
            "a transition",
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
            lambda: log_transition(CARD, second),
            "a transition",
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
            lambda: log_failed_look(CARD, _ERROR, 4),
            "a look failed and the wait goes on",
            f"a look failed and the wait goes on (4 in a row): card {_SHORT}: said no",
            {"card": _SHORT, "error": "ServerError", "failures": 4},
        ),
    ]
    caplog.set_level(logging.DEBUG, "cardprod")
    with Table() as table:
        for log, row, message, extra in records:
            with table.row(message):
                caplog.clear()
                log()
                (record,) = caplog.records
                assert (record.name, record.getMessage()) == ("cardprod", message)
                assert extra_of(record) == extra
                assert (record.levelname, set(extra)) == documented()[row]


def test_extra_clashes_with_nothing() -> None:
    """No field of the table is an attribute that a log record has already, which logging would refuse."""
    fields = set[str]().union(*(extra for _, extra in documented().values()))
    assert fields
    assert not fields & _BUILT_IN


def test_token_is_shortened_in_foreign_words(caplog: pytest.LogCaptureFixture) -> None:
    """A card's token is in no message and in no field, even where the server repeats it."""
    token = CARD.card_token
    named = ProductionStatus(f"LOST {token}", kiosk_id=f"at {token}", error_code=f"{token}!", description=token)
    caplog.set_level(logging.DEBUG, "cardprod")
    log_look(CARD, 1.0, named)
    log_transition(CARD, Transition(previous=named, current=named, elapsed=1.0, polls=1))
    log_failed_look(CARD, ServerError(f"no {token}", http_status=500, card=CARD), 1)
    assert len(caplog.records) == 3
    for record in caplog.records:
        assert token not in record.getMessage()
        assert token not in str(extra_of(record))
        assert "ca0c8154…" in record.getMessage()
    transition = extra_of(caplog.records[1])
    assert [transition[name] for name in ("previous_status", "status", "kiosk_id", "error_code")] == [
        *("LOST ca0c8154…", "LOST ca0c8154…", "at ca0c8154…", "ca0c8154…!")
    ]


def test_foreign_status_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A status with line breaks or terminal codes cannot forge a line of the log, and keeps 100 characters."""
    caplog.set_level(logging.DEBUG, "cardprod")
    shown = {"READY\n1970 ERROR \x1b[31mforged": "READY 1970 ERROR \ufffd[31mforged", "R" * 101: "R" * 99 + "…"}
    for status, text in shown.items():
        log_look(CARD, 1.0, ProductionStatus(status))
        log_transition(CARD, Transition(previous=None, current=ProductionStatus(status), elapsed=1.0, polls=1))
        assert f": {text} in" in caplog.records[-2].getMessage()
        assert caplog.records[-1].getMessage().isprintable()


def test_nothing_is_written_that_nobody_reads(caplog: pytest.LogCaptureFixture) -> None:
    """Where a level is off, its record is not made, and what it would say is not even looked at."""
    nothing: Any = object()
    caplog.set_level(logging.INFO, "cardprod")
    log_look(CARD, 1.0, nothing)
    caplog.set_level(logging.WARNING, "cardprod")
    log_transition(CARD, nothing)
    assert caplog.records == []
