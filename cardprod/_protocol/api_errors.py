"""Error answers: the error that each HTTP status becomes, its code and words, and which are transient. Pure.

Source: the page "Errors" of the Wise Platform API. For card production only 200 and 429 are documented, so every error
shape of that page is read.
"""

from __future__ import annotations

import re
import time
from codecs import BOM_UTF8
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from cardprod._protocol.documents import Malformed, load_object
from cardprod.errors import (
    ApiError,
    BadReply,
    CardNotFound,
    Forbidden,
    RateLimited,
    ServerError,
    StrongAuthenticationRequired,
    TokenRefreshFailed,
    Unauthorized,
)
from cardprod.models import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cardprod._protocol.documents import Json

MAX_BODY: Final = 1024 * 1024
"""Bytes. The answer for one card is a few hundred; a larger body than this is not read to its end."""
_KEPT_BODY: Final = 2048
_SHOWN_DETAIL: Final = 300
_BEFORE_TAGS: Final = b" \t\r\n" + BOM_UTF8
_MAX_RETRY_AFTER: Final = 3600.0
"""Seconds, to which a longer `Retry-After` is cut: Wise's limits are per second and per minute, so it is an error."""
LONGEST_PAUSE: Final = 120.0
"""Seconds after a 429 at most, whatever its `Retry-After`: Wise's windows are a second and a minute, so a longer one is
likely a proxy's."""
_ERRORS: Final[Mapping[int, tuple[type[ApiError], str]]] = {
    401: (Unauthorized, "the token was not accepted: get a new user token"),
    403: (Forbidden, "the token may not see this card: check the profile and the token's scope"),
    404: (CardNotFound, "no such card under this profile: check both ids"),
    407: (ApiError, "the proxy wants other credentials: check proxy=, or HTTP_PROXY in the environment"),
    408: (ApiError, "the server timed out waiting for the request: try again"),
    429: (RateLimited, "more requests than Wise allows: send fewer"),
    431: (ApiError, "the request's headers are longer than the server takes: check the token, and proxies on the way"),
    495: (ApiError, "the server refused the client certificate: check the one loaded in ssl="),
    496: (ApiError, "the server wants a client certificate: load one with ssl=, see load_cert_chain"),
    511: (ServerError, "the network wants a login before it lets requests through: log in, or use another network"),
}
"""HTTP status → the error it becomes, and its message."""
_REFUSALS: Final[Mapping[str, str]] = {
    "invalid_grant": "the refresh token is not valid any more: the user must authorise again",
    "invalid_client": "the client is not known: check client_id and client_secret",
    "unauthorized_client": "the client may not refresh tokens: ask Wise for that",
}
"""The token endpoint's error code (RFC 6749, section 5.2) → the message."""
_REFUSALS_OF_A_CARD: Final = (Unauthorized, Forbidden, CardNotFound)
_PAGES: Final[Mapping[str, str]] = {
    "No required SSL certificate was sent": _ERRORS[496][1],
    "The SSL certificate error": _ERRORS[495][1],
    "The plain HTTP request was sent to HTTPS port": "plain http was sent to a port for https: check base_url",
    "Request Header Or Cookie Too Large": _ERRORS[431][1],
}
"""What nginx writes on its pages about TLS and headers, which it sends with a 400 → what it means and what to do."""
_CODE_KEYS: Final = ("code", "error")
_DETAIL_KEYS: Final = ("detail", "error_description", "message", "title")
"""The keys of the code and the description in the shapes of Wise's error page, the most specific first."""
_Meaning: TypeAlias = "tuple[type[ApiError], str]"
"""The error that an answer becomes, and its message."""


def is_transient(error: ApiError) -> bool:
    """Whether the same request may succeed a little later: 408, 429 and 5xx."""
    return isinstance(error, RateLimited | ServerError) or error.http_status == 408  # noqa: PLR2004


def _meaning(http_status: int) -> _Meaning:
    if http_status in _ERRORS:
        return _ERRORS[http_status]
    if 500 <= http_status < 600:  # noqa: PLR2004
        return ServerError, "the server failed, the request is not at fault: try later"
    if 300 <= http_status < 400:  # noqa: PLR2004
        return ApiError, "a redirect, which is never followed: check base_url, and whether the network wants a login"
    return ApiError, "an undocumented answer to this call: check base_url and api_version"


def _meaning_of_card(http_status: int, headers: Mapping[str, str], _: str | None) -> _Meaning:
    if http_status == 403 and headers.get("x-2fa-approval-result", "").strip().upper() == "REJECTED":  # noqa: PLR2004
        return StrongAuthenticationRequired, "the user must approve this with strong authentication"
    return _meaning(http_status)


