"""Under `python -OO`, which keeps neither docstrings nor asserts, users see the same."""

from __future__ import annotations

import sys

import pytest

from tests.waiting import run_program

_MEANINGS = """
from cardprod import ErrorCode, ProductionStatus, Status
for status in Status:
    for code in ErrorCode:
        shown = ProductionStatus(status, error_code=code)
        print(shown, shown.error_meaning, shown.error_origin)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", _MEANINGS),
        ("-m", "cardprod", "wait", "--help"),
        ("-m", "cardprod", "status", "0", "card"),
    ],
    ids=["meanings", "help", "bad argument"],
)
def test_same_without_docstrings(arguments: tuple[str, ...]) -> None:
    """Meanings of codes, help and messages are the same with `-OO`."""
    plain = run_program(sys.executable, *arguments, check=False)
    optimized = run_program(sys.executable, "-OO", *arguments, check=False)
    assert optimized == plain
    assert plain.out + plain.err
