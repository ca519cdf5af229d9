"""The exit codes of the command, which of them the outcome of a card makes, and which of several counts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cardprod.errors import CardprodError, UsageError, WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cardprod.models import ProductionStatus

__all__ = [
    "DEFECT",
    "FAILED",
    "INTERRUPTED",
    "NOT_FINAL",
    "NO_ANSWER",
    "PRODUCED",
    "SIGNALLED",
    "USAGE",
    "exit_code_of",
    "worst_of",
]

PRODUCED: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_FINAL: Final = 3
NO_ANSWER: Final = 4
DEFECT: Final = 70
"""A defect of the command itself: Python's own code for that, 1, means here that a card ended in an error."""
SIGNALLED: Final = 128
"""A signal's number is added to it, as shells do."""
INTERRUPTED: Final = 130

_WORST_FIRST: Final = (NO_ANSWER, NOT_FINAL, FAILED, USAGE)
"""What another run may change comes first: cards of which nothing is known, then those that are not final."""


def exit_code_of(outcome: ProductionStatus | CardprodError) -> int:
    """Return the exit code for the outcome of one card, or for the error that ended a command."""
    if isinstance(outcome, UsageError):
        return USAGE
    if isinstance(outcome, WaitTimeout):
        failure = outcome.__cause__
        # Without any answer, why there was none says more: more time alone would not help.
        return exit_code_of(failure) if isinstance(failure, CardprodError) and outcome.last is None else NOT_FINAL
    if isinstance(outcome, CardprodError):
        return NO_ANSWER
    if outcome.is_produced:
        return PRODUCED
    return FAILED if outcome.is_final else NOT_FINAL


def worst_of(codes: Iterable[int]) -> int:
    """Return the exit code for many cards: that of the card that most needs attention."""
    codes = set(codes)
    return next((code for code in _WORST_FIRST if code in codes), PRODUCED)
