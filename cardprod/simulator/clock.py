"""The simulation's time: seconds since it started, and the same moments as Wise writes them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from cardprod.errors import UsageError

__all__ = ["Clock"]


def _loop_time() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        raise UsageError("the simulator must be used in its event loop: make the test an async function") from None


class Clock:
    """Reads the event loop's clock, once it is started."""

    def __init__(self) -> None:
        self.started_at: datetime = datetime.now(UTC)
        """When it was started."""
        self._is_started = False
        self._start = self._epoch = self._reached = 0.0

    def start(self) -> None:
        """Count from now. Only the first start counts, so times go on after a restart."""
        if not self._is_started:
            self._is_started = True
            self._start = self._epoch = asyncio.get_running_loop().time()
            self.started_at = datetime.now(UTC)

    def reach(self, loop_time: float) -> None:
        """Be no earlier than this from now on: the event loop's timers fire a little before their time."""
        self._reached = max(self._reached, loop_time)

    def now(self) -> float:
        """Return the event loop's time, but none before a change that was published already."""
        return max(_loop_time(), self._reached)

    def seconds(self, loop_time: float) -> float:
        """Convert the event loop's time to seconds since the start."""
        return loop_time - self._start

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return self.seconds(_loop_time())

    def timestamp(self, loop_time: float) -> str:
        """Write the event loop's time as ISO 8601, in milliseconds."""
        # A test may replace the loop's clock by virtual time, which begins at 0, after the start.
        self._epoch = min(self._epoch, loop_time)
        moment = self.started_at + timedelta(seconds=loop_time - self._epoch)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
