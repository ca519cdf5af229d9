"""One simulated card: its plan, until something else is done with it. No HTTP and no clock."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from cardprod.simulator.plans import Stage


@attrs.frozen
class Phase:
    """A stage that a card is in or will be in: when it begins, when the request was made that it belongs to, and where.

    `kiosk_id` is as a status names it: None before production was started.
    """

    stage: Stage
    since: float
    requested_at: float
    kiosk_id: str | None


class SimulatedCard:
    """A card and the stages of its plan, by when they begin; `plan` is its name. All times are seconds of one clock."""

    def __init__(self, stages: tuple[Stage, ...], plan: str | None, kiosk_id: str, now: float) -> None:
        self._stages = stages
        self._starts = list(accumulate((stage.seconds for stage in stages[:-1]), initial=now))
        self._paused_at: float | None = None
        self.plan = plan
        self.is_manual: bool = False
        """Whether it was moved, so that its plan is over."""
        self.is_pending: bool = False
        """Whether its request waits for its kiosk, which was offline."""
        self.kiosk_id = kiosk_id
        self.requests: int = 0
        """How often its status was served."""

    @property
    def is_paused(self) -> bool:
        """Whether its plan is paused, with stages still to come."""
        return self._paused_at is not None and any(self._paused_at < start < math.inf for start in self._starts)

    def phase_at(self, now: float) -> Phase:
        """Return the stage that it is in."""
        return self._phase(self._index_at(now))

    def phases_after(self, now: float) -> list[Phase]:
        """List the stages that it will reach by itself."""
        if self._paused_at is not None:
            return []
        return [self._phase(index) for index, start in enumerate(self._starts) if now < start < math.inf]

    def enter(self, stage: Stage, now: float) -> None:
        """Put it into a stage for good: the rest of its plan is void."""
        passed = self._index_at(now) + 1
        self._stages = (*self._stages[:passed], stage)
        self._starts = [*self._starts[:passed], now]
        self._paused_at = None
        self.is_manual = True
        self.is_pending = False

    def advance(self, now: float) -> Stage | None:
        """Begin the next stage of its plan now, the later ones as much earlier; return it, None if there is none."""
        coming = self.phases_after(now)
        if not coming:
            return None
        self._starts = [start if start <= now else start - (coming[0].since - now) for start in self._starts]
        return coming[0].stage

    def pause(self, now: float) -> None:
        """Pause its plan."""
        if self._paused_at is None:
            self._paused_at = now

    def resume(self, now: float) -> None:
        """Continue its plan where it was paused."""
        if self._paused_at is not None:
            paused_at, self._paused_at = self._paused_at, None
            self._starts = [start + now - paused_at if start > paused_at else start for start in self._starts]

    def _index_at(self, now: float) -> int:
        now = now if self._paused_at is None else min(now, self._paused_at)
        return max(0, bisect_right(self._starts, now) - 1)

    def _phase(self, index: int) -> Phase:
        requests = (
            start for start, stage in zip(self._starts[: index + 1], self._stages, strict=False) if stage.is_new_request
        )
        stage = self._stages[index]
        kiosk_id = None if stage.status == "READY" else self.kiosk_id
        return Phase(stage, self._starts[index], max(requests, default=self._starts[0]), kiosk_id)
