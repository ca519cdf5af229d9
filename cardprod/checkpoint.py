"""`Checkpoint`: waits as plain values that travel as JSON, to be gone on with later or elsewhere. No I/O, no clock.

What the values mean while a wait runs is `watch`'s business; who goes on with them `sweep`'s and `bulk`'s.

Version 1 is an object of

| field | what it is |
| --- | --- |
| `version` | 1 |
| `id` | what the checkpoint is called, from the first to the last; any text |
| `sweep` | how often `Client.sweep` went over it |
| `max_failures` | how many looks in a row may fail |
| `schedule` | a `Backoff`'s `first`, `factor`, `ceiling` and `jitter`; null for another schedule |
| `cards` | one object for each card that is waited for |

and each card of

| field | what it is |
| --- | --- |
| `profile_id` `card_token` | the card |
| `started_at` `deadline_at` `next_poll_at` | times; the deadline can be null |
| `polls` `failures` `unchanged` | looks answered; looks failed in a row; looks since the last transition |
| `last` | the last status seen, or null: `status kiosk_id occurred_at error_code description` |
| `occurred_at` | the last time known for that status, or null |
| `began_at` `polled_at` `is_first` | when the status was first seen; when last; whether the wait began with it |
| `event_at` `event_sent_at` | when an event brought it that no poll has confirmed, and when that was sent; or null |
| `undelivered` | transitions seen and not delivered: `previous current elapsed polls source` |

Times are ISO 8601 in UTC, seconds are numbers. Versions that were ever written can be read for ever.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from cardprod._polling.backoff import Backoff
from cardprod._protocol.validation import check_count, check_seconds, is_finite_number
from cardprod.errors import UsageError
from cardprod.models import Card, ProductionStatus, Transition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from cardprod.models import CardLike

__all__ = [
    "Checkpoint",
    "PendingCard",
    "moment_after",
    "read_status",
    "read_transition",
    "wall_clock",
    "written_status",
    "written_transition",
]

_T = TypeVar("_T")

_VERSION: Final = 1
_MOST: Final = 2**53
"""Nothing is counted beyond that; an int of thousands of digits could not even be printed."""
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_DEFAULT_SCHEDULE: Final = Backoff()


def wall_clock() -> datetime:
    """Say what time it is, as checkpoints have it."""
    return datetime.now(UTC)


def moment_after(moment: datetime, seconds: float) -> datetime:
    """Say what time it is so many seconds later; what no calendar has is the end of time."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return _NEVER


