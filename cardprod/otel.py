"""Spans and metrics for OpenTelemetry (extra `otel`): `instrument` a client, and its waits and looks are seen.

Only `opentelemetry-api` is used; where they go is for the application's SDK to say. Deciding anything is not done here.

| span | attributes | events |
| --- | --- | --- |
| `cardprod.wait` | `cardprod.card` (shortened) `.status` `.polls`, `error.type` | `transition`, `look failed` |

| metric | kind | attributes |
| --- | --- | --- |
| `cardprod.looks` | counter | `cardprod.status`, or `error.type` |
| `cardprod.look.duration` | histogram, s | as above |
| `cardprod.retries` | counter | `error.type` |
| `cardprod.rate_limited` | counter of 429s | |
| `cardprod.requests.in_flight` | up-down counter | |
| `cardprod.time_to_final` | histogram, s | `cardprod.status` |

A wait's span is the current one while it looks, so that spans of an aiohttp instrumentation become its children. It
ends with the wait, or, if its iteration is dropped half-way, when Python frees it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardprod._version import VERSION
from cardprod.models import Status

try:
    from opentelemetry import metrics, trace
except ImportError as _missing:  # pragma: no cover - tests have the extra; one runs a Python that hides it
    raise ImportError("cardprod.otel needs the extra 'otel': pip install 'cardprod[otel]'") from _missing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from cardprod.client import Client
    from cardprod.errors import CardprodError
    from cardprod.models import Card, ProductionStatus, Transition

__all__ = ["instrument"]


def instrument(
    client: Client,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> None:
    """Let OpenTelemetry see what a client does from now on. It takes the place of the client's `observer`.

    ```python
    from cardprod.otel import instrument

    client = Client("user-token", base_url=SANDBOX)
    instrument(client)
    ```

    Args:
        client: The client.
        tracer_provider: Where spans go; None for the global one.
        meter_provider: Where metrics go; None for the global one.
    """
    client.observer = _ClientObserver(
        trace.get_tracer("cardprod", VERSION, tracer_provider), metrics.get_meter("cardprod", VERSION, meter_provider)
    )


def _attributes_of(outcome: ProductionStatus | CardprodError) -> Mapping[str, str]:
    if isinstance(outcome, Exception):
        return {"error.type": type(outcome).__name__}
    # What Wise has yet to document could be anything: a series for each such text would never end.
    return {"cardprod.status": str(outcome.status) if isinstance(outcome.status, Status) else "other"}


class _ClientObserver:
    """Counts what a client does."""

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self._tracer = tracer
        self._looks = meter.create_counter("cardprod.looks", "{look}", "Looks that were answered or failed")
        self._seconds = meter.create_histogram("cardprod.look.duration", "s", "A whole look, retries included")
        self._retries = meter.create_counter("cardprod.retries", "{request}", "Requests that were sent again")
        self._rate_limited = meter.create_counter("cardprod.rate_limited", "{answer}", "Answers with 429")
        self._in_flight = meter.create_up_down_counter(
            "cardprod.requests.in_flight", "{request}", "Requests without their answer yet"
        )
        self._time_to_final = meter.create_histogram(
            "cardprod.time_to_final", "s", "From the beginning of a wait to the final status"
        )

    def request_began(self) -> None:
        self._in_flight.add(1)

    def request_ended(self) -> None:
        self._in_flight.add(-1)

    def rate_limited(self) -> None:
        self._rate_limited.add(1)

    def retried(self, error: BaseException | None) -> None:
        self._retries.add(1, {"error.type": type(error).__name__})

    def looked(self, card: Card, seconds: float, outcome: ProductionStatus | CardprodError) -> None:  # noqa: ARG002 - a card would make a series of its own
        attributes = _attributes_of(outcome)
        self._looks.add(1, attributes)
        self._seconds.record(seconds, attributes)

    def wait_began(self, card: Card) -> _WaitObserver:
        span = self._tracer.start_span("cardprod.wait", attributes={"cardprod.card": str(card)})
        return _WaitObserver(span, self._time_to_final)


class _WaitObserver:
    """Tells a wait's span what happens."""

    def __init__(self, span: trace.Span, time_to_final: metrics.Histogram) -> None:
        self._span = span
        self._time_to_final = time_to_final
        self._is_ended = False

    def looking(self) -> AbstractContextManager[trace.Span]:
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def saw(self, step: Transition) -> None:
        current, previous = step.current, step.previous
        told = {
            "cardprod.status": str(current.status),
            "cardprod.previous_status": None if previous is None else str(previous.status),
            "cardprod.kiosk_id": current.kiosk_id,
            "cardprod.error_code": None if current.error_code is None else str(current.error_code),
            "cardprod.source": step.source,
        }
        attributes: dict[str, str | int | float] = {name: value for name, value in told.items() if value is not None}
        attributes |= {"cardprod.elapsed": step.elapsed, "cardprod.polls": step.polls}
        self._span.add_event("transition", attributes)
        self._span.set_attributes({"cardprod.status": str(current.status), "cardprod.polls": step.polls})
        if step.is_final:
            self._time_to_final.record(step.elapsed, _attributes_of(current))

    def failed_look(self, error: CardprodError) -> None:
        self._span.add_event("look failed", {"error.type": type(error).__name__, "error.message": str(error)})

    def ended(self, error: Exception | None) -> None:
        if error is not None:
            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(trace.StatusCode.ERROR, str(error))
        self._is_ended = True
        self._span.end()

    def __del__(self) -> None:
        if not self._is_ended:
            self._span.end()
