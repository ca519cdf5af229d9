"""How a request is retried, with tenacity: how often, and how long to wait before. What is worth it: `failures`.

`transport` imports this module before its first request, so that importing cardprod does not load tenacity, and not at
the first failure, when there may be no file descriptor left to import with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import tenacity

from cardprod.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_BACKOFF: Final = tenacity.wait_random_exponential(multiplier=0.5, max=8)
"""Seconds: full jitter of the first of these, doubled with each further retry up to the second."""


def retrying(
    attempts: int, *, sleep: Callable[[float], Awaitable[None]], should_retry: Callable[[BaseException], bool]
) -> tenacity.AsyncRetrying:
    """Return what calls an async function until it succeeds, fails for good, or the attempts are used up.

    For one request: requests that share one get each other's outcomes.
    """
    return tenacity.AsyncRetrying(
        sleep=sleep,
        stop=tenacity.stop_after_attempt(attempts),
        wait=_delay,
        retry=tenacity.retry_if_exception(should_retry),
        reraise=True,
    )


def _delay(state: tenacity.RetryCallState) -> float:
    """Return the backoff, or the error's `Retry-After` if that is longer."""
    error = None if state.outcome is None else state.outcome.exception()
    return max(_BACKOFF(state), (error.retry_after or 0.0) if isinstance(error, ApiError) else 0.0)
