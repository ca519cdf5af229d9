"""The requests: their URL, headers and body. Pure.

Sources: the pages of the Wise Platform API on retrieving the card production status and on refreshing user tokens.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urlencode, urlsplit

import attrs

from cardprod._protocol.validation import check_type
from cardprod._version import VERSION
from cardprod.errors import CardprodError, UsageError

if TYPE_CHECKING:
    from cardprod.models import Card

PRODUCTION: Final = "https://api.wise.com"
"""Wise's production API."""
SANDBOX: Final = "https://api.wise-sandbox.com"
"""Wise's sandbox: the same API with test data."""
PRODUCTION_MTLS: Final = "https://api-mtls.transferwise.com"
"""Wise's production API for partners who present a client certificate."""
SANDBOX_MTLS: Final = "https://api-mtls.wise-sandbox.com"
"""Wise's sandbox for partners who present a client certificate."""
CORRELATION_ID: Final = "X-External-Correlation-Id"
_USER_AGENT: Final = f"cardprod/{VERSION}"
_API_VERSION: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_LEGACY_VERSION: Final = re.compile(r"v[0-9]+")
# RFC 6750, section 2.1, allows fewer characters in a bearer token; any printable ASCII is accepted, because the issuer
# decides what a token is.
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_NO_URL: Final = "base_url is not a URL: its host or port is invalid; it should be like 'https://api.wise.com'"
Request: TypeAlias = tuple[str, dict[str, str]]
"""The URL and the headers of a request."""


@attrs.frozen
class Endpoint:
    """Where requests for production statuses and for tokens go.

    Args:
        base_url: Scheme, host and optionally a path before the version, such as `https://api.wise.com`.
        api_version: The path's first segment, such as `v3` or `2026Q3`.
        allow_plain_http: Accept plain http to hosts other than loopback, in a test network.

    Raises:
        UsageError: The URL is not https (or http to loopback), or contains credentials, a query or a fragment; or the
            version is not one path segment.
    """

    base_url: str
    api_version: str = "v3"
    allow_plain_http: bool = False
    prefix: str = attrs.field(init=False, repr=False, eq=False)
    """What the URL of every request for a status begins with."""

    def __attrs_post_init__(self) -> None:
        check_type("base_url", self.base_url, str)
        check_type("api_version", self.api_version, str)
        _check_base_url(self.base_url, allow_plain_http=self.allow_plain_http)
        if self.base_url.rstrip("/").endswith((f"/{self.api_version}", "/spend/profiles")):
            raise UsageError(
                "base_url must end before the API version, which is api_version, like 'https://api.wise.com'"
            )
        if not _API_VERSION.fullmatch(self.api_version):
            # Not shown: it may be a token in the wrong place.
            raise UsageError("api_version must be one path segment of A-Z a-z 0-9 _ -, 32 at most, such as 'v3'")
        prefix = f"{self.base_url.rstrip('/')}/{self.api_version}/spend/profiles/"
        object.__setattr__(self, "prefix", prefix)  # frozen; derived once instead of for every request

    @property
    def is_local(self) -> bool:
        """Whether requests may go to this machine only, because they are plain http."""
        return urlsplit(self.base_url).scheme == "http" and not self.allow_plain_http

    def name_server(self, error: CardprodError) -> None:
        """Say in an error's message which server it is about: the host, and the port if the URL names it."""
        if not isinstance(error, UsageError):
            error.args = (f"{error.args[0]}; server {urlsplit(self.base_url).netloc}",)

    def build_request(self, card: Card, *, token: str, correlation_id: str) -> Request:
        """Build the request for a card's production status.

        Nothing in the URL needs escaping: a `Card` has an int and unreserved characters (RFC 3986, section 2.3).
        """
        return (
            f"{self.prefix}{card.profile_id}/cards/{card.card_token}/production",
            {
                "Authorization": f"Bearer {token}",
                "Accept": "application/json",
                "User-Agent": _USER_AGENT,
                CORRELATION_ID: correlation_id,
            },
        )

    def build_refresh(
        self, *, client_id: str, client_secret: str, refresh_token: str, correlation_id: str
    ) -> tuple[Request, bytes]:
        """Build the POST request that refreshes a token (RFC 6749, section 6), and its body."""
        # Wise's path is /oauth/token without a version like "v3", and with one like "2026Q3".
        version = "" if _LEGACY_VERSION.fullmatch(self.api_version) else f"/{self.api_version}"
        basic = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        headers = {
            "Authorization": f"Basic {basic}",
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": _USER_AGENT,
            CORRELATION_ID: correlation_id,
        }
        form = urlencode({"grant_type": "refresh_token", "refresh_token": refresh_token})
        return (f"{self.base_url.rstrip('/')}{version}/oauth/token", headers), form.encode()


def is_token(text: str) -> bool:
    """Whether a text can be a token in a header: printable ASCII without white space."""
    return _TOKEN.fullmatch(text) is not None


def _check_base_url(base_url: str, *, allow_plain_http: bool) -> None:
    # No message contains the URL: it may contain credentials.
    try:
        url = urlsplit(base_url)
        host, _ = url.hostname, url.port
        if host is not None:
            host.encode("idna")  # resolving it would do so, and raise a bare UnicodeError
    except ValueError:
        raise UsageError(_NO_URL) from None
    if url.username is not None or url.password is not None:
        raise UsageError("base_url must not carry credentials; pass the token to Client instead")
    if re.search(r"[\s\\?#\x00-\x1f\x7f]", base_url):
        raise UsageError("base_url must have no query, fragment or spaces")
    if url.scheme not in {"https", "http"} or not host:
        missing = "no host" if url.scheme in {"https", "http"} else "no 'https://' before its host"
        like = "'https://api.wise.com', or on this machine 'http://127.0.0.1:8080'"
        raise UsageError(f"base_url has {missing}: it must be like {like}")
    if url.scheme == "http" and not allow_plain_http and not is_loopback(host):
        raise UsageError(
            f"base_url is plain http to {host}, where anybody on the network could read the token; use https, "
            "or allow_plain_http=True on a test network"
        )
    from yarl import URL  # noqa: PLC0415 - who sends no request, such as a webhook endpoint, does not need it

    try:
        URL(base_url)  # sending would do so, and raise a bare ValueError, for instance for an invisible character
    except (ValueError, IndexError):  # IndexError of some with a bracket
        raise UsageError(_NO_URL) from None


@lru_cache  # each new connection asks, mostly for the same address
def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine, by its address or as `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
