"""The error codes, against the facts that were read from Wise's reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from cardprod.error_codes import PRODUCTION_ERROR_MEANINGS, REQUEST_ERROR_MEANINGS, ErrorCode, ErrorOrigin
from cardprod.models import FINAL_STATUSES, ProductionStatus, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

FACTS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "production-status.json").read_text("utf-8")
)
DOCUMENTED: Final[dict[str, dict[str, str]]] = FACTS["error_codes"]
REQUEST_CODES: Final = [code for code in DOCUMENTED["REQUEST_ERROR"] if code != "UNKNOWN_ERROR"]


def test_every_documented_code_is_known_and_no_other() -> None:
    """The enum has the 57 codes Wise documents, and nothing made up."""
    documented = {code for codes in DOCUMENTED.values() for code in codes}
    assert {str(code) for code in ErrorCode} == documented
    assert len(ErrorCode) == 57


@pytest.mark.parametrize("code", ErrorCode)
def test_name_is_value(code: ErrorCode) -> None:
    """A code is called in Python what it is called on the wire."""
    assert code.name == code.value


@pytest.mark.parametrize(
    ("status", "meanings"),
    [("REQUEST_ERROR", REQUEST_ERROR_MEANINGS), ("PRODUCTION_ERROR", PRODUCTION_ERROR_MEANINGS)],
)
def test_meanings_are_the_documented_ones(status: str, meanings: Mapping[ErrorCode, str]) -> None:
    """Each status has the codes Wise lists under it, with Wise's words."""
    assert dict(meanings) == DOCUMENTED[status]


@pytest.mark.parametrize("meanings", [REQUEST_ERROR_MEANINGS, PRODUCTION_ERROR_MEANINGS])
def test_facts_cannot_be_changed(meanings: Any) -> None:
    """Nobody can rewrite a meaning for everybody else in the process."""
    with pytest.raises(TypeError):
        meanings[ErrorCode.CB_TIME] = "mine"


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [(status, code, meaning) for status, codes in DOCUMENTED.items() for code, meaning in codes.items()],
)
def test_status_and_code_give_the_meaning(status: str, code: str, meaning: str) -> None:
    """A status and its code, as text from the wire, give the meaning Wise documents for the two together."""
    assert ProductionStatus(status, error_code=code).error_meaning == meaning


def test_unknown_error_is_in_both() -> None:
    """`UNKNOWN_ERROR` is the only code under both statuses, and it means something else in each."""
    assert set(REQUEST_ERROR_MEANINGS) & set(PRODUCTION_ERROR_MEANINGS) == {ErrorCode.UNKNOWN_ERROR}
    assert REQUEST_ERROR_MEANINGS[ErrorCode.UNKNOWN_ERROR] != PRODUCTION_ERROR_MEANINGS[ErrorCode.UNKNOWN_ERROR]


@pytest.mark.parametrize("code", REQUEST_CODES)
def test_request_codes_come_from_the_request(code: str) -> None:
    """A code of a refused request comes from the request, whatever its name begins with."""
    assert ErrorCode(code).origin is ErrorOrigin.REQUEST


@pytest.mark.parametrize(
    ("prefix", "origin", "count"),
    [
        ("CB_", ErrorOrigin.CENTRAL_BASE, 6),
        ("DP_", ErrorOrigin.DATA_PREPARATION, 3),
        ("SAT_", ErrorOrigin.SATELLITE, 3),
        ("PRT_", ErrorOrigin.PRINTER, 9),
        ("PRD_", ErrorOrigin.PRODUCTION, 13),
        ("INV_", ErrorOrigin.INVENTORY, 1),
    ],
)
def test_prefix_names_the_origin(prefix: str, origin: ErrorOrigin, count: int) -> None:
    """A production code's first letters name where it comes from."""
    codes = [code for code in DOCUMENTED["PRODUCTION_ERROR"] if code.startswith(prefix)]
    assert len(codes) == count
    assert {ErrorCode(code).origin for code in codes} == {origin}


def test_unknown_error_comes_from_nowhere_known() -> None:
    """`UNKNOWN_ERROR` accuses nobody."""
    assert ErrorCode.UNKNOWN_ERROR.origin is ErrorOrigin.UNKNOWN


def test_statuses_are_the_documented_ones() -> None:
    """The five statuses are Wise's, and waiting ends at the three it should."""
    assert {str(status) for status in Status} == set(FACTS["statuses"])
    assert {str(status) for status in FINAL_STATUSES} == set(FACTS["polling_stops_at"])
