"""When simulated cards change by their plans: a timer for each card that has a change to come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cardprod.models import Card
    from cardprod.simulator.cards import Phase
    from cardprod.simulator.clock import Clock


class Scheduler:
    """Calls `on_change` with a card and the phase that it enters, when that is due."""

    def __init__(self, clock: Clock, on_change: Callable[[Card, Phase], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._timers: dict[Card, asyncio.TimerHandle] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no timer runs."""
        return not self._timers

    def schedule(self, card: Card, phases: Sequence[Phase]) -> None:
        """Report these changes of a card, instead of those that were scheduled before."""
        timer = self._timers.pop(card, None)
        if timer is not None:
            timer.cancel()
        if phases:
            seconds = phases[0].since - self._clock.now()
            self._timers[card] = asyncio.get_running_loop().call_later(seconds, self._report, card, phases)

    def clear(self) -> None:
        """Report no change any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _report(self, card: Card, phases: Sequence[Phase]) -> None:
        self._clock.reach(phases[0].since)
        self.schedule(card, phases[1:])
        self._on_change(card, phases[0])
