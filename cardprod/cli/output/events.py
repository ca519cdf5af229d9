"""What the command reports, as values. The renderers decide how they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod.card_files import BadRow
    from cardprod.cli.watch.stats import OutcomeKind
    from cardprod.errors import CardprodError
    from cardprod.models import Card, ProductionStatus, Transition


@attrs.frozen
class Result:
    """A card's status or transition, or the error that ended its wait; without a card, the one that ended the command.

    `seconds` is how long after the command began; of a stored wait, `stored` has its batch, and a worker's its key;
    `is_followed` says that the wait goes on after it, though its status is final.
    """

    outcome: ProductionStatus | Transition | CardprodError
    card: Card | None = None
    seconds: float | None = None
    stored: Mapping[str, str] = {}
    is_followed: bool = False


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


Event: TypeAlias = Result | BadRowFound | WatchStarted | WatchProgress | WatchEnded | Report | Warned
