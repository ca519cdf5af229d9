"""`instrument`: OpenTelemetry spans and metrics of a client's waits, polls and requests (extra `otel`).

It uses `opentelemetry-api` only; the application's SDK decides where they are exported to.

| span | attributes | events |
| --- | --- | --- |
| `cardprod.wait` | `cardprod.card` (shortened) `.status` `.polls`, `error.type` | `transition`, `poll failed` |

| metric | kind | attributes |
| --- | --- | --- |
| `cardprod.polls` | counter | `cardprod.status`, or `error.type` |
| `cardprod.poll.duration` | histogram, s | as above |
| `cardprod.retries` | counter | `error.type` |
| `cardprod.rate_limited` | counter of 429s | |
| `cardprod.requests.in_flight` | up-down counter | |
| `cardprod.time_to_final` | histogram, s | `cardprod.status` |

A wait's span is the current one during its polls, so that spans of an aiohttp instrumentation become its children. It
ends with the wait, or, if an iteration is not finished, when Python frees the wait.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from cardprod._extras import needs_extra
from cardprod._version import VERSION
from cardprod.models import Status
from cardprod.telemetry import (
    PollEnded,
    PollFailed,
    PollStarted,
    RequestEnded,
    RequestRefused,
    RequestRetried,
    RequestStarted,
    TransitionSeen,
    WaitEnded,
    WaitStarted,
    field_of,
)

# Checked where it is used, so that help needs none. Other distributions share the namespace `opentelemetry`.
_HAS_EXTRA: Final = find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None
if TYPE_CHECKING or _HAS_EXTRA:
    from opentelemetry import context, metrics, trace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token

    from opentelemetry.context import Context

    from cardprod.client import Client
    from cardprod.errors import CardprodError
    from cardprod.models import Card, ProductionStatus, Transition
    from cardprod.telemetry import Event

__all__ = ["instrument"]


def instrument(
    client: Client,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> None:
    """Set a client's `on_event` to an observer that makes spans and metrics of its events.

    ```python
    from cardprod.otel import instrument

    client = Client("user-token", base_url=SANDBOX)
    instrument(client)
    ```

    Args:
        client: The client.
        tracer_provider: The provider for spans; None for the global one.
        meter_provider: The provider for metrics; None for the global one.

    Raises:
        ImportError: The extra `otel` is not installed; the message has the command for it.
    """
    if not _HAS_EXTRA:
        raise ImportError(needs_extra("cardprod.otel", "otel"))
    client.on_event = _Instrumentation(
        trace.get_tracer("cardprod", VERSION, tracer_provider), metrics.get_meter("cardprod", VERSION, meter_provider)
    )


def _attributes_of(outcome: ProductionStatus | CardprodError) -> Mapping[str, str]:
    if isinstance(outcome, Exception):
        return {"error.type": type(outcome).__name__}
    # Undocumented statuses share one value, so that a server cannot create any number of series.
    return {"cardprod.status": str(outcome.status) if isinstance(outcome.status, Status) else "other"}


class _Instrumentation:
    """Makes spans and metrics of events."""

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self._tracer = tracer
        self._polls = meter.create_counter("cardprod.polls", "{poll}", "Polls that were answered or failed")
        self._seconds = meter.create_histogram("cardprod.poll.duration", "s", "A whole poll, retries included")
        self._retries = meter.create_counter("cardprod.retries", "{request}", "Requests that were retried")
        self._rate_limited = meter.create_counter("cardprod.rate_limited", "{answer}", "Answers with 429")
        self._in_flight = meter.create_up_down_counter("cardprod.requests.in_flight", "{request}", "Requests in flight")
        self._time_to_final = meter.create_histogram(
            "cardprod.time_to_final", "s", "From the beginning of a wait to the final status"
        )
        self._spans: dict[int | None, trace.Span] = {}  # by the number of the wait; a poll without a wait has None
        self._tokens: dict[int | None, Token[Context]] = {}

    def __call__(self, event: Event) -> None:  # noqa: C901, PLR0912 - one case for each kind of event
        match event:
            case RequestStarted():
                self._in_flight.add(1)
            case RequestEnded():
                self._in_flight.add(-1)
            case RequestRefused():
                self._rate_limited.add(1)
            case RequestRetried():
                self._retries.add(1, {"error.type": type(event.error).__name__})
            case PollStarted():
                if (span := self._spans.get(event.wait)) is not None:
                    self._tokens[event.wait] = context.attach(trace.set_span_in_context(span))
            case PollEnded():
                if (token := self._tokens.pop(event.wait, None)) is not None:
                    context.detach(token)
                if event.outcome is not None:
                    attributes = _attributes_of(event.outcome)
                    self._polls.add(1, attributes)
                    self._seconds.record(event.seconds, attributes)
            case WaitStarted():
                attributes = {"cardprod.card": str(event.card)}
                self._spans[event.wait] = self._tracer.start_span("cardprod.wait", attributes=attributes)
            case TransitionSeen():
                self._report_transition(event.card, event.transition, self._spans.get(event.wait))
            case PollFailed():
                if (span := self._spans.get(event.wait)) is not None:
                    error = event.error
                    span.add_event("poll failed", {"error.type": type(error).__name__, "error.message": str(error)})
            case WaitEnded():
                if (span := self._spans.pop(event.wait, None)) is not None:
                    if event.error is not None:
                        span.set_attribute("error.type", type(event.error).__name__)
                        span.set_status(trace.StatusCode.ERROR, str(event.error))
                    span.end()

    def _report_transition(self, card: Card, step: Transition, span: trace.Span | None) -> None:
        current, previous = step.current, step.previous
        if step.is_final:
            self._time_to_final.record(step.elapsed, _attributes_of(current))
        if span is None:
            return
        texts = {
            "cardprod.status": current.status,
            "cardprod.previous_status": None if previous is None else previous.status,
            "cardprod.kiosk_id": current.kiosk_id,
            "cardprod.error_code": current.error_code,
            "cardprod.source": step.source,
        }
        fields = {name: field_of(text, card) for name, text in texts.items()}
        attributes: dict[str, str | int | float] = {name: value for name, value in fields.items() if value is not None}
        attributes |= {"cardprod.elapsed": step.elapsed, "cardprod.polls": step.polls}
        span.add_event("transition", attributes)
        span.set_attributes({name: attributes[name] for name in ("cardprod.status", "cardprod.polls")})
