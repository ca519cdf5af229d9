"""The converter of values to JSON and back: checkpoints, schedules, events, outcomes. Pure.

attrs classes become objects, and times whole microseconds since 1970 in UTC. Reading coerces nothing; a fault is
reported with its position. A field with a default may be missing.

A class with very many values can be written as arrays instead: see `write_as_rows`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from types import GenericAlias, NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast, get_args, get_origin

import attrs

from cardprod._protocol.validation import MOST, is_finite_number
from cardprod.card import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cattrs import Converter

_T = TypeVar("_T")
_A = TypeVar("_A", bound=attrs.AttrsInstance)

Count = Annotated[int, "0 or more"]
"""A number of occurrences, from 0 to `MOST`."""

UnixTime = Annotated[int, "microseconds since 1970, in UTC"]
"""A time as an int, which takes less memory than a `datetime`."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST_TIME: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST_TIME: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

_SLICE: Final = 1000
"""Rows that are converted at a time: of a million at once, garbage collections would take half of the time."""
_ROWS: Final[dict[type, tuple[Callable[[Any], Sequence[object]], Callable[[list[Any]], dict[str, object]]]]] = {}


def unix_time(seconds: float) -> UnixTime:
    """Convert seconds since 1970; clamped to the range of `datetime`."""
    return max(round(seconds * 1e6), _FIRST_TIME) if seconds < _LAST_TIME / 1e6 else _LAST_TIME


def to_unix_time(moment: datetime) -> UnixTime:
    """Convert an aware datetime."""
    return (moment - _EPOCH) // _MICROSECOND


def as_datetime(moment: UnixTime) -> datetime:
    """Return a time as an aware datetime."""
    return _EPOCH + timedelta(microseconds=moment)


def write_as_rows(
    cls: type[_T],
    to_row: Callable[[_T], Sequence[object]],
    from_row: Callable[[list[Any]], dict[str, object]],
) -> None:
    """Write a class as arrays, which are shorter than objects and several times faster.

    Args:
        cls: An attrs class.
        to_row: Converts a value to its array.
        from_row: Converts an array to the plain object of the value; raises `ValueError` if it is invalid.
    """
    _ROWS[cls] = to_row, from_row


def to_plain(value: object, as_type: object = None) -> Any:  # noqa: ANN401 - JSON, but for its times
    """Convert a value to plain objects, arrays and scalars; times stay `datetime`s.

    Args:
        value: The value.
        as_type: The type that it is read as: of a subclass, what that has besides is left out. None for its own.
    """
    return _converter().unstructure(value, unstructure_as=as_type)


def to_json(cls: type[_A], value: _A, *, version: int) -> str:
    """Convert a value to one line of JSON, with the version of its format.

    Args:
        cls: The class that `from_json` reads: of a subclass, what that has besides is left out.
        value: The value.
        version: The version.
    """
    # Joined once: each copy of what a million rows are takes as long as a tenth of their conversion.
    return "".join(_parts_of_json(cls, value, version))


def _parts_of_json(cls: type[_A], value: _A, version: int) -> Iterator[str]:
    yield f'{{"version":{version}'
    for field in attrs.fields(attrs.resolve_types(cls)):
        yield f',"{field.name}":'
        items = cast("Sequence[object]", getattr(value, field.name))
        if not (isinstance(items, tuple) and items and type(items[0]) in _ROWS):
            yield _dump(to_plain(items, field.type))
            continue
        to_row = _ROWS[type(items[0])][0]
        for first in range(0, len(items), _SLICE):
            yield "," if first else "["
            yield _dump([to_row(item) for item in items[first : first + _SLICE]])[1:-1]
        yield "]"
    yield "}"


_dump: Final = json.JSONEncoder(default=to_unix_time, separators=(",", ":"), check_circular=False).encode


def from_json(cls: type[_T], text: str | bytes, *, version: int, writer: str) -> _T:
    """Read what `to_json` returned.

    Args:
        cls: The class.
        text: The JSON.
        version: The one supported version.
        writer: The function that should have written it, for the message.

    Raises:
        UsageError: It is invalid or of another version; the message says what is wrong, and where.
    """
    try:
        saved: object = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        saved = None
    if not isinstance(saved, dict):
        raise UsageError(f"this is not what {writer} gave: it is no JSON object")
    fields = cast("dict[str, object]", saved)
    written_in = fields.pop("version", None)
    if type(written_in) is not int:
        raise UsageError(f"this is not what {writer} gave: it has no version")
    if written_in != version:
        raise UsageError(
            f"this was written by {writer} in version {written_in}; known is version {version}: install a newer one"
        )
    from cattrs import BaseValidationError, transform_error  # noqa: PLC0415 - as in `_converter`

    try:
        return _converter().structure(fields, cls)
    except RecursionError:
        reason = "it is nested too deeply"
    except BaseValidationError as exc:
        reason = transform_error(exc, path="", format_exception=_reason)[0].replace(" @ .", " @ ").removesuffix(" @ ")
    raise UsageError(f"this is not what {writer} gave: {reason}")


