"""The body of a webhook delivery: the event `cards#card-production-status-change`. Pure."""

from __future__ import annotations

import re
from typing import Final, cast

from cardprod._protocol.documents import Json, Malformed, kind_of, load_object, parse_time, status_structurer
from cardprod.errors import BadEvent, UsageError
from cardprod.models import Card, ProductionEvent, ProductionStatus, one_line

_EVENT_TYPE: Final = "cards#card-production-status-change"


def parse_event(body: bytes, *, delivery_id: str | None = None, is_test: bool = False) -> ProductionEvent:
    """Parse the body of a delivery whose signature was verified, of any schema version like 2.0.0 or 4.0.0.

    Any body is accepted of a test delivery; its card and status are read if they are valid.

    Raises:
        BadEvent: It is not a production event, or not of the documented shape.
    """
    try:
        return _event(load_object(body), delivery_id, is_test=is_test)
    except Malformed as exc:
        if is_test:
            return ProductionEvent(card=None, status=ProductionStatus("TEST"), delivery_id=delivery_id, is_test=True)
        raise BadEvent(
            f"not a production event: {exc}; check which subscriptions send to this URL", delivery_id=delivery_id
        ) from exc.__cause__


def _event(document: dict[str, Json], delivery_id: str | None, *, is_test: bool) -> ProductionEvent:
    if document.get("event_type") != _EVENT_TYPE:
        got = one_line(repr(document.get("event_type")), 100)
        raise Malformed(f"event_type: expected '{_EVENT_TYPE}', got {got}")
    data = _member(document, "data")
    return ProductionEvent(
        card=_card_of(_member(data, "resource")),
        status=status_structurer("event")(data),
        sent_at=parse_time(document.get("sent_at"), None),
        delivery_id=delivery_id,
        subscription_id=_word(document.get("subscription_id")),
        schema_version=_word(document.get("schema_version")),
        is_test=is_test,
    )


def _member(document: dict[str, Json], name: str) -> dict[str, Json]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise Malformed(f"{name}: expected an object, got {kind_of(value)}")
    return value


def _card_of(resource: dict[str, Json]) -> Card | None:
    """Read the card. Its profile id is a number, or, in one of Wise's samples, a string."""
    profile_id, card_token = resource.get("profile_id"), resource.get("card_token")
    if card_token is None:
        return None
    if isinstance(profile_id, str) and re.fullmatch(r"[0-9]{1,19}", profile_id):
        profile_id = int(profile_id)
    try:
        return Card(cast("int", profile_id), cast("str", card_token))
    except UsageError as exc:
        raise Malformed(f"resource: {exc}") from None


def _word(value: Json) -> str | None:
    return one_line(value, 100) if isinstance(value, str) else None
