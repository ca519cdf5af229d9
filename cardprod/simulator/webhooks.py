"""The simulated kiosk's webhooks: what is sent to whom, how late, how often, and again if nobody took it.

It signs and writes its bodies by hand, and shares no code with `cardprod.webhooks`, so that neither can hide the
other's mistakes. Which card changes when is `server`'s business. Needs the extra `webhooks`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

import aiohttp
import attrs

from cardprod._protocol.validation import check_number, check_seconds
from cardprod.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from cardprod.models import Card
    from cardprod.simulator.plans import Stage

__all__ = ["LoggedDelivery", "PostOffice", "Subscription", "public_key"]

_EVENT_TYPE: Final = "cards#card-production-status-change"
_ANSWER_WITHIN: Final = 5.0
_TRIES: Final = 25
_FIRST_GAP: Final = 9.0
_GAP_FACTOR: Final = 1.6
"""Wise tells "growing gaps for two weeks, 25 tries at most": these add up to a day less than two weeks."""

_LATE: Final = (30.0, 300.0)
_OK: Final = 200


@attrs.frozen(kw_only=True)
class Subscription:
    """Where deliveries go, and what becomes of them on the way.

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
        seed: Where the bad luck comes from, so that it can be had again.

    Raises:
        UsageError: An argument that cannot be right.
    """

    url: str
    schema_version: Literal["2.0.0", "4.0.0"] = "4.0.0"
    latency: tuple[float, float] = (0.0, 0.0)
    duplicates: float = 0.0
    losses: float = 0.0
    replays: float = 0.0
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"a subscription's url must be http or https, not {self.url!r}")
        if self.schema_version not in {"2.0.0", "4.0.0"}:
            raise UsageError(f"schema_version must be '2.0.0' or '4.0.0', not {self.schema_version!r}")
        least, most = self.latency
        check_seconds("latency[0]", least)
        check_number("latency[1]", most, least=least)
        check_number("duplicates", self.duplicates, least=0, most=1)
        check_number("losses", self.losses, least=0, most=1)
        check_number("replays", self.replays, least=0, most=1)


@attrs.frozen(kw_only=True)
class LoggedDelivery:
    """One try to deliver.

    Args:
        at: Seconds since the simulator started.
        delivery_id: Its `X-Delivery-Id`, the same for each try.
        card: The card it is about; None for a test.
        status: The status it tells; None for a test.
        attempt: Which try it was, from 1.
        http_status: What the endpoint answered; None if it gave no answer.
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
        raise ImportError(
            "the simulator's webhooks need the extra 'webhooks': pip install 'cardprod[webhooks]'"
        ) from exc
    return generate_private_key(public_exponent=65537, key_size=2048)


