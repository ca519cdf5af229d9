"""What the body of a webhook delivery becomes: an event, or `BadEvent`."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod._protocol.events import parse_event
from cardprod.error_codes import ErrorCode
from cardprod.errors import BadEvent
from cardprod.models import ProductionEvent, ProductionStatus
from tests.cards import CARD
from tests.table import Table
from tests.unit.deliveries import delivered

if TYPE_CHECKING:
    from collections.abc import Mapping


def event_of(document: Mapping[str, Any]) -> ProductionEvent:
    return parse_event(json.dumps(document).encode(), delivery_id="d-1")


def test_event() -> None:
    """A delivery gives the card, the status, and what is known of the delivery."""
    assert event_of(delivered()) == ProductionEvent(
        card=CARD,
        status=ProductionStatus(
            "IN_PROGRESS", kiosk_id="WIS00001", occurred_at=datetime(2026, 11, 24, 12, 0, 0, 125_000, UTC)
        ),
        sent_at=datetime(2026, 11, 24, 12, 0, 5, 250_000, UTC),
        delivery_id="d-1",
        subscription_id="16b6d5cb-8a4c-4b5c-9d0e-52b6a1d27ba4",
        schema_version="4.0.0",
        is_test=False,
    )


def test_schema_version_2() -> None:
    """Version 2.0.0, with times in seconds and the profile as a text, is read as well."""
    old = delivered(resource={"profile_id": "123456"}, occurred_at="2026-11-24T12:00:00Z")
    event = event_of(old | {"schema_version": "2.0.0", "sent_at": "2026-11-24T12:00:05Z"})
    assert event.card == CARD
    assert event.schema_version == "2.0.0"
    assert event.status.occurred_at == datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


def test_null_card_token() -> None:
    """An event that names no card is an event, and concerns no wait."""
    assert event_of(delivered(resource={"card_token": None})).card is None


def test_status_of_an_event(caplog: pytest.LogCaptureFixture) -> None:
    """A failure has its code and meaning, what is newer than this package stays, and a malformed time costs only it."""
    failed = event_of(delivered(status="PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM", description="jam")).status
    assert failed.error_code is ErrorCode.PRD_FEEDER_JAM
    assert failed.error_meaning
    newer = event_of(delivered(status="EMBOSSING", error_code="NEW_ONE", more={"x": 1})).status
    assert (newer.status, newer.error_code, newer.is_final) == ("EMBOSSING", "NEW_ONE", False)
    malformed = event_of(delivered(occurred_at="2024-01-01T12:24:560Z") | {"sent_at": "soon"})
    assert (malformed.card, malformed.status.occurred_at, malformed.sent_at) == (CARD, None, None)
    assert "a time is not in ISO 8601 and was left out: a string of 21 characters" in caplog.text


def test_foreign_names_are_short() -> None:
    """A subscription and a version keep 100 characters of one printable line; what is no text is left out."""
    words = {"s" * 100: "s" * 100, "s" * 101: "s" * 99 + "…", "a\n\x1b": "a \N{REPLACEMENT CHARACTER}", 7: None}
    with Table() as table:
        for word, kept in words.items():
            with table.row(word):
                event = event_of(delivered() | {"subscription_id": word, "schema_version": word})
                assert (event.subscription_id, event.schema_version) == (kept, kept)


def test_test_notification() -> None:
    """A test notification is never an error, whatever it holds, and an event of it says that it is a test."""
    no_card = json.dumps(delivered(resource={"profile_id": 0, "card_token": None})).encode()
    with Table() as table:
        for body in (no_card, b'{"hello":"world"}', b"", b"not JSON", b"[]"):
            with table.row(body):
                event = parse_event(body, delivery_id="d-1", is_test=True)
                assert (event.is_test, event.card, event.delivery_id) == (True, None, "d-1")


def test_test_notification_about_a_card() -> None:
    """The card of a test notification is read where it can be."""
    event = parse_event(json.dumps(delivered()).encode(), is_test=True)
    assert (event.is_test, event.card, event.status.status) == (True, CARD, "IN_PROGRESS")


def test_bad_event() -> None:
    """What is no production event says what is wrong with it, and which delivery it was."""
    other_type = "expected 'cards#card-production-status-change', got"
    text_of_100 = repr("x" * 98)
    bad: list[tuple[bytes | dict[str, Any], str]] = [
        (b"", "the body is empty"),
        (b"not JSON", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "expected a JSON object, got an array"),
        ({}, f"event_type: {other_type} None"),
        (delivered() | {"event_type": "transfers#state-change"}, f"event_type: {other_type} 'transfers#state-change'"),
        (delivered() | {"event_type": "x" * 98}, f"event_type: {other_type} {text_of_100}"),
        (delivered() | {"event_type": "x" * 99}, f"event_type: {other_type} 'xxx{'x' * 95}…"),
        (delivered() | {"data": None}, "data: expected an object, got null"),
        (delivered() | {"data": {"status": "READY"}}, "resource: expected an object, got null"),
        (delivered(status=None), "status: expected a string, got null"),
        (delivered(status=" "), "status: expected a status, got an empty string"),
        (delivered(kiosk_id=7), "kiosk_id: expected a string, got a number"),
        (delivered(resource={"profile_id": None}), "resource: profile_id must be an int"),
        (delivered(resource={"profile_id": True}), "resource: profile_id must be an int"),
        (delivered(resource={"profile_id": "12x"}), "resource: profile_id must be an int"),
        (delivered(resource={"profile_id": "1" * 20}), "resource: profile_id must be an int"),
        (delivered(resource={"profile_id": "0"}), "resource: profile_id must be from 1"),
        (delivered(resource={"profile_id": 2**70}), "resource: profile_id must be from 1"),
        (delivered(resource={"card_token": "a/b"}), "resource: card_token must be 1 to 128 characters"),
        (delivered(resource={"card_token": 5}), "resource: card_token must be a str"),
    ]
    with Table() as table:
        for body, problem in bad:
            with table.row(body):
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                with pytest.raises(BadEvent) as caught:
                    parse_event(raw, delivery_id="d-1")
                assert str(caught.value).startswith(f"not a production event: {problem}")
                assert caught.value.delivery_id == "d-1"


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
Json = _SCALARS | st.lists(_SCALARS, max_size=3) | st.dictionaries(st.text(), _SCALARS, max_size=3)


def _some_of(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, Json))


@st.composite
def _nearly_events(draw: st.DrawFn) -> object:
    """Draw an event with anything in place of some of its values."""
    data = draw(_some_of("status", "kiosk_id", "occurred_at", "error_code", "description"))
    resource = draw(_some_of("profile_id", "card_token", "type"))
    event = delivered(resource=resource, **data)
    if draw(st.booleans()):
        event |= draw(_some_of("sent_at", "schema_version", "data", "event_type"))
    return event


@given(_nearly_events() | Json)
def test_hostile_events(document: object) -> None:
    """Whatever JSON is delivered, it gives an event or `BadEvent`, and a test gives an event."""
    body = json.dumps(document).encode()
    with contextlib.suppress(BadEvent):
        assert not parse_event(body).is_test
    assert parse_event(body, is_test=True).is_test
