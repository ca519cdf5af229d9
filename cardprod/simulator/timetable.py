"""When simulated cards change by themselves: one heap and one timer, however many cards. It knows no plans."""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cardprod.models import Card
    from cardprod.simulator.cards import Phase

__all__ = ["Timetable"]

_AT_ONCE: Final = 100
"""How many changes are told before the event loop gets a turn: a signature for each takes a millisecond."""


class Timetable:
    """Tells each change of the cards it follows when it comes, on the event loop's time.

    Args:
        on_change: Is told the card and the phase that it enters.
    """

    def __init__(self, on_change: Callable[[Card, Phase], None]) -> None:
        self._on_change = on_change
        # The number tells entries apart that are due at once, and those that hold from those that are void by now.
        self._heap: list[tuple[float, int, Card, deque[Phase]]] = []
        self._numbers: dict[Card, int] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, card: Card, phases: Iterable[Phase]) -> None:
        """Tell these changes of a card when they come, instead of those that it was followed for before."""
        self._count += 1
        self._numbers[card] = self._count
        self._enter(card, self._count, deque(phases))
        self._set_timer()

    def clear(self) -> None:
        """Follow no card any more."""
        self._heap.clear()
        self._numbers.clear()
        self._set_timer()

    def _enter(self, card: Card, number: int, phases: deque[Phase]) -> None:
        if phases:
            heappush(self._heap, (phases[0].since, number, card, phases))

    def _set_timer(self) -> None:
        due = self._heap[0][0] if self._heap else None
        if self._timer is not None and self._timer.when() != due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._tell)

    def _tell(self) -> None:
        # A timer may ring a little before its time, by what the loop takes for the same moment.
        due = self._heap[0][0] if self._heap else 0.0
        now = max(asyncio.get_running_loop().time(), due)
        self._timer = None
        for _ in range(_AT_ONCE):
            if not self._heap or self._heap[0][0] > now:
                break
            _, number, card, phases = heappop(self._heap)
            if self._numbers.get(card) != number:
                continue
            phase = phases.popleft()
            self._enter(card, number, phases)
            self._on_change(card, phase)
        self._set_timer()
