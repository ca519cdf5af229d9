"""An HTTP answer as it was received: its status, its headers, and its body up to a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import aiohttp

from cardprod._protocol.api_errors import MAX_BODY

if TYPE_CHECKING:
    from collections.abc import Mapping

Answer: TypeAlias = "tuple[int, Mapping[str, str], bytes]"
"""The HTTP status, the headers and the body. A body over `MAX_BODY` is truncated, to a length that is over it too."""

NO_TIMEOUT: Final = aiohttp.ClientTimeout()
"""No timeout of aiohttp's: the caller limits the whole exchange instead, from its permit on."""


async def read_body(content: aiohttp.StreamReader) -> bytes:
    """Read a body to its end, or until it is over `MAX_BODY`."""
    received = await content.readany()
    while not content.at_eof() and len(received) <= MAX_BODY:
        received += await content.readany()
    return received
