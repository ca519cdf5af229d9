"""The simulated kiosk's webhooks: what is sent where, how late, how often, and again while no endpoint accepts it.

It signs and writes its bodies itself, and shares no code with `cardprod.webhooks`, so that neither can hide the other's
mistakes. Needs the extra `webhooks`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

import aiohttp
import attrs
from yarl import URL

from cardprod._extras import needs_extra
from cardprod._protocol.validation import check_number, check_seconds, check_text, check_type
from cardprod.errors import UsageError
from cardprod.simulator.cards import Phase
from cardprod.simulator.log import Log
from cardprod.simulator.plans import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from cardprod.models import Card
    from cardprod.simulator.clock import Clock

_EVENT_TYPE: Final = "cards#card-production-status-change"
_ANSWER_WITHIN: Final = 5.0
_TRIES: Final = 25
_FIRST_GAP: Final = 9.0
_GAP_FACTOR: Final = 1.6
"""Wise documents "growing gaps for two weeks, 25 tries at most": these add up to a day less than two weeks."""

_REPLAYED_AFTER: Final = (30.0, 300.0)
_MOST_URL: Final = 2_000
_MOST_SHOWN: Final = 60
_OK: Final = 200


@attrs.frozen(kw_only=True)
class Subscription:
    """Where deliveries go, and what goes wrong with them on the way.

    ```python
    kiosk.subscribe("http://127.0.0.1:8000/wise")
    kiosk.subscribe(Subscription(url="http://127.0.0.1:8000/wise", latency=(0.1, 20), duplicates=0.2, replays=0.1))
    ```

    Args:
        url: Where to send them.
        schema_version: "2.0.0", with times in seconds and the profile as a text, or "4.0.0", with milliseconds.
        latency: Seconds from a change until its delivery is sent, at least and at most. If they are further apart than
            a card's changes are, the deliveries come out of order.
        duplicates: The share that is sent twice, each with a latency of its own.
        losses: The share that is never sent.
        replays: The share that somebody sends once more some minutes later, byte for byte.
        seed: The seed of these random choices, so that they can be repeated.

    Raises:
        UsageError: An invalid argument.
    """

    url: str = attrs.field(repr=False)  # it may have a password; `endpoint` shows what can be shown
    schema_version: Literal["2.0.0", "4.0.0"] = "4.0.0"
    latency: tuple[float, float] = (0.0, 0.0)
    duplicates: float = 0.0
    losses: float = 0.0
    replays: float = 0.0
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        _endpoint(self.url)
        if self.schema_version not in ("2.0.0", "4.0.0"):
            raise UsageError(f"schema_version must be '2.0.0' or '4.0.0', not {self.schema_version!r}")
        check_type("latency", self.latency, tuple, "a tuple of two numbers of seconds")
        latency: tuple[float, ...] = self.latency
        if len(latency) != 2:  # noqa: PLR2004
            raise UsageError(f"latency must be a tuple of two numbers of seconds, not {latency!r}")
        least, most = self.latency
        check_seconds("latency[0]", least)
        check_number("latency[1]", most, least=least)
        check_number("duplicates", self.duplicates, least=0, most=1)
        check_number("losses", self.losses, least=0, most=1)
        check_number("replays", self.replays, least=0, most=1)
        check_type("seed", self.seed, int)

    @property
    def endpoint(self) -> str:
        """The URL without its user, password, query and fragment, which may be secrets."""
        return str(_endpoint(self.url).with_user(None).with_query(None).with_fragment(None))


def _endpoint(url: str) -> URL:
    """Parse where webhooks go, and refuse what nothing can be sent to."""
    check_text("a subscription's url", url, "http or https, as a text")
    try:
        parsed = URL(url)
        # The host as it is looked up, and the port, are parsed when they are asked for.
        is_complete = bool(parsed.raw_host and parsed.port) and url.isprintable() and " " not in url
    except Exception:  # noqa: BLE001 - yarl raises ValueError, and IndexError of an empty host with a bracket before it
        parsed, is_complete = URL(), False
    if parsed.scheme not in {"http", "https"} or not is_complete or len(url) > _MOST_URL:
        shown = re.sub(r"^.*@|[?#].*$", "", url, flags=re.DOTALL)[:_MOST_SHOWN]  # no password
        words = f"like 'http://127.0.0.1:8000/wise', and of {_MOST_URL} characters at most"
        raise UsageError(f"a subscription's url must be {words}, not {shown!r}")
    return parsed


@attrs.frozen(kw_only=True)
class LoggedDelivery:
    """One try to deliver a webhook.

    Args:
        at: Seconds since the simulator started.
        delivery_id: Its `X-Delivery-Id`, the same for each try.
        card: The card that it is about; None for a test.
        status: The status in it; None for a test.
        attempt: Which try it was, from 1.
        http_status: The endpoint's answer; None if there was none.
    """

    at: float
    delivery_id: str
    card: Card | None
    status: str | None
    attempt: int
    http_status: int | None


@cache
def _private_key() -> RSAPrivateKey:
    """Make the simulator's key pair, once for the process."""
    try:
        from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ImportError(needs_extra("a subscription of the simulator", "webhooks")) from exc
    return generate_private_key(public_exponent=65537, key_size=2048)


