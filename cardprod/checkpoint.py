"""`Checkpoint`: waits saved as values, with a JSON format, to continue later or in another process. No I/O.

A wait can last hours, and deploys and crashes happen meanwhile. Save it, and go on with it in another process:
nothing that was delivered is delivered again, and deadlines stay as they were:

```python
async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
    async with client.wait_until_all_final([(123456, "card-1"), (123456, "card-2")], timeout=3600) as steps:
        async for card, step in steps:
            print(card, step)
            break  # whatever ends your process
        saved = steps.checkpoint().to_json()  # the cards and what was seen of them, no other secret

    async with client.resume(cardprod.Checkpoint.from_json(saved)) as steps:  # elsewhere, later
        async for card, step in steps:
            print(card, step)
```

`Wait.checkpoint` does the same for one card, and `WaitTimeout.checkpoint.extended(600)` goes on after a timeout.
For job engines there is `Client.sweep`: see `help("cardprod.durable")`.

Version 1 of the format is a JSON object:

| field | what it is |
| --- | --- |
| `version` | 1 |
| `id` | any text; it stays the same in all later checkpoints of these waits |
| `sweep` | how many times `Client.sweep` processed it |
| `max_failures` | how many polls in a row may fail |
| `max_outage` | how many seconds ago the first of them must be, once there was an answer; 300 if it is missing |
| `schedule` | a `Backoff`'s `first`, `factor`, `ceiling` and `jitter`; null for another schedule |
| `pending` | an array for each pending card |

A card's array contains, in this order:

| | |
| --- | --- |
| `profile_id` `card_token` | the card |
| `started_at` `deadline_at` `next_poll_at` | when the wait began and ends, and its next poll is due |
| `failures` `unchanged` | polls that failed in a row; polls since the last transition |

and, if a poll or an event has shown the card, or `undelivered` is not empty: then `status` may be null,

| | |
| --- | --- |
| `polls` | polls answered |
| `began_at` `polled_at` `is_first` | when the status was first seen, when last, and whether the wait began with it |
| `status` `kiosk_id` `occurred_at` | the last status seen |

and, unless all of these are null,

| | |
| --- | --- |
| `error_code` `description` | more of the last status |
| `known_at` | the last `occurred_at` known of that status, if the last answer had none |
| `event_at` `event_sent_at` | when an event, not confirmed by a poll yet, reported it, and when that was sent |
| `undelivered` | transitions seen but not delivered |

and, unless these are null and false,

| | |
| --- | --- |
| `failing_since` | when the first of the polls that failed in a row failed |
| `is_after` | whether the last status was known before the wait, and the wait goes on from it |

A card whose last status is final has its end among `undelivered`, or `is_after`: one whose end was delivered is not in
a checkpoint.

Times are whole microseconds since 1970 in UTC. Every released version of the format stays readable.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime  # noqa: TC003 - cattrs reads the types of fields
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import attrs

from cardprod._polling.backoff import Backoff
from cardprod._protocol.codec import (
    Count,
    UnixTime,
    from_json,
    to_json,
    to_plain,
    to_unix_time,
    unix_time,
    write_as_rows,
)
from cardprod._protocol.validation import (
    check_aware,
    check_cards,
    check_count,
    check_seconds,
    check_timeout,
    check_type,
)
from cardprod.card import CardprodError, UsageError
from cardprod.models import Card, KnownCard, ProductionStatus, Transition, check_known

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from cardprod.models import CardLike

__all__ = ["After", "Checkpoint", "PendingCard", "known_status", "wall_clock"]

After: TypeAlias = (
    Mapping[Card, ProductionStatus | CardprodError]
    | Mapping[Card, ProductionStatus]
    | Mapping[tuple[int, str], ProductionStatus]
)
"""Statuses that are known, by card: also what `get_statuses` and `wait_until_all_final` give."""

_VERSION: Final = 1
_CHECKED_AT_ONCE: Final = 1000


def wall_clock() -> float:
    """Return the time in seconds since 1970, in UTC, as in checkpoints and events."""
    return time.time()


@attrs.frozen(kw_only=True)
class PendingCard:
    """One pending card of a checkpoint. Times are microseconds since 1970, in UTC.

    Args:
        card: The card.
        started_at: When the wait began.
        deadline_at: When it ends; None for no deadline.
        next_poll_at: When the next poll is due.
        polls: Answered polls so far.
        failures: Polls that failed since the last answer.
        unchanged: Polls since the last transition, failed and postponed ones included.
        last: The last status seen; None before the first. The fields below have no meaning without it.
        known_at: The last `occurred_at` known of that status, if `last` has none.
        began_at: When that status began, as far as it is known.
        polled_at: When the card was last seen in it.
        is_first: Whether that is the status the wait began with.
        event_at: When an event reported that status, if no poll has confirmed it; else None.
        event_sent_at: When that event was sent.
        undelivered: Transitions that were seen but not delivered.
        failing_since: When the first of the polls that failed in a row failed.
        is_after: Whether `last` was known before the wait: it is not reported, and if it is final it ends nothing.
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
    failing_since: UnixTime | None = None
    is_after: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether a final status has ended the wait, so that only transitions are left to deliver."""
        return self.last is not None and self.last.is_final and not self.is_after


@attrs.frozen(kw_only=True)
class Checkpoint:
    """Waits that outlive their process: the state of every pending card, as a value.

    ```python
    checkpoint = cardprod.Checkpoint.for_cards([(123456, "card-1"), (123456, "card-2")], timeout=3600)
    saved = checkpoint.to_json()  # store it anywhere: cards and what was seen of them, no other secret
    checkpoint = cardprod.Checkpoint.from_json(saved)
    ```

    Continue it in a process that waits, with `Client.resume`; or from a job engine, with `Client.sweep`. Its times are
    those of the machines that write and read it: their clocks should agree to about a second.

    Args:
        id: An identifier that stays the same in all later checkpoints of these waits.
        sweep: How many times `Client.sweep` processed it.
        max_failures: How many polls in a row may fail before a card's wait does.
        max_outage: Once the wait has had an answer, the first of these must also be so many seconds ago.
        schedule: When to poll, if that is a `Backoff`; None for another schedule, which is not saved.
        pending: The cards whose wait has not ended.

    Raises:
        UsageError: A card occurs twice, or its end was delivered, or `max_failures` or `max_outage` is invalid.
    """

    id: str
    sweep: Count = 0
    max_failures: Count = 5
    max_outage: float = 300.0
    schedule: Backoff | None = None
    pending: tuple[PendingCard, ...] = attrs.field(repr=lambda pending: f"<{len(pending)} cards>")

    def __attrs_post_init__(self) -> None:
        check_count("max_failures", self.max_failures)
        check_seconds("max_outage", self.max_outage)
        seen: set[Card] = set()
        for one in self.pending:
            if one.card in seen:
                raise UsageError("a checkpoint must hold each card once, and this one is in it twice", card=one.card)
            seen.add(one.card)
            if one.has_ended and not (one.undelivered and one.undelivered[-1].is_final):
                raise UsageError(
                    "a checkpoint must hold no card whose end was delivered: this one's last status is final, and is "
                    "neither in its undelivered transitions, as the last of them, nor known from before the wait, "
                    "is_after",
                    card=one.card,
                )

    @classmethod
    def for_cards(  # noqa: PLR0913 - one for each thing a user may set
        cls,
        cards: Iterable[CardLike],
        *,
        timeout: float | None = None,
        schedule: Backoff | None = None,
        max_failures: int = 5,
        max_outage: float = 300.0,
        after: After | None = None,
        now: datetime | None = None,
    ) -> Self:
        """Create new waits, in which every card is due at once.

        Args:
            cards: `Card`s or `(profile_id, card_token)` tuples. A duplicate is waited for once.
            timeout: Seconds to wait for each, from now; None for no limit.
            schedule: When to poll; None for the `AdaptiveSchedule` of the client that continues it. By that, while
                requests are left over, `Client.sweep` is due every second or two: with a `Backoff` it takes fewer jobs.
            max_failures: How many polls in a row may fail, each after its own attempts, before a card's wait does.
            max_outage: Once the wait has had an answer, the first of these must also be so many seconds ago.
            after: Statuses that are known already, by card, as for `Client.wait_until_all_final`; an invalid one is an
                error of the call.
            now: The time, aware; None for the machine's clock.

        Raises:
            UsageError: An argument is invalid.
        """
        check_cards(cards)
        check_type("cards", cards, Iterable, "Cards or (profile_id, card_token) tuples, in any iterable")
        timeout = check_timeout("timeout", timeout)
        check_type("schedule", schedule, Backoff, or_none=True)  # no other can be saved
        seconds = _seconds_of(now)
        at, deadline_at = unix_time(seconds), None if timeout is None else unix_time(seconds + timeout)
        known = check_after(after)

        def begin(card: Card) -> PendingCard:
            new = PendingCard(card=card, started_at=at, deadline_at=deadline_at, next_poll_at=at)
            last = known_status(card, known)
            return (
                new if last is None else attrs.evolve(new, last=last, began_at=at, polled_at=at, is_after=last.is_final)
            )

        pending = tuple(map(begin, dict.fromkeys(map(Card.of, cards))))
        return cls(
            id=str(uuid.uuid4()),
            schedule=schedule,
            max_failures=max_failures,
            max_outage=max_outage,
            pending=pending,
        )

    @property
    def is_done(self) -> bool:
        """Whether no card is pending, and nothing is left to deliver."""
        return not self.pending

    def extended(self, seconds: float, *, now: datetime | None = None) -> Self:
        """Return the same waits with a new deadline, and every card due at once: for instance after a `WaitTimeout`.

        Args:
            seconds: The new deadline, in seconds from now.
            now: The time, aware; None for the machine's clock.

        Raises:
            UsageError: `seconds` is invalid.
        """
        check_seconds("seconds", seconds)
        now_seconds = _seconds_of(now)
        at, deadline_at = unix_time(now_seconds), unix_time(now_seconds + seconds)
        pending = [attrs.evolve(one, deadline_at=deadline_at, next_poll_at=at, failures=0) for one in self.pending]
        return attrs.evolve(self, pending=tuple(pending))

    def to_json(self) -> str:
        """Return it as one line of JSON. It contains the cards' tokens, no other secret.

        Of a subclass, what that has besides is left out.
        """
        return to_json(Checkpoint, self, version=_VERSION)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` returned, in this version of the package or an older one.

        Args:
            text: The JSON.

        Raises:
            UsageError: It is something else; the message says what is wrong with it.
        """
        checkpoint = from_json(Checkpoint, text, version=_VERSION, writer="Checkpoint.to_json")
        return cast("Self", checkpoint) if cls is Checkpoint else cls(**attrs.asdict(checkpoint, recurse=False))


