"""What the page is sent: the whole state first, then what has changed, as literal JSON. No HTTP.

Nothing is queued for a reader. The feed only remembers when each card last changed, counted in changes; a reader that
knows everything up to some count gets the present state of what changed after it. So one that is slow, or was away,
skips what has passed, and costs no memory meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from cardprod.models import Card
from cardprod.simulator.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from cardprod.simulator.kiosks import CardState
    from cardprod.simulator.log import Log
    from cardprod.simulator.server import Simulator
    from cardprod.simulator.simulation import Change

__all__ = ["Feed", "Position", "card_as_json"]

_LOG_LENGTH: Final = 200
_AT_ONCE: Final = 250
"""How many cards one message has at most, so that none of them takes long to write."""

_IN_PAGE: Final = 1_000
_OTHERS: Final[tuple[Change, ...]] = ("kiosks", "faults", "subscriptions")
_OK: Final = 200
_Json: TypeAlias = dict[str, Any]


@attrs.frozen
class Position:
    """Up to where a reader knows everything: counts of changes, requests and deliveries."""

    changes: int = 0
    requests: int = 0
    deliveries: int = 0


class Feed:
    """Observes a simulator, from `open` to `close`, for the pages that are open."""

    def __init__(self, kiosk: Simulator) -> None:
        self._kiosk = kiosk
        self._epoch = secrets.token_hex(4)
        self._count = 0
        self._changed: OrderedDict[Change, int] = OrderedDict()  # the one that changed last is last
        self._readers: set[asyncio.Event] = set()

    def open(self) -> None:
        """Begin to observe the simulator."""
        for change in (*_OTHERS, *self._kiosk.cards):
            self._record(change)
        self._kiosk.observe(self._record)

    def close(self) -> None:
        """Observe no more, and wake every reader."""
        self._kiosk.stop_observing(self._record)
        self._wake()

    @property
    def readers(self) -> int:
        """How many are reading."""
        return len(self._readers)

    @contextmanager
    def reader(self) -> Generator[asyncio.Event]:
        """Have an event that is set at each change."""
        changed = asyncio.Event()
        self._readers.add(changed)
        try:
            yield changed
        finally:
            self._readers.discard(changed)

    def id_of(self, position: Position) -> str:
        """Write a position so that it is no other feed's."""
        return f"{self._epoch}.{position.changes}.{position.requests}.{position.deliveries}"

    def position_of(self, event_id: str) -> Position:
        """Read a position; the beginning, if it is another feed's."""
        epoch, *counts = event_id[:100].split(".")
        is_valid = epoch == self._epoch and len(counts) == len(attrs.fields(Position))
        return Position(*map(int, counts)) if is_valid and all(map(str.isdecimal, counts)) else Position()

    def state(self) -> tuple[str, _Json]:
        """Return the newest cards and all else, and the id to go on from: none if there are more cards."""
        cards = self._kiosk.cards
        state = self._describe((*_OTHERS, *cards[-_IN_PAGE:]), Position())
        return "" if len(cards) > _IN_PAGE else self.id_of(self._position), state

    def changes_after(self, position: Position) -> Iterator[tuple[Position, _Json]]:
        """List what has changed after a position, in parts if it is much, and where the reader is after each."""
        upto = self._position
        if upto == position:
            return
        changed: list[Change] = []
        if position.changes:
            latest = takewhile(lambda item: item[1] > position.changes, reversed(self._changed.items()))
            changed.extend(reversed([change for change, _ in latest]))
        else:
            changed += _OTHERS
            changed += self._kiosk.cards
        while len(changed) > _AT_ONCE:
            part, changed = changed[:_AT_ONCE], changed[_AT_ONCE:]
            yield position, self._describe(part)
        yield upto, self._describe(changed, position)

    def _describe(self, changes: Iterable[Change], logs_after: Position | None = None) -> _Json:
        cards: list[_Json] = []
        described: _Json = {"cards": cards}
        for change in changes:
            if isinstance(change, Card):
                cards.append(card_as_json(self._kiosk.state_of(change)))
            elif change == "kiosks":
                described[change] = [{"id": each.kiosk_id, "is_online": each.is_online} for each in self._kiosk.kiosks]
            elif change == "faults":
                faults = self._kiosk.faults
                runs = [{"what": _in_words(fault), "times": times} for fault, times in faults.next]
                described[change] = {"next": runs, "error_rate": faults.error_rate, "latency": faults.latency}
            else:
                described[change] = [each.endpoint for each in self._kiosk.subscriptions]
        if logs_after is not None:
            described["requests"] = _entries(self._kiosk.requests, logs_after.requests)
            described["deliveries"] = _entries(self._kiosk.deliveries, logs_after.deliveries)
        return described

    @property
    def _position(self) -> Position:
        return Position(self._count, self._kiosk.requests.total, self._kiosk.deliveries.total)

    def _record(self, change: Change) -> None:
        if change not in {"requests", "deliveries"}:
            self._count += 1
            self._changed[change] = self._count
            self._changed.move_to_end(change)
        self._wake()

    def _wake(self) -> None:
        for changed in self._readers:
            changed.set()


def card_as_json(state: CardState) -> _Json:
    """Write a card's state. The profile's id is a text: JavaScript's numbers end before an int64 does."""
    fields = attrs.asdict(state, recurse=False, value_serializer=_plain)
    return {"profile_id": str(state.card.profile_id), "card_token": fields.pop("card")} | fields


def _entries(log: Log[Any], after: int) -> list[_Json]:
    """Write the end of a log: the entries after a number, but not very many."""
    entries = log.last(min(log.total - after, _LOG_LENGTH))
    return [
        {"number": number} | attrs.asdict(entry, recurse=False, value_serializer=_plain) for number, entry in entries
    ]


def _plain(_owner: object, _field: object, value: object) -> object:
    """Make JSON of one field of a state or an entry."""
    match value:
        case float():
            return round(value, 3)
        case Card():
            return value.card_token  # whole, and without the profile, which most cards share
        case Fault():
            return _in_words(value)
        case _:
            return value


def _in_words(fault: Fault) -> str:
    match fault.kind:
        case "stall":
            return f"{fault.seconds:g} s late"
        case "reset":
            return "connection broken"
        case "cut_body":
            return "body cut short"
        case "garbage":
            return "not HTTP"
        case "answer":
            after = "" if fault.retry_after is None else f", Retry-After: {fault.retry_after}"
            return f"{fault.http_status}{after}" if fault.http_status != _OK else "200, not the documented body"
