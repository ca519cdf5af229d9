"""JSON documents from servers, and the fields of a production status in answers and events: read strictly. Pure."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from cardprod.models import ProductionStatus, Status, one_line
from cardprod.telemetry import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cattrs import BaseValidationError

_ISO_8601: Final = re.compile(r"[0-9-]{10}T[0-9:]{8}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:?[0-9]{2})")
_LONGEST_NAME: Final = 100
_LONGEST_DESCRIPTION: Final = 2048
"""Characters that are kept of a status, a kiosk's id or an error code, and of a description. The longest that Wise
documents have 39 and 60."""
_STATUSES: Final = frozenset(map(str, Status))
_JSON_SPACE: Final = " \t\n\r"
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
_decode_json: Final[Callable[[str], tuple[object, int]]] = json.JSONDecoder().raw_decode


class Malformed(Exception):
    """A body is not of the documented shape; the message says why."""


class NotJson(Malformed):
    """A body that is something else than JSON."""


def load_object(body: bytes) -> dict[str, Json]:
    if not body:
        raise Malformed("the body is empty")
    value: object = None
    fault = None
    try:
        text = body.removeprefix(BOM_UTF8).decode().strip(_JSON_SPACE)
        value, end = _decode_json(text)
        if end != len(text):
            fault = f"not JSON: something follows the JSON at character {end}"
    except UnicodeDecodeError as exc:
        fault = f"not UTF-8: {exc.reason} at byte {exc.start}"
    except RecursionError as exc:
        raise Malformed("JSON nested too deep") from exc
    except ValueError as exc:  # not JSON, or an integer of thousands of digits
        fault = f"not JSON: {one_line(str(exc), 100)}"
    if fault is not None:
        raise NotJson(fault)  # without its cause, which holds the whole body
    if not isinstance(value, dict):
        raise Malformed(f"expected a JSON object, got {kind_of(value)}")
    return cast("dict[str, Json]", value)


def _text(value: object, longest: int) -> str:
    """Read a text, truncated to a length: a server's mistake must not fill the memory of a long wait."""
    if type(value) is not str:
        raise Malformed(f"expected a string, got {kind_of(value)}")
    kept = value[:longest]
    if kept.isascii():
        return kept
    # JSON can contain lone surrogates, which cannot be encoded for a terminal, a file or a database.
    return kept.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _optional_text(longest: int) -> Callable[[object, object], str | None]:
    def read(value: object, _: object) -> str | None:
        if value is None or (type(value) is str and len(value) <= longest and value.isascii()):
            return value
        return _text(value, longest)

    return read


def _status_name(value: object, _: object) -> str:
    if type(value) is str and value in _STATUSES:
        return value
    # A truncated status is still longer than any known one, and so not final.
    text = _text(value, _LONGEST_NAME)
    if not text.strip():
        raise Malformed("expected a status, got an empty string")
    return text


def parse_time(value: object, _: object) -> datetime | None:
    """Read ISO 8601 with an offset. A malformed time becomes None with a warning, so that its status is not lost."""
    if value is None:
        return None
    try:
        # `fromisoformat` alone would accept a date without a time, a time without an offset, and the malformed second
        # of one of Wise's samples, 12:24:560.
        if isinstance(value, str) and _ISO_8601.fullmatch(value):
            return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    # Without the value: a server can have put the token there.
    words = f"a string of {len(value)} characters" if isinstance(value, str) else kind_of(value)
    warn("a time is not in ISO 8601 and was left out: %s", words)
    return None


_NAMES_IN_ANSWER: Final = {"kiosk_id": "kioskId", "occurred_at": "occurredAt", "error_code": "errorCode"}
"""The names of fields in an answer; in an event they are as ours."""


@cache
def status_structurer(kind: Literal["answer", "event"]) -> Callable[[dict[str, Json]], ProductionStatus]:
    # cattrs generates the function once, with the first request, to keep `import cardprod` fast.
    from cattrs import BaseValidationError, Converter  # noqa: PLC0415
    from cattrs.gen import make_dict_structure_fn, override  # noqa: PLC0415

    names = _NAMES_IN_ANSWER if kind == "answer" else {}
    name = _optional_text(_LONGEST_NAME)
    read = make_dict_structure_fn(
        ProductionStatus,
        Converter(),
        status=override(struct_hook=_status_name),
        kiosk_id=override(rename=names.get("kiosk_id"), struct_hook=name),
        occurred_at=override(rename=names.get("occurred_at"), struct_hook=parse_time),
        error_code=override(rename=names.get("error_code"), struct_hook=name),
        description=override(struct_hook=_optional_text(_LONGEST_DESCRIPTION)),
    )

    def structure(body: dict[str, Json]) -> ProductionStatus:
        try:
            return read(body, ProductionStatus)
        except BaseValidationError as exc:
            raise Malformed("; ".join(_faults(exc, names))) from exc

    return structure


def _faults(exc: BaseValidationError, names: Mapping[str, str]) -> list[str]:
    """List what cattrs found wrong, field by field."""
    faults: list[str] = []
    for fault in exc.exceptions:
        fault.__traceback__ = None  # its frames hold a list with it: break the cycle
        field = next((note.name for note in getattr(fault, "__notes__", ()) if hasattr(note, "name")), "?")
        reason = "missing" if isinstance(fault, KeyError) else str(fault)
        faults.append(f"{names.get(field, field)}: {reason}")
    return faults


_KINDS: Final[Mapping[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def kind_of(value: object) -> str:
    return _KINDS[type(value)]
