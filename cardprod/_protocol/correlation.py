"""`CorrelationIds`: the ids of a client's requests, and which answers they allow. Pure.

Wise echoes the id of a request in its answer; other servers, recordings and caches may not, or may send one of their
own. So a client learns whether its server echoes its ids.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from cardprod._protocol.requests import CORRELATION_ID
from cardprod.errors import TransportError

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

__all__ = ["CorrelationIds"]

_OK: Final = 200
_NODE: Final = 2**48 - 1


class CorrelationIds:
    """The correlation ids of one client: a random UUID whose last 12 digits are counted up.

    Args:
        first: The UUID.
    """

    __slots__ = ("_counter", "_is_echoed", "_prefix")

    def __init__(self, first: uuid.UUID) -> None:
        self._prefix = str(first)[:24]
        self._counter = itertools.count(first.node)
        self._is_echoed = False

    def make(self) -> str:
        """Return the id of the next request."""
        return f"{self._prefix}{next(self._counter) & _NODE:012x}"

    def check(self, correlation_id: str, http_status: int, headers: Mapping[str, str]) -> None:
        """Check that an answer can be to the request with this id.

        An error is what it says, whatever id it carries. A 200 is refused if it has the id of another request of this
        client; or, from a server that has echoed an id before, if it has not this one.

        Args:
            correlation_id: The id of the request.
            http_status: The answer's HTTP status.
            headers: Its headers, as a mapping that ignores their case.

        Raises:
            TransportError: It is to another request.
        """
        echoed = headers.get(CORRELATION_ID, "")
        if not echoed and not self._is_echoed:
            return
        if echoed == correlation_id or echoed.strip(' "').lower() == correlation_id:
            self._is_echoed = True
        elif http_status == _OK and (self._is_echoed or echoed.strip(' "').lower().startswith(self._prefix)):
            what = "carries another id" if echoed else "carries no correlation id, unlike those before"
            raise TransportError(f"the answer is to another request: try again (it {what})")
