"""What the command reports, as values. The renderers decide how they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from cardprod.errors import CardprodError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod.card_files import BadRow
    from cardprod.cli.watch.stats import OutcomeKind
    from cardprod.models import Card, ProductionStatus, Transition

__all__ = [
    "BadRowFound",
    "Event",
    "Failed",
    "Report",
    "StatusReported",
    "TransitionReported",
    "Warned",
    "WatchEnded",
    "WatchProgress",
    "WatchStarted",
    "report_of",
    "step_of",
]


@attrs.frozen
class StatusReported:
    """What one request, or the result of a batch, says of a card."""

    card: Card
    status: ProductionStatus


@attrs.frozen
class TransitionReported:
    """A transition, so many seconds after the command began. A worker's also has a key and a batch."""

    card: Card
    transition: Transition
    seconds: float
    of_worker: Mapping[str, str] = {}


@attrs.frozen
class Failed:
    """The error that one of many cards ended with; or, without a card, the one that ended the command."""

    error: CardprodError
    card: Card | None = None
    seconds: float | None = None
    of_worker: Mapping[str, str] = {}


@attrs.frozen
class BadRowFound:
    """A row of a list that is no card."""

    list_name: str
    row: BadRow


@attrs.frozen
class WatchStarted:
    """A watch starts, with what is known of its list. It is resumed if an earlier run is continued."""

    name: str
    cards: int
    ended: int
    bad_rows: int
    per_minute: int
    checkpoint: str | None
    is_resumed: bool


@attrs.frozen(kw_only=True)
class WatchProgress:
    """How far a watch is. `produced`, `failed`, `unfinished` and `errors` add up to `cards`.

    `unseen` and `statuses` count what is pending: cards that were never polled, and the others by their last status.
    `seconds_left` is an estimate, None if there is none; `failed_polls` are those of the last minute, which are
    repeated; `paused_for` is for how many seconds more the API asked to send nothing.
    """

    cards: int
    produced: int
    failed: int
    unfinished: int
    errors: int
    bad_rows: int
    requests: int
    seconds: float
    pending: int
    unseen: int
    statuses: Mapping[str, int]
    ends: tuple[tuple[OutcomeKind, int], ...]
    requests_in_last_minute: int
    seconds_left: float | None
    paused_for: float
    failed_polls: int
    why_failed: str
    saved_ago: float | None


@attrs.frozen
class WatchEnded:
    """A watch ended: by itself, or by a signal's name or the class of an error."""

    progress: WatchProgress
    stopped_by: str | None
    checkpoint: str | None


@attrs.frozen
class Report:
    """Anything else: an object of a type for programs, if it is for them, and lines for people."""

    text: str
    type: str | None = None
    fields: Mapping[str, Any] = {}


@attrs.frozen
class Warned:
    """Something for people, beside the results."""

    text: str


def report_of(card: Card, outcome: ProductionStatus | CardprodError) -> StatusReported | Failed:
    """Return the event for what one card's request or wait came to."""
    return Failed(outcome, card) if isinstance(outcome, CardprodError) else StatusReported(card, outcome)


def step_of(
    card: Card, step: Transition | CardprodError, seconds: float, of_worker: Mapping[str, str]
) -> TransitionReported | Failed:
    """Return the event for a transition of a card, or for the error that ended its wait."""
    if isinstance(step, CardprodError):
        return Failed(step, card, seconds, of_worker)
    return TransitionReported(card, step, seconds, of_worker)


Event: TypeAlias = (
    StatusReported
    | TransitionReported
    | Failed
    | BadRowFound
    | WatchStarted
    | WatchProgress
    | WatchEnded
    | Report
    | Warned
)
