"""What the page shows of a simulator, as literal JSON. No HTTP."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from cardprod.models import Card
from cardprod.simulator.faults import Fault

if TYPE_CHECKING:
    from cardprod.simulator.kiosks import CardState
    from cardprod.simulator.log import Log
    from cardprod.simulator.server import Simulator

_PAGE_LENGTH: Final = 50
_LOG_LENGTH: Final = 100
_OK: Final = 200
_Json: TypeAlias = dict[str, Any]


def state_as_json(kiosk: Simulator, status: str = "", words: str = "", page: int = 0) -> _Json:
    """Describe a simulator: one page of its cards, the newest first, and all else.

    The cards are those in the status, or all, whose profile or token has the words in it; of their pages, counted from
    0, this one, or the last one if there are fewer.
    """
    words, statuses = words.lower(), kiosk.statuses()
    counted = [(card, its) for card, its in statuses.items() if words in f"{card.profile_id}/{card.card_token}".lower()]
    found = [card for card, its in reversed(counted) if status in {"", its}]
    page = max(0, min(page, (len(found) - 1) // _PAGE_LENGTH))
    faults = kiosk.faults
    return {
        "started_at": kiosk.started_at.timestamp(),
        "cards": [card_as_json(kiosk.state_of(card)) for card in found[page * _PAGE_LENGTH :][:_PAGE_LENGTH]],
        "all_cards": len(statuses),
        "found": len(found),
        "counts": Counter(its for _, its in counted),
        "page": page,
        "kiosks": [attrs.asdict(each) for each in kiosk.kiosks],
        "faults": {
            "next": [{"what": _in_words(fault), "times": times} for fault, times in faults.next],
            "error_rate": faults.error_rate,
            "latency": faults.latency,
        },
        "subscriptions": [each.endpoint for each in kiosk.subscriptions],
        "requests": _entries(kiosk.requests),
        "deliveries": _entries(kiosk.deliveries),
    }


def card_as_json(state: CardState) -> _Json:
    """Write a card's state. The profile's id is a text: JavaScript's numbers end before an int64 does."""
    fields = attrs.asdict(state, recurse=False, value_serializer=_plain)
    return {"profile_id": str(state.card.profile_id), "card_token": fields.pop("card")} | fields


def _entries(log: Log[Any]) -> list[_Json]:
    """Write the end of a log, each entry with its number."""
    return [
        {"number": number} | attrs.asdict(entry, recurse=False, value_serializer=_plain)
        for number, entry in log.last(_LOG_LENGTH)
    ]


def _plain(_owner: object, _field: object, value: object) -> object:
    """Make JSON of one field of a state or an entry."""
    match value:
        case float():
            return round(value, 3)
        case Card():
            return value.card_token  # whole, and without the profile, which most cards share
        case Fault():
            return _in_words(value)
        case _:
            return value


def _in_words(fault: Fault) -> str:
    match fault.kind:
        case "stall":
            return f"{fault.seconds:g} s late"
        case "reset":
            return "connection broken"
        case "cut_body":
            return "body cut short"
        case "garbage":
            return "not HTTP"
        case "answer":
            after = "" if fault.retry_after is None else f", Retry-After: {fault.retry_after}"
            return f"{fault.http_status}{after}" if fault.http_status != _OK else "200, not the documented body"
