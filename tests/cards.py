"""The card that most tests ask for, and events about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import cardprod

CARD: Final = cardprod.Card(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")


def event_of(
    card: cardprod.Card, status: str, *, occurred_at: datetime | None = None, sent_at: datetime | None = None
) -> cardprod.ProductionEvent:
    """Make an event about a card, by default sent just now."""
    reported = cardprod.ProductionStatus(status, kiosk_id="WIS00001", occurred_at=occurred_at)
    return cardprod.ProductionEvent(card=card, status=reported, sent_at=sent_at or datetime.now(UTC))
