"""Where the bearer token comes from, and what may pass for one. It is never shown: not in a repr, a log or an error.

A token that refreshes itself will live here as well; talking HTTP for the cards does not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from cardprod.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["TokenSource", "check_token"]

# RFC 6750, section 2.1, gives the characters of a bearer token; what goes beyond them but is printable ASCII is let
# through, because the issuer's word counts for more than ours.
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


class TokenSource(Protocol):
    """Gives the token for the next request. An async function without arguments is one.

    It is awaited before every request, so it should answer from memory and fetch only when it must; it has as long as a
    request may take. What it raises passes through as it is, and ends a wait.
    """

    def __call__(self) -> Awaitable[str]:
        """Give a bearer token that is good now."""
        ...


def check_token(token: object) -> str:
    """Let a token pass, or refuse it without showing it.

    Raises:
        UsageError: It is not a str, is empty, or holds white space, control or non-ASCII characters.
    """
    if not isinstance(token, str):
        raise UsageError(f"the token must be a str or an async callable that gives one, not a {type(token).__name__}")
    if not token:
        raise UsageError("the token is empty")
    if not _TOKEN.fullmatch(token):
        raise UsageError(
            "the token holds white space, control or non-ASCII characters; was it read from a file with its line break?"
        )
    return token
