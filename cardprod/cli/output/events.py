"""What the command reports, as values. How they look is decided by the renderers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod.card_files import BadRow
    from cardprod.cli.watch.stats import OutcomeKind
    from cardprod.durable import BatchStatus
    from cardprod.errors import CardprodError
    from cardprod.models import Card, ProductionStatus, Transition
    from cardprod.simulator import LoggedRequest

__all__ = [
    "BadRowFound",
    "BatchReported",
    "BatchSubmitted",
    "CardFailed",
    "CommandFailed",
    "DemoEnded",
    "Event",
    "Notice",
    "RequestLogged",
    "SimulatorStarted",
    "StatusReported",
    "TransitionReported",
    "Warned",
    "WatchEnded",
    "WatchProgress",
    "WatchStarted",
]


@attrs.frozen
class StatusReported:
    """What one request, or a batch's result, says of a card."""

    card: Card
    status: ProductionStatus


@attrs.frozen
class TransitionReported:
    """A transition, so many seconds after the command began. A worker's has a key and a batch."""

    card: Card
    transition: Transition
    seconds: float
    key: str | None = None
    batch_id: str | None = None


@attrs.frozen
class CardFailed:
    """The error that one of many cards ended with. A worker's has a key and a batch."""

    card: Card
    error: CardprodError
    seconds: float | None = None
    key: str | None = None
    batch_id: str | None = None


@attrs.frozen
class CommandFailed:
    """The error that ended the command."""

    error: CardprodError


@attrs.frozen
class BadRowFound:
    """A row of a list that is no card."""

    list_name: str
    row: BadRow


@attrs.frozen(kw_only=True)
class WatchStarted:
    """A watch starts.

    Args:
        name: The list's name.
        cards: Its cards, as far as they are known.
        ended: How many of them ended in earlier runs.
        bad_rows: How many of its rows are no cards, as far as that is known.
        per_minute: The most requests in a minute.
        checkpoint: The checkpoint file's name; None without one.
        is_resumed: Whether an earlier run is continued.
    """

    name: str
    cards: int
    ended: int
    bad_rows: int
    per_minute: int
    checkpoint: str | None
    is_resumed: bool


@attrs.frozen(kw_only=True)
class WatchProgress:
    """How far a watch is.

    Args:
        cards: Cards, each once.
        produced: How many are PRODUCED.
        failed: How many ended in PRODUCTION_ERROR or REQUEST_ERROR.
        unfinished: How many are not final: they are waited for, or their time ran out.
        errors: How many have no usable answer.
        bad_rows: Rows of the list that are no cards.
        requests: Requests sent by this run, repeated ones included.
        seconds: How long this run takes so far.
        pending: How many are waited for.
        unseen: How many of those were never polled.
        statuses: How many of the others were last seen in which status, the most frequent first.
        ends: How many ended how, the most frequent first.
        requests_in_last_minute: Requests sent in the last minute.
        seconds_left: Seconds until all have ended, as estimated; None if unknown.
        paused_for: Seconds for which nothing is sent, because the API asked for that.
        failed_polls: Polls that failed in the last minute and will be repeated.
        why_failed: Why the last of those failed.
        saved_ago: Seconds since the checkpoint was written; None without one.
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


@attrs.frozen(kw_only=True)
class DemoEnded:
    """The demo is over."""

    cards: int
    produced: int
    failed: int
    unfinished: int
    requests: int
    seconds: float


@attrs.frozen
class SimulatorStarted:
    """The simulator listens."""

    base_url: str
    plan: str
    public_key_url: str | None


@attrs.frozen
class RequestLogged:
    """The simulator answered a request."""

    request: LoggedRequest


@attrs.frozen
class BatchSubmitted:
    """Cards were submitted."""

    batch_id: str
    cards: int


@attrs.frozen
class BatchReported:
    """How far a batch is."""

    status: BatchStatus


@attrs.frozen
class Notice:
    """Something for people, among the results."""

    text: str


@attrs.frozen
class Warned:
    """Something for people, beside the results."""

    text: str


Event: TypeAlias = (
    StatusReported
    | TransitionReported
    | CardFailed
    | CommandFailed
    | BadRowFound
    | WatchStarted
    | WatchProgress
    | WatchEnded
    | DemoEnded
    | SimulatorStarted
    | RequestLogged
    | BatchSubmitted
    | BatchReported
    | Notice
    | Warned
)
