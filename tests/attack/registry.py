"""The attacks: each is a small async function that `attack` adds to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Found: TypeAlias = "list[str]"
"""What an attack finds wrong, in words; nothing if the client holds."""


class NotTried(Exception):
    """An attack needs something that this machine does not have."""


@attrs.frozen
class Attack:
    """One attack: what is tried, what tries it, and why it is known to be wrong, if it is."""

    what: str
    run: Callable[[], Awaitable[Found]]
    known: str | None


ATTACKS: Final[list[Attack]] = []


def attack(what: str, *, known: str | None = None) -> Callable[[Callable[[], Awaitable[Found]]], None]:
    """Add a function to the attacks."""
    return lambda run: ATTACKS.append(Attack(what, run, known))
