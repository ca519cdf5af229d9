"""What can be observed of a client: log records, the events of an observer, the trace configs of a lent session."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

import cardprod
from cardprod.simulator import Fault, Simulator
from cardprod.telemetry import PollEnded, RequestRefused, RequestRetried
from tests.cards import CARD
from tests.raw_server import RawServer, http_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cardprod.telemetry import Event

_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_MESSAGES = {
    "poll": (logging.DEBUG, r"poll of card \S+: \w+ in [0-9.]+ s"),
    "retry": (logging.DEBUG, r"card \S+: attempt \d+ failed with \w+, sent again after [0-9.]+ s"),
    "transition": (logging.INFO, r"card \S+: .+ after [0-9.]+ s"),
    "failed poll": (logging.WARNING, r"a poll failed and the wait goes on \(\d+ in a row\): card .+"),
    "token": (logging.WARNING, r"the token could not be refreshed, .+"),
    "time": (logging.WARNING, r"a time is not in ISO 8601.+"),
}
"""All kinds of records: their level, and how they read."""


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


def _ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "cardprod"]


def _names(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


@pytest.fixture
async def observed(kiosk: Simulator) -> AsyncIterator[tuple[cardprod.Client, list[Event]]]:
    """A client of the kiosk, and the events that its observer gets."""
    events: list[Event] = []
    async with cardprod.Client(kiosk.token, base_url=kiosk.base_url, attempts=2) as client:
        client.on_event = events.append
        yield client, events


async def test_every_record_is_a_known_one(kiosk: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happens, each record is one of the documented kinds, at its level, and all its fields are prefixed."""
    caplog.set_level(logging.DEBUG)
    # each record of the table, with a token that cannot be refreshed for now
    kiosk.add(CARD, [("READY", 20), ("IN_PROGRESS", 60), ("PRODUCED", 0)])
    kiosk.fail_next(Fault.server_error(503), times=3, card=CARD)
    kiosk.fail_next(Fault.bad_reply('{"status":"READY","occurredAt":"yesterday"}'))
    kiosk.fail_next_refresh(Fault.server_error(500), times=100)
    token = cardprod.OAuthToken(
        kiosk.client_id,
        kiosk.client_secret,
        kiosk.refresh_token,
        access_token=kiosk.token,
        expires_at=datetime.now(UTC) + timedelta(seconds=120),
        base_url=kiosk.base_url,
    )
    async with cardprod.Client(token, base_url=kiosk.base_url, attempts=2) as client:
        assert (await client.wait_until_final(CARD.profile_id, CARD.card_token)).is_produced
    seen: set[str] = set()
    for record in _ours(caplog):
        message = record.getMessage()
        kind = next((kind for kind, (_, pattern) in _MESSAGES.items() if re.fullmatch(pattern, message)), None)
        assert kind is not None, message
        assert record.levelno == _MESSAGES[kind][0], message
        assert all(name.startswith("cardprod_") for name in _extra(record)), message
        assert message.isprintable()
        seen.add(kind)
    assert seen == set(_MESSAGES)


async def test_happy_path_is_quiet(kiosk: Simulator, client: cardprod.Client, caplog: pytest.LogCaptureFixture) -> None:
    """A wait without trouble logs its transitions at INFO, its polls at DEBUG, and nothing at WARNING or above."""
    caplog.set_level(logging.DEBUG)
    kiosk.add(CARD, [("READY", 20), ("IN_PROGRESS", 60), ("PRODUCED", 0)])
    wait = client.wait_until_final(CARD.profile_id, CARD.card_token)
    assert (await wait).is_produced
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    shown = [_extra(record) for record in _ours(caplog) if record.levelno == logging.INFO]
    assert [(extra["cardprod_previous_status"], extra["cardprod_status"]) for extra in shown] == [
        (None, "READY"),
        ("READY", "IN_PROGRESS"),
        ("IN_PROGRESS", "PRODUCED"),
    ]
    assert sum(record.levelno == logging.DEBUG for record in _ours(caplog)) == wait.polls


# --- The observer ---