def check_after(after: After | None) -> After:
    """Check the statuses that are known, and of a great many the first ones: the others when their cards are read.

    So no event loop is held by a million of them. One that cannot be read is not one of these: it is an error of its
    card.

    Raises:
        UsageError: It is no mapping, or one of its keys is no card, or one of its values neither a status nor an error.
    """
    if after is None:
        return {}
    # A caller without a type checker may pass anything at all.
    check_type("after", after, Mapping, "a dict of ProductionStatus by card, as get_statuses gives")
    known = cast("Mapping[CardLike, object]", after)
    for card in islice(known, _CHECKED_AT_ONCE):
        Card.of(card)
        try:
            end = known[card]
        except Exception:  # noqa: BLE001, S112 - the mapping's own: `known_status` reports it
            continue
        _status_of(end)
    return after


def known_status(card: Card, after: After) -> ProductionStatus | None:
    """Return the status that is known of a card: as of all of them, or as it says itself.

    Raises:
        UsageError: What is known is neither a status nor an error.
    """
    # A tuple's entry is found by its card. Of a million cards a lookup in nothing is a third of a second.
    known = cast("Mapping[Card, object]", after)
    try:
        end = known[card] if known and card in known else None
    except Exception as exc:
        raise UsageError(f"after: what it has of this card cannot be read, check it: {exc!r}", card=card) from exc
    status = None if end is None else _status_of(end)
    return card.after if status is None and isinstance(card, KnownCard) else status


