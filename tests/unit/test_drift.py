"""`tests.drift`, which compares the package with a copy of Wise's OpenAPI document: here with one of our own."""

from __future__ import annotations

import copy
import json
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

from hypothesis import example, given
from hypothesis import strategies as st

import cardprod
from tests.drift import KNOWN, NoSuchDocument, differences, facts_of, main
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

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


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of each value in a document: the keys and indices that lead to it."""
    if path:
        yield path
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value).items()
    elif isinstance(value, list):
        inner = enumerate(cast("Sequence[Any]", value))
    for key, one in inner:
        yield from _paths(one, (*path, key))


PLACES: Final = list(_paths(_document()))
REFERENCES: Final = ["#/" + "/".join(str(key).replace("~", "~0").replace("/", "~1") for key in one) for one in PLACES]
VALUES: Final = st.one_of(
    st.sampled_from(REFERENCES).map(lambda reference: {"$ref": reference}),
    st.sampled_from(REFERENCES).map(lambda reference: {"allOf": [{"$ref": reference}, {"enum": ["READY"]}]}),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["$ref", "enum"]), inner),
    ),
)
STATUS: Final = ("components", "schemas", "ProductionStatus")


@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3))
@example([(STATUS, {"allOf": [{"$ref": "#/" + "/".join(STATUS)}]})])
@example([((*STATUS, "properties", "status"), {"anyOf": [{"$ref": "#/" + "/".join(STATUS)}]})])
@example([(("servers",), None)])
def test_any_document_is_read_or_refused(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    """Whatever stands where in a document, also a schema that contains itself: it is compared, or refused."""
    document = _document()
    for place, value in changes:
        holder: Any = document
        with suppress(KeyError, IndexError, TypeError):  # where an earlier change took the place away
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = value
    with suppress(NoSuchDocument):
        list(differences(KNOWN, facts_of(document)))


def test_a_schema_within_itself_is_read() -> None:
    """A schema that contains itself, directly or through others, is read as if it did not."""
    document = _document()
    schemas = _schemas(document)
    schemas["ProductionErrorCode"]["anyOf"] = [{"$ref": "#/components/schemas/RequestErrorCode"}]
    schemas["RequestErrorCode"]["anyOf"] = [{"$ref": "#/components/schemas/ProductionErrorCode"}]
    assert list(differences(KNOWN, facts_of(document))) == []


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
        "[" * 100_000: "is not JSON",
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


def test_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A YAML file is read where PyYAML is installed, with answers that are numbers, and refused where it is not."""
    document = _document()
    responses = document["paths"][PATH]["get"]["responses"]
    document["paths"][PATH]["get"]["responses"] = {int(code): answer for code, answer in responses.items()}
    (tmp_path / "kiosk.yaml").write_text("as PyYAML would read it")

    def safe_load(_: str) -> object:
        return document

    monkeypatch.setitem(sys.modules, "yaml", SimpleNamespace(safe_load=safe_load, YAMLError=ValueError))
    assert main([str(tmp_path / "kiosk.yaml")]) == 0
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main([str(tmp_path / "kiosk.yaml")]) == 2
    assert "PyYAML reads: install it" in capsys.readouterr().err


def test_known_headers_are_used() -> None:
    """Each header that counts as known is one that the package sends or reads."""
    source = "".join(file.read_text("utf-8").lower() for file in Path(cardprod.__file__).parent.rglob("*.py"))
    assert [name for name in KNOWN["header"] if f'"{name}"' not in source] == []