async def test_observer_gets_every_event(kiosk: Simulator, observed: tuple[cardprod.Client, list[Event]]) -> None:
    """An observer gets the events of each request, retry, 429, poll and transition, in their order."""
    client, events = observed
    kiosk.add(CARD, [("READY", 1), ("PRODUCED", 0)])
    kiosk.fail_next(Fault.too_many_requests(1))
    kiosk.fail_next(Fault.server_error(500), times=3)
    await client.wait_until_final(CARD.profile_id, CARD.card_token)
    request = ["RequestStarted", "RequestEnded"]
    assert _names(events) == [
        *("WaitStarted", "PollStarted", "RequestStarted", "RequestRefused", "RequestEnded", "RequestRetried"),
        *(*request, "RequestRetried", *request, "PollEnded", "PollFailed"),
        *("PollStarted", *request, "RequestRetried", *request, "PollEnded", "TransitionSeen", "WaitEnded"),
    ]
    assert {event.card for event in events} == {CARD}
    assert {getattr(event, "wait", None) for event in events} - {None} == {events[0].wait}  # type: ignore[union-attr]
    retried = [event for event in events if isinstance(event, RequestRetried)]
    assert [type(event.error).__name__ for event in retried] == ["RateLimited", "ServerError", "ServerError"]


async def test_refused_request_names_its_limit() -> None:
    """A 429 is an event that says how long to wait and which limit was met, as far as the answer says so."""
    answers = [http_answer(429, "{}", Retry_After="65", X_Rate_Limited_By="wise-public-api"), http_answer(429, "{}")]
    answers += [http_answer()]
    events: list[Event] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))

    async with (
        RawServer(answer) as server,
        cardprod.Client("user-token", base_url=server.base_url, attempts=1) as client,
    ):
        client.on_event = events.append
        with pytest.raises(cardprod.RateLimited) as caught:
            await client.get_status(CARD.profile_id, CARD.card_token)
        assert caught.value.limited_by == "wise-public-api"
        await client.get_status(CARD.profile_id, CARD.card_token)
    refused = [event for event in events if isinstance(event, RequestRefused)]
    assert refused == [RequestRefused(CARD, 65.0, "wise-public-api"), RequestRefused(CARD, None)]


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_requests_are_balanced_when_abandoned(
    kiosk: Simulator, observed: tuple[cardprod.Client, list[Event]], how: str
) -> None:
    """A request that is cancelled or closed under way ends for the observer, and so does its poll."""
    client, events = observed
    kiosk.fail_next(Fault.stall())
    task = asyncio.create_task(client.get_status(CARD.profile_id, CARD.card_token))
    await asyncio.sleep(1)
    assert _names(events) == ["PollStarted", "RequestStarted"]
    if how == "closed":
        await client.close()
    else:
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert _names(events[2:]) == ["RequestEnded", "PollEnded"]
    (ended,) = [event for event in events if isinstance(event, PollEnded)]
    assert (ended.outcome is None) == (how == "cancelled")


def test_observer_must_be_callable() -> None:
    """What cannot be called is refused as an observer."""
    client = cardprod.Client("user-token")
    with pytest.raises(cardprod.UsageError, match="on_event"):
        client.on_event = 5  # type: ignore[assignment]

    async def observe(event: Event) -> None:
        raise AssertionError(event)

    with pytest.raises(cardprod.UsageError, match="on_event must not be async"):
        client.on_event = observe


async def test_lent_trace_configs_go_on(kiosk: Simulator) -> None:
    """The trace configs of a lent session see each request, retries too, and each failure."""
    events: list[str] = []
    config = aiohttp.TraceConfig()

    async def see(_: aiohttp.ClientSession, __: object, params: object) -> None:
        events.append(type(params).__name__.removeprefix("TraceRequest").removesuffix("Params"))

    config.on_request_start.append(see)
    config.on_request_end.append(see)
    config.on_request_exception.append(see)
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.server_error(500))
    kiosk.fail_next(Fault.garbage())
    async with (
        aiohttp.ClientSession(trace_configs=[config]) as session,
        cardprod.Client(kiosk.token, base_url=kiosk.base_url, session=session) as client,
    ):
        await client.get_status(CARD.profile_id, CARD.card_token)
    assert events == ["Start", "End", "Start", "Exception", "Start", "End"]