@cache
def public_key() -> str:
    """Return the public key that the simulator's webhooks are verified with, as PEM."""
    key = _private_key().public_key()
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415 - an extra

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _sign(body: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    return base64.b64encode(_private_key().sign(body, PKCS1v15(), SHA256())).decode()


@attrs.frozen
class _Delivery:
    """What is sent, and sent again."""

    subscription: Subscription
    body: bytes
    headers: dict[str, str]
    card: Card | None
    status: str | None


class WebhookSender:
    """Sends webhooks to subscriptions, each in a task of its own until it is accepted or given up."""

    def __init__(self, clock: Clock, log_size: int, on_delivery: Callable[[], None]) -> None:
        self._clock = clock
        self._on_delivery = on_delivery
        self._subscriptions: list[tuple[Subscription, Random]] = []
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[int | None]] = set()
        self.deliveries: Log[LoggedDelivery] = Log(log_size)
        """The last tries."""

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Where webhooks go."""
        return tuple(subscription for subscription, _ in self._subscriptions)

    def subscribe(self, subscription: Subscription) -> None:
        """Send webhooks there too, from now on."""
        check_type("subscription", subscription, Subscription, "a Subscription, or its url")
        _private_key()  # it takes a moment, and may find the extra missing
        self._subscriptions.append((subscription, Random(subscription.seed)))  # noqa: S311 - simulated faults

    def send(self, card: Card, phase: Phase) -> None:
        """Send what a card's status is now."""
        for number, (subscription, random) in enumerate(self._subscriptions):
            if random.random() < subscription.losses:
                continue
            for _ in range(1 + (random.random() < subscription.duplicates)):
                delivery = self._delivery(number, card, phase)
                latency = random.uniform(*subscription.latency)
                self._start(self._deliver(delivery, latency))
                if random.random() < subscription.replays:
                    self._start(self._deliver(delivery, latency + random.uniform(*_REPLAYED_AFTER)))

    async def send_tests(self) -> list[int | None]:
        """Send a test to every subscription, and return each answer's HTTP status; None for no answer."""
        now = self._clock.now()
        ready = Phase(Stage("READY"), now, now, kiosk_id=None)
        tests = [self._delivery(number, None, ready) for number in range(len(self._subscriptions))]
        sending = [self._start(self._try(test, 1)) for test in tests]
        if sending:
            await asyncio.wait(sending)
        return [None if task.cancelled() else task.result() for task in sending]

    async def unsubscribe(self) -> None:
        """Drop every subscription, and what is still to be sent."""
        self._subscriptions.clear()
        await self.close()

    async def close(self) -> None:
        """Drop what is still to be sent."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _delivery(self, number: int, card: Card | None, phase: Phase) -> _Delivery:
        """Write the webhook of a card's status, or the test of a subscription, which is about no card."""
        subscription, random = self._subscriptions[number]
        is_old, stage = subscription.schema_version == "2.0.0", phase.stage

        def at(seconds: float) -> str:
            written = self._clock.timestamp(seconds)
            return f"{written[:19]}Z" if is_old else written

        profile_id = 0 if card is None else card.profile_id
        envelope = {
            "subscription_id": str(UUID(int=number + 1)),
            "event_type": _EVENT_TYPE,
            "schema_version": subscription.schema_version,
            "sent_at": at(self._clock.now()),
            "data": {
                "resource": {
                    "type": "card",
                    "profile_id": str(profile_id) if is_old else profile_id,
                    "client_id": "simulated-client",
                    "card_token": None if card is None else card.card_token,
                },
                "status": stage.status,
                "kiosk_id": phase.kiosk_id,
                "occurred_at": at(phase.requested_at),
                "error_code": stage.error_code,
                "description": stage.description,
            },
        }
        body = json.dumps(envelope, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "X-Signature-SHA256": _sign(body),
            "X-Delivery-Id": str(UUID(int=random.getrandbits(128), version=4)),
        }
        if card is None:
            headers["X-Test-Notification"] = "true"
        return _Delivery(subscription, body, headers, card, None if card is None else stage.status)

    def _start(self, sending: Coroutine[Any, Any, int | None]) -> asyncio.Task[int | None]:
        task = asyncio.get_running_loop().create_task(sending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _deliver(self, delivery: _Delivery, seconds: float) -> int | None:
        for attempt in range(1, _TRIES + 1):
            await asyncio.sleep(seconds)
            if await self._try(delivery, attempt) == _OK:
                return _OK
            seconds = _FIRST_GAP * _GAP_FACTOR ** (attempt - 1)
        return None

    async def _try(self, delivery: _Delivery, attempt: int) -> int | None:
        self._session = self._session or aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN))
        http_status: int | None = None
        try:
            url, body, headers = delivery.subscription.url, delivery.body, delivery.headers
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                http_status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):  # of a host that cannot be looked up too
            pass
        self.deliveries.append(
            LoggedDelivery(
                at=self._clock.now(),
                delivery_id=delivery.headers["X-Delivery-Id"],
                card=delivery.card,
                status=delivery.status,
                attempt=attempt,
                http_status=http_status,
            )
        )
        self._on_delivery()
        return http_status
