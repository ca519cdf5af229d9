"""The headers of a request that another server received, in whichever shape it keeps them. Pure.

| who | has headers as |
| --- | --- |
| Starlette, FastAPI, Django, aiohttp, Tornado, API gateways | a mapping; a value may be a list, or None |
| Flask, Quart and all of Werkzeug | no `Mapping`, but with `.items()` |
| `http.server` | an `email.message.Message`, which has `.items()` too |
| ASGI | a list of pairs of bytes |
| WSGI | the environ, in which `X-Delivery-Id` is `HTTP_X_DELIVERY_ID` |

Any caller of the server chooses the headers, so nothing in them is an error here: a value that is no text is ignored.
What holds the headers is the programmer's choice, and refused in words where it cannot be that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

from cardprod.card import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

_WSGI_PREFIX: Final = "http_"
_ACCEPTED: Final = "the headers of a request: your framework's own, pairs of a name and a value, or a WSGI environ"


class HasItems(Protocol):
    """Headers that give their names and values as pairs, such as a `Mapping`, Werkzeug's, or a `Message`."""

    def items(self) -> Iterable[tuple[object, object]]: ...


class HasGet(Protocol):
    """Headers that can only be asked for by name."""

    def get(self, name: str, /) -> object: ...


HeadersLike: TypeAlias = HasItems | HasGet | Iterable[tuple[str | bytes, str | bytes]]
"""Headers in any of the shapes that are accepted."""


def read_headers(headers: object, names: Collection[str]) -> dict[str, list[str]]:
    """Read all values, in order, of the headers with some names in lower case; bytes are decoded as latin-1.

    Raises:
        UsageError: It is nothing that holds headers.
    """
    # In one pass: they may be an iterator.
    found: dict[str, list[str]] = {name: [] for name in names}
    for pair in _pairs(headers, names):
        if not isinstance(pair, tuple | list) or len(cast("tuple[object, ...]", pair)) != 2:  # noqa: PLR2004 - a pair
            raise UsageError(f"headers must be {_ACCEPTED}; this {type(headers).__name__} holds other things")
        name, value = cast("tuple[object, object]", pair)
        values = found.get(_plain_name(_text(name)))
        if values is not None:
            # A server may keep all that came under one name together.
            together = cast("list[object]", value) if isinstance(value, tuple | list) else [value]
            values += [text for one in together if (text := _text(one)) is not None]
    return found


def _pairs(headers: object, names: Collection[str]) -> Iterable[object]:
    items, get = getattr(headers, "items", None), getattr(headers, "get", None)
    pairs: object = None
    if callable(items):
        pairs = items()
    elif not isinstance(headers, str | bytes | bytearray):
        pairs = headers
    if isinstance(pairs, Iterable):
        return cast("Iterable[object]", pairs)
    if callable(get):
        return [(name, get(name)) for name in names]
    raise UsageError(f"headers must be {_ACCEPTED}, not a {type(headers).__name__}")


def _plain_name(name: str | None) -> str:
    lowered = (name or "").lower()
    if lowered.startswith(_WSGI_PREFIX):
        return lowered.removeprefix(_WSGI_PREFIX).replace("_", "-")
    return lowered


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None
