"""When simulated cards change by their plans: one heap and one timer, however many cards."""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cardprod.models import Card
    from cardprod.simulator.cards import Phase

__all__ = ["Scheduler"]

_AT_ONCE: Final = 100
"""How many changes are reported before other tasks run: signing the webhooks of one takes a millisecond."""


class Scheduler:
    """Calls `on_change` with a card and the phase that it enters, when that is due on the event loop's time."""

    def __init__(self, on_change: Callable[[Card, Phase], None]) -> None:
        self._on_change = on_change
        # The number orders entries that are due at once, and marks those that were replaced.
        self._heap: list[tuple[float, int, Card, deque[Phase]]] = []
        self._numbers: dict[Card, int] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no timer runs."""
        return self._timer is None

    def schedule(self, card: Card, phases: Iterable[Phase]) -> None:
        """Report these changes of a card, instead of those that were scheduled before."""
        self._count += 1
        self._numbers[card] = self._count
        self._push(card, self._count, deque(phases))
        self._set_timer()

    def clear(self) -> None:
        """Report no change any more."""
        self._heap.clear()
        self._numbers.clear()
        self._set_timer()

    def _push(self, card: Card, number: int, phases: deque[Phase]) -> None:
        if phases:
            heappush(self._heap, (phases[0].since, number, card, phases))

    def _set_timer(self) -> None:
        due = self._heap[0][0] if self._heap else None
        if self._timer is not None and self._timer.when() != due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._report)

    def _report(self) -> None:
        # A timer may fire a little early, by what the event loop takes for the same moment.
        due = self._heap[0][0] if self._heap else 0.0
        now = max(asyncio.get_running_loop().time(), due)
        self._timer = None
        for _ in range(_AT_ONCE):
            if not self._heap or self._heap[0][0] > now:
                break
            _, number, card, phases = heappop(self._heap)
            if self._numbers.get(card) == number:
                phase = phases.popleft()
                self._push(card, number, phases)
                self._on_change(card, phase)
        self._set_timer()
