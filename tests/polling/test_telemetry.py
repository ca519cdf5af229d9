"""What can be seen of the work: log records as the table in `telemetry` promises, the observer, lent trace configs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

import cardprod
from cardprod import telemetry
from cardprod.simulator import Fault, Simulator
from tests.cards import CARD
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_MESSAGES = {
    "a look was answered or failed": r"look at card \S+: \w+ in [0-9.]+ s",
    "a request failed and is tried again": r"card \S+: attempt \d+ failed with \w+, again in [0-9.]+ s",
    "a transition": r"card \S+: .+ after [0-9.]+ s",
    "a look failed and the wait goes on": r"a look failed and the wait goes on \(\d+ in a row\): card .+",
    "the token could not be refreshed, and the old one is still good": r"the token is not refreshed yet, .+",
    "a time in an answer or an event was illegible and left out": r"a time is not in ISO 8601.+",
}
"""Row of the table → how its records read."""


def _table() -> dict[str, tuple[str, set[str]]]:
    rows = re.findall(r"^\| ([A-Z]+) \| (.+?) \| (?:`(.+?)` )?\|$", telemetry.__doc__ or "", re.MULTILINE)
    return {record: (level, set(extra.split())) for level, record, extra in rows}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


def _ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "cardprod"]


class _Observer:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.errors: list[str] = []

    def request_began(self) -> None:
        self.told.append("began")

    def request_ended(self) -> None:
        self.told.append("ended")

    def rate_limited(self) -> None:
        self.told.append("429")

    def retried(self, error: BaseException | None) -> None:
        self.told.append("retried")
        self.errors.append(type(error).__name__)

    def looked(
        self, card: cardprod.Card, seconds: float, outcome: cardprod.ProductionStatus | cardprod.CardprodError
    ) -> None:
        assert card == CARD
        assert seconds >= 0
        self.told.append("looked")

    def wait_began(self, card: cardprod.Card) -> _Observer:
        assert card == CARD
        self.told.append("wait began")
        return self

    def looking(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def saw(self, step: cardprod.Transition) -> None:
        self.told.append(str(step.current.status))

    def failed_look(self, error: cardprod.CardprodError) -> None:
        self.told.append("failed look")

    def ended(self, error: Exception | None) -> None:
        self.told.append("wait ended" if error is None else type(error).__name__)

    def assert_balanced(self) -> None:
        """Check that each request that began has ended, once."""
        assert self.told.count("began") == self.told.count("ended") > 0


@pytest.fixture
async def observed(kiosk: Simulator) -> AsyncIterator[tuple[cardprod.Client, _Observer]]:
    """A client of the kiosk, and who is told what it does."""
    observer = _Observer()
    async with cardprod.Client(kiosk.token, base_url=kiosk.base_url, attempts=2) as client:
        client.observer = observer
        yield client, observer


async def _everything(kiosk: Simulator) -> None:
    """Do what makes each record of the table, with a token that cannot be refreshed for now."""
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


async def test_records_are_as_the_table_says(kiosk: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    """Each row of the docstring's table is logged, at its level and with its `extra` and no other, and nothing else."""
    caplog.set_level(logging.DEBUG)
    await _everything(kiosk)
    table = _table()
    assert set(table) == set(_MESSAGES)
    seen: set[str] = set()
    for record in _ours(caplog):
        message = record.getMessage()
        row = next((row for row, pattern in _MESSAGES.items() if re.fullmatch(pattern, message)), None)
        assert row is not None, message
        assert (record.levelname, set(_extra(record))) == table[row], message
        assert message.isprintable()
        seen.add(row)
    assert seen == set(table)


async def test_extra_is_plain(kiosk: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    """What `extra` carries is text, numbers or None, so that any formatter can write it, and the card is shortened."""
    caplog.set_level(logging.DEBUG, "cardprod")
    await _everything(kiosk)
    for record in _ours(caplog):
        extra = _extra(record)
        assert all(value is None or type(value) in {str, int, float} for value in extra.values()), extra
        assert extra.get("card", str(CARD)) == str(CARD)


async def test_happy_path_is_quiet(kiosk: Simulator, client: cardprod.Client, caplog: pytest.LogCaptureFixture) -> None:
    """A wait without trouble logs its transitions at INFO, its looks at DEBUG, and nothing at WARNING or above."""
    caplog.set_level(logging.DEBUG)
    kiosk.add(CARD, [("READY", 20), ("IN_PROGRESS", 60), ("PRODUCED", 0)])
    wait = client.wait_until_final(CARD.profile_id, CARD.card_token)
    assert (await wait).is_produced
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    told = [_extra(record) for record in _ours(caplog) if record.levelno == logging.INFO]
    assert [(extra["previous_status"], extra["status"]) for extra in told] == [
        (None, "READY"),
        ("READY", "IN_PROGRESS"),
        ("IN_PROGRESS", "PRODUCED"),
    ]
    assert sum(record.levelno == logging.DEBUG for record in _ours(caplog)) == wait.polls


# --- The observer ---


async def test_observer_is_told_of_a_wait(kiosk: Simulator, observed: tuple[cardprod.Client, _Observer]) -> None:
    """An observer is told of each request, retry, 429, look and transition, in their order."""
    client, observer = observed
    kiosk.add(CARD, [("READY", 1), ("PRODUCED", 0)])
    kiosk.fail_next(Fault.too_many_requests(1))
    kiosk.fail_next(Fault.server_error(500), times=2)
    await client.wait_until_final(CARD.profile_id, CARD.card_token)
    request, look = ["began", "ended"], ["began", "ended", "looked"]
    assert observer.told == [
        *("wait began", "began", "429", "ended", "retried", *look, "failed look"),
        *(*request, "retried", *look, "PRODUCED", "wait ended"),
    ]
    assert observer.errors == ["RateLimited", "ServerError"]


async def test_requests_are_balanced_whatever_fails(kiosk: Simulator) -> None:
    """Each request that an observer is told of ends, however it fails."""
    faults = [Fault.reset(), Fault.stall(), Fault.cut_body(), Fault.garbage(), Fault.server_error(404),
              Fault.bad_reply()]  # fmt: skip
    with Table() as table:
        for fault in faults:
            kiosk.clear_weather()
            kiosk.fail_next(fault, times=2)
            observer = _Observer()
            async with cardprod.Client(kiosk.token, base_url=kiosk.base_url, attempts=2) as client:
                client.observer = observer
                with table.row(fault):
                    with pytest.raises(cardprod.CardprodError):
                        await client.get_status(CARD.profile_id, CARD.card_token)
                    observer.assert_balanced()
                    assert observer.told.count("looked") == 1


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_requests_are_balanced_when_given_up(
    kiosk: Simulator, observed: tuple[cardprod.Client, _Observer], how: str
) -> None:
    """A request that is cancelled or closed under way ends for the observer; a cancelled look is none."""
    client, observer = observed
    kiosk.fail_next(Fault.stall())
    task = asyncio.create_task(client.get_status(CARD.profile_id, CARD.card_token))
    await asyncio.sleep(1)
    assert observer.told == ["began"]
    if how == "closed":
        await client.close()
    else:
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert observer.told == ["began", "ended", *(["looked"] if how == "closed" else [])]


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