def _status_of(end: object) -> ProductionStatus | None:
    """Return the status of an earlier outcome: none of an error, but a timeout after an error status leaves that."""
    if isinstance(end, CardprodError):
        last: object = getattr(end, "last", None)  # a WaitTimeout has one
        return last if isinstance(last, ProductionStatus) and last.is_final else None
    check_known("after: a status", end)
    return cast("ProductionStatus", end)


def _seconds_of(now: datetime | None) -> float:
    check_aware("now", now)
    if now is None:
        return wall_clock()
    return now.timestamp()


# --- A card's array ---

_CARD: Final = ("profile_id", "card_token")
_WAIT: Final = ("started_at", "deadline_at", "next_poll_at", "failures", "unchanged")
_SEEN: Final = ("polls", "began_at", "polled_at", "is_first")
_STATUS: Final = ("status", "kiosk_id", "occurred_at", "error_code", "description")
_MORE: Final = ("known_at", "event_at", "event_sent_at", "undelivered", "failing_since", "is_after")
_LENGTHS: Final = (7, 14, 20, 22)
"""The card and the wait; what was seen; more of it, without and with the last two."""


def _to_row(one: PendingCard) -> Sequence[object]:
    # Each attribute by its name, and the tuple whole: for a million cards that is a second faster than
    # `operator.attrgetter`, and a quarter of one faster than to extend a tuple.
    card, last = one.card, one.last or _NOT_SEEN
    if last is _NOT_SEEN and not one.undelivered:
        return (
            card.profile_id,
            card.card_token,
            one.started_at,
            one.deadline_at,
            one.next_poll_at,
            one.failures,
            one.unchanged,
        )
    seen = (
        card.profile_id,
        card.card_token,
        one.started_at,
        one.deadline_at,
        one.next_poll_at,
        one.failures,
        one.unchanged,
        one.polls,
        one.began_at,
        one.polled_at,
        one.is_first,
        last.status or None,
        last.kiosk_id,
        None if last.occurred_at is None else to_unix_time(last.occurred_at),
    )
    has_rest = one.is_after or one.failing_since is not None
    more = (last.error_code, last.description, one.known_at, one.event_at, one.event_sent_at)
    if not (has_rest or one.undelivered or more != _NO_MORE):
        return seen
    rest = (one.failing_since, one.is_after) if has_rest else ()
    return (*seen, *more, to_plain(one.undelivered, tuple[Transition, ...]), *rest)


_NOT_SEEN: Final = ProductionStatus("")
_NO_MORE: Final = (None,) * 5


def _from_row(row: list[Any]) -> dict[str, object]:
    """Convert a card's array to the plain object of a `PendingCard`."""
    if len(row) not in _LENGTHS:
        raise ValueError(f"expected an array of {', '.join(map(str, _LENGTHS[:-1]))} or {_LENGTHS[-1]} values")
    fields: dict[str, object] = dict(zip(_WAIT, row[2:7], strict=True))
    fields["card"] = dict(zip(_CARD, row[:2], strict=True))
    if len(row) > _LENGTHS[0]:
        fields |= zip(_SEEN, row[7:11], strict=True)
        fields |= zip(_MORE, row[16:], strict=False)
        is_seen = row[11] is not None or not fields.get("undelivered")
        fields["last"] = dict(zip(_STATUS, row[11:16], strict=False)) if is_seen else None
    return fields


write_as_rows(PendingCard, _to_row, _from_row)
