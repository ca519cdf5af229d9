"""When to poll: `Backoff`, `AdaptiveSchedule`, which learns, and `Schedule`, what a schedule of your own must have.

The model that `AdaptiveSchedule` learns by is described in `cardprod._polling.adaptive`.
"""

from __future__ import annotations

from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff, Schedule

__all__ = ["AdaptiveSchedule", "Backoff", "Schedule"]
