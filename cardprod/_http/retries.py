"""How a request is retried, with tenacity: how often, and how long to wait before. What is worth it: `failures`.

`transport` imports this module before its first request, so that importing cardprod does not load tenacity, and not at
the first failure, when there may be no file descriptor left to import with.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, TypeVar

import tenacity

from cardprod._http.failures import is_retryable
from cardprod.errors import ApiError, CardprodError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_T = TypeVar("_T")

_FIRST: Final = 0.5
_CEILING: Final = 8.0
"""Seconds: the most that the first retry waits, doubled with each further one up to the second."""


def retry_delay(attempt: int, error: BaseException | None) -> float:
    """Return how many seconds to wait after a failed attempt, the first being 1.

    That is exponential backoff with full jitter, or the error's `Retry-After` if that is longer.
    """
    backoff = random.uniform(0, min(_FIRST * 2 ** (attempt - 1), _CEILING))  # noqa: S311 - to spread the load
    return max(backoff, (error.retry_after or 0.0) if isinstance(error, ApiError) else 0.0)


async def retry(  # noqa: PLR0913 - one keyword for each option
    send: Callable[[], Awaitable[_T]],
    *,
    made: int,
    attempts: int,
    sleep: Callable[[float], Awaitable[None]],
    should_retry: Callable[[BaseException], bool] = is_retryable,
    before_sleep: Callable[[int, CardprodError], None] | None = None,
) -> _T:
    """Call `send` until it succeeds, fails in a way that is not retryable, or the attempts are used up.

    Args:
        send: Makes one attempt.
        made: Attempts made before.
        attempts: The most attempts, those included.
        sleep: Sleeps between two attempts, for so many seconds.
        should_retry: Whether a failure is retryable.
        before_sleep: Is called with the number of the failed attempt, and its error.
    """

    def error_of(state: tenacity.RetryCallState) -> BaseException | None:
        return None if state.outcome is None else state.outcome.exception()

    def report(state: tenacity.RetryCallState) -> None:
        error = error_of(state)
        if before_sleep is not None and isinstance(error, CardprodError):
            before_sleep(made + state.attempt_number, error)

    retrying = tenacity.AsyncRetrying(
        sleep=sleep,
        stop=tenacity.stop_after_attempt(attempts - made),
        wait=lambda state: retry_delay(made + state.attempt_number, error_of(state)),
        retry=tenacity.retry_if_exception(should_retry),
        before_sleep=report,
        reraise=True,
    )
    return await retrying(send)
