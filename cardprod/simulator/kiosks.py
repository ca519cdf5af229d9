"""The simulated cards and kiosks, and the moves between a card's statuses. No HTTP and no clock.

| move | from | to |
| --- | --- | --- |
| start | READY | IN_PROGRESS |
| refuse | READY, PRODUCTION_ERROR, REQUEST_ERROR | REQUEST_ERROR with any of the 22 codes |
| finish | IN_PROGRESS, at a kiosk that is online | PRODUCED |
| fail | IN_PROGRESS | PRODUCTION_ERROR with any of the 36 codes |
| retry | PRODUCTION_ERROR, REQUEST_ERROR | IN_PROGRESS, as a new request with a new `occurredAt` |

While a kiosk is offline, the plans of its cards are paused, and nothing can be finished there. A card that is started
or retried there gets REQUEST_ERROR with REQUEST_CREATED_BUT_NOT_STARTED, as Wise documents it, and becomes IN_PROGRESS
by itself when the kiosk is back: its request is sent to the kiosk then, so with a new `occurredAt`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

from cardprod._protocol.validation import check_text
from cardprod.error_codes import PRODUCTION_ERROR_MEANINGS, REQUEST_ERROR_MEANINGS, ErrorCode
from cardprod.errors import UsageError
from cardprod.simulator.cards import SimulatedCard
from cardprod.simulator.plans import Plan, Stage, as_stages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod.models import Card

__all__ = ["FIRST_KIOSK", "CardState", "KioskRegistry", "KioskState", "Move", "error_stage"]

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

_ERRORS: Final[Mapping[str, tuple[str, Mapping[ErrorCode, str]]]] = {
    "PRODUCTION_ERROR": ("production", PRODUCTION_ERROR_MEANINGS),
    "REQUEST_ERROR": ("request", REQUEST_ERROR_MEANINGS),
}
_KIOSK_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")


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


class KioskRegistry:
    """The cards and the kiosks. All times are of one clock; publishing what has changed is the caller's task."""

    def __init__(self) -> None:
        self.cards: dict[Card, SimulatedCard] = {}
        """The cards, in the order in which they were first added."""
        self._kiosks: dict[str, bool] = {FIRST_KIOSK: True}

    def add(self, card: Card, plan: Plan, now: float) -> None:
        """Put a card on a plan."""
        simulated = SimulatedCard(as_stages(plan), plan if isinstance(plan, str) else None, FIRST_KIOSK, now)
        self.cards[card] = simulated
        if not self._kiosks[FIRST_KIOSK]:
            simulated.pause(now)

    def move(self, move: Move, card: Card, now: float, *, kiosk_id: str | None = None, code: str | None = None) -> None:
        """Move a card: to a kiosk, or to an error."""
        simulated = self._find(card)
        if move == "fail":
            stage = error_stage("PRODUCTION_ERROR", code)
        elif move == "refuse":
            stage = error_stage("REQUEST_ERROR", code)
        else:
            stage = Stage("PRODUCED" if move == "finish" else "IN_PROGRESS")
        self._check_possible(move, simulated, card, now)
        is_sent = move in {"start", "retry"}
        kiosk_id = simulated.kiosk_id if kiosk_id is None else kiosk_id
        self._check_kiosk(kiosk_id)
        is_pending = is_sent and not self._kiosks[kiosk_id]
        if is_pending:
            stage = error_stage("REQUEST_ERROR", ErrorCode.REQUEST_CREATED_BUT_NOT_STARTED)
        is_again = move == "retry" or (move == "refuse" and simulated.phase_at(now).stage.status != "READY")
        simulated.kiosk_id = kiosk_id
        simulated.enter(attrs.evolve(stage, is_new_request=is_again), now)
        simulated.is_pending = is_pending

    def request_production(self, card: Card, kiosk_id: str, now: float) -> Stage | None:
        """Make a production request: the next stage of the card's plan begins, or it is started or retried.

        Return the refusal of a request that cannot be made now; None if the card has come into another status.
        """
        simulated = self._find(card)
        moves = self._moves_of(simulated, simulated.phase_at(now).stage.status)
        if "refuse" not in moves:
            return error_stage("REQUEST_ERROR", ErrorCode.REQUEST_ALREADY_EXISTS)
        if kiosk_id not in self._kiosks:
            self.move("refuse", card, now, code=ErrorCode.KIOSK_ID_NOT_FOUND)
        elif not self._kiosks[kiosk_id] or simulated.advance(now) is None:
            self.move("start" if "start" in moves else "retry", card, now, kiosk_id=kiosk_id)
        else:
            simulated.kiosk_id = kiosk_id
        return None

    def state_of(self, card: Card, now: float, started_at: float) -> CardState:
        """Return a card's state, its times counted from `started_at`."""
        simulated = self._find(card)
        phase = simulated.phase_at(now)
        coming = next(iter(simulated.phases_after(now)), None)
        return CardState(
            card=card,
            status=phase.stage.status,
            error_code=phase.stage.error_code,
            description=phase.stage.description,
            kiosk_id=simulated.kiosk_id,
            since=phase.since - started_at,
            requested_at=phase.requested_at - started_at,
            plan=None if simulated.is_manual else simulated.plan,
            is_manual=simulated.is_manual,
            is_paused=simulated.is_paused,
            is_pending=simulated.is_pending,
            next_status=None if coming is None else coming.stage.status,
            next_at=None if coming is None else coming.since - started_at,
            requests=simulated.requests,
            moves=self._moves_of(simulated, phase.stage.status),
        )

    def kiosks(self, now: float) -> tuple[KioskState, ...]:
        """Return the state of each kiosk."""
        in_production = dict.fromkeys(self._kiosks, 0)
        for simulated in self.cards.values():
            in_production[simulated.kiosk_id] += simulated.phase_at(now).stage.status == "IN_PROGRESS"
        return tuple(
            KioskState(kiosk_id=kiosk_id, is_online=is_online, in_production=in_production[kiosk_id])
            for kiosk_id, is_online in self._kiosks.items()
        )

    def add_kiosk(self, kiosk_id: str | None) -> str:
        """Add a kiosk, and return its id."""
        if kiosk_id is None:
            names = (f"WIS{number:05}" for number in range(1, len(self._kiosks) + 2))
            kiosk_id = next(name for name in names if name not in self._kiosks)
        check_text("kiosk_id", kiosk_id, "1 to 32 characters of A-Z a-z 0-9 _ -", _KIOSK_ID)
        if kiosk_id in self._kiosks:
            raise UsageError(f"there is a kiosk {kiosk_id} already: choose another id")
        self._kiosks[kiosk_id] = True
        return kiosk_id

    def set_online(self, kiosk_id: str, is_online: bool, now: float) -> tuple[list[Card], list[Card]]:
        """Take a kiosk offline or bring it back; return the cards that it concerns, and those that begin now."""
        self._check_kiosk(kiosk_id)
        if self._kiosks[kiosk_id] == is_online:
            return [], []
        self._kiosks[kiosk_id] = is_online
        concerned = {card: simulated for card, simulated in self.cards.items() if simulated.kiosk_id == kiosk_id}
        begun = [card for card, simulated in concerned.items() if is_online and simulated.is_pending]
        for simulated in concerned.values():
            if not is_online:
                simulated.pause(now)
                continue
            simulated.resume(now)
            if simulated.is_pending:
                simulated.enter(Stage("IN_PROGRESS", is_new_request=True), now)
        return list(concerned), begun

    def _find(self, card: Card) -> SimulatedCard:
        simulated = self.cards.get(card)
        if simulated is None:
            raise UsageError("there is no such card; add it first", card=card)
        return simulated

    def _check_kiosk(self, kiosk_id: str) -> None:
        if kiosk_id not in self._kiosks:
            raise UsageError(f"there is no kiosk {kiosk_id!r}; there are {', '.join(self._kiosks)}")

    def _moves_of(self, simulated: SimulatedCard, status: str) -> tuple[Move, ...]:
        moves = _MOVES.get(status, _OTHER_MOVES)
        return moves if self._kiosks[simulated.kiosk_id] else tuple(move for move in moves if move != "finish")

    def _check_possible(self, move: Move, simulated: SimulatedCard, card: Card, now: float) -> None:
        status = simulated.phase_at(now).stage.status
        possible = self._moves_of(simulated, status)
        if move in possible:
            return
        why = f"it is {status}"
        if move in _MOVES.get(status, _OTHER_MOVES):
            why += f", and kiosk {simulated.kiosk_id} is offline"
        what = f"possible: {', '.join(possible)}" if possible else "nothing is possible but to add it again"
        raise UsageError(f"{move} is not possible: {why}; {what}", card=card)


def error_stage(status: str, code: str | None) -> Stage:
    """Return the stage of an error, with what its code means."""
    kind, meanings = _ERRORS[status]
    for each, meaning in meanings.items():
        if each == code:
            return Stage(status, error_code=str(code), description=meaning)
    raise UsageError(
        f"no {kind} error has the code {code!r}: use another, or add a plan with a Stage, which can have any code"
    )
