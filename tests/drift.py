"""Compares the package with a copy of Wise's published OpenAPI document: `python -m tests.drift FILE`.

FILE is the document of the kiosk collection (OpenAPI 3.1), as JSON, or as YAML where PyYAML is installed. Printed is
what it has and the package does not know, and the other way round: statuses, error codes, fields, paths, servers,
headers and documented answers. Codes are read from `enum` and `const`, and from texts, where documents list them too.

Exit code: 0 without differences, 1 with some, 2 if the file is no such document.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from cardprod import PRODUCTION, PRODUCTION_MTLS, SANDBOX, SANDBOX_MTLS, ErrorCode, ProductionStatus, Status
from cardprod._protocol.requests import CORRELATION_ID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["KNOWN", "Facts", "NoSuchDocument", "differences", "facts_of", "main"]

Facts = dict[str, frozenset[str]]
"""What was found, by its kind."""

_STATUS_PATH: Final = "/spend/profiles/{}/cards/{}/production"
_METHODS: Final = ("get", "put", "post", "patch", "delete")
_VERSION: Final = re.compile(r"^/(?:v[0-9]+|[0-9]{4}Q[1-4])(?=/)")
_CODE: Final = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
_MOST_REFERENCES: Final = 50


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


KNOWN: Final[Facts] = {
    "status": frozenset(map(str, Status)),
    "error code": frozenset(map(str, ErrorCode)),
    "field": frozenset(_camel_case(field.name) for field in attrs.fields(ProductionStatus)),
    # The client sends the first; the simulator answers all of them.
    "path": frozenset({f"GET {_STATUS_PATH}", f"PUT {_STATUS_PATH}", f"POST /simulation{_STATUS_PATH}"}),
    "server": frozenset({PRODUCTION, SANDBOX, PRODUCTION_MTLS, SANDBOX_MTLS}),
    "header": frozenset({CORRELATION_ID.lower(), "x-trace-id", "retry-after", "x-rate-limited-by"}),
    "answer": frozenset({"200", "429"}),
}
"""What the package knows. Other answers are errors of their class."""

_SENT_WITHOUT_MENTION: Final = frozenset({"authorization", "accept", "content-type", "user-agent"})


class NoSuchDocument(Exception):
    """The file is no OpenAPI document with the call for a card's production status."""


def facts_of(document: object) -> Facts:
    """Read what a document says of the call for a card's production status.

    Raises:
        NoSuchDocument: It has no such call.
    """
    whole = _object(document)
    calls = {
        f"{method.upper()} {_shape(path)}": (_object(item), _object(_object(item)[method]))
        for path, item in _object(whole.get("paths")).items()
        for method in _METHODS
        if method in _object(item)
    }
    if f"GET {_STATUS_PATH}" not in calls:
        raise NoSuchDocument(f"this is no OpenAPI document with GET …{_STATUS_PATH}")
    item, call = calls[f"GET {_STATUS_PATH}"]
    responses = _object(call.get("responses"))
    bodies = _object(_resolve(whole, responses.get("200")).get("content")).values()
    if not bodies:
        raise NoSuchDocument(f"GET …{_STATUS_PATH} has no schema for its 200")
    fields = {
        name: value
        for body in bodies
        for part in _parts(whole, _object(body).get("schema"))
        for name, value in _object(part.get("properties")).items()
    }
    servers = [_object(server).get("url") for one in (whole, item, call) for server in _list(one.get("servers"))]
    return {
        "status": frozenset(_values(whole, fields.get("status"))),
        "error code": frozenset(_codes(whole, fields.get("errorCode"))),
        "field": frozenset(fields),
        "path": frozenset(calls),
        "server": frozenset(url.rstrip("/") for url in servers if isinstance(url, str)),
        "header": frozenset(_headers(whole, item, call)) - _SENT_WITHOUT_MENTION,
        "answer": frozenset(responses),
    }


def differences(known: Facts, found: Facts) -> Iterator[str]:
    """Say, a line each, what is only in the document, and what only the package knows."""
    for kind in known:
        for name in sorted(found[kind] - known[kind]):
            yield f"new {kind}: {name} is in the document, and cardprod does not know it"
        for name in sorted(known[kind] - found[kind]):
            yield f"gone {kind}: {name} is known to cardprod, and not in the document"


