"""`tests.drift`, which compares the package with a copy of Wise's OpenAPI document: here with one of our own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cardprod
from tests.drift import KNOWN, differences, facts_of, main
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

FILE: Final = Path(__file__).parent / "data" / "kiosk-openapi.json"
PATH: Final = "/2026Q3/spend/profiles/{profileId}/cards/{cardToken}/production"


def _document() -> Any:
    return json.loads(FILE.read_text("utf-8"))


def _schemas(document: Any) -> Any:
    return document["components"]["schemas"]


def _properties(document: Any) -> Any:
    return _schemas(document)["ProductionStatus"]["properties"]


CHANGES: Final[dict[str, Callable[[Any], object]]] = {
    "new status: COLLECTED": lambda doc: _properties(doc)["status"]["enum"].append("COLLECTED"),
    "gone status: READY": lambda doc: _properties(doc)["status"]["enum"].remove("READY"),
    "new error code: PRT_ON_FIRE": lambda doc: _schemas(doc)["ProductionErrorCode"]["enum"].append("PRT_ON_FIRE"),
    "gone error code: PRT_PAUSED": lambda doc: _schemas(doc)["ProductionErrorCode"]["enum"].remove("PRT_PAUSED"),
    "new error code: CARD_TOO_OLD": lambda doc: _schemas(doc)["RequestErrorCode"].update(
        description=_schemas(doc)["RequestErrorCode"]["description"] + "\n| CARD_TOO_OLD | The card is too old |"
    ),
    "gone error code: PAN_ALREADY_EXISTS": lambda doc: _schemas(doc)["RequestErrorCode"].update(
        description=_schemas(doc)["RequestErrorCode"]["description"].replace("PAN_ALREADY_EXISTS", "")
    ),
    "new field: queuePosition": lambda doc: _properties(doc).update(queuePosition={"type": "integer"}),
    "gone field: kioskId": lambda doc: _properties(doc).pop("kioskId"),
    "new path: GET /kiosks": lambda doc: doc["paths"].update({"/2026Q3/kiosks": {"get": {}}}),
    "gone path: PUT /spend/profiles/{}/cards/{}/production": lambda doc: doc["paths"][PATH].pop("put"),
    "new server: https://api.wise.example": lambda doc: doc["servers"].append({"url": "https://api.wise.example"}),
    "gone server: https://api.wise-sandbox.com": lambda doc: doc["servers"].pop(1),
    "new header: x-priority": lambda doc: doc["paths"][PATH]["get"].update(
        parameters=[{"name": "X-Priority", "in": "header"}]
    ),
    "gone header: x-trace-id": lambda doc: doc["paths"][PATH]["get"]["responses"]["200"]["headers"].pop("x-trace-id"),
    "new answer: 410": lambda doc: doc["paths"][PATH]["get"]["responses"].update({"410": {}}),
    "gone answer: 429": lambda doc: doc["paths"][PATH]["get"]["responses"].pop("429"),
}


def test_no_differences(capsys: pytest.CaptureFixture[str]) -> None:
    """A document that says what the package knows has no differences: 5 statuses, and 57 codes in lists and texts."""
    assert main([str(FILE)]) == 0
    assert capsys.readouterr().out.startswith("no differences: 5 of status, 57 of error code, 5 of field")


def test_each_difference_is_found() -> None:
    """Each thing that a document has more or less than the package is named, in the direction in which it differs."""
    with Table() as table:
        for line, change in CHANGES.items():
            with table.row(line):
                document = copy.deepcopy(_document())
                change(document)
                found = [one.partition(" is ")[0] for one in differences(KNOWN, facts_of(document))]
                assert line in found
                # An answer takes its headers with it.
                assert {one.split(":")[0] for one in found} <= {line.split(":")[0], "gone header"}


def test_every_kind_is_tried() -> None:
    """The changes above try each kind in both directions."""
    tried = {line.split(":")[0] for line in CHANGES}
    assert tried == {f"{direction} {kind}" for direction in ("new", "gone") for kind in KNOWN}


def test_differences_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The program prints a line for each difference, and ends with 1."""
    document = _document()
    _properties(document)["status"]["enum"].append("COLLECTED")
    (tmp_path / "changed.json").write_text(json.dumps(document))
    assert main([str(tmp_path / "changed.json")]) == 1
    assert capsys.readouterr().out == "new status: COLLECTED is in the document, and cardprod does not know it\n"


def test_no_such_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no such document is refused with the reason, and 2."""
    elsewhere = _document()
    elsewhere["components"]["schemas"]["RequestErrorCode"] = {"$ref": "codes.json#/all"}
    circle = _document()
    circle["components"]["schemas"]["RequestErrorCode"] = {"$ref": "#/components/schemas/RequestErrorCode"}
    nothing = _document()
    nothing["components"]["schemas"].pop("RequestErrorCode")
    rows = {
        "{": "is not JSON",
        "[]": "no OpenAPI document",
        '{"paths": {}}': "no OpenAPI document with GET",
        json.dumps({"paths": {PATH: {"get": {}}}}): "no schema",
        json.dumps(elsewhere): "another document",
        json.dumps(circle): "in a circle",
        json.dumps(nothing): "leads to nothing",
    }
    with Table() as table:
        for text, reason in rows.items():
            with table.row(reason):
                (tmp_path / "file.json").write_text(text)
                assert main([str(tmp_path / "file.json")]) == 2
                assert reason in capsys.readouterr().err
    assert main([str(tmp_path / "not there.json")]) == 2


def test_known_headers_are_used() -> None:
    """Each header that counts as known is one that the package sends or reads."""
    source = "".join(file.read_text("utf-8").lower() for file in Path(cardprod.__file__).parent.rglob("*.py"))
    assert [name for name in KNOWN["header"] if f'"{name}"' not in source] == []
