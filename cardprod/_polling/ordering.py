"""Which of two statuses of a card is newer. Pure.

Two rules, in this order:

1. `occurred_at` decides, where both statuses have one and the two differ.
2. Else the order in which statuses follow each other decides: READY, then the statuses in between, then a final one.

The order is undecided of the same status twice, of two statuses in between, and of two different final ones.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from cardprod.models import Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from cardprod.models import ProductionStatus

_PRECISION: Final = timedelta(seconds=1)
"""Events of schema version 2.0.0 have whole seconds: a time of whole seconds equals any that is closer than this."""


class Order(Enum):
    """How a status relates to the known one."""

    NEWER = "newer"
    OLDER = "older"
    UNDECIDED = "undecided"


class _Stage(Enum):
    START = "READY"
    WAY = "IN_PROGRESS, and every status that is not documented"
    END = "a final status"


_BY_STAGE: Final[Mapping[tuple[_Stage, _Stage], Order]] = {
    # (known, new): what the new one is
    (_Stage.START, _Stage.START): Order.UNDECIDED,
    (_Stage.START, _Stage.WAY): Order.NEWER,
    (_Stage.START, _Stage.END): Order.NEWER,
    (_Stage.WAY, _Stage.START): Order.OLDER,
    (_Stage.WAY, _Stage.WAY): Order.UNDECIDED,
    (_Stage.WAY, _Stage.END): Order.NEWER,
    (_Stage.END, _Stage.START): Order.OLDER,
    (_Stage.END, _Stage.WAY): Order.OLDER,
    (_Stage.END, _Stage.END): Order.UNDECIDED,
}


def compare(new: ProductionStatus, known: ProductionStatus, known_at: datetime | None) -> Order:
    """Compare a new status with the known one.

    Args:
        new: The new status.
        known: The known status.
        known_at: The last `occurred_at` of the known status; None if it never had one.
    """
    by_time = compare_times(new.occurred_at, known_at)
    return by_time if by_time is not Order.UNDECIDED else _BY_STAGE[_stage_of(known), _stage_of(new)]


def compare_times(new: datetime | None, known: datetime | None) -> Order:
    """Compare two times, either of which may be missing."""
    if new is None or known is None or new == known:
        return Order.UNDECIDED
    if (new.microsecond == 0 or known.microsecond == 0) and abs(new - known) < _PRECISION:
        return Order.UNDECIDED
    return Order.NEWER if new > known else Order.OLDER


def are_ordered(one: datetime | None, other: datetime | None) -> bool:
    """Whether `compare` can be relied on: two times decide it, or they are equal, so that both are of one production.

    If not, one of the two statuses may be of an earlier production of the card.
    """
    return one is not None and (one == other or compare_times(one, other) is not Order.UNDECIDED)


def _stage_of(status: ProductionStatus) -> _Stage:
    if status.is_final:
        return _Stage.END
    return _Stage.START if status.status == Status.READY else _Stage.WAY
