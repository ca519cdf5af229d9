"""How the command exits, as facts: the codes, which code what has become of a card makes, and which of several counts.

No I/O. Codes are listed for users in `cardprod.cli`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cardprod.errors import CardprodError, UsageError, WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cardprod.models import ProductionStatus

__all__ = [
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
SIGNALLED: Final = 128
"""A signal's number is added to it, as shells do."""
INTERRUPTED: Final = 130

_WORST_FIRST: Final = (NO_ANSWER, NOT_FINAL, FAILED, USAGE)
"""What running again may mend comes first: cards nobody knows anything of, then those that are still under way."""


def exit_code_of(what: ProductionStatus | CardprodError) -> int:
    """Give the exit code for how one card, or a whole command, ended."""
    if isinstance(what, UsageError):
        return USAGE
    if isinstance(what, CardprodError):
        return NOT_FINAL if isinstance(what, WaitTimeout) else NO_ANSWER
    if what.is_produced:
        return PRODUCED
    return FAILED if what.is_final else NOT_FINAL


def worst_of(codes: Iterable[int]) -> int:
    """Give the exit code for many cards: the one of theirs that most needs attention."""
    codes = set(codes)
    return next((code for code in _WORST_FIRST if code in codes), PRODUCED)
