"""Attacks with events, webhook deliveries and saved values."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import attrs
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from cardprod import AdaptiveSchedule, BadSignature, Checkpoint, ProductionEvent, Transition, UsageError, WaitTimeout
from cardprod.webhooks import SIGNATURE_HEADER, Verifier, sign
from tests.attack.registry import Found, attack
from tests.attack.target import LIMIT, PLACE, always, attacked, error_of
from tests.cards import CARD, event_of
from tests.raw_server import http_answer
from tests.unit.deliveries import delivered
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator


TEXTS: Final = {"status", "source", "card_token", "kiosk_id", "error_code", "description", "id"}
"""Values that are never anything but a text or a null."""


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


async def statuses_after(event: ProductionEvent, body: dict[str, str], *, before_poll: bool = False) -> list[str]:
    """Return what a wait reports that gets this event, when its polls are answered so."""
    steps: list[str] = []
    async with attacked(always(http_answer(body=json.dumps(body))), delay=0.2 if before_poll else 0) as (_, client):

        async def wait() -> None:
            async for step in client.wait_until_final(*PLACE, timeout=0.7):
                steps.append(str(step.current.status))
                if len(steps) == 1 and not before_poll and not client.notify(event):
                    raise AssertionError("the event reached no wait")

        waiting = asyncio.create_task(wait())
        if before_poll:
            await until("the wait", lambda: client.notify(event), limit=LIMIT, interval=0)
        with contextlib.suppress(WaitTimeout):
            await waiting
    return steps


@attack("a signed event of old, which occurred_at does not order, ends no wait")
async def _() -> Found:
    old, lately = ago(days=3), ago(seconds=9).replace(microsecond=0)
    started = {"status": "IN_PROGRESS", "occurredAt": (lately + timedelta(seconds=0.5)).isoformat()}
    no_time: dict[str, Any] = {"status": "IN_PROGRESS", "occurredAt": None}
    tried: list[tuple[str, ProductionEvent, dict[str, Any], bool]] = [
        ("READY, PRODUCED", event_of(CARD, "PRODUCED", occurred_at=old, sent_at=old), {"status": "READY"}, False),
        ("null, an old error", event_of(CARD, "PRODUCTION_ERROR", occurred_at=old, sent_at=old), no_time, False),
        ("a retry", event_of(CARD, "PRODUCTION_ERROR", occurred_at=lately, sent_at=ago(seconds=8)), started, False),
        ("before the poll", event_of(CARD, "PRODUCED", occurred_at=old, sent_at=old), {"status": "READY"}, True),
    ]
    wrong: Found = []
    for name, event, body, before_poll in tried:
        steps = await statuses_after(event, body, before_poll=before_poll)
        wrong += [f"{name}: {steps}"] if steps != [body["status"]] else []
    fresh = await statuses_after(event_of(CARD, "PRODUCED", sent_at=ago(seconds=-0.5)), {"status": "READY"})
    return wrong + ([] if fresh == ["READY", "PRODUCED"] else [f"a fresh event: {fresh}"])


@attack("a forged or doubled signature, or headers of None, bytes and lists, are a BadSignature")
async def _() -> Found:
    body = json.dumps(delivered()).encode()
    key, stranger = (generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
    verifier, right, other = Verifier(key.public_key()), sign(body, key), sign(body, stranger)
    values: list[Any] = [None, [], [right, right], (right, b""), 5, True, "", right[:-4], f"{right}, {right}", other]
    values += [
        b"\xff" * 300,
        "é" * 344,
        "A" * 1_000_000,
        {},
        right[:9] + "\n" + right[9:],
        sign(body + b" ", key),
    ]
    headers: list[Any] = [{SIGNATURE_HEADER: value} for value in values]
    headers += [[(SIGNATURE_HEADER.lower().encode(), value)] for value in values]
    headers += [[(SIGNATURE_HEADER, right)] * 2, {SIGNATURE_HEADER: right, SIGNATURE_HEADER.lower(): right}, {}]

    async def parse(one: Any) -> None:
        verifier.parse(body, one)

    errors = [(one, await error_of(parse(one))) for one in headers]
    verifier.parse(body, {SIGNATURE_HEADER: right})
    return [f"{str(one)[:60]}: {error!r}" for one, error in errors if type(error) is not BadSignature]


def with_each_value_replaced(plain: Any, others: list[Any]) -> Iterator[tuple[str, Any]]:
    """Give JSON again and again, each time with one value within it replaced by another; and the name of that value."""
    whole, keys = plain, list[Any]()
    if isinstance(plain, dict):
        keys = [*whole]
    elif isinstance(plain, list):
        keys = [*range(len(whole))][:2]
    for key in keys:
        for name, other in [*((str(key), other) for other in others), *with_each_value_replaced(whole[key], others)]:
            changed = copy(whole)
            changed[key] = other
            yield name, changed


def use(kind: Any, text: str) -> None:
    """Read and use a value, as a client does."""
    value = kind.from_json(text)
    kind.from_json(value.to_json())
    if isinstance(value, AdaptiveSchedule):
        delays = [value.delay_at("READY", 5.0, 9.0, 0.5, is_first=False), value.delay(2, 0.5)]
        if not all(math.isfinite(delay) and delay > 0 for delay in delays):
            raise ValueError(f"delays of {delays}")


def saved_values() -> list[Any]:
    """Return one of each value that is saved, with something in each of its fields."""
    event = event_of(CARD, "PRODUCED", occurred_at=ago(days=1))
    step = Transition(previous=None, current=event.status, elapsed=1.0, polls=1)
    [waiting] = Checkpoint.for_cards([CARD]).pending
    waiting = attrs.evolve(waiting, last=event.status, polls=1, undelivered=(step,))
    return [event, Checkpoint(id="a", pending=(waiting,)), AdaptiveSchedule(typical={"READY": 60})]


@attack("saved events, checkpoints and schedules with values of wrong types or sizes are refused, or of use")
async def _() -> Found:
    others: list[Any] = [None, 5, -1, 1e-300, 1e300, True, "", "x", [], {}, [[]], float("nan"), "\ud800"]
    wrong: Found = []
    for value in saved_values():
        kind = type(value).__name__
        for other in others:
            for name, changed in with_each_value_replaced(json.loads(value.to_json()), [other]):
                try:
                    use(type(value), json.dumps(changed))
                except UsageError:
                    continue
                except Exception as error:  # noqa: BLE001 - any other is a fault
                    wrong.append(f"{kind} with {name} {other!r}: {error!r}")
                else:
                    is_wrong = name in TEXTS and not isinstance(other, str | None)
                    wrong += [f"{kind} with {name} {other!r} was read"] if is_wrong else []
    return wrong
