"""What travels: the requests for a card and for a token, what an answer and an event mean. Pure functions over values.

The only room that knows HTTP status codes and JSON names. It sends nothing and retries nothing; `transport` does.

Sources: the Wise Platform API's pages "Retrieve card production status", "Errors" and the one on refreshing user
tokens, on the webhook `cards#card-production-status-change`, and, for what they leave open (nothing but 200 and 429 is
documented for a card), every error shape of the error guide.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import logging
import re
import time
from codecs import BOM_UTF8
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast
from urllib.parse import urlencode, urlsplit

import attrs

from cardprod._version import VERSION
from cardprod.errors import (
    ApiError,
    BadEvent,
    BadReply,
    CardNotFound,
    Forbidden,
    RateLimited,
    ServerError,
    StrongAuthenticationRequired,
    TokenRefreshFailed,
    Unauthorized,
    UsageError,
)
from cardprod.models import Card, ProductionEvent, ProductionStatus, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cattrs import BaseValidationError

__all__ = [
    "MAX_BODY",
    "PRODUCTION",
    "SANDBOX",
    "Endpoint",
    "Request",
    "TokenEndpoint",
    "TokenGrant",
    "decipher",
    "decipher_event",
    "decipher_grant",
    "is_answer_to",
    "is_token",
    "is_transient",
]

_logger = logging.getLogger("cardprod")

PRODUCTION: Final = "https://api.wise.com"
"""Wise's production API."""
SANDBOX: Final = "https://api.wise-sandbox.com"
"""Wise's sandbox: the same API with made-up money and cards."""

MAX_BODY: Final = 1024 * 1024
"""Bytes. An answer for one card is a few hundred; what is larger is not read to its end."""

_KEPT_BODY: Final = 2048
_SHOWN_DETAIL: Final = 300
_MAX_RETRY_AFTER: Final = 3600.0
"""Seconds. Wise's windows are a second and a minute; a longer `Retry-After` is a mistake somewhere, not a plan."""

_CENTURY: Final = 100 * 365 * 86_400

_CORRELATION_ID: Final = "X-External-Correlation-Id"
_USER_AGENT: Final = f"cardprod/{VERSION}"
_ISO_8601: Final = re.compile(r"[0-9-]{10}T[0-9:]{8}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:?[0-9]{2})")
_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_API_VERSION: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_LEGACY_VERSION: Final = re.compile(r"v[0-9]+")
# RFC 6750, section 2.1, gives the characters of a bearer token; what goes beyond them but is printable ASCII is let
# through, because the issuer's word counts for more than ours.
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_TOO_LONG: Final = "the body is over 1 MiB, and was not read to its end"
_NO_URL: Final = "base_url is not a URL: its host or port cannot be; 'https://api.wise.com' can"
_JSON_SPACE: Final = " \t\n\r"
_JSON: TypeAlias = "dict[str, _JSON] | list[_JSON] | str | int | float | bool | None"
_decode_json: Final[Callable[[str], tuple[object, int]]] = json.JSONDecoder().raw_decode


# --- The request ------------------------------------------------------------------------------------------------------


Request: TypeAlias = tuple[str, dict[str, str]]
"""What to send: the URL and the headers."""


