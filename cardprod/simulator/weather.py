"""The weather between client and kiosk: which answers go wrong or come late. No HTTP and no clock.

What can go wrong at all is `faults`' business, carrying it out is `server`'s.
"""

from __future__ import annotations

from collections import deque
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING

import attrs

from cardprod._protocol.validation import check_number, check_seconds
from cardprod.simulator.faults import Fault

if TYPE_CHECKING:
    from cardprod.models import Card

__all__ = ["Forecast", "Weather"]


@attrs.frozen(kw_only=True)
class Forecast:
    """What is going to go wrong.

    Args:
        faults: The faults of the next answers, whichever card they are for, and how many answers have each in a row.
        storm: The share of all answers that go wrong.
        latency: By how many seconds every answer is late.
    """

    faults: tuple[tuple[Fault, int], ...]
    storm: float
    latency: float


class Weather:
    """Deals out faults and lateness, one answer at a time."""

    def __init__(self) -> None:
        self._faults: deque[Fault] = deque()
        self._card_faults: dict[Card, deque[Fault]] = {}
        self._share = 0.0
        self._luck = Random()  # noqa: S311 - simulated bad luck
        self.latency: float = 0.0
        """By how many seconds every answer is late."""

    @property
    def forecast(self) -> Forecast:
        """What is going to go wrong, but for the faults of single cards."""
        faults = tuple((fault, len(list(same))) for fault, same in groupby(self._faults))
        return Forecast(faults=faults, storm=self._share, latency=self.latency)

    def fail_next(self, fault: Fault, times: int, card: Card | None) -> None:
        """Let the next answers go wrong, for any card or for one."""
        queue = self._faults if card is None else self._card_faults.setdefault(card, deque())
        queue.extend([fault] * times)

    def storm(self, share: float, seed: int) -> None:
        """Let a share of all answers go wrong."""
        check_number("share", share, least=0, most=1)
        self._share = share
        self._luck = Random(seed)  # noqa: S311 - simulated bad luck

    def slow_down(self, seconds: float) -> None:
        """Let every answer be late."""
        check_seconds("seconds", seconds)
        self.latency = seconds

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self._faults.clear()
        self._card_faults.clear()
        self._share = 0.0
        self.latency = 0.0

    def next_fault(self, card: Card | None) -> Fault | None:
        """Say what is to go wrong with the next answer."""
        if card is not None and self._card_faults.get(card):
            return self._card_faults[card].popleft()
        if self._faults:
            return self._faults.popleft()
        return Fault.any_of_them(self._luck) if self._luck.random() < self._share else None
