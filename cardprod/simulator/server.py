"""`Simulator`: what a user holds. It starts and stops the server, and does everything else by its parts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from cardprod._protocol.validation import check_count
from cardprod.errors import UsageError
from cardprod.models import Card
from cardprod.simulator.access import Connections
from cardprod.simulator.api import KEY_PATH, KioskApi, problem
from cardprod.simulator.kiosks import FIRST_KIOSK
from cardprod.simulator.plans import as_stages
from cardprod.simulator.simulation import KioskSimulation
from cardprod.simulator.tokens import TokenIssuer
from cardprod.simulator.webhook_sender import Subscription, public_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from cardprod.models import CardLike
    from cardprod.simulator.faults import Fault, FaultSettings
    from cardprod.simulator.kiosks import CardState, KioskState, Move
    from cardprod.simulator.log import Log
    from cardprod.simulator.page import Page
    from cardprod.simulator.plans import Plan
    from cardprod.simulator.simulation import Change, LoggedRequest
    from cardprod.simulator.webhook_sender import LoggedDelivery

__all__ = ["Simulator"]


class Simulator:
    """A kiosk on loopback, for as long as the `async with` block.

    ```python
    async with Simulator() as kiosk:
        kiosk.add((123456, "card-1"), "jams")
        kiosk.add((123456, "card-2"), [("READY", 5), ("IN_PROGRESS", 60), Stage("PRODUCED")])
        kiosk.fail_next(Fault.too_many_requests(retry_after=5))
        client = Client(kiosk.token, base_url=kiosk.base_url)
    ```

    A plan starts when its card is added, and runs on the event loop's time, so virtual time works. A card that is moved
    (`start`, `finish`, `fail`, `refuse`, `retry`) leaves its plan.

    Args:
        port: The port on 127.0.0.1; 0 takes a free one.
        token: The bearer token to accept, until it is refreshed at `/oauth/token` as `OAuthToken` does; any other gets
            a 401. None accepts every token, and lets everybody refresh.
        token_seconds: How long the access token of a refresh is valid.
        plan_for_unknown: The plan of a card that was not added, from the first request for it on; None for a 404.
        on_request: Called with each request as it is answered, in the event loop, so it must not block. Its errors are
            logged and change no answer.
        page: Whether to serve a page at `/` too, which shows all this and has a button for each move.
        log_size: How many entries `requests` and `deliveries` keep.
    """

    def __init__(  # noqa: PLR0913 - one for each option
        self,
        *,
        port: int = 0,
        token: str | None = "simulated-token",  # noqa: S107 - not a secret
        token_seconds: float = 43_199.0,
        plan_for_unknown: Plan | None = None,
        on_request: Callable[[LoggedRequest], None] | None = None,
        page: bool = False,
        log_size: int = 10_000,
    ) -> None:
        check_count("log_size", log_size)
        self.client_id = "simulated-client"
        """The client that may refresh the token, for an `OAuthToken`."""
        self.client_secret = "simulated-client-secret"  # noqa: S105 - not a secret
        """Its secret."""
        self._port = port
        self._tokens = TokenIssuer(
            token=token,
            client_id=self.client_id,
            client_secret=self.client_secret,
            refresh_token="simulated-refresh-token",  # noqa: S106 - not a secret
            seconds=token_seconds,
        )
        self._simulation = KioskSimulation(log_size)
        if plan_for_unknown is not None and not isinstance(plan_for_unknown, str):
            plan_for_unknown = as_stages(plan_for_unknown)  # an iterable that is read for each card
        elif plan_for_unknown is not None:
            as_stages(plan_for_unknown)
        self._api = KioskApi(self._simulation, self._tokens, plan_for_unknown, on_request)
        self._has_page = page
        self._page: Page | None = None
        self._connections: Connections | None = None

    # --- Running it ---

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=131_072)
        if self._has_page:
            from cardprod.simulator.page import Page  # noqa: PLC0415 - most simulators have none

            self._page = Page(self)
            self._page.add_to(app.router)
        self._api.add_to(app.router)
        connections = Connections(problem)
        self._port = await connections.open(app, self._port)
        self._connections = connections
        self._api.closing = asyncio.get_running_loop().create_future()
        self._simulation.clock.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._simulation.close()
        await self._stop()

    async def restart(self, *, after: float = 0.0) -> None:
        """Stop, and start again on the same port. Plans go on meanwhile.

        Args:
            after: Seconds until it starts again.
        """
        await self._stop()
        await asyncio.sleep(after)
        await self.__aenter__()

    async def _stop(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            if self._api.closing is not None:
                self._api.closing.set_result(None)
            if self._page is not None:
                self._page.close()
            await connections.close()

    @property
    def base_url(self) -> str:
        """Where it listens, for a client's `base_url`.

        Raises:
            UsageError: It is not running.
        """
        self._check_running("ask for its address")
        return f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> Log[LoggedRequest]:
        """The last requests, in the order they were answered; `requests.total` counts all. No token is in it."""
        return self._simulation.requests

    @property
    def started_at(self) -> datetime:
        """When the simulator started, which its logs and states count seconds from."""
        return self._simulation.clock.started_at

    def observe(self, observer: Callable[[Change], None]) -> None:
        """Call an observer after each change from now on, planned ones too.

        It gets the card that has changed, or the name of the property that has: "kiosks", "faults", "subscriptions",
        "requests" or "deliveries". It is called in the event loop, so it must not block; its errors are logged and
        change nothing.
        """
        self._simulation.observe(observer)

    def stop_observing(self, observer: Callable[[Change], None]) -> None:
        """Call an observer no more."""
        self._simulation.stop_observing(observer)

    def _check_running(self, what: str) -> None:
        if self._connections is None:
            raise UsageError(f"the simulator is not running; {what} inside its `async with` block")

    # --- Tokens ---

    @property
    def token(self) -> str:
        """The bearer token it accepts now, for a client's `token`."""
        return "any-token" if self._tokens.token is None else self._tokens.token

    @property
    def takes_any_token(self) -> bool:
        """Whether it accepts every bearer token."""
        return self._tokens.token is None

    @property
    def refresh_token(self) -> str:
        """The refresh token it takes now, for an `OAuthToken`; a refresh changes it."""
        return self._tokens.refresh_token

    def expire_token(self) -> None:
        """Make the access token invalid: each request gets a 401 until it is refreshed."""
        self._tokens.expire()

    def revoke_tokens(self) -> None:
        """Make both tokens invalid: a refresh gets `invalid_grant`."""
        self._tokens.revoke()

    def fail_next_refresh(self, fault: Fault, *, times: int = 1) -> None:
        """Give the next answers of `/oauth/token` a fault.

        Args:
            fault: The fault.
            times: How many answers have it.
        """
        self._api.refresh_faults.extend([fault] * times)

    # --- Cards ---

    def add(self, card: CardLike, plan: Plan = "prints") -> Card:
        """Put a card on a plan, from now on. A card that is there already starts again.

        Args:
            card: The card, or a `(profile_id, card_token)` tuple.
            plan: A named plan, or stages.

        Returns:
            The card.

        Raises:
            UsageError: The card or the plan is invalid, or the simulator is not running.
        """
        self._check_running("add cards")
        card = Card.of(card)
        self._simulation.add(card, plan)
        return card

    def start(self, card: CardLike, *, kiosk_id: str | None = None) -> CardState:
        """Start a READY card's production. Its plan is over, as with every move.

        Args:
            card: The card.
            kiosk_id: At which kiosk; None for the one it is meant for. If that is offline, the card gets REQUEST_ERROR
                with REQUEST_CREATED_BUT_NOT_STARTED, and begins when the kiosk is back.

        Returns:
            The card's new state.

        Raises:
            UsageError: There is no such card or kiosk, or the card is not READY.
        """
        return self._move("start", card, kiosk_id=kiosk_id)

    def finish(self, card: CardLike) -> CardState:
        """Finish a card that is IN_PROGRESS: it is PRODUCED.

        Returns:
            The card's new state.

        Raises:
            UsageError: There is no such card, it is not IN_PROGRESS, or its kiosk is offline.
        """
        return self._move("finish", card)

    def fail(self, card: CardLike, code: str) -> CardState:
        """Fail the production of a card that is IN_PROGRESS: it has a PRODUCTION_ERROR.

        Args:
            card: The card.
            code: Any of the 36 error codes of a PRODUCTION_ERROR.

        Returns:
            The card's new state.

        Raises:
            UsageError: There is no such card or code, or the card is not IN_PROGRESS.
        """
        return self._move("fail", card, code=code)

    def refuse(self, card: CardLike, code: str) -> CardState:
        """Refuse a card's production request: of a READY card, or a new request of one that ended in an error.

        Args:
            card: The card.
            code: Any of the 22 error codes of a REQUEST_ERROR.

        Returns:
            The card's new state.

        Raises:
            UsageError: There is no such card or code, or the card is IN_PROGRESS or PRODUCED.
        """
        return self._move("refuse", card, code=code)

    def retry(self, card: CardLike, *, kiosk_id: str | None = None) -> CardState:
        """Send a card that ended in an error to the kiosk again: IN_PROGRESS, under a new `occurredAt`.

        Args:
            card: The card.
            kiosk_id: To which kiosk; None for the one it was at. If that is offline, as with `start`.

        Returns:
            The card's new state.

        Raises:
            UsageError: There is no such card or kiosk, or the card did not end in an error.
        """
        return self._move("retry", card, kiosk_id=kiosk_id)

    @property
    def cards(self) -> tuple[Card, ...]:
        """The cards, in the order in which they were first added."""
        return tuple(self._simulation.registry.cards)

    def state_of(self, card: CardLike) -> CardState:
        """Return a card's state.

        Raises:
            UsageError: There is no such card.
        """
        clock = self._simulation.clock
        now = clock.now()
        return self._simulation.registry.state_of(Card.of(card), now, now - clock.seconds(now))

    def _move(self, move: Move, card: CardLike, *, kiosk_id: str | None = None, code: str | None = None) -> CardState:
        self._check_running("move cards")
        card = Card.of(card)
        self._simulation.registry.move(move, card, self._simulation.clock.now(), kiosk_id=kiosk_id, code=code)
        self._simulation.moved(card)
        return self.state_of(card)

    # --- Kiosks ---

    @property
    def kiosks(self) -> tuple[KioskState, ...]:
        """The kiosks, in the order in which they were added; WIS00001 is always there."""
        return self._simulation.registry.kiosks(self._simulation.clock.now())

    def add_kiosk(self, kiosk_id: str | None = None) -> str:
        """Add a kiosk, online.

        Args:
            kiosk_id: Its id; None for the next, such as WIS00002.

        Returns:
            Its id.

        Raises:
            UsageError: There is one with this id, or the id is invalid.
        """
        kiosk_id = self._simulation.registry.add_kiosk(kiosk_id)
        self._simulation.publish("kiosks")
        return kiosk_id

    def take_offline(self, kiosk_id: str = FIRST_KIOSK) -> None:
        """Take a kiosk offline: the plans of its cards are paused, and what is started there does not begin.

        Raises:
            UsageError: There is no such kiosk, or the simulator is not running.
        """
        self._check_running("take a kiosk offline")
        self._simulation.set_online(kiosk_id, is_online=False)

    def bring_online(self, kiosk_id: str = FIRST_KIOSK) -> None:
        """Bring a kiosk back: plans continue where they were paused, and what was started meanwhile begins now.

        Raises:
            UsageError: There is no such kiosk, or the simulator is not running.
        """
        self._check_running("bring a kiosk online")
        self._simulation.set_online(kiosk_id, is_online=True)

    # --- Faults ---

    def fail_next(self, fault: Fault, *, times: int = 1, card: CardLike | None = None) -> None:
        """Give the next answers about a card's status a fault. A request that is refused with a 401 uses up none.

        Args:
            fault: The fault.
            times: How many answers have it.
            card: Only answers for this card; None for any.
        """
        self._simulation.faults.fail_next(fault, times, None if card is None else Card.of(card))
        self._simulation.publish("faults")

    def set_error_rate(self, rate: float, seed: int) -> None:
        """Give a share of all answers a fault, each any of those that there are.

        Args:
            rate: The share, from 0 (none) to 1 (all).
            seed: The seed of the random choices, so that they can be repeated.

        Raises:
            UsageError: There is no such share.
        """
        self._simulation.faults.set_error_rate(rate, seed)
        self._simulation.publish("faults")

    def slow_down(self, seconds: float) -> None:
        """Send every answer about a card's status so much later; 0 for at once.

        Raises:
            UsageError: It is negative or infinite.
        """
        self._simulation.faults.set_latency(seconds)
        self._simulation.publish("faults")

    def clear_faults(self) -> None:
        """Give no answer a fault any more, and send each at once."""
        self._simulation.faults.clear()
        self._simulation.publish("faults")

    @property
    def faults(self) -> FaultSettings:
        """The faults that are set, but for those of single cards."""
        return self._simulation.faults.settings

    # --- Webhooks ---

    def subscribe(self, subscription: Subscription | str) -> None:
        """Send a signed webhook for each change of a card from now on; again, as Wise does, until it is answered 200.

        Needs the extra `webhooks`.

        Args:
            subscription: Where to, and what goes wrong on the way; or only where to.

        Raises:
            UsageError: The simulator is not running, or nothing can be sent there.
        """
        self._check_running("subscribe")
        self._simulation.subscribe(Subscription(url=subscription) if isinstance(subscription, str) else subscription)

    async def unsubscribe(self) -> None:
        """Send no more webhooks, and none again that was not accepted."""
        await self._simulation.unsubscribe()

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Where webhooks go."""
        return self._simulation.webhooks.subscriptions

    @property
    def public_key(self) -> str:
        """The key that its webhooks are verified with, as PEM, for a `Verifier`."""
        return public_key()

    @property
    def public_key_url(self) -> str:
        """Where the key can be fetched."""
        return self.base_url + KEY_PATH

    @property
    def deliveries(self) -> Log[LoggedDelivery]:
        """The last tries to deliver a webhook; `deliveries.total` counts all."""
        return self._simulation.webhooks.deliveries

    async def send_tests(self) -> list[int | None]:
        """Send a test notification to every subscription.

        Returns:
            Each answer's HTTP status; None for no answer.
        """
        return await self._simulation.webhooks.send_tests()
