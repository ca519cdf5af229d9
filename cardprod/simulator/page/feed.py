"""What the page is told: the whole state first, and then what has changed, as literal JSON. No HTTP.

Nothing is queued for a reader. The feed only remembers when each card last changed, counted in changes; a reader that
has been told everything up to some count gets the present state of whatever changed after it. So one that is slow, or
was away, skips what is over by now, and costs no memory meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from yarl import URL

from cardprod.models import Card

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from cardprod.simulator.faults import Fault
    from cardprod.simulator.floor import CardState
    from cardprod.simulator.server import LoggedRequest, Simulator
    from cardprod.simulator.webhooks import LoggedDelivery

__all__ = ["Feed", "card_as_json"]

_LOG_LENGTH: Final = 200
_AT_ONCE: Final = 250
"""How many cards one message tells at most, so that none of them takes long to write."""

_KIOSKS: Final = "kiosks"
_FORECAST: Final = "forecast"
_SUBSCRIPTIONS: Final = "subscriptions"

_Changed: TypeAlias = Card | str
_Json: TypeAlias = dict[str, Any]


class Feed:
    """Watches a simulator for the pages that are open.

    Args:
        kiosk: The simulator.
    """

    def __init__(self, kiosk: Simulator) -> None:
        self._kiosk = kiosk
        self.epoch: str = secrets.token_hex(4)
        """Tells this feed's counts from those of another."""
        self._count = 0
        # The one that changed last is last.
        self._changed: OrderedDict[_Changed, int] = OrderedDict()
        self._requests: deque[tuple[int, _Json]] = deque(maxlen=_LOG_LENGTH)
        self._deliveries: deque[tuple[int, _Json]] = deque(maxlen=_LOG_LENGTH)
        self._readers: set[asyncio.Event] = set()

    def open(self) -> None:
        """Begin to watch."""
        for changed in (_KIOSKS, _FORECAST, _SUBSCRIPTIONS):
            self._change(changed)
        for card in self._kiosk.cards:
            self._change(card)
        for number, request in _last(self._kiosk.requests):
            self._requests.append((self._next(), _request_as_json(number, request)))
        for number, delivery in _last(self._kiosk.deliveries):
            self._deliveries.append((self._next(), _delivery_as_json(number, delivery)))
        self._kiosk.watch(self)

    def close(self) -> None:
        """Watch no more, and wake every reader."""
        self._kiosk.unwatch(self)
        self._wake()

    @property
    def readers(self) -> int:
        """How many are reading."""
        return len(self._readers)

    @contextmanager
    def reader(self) -> Generator[asyncio.Event]:
        """Have an event that is set at each change."""
        news = asyncio.Event()
        self._readers.add(news)
        try:
            yield news
        finally:
            self._readers.discard(news)

    def changes_after(self, count: int) -> Iterator[tuple[int, _Json]]:
        """Tell what has changed since a count: the present state, in several parts if it is much.

        Args:
            count: Up to where the reader knows everything; 0 for nothing.

        Yields:
            Up to which count it knows everything then, and what to tell it.
        """
        upto = self._count
        changed: list[tuple[int, _Changed]] = []
        for what, changed_at in reversed(self._changed.items()):
            if changed_at <= count:
                break
            changed.append((changed_at, what))
        changed.reverse()
        while len(changed) > _AT_ONCE:
            part, changed = changed[:_AT_ONCE], changed[_AT_ONCE:]
            yield part[-1][0], self._tell(what for _, what in part)
        if upto > count:
            told = self._tell(what for _, what in changed)
            told["requests"] = [request for logged_at, request in self._requests if logged_at > count]
            told["deliveries"] = [delivery for logged_at, delivery in self._deliveries if logged_at > count]
            yield upto, told

    def _tell(self, changed: Iterator[_Changed]) -> _Json:
        cards: list[_Json] = []
        told: _Json = {"cards": cards}
        for what in changed:
            if isinstance(what, Card):
                cards.append(card_as_json(self._kiosk.state_of(what)))
            elif what == _KIOSKS:
                told[what] = [{"id": kiosk.kiosk_id, "is_online": kiosk.is_online} for kiosk in self._kiosk.kiosks]
            elif what == _FORECAST:
                told[what] = self._forecast()
            else:
                told[what] = [_place(subscription.url) for subscription in self._kiosk.subscriptions]
        return told

    def _forecast(self) -> _Json:
        forecast = self._kiosk.forecast
        faults = [{"what": _in_words(fault), "times": times} for fault, times in forecast.faults]
        return {"faults": faults, "storm": forecast.storm, "latency": forecast.latency}

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _change(self, what: _Changed) -> None:
        self._changed[what] = self._next()
        self._changed.move_to_end(what)
        self._wake()

    def _wake(self) -> None:
        for news in self._readers:
            news.set()

    # --- As a `Watcher` of the simulator ---

    def card_changed(self, card: Card) -> None:
        """Tell the card."""
        self._change(card)

    def kiosk_changed(self, kiosk_id: str) -> None:
        """Tell the kiosks, which are few."""
        del kiosk_id
        self._change(_KIOSKS)

    def forecast_changed(self) -> None:
        """Tell the forecast."""
        self._change(_FORECAST)

    def subscribed(self) -> None:
        """Tell where webhooks go."""
        self._change(_SUBSCRIPTIONS)

    def request_logged(self) -> None:
        """Tell the request, and its card, which was looked at once more."""
        request = self._kiosk.requests[-1]
        self._requests.append((self._next(), _request_as_json(len(self._kiosk.requests), request)))
        if request.card is not None and request.card in self._changed:
            self._change(request.card)
        self._wake()

    def delivery_logged(self) -> None:
        """Tell the try to deliver."""
        deliveries = self._kiosk.deliveries
        self._deliveries.append((self._next(), _delivery_as_json(len(deliveries), deliveries[-1])))
        self._wake()


