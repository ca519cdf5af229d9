"""The checks of arguments. Each raises `UsageError`, which says what is wrong, and what would be valid. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from numbers import Real
from typing import Any, Final, TypeGuard, cast

from cardprod.card import Card, UsageError

MOST: Final = 2**63 - 1
"""The largest count: databases can hold no larger one."""

_NOT_EMPTY: Final = re.compile(r".+", re.DOTALL)
_SHOWN: Final = 100


def is_finite_number(value: object) -> TypeGuard[float]:
    """Whether a value is an int or a float, and neither a bool, infinite nor NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def _shown(value: object) -> str:
    """Return what a message shows of a value; that of a huge number or of a stranger's class may itself raise."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the value's own
        return f"a {type(value).__name__} that has no repr"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def check_number(  # noqa: PLR0913 - each bound is a keyword
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Check a finite number and its range."""
    if not is_finite_number(value):
        raise UsageError(f"{name} must be a finite number, not {_shown(value)}")
    if not (least <= value <= most and above < value < below):
        named = {"at least": least, "above": above, "at most": most, "below": below}
        bounds = [f"{words} {bound:g}" for words, bound in named.items() if math.isfinite(bound)]
        raise UsageError(f"{name} must be {' and '.join(bounds)}, not {_shown(value)}")


def check_seconds(name: str, value: object, *, above_zero: bool = False) -> None:
    """Check a finite number of seconds, 0 or more; or above 0."""
    if not is_finite_number(value):
        raise UsageError(f"{name} must be a finite number of seconds, not {_shown(value)}")
    if value < 0 or (above_zero and value == 0):
        raise UsageError(f"{name} must be {'above' if above_zero else 'at least'} 0 seconds, not {_shown(value)}")


def check_delay(name: str, value: Any) -> float:  # noqa: ANN401 - what a user's schedule returned
    """Check a finite number of seconds above 0, also one of numpy's or a Fraction, and return it as a float."""
    if isinstance(value, (float, int, Real)) and not isinstance(value, bool):
        try:
            # Not as it is: a time plus a number of numpy's has only the digits of that.
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if 0 < seconds < math.inf:
            return seconds
    raise UsageError(f"{name} must be a finite number of seconds above 0, not {_shown(value)}")


def check_timeout(name: str, value: object) -> float | None:
    """Check a finite number of seconds, 0 or more; infinite and None are no limit, for which None is returned."""
    if value is None or (isinstance(value, float) and math.isinf(value) and value > 0):
        return None
    check_seconds(name, value)
    return cast("float", value)


def check_count(name: str, value: object, *, least: int = 1, most: int = MOST) -> None:
    """Check an int of 1 or more, or of another range."""
    if type(value) is not int or not least <= value <= most:
        words = f"of {least} or more" if most == MOST else f"from {least} to {most}"
        raise UsageError(f"{name} must be an int {words}, not {_shown(value)}")


def check_flag(name: str, value: object) -> None:
    """Check a bool."""
    if type(value) is not bool:
        raise UsageError(f"{name} must be True or False, not {_shown(value)}")


def check_text(name: str, value: object, words: str, allowed: re.Pattern[str] = _NOT_EMPTY) -> None:
    """Check a str that is not empty, or that matches a pattern, which `words` describe. The value is in no message."""
    if not isinstance(value, str):
        raise UsageError(f"{name} must be {words}, not a {type(value).__name__}")
    if not allowed.fullmatch(value):
        raise UsageError(f"{name} must be {words}; this one {'is not' if value else 'is empty'}")


def check_type(
    name: str, value: object, expected: type[object], words: str | None = None, *, or_none: bool = False
) -> None:
    """Check that a value is of a type, which `words` describe, or None if `or_none`. The value is in no message."""
    if not ((or_none and value is None) or isinstance(value, expected)):
        words = (words or f"a {expected.__name__}") + (" or None" if or_none else "")
        raise UsageError(f"{name} must be {words}, not a {type(value).__name__}")


def check_cards(cards: object) -> None:
    """Check that a value that can be iterated may be cards: that it is no text, not one card, and no dict of others."""
    match cards:
        case Card() | tuple((int(), object())):
            found = "one card: pass a list, [card]"
        case str() | bytes() | bytearray():
            found = "a text"
        case Mapping() if not isinstance(next(iter(cast("Iterable[object]", cards)), None), Card | tuple | None):
            found = "a dict of something else"
        case _:
            return
    raise UsageError(f"cards must be Cards or (profile_id, card_token) tuples, not {found}")


def check_callable(name: str, value: object, words: str) -> None:
    """Check that a value is None or a callable, which `words` describe."""
    if value is not None and not callable(value):
        raise UsageError(f"{name} must be {words}, or None, not a {type(value).__name__}")


def check_aware(name: str, value: object) -> None:
    """Check that a value is None or a datetime with a time zone."""
    if value is None or (isinstance(value, datetime) and value.utcoffset() is not None):
        return
    shown = "one without a time zone" if isinstance(value, datetime) else f"a {type(value).__name__}"
    raise UsageError(f"{name} must be an aware datetime or None, not {shown}")