def meaning_of_refresh(http_status: int, _: Mapping[str, str], code: str | None) -> _Meaning:
    if http_status in {407, 408, 429} or not 400 <= http_status < 500:  # noqa: PLR2004
        return _meaning(http_status)
    meaning = _REFUSALS.get(code or "", "the token endpoint refused: check base_url, client_id and client_secret")
    return TokenRefreshFailed, meaning


def api_error(
    http_status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: float | None,
    meaning_of: Callable[[int, Mapping[str, str], str | None], _Meaning] = _meaning_of_card,
) -> ApiError:
    headers = lowered(headers)
    try:
        code, detail = _code_and_detail(load_object(body))
        from_gateway = False
    except Malformed:
        code, detail = None, _plain_detail(body, headers)
        from_gateway = True
    cls, meaning = meaning_of(http_status, headers, code)
    if from_gateway and cls in _REFUSALS_OF_A_CARD:
        meaning = "this is no answer of Wise's own, which are JSON: check base_url and the network"
    meaning = _PAGES.get(detail or "", meaning)
    trace_id = _name_in(headers, "x-trace-id")
    limited_by = _name_in(headers, "x-rate-limited-by") if issubclass(cls, RateLimited) else None
    parts = [f"{http_status} {code}" if code else str(http_status), meaning]
    if detail:
        parts.append(detail)
    if limited_by:
        parts.append(f"limited by {limited_by}")
    retry_after = _retry_after(headers, now)
    if retry_after is not None:
        parts.append(f"retry after {retry_after:g} s")
    if trace_id:
        parts.append(f"trace id {trace_id}")
    return cls(
        "; ".join(parts),
        http_status=http_status,
        code=code,
        detail=detail,
        trace_id=trace_id,
        body=_start_of(body),
        retry_after=retry_after,
        from_gateway=from_gateway,
        limited_by=limited_by,
    )


def bad_reply(what: str, headers: Mapping[str, str], body: bytes) -> BadReply:
    trace_id = _name_in(lowered(headers), "x-trace-id")
    message = what if trace_id is None else f"{what}; trace id {trace_id}"
    return BadReply(message, trace_id=trace_id, body=_start_of(body))


def lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _name_in(headers: Mapping[str, str], header: str) -> str | None:
    return one_line(headers.get(header, ""), 100) or None


def _code_and_detail(document: Mapping[str, Json]) -> tuple[str | None, str | None]:
    """Find an error's code and description, in any of the shapes."""
    listed = document.get("errors")
    causes = [cause for cause in listed if isinstance(cause, dict)] if isinstance(listed, list) else []
    code, detail = _first_text(document, _CODE_KEYS), _first_text(document, _DETAIL_KEYS)
    if causes:
        code = code or _first_text(causes[0], _CODE_KEYS)
        reasons = "; ".join(filter(None, (_reason(cause) for cause in causes[:5])))
        detail = ": ".join(filter(None, (detail, reasons)))
    return one_line(code, 100) if code else None, one_line(detail, _SHOWN_DETAIL) if detail else None


def _reason(cause: Mapping[str, Json]) -> str:
    where = _first_text(cause, ("path", "ref"))
    words = _first_text(cause, _DETAIL_KEYS) or _first_text(cause, _CODE_KEYS) or ""
    return f"{words} ({where})" if words and where else words


def _first_text(document: Mapping[str, Json], keys: tuple[str, ...]) -> str | None:
    values = (document.get(key) for key in keys)
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def _plain_detail(body: bytes, headers: Mapping[str, str]) -> str | None:
    text = _start_of(body)
    if is_page(body, headers):
        return next((words for words in _PAGES if words in text), "an HTML page, so probably from a proxy")
    return one_line(text, _SHOWN_DETAIL) or None


def is_page(body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether a body that is not JSON is an HTML page."""
    is_html = "html" in headers.get("content-type", "").lower() or body.lstrip(_BEFORE_TAGS)[:1] == b"<"
    return is_html and bool(body.strip())


def _start_of(body: bytes) -> str:
    return body[:_KEPT_BODY].decode("utf-8", "replace")


def _retry_after(headers: Mapping[str, str], now: float | None) -> float | None:
    """Read `Retry-After`: seconds or an HTTP date (RFC 9110, section 10.2.3); never negative."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text), _MAX_RETRY_AFTER)
    at = _http_date(text)
    if at is None:
        return None
    # Relative to the server's clock if the answer has a `Date`, because this machine's clock may differ.
    sent_at = _http_date(headers.get("date", ""))
    if sent_at is None:
        sent_at = time.time() if now is None else now
    return min(max(at - sent_at, 0.0), _MAX_RETRY_AFTER)


def _http_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
