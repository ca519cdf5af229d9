"""The exit codes of the command, which of them the outcome of a card makes, and which of several counts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cardprod.errors import CardprodError, UsageError, WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cardprod.models import ProductionStatus

EXIT_CODES: Final = """\
exit codes:
  0    produced (status, wait, watch); finished and delivered (batch); done (the others)
  1    ended in PRODUCTION_ERROR or REQUEST_ERROR
  2    usage: an argument, the environment or a list; or all are produced, but a row is no card
  3    not final: under way, or its time ran out, with --follow also in an error status;
       batch: not finished
  4    no usable answer from the API, the network or the database, also until a timeout;
       or standard output cannot be written, or its reader has gone, as after `| head -1`;
       batch: cancelled
  70   a defect of this command, with a traceback
  130  Ctrl-C, 143 SIGTERM (Python's subprocess shows -15 unless it is watch's);
       worker: 0, once what is under way is finished
  Of several cards, one with 4 decides, else one with 3, else one with 1, else a row with 2.
"""
"""The one list of them, in `cardprod --help`."""

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
