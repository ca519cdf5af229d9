"""A webhook delivery: its headers, in whichever shape a server keeps them, and its event. Pure.

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

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

from cardprod._protocol.documents import Json, Malformed, kind_of, load_object, parse_time, status_structurer
from cardprod.errors import BadEvent, UsageError
from cardprod.models import Card, ProductionEvent, ProductionStatus, one_line

if TYPE_CHECKING:
    from collections.abc import Collection

_EVENT_TYPE: Final = "cards#card-production-status-change"
_WSGI_PREFIX: Final = "http_"
_ACCEPTED: Final = "the headers of a request: your framework's own, pairs of a name and a value, or a WSGI environ"


class HasItems(Protocol):
    """Headers that give their names and values as pairs, such as a `Mapping`, Werkzeug's, or a `Message`."""

    def items(self) -> Iterable[tuple[object, object]]: ...


HeadersLike: TypeAlias = HasItems | Iterable[tuple[str | bytes, str | bytes]]
"""Headers in any of the shapes that are accepted."""


def read_headers(headers: object, names: Collection[str]) -> dict[str, list[str]]:
    """Read all values, in order, of the headers with some names in lower case; bytes are decoded as latin-1.

    Raises:
        UsageError: It is nothing that holds headers.
    """
    items = getattr(headers, "items", None)
    pairs: object = items() if callable(items) else headers
    if isinstance(pairs, str | bytes | bytearray) or not isinstance(pairs, Iterable):
        raise UsageError(f"headers must be {_ACCEPTED}, not a {type(headers).__name__}")
    # In one pass: they may be an iterator.
    found: dict[str, list[str]] = {name: [] for name in names}
    for pair in cast("Iterable[object]", pairs):
        if not isinstance(pair, tuple | list) or len(cast("tuple[object, ...]", pair)) != 2:  # noqa: PLR2004 - a pair
            raise UsageError(f"headers must be {_ACCEPTED}; this {type(headers).__name__} holds other things")
        name, value = cast("tuple[object, object]", pair)
        plain = (_text(name) or "").lower()
        if plain.startswith(_WSGI_PREFIX):
            plain = plain.removeprefix(_WSGI_PREFIX).replace("_", "-")
        if plain in found:
            # A server may keep all that came under one name together.
            together = cast("list[object]", value) if isinstance(value, tuple | list) else [value]
            found[plain] += [text for one in together if (text := _text(one)) is not None]
    return found


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None


def parse_event(body: bytes, *, delivery_id: str | None = None, is_test: bool = False) -> ProductionEvent:
    """Parse the body of a delivery whose signature was verified, of any schema version like 2.0.0 or 4.0.0.

    Any body is accepted of a test delivery; its card and status are read if they are valid.

    Raises:
        BadEvent: It is not a production event, or not of the documented shape.
    """
    try:
        return _event(load_object(body), delivery_id, is_test=is_test)
    except Malformed as exc:
        if is_test:
            return ProductionEvent(card=None, status=ProductionStatus("TEST"), delivery_id=delivery_id, is_test=True)
        raise BadEvent(
            f"not a production event: {exc}; check which subscriptions send to this URL", delivery_id=delivery_id
        ) from exc.__cause__


def _event(document: dict[str, Json], delivery_id: str | None, *, is_test: bool) -> ProductionEvent:
    if document.get("event_type") != _EVENT_TYPE:
        got = one_line(repr(document.get("event_type")), 100)
        raise Malformed(f"event_type: expected '{_EVENT_TYPE}', got {got}")
    data = _member(document, "data")
    return ProductionEvent(
        card=_card_of(_member(data, "resource")),
        status=status_structurer("event")(data),
        sent_at=parse_time(document.get("sent_at"), None),
        delivery_id=delivery_id,
        subscription_id=_word(document.get("subscription_id")),
        schema_version=_word(document.get("schema_version")),
        is_test=is_test,
    )


def _member(document: dict[str, Json], name: str) -> dict[str, Json]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise Malformed(f"{name}: expected an object, got {kind_of(value)}")
    return value


def _card_of(resource: dict[str, Json]) -> Card | None:
    """Read the card. Its profile id is a number, or, in one of Wise's samples, a string."""
    profile_id, card_token = resource.get("profile_id"), resource.get("card_token")
    if card_token is None:
        return None
    if isinstance(profile_id, str) and re.fullmatch(r"[0-9]{1,19}", profile_id):
        profile_id = int(profile_id)
    try:
        return Card(cast("int", profile_id), cast("str", card_token))
    except UsageError as exc:
        raise Malformed(f"resource: {exc}") from None


def _word(value: Json) -> str | None:
    return one_line(value, 100) if isinstance(value, str) else None