def _shape(path: str) -> str:
    """Remove the version from a path, and the names of its parameters."""
    shape = re.sub(r"\{[^}]*\}", "{}", path)
    return _VERSION.sub("", re.sub(r"^/\{\}(?=/(?:spend|simulation)/)", "", shape))


def _object(value: object) -> dict[str, Any]:
    """Take a JSON object; anything else has nothing in it."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[Any]:
    """Take a JSON array; anything else has nothing in it."""
    return cast("Sequence[Any]", value) if isinstance(value, list) else []


def _resolve(document: dict[str, Any], value: object) -> dict[str, Any]:
    """Follow references inside the document."""
    found = _object(value)
    for _ in range(_MOST_REFERENCES):
        if "$ref" not in found:
            return found
        reference = str(found["$ref"])
        if not reference.startswith("#/"):
            raise NoSuchDocument(f"{reference} is another document: bundle them into one first")
        found = document
        for name in reference[2:].split("/"):
            found = _object(found.get(name.replace("~1", "/").replace("~0", "~")))
        if not found:
            raise NoSuchDocument(f"{reference} leads to nothing")
    raise NoSuchDocument("its references lead in a circle")


def _parts(document: dict[str, Any], schema: object) -> Iterator[dict[str, Any]]:
    """Give a schema, and those it is composed of, each once: one can contain itself."""
    seen: set[int] = set()
    to_read = [schema]
    while to_read:
        resolved = _resolve(document, to_read.pop())
        if id(resolved) not in seen:
            seen.add(id(resolved))
            yield resolved
            to_read += [one for word in ("allOf", "oneOf", "anyOf") for one in _list(resolved.get(word))]


def _values(document: dict[str, Any], schema: object) -> Iterator[str]:
    for part in _parts(document, schema):
        yield from (str(value) for value in _list(part.get("enum")) if value is not None)
        if "const" in part:
            yield str(part["const"])


def _codes(document: dict[str, Any], schema: object) -> Iterator[str]:
    yield from _values(document, schema)
    for part in _parts(document, schema):
        yield from set(_CODE.findall(str(part.get("description", "")))) - {str(status) for status in Status}


def _headers(document: dict[str, Any], item: dict[str, Any], call: dict[str, Any]) -> Iterator[str]:
    for parameter in [*_list(item.get("parameters")), *_list(call.get("parameters"))]:
        resolved = _resolve(document, parameter)
        if resolved.get("in") == "header":
            yield str(resolved.get("name")).lower()
    for response in _object(call.get("responses")).values():
        for name in _object(_resolve(document, response).get("headers")):
            yield name.lower()


def _read(path: Path) -> object:
    is_yaml = path.suffix in {".yaml", ".yml"}
    try:
        text = path.read_text("utf-8")
        return json.loads(_json_of(text) if is_yaml else text)
    except ImportError:
        raise NoSuchDocument(f"{path} is YAML, which PyYAML reads: install it, or convert the file to JSON") from None
    except (ValueError, RecursionError) as exc:
        raise NoSuchDocument(f"{path} is not {'YAML' if is_yaml else 'JSON'}: {exc}") from None


def _json_of(text: str) -> str:
    """Convert YAML to JSON, in which an answer is "200" and not 200, and nothing contains itself."""
    yaml: Any = importlib.import_module("yaml")
    try:
        return json.dumps(yaml.safe_load(text), default=str)
    except (yaml.YAMLError, TypeError) as exc:
        raise ValueError(exc) from None


def main(argv: list[str] | None = None) -> int:
    """Compare, print the differences, and return the exit code."""
    arguments = argparse.ArgumentParser(prog="python -m tests.drift", description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("file", type=Path, help="the OpenAPI document")
    path: Path = arguments.parse_args(argv).file
    try:
        found = facts_of(_read(path))
    except (NoSuchDocument, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    lines = [*differences(KNOWN, found)]
    counts = ", ".join(f"{len(found[kind])} of {kind}" for kind in KNOWN)
    sys.stdout.write(("\n".join(lines) or f"no differences: {counts}") + "\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
