"""The faults of answers: what they are, and which answer has one. No HTTP and no clock; `api` carries them out."""

from __future__ import annotations

import re
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Final, Literal

import attrs

from cardprod._protocol.validation import check_count, check_number, check_seconds, check_text, check_type

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardprod.models import Card

_MOST_TIMES: Final = 1_000_000_000
_MOST_RETRY_AFTER: Final = 10**15
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]+")


@attrs.frozen
class Fault:
    """One fault of one answer. Made by the class methods below.

    ```python
    kiosk.fail_next(Fault.too_many_requests(retry_after=5))
    kiosk.fail_next(Fault.server_error(503), times=3, card=card)
    ```
    """

    kind: Literal["answer", "reset", "stall", "cut_body", "garbage"]
    http_status: int = 200
    body: str = ""
    content_type: str = "application/json"
    retry_after: int | str | None = None
    seconds: float = 0.0

    def __attrs_post_init__(self) -> None:
        check_type("http_status", self.http_status, int)
        check_number("http_status", self.http_status, least=200, most=599)
        check_type("body", self.body, str)
        if type(self.retry_after) is int:
            check_number("retry_after", self.retry_after, least=-_MOST_RETRY_AFTER, most=_MOST_RETRY_AFTER)
        elif self.retry_after is not None:
            check_text("retry_after", self.retry_after, "an int, or a text of printable ASCII", _HEADER_VALUE)
        check_seconds("seconds", self.seconds)

    @classmethod
    def too_many_requests(cls, retry_after: int | str | None = 1) -> Fault:
        """Answer 429 with `Retry-After`: seconds, an HTTP date, or none."""
        return cls("answer", 429, '{"message":"Too many requests"}', retry_after=retry_after)

    @classmethod
    def server_error(cls, http_status: int = 500, retry_after: int | str | None = None) -> Fault:
        """Answer with a 5xx, or any other status from 200 on, and a body as Wise's."""
        body = '{"errors":[{"code":"internal_error","message":"Something went wrong","arguments":null}]}'
        return cls("answer", http_status, body, retry_after=retry_after)

    @classmethod
    def gateway_page(cls, http_status: int = 502) -> Fault:
        """Answer with a proxy's HTML page."""
        return cls("answer", http_status, "<html><h1>Bad Gateway</h1></html>", "text/html")

    @classmethod
    def bad_reply(cls, body: str = '{"kioskId":"WIS00001"}') -> Fault:
        """Answer 200 with a body that is not the documented shape; by default one without a status."""
        return cls("answer", 200, body)

    @classmethod
    def reset(cls) -> Fault:
        """Break the connection before any answer."""
        return cls("reset")

    @classmethod
    def stall(cls, seconds: float = 3600.0) -> Fault:
        """Answer correctly, but so many seconds late."""
        return cls("stall", seconds=seconds)

    @classmethod
    def cut_body(cls) -> Fault:
        """Break the connection in the middle of the body."""
        return cls("cut_body")

    @classmethod
    def garbage(cls) -> Fault:
        """Answer with bytes that are not HTTP."""
        return cls("garbage")

    @classmethod
    def choose(cls, random: Random) -> Fault:
        """Choose any of them."""
        return random.choice(
            [
                cls.too_many_requests(random.randint(0, 3)),
                cls.server_error(random.choice([500, 502, 503, 504])),
                cls.gateway_page(),
                cls.bad_reply(random.choice(["", "[]", "{}", "not JSON", '{"status":null}', '{"status":"READY"'])),
                cls.reset(),
                cls.stall(),
                cls.cut_body(),
                cls.garbage(),
            ]
        )


@attrs.frozen(kw_only=True)
class FaultSettings:
    """The faults that are set.

    Args:
        next: The faults of the next answers, for whichever card, and how many answers in a row have each.
        error_rate: The share of all answers that have a fault.
        latency: By how many seconds every answer is late.
    """

    next: tuple[tuple[Fault, int], ...]
    error_rate: float
    latency: float


class FaultQueue:
    """The faults of the next answers, in their order."""

    def __init__(self) -> None:
        self.runs: deque[tuple[Fault, int]] = deque()
        """Each fault, and how many answers in a row have it."""

    def add(self, fault: Fault, times: int) -> None:
        """Give so many answers a fault, after those that have one already."""
        check_type("fault", fault, Fault)
        check_count("times", times, least=0, most=_MOST_TIMES)
        if self.runs and self.runs[-1][0] == fault:
            times += self.runs.pop()[1]
        if times:
            self.runs.append((fault, times))

    def take(self) -> Fault | None:
        """Return the fault of the next answer, None if it has none."""
        if not self.runs:
            return None
        fault, times = self.runs.popleft()
        if times > 1:
            self.runs.appendleft((fault, times - 1))
        return fault


class FaultInjector:
    """Decides which answer has a fault."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._next = FaultQueue()
        self._next_of_card: dict[Card, FaultQueue] = {}
        self.next_refresh: FaultQueue = FaultQueue()
        """The faults of the next answers of `/oauth/token`."""
        self._error_rate = 0.0
        self._random = Random()  # noqa: S311 - simulated faults
        self.latency: float = 0.0
        """By how many seconds every answer is late."""

    @property
    def settings(self) -> FaultSettings:
        """The faults that are set, but for those of single cards."""
        return FaultSettings(next=tuple(self._next.runs), error_rate=self._error_rate, latency=self.latency)

    def fail_next(self, fault: Fault, times: int, card: Card | None) -> None:
        """Give the next answers a fault, for any card or for one."""
        queue = self._next if card is None else self._next_of_card.setdefault(card, FaultQueue())
        queue.add(fault, times)
        self._on_change()

    def set_error_rate(self, rate: float, seed: int) -> None:
        """Give a share of all answers a fault."""
        check_number("rate", rate, least=0, most=1)
        check_type("seed", seed, int)
        self._error_rate = rate
        self._random = Random(seed)  # noqa: S311 - simulated faults
        self._on_change()

    def set_latency(self, seconds: float) -> None:
        """Make every answer late."""
        check_seconds("seconds", seconds)
        self.latency = seconds
        self._on_change()

    def clear(self) -> None:
        """Give no answer a fault any more."""
        for queue in (self._next, self.next_refresh, *self._next_of_card.values()):
            queue.runs.clear()
        self._error_rate = self.latency = 0.0
        self._on_change()

    def take(self, card: Card | None) -> Fault | None:
        """Return the fault of the next answer about a card, None if it has none."""
        own = self._next_of_card.get(card) if card is not None else None
        fault = (own.take() if own is not None else None) or self._next.take()
        if fault is not None:
            self._on_change()
        elif self._random.random() < self._error_rate:
            fault = Fault.choose(self._random)
        return fault