@cache
def _converter() -> Converter:
    # cattrs is imported when it is first needed, here or with the first request, to keep `import cardprod` fast.
    from cattrs import Converter  # noqa: PLC0415
    from cattrs.cols import list_structure_factory  # noqa: PLC0415
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn  # noqa: PLC0415

    converter = Converter()

    def read_tuples(type_: Any) -> Callable[[object, Any], object]:  # noqa: ANN401 - types, as cattrs has them
        list_of: Any = GenericAlias(list, get_args(type_)[0])
        read: Any = list_structure_factory(list_of, converter)
        return lambda value, _: tuple(read(_array(value), list_of))

    def read_objects(cls: Any) -> Callable[[object, Any], object]:  # noqa: ANN401 - as above
        read = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)
        if cls not in _ROWS:
            return lambda value, type_: read(_object(value), type_)
        from_row = _ROWS[cls][1]
        return lambda value, type_: read(from_row(_array(value)), type_)

    def write_objects(cls: Any) -> Callable[[Any], object]:  # noqa: ANN401 - as above
        return _ROWS[cls][0] if cls in _ROWS else make_dict_unstructure_fn(cls, converter)

    converter.register_structure_hook_factory(attrs.has)(read_objects)
    converter.register_unstructure_hook_factory(attrs.has)(write_objects)
    converter.register_structure_hook_factory(_is_tuple)(read_tuples)
    for scalar, read in _SCALARS.items():
        converter.register_structure_hook(scalar, read)
    converter.register_structure_hook_func(lambda type_: type_ == Count, _read_count)
    converter.register_structure_hook_func(lambda type_: type_ == UnixTime, _read_unix_time)
    converter.register_structure_hook_func(_is_text_or_enum, _read_text_or_enum)
    return converter


def _is_tuple(type_: Any) -> bool:  # noqa: ANN401 - as above
    return get_origin(cast("object", type_)) is tuple


def _is_text_or_enum(type_: Any) -> bool:  # noqa: ANN401 - as above
    """Whether it is a union of str and enums, as statuses and codes are: attrs converts known texts to the enum."""
    texts = [one for one in get_args(type_) if one is not NoneType] if isinstance(type_, UnionType) else []
    return bool(texts) and all(issubclass(one, str) for one in texts)


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", _checked(dict, value, "an object"))


def _array(value: object) -> list[object]:
    return cast("list[object]", _checked(list, value, "an array"))


def _checked(expected: type[_T], value: object, words: str) -> _T:
    if type(value) is not expected:
        raise ValueError(f"expected {words}")
    return value


def _reason(exc: BaseException, _: type | None) -> str:
    if isinstance(exc, KeyError):
        return f"{exc.args[0]} is missing"
    unknown: set[str] | None = getattr(exc, "extra_fields", None)
    return str(exc) if unknown is None else f"unknown fields: {', '.join(sorted(unknown))}"


# --- Scalars, none of which is coerced ---


def _read_text(value: object, _: object) -> str:
    text = _checked(str, value, "a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected a string without half characters") from None
    return text


def _read_text_or_enum(value: object, type_: object) -> str | None:
    return None if value is None and NoneType in get_args(type_) else _read_text(value, type_)


def _read_count(value: object, _: object) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError("expected an integer of 0 or more")
    return value


def _read_unix_time(value: object, _: object) -> int:
    if type(value) is not int or not _FIRST_TIME <= value <= _LAST_TIME:
        raise ValueError("expected a time, in whole microseconds since 1970")
    return value


def _read_number(value: object, _: object) -> float:
    if not is_finite_number(value):
        raise ValueError("expected a finite number")
    return value


def _read_time(value: object, type_: object) -> datetime:
    return as_datetime(_read_unix_time(value, type_))


_SCALARS: Final[Mapping[type, Callable[[object, object], object]]] = {
    str: _read_text,
    bool: lambda value, _: _checked(bool, value, "true or false"),
    int: lambda value, _: _checked(int, value, "an integer"),
    float: _read_number,
    datetime: _read_time,
}
