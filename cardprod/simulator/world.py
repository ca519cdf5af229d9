"""`World`: all of the simulator but its HTTP: cards and kiosks, weather, webhooks, and who is told of changes.

It puts the event loop's clock to `floor`, `weather` and `timetable`, and sees to it that each change is announced,
whether it was planned or made by hand.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from cardprod.errors import UsageError
from cardprod.models import Card
from cardprod.simulator.floor import FIRST_KIOSK, Floor
from cardprod.simulator.timetable import Timetable
from cardprod.simulator.weather import Weather
from cardprod.simulator.webhooks import PostOffice, Subscription, public_key

if TYPE_CHECKING:
    from cardprod.models import CardLike
    from cardprod.simulator.cards import Phase
    from cardprod.simulator.faults import Fault
    from cardprod.simulator.floor import CardState, KioskState
    from cardprod.simulator.plans import Plan
    from cardprod.simulator.weather import Forecast
    from cardprod.simulator.webhooks import LoggedDelivery

__all__ = ["Watcher", "World"]


class Watcher(Protocol):
    """Is told what changes at the simulator, as it changes. It is called in the event loop: be quick, do not raise.

    It is told that something changed, not how it is now: for that, ask the simulator.
    """

    def card_changed(self, card: Card) -> None:
        """Take note that a card was added, or changed by its plan, by hand, or with its kiosk."""
        ...

    def kiosk_changed(self, kiosk_id: str) -> None:
        """Take note that a kiosk was set up, went offline or came back."""
        ...

    def forecast_changed(self) -> None:
        """Take note that something else is going to go wrong now."""
        ...

    def subscribed(self) -> None:
        """Take note that webhooks go to one more place."""
        ...

    def request_logged(self) -> None:
        """Take note that there is one more in `Simulator.requests`."""
        ...

    def delivery_logged(self) -> None:
        """Take note that there is one more in `Simulator.deliveries`."""
        ...


class World:
    """What a `Simulator` simulates."""

    def __init__(self) -> None:
        self._is_running = False
        self._has_started = False
        self._started_at = self._epoch_at = 0.0
        self._epoch = datetime.now(UTC)
        self._reached = 0.0
        self._floor = Floor()
        self._weather = Weather()
        self._timetable = Timetable(self._tell_planned_change)
        self._watchers: list[Watcher] = []
        self._post: PostOffice | None = None

    # --- Cards ---

    def add(self, card: CardLike, plan: Plan = "prints") -> Card:
        """Put a card on a plan, from now on. A card that is there already starts again.

        Args:
            card: The card, or a `(profile_id, card_token)` tuple.
            plan: A named plan, or stages.

        Returns:
            The card.

        Raises:
            UsageError: The card or the plan cannot be right, or the simulator is not running.
        """
        self._check_running("add cards")
        card = Card.of(card)
        self._floor.add(card, plan, self._now())
        self._follow(card)
        self._tell_watchers(card)
        return card

    def start(self, card: CardLike, *, kiosk_id: str | None = None) -> CardState:
        """Start a READY card's production by hand. Its plan is over, as with every move by hand.

        Args:
            card: The card.
            kiosk_id: At which kiosk; None for the one it is meant for. If that is offline, the card gets REQUEST_ERROR
                with REQUEST_CREATED_BUT_NOT_STARTED, and begins when the kiosk is back.

        Returns:
            How the card is now.

        Raises:
            UsageError: There is no such card or kiosk, or the card is not READY.
        """
        card = self._known(card)
        self._floor.start(card, kiosk_id, self._now())
        return self._moved(card)

    def finish(self, card: CardLike) -> CardState:
        """Let a card that is IN_PROGRESS be produced, by hand.

        Returns:
            How the card is now.

        Raises:
            UsageError: There is no such card, it is not IN_PROGRESS, or its kiosk is offline.
        """
        card = self._known(card)
        self._floor.finish(card, self._now())
        return self._moved(card)

    def fail(self, card: CardLike, code: str) -> CardState:
        """Let the production of a card that is IN_PROGRESS fail, by hand.

        ```python
        card = kiosk.add((123456, "my-card"), "never")
        kiosk.start(card)
        kiosk.fail(card, "PRD_FEEDER_JAM")
        ```

        Args:
            card: The card.
            code: Any of the 36 error codes of a PRODUCTION_ERROR.

        Returns:
            How the card is now.

        Raises:
            UsageError: There is no such card or code, or the card is not IN_PROGRESS.
        """
        card = self._known(card)
        self._floor.fail(card, code, self._now())
        return self._moved(card)

    def refuse(self, card: CardLike, code: str) -> CardState:
        """Refuse a card's production request, by hand: of a READY card, or a new request of one that ended in an error.

        Args:
            card: The card.
            code: Any of the 22 error codes of a REQUEST_ERROR.

        Returns:
            How the card is now.

        Raises:
            UsageError: There is no such card or code, or it is IN_PROGRESS or PRODUCED.
        """
        card = self._known(card)
        self._floor.refuse(card, code, self._now())
        return self._moved(card)

    def retry(self, card: CardLike, *, kiosk_id: str | None = None) -> CardState:
        """Send a card that ended in an error to the kiosk again, by hand: IN_PROGRESS, under a new `occurredAt`.

        Args:
            card: The card.
            kiosk_id: To which kiosk; None for the one it was at. If that is offline, as with `start`.

        Returns:
            How the card is now.

        Raises:
            UsageError: There is no such card or kiosk, or the card did not end in an error.
        """
        card = self._known(card)
        self._floor.retry(card, kiosk_id, self._now())
        return self._moved(card)

    @property
    def cards(self) -> tuple[Card, ...]:
        """The cards, in the order in which they were first added."""
        return tuple(self._floor)

    def state_of(self, card: CardLike) -> CardState:
        """Say how a card is now.

        Raises:
            UsageError: There is no such card.
        """
        return self._floor.state_of(Card.of(card), self._now(), self._started_at)

    # --- Kiosks ---

    @property
    def kiosks(self) -> tuple[KioskState, ...]:
        """The kiosks, in the order in which they were set up; WIS00001 is always there."""
        return self._floor.kiosks(self._now())

    def add_kiosk(self, kiosk_id: str | None = None) -> str:
        """Set up one more kiosk, online.

        Args:
            kiosk_id: Its id; None for the next, such as WIS00002.

        Returns:
            Its id.

        Raises:
            UsageError: There is one with this id, or the id cannot be right.
        """
        kiosk_id = self._floor.add_kiosk(kiosk_id)
        for watcher in self._watchers:
            watcher.kiosk_changed(kiosk_id)
        return kiosk_id

    def take_offline(self, kiosk_id: str = FIRST_KIOSK) -> None:
        """Let a kiosk not work: what is planned there stands still, and what is started there does not begin.

        Raises:
            UsageError: There is no such kiosk, or the simulator is not running.
        """
        self._check_running("take a kiosk offline")
        for card in self._floor.take_offline(kiosk_id, self._now()):
            self._follow(card)
            self._tell_watchers(card)
        for watcher in self._watchers:
            watcher.kiosk_changed(kiosk_id)

    def bring_online(self, kiosk_id: str = FIRST_KIOSK) -> None:
        """Let a kiosk work again: plans go on where they stood, and what was started meanwhile begins now.

        Raises:
            UsageError: There is no such kiosk, or the simulator is not running.
        """
        self._check_running("bring a kiosk online")
        concerned, begun = self._floor.bring_online(kiosk_id, self._now())
        for card in concerned:
            self._follow(card)
            self._tell_watchers(card)
        for card in begun:
            self._announce(card)
        for watcher in self._watchers:
            watcher.kiosk_changed(kiosk_id)

    # --- Weather ---

    def fail_next(self, fault: Fault, *, times: int = 1, card: CardLike | None = None) -> None:
        """Let the next answers go wrong.

        Args:
            fault: What is to go wrong.
            times: With how many answers.
            card: Only with answers for this card; None for any.
        """
        self._weather.fail_next(fault, times, None if card is None else Card.of(card))
        self._tell_forecast()

    def storm(self, share: float, seed: int) -> None:
        """Let a share of all answers go wrong, each in any of the ways there are.

        Args:
            share: How many, from 0 (none: the storm is over) to 1 (all).
            seed: Where the bad luck comes from, so that it can be had again.

        Raises:
            UsageError: There is no such share.
        """
        self._weather.storm(share, seed)
        self._tell_forecast()

    def slow_down(self, seconds: float) -> None:
        """Let every answer to a look come so much later, until told otherwise; 0 for at once.

        Raises:
            UsageError: It is negative or endless.
        """
        self._weather.slow_down(seconds)
        self._tell_forecast()

    def clear_weather(self) -> None:
        """Let nothing go wrong any more and nothing be late: no faults, no storm, no slowness."""
        self._weather.clear()
        self._tell_forecast()

    @property
    def forecast(self) -> Forecast:
        """What is going to go wrong."""
        return self._weather.forecast

    # --- Webhooks ---

    def subscribe(self, subscription: Subscription | str) -> None:
        """Send a signed webhook for each change of a card from now on; again, as Wise does, until it is answered 200.

        Needs the extra `webhooks`.

        Args:
            subscription: Where to, and what goes wrong on the way; or only where to.

        Raises:
            UsageError: The simulator is not running.
        """
        if self._post is None:
            raise UsageError("the simulator is not running; subscribe inside its `async with` block")
        self._post.subscribe(Subscription(url=subscription) if isinstance(subscription, str) else subscription)
        self._follow_all()
        for watcher in self._watchers:
            watcher.subscribed()

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Where webhooks go."""
        return () if self._post is None else self._post.subscriptions

    @property
    def public_key(self) -> str:
        """The key that its webhooks are verified with, as PEM, for a `Verifier`."""
        return public_key()

    @property
    def deliveries(self) -> list[LoggedDelivery]:
        """Every try to deliver a webhook so far."""
        return [] if self._post is None else self._post.deliveries

    async def send_tests(self) -> list[int | None]:
        """Send a test notification to every subscription.

        Returns:
            What each answered: an HTTP status, or None for no answer.
        """
        return [] if self._post is None else await self._post.send_tests()

    # --- Who is told ---

    def watch(self, watcher: Watcher) -> None:
        """Tell somebody of each change from now on, planned ones too."""
        self._watchers.append(watcher)
        self._follow_all()

    def unwatch(self, watcher: Watcher) -> None:
        """Tell them no more."""
        self._watchers.remove(watcher)
        if not self._watchers and not self._post:
            self._timetable.clear()

    @property
    def started_at(self) -> datetime:
        """When the simulator started, which its logs and states count seconds from."""
        return self._epoch

    def _begin(self) -> None:
        self._is_running = True
        if not self._has_started:  # else its times go on
            self._has_started = True
            self._started_at = self._epoch_at = asyncio.get_running_loop().time()
            self._epoch = datetime.now(UTC)
            self._post = PostOffice(self._started_at, self._timestamp, self._tell_delivery)

    async def _end(self) -> None:
        self._is_running = False
        self._timetable.clear()
        if self._post is not None:
            await self._post.close()

    def _now(self) -> float:
        """Tell the loop's time, but never one before a change that was told already: timers ring a little early."""
        return max(asyncio.get_running_loop().time(), self._reached)

    def _timestamp(self, loop_time: float) -> str:
        # A test may put virtual time, which begins at 0, in the place of the loop's clock after the start.
        self._epoch_at = min(self._epoch_at, loop_time)
        moment = self._epoch + timedelta(seconds=loop_time - self._epoch_at)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"

    def _check_running(self, what: str) -> None:
        if not self._is_running:
            raise UsageError(f"the simulator is not running; {what} inside its `async with` block")

    def _known(self, card: CardLike) -> Card:
        self._check_running("move cards")
        return Card.of(card)

    def _moved(self, card: Card) -> CardState:
        """Tell everybody of a change by hand."""
        self._follow(card)
        self._announce(card)
        self._tell_watchers(card)
        return self.state_of(card)

    def _follow(self, card: Card) -> None:
        """See to it that what becomes of a card by itself is told, if anybody wants to know."""
        simulated = self._floor.find(card)
        if simulated is not None and (self._post or self._watchers):
            self._timetable.follow(card, simulated.phases_after(self._now()))

    def _follow_all(self) -> None:
        for card in self._floor:
            self._follow(card)

    def _announce(self, card: Card, phase: Phase | None = None) -> None:
        """Send webhooks of what a card has become."""
        simulated = self._floor.find(card)
        if self._post and simulated is not None:
            phase = phase or simulated.phase_at(self._now())
            kiosk_id = None if phase.stage.status == "READY" else simulated.kiosk_id
            self._post.announce(card, phase.stage, phase.requested_at, kiosk_id)

    def _tell_planned_change(self, card: Card, phase: Phase) -> None:
        self._reached = max(self._reached, phase.since)
        self._announce(card, phase)
        self._tell_watchers(card)

    def _tell_watchers(self, card: Card) -> None:
        for watcher in self._watchers:
            watcher.card_changed(card)

    def _tell_forecast(self) -> None:
        for watcher in self._watchers:
            watcher.forecast_changed()

    def _tell_delivery(self) -> None:
        for watcher in self._watchers:
            watcher.delivery_logged()
