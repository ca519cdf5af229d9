"""The shop floor: the simulated cards, the kiosks, and what somebody can do there by hand. No HTTP and no clock.

| move | from | to |
| --- | --- | --- |
| start | READY | IN_PROGRESS |
| refuse | READY, PRODUCTION_ERROR, REQUEST_ERROR | REQUEST_ERROR with any of the 22 codes |
| finish | IN_PROGRESS, at a kiosk that is online | PRODUCED |
| fail | IN_PROGRESS | PRODUCTION_ERROR with any of the 36 codes |
| retry | PRODUCTION_ERROR, REQUEST_ERROR | IN_PROGRESS, as a new request with a new `occurredAt` |

While a kiosk is offline, what is planned there stands still, and nothing there can be finished. A card that is started
or retried there gets REQUEST_ERROR with REQUEST_CREATED_BUT_NOT_STARTED, which is Wise's word for it, and goes
IN_PROGRESS by itself when the kiosk is back: its request is sent to the kiosk then, so with a new `occurredAt`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from cardprod._protocol.validation import check_text
from cardprod.error_codes import PRODUCTION_ERROR_MEANINGS, REQUEST_ERROR_MEANINGS, ErrorCode
from cardprod.errors import UsageError
from cardprod.simulator.cards import SimulatedCard
from cardprod.simulator.plans import Plan, Stage, as_stages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cardprod.models import Card

__all__ = ["FIRST_KIOSK", "CardState", "Floor", "KioskState"]

FIRST_KIOSK: Final = "WIS00001"

_MOVES: Final[Mapping[str, tuple[str, ...]]] = {
    "READY": ("start", "refuse"),
    "IN_PROGRESS": ("finish", "fail"),
    "PRODUCED": (),
    "PRODUCTION_ERROR": ("retry", "refuse"),
    "REQUEST_ERROR": ("retry", "refuse"),
}
_MOVES_FROM_ELSEWHERE: Final = ("finish", "fail")
"""From a status that Wise does not document: some step of the production."""

_KIOSK_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")


@attrs.frozen(kw_only=True)
class CardState:
    """How a simulated card is just now. Times are seconds since the simulator started.

    Args:
        card: The card.
        status: The status that a look would see.
        error_code: The error code that goes with it.
        description: The words that go with it.
        kiosk_id: The kiosk it is at, or will be at when its production is started.
        since: When it came into this status.
        requested_at: When its production request was made: its `occurredAt`.
        plan: The name of its plan; None if that has none, or is over because somebody drove the card by hand.
        is_by_hand: Whether somebody drove it by hand, so that nothing becomes of it by itself.
        is_held: Whether its plan stands still, because its kiosk is offline.
        is_pending: Whether it was started while its kiosk was offline, and begins by itself when that is back.
        next_status: What becomes of it by itself next; None for nothing.
        next_at: When.
        looks: How often its status was served.
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
    is_by_hand: bool
    is_held: bool
    is_pending: bool
    next_status: str | None
    next_at: float | None
    looks: int
    moves: tuple[str, ...]


@attrs.frozen(kw_only=True)
class KioskState:
    """How a simulated kiosk is just now.

    Args:
        kiosk_id: Its id, as in a status.
        is_online: Whether it works.
        in_production: How many cards are IN_PROGRESS there.
    """

    kiosk_id: str
    is_online: bool
    in_production: int


