"""`KioskSimulation`: all of the simulator but its HTTP: the cards and kiosks, and who is informed of their changes."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

from cardprod._protocol.validation import check_text, check_type
from cardprod.error_codes import ErrorCode
from cardprod.errors import UsageError
from cardprod.simulator.cards import SimulatedCard
from cardprod.simulator.clock import Clock
from cardprod.simulator.faults import FaultInjector
from cardprod.simulator.kiosks import FIRST_KIOSK, CardState, KioskState, Move, moves_from
from cardprod.simulator.log import Log
from cardprod.simulator.plans import Stage, as_stages, error_stage
from cardprod.simulator.webhook_sender import WebhookSender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cardprod.models import Card
    from cardprod.simulator.cards import Phase
    from cardprod.simulator.faults import Fault
    from cardprod.simulator.plans import Plan
    from cardprod.simulator.webhook_sender import Subscription

_log: Final = logging.getLogger("cardprod.simulator")
_KIOSK_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")

Change: TypeAlias = "Card | Literal['kiosks', 'faults', 'subscriptions', 'requests', 'deliveries']"
"""What has changed: a card, or something else of the simulator, by the name of its property."""


@attrs.frozen
class LoggedRequest:
    """One request to the simulator, without its token.

    Args:
        at: Seconds since the simulator started.
        method: The HTTP method.
        path: What was asked for, percent-encoded, with the card's token shortened.
        correlation_id: The request's `X-External-Correlation-Id`.
        card: The card that it is about, known to the simulator or not; None if the path names no card.
        fault: The answer's fault.
        http_status: The answer's HTTP status; None if there was no answer.
        status: The production status that was served whole; None if none was.
        occurred_at: The `occurredAt` that was served with it.
    """

    at: float
    method: str
    path: str
    correlation_id: str | None
    card: Card | None
    fault: Fault | None
    http_status: int | None
    status: str | None = None
    occurred_at: str | None = None


class KioskSimulation:
    """The cards and kiosks, faults, webhooks and logs, on the event loop's time."""

    def __init__(self, log_size: int) -> None:
        self.clock: Clock = Clock()
        self.cards: dict[Card, SimulatedCard] = {}
        """The cards, in the order in which they were first added."""
        self._kiosks: dict[str, bool] = {FIRST_KIOSK: True}  # whether each is online
        self.faults: FaultInjector = FaultInjector(lambda: self.publish("faults"))
        self.webhooks: WebhookSender = WebhookSender(self.clock, log_size, lambda: self.publish("deliveries"))
        self.requests: Log[LoggedRequest] = Log(log_size)
        self._timers: dict[Card, asyncio.TimerHandle] = {}  # of the next planned change of each card
        self._observers: list[Callable[[Change], None]] = []
        self._has_failed = False

    def start(self) -> None:
        """Begin, or go on with the plans after `close`."""
        self.clock.start()
        self._reschedule(self.cards)

    async def close(self) -> None:
        """Stop what goes on by itself."""
        self._stop_timers()
        await self.webhooks.close()

    # --- Cards ---

    def add(self, card: Card, plan: Plan) -> None:
        """Put a card on a plan."""
        now = self.clock.now()
        simulated = SimulatedCard(as_stages(plan), plan if isinstance(plan, str) else None, FIRST_KIOSK, now)
        if not self._kiosks[FIRST_KIOSK]:
            simulated.pause(now)
        self.cards[card] = simulated
        self._reschedule([card])
        self.publish(card)

    def move(self, move: Move, card: Card, *, kiosk_id: str | None = None, code: str | None = None) -> CardState:
        """Move a card, to a kiosk or to an error, and return its new state."""
        simulated, now = self._find(card), self.clock.now()
        if move == "fail":
            stage = error_stage("PRODUCTION_ERROR", code)
        elif move == "refuse":
            stage = error_stage("REQUEST_ERROR", code)
        else:
            stage = Stage("PRODUCED" if move == "finish" else "IN_PROGRESS")
        status = simulated.phase_at(now).stage.status
        self._check_possible(move, card, status)
        kiosk_id = simulated.kiosk_id if kiosk_id is None else kiosk_id
        self._check_kiosk(kiosk_id)
        is_pending = move in {"start", "retry"} and not self._kiosks[kiosk_id]
        if is_pending:
            stage = error_stage("REQUEST_ERROR", ErrorCode.REQUEST_CREATED_BUT_NOT_STARTED)
        is_again = move == "retry" or (move == "refuse" and status != "READY")
        simulated.kiosk_id = kiosk_id
        simulated.enter(attrs.evolve(stage, is_new_request=is_again), now)
        simulated.is_pending = is_pending
        self._publish_moved(card)
        return self.state_of(card)

    def request_production(self, card: Card, kiosk_id: str) -> Stage | None:
        """Make a production request: the next stage of the card's plan begins, or it is started or retried.

        Return the refusal of a request that cannot be made now; None if the card has come into another status.
        """
        simulated, now = self._find(card), self.clock.now()
        moves = moves_from(simulated.phase_at(now).stage.status)
        if "refuse" not in moves:
            return error_stage("REQUEST_ERROR", ErrorCode.REQUEST_ALREADY_EXISTS)
        if kiosk_id not in self._kiosks:
            self.move("refuse", card, code=ErrorCode.KIOSK_ID_NOT_FOUND)
        elif self._kiosks[kiosk_id] and simulated.advance(now):
            simulated.kiosk_id = kiosk_id
            self._publish_moved(card)
        else:
            self.move("start" if "start" in moves else "retry", card, kiosk_id=kiosk_id)
        return None

    def end_production(self, card: Card, stage: Stage) -> bool:
        """Put a card that is IN_PROGRESS into this stage; return whether it was."""
        was_in_progress = self.phase_of(card).stage.status == "IN_PROGRESS"
        if was_in_progress:
            self.cards[card].enter(stage, self.clock.now())
            self._publish_moved(card)
        return was_in_progress

    def state_of(self, card: Card) -> CardState:
        """Return a card's state."""
        simulated, now = self._find(card), self.clock.now()
        phase = simulated.phase_at(now)
        coming = next(iter(simulated.phases_after(now)), None)
        return CardState(
            card=card,
            status=phase.stage.status,
            error_code=phase.stage.error_code,
            description=phase.stage.description,
            kiosk_id=simulated.kiosk_id,
            since=phase.since,
            requested_at=phase.requested_at,
            plan=None if simulated.is_manual else simulated.plan,
            is_manual=simulated.is_manual,
            is_paused=simulated.is_paused,
            is_pending=simulated.is_pending,
            next_status=None if coming is None else coming.stage.status,
            next_at=None if coming is None else coming.since,
            requests=simulated.requests,
            moves=moves_from(phase.stage.status, is_online=self._kiosks[simulated.kiosk_id]),
        )

    def statuses(self) -> dict[Card, str]:
        """Return each card's status."""
        now = self.clock.now()
        return {card: simulated.status_at(now) for card, simulated in self.cards.items()}

    def phase_of(self, card: Card) -> Phase:
        """Return the stage that a card is in."""
        return self.cards[card].phase_at(self.clock.now())

    def _find(self, card: Card) -> SimulatedCard:
        simulated = self.cards.get(card)
        if simulated is None:
            raise UsageError("there is no such card; add it, or wait until it is asked for", card=card)
        return simulated

    def _check_possible(self, move: Move, card: Card, status: str) -> None:
        kiosk_id = self.cards[card].kiosk_id
        possible = moves_from(status, is_online=self._kiosks[kiosk_id])
        if move in possible:
            return
        why = f"it is {status}"
        if move in moves_from(status):
            why += f", and kiosk {kiosk_id} is offline"
        what = f"possible: {', '.join(possible)}" if possible else "nothing is possible but to add it again"
        raise UsageError(f"{move} is not possible: {why}; {what}", card=card)

    # --- Kiosks ---

    @property
    def kiosks(self) -> tuple[KioskState, ...]:
        """The state of each kiosk."""
        in_production, now = dict.fromkeys(self._kiosks, 0), self.clock.now()
        for simulated in self.cards.values():
            in_production[simulated.kiosk_id] += simulated.status_at(now) == "IN_PROGRESS"
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
        self.publish("kiosks")
        return kiosk_id

    def set_online(self, kiosk_id: str, *, is_online: bool) -> None:
        """Take a kiosk offline or bring it back."""
        self._check_kiosk(kiosk_id)
        if self._kiosks[kiosk_id] == is_online:
            return
        self._kiosks[kiosk_id] = is_online
        now = self.clock.now()
        begun: list[Card] = []
        concerned = [card for card, simulated in self.cards.items() if simulated.kiosk_id == kiosk_id]
        for card in concerned:
            simulated = self.cards[card]
            if not is_online:
                simulated.pause(now)
            elif simulated.is_pending:
                simulated.enter(Stage("IN_PROGRESS", is_new_request=True), now)
                begun.append(card)
            else:
                simulated.resume(now)
        self._reschedule(concerned)
        for card in begun:  # all are as they are to be before an observer is called: it may move the kiosk
            self.webhooks.send(card, self.phase_of(card))
        for card in concerned:
            self.publish(card)
        self.publish("kiosks")

    def _check_kiosk(self, kiosk_id: str) -> None:
        check_type("kiosk_id", kiosk_id, str)
        if kiosk_id not in self._kiosks:
            raise UsageError(f"there is no kiosk {kiosk_id!r}; there are {', '.join(self._kiosks)}")

    # --- Who is informed ---

    def subscribe(self, subscription: Subscription) -> None:
        """Send webhooks there from now on."""
        was_observed = self._is_observed
        self.webhooks.subscribe(subscription)
        if not was_observed:
            self._reschedule(self.cards)
        self.publish("subscriptions")

    async def unsubscribe(self) -> None:
        """Send no more webhooks."""
        await self.webhooks.unsubscribe()
        self._stop_if_unobserved()
        self.publish("subscriptions")

    def observe(self, observer: Callable[[Change], None]) -> None:
        """Call an observer after each change from now on, planned ones too."""
        was_observed = self._is_observed
        self._observers.append(observer)
        if not was_observed:
            self._reschedule(self.cards)

    def stop_observing(self, observer: Callable[[Change], None]) -> None:
        """Call it no more."""
        if observer not in self._observers:
            raise UsageError("this observer is not there: pass the one that was passed to `observe`")
        self._observers.remove(observer)
        self._stop_if_unobserved()

    def publish(self, change: Change) -> None:
        """Call every observer, also if one of them stops observing meanwhile."""
        for observer in [*self._observers]:
            self.call(observer, change)

    def call(self, callback: Callable[[Change], None] | Callable[[LoggedRequest], None], value: object) -> None:
        """Call what somebody passed in: its errors change no answer, and the first one is logged."""
        try:
            callback(value)  # type: ignore[arg-type]  # each is called with what it takes
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - a user's own
            if not self._has_failed:
                self._has_failed = True
                _log.exception("a callback of the simulator has failed; its next errors are not logged")

    @property
    def _is_observed(self) -> bool:
        return bool(self._observers or self.webhooks.subscriptions)

    def _stop_if_unobserved(self) -> None:
        if not self._is_observed:
            self._stop_timers()

    def _reschedule(self, cards: Iterable[Card]) -> None:
        """Schedule the planned changes of cards anew, if anybody wants to know of them.

        Else no timer runs, so that virtual time does not jump to it while a test waits for something real.
        """
        if self._is_observed:
            for card in cards:
                self._schedule(card, self.cards[card].phases_after(self.clock.now()))

    def _schedule(self, card: Card, phases: Sequence[Phase]) -> None:
        """Schedule these phases of a card, instead of those that were scheduled before."""
        if (timer := self._timers.pop(card, None)) is not None:
            timer.cancel()
        if phases:
            seconds = phases[0].since - self.clock.now()
            self._timers[card] = asyncio.get_running_loop().call_later(seconds, self._enter, card, phases)

    def _enter(self, card: Card, phases: Sequence[Phase]) -> None:
        self.clock.reach(phases[0].since)
        self._schedule(card, phases[1:])
        self._publish_phase(card, phases[0])

    def _stop_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _publish_moved(self, card: Card) -> None:
        self._reschedule([card])
        self._publish_phase(card, self.phase_of(card))

    def _publish_phase(self, card: Card, phase: Phase) -> None:
        self.webhooks.send(card, phase)
        self.publish(card)
