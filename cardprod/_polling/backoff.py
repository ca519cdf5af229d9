"""`Backoff`, and the protocol of all schedules: when to poll next. Pure: no clock, no sleeping, no state.

`Backoff` polls soon after a change and then less and less often, because a card that has just changed is the likeliest
to change again.
"""

from __future__ import annotations

import math
from typing import Protocol

import attrs

from cardprod._protocol.validation import check_number


class Schedule(Protocol):
    """The protocol of a schedule: any object with this method."""

    def delay(self, unchanged: int, random: float) -> float:
        """Return how many seconds, above 0 and finite, to sleep before the next poll.

        Args:
            unchanged: Polls since the last transition, failed ones included.
            random: A random number from 0 up to, not including, 1, for jitter.
        """
        ...


@attrs.frozen(kw_only=True)
class Backoff:
    """Exponential backoff that starts over after every transition.

    ```python
    Backoff()                        # 1 s, 1.6 s, 2.6 s … at most 30 s, each up to 10 % sooner
    Backoff(first=5, factor=1)       # every 5 s, as long as it takes
    Backoff(first=0.2, ceiling=2)    # somebody stands at the kiosk
    ```

    Args:
        first: Seconds to the first poll after a transition.
        factor: What each further delay is multiplied by; 1 keeps them equal.
        ceiling: The longest delay, in seconds.
        jitter: The share of a delay, from 0 up to, not including, 1, by which it is randomly shortened at most, so that
            polls are spread. Delays are never lengthened.

    Raises:
        UsageError: A number is out of range.
    """

    first: float = 1.0
    factor: float = 1.6
    ceiling: float = 30.0
    jitter: float = 0.1

    def __attrs_post_init__(self) -> None:
        check_number("Backoff: first", self.first, above=0)
        check_number("Backoff: factor", self.factor, least=1)
        check_number("Backoff: ceiling", self.ceiling, least=self.first)
        check_number("Backoff: jitter", self.jitter, least=0, below=1)

    def delay(self, unchanged: int, random: float) -> float:
        """Return how many seconds, above 0 and at most `ceiling`, to sleep before the next poll.

        Args:
            unchanged: Polls since the last transition, failed ones included.
            random: A random number from 0 up to, not including, 1, for the jitter.
        """
        try:
            base = self.first * float(self.factor) ** unchanged
        except OverflowError:  # after a thousand polls the power exceeds a float, and so the ceiling
            base = math.inf
        return (base if base < self.ceiling else self.ceiling) * (1 - self.jitter * random)
