"""How the command reaches the API and the database: as its arguments and the environment say."""

from __future__ import annotations

import logging
import os
import ssl
from typing import TYPE_CHECKING, Final

from cardprod._http.rate_limit import RateLimit
from cardprod.client import PRODUCTION, Client
from cardprod.errors import CardprodError, TransportError, UsageError

if TYPE_CHECKING:
    import argparse

    from cardprod._http.proxies import ProxySetting
    from cardprod.durable import Durable

__all__ = ["base_url", "find_database", "import_durable", "make_client", "make_clients"]

_TOKEN: Final = "CARDPROD_TOKEN"  # noqa: S105 - a variable's name


def base_url() -> str:
    """Return where cards are asked for."""
    return os.environ.get("CARDPROD_BASE_URL") or PRODUCTION


def make_client(
    arguments: argparse.Namespace, rate_limit: RateLimit | None = None, *, variable: str = _TOKEN
) -> Client:
    """Make the client for a token of the environment."""
    token = os.environ.get(variable)
    if not token:
        raise UsageError(
            f"the environment has no {variable}: set it to a Wise user token, or as `cardprod simulate` says"
        )
    proxy: ProxySetting = False if arguments.proxy == "none" else arguments.proxy
    version = os.environ.get("CARDPROD_API_VERSION") or "v3"
    limit, context = rate_limit or RateLimit(), _tls(arguments)
    return Client(token, base_url=base_url(), api_version=version, rate_limit=limit, ssl=context, proxy=proxy)


def make_clients(arguments: argparse.Namespace) -> dict[str, Client]:
    """Make a client for each token of the environment, by its name."""
    prefix = f"{_TOKEN}_"
    clients = {
        variable.removeprefix(prefix).lower(): make_client(arguments, variable=variable)
        for variable, token in os.environ.items()
        if variable.startswith(prefix) and token
    }
    if os.environ.get(_TOKEN) or not clients:
        clients["default"] = make_client(arguments)
    return clients


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Make the TLS context; None for the system's."""
    names = ("ca", "cert", "key")
    ca, cert, key = (getattr(arguments, name) or os.environ.get(f"CARDPROD_{name.upper()}") for name in names)
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


def import_durable() -> type[Durable]:
    """Import what is behind the extra `durable`."""
    try:
        from cardprod.durable import Durable  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise UsageError(str(exc)) from exc  # it names the extra, and the command that installs it
    for name in ("procrastinate", "psycopg.pool"):
        # What matters of theirs is logged in our words. Without any handler, Python would print it all.
        logging.getLogger(name).addHandler(logging.NullHandler())
    return Durable


def find_database(arguments: argparse.Namespace) -> Durable:
    """Find the database: the one named, the environment's, or one of this user's own, started now. It blocks."""
    durable = import_durable()
    url: str | None = arguments.database or os.environ.get("CARDPROD_DATABASE_URL")
    if not url:
        from cardprod.durable import embedded  # noqa: PLC0415 - it starts a server

        try:
            url = embedded.start()
        except CardprodError:
            raise
        except Exception as exc:
            raise TransportError(
                f"this user's own PostgreSQL cannot be started ({exc}): name a database with --database"
            ) from exc
    schema = arguments.schema or os.environ.get("CARDPROD_DATABASE_SCHEMA") or "cardprod"
    return durable(url, schema=schema, owner=arguments.owner or os.environ.get("CARDPROD_DATABASE_OWNER") or None)
