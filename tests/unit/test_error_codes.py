"""The error codes, against the facts that were read from Wise's reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from cardprod import error_codes
from cardprod.error_codes import PRODUCTION_ERROR_MEANINGS, REQUEST_ERROR_MEANINGS, ErrorCode, ErrorOrigin
from cardprod.models import FINAL_STATUSES, ProductionStatus, Status
from tests.table import Table

FACTS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "production-status.json").read_text("utf-8")
)
DOCUMENTED: Final[dict[str, dict[str, str]]] = FACTS["error_codes"]
MEANINGS: Final = {"REQUEST_ERROR": REQUEST_ERROR_MEANINGS, "PRODUCTION_ERROR": PRODUCTION_ERROR_MEANINGS}

# A production code's first letters name where it comes from.
PREFIXES: Final = {
    "UNKNOWN": ErrorOrigin.UNKNOWN,
    "CB": ErrorOrigin.CENTRAL_BASE,
    "DP": ErrorOrigin.DATA_PREPARATION,
    "SAT": ErrorOrigin.SATELLITE,
    "PRT": ErrorOrigin.PRINTER,
    "PRD": ErrorOrigin.PRODUCTION,
    "INV": ErrorOrigin.INVENTORY,
}


def test_codes_are_the_documented_ones() -> None:
    """The 57 codes are those Wise documents, by its names, each under its status and with Wise's words."""
    assert {status: dict(meanings) for status, meanings in MEANINGS.items()} == DOCUMENTED
    assert {str(code) for code in ErrorCode} == {code for codes in DOCUMENTED.values() for code in codes}
    assert len(ErrorCode) == 57
    assert [code for code in ErrorCode if code.name != code.value] == []


def test_status_and_code_give_meaning_and_origin() -> None:
    """A status and its code, as text from the wire, give what the two mean together and where they come from."""
    with Table() as table:
        for status, codes in DOCUMENTED.items():
            for code, meaning in codes.items():
                with table.row(status, code):
                    seen = ProductionStatus(status, error_code=code)
                    assert seen.error_meaning == meaning
                    origin = PREFIXES.get(code.partition("_")[0])
                    assert seen.error_origin is (origin or ErrorOrigin.REQUEST)
                    assert origin or status == "REQUEST_ERROR"


def test_help_has_them_all() -> None:
    """The help of the module is a table of all codes, by status, with origin and meaning."""
    for status, codes in DOCUMENTED.items():
        for code, meaning in codes.items():
            origin = ProductionStatus(status, error_code=code).error_origin
            assert f"| {status} | {code} | {origin} | {meaning} |" in (error_codes.__doc__ or "")


def test_facts_cannot_be_changed() -> None:
    """The table of meanings cannot be changed."""
    for meanings in MEANINGS.values():
        facts: Any = meanings
        with pytest.raises(TypeError):
            facts[ErrorCode.CB_TIME] = "mine"


def test_statuses_are_the_documented_ones() -> None:
    """The five statuses are Wise's, and waiting ends at the three it should."""
    assert {str(status) for status in Status} == set(FACTS["statuses"])
    assert {str(status) for status in FINAL_STATUSES} == set(FACTS["polling_stops_at"])
