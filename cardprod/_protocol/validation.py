"""The checks of arguments, each written once: what is wrong and what would be right, before any I/O. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeGuard

from cardprod.errors import UsageError

if TYPE_CHECKING:
    from typing import Any

__all__ = ["check_count", "check_flag", "check_number", "check_seconds", "check_type", "is_finite_number"]


def is_finite_number(value: object) -> TypeGuard[float]:
    """Whether a value is an int or a float, and neither a bool, infinite nor NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def check_number(  # noqa: PLR0913 - each bound is a keyword
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Check a finite number, and its range.

    Raises:
        UsageError: It is none, or out of range; the message says which range.
    """
    if not is_finite_number(value):
        raise UsageError(f"{name} must be a finite number, not {value!r}")
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("at least", least), ("above", above), ("at most", most), ("below", below))
        if math.isfinite(bound)
    ]
    if not (least <= value <= most and above < value < below):
        raise UsageError(f"{name} must be {' and '.join(bounds)}, not {value!r}")


def check_seconds(name: str, value: object, *, above_zero: bool = False) -> None:
    """Check a finite number of seconds, 0 or more; or above 0.

    Raises:
        UsageError: It is not that.
    """
    if not is_finite_number(value):
        raise UsageError(f"{name} must be a finite number of seconds, not {value!r}")
    if value < 0 or (above_zero and value == 0):
        raise UsageError(f"{name} must be {'above' if above_zero else 'at least'} 0 seconds, not {value!r}")


def check_count(name: str, value: object) -> None:
    """Check an int of 1 or more.

    Raises:
        UsageError: It is not that.
    """
    if type(value) is not int or value < 1:
        raise UsageError(f"{name} must be an int of 1 or more, not {value!r}")


def check_flag(name: str, value: object) -> None:
    """Check a bool.

    Raises:
        UsageError: It is not that.
    """
    if type(value) is not bool:
        raise UsageError(f"{name} must be True or False, not {value!r}")


def check_type(name: str, value: object, expected: type[Any]) -> None:
    """Check that a value is of a type, or None. A value of another type is not shown: it may be a secret.

    Raises:
        UsageError: It is not that.
    """
    if value is not None and not isinstance(value, expected):
        raise UsageError(f"{name} must be a {expected.__name__} or None, not a {type(value).__name__}")
