"""Parses answers: to a production status, a token, or an error. Pure."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

import attrs

from cardprod._protocol.api_errors import MAX_BODY, api_error, bad_reply, is_page, lowered, meaning_of_refresh
from cardprod._protocol.documents import Malformed, NotJson, load_object, parse_time, status_structurer
from cardprod._protocol.requests import is_token
from cardprod._protocol.validation import is_finite_number
from cardprod.models import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod._protocol.documents import Json
    from cardprod.models import ProductionStatus

_UNDONE: Final = frozenset({"", "identity", "gzip", "deflate", "br", "zstd"})
"""Content codings of which nothing is left in a body that came here."""
_TOO_LONG: Final = "the body is over 1 MiB, and was not read to its end: check base_url"
_CENTURY: Final = 100 * 365 * 86_400
_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


def parse_response(
    http_status: int, headers: Mapping[str, str], body: bytes, now: float | None = None
) -> ProductionStatus:
    """Parse the answer to a request for a card's production status.

    Args:
        http_status: The HTTP status.
        headers: The headers, in any case.
        body: The raw body; one over `MAX_BODY` bytes may be truncated to a length that is over it too.
        now: The time in seconds since 1970, for a `Retry-After` that is a date and comes without a `Date` header;
            None for the machine's clock.

    Raises:
        ApiError: The answer is an error; the subclass says which.
        BadReply: The answer is a success, but not of the documented shape.
    """
    if not 200 <= http_status < 300:  # noqa: PLR2004
        raise api_error(http_status, headers, body, now)
    if len(body) > MAX_BODY:
        raise bad_reply(_TOO_LONG, headers, body)
    if http_status != 200:  # noqa: PLR2004 - the one success Wise documents
        raise bad_reply(f"expected a 200, got a {http_status}: check base_url and api_version", headers, body)
    try:
        return status_structurer("answer")(load_object(body))
    except Malformed as exc:
        fault = _fault_of(exc, headers, body)
        raise bad_reply(f"a 200 that is not of the documented shape: {fault}", headers, body) from exc.__cause__


@attrs.frozen
class TokenGrant:
    """What the token endpoint returns. Its repr shows neither token.

    Args:
        access_token: The new bearer token. The previous one is not valid any more.
        refresh_token: The new refresh token; None if the old one stays valid.
        expires_in: Seconds that the access token is valid; None if that was missing or malformed.
    """

    access_token: str = attrs.field(repr=False)
    refresh_token: str | None = attrs.field(repr=False)
    expires_in: float | None


def parse_token_response(
    http_status: int, headers: Mapping[str, str], body: bytes, now: float | None = None
) -> TokenGrant:
    """Parse an answer of the token endpoint, as `parse_response` does.

    Everything but the access token may be missing or malformed: the previous tokens are revoked already, so the answer
    must be used as far as possible. A `BadReply` has no body, because tokens may be in it.
    """
    if not 200 <= http_status < 300:  # noqa: PLR2004
        raise api_error(http_status, headers, body, now, meaning_of_refresh)
    if len(body) > MAX_BODY:
        raise bad_reply(_TOO_LONG, headers, b"")
    try:
        document = load_object(body)
        token = document.get("access_token")
        if not isinstance(token, str) or not is_token(token):
            raise Malformed("access_token: expected printable ASCII without white space")  # noqa: TRY301
    except Malformed as exc:
        fault = _fault_of(exc, headers, body)
        raise bad_reply(f"a {http_status} without a token: {fault}", headers, b"") from None
    refresh_token, expires_in = document.get("refresh_token"), document.get("expires_in")
    return TokenGrant(
        access_token=token,
        refresh_token=refresh_token if isinstance(refresh_token, str) and is_token(refresh_token) else None,
        expires_in=_seconds(expires_in) or _seconds_until(document.get("expires_at"), now),
    )


def _fault_of(exc: Malformed, headers: Mapping[str, str], body: bytes) -> str:
    """Say what is wrong with the body of a success: where it is not even JSON, what somebody on the way made of it."""
    headers = lowered(headers)
    coding = headers.get("content-encoding", "").strip().lower()
    if isinstance(exc, NotJson) and coding not in _UNDONE:
        return f"not JSON but compressed as {one_line(repr(coding), 50)}, unrequested: check proxies on the way"
    if isinstance(exc, NotJson) and is_page(body, headers):
        return "not JSON but an HTML page, probably a proxy's or a network's login: check base_url and the network"
    return f"{exc}; check base_url and api_version"


def _seconds_until(value: Json, now: float | None) -> float | None:
    """Read `expires_at`, for an answer without a usable `expires_in`."""
    moment = parse_time(value, None)
    left = None if moment is None else moment.timestamp() - (time.time() if now is None else now)
    return left if left is not None and 0 < left < _CENTURY else None


def _seconds(value: Json) -> float | None:
    """Read `expires_in`: a number, or a string of one; None for anything else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if not is_finite_number(value) or not 0 < value < _CENTURY:
        return None
    return float(value)