@cache
def public_key() -> str:
    """Give the public key that the simulator's deliveries are verified with, as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415 - an extra

    return _private_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _sign(body: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    return base64.b64encode(_private_key().sign(body, PKCS1v15(), SHA256())).decode()


@attrs.frozen
class _Letter:
    """What is delivered, and delivered again."""

    subscription: Subscription
    body: bytes
    headers: dict[str, str]
    card: Card | None
    status: str | None


class PostOffice:
    """Sends deliveries to subscriptions, each in a task of its own until it is taken or given up.

    Args:
        started_at: When the simulator started, on the loop's clock.
        timestamp: Writes a time on the loop's clock as ISO 8601, in milliseconds.
        on_delivery: Is told that there is one more try in `deliveries`.
    """

    def __init__(self, started_at: float, timestamp: Callable[[float], str], on_delivery: Callable[[], None]) -> None:
        self._started_at = started_at
        self._timestamp = timestamp
        self._on_delivery = on_delivery
        self._subscriptions: list[tuple[Subscription, Random]] = []
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[int | None]] = set()
        self.deliveries: list[LoggedDelivery] = []
        """Every try so far."""

    def subscribe(self, subscription: Subscription) -> None:
        """Send to this one too, from now on."""
        _private_key()  # it takes a moment, and may find the extra missing
        self._subscriptions.append((subscription, Random(subscription.seed)))  # noqa: S311 - simulated bad luck

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Where deliveries go."""
        return tuple(subscription for subscription, _ in self._subscriptions)

    def __len__(self) -> int:
        return len(self._subscriptions)

    def announce(self, card: Card, stage: Stage, requested_at: float, kiosk_id: str | None) -> None:
        """Send what has become of a card just now."""
        now = asyncio.get_running_loop().time()
        for number, (subscription, chance) in enumerate(self._subscriptions):
            if chance.random() < subscription.losses:
                continue
            for _ in range(1 + (chance.random() < subscription.duplicates)):
                letter = self._letter(number, subscription, chance, now, (card, stage, requested_at, kiosk_id))
                latency = chance.uniform(*subscription.latency)
                self._start(letter, latency)
                if chance.random() < subscription.replays:
                    self._start(letter, latency + chance.uniform(*_LATE))

    async def send_tests(self) -> list[int | None]:
        """Send a test to every subscription, and give what each answered; None for no answer."""
        now = asyncio.get_running_loop().time()
        letters = [
            self._letter(number, subscription, chance, now, None)
            for number, (subscription, chance) in enumerate(self._subscriptions)
        ]
        return [await self._try(letter, 1) for letter in letters]

    async def close(self) -> None:
        """Send no more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _letter(
        self,
        number: int,
        subscription: Subscription,
        chance: Random,
        now: float,
        change: tuple[Card, Stage, float, str | None] | None,
    ) -> _Letter:
        is_old = subscription.schema_version == "2.0.0"

        def at(loop_time: float) -> str:
            written = self._timestamp(loop_time)
            return f"{written[:19]}Z" if is_old else written

        envelope = (
            f'"subscription_id":"{UUID(int=number + 1)}","event_type":"{_EVENT_TYPE}",'
            f'"schema_version":"{subscription.schema_version}","sent_at":"{at(now)}"'
        )
        card = stage = None
        if change is None:
            data = (
                '"resource":{"type":"card","profile_id":0,"client_id":"simulated-client","card_token":null},'
                f'"status":"READY","kiosk_id":null,"occurred_at":"{at(now)}","error_code":null,"description":null'
            )
        else:
            card, stage, requested_at, kiosk_id = change
            profile_id = f'"{card.profile_id}"' if is_old else str(card.profile_id)
            data = (
                f'"resource":{{"type":"card","profile_id":{profile_id},"client_id":"simulated-client",'
                f'"card_token":"{card.card_token}"}},"status":{json.dumps(stage.status)},'
                f'"kiosk_id":{json.dumps(kiosk_id)},"occurred_at":"{at(requested_at)}",'
                f'"error_code":{json.dumps(stage.error_code)},"description":{json.dumps(stage.description)}'
            )
        body = f'{{{envelope},"data":{{{data}}}}}'.encode()
        headers = {
            "Content-Type": "application/json",
            "X-Signature-SHA256": _sign(body),
            "X-Delivery-Id": str(UUID(int=chance.getrandbits(128), version=4)),
        }
        if card is None:
            headers["X-Test-Notification"] = "true"
        return _Letter(subscription, body, headers, card, None if stage is None else stage.status)

    def _start(self, letter: _Letter, seconds: float) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(letter, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, letter: _Letter, seconds: float) -> int | None:
        for attempt in range(1, _TRIES + 1):
            await asyncio.sleep(seconds)
            if await self._try(letter, attempt) == _OK:
                return _OK
            seconds = _FIRST_GAP * _GAP_FACTOR ** (attempt - 1)
        return None

    async def _try(self, letter: _Letter, attempt: int) -> int | None:
        self._session = self._session or aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN))
        http_status: int | None = None
        try:
            url = letter.subscription.url
            async with self._session.post(
                url, data=letter.body, headers=letter.headers, allow_redirects=False
            ) as answer:
                http_status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass
        self.deliveries.append(
            LoggedDelivery(
                at=asyncio.get_running_loop().time() - self._started_at,
                delivery_id=letter.headers["X-Delivery-Id"],
                card=letter.card,
                status=letter.status,
                attempt=attempt,
                http_status=http_status,
            )
        )
        self._on_delivery()
        return http_status
