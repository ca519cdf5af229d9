"""What can be done with simulated cards and kiosks, and what is seen of them. No HTTP and no clock.

What each move does, the methods of `Simulator` say. While a kiosk is offline, the plans of its cards are paused, and
nothing can be finished there. A card that is started or retried there gets REQUEST_ERROR with
REQUEST_CREATED_BUT_NOT_STARTED, as Wise documents it, and becomes IN_PROGRESS by itself when the kiosk is back: its
request is sent to the kiosk then, so with a new `occurredAt`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod.models import Card

FIRST_KIOSK: Final = "WIS00001"
Move: TypeAlias = Literal["start", "finish", "fail", "refuse", "retry"]

_MOVES: Final[Mapping[str, tuple[Move, ...]]] = {
    "READY": ("start", "refuse"),
    "IN_PROGRESS": ("finish", "fail"),
    "PRODUCED": (),
    "PRODUCTION_ERROR": ("retry", "refuse"),
    "REQUEST_ERROR": ("retry", "refuse"),
}
_OTHER_MOVES: Final[tuple[Move, ...]] = ("finish", "fail")
"""From a status that Wise does not document: some step of the production."""


@attrs.frozen(kw_only=True)
class CardState:
    """The state of a simulated card. Times are seconds since the simulator started.

    Args:
        card: The card.
        status: The status that a request would see.
        error_code: The error code that goes with it.
        description: The text that goes with it.
        kiosk_id: The kiosk that it is at, or will be at when its production is started.
        since: When it came into this status.
        requested_at: When its production request was made: its `occurredAt`.
        plan: The name of its plan; None if that has none, or is over because the card was moved.
        is_manual: Whether it was moved, so that it changes no more by itself.
        is_paused: Whether its plan is paused, because its kiosk is offline.
        is_pending: Whether it was started while its kiosk was offline, and begins by itself when that is back.
        next_status: The status that it reaches by itself next; None for none.
        next_at: When.
        requests: How often its status was served.
        moves: What can be done with it: `start`, `finish`, `fail`, `refuse`, `retry`.
    """

    card: Card
    status: str
    error_code: str | None
    description: str | None
    kiosk_id: str
    since: float
    requested_at: float
    plan: str | None
    is_manual: bool
    is_paused: bool
    is_pending: bool
    next_status: str | None
    next_at: float | None
    requests: int
    moves: tuple[Move, ...]


@attrs.frozen(kw_only=True)
class KioskState:
    """The state of a simulated kiosk.

    Args:
        kiosk_id: Its id, as in a status.
        is_online: Whether it works.
        in_production: How many cards are IN_PROGRESS there.
    """

    kiosk_id: str
    is_online: bool
    in_production: int


def moves_from(status: str, *, is_online: bool = True) -> tuple[Move, ...]:
    """Return the moves that are possible from a status, at a kiosk that is online or not."""
    moves = _MOVES.get(status, _OTHER_MOVES)
    return moves if is_online else tuple(move for move in moves if move != "finish")
