"""Observability of a client: event values, one observer that is called with them, and the logger `cardprod`.

`Telemetry.emit` logs every event, and calls the observer with it. An observer is any callable that takes an event;
`cardprod.otel.instrument` sets one that makes spans and metrics.

```python
from cardprod.telemetry import Event, TransitionSeen

def on_event(event: Event) -> None:
    if isinstance(event, TransitionSeen):
        print(event.card, event.transition)

client.on_event = on_event
```

It is called in the event loop, so it must be fast. An exception that it raises is logged once, and otherwise ignored.

| event | logged | fields of the record, each with the prefix `cardprod_` |
| --- | --- | --- |
| `RequestStarted` `RequestEnded` `RequestRefused` | | |
| `RequestRetried` | DEBUG | `card attempt error waited` |
| `PollStarted` | | |
| `PollEnded` | DEBUG | `card seconds status error` |
| `WaitStarted` | | |
| `TransitionSeen` | INFO | `card previous_status status kiosk_id error_code elapsed polls source` |
| `PollFailed` | WARNING | `card error failures` |
| `WaitEnded` | | |

The logger also warns when a token could not be refreshed while the old one is still valid, with `cardprod_error`, and
when a malformed time in an answer or an event was left out.

`card` is shortened; `error` is the name of an error's class; seconds are floats. No record contains a bearer token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from cardprod.models import Card, ProductionStatus, Transition, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod.errors import CardprodError

__all__ = [
    "LOGGER",
    "Event",
    "Observer",
    "PollEnded",
    "PollFailed",
    "PollStarted",
    "RequestEnded",
    "RequestRefused",
    "RequestRetried",
    "RequestStarted",
    "Telemetry",
    "TransitionSeen",
    "WaitEnded",
    "WaitStarted",
    "field_of",
    "log",
    "record_fields",
    "warn",
]

_SHOWN_STATUS: Final = 100

LOGGER: Final = logging.getLogger("cardprod")


@attrs.frozen
class RequestStarted:
    """A request is sent. Each is followed by one `RequestEnded`."""

    card: Card


@attrs.frozen
class RequestEnded:
    """A request was answered, failed, or was cancelled."""

    card: Card


@attrs.frozen
class RequestRefused:
    """A request was answered with 429.

    `retry_after` is the answer's `Retry-After` in seconds, and `limited_by` its `X-Rate-Limited-By`; each can be None.
    """

    card: Card
    retry_after: float | None
    limited_by: str | None = None


@attrs.frozen
class RequestRetried:
    """A request that failed, `waited` seconds ago, is sent again now. `attempt` is the failed one, from 1."""

    card: Card
    attempt: int
    error: CardprodError
    waited: float


@attrs.frozen
class PollStarted:
    """A poll starts, with its retries. `wait` identifies its wait; None for one without a wait.

    It has its first permit by then; only `get_status`, and the first and the last poll of a wait for one card, queue
    for it still.
    """

    card: Card
    wait: int | None


@attrs.frozen
class PollEnded:
    """A poll ended: answered, failed, or, with an `outcome` of None, cancelled, by an event or its wait's deadline too.

    In the task of its `PollStarted`, each of which is followed by one.
    """

    card: Card
    wait: int | None
    seconds: float
    outcome: ProductionStatus | CardprodError | None


@attrs.frozen
class WaitStarted:
    """A wait for a card starts, on its own, in a batch, or in a sweep. `wait` identifies it until its `WaitEnded`."""

    card: Card
    wait: int


@attrs.frozen
class TransitionSeen:
    """A wait saw a transition, by a poll or an event."""

    card: Card
    wait: int
    transition: Transition


@attrs.frozen
class PollFailed:
    """A poll failed, after its own attempts, and the wait goes on. `failures` counts those in a row.

    The failure that ends a wait is the `error` of its `WaitEnded`, or, of a `WaitTimeout`, the error's cause.
    """

    card: Card
    wait: int
    error: CardprodError
    failures: int


@attrs.frozen
class WaitEnded:
    """A wait ended with this error; or, with None, in a final status, or because it was closed or goes on elsewhere."""

    card: Card
    wait: int
    error: Exception | None


Event: TypeAlias = (
    RequestStarted
    | RequestEnded
    | RequestRefused
    | RequestRetried
    | PollStarted
    | PollEnded
    | WaitStarted
    | TransitionSeen
    | PollFailed
    | WaitEnded
)
"""All events. Later versions may have more."""

Observer: TypeAlias = Callable[[Event], object]
"""Is called with each event as it happens."""


class Telemetry:
    """Logs every event, and calls the observer with it."""

    __slots__ = ("_has_complained", "_observer", "is_observed")

    def __init__(self) -> None:
        self._observer: Observer | None = None
        self.is_observed: bool = False
        """Whether there is an observer."""
        self._has_complained = False

    @property
    def observer(self) -> Observer | None:
        """What is called with each event; None for nothing."""
        return self._observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._observer = observer
        self.is_observed = observer is not None
        self._has_complained = False

    @property
    def wants_everything(self) -> bool:
        """Whether anything uses the frequent events, which are logged at DEBUG."""
        return self._observer is not None or LOGGER.isEnabledFor(logging.DEBUG)

    @property
    def wants_transitions(self) -> bool:
        """Whether anything uses transitions, which are logged at INFO."""
        return self._observer is not None or LOGGER.isEnabledFor(logging.INFO)

    def emit(self, event: Event) -> None:
        """Log an event and call the observer. An exception that either raises is logged once, and ignored."""
        self._try(_log, event)
        if self._observer is not None:
            self._try(self._observer, event)

    def _try(self, take: Observer, event: Event) -> None:
        try:
            take(event)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - also a CancelledError, which a cancelled future's result() raises
            if self._has_complained:
                return
            self._has_complained = True
            message = "an observer or a log handler raised %s; this is logged once"
            log(logging.ERROR, message, type(exc).__name__, exc_info=exc)  # by the log handler that raised before, too


def _log(event: Event) -> None:
    match event:
        case TransitionSeen(card, _, transition):
            if LOGGER.isEnabledFor(logging.INFO):
                _log_transition(card, transition)
        case PollFailed(card, _, error, failures):
            # As text, because handlers may keep records, and with the error its traceback and all that its frames hold.
            extra = record_fields(card=str(card), error=type(error).__name__, failures=failures)
            # A refused token counts for none of the waits that a store keeps: they go on with another.
            count = f"{failures} in a row" if failures else "not counted"
            LOGGER.warning("a poll failed and the wait goes on (%s): %s", count, str(error), extra=extra)
        case PollEnded(card, _, seconds, outcome) if outcome is not None and LOGGER.isEnabledFor(logging.DEBUG):
            name = type(outcome).__name__ if isinstance(outcome, Exception) else None
            status = None if isinstance(outcome, Exception) else field_of(outcome.status, card)
            shown = name if status is None else status
            extra = record_fields(card=str(card), seconds=seconds, status=status, error=name)
            LOGGER.debug("poll of card %s: %s in %.3f s", card, shown, seconds, extra=extra)
        case RequestRetried(card, attempt, error, waited) if LOGGER.isEnabledFor(logging.DEBUG):
            name = type(error).__name__
            extra = record_fields(card=str(card), attempt=attempt, error=name, waited=waited)
            message = "card %s: attempt %d failed with %s, sent again after %.3f s"
            LOGGER.debug(message, card, attempt, name, waited, extra=extra)
        case _:
            pass


def _log_transition(card: Card, transition: Transition) -> None:
    current, previous = transition.current, transition.previous
    extra = record_fields(
        card=str(card),
        previous_status=None if previous is None else field_of(previous.status, card),
        status=field_of(current.status, card),
        kiosk_id=field_of(current.kiosk_id, card),
        error_code=field_of(current.error_code, card),
        elapsed=transition.elapsed,
        polls=transition.polls,
        source=transition.source,
    )
    words = _shortened(str(transition), card)
    LOGGER.info("card %s: %s after %.1f s", card, words, transition.elapsed, extra=extra)


def warn(message: str, *args: object, **fields: object) -> None:
    """Log a warning that is about no event, as `log` does, with fields without their prefix."""
    log(logging.WARNING, message, *args, extra=record_fields(**fields), stacklevel=3)


def log(
    level: int,
    message: str,
    *args: object,
    exc_info: BaseException | None = None,
    extra: Mapping[str, object] | None = None,
    stacklevel: int = 2,
) -> None:
    """Log what is about no event. What a handler raises is ignored, whatever it is: else it would end what logs."""
    try:
        LOGGER.log(level, message, *args, exc_info=exc_info, extra=extra, stacklevel=stacklevel)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001, S110 - also a CancelledError, which a cancelled future's result() raises
        pass


def record_fields(**fields: object) -> dict[str, object]:
    """Prefix the fields of a record: `logging` raises for names that it or an application's record factory has set."""
    return {f"cardprod_{name}": value for name, value in fields.items()}


def field_of(text: str | None, card: Card) -> str | None:
    """Make a text from a server fit for a field of a record or a span: one line of at most 100 characters.

    Args:
        text: The text; None for none.
        card: The card, whose token is shortened in it.
    """
    return None if text is None else one_line(_shortened(str(text), card), _SHOWN_STATUS)


def _shortened(text: str, card: Card) -> str:
    """Shorten the card's token in a text from a server."""
    return text.replace(card.card_token, str(card).partition("/")[2])
