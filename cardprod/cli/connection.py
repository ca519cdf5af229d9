"""How the command reaches the API and the database: as its arguments and the environment say."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from cardprod._http.environment import TOKEN, server_from_env, tls_from_env, token_from_env
from cardprod._http.rate_limit import RateLimit
from cardprod.client import Client
from cardprod.errors import CardprodError, TransportError, UsageError

if TYPE_CHECKING:
    import argparse

    from cardprod._http.proxies import ProxySetting
    from cardprod.durable import Durable


def make_client(arguments: argparse.Namespace, rate_limit: RateLimit | None = None, *, variable: str = TOKEN) -> Client:
    """Make the client for a token of the environment."""
    proxy: ProxySetting = False if arguments.proxy == "none" else arguments.proxy
    tls = tls_from_env(ca=arguments.ca, cert=arguments.cert, key=arguments.key)
    limit = rate_limit or RateLimit()
    return Client(token_from_env(variable), rate_limit=limit, proxy=proxy, ssl=tls, **server_from_env())


def make_clients(arguments: argparse.Namespace) -> dict[str, Client]:
    """Make a client for each token of the environment, by its name."""
    prefix = f"{TOKEN}_"
    clients = {
        variable.removeprefix(prefix).lower(): make_client(arguments, variable=variable)
        for variable, token in os.environ.items()
        if variable.startswith(prefix) and token
    }
    if os.environ.get(TOKEN) or not clients:
        clients["default"] = make_client(arguments)
    return clients


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
