"""The checks of arguments: what they refuse, in which words, and that no other module has its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import pytest

from cardprod._protocol.validation import (
    check_aware,
    check_callable,
    check_count,
    check_delay,
    check_flag,
    check_number,
    check_seconds,
    check_text,
    check_timeout,
    check_type,
)
from cardprod.errors import UsageError
from tests.table import Table
from tests.unit.test_layers import FILES, module_of

if TYPE_CHECKING:
    from collections.abc import Callable

NAIVE: Final = datetime(2026, 1, 1)  # noqa: DTZ001 - it is what must be refused
INF, NAN = float("inf"), float("nan")


class Reprless:
    """A value of somebody's own that cannot be shown."""

    def __repr__(self) -> str:
        raise LookupError


RIGHT: Final[list[tuple[Callable[..., object], Any, dict[str, Any]]]] = [
    (check_number, 0.5, {"above": 0, "below": 1}),
    (check_number, 1, {"least": 1, "most": 1}),
    (check_seconds, 0, {}),
    (check_delay, Fraction(1, 3), {}),
    (check_count, 1, {}),
    (check_count, 2, {"least": 2, "most": 2}),
    (check_flag, False, {}),
    (check_text, "\n", {"words": "a text"}),
    (check_text, "a", {"words": "a letter", "allowed": re.compile("[a-z]")}),
    (check_type, True, {"expected": int}),
    (check_type, None, {"expected": int, "or_none": True}),
    (check_callable, print, {"words": "a function"}),
    (check_callable, None, {"words": "a function"}),
    (check_aware, NAIVE.replace(tzinfo=UTC), {}),
    (check_aware, None, {}),
]
WRONG: Final[list[tuple[Callable[..., object], Any, dict[str, Any], str]]] = [
    (check_number, True, {}, "must be a finite number, not True"),
    (check_number, INF, {}, "must be a finite number, not inf"),
    (check_number, NAN, {"least": 0}, "must be a finite number, not nan"),
    (check_number, "1", {}, "must be a finite number, not '1'"),
    (check_number, 10**400, {}, "must be a finite number, not 1000"),
    (check_number, 2, {"least": 0, "most": 1}, "must be at least 0 and at most 1, not 2"),
    (check_number, 1, {"above": 0, "below": 1}, "must be above 0 and below 1, not 1"),
    (check_seconds, False, {}, "must be a finite number of seconds, not False"),
    (check_timeout, -INF, {}, "must be a finite number of seconds, not -inf"),
    (check_timeout, -1, {}, "must be at least 0 seconds, not -1"),
    (check_seconds, -1, {}, "must be at least 0 seconds, not -1"),
    (check_seconds, 0, {"above_zero": True}, "must be above 0 seconds, not 0"),
    (check_delay, True, {}, "must be a finite number of seconds above 0, not True"),
    (check_delay, 0, {}, "must be a finite number of seconds above 0, not 0"),
    (check_delay, 10**5000, {}, "must be a finite number of seconds above 0, not a int that has no repr"),
    (check_count, 0, {}, "must be an int of 1 or more, not 0"),
    (check_count, True, {}, "must be an int of 1 or more, not True"),
    (check_count, 1, {"least": 2}, "must be an int of 2 or more, not 1"),
    (check_count, 6, {"most": 5}, "must be an int from 1 to 5, not 6"),
    (check_count, 10**30, {}, "must be an int of 1 or more, not 1000"),
    (check_count, 10**5000, {}, "must be an int of 1 or more, not a int that has no repr"),
    (check_number, 10**5000, {"most": 5}, "must be a finite number, not a int that has no repr"),
    (check_seconds, Reprless(), {}, "must be a finite number of seconds, not a Reprless that has no repr"),
    (check_flag, "x" * 5000, {}, f"must be True or False, not '{'x' * 99}…"),
    (check_flag, 1, {}, "must be True or False, not 1"),
    (check_text, "", {"words": "a text"}, "must be a text; this one is empty"),
    (check_text, 5, {"words": "a text"}, "must be a text, not a int"),
    (check_text, "secret", {"words": "a letter", "allowed": re.compile("[a-z]")}, "must be a letter; this one is not"),
    (check_type, None, {"expected": int}, "must be a int, not a NoneType"),
    (check_type, "secret", {"expected": int, "or_none": True}, "must be a int or None, not a str"),
    (check_type, [], {"expected": Mapping, "words": "a mapping"}, "must be a mapping, not a list"),
    (check_callable, 5, {"words": "a function"}, "must be a function, or None, not a int"),
    (check_aware, NAIVE, {}, "must be an aware datetime or None, not one without a time zone"),
    (check_aware, "2026-01-01T00:00:00Z", {}, "must be an aware datetime or None, not a str"),
]


def test_what_is_right_passes() -> None:
    """An argument that can be right passes, at the very bounds too."""
    with Table() as table:
        for check, value, options in RIGHT:
            with table.row(check.__name__, value, options):
                check("name", value, **options)


def test_what_is_wrong_is_named() -> None:
    """An argument that cannot be right is a `UsageError` that names it, what would be right, and no secret."""
    with Table() as table:
        for check, value, options, words in WRONG:
            with table.row(check.__name__, value, options):
                with pytest.raises(UsageError) as caught:
                    check("name", value, **options)
                assert str(caught.value).startswith(f"name {words}")
                assert "secret" not in str(caught.value)


def test_numbers_are_checked_in_one_place() -> None:
    """No other module asks by itself whether a number is finite, or an int that is no bool."""
    with Table() as table:
        for file in FILES:
            if module_of(file) != "cardprod._protocol.validation":
                with table.row(module_of(file)):
                    assert list(own_checks(file.read_text("utf-8"))) == []


def test_own_checks_are_found() -> None:
    """The test above finds a check of a number that a module has of its own."""
    found = own_checks(
        "math.isfinite(x)\nisnan(x)\nisinstance(x, bool)\nisinstance(x.y, (int, bool))\nisinstance(x, int)"
    )
    assert found == ["math.isfinite(x)", "isnan(x)", "isinstance(x, bool)", "isinstance(x.y, (int, bool))"]


def own_checks(source: str) -> list[str]:
    """List the calls that ask whether a number is finite, or a bool."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if _is_own_check(call)]


def _is_own_check(call: ast.Call) -> bool:
    match call:
        case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name)) if name in {"isfinite", "isnan"}:
            return True
        case ast.Call(func=ast.Name("isinstance"), args=[_, types]):
            return any(isinstance(node, ast.Name) and node.id == "bool" for node in ast.walk(types))
        case _:
            return False
