"""`Backoff`, and what any schedule is: when to poll next. Pure: no clock, no sleeping, no memory of any card.

`Backoff` polls soon after a change and then less and less often, because a card that has just moved is the likeliest
to move again, and a card left overnight is not.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from cardprod._protocol.validation import check_number

__all__ = ["Backoff", "Schedule"]


class Schedule(Protocol):
    """What a wait asks of a schedule. Any object with this method will do."""

    def delay(self, unchanged: int, random: float) -> float:
        """Return how long to sleep before the next poll.

        Args:
            unchanged: Polls since the last transition that showed nothing new, failed ones included.
            random: A random number from 0 up to, not including, 1, to spread polls with.

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
    Backoff(first=0.2, ceiling=2)    # somebody stands at the kiosk
    ```

    Args:
        first: Seconds to the first poll after a transition.
        factor: What each further delay is multiplied by; 1 keeps them equal.
        ceiling: The longest delay, in seconds.
        jitter: The share of a delay, from 0 up to 1, that randomness may take off it, so that polls do not bunch up.
            It only ever shortens: the ceiling holds.

    Raises:
        UsageError: A number that cannot be right.
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
        """Return how long to sleep before the next poll.

        Args:
            unchanged: Polls since the last transition that showed nothing new, failed ones included.
            random: A random number from 0 up to, not including, 1, to spread polls with.

        Returns:
            Seconds, positive and at most `ceiling`.
        """
        try:
            base = min(self.first * float(self.factor) ** unchanged, self.ceiling)
        except OverflowError:  # a thousand polls later the power is beyond a float, and long past the ceiling
            base = self.ceiling
        return base * (1 - self.jitter * random)
