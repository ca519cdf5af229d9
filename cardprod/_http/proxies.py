"""Which proxy requests go through: the one that `proxy=` names, or the environment's, as httpx and requests read it."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Literal, TypeAlias
from urllib.request import getproxies_environment

from yarl import URL

from cardprod._protocol.requests import is_loopback
from cardprod.errors import UsageError

ProxySetting: TypeAlias = "str | Literal[False] | None"
"""The URL of a proxy; False for none; None for what the environment says."""


def proxy_for(base_url: str, setting: object) -> URL | None:
    """Return the proxy for requests to a server; None for none.

    Without a setting `HTTPS_PROXY` or `HTTP_PROXY` counts, by the scheme of the URL, else `ALL_PROXY`, unless
    `NO_PROXY` names the host, or a network that its address is in; each also in lower case, and with or without
    `http://`. Requests to loopback, which may be plain http, use none of these.

    Raises:
        UsageError: The proxy's URL is invalid. It is not shown, because it may contain a password.
    """
    if setting is False:
        return None
    if setting is not None:
        return _checked("proxy", setting)
    server, found = URL(base_url), getproxies_environment()
    proxy = found.get(server.scheme) or found.get("all")
    if not proxy or is_loopback(server.host or "") or _is_excepted(server, found.get("no", "")):
        return None
    is_url = "://" in proxy
    return _checked(
        f"the environment's {server.scheme.upper()}_PROXY or ALL_PROXY", proxy if is_url else f"http://{proxy}"
    )


def _is_excepted(server: URL, no_proxy: str) -> bool:
    """Whether `NO_PROXY` names a host, a domain that it is in, either of them with its port, or a network; or `*`."""
    host = (server.host or "").lower()
    for entry in no_proxy.lower().split(","):
        name = entry.strip().removeprefix("*.").lstrip(".")
        if name == "*" or (name and any(f".{one}".endswith(f".{name}") for one in (host, f"{host}:{server.port}"))):
            return True
        with contextlib.suppress(ValueError):  # one of the two is no address
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


def _checked(name: str, proxy: object) -> URL:
    try:
        url = URL(proxy if isinstance(proxy, str) else "")
    except (ValueError, IndexError):  # IndexError of some with a bracket
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise UsageError(f"{name} must be the URL of an http proxy, such as 'http://proxy.example:3128', or False")
    return url
