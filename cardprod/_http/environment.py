"""What the environment says of a client: `Client.from_env` and the command read the same variables."""

from __future__ import annotations

import os
import ssl
from typing import Any, Final

from cardprod._protocol.requests import PRODUCTION
from cardprod.errors import UsageError

TOKEN: Final = "CARDPROD_TOKEN"  # noqa: S105 - a variable's name


def token_from_env(variable: str = TOKEN) -> str:
    """Return the token of a variable: `UsageError` if there is none."""
    if not os.environ.get(variable):
        raise UsageError(
            f"the environment has no {variable}: set it to a Wise user token, or as `cardprod simulate` says"
        )
    return os.environ[variable]


def base_url() -> str:
    """Return where cards are asked for."""
    return os.environ.get("CARDPROD_BASE_URL") or PRODUCTION


def server_from_env() -> dict[str, Any]:
    """Return the options of a client that say where cards are asked for."""
    return {"base_url": base_url(), "api_version": os.environ.get("CARDPROD_API_VERSION") or "v3"}


def tls_from_env(ca: str | None = None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext | None:
    """Make the TLS context of these files, or else of the environment's; None for the system's."""
    ca, cert, key = (
        file or os.environ.get(f"CARDPROD_{name}") for name, file in (("CA", ca), ("CERT", cert), ("KEY", key))
    )
    if not (ca or cert or key):
        return None
    if key and not cert:
        raise UsageError("a key without its certificate: name that with --cert or CARDPROD_CERT")
    what, reason = f"the authorities in {ca}", "it is not PEM"

    def password() -> str:
        nonlocal reason
        reason = "CARDPROD_KEY_PASSWORD is wrong"
        if given := os.environ.get("CARDPROD_KEY_PASSWORD"):
            return given
        # Without this, OpenSSL would ask on the terminal.
        raise UsageError("the key of the client certificate is encrypted: set CARDPROD_KEY_PASSWORD")

    try:
        context = ssl.create_default_context(cafile=ca)
        if cert:
            what = f"the client certificate {cert}" + (f" with the key {key}" if key else "")
            context.load_cert_chain(cert, key, password)
    except ssl.SSLError as exc:
        reason = "the key is another certificate's" if exc.reason == "KEY_VALUES_MISMATCH" else reason
        raise UsageError(f"{what} cannot be used: {reason}") from None
    except OSError as exc:
        raise UsageError(f"{what} cannot be read: {exc.strerror}") from None
    return context