def _check_text(_: Endpoint | TokenEndpoint, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{attribute.name} must be a str, not a {type(value).__name__}")


@attrs.frozen
class Endpoint:
    """Where the production status of cards is asked for.

    Args:
        base_url: Scheme, host and perhaps a path before the version, such as `https://api.wise.com`.
        api_version: The path's first segment, such as `v3` or `2026Q3`.
        allow_plain_http: Accept plain http to hosts other than this machine: a test network.

    Raises:
        UsageError: A URL that is not https (or http to loopback), that carries credentials, a query or a fragment, or
            a version that is not one path segment.
    """

    base_url: str = attrs.field(validator=_check_text)
    api_version: str = attrs.field(default="v3", validator=_check_text)
    allow_plain_http: bool = False
    prefix: str = attrs.field(init=False, repr=False, eq=False)
    """What the URL of every request begins with."""

    def __attrs_post_init__(self) -> None:
        _check_base_url(self.base_url, allow_plain_http=self.allow_plain_http)
        _check_api_version(self.api_version)
        prefix = f"{self.base_url.rstrip('/')}/{self.api_version}/spend/profiles/"
        object.__setattr__(self, "prefix", prefix)  # frozen, and derived once instead of at every look

    def build_request(self, card: Card, *, token: str, correlation_id: str) -> Request:
        """Build the request for a card's production status.

        Nothing in the URL needs escaping: a `Card` holds an int and characters that stand for themselves in a path
        (RFC 3986, section 2.3).

        Args:
            card: Which card.
            token: The bearer token, already checked.
            correlation_id: A UUID that Wise echoes back, and that its support can search for; 36 characters at most.
        """
        return (
            f"{self.prefix}{card.profile_id}/cards/{card.card_token}/production",
            {
                "Authorization": f"Bearer {token}",
                "Accept": "application/json",
                "User-Agent": _USER_AGENT,
                _CORRELATION_ID: correlation_id,
            },
        )


@attrs.frozen
class TokenEndpoint:
    """Where a refresh token is turned into an access token: `/oauth/token`, under a calendar version if there is one.

    Args:
        base_url: As for `Endpoint`.
        api_version: As for `Endpoint`.
        allow_plain_http: As for `Endpoint`.

    Raises:
        UsageError: As for `Endpoint`.
    """

    base_url: str = attrs.field(validator=_check_text)
    api_version: str = attrs.field(default="v3", validator=_check_text)
    allow_plain_http: bool = False

    def __attrs_post_init__(self) -> None:
        _check_base_url(self.base_url, allow_plain_http=self.allow_plain_http)
        _check_api_version(self.api_version)

    def build_request(self, *, client_id: str, client_secret: str, refresh_token: str) -> tuple[Request, bytes]:
        """Build the request that refreshes a token (RFC 6749, section 6), and its body: a POST."""
        # "v3" and its like never stood before /oauth/token; "2026Q3" and its like do.
        version = "" if _LEGACY_VERSION.fullmatch(self.api_version) else f"/{self.api_version}"
        basic = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        headers = {
            "Authorization": f"Basic {basic}",
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": _USER_AGENT,
        }
        form = urlencode({"grant_type": "refresh_token", "refresh_token": refresh_token})
        return (f"{self.base_url.rstrip('/')}{version}/oauth/token", headers), form.encode()


def is_answer_to(headers: Mapping[str, str], correlation_id: str) -> bool:
    """Whether an answer can be to the request with this id: Wise echoes it, others may not.

    Args:
        headers: The headers, as a mapping that does not mind their case.
        correlation_id: What the request said.
    """
    return headers.get(_CORRELATION_ID, correlation_id) == correlation_id


def is_token(text: str) -> bool:
    """Whether a text may stand in a header as a token: printable ASCII, and no white space."""
    return _TOKEN.fullmatch(text) is not None


def _check_api_version(api_version: str) -> None:
    if not _API_VERSION.fullmatch(api_version):
        # Not shown: it may be a token in the wrong place.
        raise UsageError("api_version must be one path segment of A-Z a-z 0-9 _ -, 32 at most, such as 'v3'")


def _check_base_url(base_url: str, *, allow_plain_http: bool) -> None:
    # The URL itself is in no message: whoever put credentials into it would find them in a log.
    try:
        url = urlsplit(base_url)
        host, _ = url.hostname, url.port
        if host is not None:
            host.encode("idna")  # what resolving it will do, and refuse with a bare UnicodeError
    except ValueError:
        raise UsageError(_NO_URL) from None
    if url.username is not None or url.password is not None:
        raise UsageError("base_url must not carry credentials; pass the token to Client instead")
    if re.search(r"[\s\\?#\x00-\x1f\x7f]", base_url):
        raise UsageError("base_url must have no query, fragment or spaces")
    if url.scheme not in {"https", "http"} or not host:
        raise UsageError("base_url must be like 'https://api.wise.com': https, and a host")
    if url.scheme == "http" and not allow_plain_http and not _is_loopback(host):
        raise UsageError(
            f"base_url is plain http to {host}, where anybody on the way could read the token; use https, "
            "or allow_plain_http=True on a test network"
        )
    from yarl import URL  # noqa: PLC0415 - of no use to those who send nothing, such as webhooks

    try:
        URL(base_url)  # what sending does, and refuses with a bare ValueError, as a character that cannot be seen
    except ValueError:
        raise UsageError(_NO_URL) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- The answer -------------------------------------------------------------------------------------------------------


def decipher(http_status: int, headers: Mapping[str, str], body: bytes, now: float | None = None) -> ProductionStatus:
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
        _check_length(headers, body)
        try:
            return _structurer("answer")(_load_object(body))
        except _Malformed as exc:
            raise _bad_reply(f"a 200 that is not the documented shape: {exc}", headers, body) from exc.__cause__
    if 200 < http_status < 300:  # noqa: PLR2004
        _check_length(headers, body)
        raise _bad_reply(f"expected a 200, got a {http_status}", headers, body)
    raise _api_error(http_status, headers, body, now)


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


def decipher_grant(http_status: int, headers: Mapping[str, str], body: bytes, now: float | None = None) -> TokenGrant:
    """Turn one whole answer of the token endpoint into the tokens it gives.

    All but the access token may be missing or wrong without making the answer useless: the tokens before it are
    gone, so what can be used of it must be.

    Args:
        http_status: The HTTP status.
        headers: The headers, in any case.
        body: The body, as for `decipher`.
        now: As for `decipher`.

    Returns:
        The grant.

    Raises:
        TokenRefreshFailed: The endpoint refused.
        ApiError: Another error came: the subclass that fits.
        BadReply: The answer holds no access token. It does not carry the body, where tokens may be.
    """
    if not 200 <= http_status < 300:  # noqa: PLR2004
        raise _api_error(http_status, headers, body, now, _mean_of_a_refresh)
    if len(body) > MAX_BODY:
        raise _bad_reply(_TOO_LONG, headers, b"")
    try:
        document = _load_object(body)
        token = document.get("access_token")
        if not isinstance(token, str) or not is_token(token):
            raise _Malformed("access_token: expected printable ASCII without white space")  # noqa: TRY301
    except _Malformed as exc:
        raise _bad_reply(f"a {http_status} without a token: {exc}", headers, b"") from None
    refresh_token, expires_in = document.get("refresh_token"), document.get("expires_in")
    return TokenGrant(
        access_token=token,
        refresh_token=refresh_token if isinstance(refresh_token, str) and is_token(refresh_token) else None,
        expires_in=_seconds(expires_in),
    )


def _seconds(value: _JSON) -> float | None:
    """Read `expires_in`: a number, or a number as a text. Any other is as if it were missing; see `decipher_grant`."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _CENTURY:
        return None
    return float(value)


_EVENT_TYPE: Final = "cards#card-production-status-change"


def decipher_event(body: bytes, *, delivery_id: str | None = None, is_test: bool = False) -> ProductionEvent:
    """Turn the body of a delivery, whose signature was verified, into what it tells.

    A test may hold whatever Wise likes; what it says of a card is read where it can be.

    Args:
        body: The body, as it came.
        delivery_id: The delivery's own id.
        is_test: Whether it says that it is a test.

    Returns:
        The event, from any schema version that has the shape of 2.0.0 or 4.0.0.

    Raises:
        BadEvent: It is no production event, or not of the documented shape.
    """
    try:
        return _event(_load_object(body), delivery_id, is_test=is_test)
    except _Malformed as exc:
        if is_test:
            return ProductionEvent(card=None, status=ProductionStatus("TEST"), delivery_id=delivery_id, is_test=True)
        raise BadEvent(f"not a production event: {exc}", delivery_id=delivery_id) from exc.__cause__


def _event(document: dict[str, _JSON], delivery_id: str | None, *, is_test: bool) -> ProductionEvent:
    if document.get("event_type") != _EVENT_TYPE:
        got = one_line(repr(document.get("event_type")), 100)
        raise _Malformed(f"event_type: expected '{_EVENT_TYPE}', got {got}")
    data = _member(document, "data")
    return ProductionEvent(
        card=_card_of(_member(data, "resource")),
        status=_structurer("event")(data),
        sent_at=_moment(document.get("sent_at"), None),
        delivery_id=delivery_id,
        subscription_id=_word(document.get("subscription_id")),
        schema_version=_word(document.get("schema_version")),
        is_test=is_test,
    )


def _member(document: dict[str, _JSON], name: str) -> dict[str, _JSON]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise _Malformed(f"{name}: expected an object, got {_kind(value)}")
    return value


def _card_of(resource: dict[str, _JSON]) -> Card | None:
    """Read which card an event is about. Its profile is a number, or, in one of Wise's samples, a text."""
    profile_id, card_token = resource.get("profile_id"), resource.get("card_token")
    if card_token is None:
        return None
    if isinstance(profile_id, str) and re.fullmatch(r"[0-9]{1,19}", profile_id):
        profile_id = int(profile_id)
    try:
        return Card(cast("int", profile_id), cast("str", card_token))
    except UsageError as exc:
        raise _Malformed(f"resource: {exc}") from None


def _word(value: _JSON) -> str | None:
    return one_line(value, 100) if isinstance(value, str) else None


def _check_length(headers: Mapping[str, str], body: bytes) -> None:
    # An error says enough in its first MiB; a success must be whole.
    if len(body) > MAX_BODY:
        raise _bad_reply(_TOO_LONG, headers, body)


def is_transient(error: ApiError) -> bool:
    """Whether the same request may well succeed a little later: 408, 429 and 5xx."""
    return isinstance(error, RateLimited | ServerError) or error.http_status == 408  # noqa: PLR2004


class _Malformed(Exception):
    """A body that is not the documented shape; the message says in what."""


def _load_object(body: bytes) -> dict[str, _JSON]:
    if not body:
        raise _Malformed("the body is empty")
    try:
        text = body.removeprefix(BOM_UTF8).decode().strip(_JSON_SPACE)
        value, end = _decode_json(text)
        if end != len(text):
            raise ValueError(f"something follows the JSON at character {end}")  # noqa: TRY301 - as json itself would
    except UnicodeDecodeError as exc:
        raise _Malformed(f"not UTF-8: {exc.reason} at byte {exc.start}") from exc
    except RecursionError as exc:
        raise _Malformed("JSON nested too deep") from exc
    except ValueError as exc:  # not JSON, or an integer of thousands of digits
        raise _Malformed(f"not JSON: {one_line(str(exc), 100)}") from exc
    if not isinstance(value, dict):
        raise _Malformed(f"expected a JSON object, got {_kind(value)}")
    return cast("dict[str, _JSON]", value)


def _text(value: object) -> str:
    if type(value) is not str:
        raise _Malformed(f"expected a string, got {_kind(value)}")
    # JSON can spell half a surrogate pair, which no terminal, file or database would take.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _optional_text(value: object, _: object) -> str | None:
    if value is None or (type(value) is str and value.isascii()):
        return value
    return _text(value)


def _status_text(value: object, _: object) -> str:
    text = value if type(value) is str and value.isascii() else _text(value)
    if not text.strip():
        raise _Malformed("expected a status, got an empty string")
    return text


def _moment(value: object, _: object) -> datetime | None:
    """Read ISO 8601 with an offset. An illegible time must not cost the status it comes with."""
    if value is None:
        return None
    try:
        # `fromisoformat` alone would take a date without a time, a time without an offset, and the
        # malformed second of a sample of Wise's, 12:24:560.
        if isinstance(value, str) and _ISO_8601.fullmatch(value):
            return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    _logger.warning("a time is not in ISO 8601 and was left out: %s", one_line(repr(value), 60))
    return None


_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "answer": {"kiosk_id": "kioskId", "occurred_at": "occurredAt", "error_code": "errorCode"},
    "event": {"kiosk_id": "kiosk_id", "occurred_at": "occurred_at", "error_code": "error_code"},
}
"""How an answer and an event spell what both have."""