def _last(log: list[Any]) -> list[tuple[int, Any]]:
    """Give the end of a log, numbered from the log's beginning, which is 1."""
    first = max(len(log) - _LOG_LENGTH, 0)
    return list(enumerate(log[first:], first + 1))


def card_as_json(state: CardState) -> _Json:
    """Write a card's state. The profile's id is a text: JavaScript's numbers end before an int64 does."""
    return {
        "profile_id": str(state.card.profile_id),
        "card_token": state.card.card_token,
        "status": state.status,
        "error_code": state.error_code,
        "description": state.description,
        "kiosk_id": state.kiosk_id,
        "since": round(state.since, 3),
        "requested_at": round(state.requested_at, 3),
        "plan": state.plan,
        "is_by_hand": state.is_by_hand,
        "is_held": state.is_held,
        "is_pending": state.is_pending,
        "next_status": state.next_status,
        "next_at": None if state.next_at is None else round(state.next_at, 3),
        "looks": state.looks,
        "moves": list(state.moves),
    }


def _request_as_json(number: int, request: LoggedRequest) -> _Json:
    return {
        "number": number,
        "at": round(request.at, 3),
        "method": request.method,
        "path": request.path,
        "card": None if request.card is None else str(request.card),
        "correlation_id": request.correlation_id,
        "fault": None if request.fault is None else _in_words(request.fault),
        "http_status": request.http_status,
        "status": request.status,
    }


def _delivery_as_json(number: int, delivery: LoggedDelivery) -> _Json:
    return {
        "number": number,
        "at": round(delivery.at, 3),
        "card": None if delivery.card is None else str(delivery.card),
        "status": delivery.status,
        "delivery_id": delivery.delivery_id,
        "attempt": delivery.attempt,
        "http_status": delivery.http_status,
    }


def _place(url: str) -> str:
    """Write an address without what may be a secret in it."""
    return str(URL(url).with_user(None).with_query(None).with_fragment(None))


def _in_words(fault: Fault) -> str:
    """Say what goes wrong."""
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
            return f"{fault.http_status}{after}" if fault.http_status != 200 else "200, not the documented body"  # noqa: PLR2004
