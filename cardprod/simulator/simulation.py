"""`KioskSimulation`: all of the simulator but its HTTP, put together, and who is informed of its changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

from cardprod.simulator.clock import Clock
from cardprod.simulator.faults import FaultInjector
from cardprod.simulator.kiosks import KioskRegistry
from cardprod.simulator.log import Log
from cardprod.simulator.scheduler import Scheduler
from cardprod.simulator.webhook_sender import WebhookSender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cardprod.models import Card
    from cardprod.simulator.cards import Phase
    from cardprod.simulator.faults import Fault
    from cardprod.simulator.kiosks import CardState, Move
    from cardprod.simulator.plans import Plan
    from cardprod.simulator.webhook_sender import Subscription

__all__ = ["Change", "KioskSimulation", "LoggedRequest"]

_log: Final = logging.getLogger("cardprod.simulator")

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
        self.registry: KioskRegistry = KioskRegistry()
        self.faults: FaultInjector = FaultInjector()
        self.webhooks: WebhookSender = WebhookSender(self.clock, log_size, lambda: self.publish("deliveries"))
        self.scheduler: Scheduler = Scheduler(self._publish_planned)
        self.requests: Log[LoggedRequest] = Log(log_size)
        self._observers: list[Callable[[Change], None]] = []
        self._has_failed = False

    async def close(self) -> None:
        """Stop what goes on by itself."""
        self.scheduler.clear()
        await self.webhooks.close()

    # --- Cards and kiosks ---

    def add(self, card: Card, plan: Plan) -> None:
        """Put a card on a plan."""
        self.registry.add(card, plan, self.clock.now())
        self.reschedule([card])
        self.publish(card)

    def move(self, move: Move, card: Card, kiosk_id: str | None, code: str | None) -> CardState:
        """Move a card, and return its new state."""
        self.registry.move(move, card, self.clock.now(), kiosk_id=kiosk_id, code=code)
        self.moved(card)
        return self.state_of(card)

    def moved(self, card: Card) -> None:
        """Publish that a card was moved."""
        self.reschedule([card])
        self._send_webhooks(card)
        self.publish(card)

    def state_of(self, card: Card) -> CardState:
        """Return a card's state."""
        now = self.clock.now()
        return self.registry.state_of(card, now, now - self.clock.seconds(now))

    def set_online(self, kiosk_id: str, *, is_online: bool) -> None:
        """Take a kiosk offline or bring it back."""
        concerned, begun = self.registry.set_online(kiosk_id, is_online, self.clock.now())
        self.reschedule(concerned)
        for card in begun:
            self._send_webhooks(card)
        for card in concerned:
            self.publish(card)
        self.publish("kiosks")

    def phase_of(self, card: Card) -> Phase:
        """Return the stage that a card is in."""
        return self.registry.cards[card].phase_at(self.clock.now())

    def kiosk_of(self, card: Card, phase: Phase) -> str | None:
        """Return the kiosk as a status names it."""
        return None if phase.stage.status == "READY" else self.registry.cards[card].kiosk_id

    # --- Who is informed ---

    def subscribe(self, subscription: Subscription) -> None:
        """Send webhooks there from now on."""
        self.webhooks.subscribe(subscription)
        self.reschedule(self.registry.cards)
        self.publish("subscriptions")

    async def unsubscribe(self) -> None:
        """Send no more webhooks."""
        await self.webhooks.unsubscribe()
        self._stop_if_unobserved()
        self.publish("subscriptions")

    def observe(self, observer: Callable[[Change], None]) -> None:
        """Call an observer after each change from now on, planned ones too."""
        self._observers.append(observer)
        self.reschedule(self.registry.cards)

    def stop_observing(self, observer: Callable[[Change], None]) -> None:
        """Call it no more."""
        self._observers.remove(observer)
        self._stop_if_unobserved()

    def publish(self, change: Change) -> None:
        """Call every observer."""
        for observer in self._observers:
            self.call(observer, change)

    def call(self, callback: Callable[[Change], None] | Callable[[LoggedRequest], None], value: object) -> None:
        """Call what somebody passed in: its errors change no answer, and the first one is logged."""
        try:
            callback(value)  # type: ignore[arg-type]  # each is called with what it takes
        except Exception:  # noqa: BLE001 - a user's own
            if not self._has_failed:
                self._has_failed = True
                _log.exception("a callback of the simulator has failed; its next errors are not logged")

    def reschedule(self, cards: Iterable[Card]) -> None:
        """Schedule the planned changes of cards anew, if anybody wants to know of them."""
        if self._is_observed:
            for card in cards:
                self.scheduler.schedule(card, self.registry.cards[card].phases_after(self.clock.now()))

    @property
    def _is_observed(self) -> bool:
        return bool(self._observers or self.webhooks.subscriptions)

    def _stop_if_unobserved(self) -> None:
        if not self._is_observed:
            self.scheduler.clear()

    def _publish_planned(self, card: Card, phase: Phase) -> None:
        self.clock.reach(phase.since)
        self._send_webhooks(card, phase)
        self.publish(card)

    def _send_webhooks(self, card: Card, phase: Phase | None = None) -> None:
        if self.webhooks.subscriptions:
            phase = phase or self.phase_of(card)
            self.webhooks.send(card, phase.stage, phase.requested_at, self.kiosk_of(card, phase))
