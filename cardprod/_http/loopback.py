"""Plain http goes to this machine only: the address that is connected to is checked, not the host's name.

`localhost` is a name like any other: a hosts file, a resolver or a container's network can make it another machine, on
whose network anybody could read the token.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from cardprod._protocol.requests import is_loopback
from cardprod.errors import TransportError

if TYPE_CHECKING:
    import asyncio


def loopback_socket(addr_info: tuple[Any, ...]) -> socket.socket:
    """Make the socket for a connection to an address, as aiohttp's `socket_factory`; refuse any but loopback."""
    family, kind, protocol, _, (host, *_) = addr_info
    if not is_loopback(host.partition("%")[0]):
        raise OSError(errno.EHOSTUNREACH, _words(host))
    return socket.socket(family, kind, protocol)


def check_is_local(transport: asyncio.BaseTransport | None) -> None:
    """Refuse a connection whose other end is not known to be on this machine, before anything is sent."""
    peer: Any = None if transport is None else transport.get_extra_info("peername")
    if isinstance(peer, str | bytes):  # a socket of this machine's file system
        return
    host = str(peer[0]) if peer else "an unknown address"
    if not is_loopback(host.partition("%")[0]):
        raise TransportError(f"nothing was sent: {_words(host)}")


def _words(host: str) -> str:
    return (
        f"plain http would go to {host}, which is not this machine: "
        "check what base_url's host resolves to, and the proxies, or use https"
    )
