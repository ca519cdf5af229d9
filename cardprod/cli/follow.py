"""What `--follow` adds up: a wait that goes on after an error status counts on. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from cardprod._polling.state import timed_out
from cardprod.errors import WaitTimeout
from cardprod.models import Transition

if TYPE_CHECKING:
    from cardprod.errors import CardprodError
    from cardprod.models import Card


def counted_on(
    card: Card, result: Transition | CardprodError, elapsed: float, polls: int
) -> Transition | CardprodError:
    """Return a result with the seconds and the polls of the card's waits before added."""
    if isinstance(result, Transition):
        return attrs.evolve(result, elapsed=elapsed + result.elapsed, polls=polls + result.polls)
    if isinstance(result, WaitTimeout):
        error = timed_out(card, result.last, polls + result.polls, elapsed + result.elapsed, result.__cause__)
        error.checkpoint = result.checkpoint
        return error
    return result
