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
    from collections.abc import Callable, Mapping, Sequence

_OK: Final = 200
_HALF: Final = 2**47 - 1
"""The counter begins below this, so that it never needs a 13th digit."""


class CorrelationIds:
    """The correlation ids of one client: a random UUID whose last 12 digits are counted up."""

    __slots__ = ("_is_echoed", "_prefix", "make")

    def __init__(self, first: uuid.UUID) -> None:
        self._prefix = str(first)[:24]
        self._is_echoed = False
        # For each request: without a frame of Python's own.
        self.make: Callable[[], str] = map(f"{self._prefix}%012x".__mod__, itertools.count(first.node & _HALF)).__next__
        """Returns the id of the next request."""

    def check(self, correlation_id: str, http_status: int, headers: Mapping[str, str]) -> None:
        """Check that an answer, whose headers ignore their case, can be to the request with this id.

        An error is what it says, whatever id it carries. A 200 is refused if it has the id of another request of this
        client; or, from a server that has echoed an id before, if it has not this one. An id that is upper-cased,
        quoted, a URN or beside others is still that id.

        Raises:
            TransportError: It is to another request.
        """
        echoed = headers.get(CORRELATION_ID, "")
        if echoed == correlation_id:
            self._is_echoed = True
            return
        if not echoed and not self._is_echoed:
            return
        every: Callable[[str], Sequence[str]] | None = getattr(headers, "getall", None)  # of aiohttp's headers
        if every is not None and echoed:
            echoed = ",".join(every(CORRELATION_ID))
        echoed = echoed.lower()
        if correlation_id in echoed:
            self._is_echoed = True
        elif http_status == _OK and (self._is_echoed or self._prefix in echoed):
            what = "carries another id" if echoed else "carries no correlation id, unlike those before"
            raise TransportError(f"the answer is to another request: try again (it {what})")