@cache
def _structurer(kind: Literal["answer", "event"]) -> Callable[[dict[str, _JSON]], ProductionStatus]:
    # cattrs writes the function once, when the first answer comes, so that an import does not pay for it.
    from cattrs import BaseValidationError, Converter  # noqa: PLC0415
    from cattrs.gen import make_dict_structure_fn, override  # noqa: PLC0415

    names = _NAMES[kind]

    def make(
        *, detailed: bool, moment: Callable[[object, object], datetime | None]
    ) -> Callable[[dict[str, _JSON], type[ProductionStatus]], ProductionStatus]:
        return make_dict_structure_fn(
            ProductionStatus,
            Converter(detailed_validation=detailed),
            status=override(struct_hook=_status_text),
            kiosk_id=override(rename=names["kiosk_id"], struct_hook=_optional_text),
            occurred_at=override(rename=names["occurred_at"], struct_hook=moment),
            error_code=override(rename=names["error_code"], struct_hook=_optional_text),
            description=override(struct_hook=_optional_text),
        )

    # The one is faster; the other is asked after it, and says which field is wrong. It complains of no time again.
    quick = make(detailed=False, moment=_moment)
    detailed = make(detailed=True, moment=lambda _, __: None)

    def structure(body: dict[str, _JSON]) -> ProductionStatus:
        try:
            return quick(body, ProductionStatus)
        except (KeyError, _Malformed):
            pass
        try:
            return detailed(body, ProductionStatus)
        except BaseValidationError as exc:
            raise _Malformed("; ".join(_faults(exc, names))) from exc

    return structure


