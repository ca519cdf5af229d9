"""The simulation's time: seconds since the simulator started, by the event loop's clock, and as Wise writes it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from cardprod.errors import UsageError


class Clock:
    """Counts seconds from its first start on."""

    def __init__(self) -> None:
        self.started_at: datetime = datetime.now(UTC)
        """When it was started."""
        self._is_started = False
        self._start = self._loop_time = 0.0
        self._reached = 0.0

    def start(self) -> None:
        """Count from now. Only the first start counts, so times go on after a restart."""
        if not self._is_started:
            self._is_started = True
            self._start = self._loop_time = asyncio.get_running_loop().time()
            self.started_at = datetime.now(UTC)

    def now(self) -> float:
        """Return the seconds since the start, but no fewer than were reached already."""
        try:
            loop_time = asyncio.get_running_loop().time()
        except RuntimeError:
            raise UsageError("the simulator must be used in its event loop: make the test an async function") from None
        if loop_time < self._loop_time:  # a test has replaced the loop's clock by virtual time, which begins at 0
            self._start -= self._loop_time - loop_time
        self._loop_time = loop_time
        return max(loop_time - self._start, self._reached)

    def reach(self, seconds: float) -> None:
        """Be no earlier than this from now on: the event loop's timers fire a little before their time."""
        self._reached = max(self._reached, seconds)

    def timestamp(self, seconds: float) -> str:
        """Write a time as ISO 8601, in milliseconds."""
        moment = self.started_at + timedelta(seconds=seconds)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
