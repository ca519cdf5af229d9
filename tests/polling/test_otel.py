"""Spans and metrics, as OpenTelemetry's own SDK receives them."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import cardprod
from cardprod import otel
from cardprod.simulator import Fault, Simulator
from tests.cards import CARD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class _Seen:
    """What OpenTelemetry saw."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)

    def span(self) -> Any:
        """Return the one span that has ended."""
        [span] = self._spans.get_finished_spans()
        return span

    def metrics(self) -> dict[str, dict[tuple[Any, ...], float]]:
        """Return each metric's points: the values of their attributes → a counter's value, or a histogram's count."""
        data: Any = self._reader.get_metrics_data()
        return {
            metric.name: {
                tuple(point.attributes.values()): point.count if hasattr(point, "count") else point.value
                for point in metric.data.data_points
            }
            for metric in data.resource_metrics[0].scope_metrics[0].metrics
        }


@pytest.fixture
def seen() -> _Seen:
    """OpenTelemetry's SDK, which keeps everything in memory."""
    return _Seen()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that records the current span as each request leaves."""
    config = aiohttp.TraceConfig()
    current: list[trace.Span] = []

    async def see(*_: object) -> None:
        current.append(trace.get_current_span())

    config.on_request_start.append(see)
    async with aiohttp.ClientSession(trace_configs=[config]) as session:
        session.headers["X-Test"] = "kept"
        _current[session] = current
        yield session
        del _current[session]


_current: dict[aiohttp.ClientSession, list[trace.Span]] = {}


@pytest.fixture
async def traced(kiosk: Simulator, seen: _Seen, session: aiohttp.ClientSession) -> AsyncIterator[cardprod.Client]:
    """A client of the kiosk that OpenTelemetry traces."""
    async with cardprod.Client(kiosk.token, base_url=kiosk.base_url, session=session, attempts=2) as client:
        otel.instrument(client, tracer_provider=seen.tracers, meter_provider=seen.meters)
        yield client


async def test_wait_is_a_span(
    kiosk: Simulator, traced: cardprod.Client, seen: _Seen, session: aiohttp.ClientSession
) -> None:
    """A wait is one span, current in its polls and not in its consumer, with an event for each transition in order."""
    kiosk.add(CARD, "jams")
    async for _ in traced.wait_until_final(CARD.profile_id, CARD.card_token):
        assert trace.get_current_span() is trace.INVALID_SPAN
    span = seen.span()
    assert span.name == "cardprod.wait"
    assert [(event.name, event.attributes["cardprod.status"]) for event in span.events] == [
        ("transition", status) for status in ("READY", "IN_PROGRESS", "PRODUCTION_ERROR")
    ]
    assert span.attributes["cardprod.card"] == str(CARD)
    assert span.attributes["cardprod.status"] == "PRODUCTION_ERROR"
    assert span.events[-1].attributes["cardprod.error_code"] == "PRD_FEEDER_JAM"
    assert span.status.status_code is trace.StatusCode.UNSET
    assert {current.get_span_context().span_id for current in _current[session]} == {span.context.span_id}


async def test_foreign_texts_in_a_span(kiosk: Simulator, traced: cardprod.Client, seen: _Seen) -> None:
    """What a server writes is one short line in a span, without the card's whole token."""
    token = CARD.card_token
    body = json.dumps(
        {"status": f"A {token}\x1b\nB", **dict.fromkeys(("kioskId", "errorCode"), f"{token}\n" + "x" * 70)}
    )
    kiosk.fail_next(Fault("answer", 200, body, "application/json"), times=9)
    with pytest.raises(cardprod.WaitTimeout):
        await traced.wait_until_final(CARD.profile_id, CARD.card_token, timeout=1)
    span = seen.span()
    fields = [str(value) for event in span.events for value in event.attributes.values()]
    assert all(len(field) <= 100 and field.isprintable() and token not in field for field in fields)
    assert span.attributes["cardprod.status"] == f"A {token[:4]}\u2026{token[-4:]}\ufffd B"
    assert token not in span.to_json()


@pytest.mark.parametrize(("fault", "error"), [(None, "WaitTimeout"), (Fault.server_error(404), "CardNotFound")])
async def test_failed_wait(
    kiosk: Simulator, traced: cardprod.Client, seen: _Seen, fault: Fault | None, error: str
) -> None:
    """A wait that times out or fails is a span with the status error and the error's class."""
    kiosk.add(CARD, "never")
    if fault is not None:
        kiosk.fail_next(fault)
    with pytest.raises(cardprod.CardprodError):
        await traced.wait_until_final(CARD.profile_id, CARD.card_token, timeout=10)
    span = seen.span()
    assert (span.status.status_code, span.attributes["error.type"]) == (trace.StatusCode.ERROR, error)


@pytest.mark.parametrize("how", ["cancelled", "dropped"])
async def test_abandoned_wait_ends_its_span(kiosk: Simulator, traced: cardprod.Client, seen: _Seen, how: str) -> None:
    """A wait that is cancelled, or whose iteration is broken off, ends its span when it is freed."""
    kiosk.add(CARD, "never")
    wait = traced.wait_until_final(CARD.profile_id, CARD.card_token)
    if how == "dropped":
        async for _ in wait:
            break
    else:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait, 5)
    del wait
    gc.collect()
    span = seen.span()
    assert (span.attributes["cardprod.status"], span.status.status_code) == ("READY", trace.StatusCode.UNSET)


async def test_metrics(kiosk: Simulator, traced: cardprod.Client, seen: _Seen) -> None:
    """The metrics are those of the docstring's table, and count polls, retries, 429s and the time to the final."""
    kiosk.add(CARD, [("READY", 1), ("PRODUCED", 0)])
    kiosk.fail_next(Fault.too_many_requests(1))
    kiosk.fail_next(Fault.server_error(500), times=2)
    await traced.wait_until_final(CARD.profile_id, CARD.card_token)
    metrics = seen.metrics()
    assert set(metrics) == set(
        re.findall(r"^\| `(cardprod\.\S+)` \| (?:counter|hist|up)", otel.__doc__ or "", re.MULTILINE)
    )
    assert metrics["cardprod.polls"] == metrics["cardprod.poll.duration"] == {("ServerError",): 1, ("PRODUCED",): 1}
    assert metrics["cardprod.retries"] == {("RateLimited",): 1, ("ServerError",): 1}
    assert metrics["cardprod.rate_limited"] == {(): 1}
    assert metrics["cardprod.requests.in_flight"] == {(): 0}
    assert metrics["cardprod.time_to_final"] == {("PRODUCED",): 1}