def _faults(exc: BaseValidationError, names: Mapping[str, str]) -> list[str]:
    """Read what cattrs found wrong, field by field."""
    faults: list[str] = []
    for fault in exc.exceptions:
        field = next((note.name for note in getattr(fault, "__notes__", ()) if hasattr(note, "name")), "?")
        reason = "missing" if isinstance(fault, KeyError) else str(fault)
        faults.append(f"{names.get(field, field)}: {reason}")
    return faults


_KINDS: Final[Mapping[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def _kind(value: object) -> str:
    return _KINDS[type(value)]


# --- Errors -----------------------------------------------------------------------------------------------------------

_ERRORS: Final[Mapping[int, tuple[type[ApiError], str]]] = {
    401: (Unauthorized, "the token was not accepted: get a new user token"),
    403: (Forbidden, "the token may not see this card: check the profile and the token's scope"),
    404: (CardNotFound, "no such card under this profile: check both ids"),
    408: (ApiError, "the server gave up waiting for the request: try again"),
    429: (RateLimited, "more requests than Wise allows: ask less often"),
}
"""HTTP status → the error it becomes, and what it means for whoever reads it."""

_REFUSALS: Final[Mapping[str, str]] = {
    "invalid_grant": "the refresh token is no longer good: the user must authorise again",
    "invalid_client": "the client is not known: check client_id and client_secret",
    "unauthorized_client": "the client may not refresh tokens: ask Wise for that",
}
"""The code of a refusal of the token endpoint (RFC 6749, section 5.2) → what it means and what to do."""

_CODE_KEYS: Final = ("code", "error")
_DETAIL_KEYS: Final = ("detail", "error_description", "message", "title")
"""Where the shapes of Wise's error guide keep their code and their words, the most telling first."""


_Meaning: TypeAlias = "tuple[type[ApiError], str]"
"""The error an answer becomes, and what it means for whoever reads it."""


def _mean_of_a_look(http_status: int, lowered: Mapping[str, str], _: str | None) -> _Meaning:
    if http_status == 403 and lowered.get("x-2fa-approval-result", "").strip().upper() == "REJECTED":  # noqa: PLR2004
        return StrongAuthenticationRequired, "the user must approve this with strong authentication"
    return _ERRORS.get(http_status) or _mean_by_class(http_status)


def _mean_by_class(http_status: int) -> _Meaning:
    if 500 <= http_status < 600:  # noqa: PLR2004
        return ServerError, "trouble at the server, not with the request: try later"
    if 300 <= http_status < 400:  # noqa: PLR2004
        return ApiError, "a redirect, which is never followed: check base_url"
    return ApiError, "not an answer this call is documented to give: check base_url and api_version"


def _mean_of_a_refresh(http_status: int, _: Mapping[str, str], code: str | None) -> _Meaning:
    if http_status in {408, 429} or not 400 <= http_status < 500:  # noqa: PLR2004
        return _ERRORS.get(http_status) or _mean_by_class(http_status)
    meaning = _REFUSALS.get(code or "", "the token endpoint refused: check base_url, client_id and client_secret")
    return TokenRefreshFailed, meaning


def _api_error(
    http_status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: float | None,
    mean: Callable[[int, Mapping[str, str], str | None], _Meaning] = _mean_of_a_look,
) -> ApiError:
    lowered = {name.lower(): value for name, value in headers.items()}
    code, detail = _code_and_detail(body, lowered.get("content-type", ""))
    cls, meaning = mean(http_status, lowered, code)
    trace_id = _trace_id(lowered)
    parts = [f"{http_status} {code}" if code else str(http_status), meaning]
    if detail:
        parts.append(detail)
    retry_after = _retry_after(lowered, now)
    if retry_after is not None:
        parts.append(f"welcome again in {retry_after:g} s")
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
    )


def _bad_reply(what: str, headers: Mapping[str, str], body: bytes) -> BadReply:
    trace_id = _trace_id({name.lower(): value for name, value in headers.items()})
    message = what if trace_id is None else f"{what}; trace id {trace_id}"
    return BadReply(message, trace_id=trace_id, body=_start_of(body))


def _trace_id(lowered: Mapping[str, str]) -> str | None:
    return one_line(lowered.get("x-trace-id", ""), 100) or None


def _code_and_detail(body: bytes, content_type: str) -> tuple[str | None, str | None]:
    """Find the code and the words of an error, in whichever of the shapes it comes."""
    try:
        document = _load_object(body)
    except _Malformed:
        return None, _plain_detail(body, content_type)
    listed = document.get("errors")
    causes = [cause for cause in listed if isinstance(cause, dict)] if isinstance(listed, list) else []
    code, detail = _first_text(document, _CODE_KEYS), _first_text(document, _DETAIL_KEYS)
    if causes:
        code = code or _first_text(causes[0], _CODE_KEYS)
        reasons = "; ".join(filter(None, (_reason(cause) for cause in causes[:5])))
        detail = ": ".join(filter(None, (detail, reasons)))
    return (
        one_line(code, 100) if code else None,
        one_line(detail, _SHOWN_DETAIL) if detail else None,
    )


def _reason(cause: Mapping[str, _JSON]) -> str:
    where = _first_text(cause, ("path", "ref"))
    words = _first_text(cause, _DETAIL_KEYS) or _first_text(cause, _CODE_KEYS) or ""
    return f"{words} ({where})" if words and where else words


def _first_text(document: Mapping[str, _JSON], keys: tuple[str, ...]) -> str | None:
    for key in keys:
        value = document.get(key)
        if isinstance(value, str) and value.strip():
            return value
    return None


def _plain_detail(body: bytes, content_type: str) -> str | None:
    if not body.strip():
        return None
    if "html" in content_type.lower() or body.lstrip()[:1] == b"<":
        return "an HTML page, so probably from a proxy on the way"
    return one_line(body[:_KEPT_BODY].decode("utf-8", "replace"), _SHOWN_DETAIL) or None


def _start_of(body: bytes) -> str:
    return body[:_KEPT_BODY].decode("utf-8", "replace")


def _retry_after(lowered: Mapping[str, str], now: float | None) -> float | None:
    """Read `Retry-After`: seconds or an HTTP date (RFC 9110, section 10.2.3); never negative."""
    text = lowered.get("retry-after", "").strip()
    if not text:
        return None
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text), _MAX_RETRY_AFTER)
    at = _http_date(text)
    if at is None:
        return None
    # Against the server's own clock where it tells it, so that two clocks that differ do no harm.
    sent_at = _http_date(lowered.get("date", ""))
    if sent_at is None:
        sent_at = time.time() if now is None else now
    return min(max(at - sent_at, 0.0), _MAX_RETRY_AFTER)


def _http_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
