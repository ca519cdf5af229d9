"""What a whole answer means: a production status, a token, or an error. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardprod.models import ProductionStatus

from cardprod._protocol.api_errors import MAX_BODY, TOO_LONG, api_error, bad_reply, check_length, meaning_of_refresh
from cardprod._protocol.documents import Json, Malformed, load_object, status_structurer
from cardprod._protocol.requests import CORRELATION_ID, is_token
from cardprod._protocol.validation import is_finite_number

__all__ = ["TokenGrant", "is_answer_to", "parse_response", "parse_token_response"]

_CENTURY: Final = 100 * 365 * 86_400
_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


def is_answer_to(headers: Mapping[str, str], correlation_id: str) -> bool:
    """Whether an answer can be to the request with this id: Wise echoes it, others may not.

    Args:
        headers: The headers, as a mapping that does not mind their case.
        correlation_id: What the request said.
    """
    return headers.get(CORRELATION_ID, correlation_id) == correlation_id


def parse_response(
    http_status: int, headers: Mapping[str, str], body: bytes, now: float | None = None
) -> ProductionStatus:
    """Turn one whole answer into what it says of the card.

    Args:
        http_status: The HTTP status.
        headers: The headers, in any case.
        body: The body, as it came; if it is over `MAX_BODY` bytes, a start of it that is as well.
        now: The time in seconds since the epoch, for a `Retry-After` that is a date and comes without a `Date`
            header; None takes the machine's clock.

    Returns:
        The production status.

    Raises:
        ApiError: The answer is an error: the subclass that fits.
        BadReply: The answer is a success, and not of the documented shape.
    """
    if http_status == 200:  # noqa: PLR2004 - the one success Wise documents
        check_length(headers, body)
        try:
            return status_structurer("answer")(load_object(body))
        except Malformed as exc:
            raise bad_reply(f"a 200 that is not the documented shape: {exc}", headers, body) from exc.__cause__
    if 200 < http_status < 300:  # noqa: PLR2004
        check_length(headers, body)
        raise bad_reply(f"expected a 200, got a {http_status}", headers, body)
    raise api_error(http_status, headers, body, now)


@attrs.frozen
class TokenGrant:
    """What the token endpoint gives; neither token is shown.

    Args:
        access_token: The new bearer token. The one before it is no longer good.
        refresh_token: The new refresh token; None if the old one stays.
        expires_in: Seconds that the access token is good for; None if the answer does not say, or not legibly.
    """

    access_token: str = attrs.field(repr=False)
    refresh_token: str | None = attrs.field(repr=False)
    expires_in: float | None


def parse_token_response(
    http_status: int, headers: Mapping[str, str], body: bytes, now: float | None = None
) -> TokenGrant:
    """Turn one whole answer of the token endpoint into the tokens it gives.

    All but the access token may be missing or wrong without making the answer useless: the tokens before it are
    gone, so what can be used of it must be.

    Args:
        http_status: The HTTP status.
        headers: The headers, in any case.
        body: The body, as for `parse_response`.
        now: As for `parse_response`.

    Returns:
        The grant.

    Raises:
        TokenRefreshFailed: The endpoint refused.
        ApiError: Another error came: the subclass that fits.
        BadReply: The answer holds no access token. It does not carry the body, where tokens may be.
    """
    if not 200 <= http_status < 300:  # noqa: PLR2004
        raise api_error(http_status, headers, body, now, meaning_of_refresh)
    if len(body) > MAX_BODY:
        raise bad_reply(TOO_LONG, headers, b"")
    try:
        document = load_object(body)
        token = document.get("access_token")
        if not isinstance(token, str) or not is_token(token):
            raise Malformed("access_token: expected printable ASCII without white space")  # noqa: TRY301
    except Malformed as exc:
        raise bad_reply(f"a {http_status} without a token: {exc}", headers, b"") from None
    refresh_token, expires_in = document.get("refresh_token"), document.get("expires_in")
    return TokenGrant(
        access_token=token,
        refresh_token=refresh_token if isinstance(refresh_token, str) and is_token(refresh_token) else None,
        expires_in=_seconds(expires_in),
    )


def _seconds(value: Json) -> float | None:
    """Read `expires_in`: a number, also as a text. Any other is as if it were missing; see `parse_token_response`."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if not is_finite_number(value) or not 0 < value < _CENTURY:
        return None
    return float(value)
