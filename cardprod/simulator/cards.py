"""One simulated card on its way through its plan, or through what somebody does with it. No HTTP and no clock."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from cardprod.simulator.plans import Stage

__all__ = ["Phase", "SimulatedCard"]


@attrs.frozen
class Phase:
    """A stage a card is in, or will be in.

    Args:
        stage: The stage.
        since: When it begins.
        requested_at: When the production request was made that it belongs to.
    """

    stage: Stage
    since: float
    requested_at: float


class SimulatedCard:
    """A card on its way through its plan. Times are numbers, whoever's clock they come from.

    Args:
        stages: Its plan.
        plan: The plan's name; None if it has none.
        kiosk_id: The kiosk it is meant for.
        now: When its plan begins.
    """

    def __init__(self, stages: tuple[Stage, ...], plan: str | None, kiosk_id: str, now: float) -> None:
        self._stages = stages
        self._starts = list(accumulate((stage.seconds for stage in stages[:-1]), initial=now))
        self._held_at: float | None = None
        self.plan = plan
        self.is_by_hand: bool = False
        """Whether somebody has driven it, so that its plan is over."""
        self.is_pending: bool = False
        """Whether it was refused because its kiosk was offline, and begins when that is back."""
        self.kiosk_id = kiosk_id
        self.looks = 0
        """How often its status was served."""

    @property
    def is_held(self) -> bool:
        """Whether its plan stands still, and has still something in it."""
        held_at = self._held_at
        return held_at is not None and any(held_at < start < math.inf for start in self._starts)

    def phase_at(self, now: float) -> Phase:
        """Say which stage it is in."""
        if self._held_at is not None:
            now = min(now, self._held_at)
        return self._phase(max(index for index, start in enumerate(self._starts) if index == 0 or start <= now))

    def phases_after(self, now: float) -> list[Phase]:
        """List what is still to become of it by itself."""
        if self._held_at is not None:
            return []
        return [self._phase(index) for index, start in enumerate(self._starts) if now < start < math.inf]

    def drive(self, stage: Stage, now: float) -> None:
        """Let it be in another stage from now on, for good: the rest of its plan is void."""
        passed = sum(start <= (now if self._held_at is None else self._held_at) for start in self._starts)
        self._stages = (*self._stages[:passed], stage)
        self._starts = [*self._starts[:passed], now]
        self._held_at = None
        self.is_by_hand = True
        self.is_pending = False

    def hold(self, now: float) -> None:
        """Let its plan stand still."""
        if self._held_at is None:
            self._held_at = now

    def release(self, now: float) -> None:
        """Let its plan go on where it stood."""
        if self._held_at is not None:
            held_at, self._held_at = self._held_at, None
            self._starts = [start + now - held_at if start > held_at else start for start in self._starts]

    def _phase(self, index: int) -> Phase:
        requests = (
            start for start, stage in zip(self._starts[: index + 1], self._stages, strict=False) if stage.is_new_request
        )
        return Phase(self._stages[index], self._starts[index], max(requests, default=self._starts[0]))
