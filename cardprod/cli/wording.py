"""Words and numbers as people read them: durations, counts, and a server's words made harmless. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["clock", "count_of", "printable", "roughly"]

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400
_FEW: Final = 1.5
"""Up to how many of the larger unit the smaller one is used: 80 seconds say more than one minute."""


def printable(text: str) -> str:
    """Take out what could play with a terminal: a server's words are shown here."""
    return "".join(
        character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def count_of(count: int, what: str) -> str:
    """Say how many there are of something, such as "1 card" or "1,000 cards"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def clock(seconds: float) -> str:
    """Write seconds as a clock does: 2:05, or 1:02:05 from an hour on."""
    minutes, rest = divmod(int(seconds), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def roughly(seconds: float | None) -> str:
    """Say how long something may take, no more exactly than an estimate can be: "about 4 min".

    Args:
        seconds: How long; None if nobody knows, which gives a dash.
    """
    if seconds is None:
        return "\N{EM DASH}"
    if seconds < _FEW * _MINUTE:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    for unit, name, next_unit in ((_MINUTE, "min", _HOUR), (_HOUR, "h", _DAY)):
        if seconds < _FEW * next_unit:
            return f"about {seconds / unit:.0f} {name}"
    return f"about {seconds / _DAY:,.0f} days"
