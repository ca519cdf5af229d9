"""`Simulator`: what a user holds. It starts and stops the server, and does everything else by its parts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from cardprod._protocol.validation import check_callable, check_count, check_flag, check_seconds, check_type
from cardprod.errors import UsageError
from cardprod.models import Card
from cardprod.simulator.access import Connections
from cardprod.simulator.api import KEY_PATH, KioskApi
from cardprod.simulator.kiosks import FIRST_KIOSK
from cardprod.simulator.plans import as_stages
from cardprod.simulator.simulation import KioskSimulation
from cardprod.simulator.tokens import CLIENT_ID, CLIENT_SECRET, TokenIssuer
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
    from cardprod.simulator.plans import Plan
    from cardprod.simulator.simulation import Change, LoggedRequest
    from cardprod.simulator.webhook_sender import LoggedDelivery


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
    (`start`, `finish`, `fail`, `refuse`, `retry`) leaves its plan. Every method raises a `UsageError` that says what is
    wrong: an argument, a card or a kiosk that is not there, a move that is not possible now, a simulator that does not
    run.

    Args:
        port: The port on 127.0.0.1; 0 takes a free one.
        token: The bearer token to accept, until it is refreshed at `/oauth/token` as `OAuthToken` does; any other gets
            a 401. None accepts every token but "expired", and lets everybody refresh.
        token_seconds: How long the access token of a refresh is valid.
        plan_for_unknown: The plan of a card that was not added, from the first request for it on, or a function that
            returns it; None for a 404.
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
        plan_for_unknown: Plan | Callable[[Card], Plan | None] | None = None,
        on_request: Callable[[LoggedRequest], None] | None = None,
        page: bool = False,
        log_size: int = 10_000,
    ) -> None:
        check_count("port", port, least=0, most=65_535)
        check_type("token", token, str, or_none=True)
        check_seconds("token_seconds", token_seconds)
        check_callable("on_request", on_request, "a callable that takes a LoggedRequest")
        check_flag("page", page)
        check_count("log_size", log_size)
        self.client_id = CLIENT_ID
        """The client that may refresh the token, for an `OAuthToken`."""
        self.client_secret = CLIENT_SECRET
        """Its secret."""
        self._port = port
        self._tokens = TokenIssuer(token, token_seconds)
        self._simulation = KioskSimulation(log_size)
        if plan_for_unknown is not None and not callable(plan_for_unknown):
            stages = as_stages(plan_for_unknown)
            plan_for_unknown = plan_for_unknown if isinstance(plan_for_unknown, str) else stages
        self._api = KioskApi(self._simulation, self._tokens, plan_for_unknown, on_request)
        self._has_page = page
        self._connections: Connections | None = None

    # --- Running it ---

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=131_072)
        if self._has_page:
            from cardprod.simulator.page import Page  # noqa: PLC0415 - most simulators have none

            Page(self).add_to(app.router)
        self._api.add_to(app.router)
        connections = Connections(app)
        self._port = await connections.open(self._port)
        self._connections = connections
        self._api.closing = asyncio.get_running_loop().create_future()
        self._simulation.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not the other way round, or a last request would begin something that nobody ends.
        await self._stop()
        await self._simulation.close()

    async def restart(self, *, after: float = 0.0) -> None:
        """Stop, and start again so many seconds later on the same port. Plans go on meanwhile."""
        check_seconds("after", after)
        self._check_running("restart it")
        await self._stop()
        await asyncio.sleep(after)
        await self.__aenter__()

    async def _stop(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            if self._api.closing is not None:
                self._api.closing.set_result(None)
            await connections.close()

    @property
    def base_url(self) -> str:
        """Where it listens, for a client's `base_url`."""
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
        "requests" or "deliveries". It is called as `on_request` is.
        """
        if not callable(observer):
            raise UsageError(f"observer must be a callable that takes a Change, not a {type(observer).__name__}")
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
        """Whether it accepts every bearer token, but "expired"."""
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
        """Give so many of the next answers of `/oauth/token` a fault."""
        self._simulation.faults.next_refresh.add(fault, times)

    # --- Cards ---

    def add(self, card: CardLike, plan: Plan = "prints") -> Card:
        """Put a card, or a `(profile_id, card_token)` tuple, on a plan from now on; one that is there starts again."""
        self._check_running("add cards")
        card = Card.of(card)
        self._simulation.add(card, plan)
        return card

    def start(self, card: CardLike, *, kiosk_id: str | None = None) -> CardState:
        """Start a READY card's production, at the kiosk it is meant for or another: it is IN_PROGRESS.

        If that is offline, the card gets REQUEST_ERROR with REQUEST_CREATED_BUT_NOT_STARTED until it is back.
        """
        return self._move("start", card, kiosk_id=kiosk_id)

    def finish(self, card: CardLike) -> CardState:
        """Finish a card that is IN_PROGRESS at a kiosk that is online: it is PRODUCED."""
        return self._move("finish", card)

    def fail(self, card: CardLike, code: str) -> CardState:
        """Fail the production of a card that is IN_PROGRESS, with any of the 36 codes of a PRODUCTION_ERROR.

        They are in `cardprod.ErrorCode`; those of a request have the origin REQUEST.
        """
        return self._move("fail", card, code=code)

    def refuse(self, card: CardLike, code: str) -> CardState:
        """Refuse the request of a card that is READY or in an error, with any of the 22 codes of a REQUEST_ERROR.

        They are those of `cardprod.ErrorCode` that have the origin REQUEST.
        """
        return self._move("refuse", card, code=code)

    def retry(self, card: CardLike, *, kiosk_id: str | None = None) -> CardState:
        """Send a card that ended in an error to a kiosk again, as `start` does, under a new `occurredAt`."""
        return self._move("retry", card, kiosk_id=kiosk_id)

    @property
    def cards(self) -> tuple[Card, ...]:
        """The cards, in the order in which they were first added."""
        return tuple(self._simulation.cards)

    def state_of(self, card: CardLike) -> CardState:
        """Return a card's state."""
        return self._simulation.state_of(Card.of(card))

    def _move(self, move: Move, card: CardLike, *, kiosk_id: str | None = None, code: str | None = None) -> CardState:
        self._check_running("move cards")
        return self._simulation.move(move, Card.of(card), kiosk_id=kiosk_id, code=code)

    # --- Kiosks ---

    @property
    def kiosks(self) -> tuple[KioskState, ...]:
        """The kiosks, in the order in which they were added; WIS00001 is always there."""
        return self._simulation.kiosks

    def add_kiosk(self, kiosk_id: str | None = None) -> str:
        """Add a kiosk, online; by default with the next id, such as WIS00002."""
        return self._simulation.add_kiosk(kiosk_id)

    def take_offline(self, kiosk_id: str = FIRST_KIOSK) -> None:
        """Take a kiosk offline: the plans of its cards are paused, and what is started there does not begin."""
        self._check_running("take a kiosk offline")
        self._simulation.set_online(kiosk_id, is_online=False)

    def bring_online(self, kiosk_id: str = FIRST_KIOSK) -> None:
        """Bring a kiosk back: plans continue where they were paused, and what was started meanwhile begins now."""
        self._check_running("bring a kiosk online")
        self._simulation.set_online(kiosk_id, is_online=True)

    # --- Faults ---

    def fail_next(self, fault: Fault, *, times: int = 1, card: CardLike | None = None) -> None:
        """Give so many of the next answers about a card's status a fault, or of those about one card.

        A request that is refused with a 401 uses up none.
        """
        self._simulation.faults.fail_next(fault, times, None if card is None else Card.of(card))

    def set_error_rate(self, rate: float, seed: int) -> None:
        """Give a share of all answers, from 0 to 1, one of the faults that there are, chosen by the seed."""
        self._simulation.faults.set_error_rate(rate, seed)

    def slow_down(self, seconds: float) -> None:
        """Send every answer about a card's status so many seconds later; 0 for at once."""
        self._simulation.faults.set_latency(seconds)

    def clear_faults(self) -> None:
        """Give no answer a fault any more, and send each at once."""
        self._simulation.faults.clear()

    @property
    def faults(self) -> FaultSettings:
        """The faults that are set, but for those of single cards."""
        return self._simulation.faults.settings

    # --- Webhooks ---

    def subscribe(self, subscription: Subscription | str) -> None:
        """Send a signed webhook there for each change of a card, again until it is answered 200, as Wise does.

        Needs the extra `webhooks`.
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
        """Send a test to every subscription, and return each answer's HTTP status; None for no answer."""
        return await self._simulation.webhooks.send_tests()
