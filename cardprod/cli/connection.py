"""How the command reaches the API: the clients that its arguments and the environment describe."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Final

from cardprod._http.rate_limit import RateLimit
from cardprod.client import PRODUCTION, Client
from cardprod.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from cardprod._http.proxies import ProxySetting

__all__ = ["base_url", "make_client", "make_clients"]

_TOKEN: Final = "CARDPROD_TOKEN"  # noqa: S105 - a variable's name


def base_url() -> str:
    """Return where cards are asked for."""
    return os.environ.get("CARDPROD_BASE_URL") or PRODUCTION


def make_client(arguments: argparse.Namespace, *, rate_limit: RateLimit | None = None) -> Client:
    """Make the client for the environment's token.

    Args:
        arguments: The connection's.
        rate_limit: The most requests; None for the default.

    Raises:
        UsageError: There is no token, or an argument or a variable is invalid.
    """
    token = os.environ.get(_TOKEN)
    if not token:
        raise UsageError(f"the environment has no {_TOKEN}: set it to a Wise user token")
    return _client(token, arguments, rate_limit or RateLimit())


def make_clients(arguments: argparse.Namespace) -> dict[str, Client]:
    """Make a client for each token of the environment, by its name.

    Raises:
        UsageError: As `make_client`.
    """
    prefix = f"{_TOKEN}_"
    clients = {
        variable.removeprefix(prefix).lower(): _client(token, arguments, RateLimit())
        for variable, token in os.environ.items()
        if variable.startswith(prefix) and token
    }
    if os.environ.get(_TOKEN) or not clients:
        clients["default"] = make_client(arguments)
    return clients


def _client(token: str, arguments: argparse.Namespace, rate_limit: RateLimit) -> Client:
    proxy: ProxySetting = False if arguments.proxy == "none" else arguments.proxy
    return Client(
        token,
        base_url=base_url(),
        api_version=os.environ.get("CARDPROD_API_VERSION") or "v3",
        rate_limit=rate_limit,
        ssl=_tls(arguments),
        proxy=proxy,
    )


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Make the TLS context; None for the system's."""
    ca, cert, key = (
        getattr(arguments, name) or os.environ.get(f"CARDPROD_{name.upper()}") for name in ("ca", "cert", "key")
    )
    if not (ca or cert or key):
        return None
    if key and not cert:
        raise UsageError("a key without its certificate: name that with --cert or CARDPROD_CERT")
    what = f"the authorities in {ca}"
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert:
            what = f"the client certificate {cert}" + (f" with the key {key}" if key else "")
            context.load_cert_chain(cert, key, _password)
    except ssl.SSLError as exc:
        raise UsageError(f"{what} cannot be used: {_reason(exc)}") from None
    except OSError as exc:
        raise UsageError(f"{what} cannot be read: {exc.strerror}") from None
    return context


def _reason(exc: ssl.SSLError) -> str:
    if exc.reason == "KEY_VALUES_MISMATCH":
        return "the key is another certificate's"
    if "BAD_DECRYPT" in str(exc):
        return "CARDPROD_KEY_PASSWORD is wrong"
    return "it is not PEM"


def _password() -> str:
    # Without this, OpenSSL would ask on the terminal.
    password = os.environ.get("CARDPROD_KEY_PASSWORD")
    if not password:
        raise UsageError("the key of the client certificate is encrypted: set CARDPROD_KEY_PASSWORD")
    return password
