"""The card that most tests poll, how they do, and events about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import cardprod
from cardprod.checkpoint import wall_clock

if TYPE_CHECKING:
    from collections.abc import Coroutine

CARD: Final = cardprod.Card(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")


def poll(client: cardprod.Client, card: cardprod.Card = CARD) -> Coroutine[Any, Any, cardprod.ProductionStatus]:
    """Poll a card once."""
    return client.get_status(card.profile_id, card.card_token)


def event_of(
    card: cardprod.Card, status: str, *, occurred_at: datetime | None = None, sent_at: datetime | None = None
) -> cardprod.ProductionEvent:
    """Make an event about a card, by default sent just now."""
    reported = cardprod.ProductionStatus(status, kiosk_id="WIS00001", occurred_at=occurred_at)
    now = datetime.fromtimestamp(wall_clock(), UTC)
    return cardprod.ProductionEvent(card=card, status=reported, sent_at=sent_at or now)
