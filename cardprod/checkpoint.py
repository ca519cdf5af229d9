"""`Checkpoint`: waits as plain values that travel as JSON, to go on with later or elsewhere. No I/O.

Version 1 is a JSON object:

| field | what it is |
| --- | --- |
| `version` | 1 |
| `id` | the checkpoint's name, from the first to the last; any text |
| `sweep` | how often `Client.sweep` went over it |
| `max_failures` | how many polls in a row may fail |
| `schedule` | a `Backoff`'s `first`, `factor`, `ceiling` and `jitter`; null for another schedule |
| `pending` | an array for each card that is waited for |

A card's array holds, in this order:

| | |
| --- | --- |
| `profile_id` `card_token` | the card |
| `started_at` `deadline_at` `next_poll_at` | when the wait began and ends, and its next poll is due |
| `failures` `unchanged` | polls that failed in a row; polls since the last transition |

and, if a poll or an event has shown the card,

| | |
| --- | --- |
| `polls` | polls answered |
| `began_at` `polled_at` `is_first` | when the status was first seen, when last, and whether the wait began with it |
| `status` `kiosk_id` `occurred_at` | the last status seen |

and, unless all of these are null,

| | |
| --- | --- |
| `error_code` `description` | more of the last status |
| `known_at` | the last `occurred_at` known for it, if it has none itself |
| `event_at` `event_sent_at` | when an event brought it that no poll has confirmed, and when that was sent |
| `undelivered` | transitions seen and not delivered |

Times are whole microseconds since 1970 in UTC. Every version that was ever released can be read for ever.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from datetime import datetime  # noqa: TC003 - cattrs reads the types of fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import attrs

from cardprod._polling.backoff import Backoff
from cardprod._protocol.codec import Count, UnixTime, from_json, to_json, to_plain, unix_time, write_as_rows
from cardprod._protocol.validation import check_aware, check_count, check_seconds, check_type
from cardprod.card import UsageError
from cardprod.models import Card, ProductionStatus, Transition

if TYPE_CHECKING:
    from typing import Self

    from cardprod.models import CardLike

__all__ = ["Checkpoint", "PendingCard", "wall_clock"]

_VERSION: Final = 1
_DEFAULT_SCHEDULE: Final = Backoff()


def wall_clock() -> float:
    """Return the time as checkpoints and events have it: in seconds since 1970, in UTC."""
    return time.time()


@attrs.frozen(kw_only=True)
class PendingCard:
    """One card that is waited for, and all that is known of it. Times are in microseconds since 1970, in UTC.

    Args:
        card: The card.
        started_at: When the wait began.
        deadline_at: When it ends; None for no deadline.
        next_poll_at: When the next poll is due.
        polls: Answered polls so far.
        failures: Polls that failed since the last answer.
        unchanged: Polls since the last transition.
        last: The last status seen; None before the first answer. Without it nothing that follows means anything.
        known_at: The last `occurred_at` known for that status, if it has none itself.
        began_at: When the card came to that status, as far as it was seen.
        polled_at: When it was last seen there.
        is_first: Whether that is the status the wait began with.
        event_at: When an event brought that status, if no poll has confirmed it.
        event_sent_at: When that event was sent.
        undelivered: Transitions that were seen and not delivered.
    """

    card: Card
    started_at: UnixTime
    deadline_at: UnixTime | None = None
    next_poll_at: UnixTime
    failures: Count = 0
    unchanged: Count = 0
    polls: Count = 0
    last: ProductionStatus | None = None
    known_at: datetime | None = None
    began_at: UnixTime | None = None
    polled_at: UnixTime | None = None
    is_first: bool = True
    event_at: UnixTime | None = None
    event_sent_at: datetime | None = None
    undelivered: tuple[Transition, ...] = ()


@attrs.frozen(kw_only=True)
class Checkpoint:
    """Waits that outlive their process: what is known of every card that is waited for, as plain JSON.

    ```python
    checkpoint = cardprod.Checkpoint.for_cards([(123456, "card-1"), (123456, "card-2")], timeout=3600)
    saved = checkpoint.to_json()  # keep it anywhere: cards and what was seen of them, no other secret
    checkpoint = cardprod.Checkpoint.from_json(saved)
    ```

    Go on with it in a process that waits, by `Client.resume`; or step by step from a job engine, by `Client.sweep`.
    Its times are by the clocks of the machines that write and read it: keep those right within a second or so.

    Args:
        id: Its name, from the first to the last.
        sweep: How often `Client.sweep` went over it.
        max_failures: How many polls in a row may fail before a card's wait does.
        schedule: When to poll, if it is a `Backoff`; another schedule is not in the checkpoint.
        pending: The cards that are waited for. Those that have ended are not in it any more.

    Raises:
        UsageError: One card comes twice, or a number cannot be right.
    """

    id: str
    sweep: Count = 0
    max_failures: Count = 5
    schedule: Backoff | None = None
    pending: tuple[PendingCard, ...] = attrs.field(repr=lambda pending: f"<{len(pending)} cards>")

    def __attrs_post_init__(self) -> None:
        check_count("max_failures", self.max_failures)
        seen: set[Card] = set()
        for one in self.pending:
            if one.card in seen:
                raise UsageError("a checkpoint holds each card once", card=one.card)
            seen.add(one.card)

    @classmethod
    def for_cards(
        cls,
        cards: Iterable[CardLike],
        *,
        timeout: float | None = None,
        schedule: Backoff | None = _DEFAULT_SCHEDULE,
        max_failures: int = 5,
        now: datetime | None = None,
    ) -> Self:
        """Begin waits for cards that were not polled yet: every card is due at once.

        Args:
            cards: `Card`s or `(profile_id, card_token)` tuples. One that comes twice is waited for once.
            timeout: Seconds to wait for each, from now; None for as long as it takes.
            schedule: When to poll; None for the `AdaptiveSchedule` of whichever client goes on with it.
            max_failures: How many polls in a row may fail, each after its own attempts, before a card's wait does.
            now: The time, aware; None for the clock's.

        Raises:
            UsageError: An argument that cannot be right.
        """
        _check_cards(cards)
        if timeout is not None:
            check_seconds("timeout", timeout)
        check_type("schedule", schedule, Backoff, or_none=True)  # no other can be saved
        seconds = _seconds_of(now)
        at, deadline_at = unix_time(seconds), None if timeout is None else unix_time(seconds + timeout)
        pending = tuple(
            PendingCard(card=card, started_at=at, deadline_at=deadline_at, next_poll_at=at)
            for card in dict.fromkeys(map(Card.of, cards))
        )
        return cls(id=str(uuid.uuid4()), schedule=schedule, max_failures=max_failures, pending=pending)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to wait for, or to deliver."""
        return not self.pending

    def extended(self, seconds: float, *, now: datetime | None = None) -> Self:
        """Give every card so many more seconds from now, for instance after a `WaitTimeout`, and poll at once.

        Args:
            seconds: How long from now.
            now: The time, aware; None for the clock's.

        Returns:
            The same waits with a later deadline.

        Raises:
            UsageError: `seconds` cannot be right.
        """
        check_seconds("seconds", seconds)
        now_seconds = _seconds_of(now)
        at, deadline_at = unix_time(now_seconds), unix_time(now_seconds + seconds)
        pending = [attrs.evolve(one, deadline_at=deadline_at, next_poll_at=at, failures=0) for one in self.pending]
        return attrs.evolve(self, pending=tuple(pending))

    def to_json(self) -> str:
        """Write it as one line of JSON. The cards' tokens are in it, no other secret."""
        return to_json(self, version=_VERSION)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote, in this version of the package or an older one.

        Args:
            text: What `to_json` gave.

        Raises:
            UsageError: It is not that; what is wrong with it.
        """
        return from_json(cls, text, version=_VERSION, writer="Checkpoint.to_json")


def _check_cards(cards: object) -> None:
    if isinstance(cards, str | bytes) or not isinstance(cards, Iterable):
        raise UsageError(f"cards must be Cards or (profile_id, card_token) tuples, not a {type(cards).__name__}")


def _seconds_of(now: datetime | None) -> float:
    check_aware("now", now)
    if now is None:
        return wall_clock()
    return now.timestamp()


# --- A card's array ---

_WAIT: Final = (
    "card.profile_id",
    "card.card_token",
    "started_at",
    "deadline_at",
    "next_poll_at",
    "failures",
    "unchanged",
)
_SEEN: Final = ("polls", "began_at", "polled_at", "is_first", "last.status", "last.kiosk_id", "last.occurred_at")
_MORE: Final = ("last.error_code", "last.description", "known_at", "event_at", "event_sent_at", "undelivered")
_NOTHING: Final = (None, None, None, None)
_LENGTHS: Final = (len(_WAIT), len(_WAIT + _SEEN), len(_WAIT + _SEEN + _MORE))

_wait_of: Final = attrgetter(*_WAIT)
_seen_of: Final = attrgetter(*_WAIT, *_SEEN)
_more_of: Final = attrgetter(*_MORE[:-1])


def _to_row(one: PendingCard) -> tuple[Any, ...]:
    last = one.last
    if last is None:
        return _wait_of(one)
    if not one.undelivered and (last.error_code, last.description, one.known_at, one.event_at) == _NOTHING:
        return _seen_of(one)
    return (*_seen_of(one), *_more_of(one), to_plain(one.undelivered))


def _from_row(row: list[Any]) -> dict[str, object]:
    """Make the object that an array stands for, and the objects in it."""
    if len(row) not in _LENGTHS:
        raise ValueError(f"expected an array of {_LENGTHS[0]}, {_LENGTHS[1]} or {_LENGTHS[2]} values")
    fields: dict[str, Any] = {}
    for name, value in zip(_WAIT + _SEEN + _MORE, row, strict=False):
        outer, _, inner = name.partition(".")
        if inner:
            fields.setdefault(outer, {})[inner] = value
        else:
            fields[name] = value
    return fields


write_as_rows(PendingCard, _to_row, _from_row)
