"""Which proxy requests go through: the one that `proxy=` names, or the environment's, as httpx and requests read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.request import getproxies_environment, proxy_bypass

from yarl import URL

from cardprod._protocol.requests import is_loopback
from cardprod.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ProxySetting", "proxy_for"]

ProxySetting: TypeAlias = "str | Literal[False] | None"
"""The URL of a proxy; False for none; None for what the environment says."""


def proxy_for(base_url: str, setting: object) -> URL | None:
    """Return the proxy for requests to a server; None for none.

    Without a setting `HTTPS_PROXY` or `HTTP_PROXY` counts, by the scheme of the URL, else `ALL_PROXY`, unless
    `NO_PROXY` names the host; each also in lower case. Requests to loopback, which may be plain http, use none.

    Args:
        base_url: The server's URL.
        setting: A `ProxySetting`.

    Raises:
        UsageError: The proxy's URL is invalid. It is not shown, because it may contain a password.
    """
    server = URL(base_url)
    if setting is False or is_loopback(server.host or ""):
        return None
    if setting is not None:
        return _checked("proxy", setting)
    found: Mapping[str, str] = getproxies_environment()
    proxy = found.get(server.scheme) or found.get("all")
    if not proxy or proxy_bypass(f"{server.host}:{server.port}", dict(found)):
        return None
    return _checked(f"the environment's {server.scheme.upper()}_PROXY or ALL_PROXY", proxy)


def _checked(name: str, proxy: object) -> URL:
    try:
        url = URL(proxy if isinstance(proxy, str) else "")
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise UsageError(f"{name} must be the URL of an http proxy, such as 'http://proxy.example:3128', or False")
    return url
