"""A card, and the two errors that anything may raise: `CardprodError`, the root, and `UsageError`. No I/O.

They share a module because a card raises `UsageError`, and an error names its card. The other errors are in
`cardprod.errors`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Card", "CardLike", "CardprodError", "UsageError", "one_line"]

_CARD_TOKEN: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~-]{1,128}")
_NOT_OF_A_TOKEN: Final = re.compile(r"[^A-Za-z0-9._~-]")
_MOST_CHARACTERS: Final = 128
_MAX_INT64: Final = 2**63 - 1
_SHOWN: Final = 8
_E = TypeVar("_E", bound="CardprodError")


def _rebuild(cls: type[_E], args: tuple[object, ...], state: dict[str, Any]) -> _E:
    """Rebuild a pickled or copied error without its constructor, which needs more arguments than its message."""
    error = cls.__new__(cls, *args)
    error.args = args  # `OSError.__new__` leaves them empty, and some are an OSError
    error.__dict__.update(state)
    return error


class CardprodError(Exception):
    """The root of all errors that this package raises.

    Attributes:
        card: The card it is about; None if it is about no single card.
    """

    card: Card | None

    def __init__(self, message: str, *, card: Card | None = None) -> None:
        super().__init__(message)
        self.card = card

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        if self.card is None:
            return message
        # A server's message may contain the card's token, which must not appear whole in a log.
        shortened = str(self.card).partition("/")[2]
        return f"card {self.card}: {message.replace(self.card.card_token, shortened)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class UsageError(CardprodError, ValueError):
    """An invalid argument or call: fix the calling code.

    An invalid argument is reported before any I/O; a closed client or session, when the client is used.
    """


def one_line(text: str, limit: int) -> str:
    """Make untrusted text fit for a message: one line of printable characters, so many at most."""
    text = " ".join(text[: limit * 4].split())
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _may_be_card(profile_id: object, card_token: object) -> bool:
    is_id = type(profile_id) is int and 0 < profile_id <= _MAX_INT64
    return is_id and isinstance(card_token, str) and _CARD_TOKEN.fullmatch(card_token) is not None


def _refuse(profile_id: object, card_token: object) -> UsageError:
    """Make the error that says which of the two is invalid, what would be valid, and what is wrong with it.

    No more of a token is shown than a card shows of it: what was passed as an id may be one.
    """
    if isinstance(profile_id, str) and profile_id.isdecimal():
        return UsageError("profile_id must be an int, such as 123456; this is a str of digits: convert it with int()")
    if type(profile_id) is not int:
        return UsageError(f"profile_id must be an int, such as 123456; this is a {type(profile_id).__name__}")
    if not 0 < profile_id <= _MAX_INT64:
        return UsageError(
            f"profile_id must be from 1 to 2**63 - 1; this one is {'below' if profile_id < 1 else 'above'} that"
        )
    if not isinstance(card_token, str):
        return UsageError(f"card_token must be a str; this is a {type(card_token).__name__}")
    wrong = _NOT_OF_A_TOKEN.search(card_token)
    shown = ascii(card_token[:_SHOWN]) + ("…" if len(card_token) > _SHOWN else "")
    if not card_token:
        fault = "is empty"
    elif wrong is not None:
        fault = f"has {wrong[0]!a} as character {wrong.start() + 1}"
    elif len(card_token) > _MOST_CHARACTERS:
        fault = f"has {len(card_token)} characters"
    else:
        fault = "has a meaning in a path"
    return UsageError(
        "card_token must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ -, and not '.' or '..'; "
        f"this one of profile {profile_id}, {shown}, {fault}"
    )


@attrs.frozen(repr=False, eq=False)
class Card:
    """One card: the profile that owns it and the card's token. Hashable; equal to the tuple of the two.

    Only tokens that need no escaping in a URL are accepted. `str` and `repr` shorten the token; `card.card_token` is
    the whole one.

    Args:
        profile_id: The id of the profile that owns the card, a positive int64.
        card_token: The card's token, 1 to 128 characters of `A-Za-z0-9._~-`; a UUID in all of Wise's samples.

    Raises:
        UsageError: One of them is invalid.
    """

    profile_id: int
    card_token: str

    def __attrs_post_init__(self) -> None:
        if not _may_be_card(self.profile_id, self.card_token):
            raise _refuse(self.profile_id, self.card_token)
        if type(self.card_token) is not str:  # a subclass may hash, compare or print in its own way
            object.__setattr__(self, "card_token", str.__str__(self.card_token))

    @classmethod
    def of(cls, card: CardLike) -> Card:
        """Return a card as it is, or the card of a `(profile_id, card_token)` tuple.

        Of a subclass that hashes or compares in its own way it is one that does not, which events and other waits name.

        Raises:
            UsageError: It is neither, or is invalid.
        """
        if isinstance(card, Card):
            cls_ = type(card)
            is_plain = cls_ is Card or (cls_.__hash__ is Card.__hash__ and cls_.__eq__ is Card.__eq__)
            return card if is_plain else card._plain()  # noqa: SLF001 - its own class
        # A caller without a type checker may pass anything at all.
        if isinstance(card, tuple) and len(card) == 2:  # type: ignore[redundant-expr]  # noqa: PLR2004
            return cls(*card)
        raise UsageError(f"expected a Card or a (profile_id, card_token) tuple, got a {type(card).__name__}")

    def _plain(self) -> Card:
        """Return it without what a subclass adds that this package does not know."""
        return Card(self.profile_id, self.card_token)

    def __iter__(self) -> Iterator[int | str]:
        """Unpack as the tuple does: `profile_id, card_token = card`."""
        return iter((self.profile_id, self.card_token))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Card):
            return self.card_token == other.card_token and self.profile_id == other.profile_id
        return (self.profile_id, self.card_token) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        # The tuple's hash, so that either finds the other in a dict.
        return hash((self.profile_id, self.card_token))

    def _short_token(self) -> str:
        """Shorten the token to its first and last characters: those of one system may all begin, or all end, alike."""
        token, most = self.card_token, _SHOWN // 2
        return token if len(token) <= _SHOWN else f"{token[:most]}…{token[-most:]}"

    def __repr__(self) -> str:
        return f"Card({self.profile_id}, {self._short_token()!r})"

    def __str__(self) -> str:
        return f"{self.profile_id}/{self._short_token()}"


CardLike: TypeAlias = Card | tuple[int, str]
"""What is accepted as a card: a `Card`, or a `(profile_id, card_token)` tuple."""
