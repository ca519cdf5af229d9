"""What can be seen of the work: the log records of the logger `cardprod`, and what an `Observer` is told.

It decides nothing and imports no telemetry; `otel` turns what an observer is told into spans and metrics.

| level | record | `extra` |
| --- | --- | --- |
| DEBUG | a look was answered or failed | `card seconds status error` |
| DEBUG | a request failed and is tried again | `card attempt error retry_in` |
| INFO | a transition | `card previous_status status kiosk_id error_code elapsed polls source` |
| WARNING | a look failed and the wait goes on | `card error failures` |
| WARNING | the token could not be refreshed, and the old one is still good | `error` |
| WARNING | a time in an answer or an event was illegible and left out | |

`card` is shortened as everywhere; `error` is an error's class. Seconds are floats. No record holds a bearer token.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from cardprod.models import one_line

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from cardprod.errors import CardprodError
    from cardprod.models import Card, ProductionStatus, Transition

__all__ = [
    "LOGGER",
    "Observer",
    "WaitObserver",
    "log_failed_look",
    "log_look",
    "log_retry",
    "log_transition",
]

_SHOWN_STATUS: Final = 100

LOGGER: Final = logging.getLogger("cardprod")


class Observer(Protocol):
    """Is told what a client does, as it does it. It is called in the event loop, so it must be quick and not raise."""

    def request_began(self) -> None:
        """Take note that a request leaves. Each is followed by one `request_ended`."""
        ...

    def request_ended(self) -> None:
        """Take note that a request has its answer, or will not have one."""
        ...

    def rate_limited(self) -> None:
        """Take note of a 429."""
        ...

    def retried(self, error: BaseException | None) -> None:
        """Take note that a request failed and is tried again."""
        ...

    def looked(self, card: Card, seconds: float, outcome: ProductionStatus | CardprodError) -> None:
        """Take note of a whole look, retries and queueing included."""
        ...

    def wait_began(self, card: Card) -> WaitObserver:
        """Take note that a wait begins, and say who is told of it."""
        ...


class WaitObserver(Protocol):
    """Is told of one wait. A wait that is dropped half-way is not told of again."""

    def looking(self) -> AbstractContextManager[object]:
        """Give what to hold around each look."""
        ...

    def saw(self, step: Transition) -> None:
        """Take note of a transition. The last one is final."""
        ...

    def failed_look(self, error: CardprodError) -> None:
        """Take note of a look that failed while the wait goes on."""
        ...

    def ended(self, error: Exception | None) -> None:
        """Take note of the end: a final status, this error, or, with neither, that the wait was cancelled."""
        ...


def _shortened(text: str, card: Card) -> str:
    """Shorten the card's token in somebody else's words, where it may stand whole."""
    return text.replace(card.card_token, str(card).partition("/")[2])


def log_look(card: Card, seconds: float, outcome: ProductionStatus | CardprodError) -> None:
    """Log one whole look."""
    if LOGGER.isEnabledFor(logging.DEBUG):
        error = type(outcome).__name__ if isinstance(outcome, Exception) else None
        status = None if isinstance(outcome, Exception) else _shortened(str(outcome.status), card)
        shown = error if status is None else one_line(status, _SHOWN_STATUS)
        extra = {"card": str(card), "seconds": seconds, "status": status, "error": error}
        LOGGER.debug("look at card %s: %s in %.3f s", card, shown, seconds, extra=extra)


def log_retry(card: Card, attempt: int, error: BaseException | None, retry_in: float) -> None:
    """Log that a request failed and will be sent again."""
    name = type(error).__name__
    extra = {"card": str(card), "attempt": attempt, "error": name, "retry_in": retry_in}
    LOGGER.debug("card %s: attempt %d failed with %s, again in %.3f s", card, attempt, name, retry_in, extra=extra)


def log_transition(card: Card, step: Transition) -> None:
    """Log a transition."""
    if LOGGER.isEnabledFor(logging.INFO):
        current, previous = step.current, step.previous
        extra = {
            "card": str(card),
            "previous_status": None if previous is None else _shortened(str(previous.status), card),
            "status": _shortened(str(current.status), card),
            "kiosk_id": None if current.kiosk_id is None else _shortened(current.kiosk_id, card),
            "error_code": None if current.error_code is None else _shortened(str(current.error_code), card),
            "elapsed": step.elapsed,
            "polls": step.polls,
            "source": step.source,
        }
        LOGGER.info("card %s: %s after %.1f s", card, _shortened(str(step), card), step.elapsed, extra=extra)


def log_failed_look(card: Card, error: CardprodError, failures: int) -> None:
    """Log that a look failed and the wait goes on."""
    extra = {"card": str(card), "error": type(error).__name__, "failures": failures}
    # As text: whoever keeps the record would keep the error's traceback by it, and all that its frames hold.
    LOGGER.warning("a look failed and the wait goes on (%d in a row): %s", failures, str(error), extra=extra)