@attrs.frozen(kw_only=True)
class PendingCard:
    """One card that is waited for, and all that is known of it.

    Args:
        card: The card.
        started_at: When the wait began.
        deadline_at: When it ends; None for no deadline.
        next_poll_at: When the next poll is due.
        polls: Answered looks so far.
        failures: Looks that failed since the last answer.
        unchanged: Looks since the last transition.
        last: The last status seen; None before the first answer.
        occurred_at: The last time known for that status.
        began_at: When the card came to that status, as far as it was seen.
        polled_at: When it was last seen there.
        is_first: Whether that is the status the wait began with.
        event_at: When an event brought that status, if no poll has confirmed it.
        event_sent_at: When that event was sent.
        undelivered: Transitions seen that nobody was told of.
    """

    card: Card
    started_at: datetime
    deadline_at: datetime | None = None
    next_poll_at: datetime
    polls: int = 0
    failures: int = 0
    unchanged: int = 0
    last: ProductionStatus | None = None
    occurred_at: datetime | None = None
    began_at: datetime
    polled_at: datetime
    is_first: bool = True
    event_at: datetime | None = None
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
    Its times are in UTC, by the clocks of the machines that write and read it: keep those right within a second or so.

    Args:
        id: What it is called, from the first to the last.
        sweep: How often `Client.sweep` went over it.
        max_failures: How many looks in a row may fail before a card's wait does.
        schedule: When to look, if it is a `Backoff`; another schedule is not in the checkpoint.
        pending: The cards that are waited for. Those that have ended are not in it any more.

    Raises:
        UsageError: One card comes twice, or a number cannot be right.
    """

    id: str
    sweep: int = 0
    max_failures: int = 5
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
        """Begin waits that nobody has looked at yet: every card is due at once.

        Args:
            cards: `Card`s or `(profile_id, card_token)` tuples. One that comes twice is waited for once.
            timeout: Seconds to wait for each, from now; None for as long as it takes.
            schedule: When to look; None for the `AdaptiveSchedule` of whichever client goes on with it.
            max_failures: How many looks in a row may fail, each after its own attempts, before a card's wait does.
            now: The time, aware; None for the clock's.

        Raises:
            UsageError: An argument that cannot be right.
        """
        _check_cards(cards)
        if timeout is not None:
            check_seconds("timeout", timeout)
        # A caller without a type checker may pass another.
        if not isinstance(schedule, Backoff | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"schedule must be a Backoff or None: others do not travel, unlike {schedule!r}")
        now = _checked(now)
        deadline_at = None if timeout is None else moment_after(now, timeout)
        pending = tuple(
            PendingCard(
                card=card,
                started_at=now,
                deadline_at=deadline_at,
                next_poll_at=now,
                began_at=now,
                polled_at=now,
            )
            for card in dict.fromkeys(map(Card.of, cards))
        )
        return cls(id=str(uuid.uuid4()), schedule=schedule, max_failures=max_failures, pending=pending)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to wait for, or to tell."""
        return not self.pending

    def extended(self, seconds: float, *, now: datetime | None = None) -> Self:
        """Give every card so many more seconds from now, for instance after a `WaitTimeout`, and look at once.

        Args:
            seconds: How long from now.
            now: The time, aware; None for the clock's.

        Returns:
            The same waits with a later deadline.

        Raises:
            UsageError: `seconds` cannot be right.
        """
        check_seconds("seconds", seconds)
        now = _checked(now)
        deadline_at = moment_after(now, seconds)
        pending = [attrs.evolve(one, deadline_at=deadline_at, next_poll_at=now, failures=0) for one in self.pending]
        return attrs.evolve(self, pending=tuple(pending))

    def to_json(self) -> str:
        """Write it as one line of JSON. The cards' tokens are in it, no other secret."""
        schedule = None if self.schedule is None else attrs.asdict(self.schedule)
        return json.dumps(
            {
                "version": _VERSION,
                "id": self.id,
                "sweep": self.sweep,
                "max_failures": self.max_failures,
                "schedule": schedule,
                "cards": [_written(one) for one in self.pending],
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote, in this version of the package or an older one.

        Args:
            text: What `to_json` gave.

        Raises:
            UsageError: It is not that; what is wrong with it.
        """
        try:
            saved: object = json.loads(text)
        except (ValueError, TypeError, RecursionError) as exc:
            raise UsageError("this is not what Checkpoint.to_json gave: it is not JSON") from exc
        fields = _Fields(saved, "the checkpoint")
        version = fields.get("version", _is_count)
        if version != _VERSION:
            raise UsageError(f"this checkpoint was written in version {version}; known are those up to {_VERSION}")
        try:
            return cls(
                id=fields.get("id", _is_text),
                sweep=fields.get("sweep", _is_count),
                max_failures=fields.get("max_failures", _is_count),
                schedule=fields.made("schedule", lambda value: Backoff(**value)),
                pending=tuple(
                    _read(_Fields(one, f"card number {number} of the checkpoint"))
                    for number, one in enumerate(fields.get("cards", _is_list), start=1)
                ),
            )
        except RecursionError as exc:
            raise UsageError("this is not what Checkpoint.to_json gave: it is nested too deeply") from exc


def _check_cards(cards: object) -> None:
    if isinstance(cards, str | bytes) or not isinstance(cards, Iterable):
        raise UsageError(f"cards must be Cards or (profile_id, card_token) tuples, not a {type(cards).__name__}")


def _checked(now: datetime | None) -> datetime:
    if now is None:
        return wall_clock()
    if getattr(now, "tzinfo", None) is None:
        raise UsageError(f"now must be an aware datetime, not {now!r}")
    return now.astimezone(UTC)


# --- Written ---


def _written(one: PendingCard) -> dict[str, object]:
    return {
        "profile_id": one.card.profile_id,
        "card_token": one.card.card_token,
        "started_at": _text(one.started_at),
        "deadline_at": _text(one.deadline_at),
        "next_poll_at": _text(one.next_poll_at),
        "polls": one.polls,
        "failures": one.failures,
        "unchanged": one.unchanged,
        "last": written_status(one.last),
        "occurred_at": _text(one.occurred_at),
        "began_at": _text(one.began_at),
        "polled_at": _text(one.polled_at),
        "is_first": one.is_first,
        "event_at": _text(one.event_at),
        "event_sent_at": _text(one.event_sent_at),
        "undelivered": [written_transition(step) for step in one.undelivered],
    }


def written_transition(step: Transition) -> dict[str, object]:
    """Make plain JSON of a transition."""
    return {
        "previous": written_status(step.previous),
        "current": written_status(step.current),
        "elapsed": round(step.elapsed, 6),
        "polls": step.polls,
        "source": step.source,
    }


def written_status(status: ProductionStatus | None) -> dict[str, object] | None:
    """Make plain JSON of a status."""
    if status is None:
        return None
    return {
        "status": status.status,
        "kiosk_id": status.kiosk_id,
        "occurred_at": _text(status.occurred_at),
        "error_code": status.error_code,
        "description": status.description,
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


# --- Read ---


class _Fields:
    """The fields of one JSON object, each asked for by what it must be."""

    def __init__(self, saved: object, where: str) -> None:
        if not isinstance(saved, dict):
            raise UsageError(f"this is not what Checkpoint.to_json gave: {where} is not an object")
        self._saved: Mapping[str, Any] = saved
        self._where = where

    def get(self, name: str, is_right: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - what JSON holds
        value = self._saved.get(name)
        if not is_right(value):
            raise self._wrong(name)
        return value

    def made(self, name: str, make: Callable[[Any], _T]) -> _T | None:
        """Make something of a field, unless it is null."""
        value = self._saved.get(name)
        if value is None:
            return None
        try:
            return make(value)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as exc:
            raise self._wrong(name) from exc

    def needed(self, name: str, make: Callable[[Any], _T]) -> _T:
        """Make something of a field that cannot be null."""
        made = self.made(name, make)
        if made is None:
            raise self._wrong(name)
        return made

    def _wrong(self, name: str) -> UsageError:
        what = "is missing" if name not in self._saved else "is not what it should be"
        return UsageError(f"this is not what Checkpoint.to_json gave: in {self._where}, {name} {what}")


def _read(fields: _Fields) -> PendingCard:
    card_token = fields.get("card_token", _is_text)
    card = fields.needed("profile_id", lambda profile_id: Card(profile_id, card_token))
    return PendingCard(
        card=card,
        started_at=fields.needed("started_at", parse_time),
        deadline_at=fields.made("deadline_at", parse_time),
        next_poll_at=fields.needed("next_poll_at", parse_time),
        polls=fields.get("polls", _is_count),
        failures=fields.get("failures", _is_count),
        unchanged=fields.get("unchanged", _is_count),
        last=fields.made("last", read_status),
        occurred_at=fields.made("occurred_at", parse_time),
        began_at=fields.needed("began_at", parse_time),
        polled_at=fields.needed("polled_at", parse_time),
        is_first=fields.get("is_first", _is_bool),
        event_at=fields.made("event_at", parse_time),
        event_sent_at=fields.made("event_sent_at", parse_time),
        undelivered=tuple(
            read_transition(step, f"undelivered, card {card},") for step in fields.get("undelivered", _is_list)
        ),
    )


def read_transition(saved: object, where: str = "a transition") -> Transition:
    """Make a transition of the JSON that `written_transition` gave.

    Raises:
        UsageError: It is not that.
    """
    fields = _Fields(saved, where)
    return Transition(
        previous=fields.made("previous", read_status),
        current=fields.needed("current", read_status),
        elapsed=fields.get("elapsed", is_finite_number),
        polls=fields.get("polls", _is_count),
        source=fields.get("source", lambda value: value in ("poll", "webhook")),
    )


def read_status(saved: object) -> ProductionStatus:
    """Make a status of the JSON that `written_status` gave.

    Raises:
        UsageError: It is not that.
    """
    fields = _Fields(saved, "a status")
    return ProductionStatus(
        fields.get("status", _is_text),
        kiosk_id=fields.get("kiosk_id", _is_text_or_none),
        occurred_at=fields.made("occurred_at", parse_time),
        error_code=fields.get("error_code", _is_text_or_none),
        description=fields.get("description", _is_text_or_none),
    )


def parse_time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs its offset")
    return moment.astimezone(UTC)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST
