"""When to look next: pure policies. No clock, no sleeping, no memory of any card; `watch` keeps that.

`Backoff` looks soon after a change and then less and less often, because a card that has just moved is the
likeliest to move again and a card left overnight is not.
"""

from __future__ import annotations

import math
from typing import Protocol

import attrs

from cardprod.errors import UsageError

__all__ = ["Backoff", "Schedule", "is_finite_number"]


def is_finite_number(value: object) -> bool:
    """Say whether a value can be reckoned with as seconds: an int or float, and no bool, NaN or infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


class Schedule(Protocol):
    """What a wait asks of a schedule. Any object with this method will do."""

    def delay(self, unchanged: int, chance: float) -> float:
        """Say how long to sleep before the next look.

        Args:
            unchanged: Looks since the last transition that showed nothing new, failed ones included.
            chance: A random number from 0 up to, not including, 1, to spread looks with.

        Returns:
            Seconds, positive and finite.
        """
        ...


@attrs.frozen(kw_only=True)
class Backoff:
    """Exponential backoff that starts again after every transition.

    ```python
    Backoff()                        # 1 s, 1.6 s, 2.6 s … at most 30 s, each up to 10 % sooner
    Backoff(first=5, factor=1)       # every 5 s, as long as it takes
    Backoff(first=0.2, ceiling=2)    # somebody stands at the kiosk and watches
    ```

    Args:
        first: Seconds to the first look after a transition.
        factor: What each further delay is multiplied by; 1 keeps them equal.
        ceiling: The longest delay, in seconds.
        jitter: The share of a delay, from 0 up to 1, that chance may take off it, so that cards do not march in step.
            It only ever shortens: the ceiling holds.

    Raises:
        UsageError: A number that cannot be right.
    """

    first: float = 1.0
    factor: float = 1.6
    ceiling: float = 30.0
    jitter: float = 0.1

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            if not is_finite_number(value):
                raise UsageError(f"Backoff: {name} must be a finite number, not {value!r}")
        if self.first <= 0:
            raise UsageError(f"Backoff: first must be above 0 seconds, not {self.first}")
        if self.factor < 1:
            raise UsageError(f"Backoff: factor must be 1 or more, not {self.factor}")
        if self.ceiling < self.first:
            raise UsageError(f"Backoff: ceiling must be at least first ({self.first}), not {self.ceiling}")
        if not 0 <= self.jitter < 1:
            raise UsageError(f"Backoff: jitter must be from 0 up to, not including, 1, not {self.jitter}")

    def delay(self, unchanged: int, chance: float) -> float:
        """Say how long to sleep before the next look.

        Args:
            unchanged: Looks since the last transition that showed nothing new, failed ones included.
            chance: A random number from 0 up to, not including, 1, to spread looks with.

        Returns:
            Seconds, positive and at most `ceiling`.
        """
        try:
            base = min(self.first * float(self.factor) ** unchanged, self.ceiling)
        except OverflowError:  # a thousand looks later the power is beyond a float, and long past the ceiling
            base = self.ceiling
        return base * (1 - self.jitter * chance)