class Floor:
    """The cards and the kiosks. Times are numbers; what has changed is for the caller to tell."""

    def __init__(self) -> None:
        self._cards: dict[Card, SimulatedCard] = {}
        self._kiosks: dict[str, bool] = {FIRST_KIOSK: True}

    def __contains__(self, card: object) -> bool:
        return card in self._cards

    def __iter__(self) -> Iterator[Card]:
        return iter(self._cards)

    def __len__(self) -> int:
        return len(self._cards)

    def find(self, card: Card) -> SimulatedCard | None:
        """Give a card that was added."""
        return self._cards.get(card)

    def add(self, card: Card, plan: Plan, now: float) -> SimulatedCard:
        """Put a card on a plan."""
        simulated = SimulatedCard(as_stages(plan), plan if isinstance(plan, str) else None, FIRST_KIOSK, now)
        self._cards[card] = simulated
        if not self._kiosks[simulated.kiosk_id]:
            simulated.hold(now)
        return simulated

    # --- Cards, by hand ---

    def start(self, card: Card, kiosk_id: str | None, now: float) -> None:
        """Start a card's production at a kiosk, or at its own."""
        simulated = self._about_to("start", card, now)
        self._send(simulated, simulated.kiosk_id if kiosk_id is None else kiosk_id, now, again=False)

    def finish(self, card: Card, now: float) -> None:
        """Let a card be produced."""
        self._about_to("finish", card, now).drive(Stage("PRODUCED"), now)

    def fail(self, card: Card, code: str, now: float) -> None:
        """Let a card's production fail."""
        meaning = _meaning(code, PRODUCTION_ERROR_MEANINGS, "production")
        stage = Stage("PRODUCTION_ERROR", error_code=str(code), description=meaning)
        self._about_to("fail", card, now).drive(stage, now)

    def refuse(self, card: Card, code: str, now: float) -> None:
        """Let a card's production request be refused; after an error, that is a new request."""
        meaning = _meaning(code, REQUEST_ERROR_MEANINGS, "request")
        simulated = self._about_to("refuse", card, now)
        is_new = simulated.phase_at(now).stage.status != "READY"
        stage = Stage("REQUEST_ERROR", error_code=str(code), description=meaning, is_new_request=is_new)
        simulated.drive(stage, now)

    def retry(self, card: Card, kiosk_id: str | None, now: float) -> None:
        """Send a card to a kiosk again."""
        simulated = self._about_to("retry", card, now)
        self._send(simulated, simulated.kiosk_id if kiosk_id is None else kiosk_id, now, again=True)

    def state_of(self, card: Card, now: float, started_at: float) -> CardState:
        """Say how a card is.

        Args:
            card: The card.
            now: When.
            started_at: What to count times from.

        Raises:
            UsageError: It was not added.
        """
        simulated = self._simulated(card)
        phase = simulated.phase_at(now)
        upcoming = next(iter(simulated.phases_after(now)), None)
        return CardState(
            card=card,
            status=phase.stage.status,
            error_code=phase.stage.error_code,
            description=phase.stage.description,
            kiosk_id=simulated.kiosk_id,
            since=phase.since - started_at,
            requested_at=phase.requested_at - started_at,
            plan=None if simulated.is_by_hand else simulated.plan,
            is_by_hand=simulated.is_by_hand,
            is_held=simulated.is_held,
            is_pending=simulated.is_pending,
            next_status=None if upcoming is None else upcoming.stage.status,
            next_at=None if upcoming is None else upcoming.since - started_at,
            looks=simulated.looks,
            moves=self._moves_of(simulated, phase.stage.status),
        )

    # --- Kiosks ---

    def kiosks(self, now: float) -> tuple[KioskState, ...]:
        """Say how the kiosks are."""
        in_production = dict.fromkeys(self._kiosks, 0)
        for simulated in self._cards.values():
            in_production[simulated.kiosk_id] += simulated.phase_at(now).stage.status == "IN_PROGRESS"
        return tuple(
            KioskState(kiosk_id=kiosk_id, is_online=is_online, in_production=in_production[kiosk_id])
            for kiosk_id, is_online in self._kiosks.items()
        )

    def add_kiosk(self, kiosk_id: str | None) -> str:
        """Set up another kiosk."""
        if kiosk_id is None:
            kiosk_id = next(
                name for number in range(1, len(self._kiosks) + 2) if (name := f"WIS{number:05}") not in self._kiosks
            )
        check_text("kiosk_id", kiosk_id, "1 to 32 characters of A-Z a-z 0-9 _ -", _KIOSK_ID)
        if kiosk_id in self._kiosks:
            raise UsageError(f"there is a kiosk {kiosk_id} already")
        self._kiosks[kiosk_id] = True
        return kiosk_id

    def take_offline(self, kiosk_id: str, now: float) -> list[Card]:
        """Let a kiosk not work; give the cards whose plans stand still."""
        self._check_kiosk(kiosk_id)
        if not self._kiosks[kiosk_id]:
            return []
        self._kiosks[kiosk_id] = False
        concerned = self._cards_at(kiosk_id)
        for card in concerned:
            self._cards[card].hold(now)
        return concerned

    def bring_online(self, kiosk_id: str, now: float) -> tuple[list[Card], list[Card]]:
        """Let a kiosk work again; give the cards whose plans go on, and those that begin now."""
        self._check_kiosk(kiosk_id)
        if self._kiosks[kiosk_id]:
            return [], []
        self._kiosks[kiosk_id] = True
        concerned = self._cards_at(kiosk_id)
        begun = [card for card in concerned if self._cards[card].is_pending]
        for card in concerned:
            self._cards[card].release(now)
        for card in begun:
            self._cards[card].drive(Stage("IN_PROGRESS", is_new_request=True), now)
        return concerned, begun

    def _cards_at(self, kiosk_id: str) -> list[Card]:
        return [card for card, simulated in self._cards.items() if simulated.kiosk_id == kiosk_id]

    def _check_kiosk(self, kiosk_id: str) -> None:
        if kiosk_id not in self._kiosks:
            raise UsageError(f"there is no kiosk {kiosk_id!r}; there are {', '.join(self._kiosks)}")

    def _simulated(self, card: Card) -> SimulatedCard:
        simulated = self._cards.get(card)
        if simulated is None:
            raise UsageError("there is no such card; add it first", card=card)
        return simulated

    def _moves_of(self, simulated: SimulatedCard, status: str) -> tuple[str, ...]:
        moves = _MOVES.get(status, _MOVES_FROM_ELSEWHERE)
        if self._kiosks[simulated.kiosk_id]:
            return moves
        return tuple(move for move in moves if move != "finish")

    def _about_to(self, move: str, card: Card, now: float) -> SimulatedCard:
        """Give a card that this can be done with."""
        simulated = self._simulated(card)
        status = simulated.phase_at(now).stage.status
        possible = self._moves_of(simulated, status)
        if move in possible:
            return simulated
        why = f"it is {status}"
        if move == "finish" and move in _MOVES.get(status, _MOVES_FROM_ELSEWHERE):
            why += f", and kiosk {simulated.kiosk_id} is offline"
        what = f"possible: {', '.join(possible)}" if possible else "nothing is possible but to add it again"
        raise UsageError(f"{move} is not possible: {why}; {what}", card=card)

    def _send(self, simulated: SimulatedCard, kiosk_id: str, now: float, *, again: bool) -> None:
        """Send a card to a kiosk, which may be offline."""
        self._check_kiosk(kiosk_id)
        is_online = self._kiosks[kiosk_id]
        if is_online:
            stage = Stage("IN_PROGRESS", is_new_request=again)
        else:
            code = ErrorCode.REQUEST_CREATED_BUT_NOT_STARTED
            meaning = REQUEST_ERROR_MEANINGS[code]
            stage = Stage("REQUEST_ERROR", error_code=str(code), description=meaning, is_new_request=again)
        simulated.kiosk_id = kiosk_id
        simulated.drive(stage, now)
        simulated.is_pending = not is_online


def _meaning(code: str, meanings: Mapping[ErrorCode, str], kind: str) -> str:
    """Say what an error code means, and refuse one that there is not."""
    known: Iterable[str] = meanings
    for each in known:
        if each == code:
            return meanings[ErrorCode(each)]
    raise UsageError(f"no {kind} error has the code {code!r}; a plan with a Stage can have any code at all")
