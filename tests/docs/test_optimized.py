"""Under `python -OO`, which keeps neither docstrings nor asserts, users see the same."""

from __future__ import annotations

import sys

from tests.waiting import run_program

_PROGRAM = """
from contextlib import suppress
from cardprod import ErrorCode, ProductionStatus, Status
from cardprod.cli import main
for status in Status:
    for code in ErrorCode:
        shown = ProductionStatus(status, error_code=code)
        print(shown, shown.error_meaning, shown.error_origin)
for arguments in (["wait", "--help"], ["status", "0", "card"]):
    with suppress(SystemExit):
        print(main(arguments))
"""


def test_same_without_docstrings() -> None:
    """Meanings of codes, help and messages are the same with `-OO`."""
    plain, optimized = (run_program(sys.executable, *options, "-c", _PROGRAM) for options in ((), ("-OO",)))
    assert optimized == plain
    assert "feeder card jam" in plain.out
    assert "usage: cardprod wait" in plain.out
    assert "a profile's id is a whole number" in plain.err
