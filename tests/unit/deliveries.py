"""The body of a webhook delivery, as Wise sends it."""

from __future__ import annotations

from typing import Any

from tests.cards import CARD


def delivered(**data: Any) -> dict[str, Any]:
    """Return an event as schema version 4.0.0 has it, with some of its data replaced."""
    resource = {
        "type": "card",
        "profile_id": CARD.profile_id,
        "client_id": "wise-client",
        "card_token": CARD.card_token,
    } | data.pop("resource", {})
    return {
        "subscription_id": "16b6d5cb-8a4c-4b5c-9d0e-52b6a1d27ba4",
        "event_type": "cards#card-production-status-change",
        "schema_version": "4.0.0",
        "sent_at": "2026-11-24T12:00:05.250Z",
        "data": {
            "resource": resource,
            "status": "IN_PROGRESS",
            "kiosk_id": "WIS00001",
            "occurred_at": "2026-11-24T12:00:00.125Z",
            "error_code": None,
            "description": None,
        }
        | data,
    }
