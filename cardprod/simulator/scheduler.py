"""When simulated cards change by their plans: one heap and one timer, however many cards."""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cardprod.models import Card
    from cardprod.simulator.cards import Phase
    from cardprod.simulator.clock import Clock

__all__ = ["Scheduler"]

_AT_ONCE: Final = 100
"""How many changes are reported before other tasks run: signing the webhooks of one takes a millisecond."""


class Scheduler:
    """Calls `on_change` with a card and the phase that it enters, when that is due."""

    def __init__(self, clock: Clock, on_change: Callable[[Card, Phase], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        # The number orders the entries that are due at once. Those that were replaced stay until they are due.
        self._heap: list[tuple[float, int, Card, deque[Phase]]] = []
        self._phases: dict[Card, deque[Phase]] = {}
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no timer runs."""
        return self._timer is None

    def schedule(self, card: Card, phases: Iterable[Phase]) -> None:
        """Report these changes of a card, instead of those that were scheduled before."""
        self._phases[card] = deque(phases)
        self._push(card, next(self._numbers))
        self._set_timer()

    def clear(self) -> None:
        """Report no change any more."""
        self._heap.clear()
        self._phases.clear()
        self._set_timer()

    def _push(self, card: Card, number: int) -> None:
        phases = self._phases[card]
        if phases:
            heappush(self._heap, (phases[0].since, number, card, phases))

    def _set_timer(self) -> None:
        if self._timer is not None and not (self._heap and self._heap[0][0] == self._due):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and self._heap:
            self._due = self._heap[0][0]
            self._timer = asyncio.get_running_loop().call_later(self._due - self._clock.now(), self._report)

    def _report(self) -> None:
        self._timer = None
        self._clock.reach(self._due)
        now = self._clock.now()
        for _ in range(_AT_ONCE):
            if not self._heap or self._heap[0][0] > now:
                break
            _, number, card, phases = heappop(self._heap)
            if self._phases.get(card) is phases:
                phase = phases.popleft()
                self._push(card, number)
                self._on_change(card, phase)
        self._set_timer()
