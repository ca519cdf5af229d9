"""The errors of this package.

```
CardprodError(Exception)            .card
├── UsageError(ValueError)          a bad argument, before any I/O
├── TransportError                  no answer: refused, reset, DNS, TLS, truncated body
│   └── RequestTimeout(TimeoutError)
├── ApiError                        an error answer: .http_status .code .detail .trace_id .body .retry_after
│   ├── Unauthorized                401, after one refresh where the token can be refreshed
│   │   └── TokenRefreshFailed      the token endpoint refused
│   ├── Forbidden                   403
│   │   └── StrongAuthenticationRequired
│   ├── CardNotFound                404
│   ├── RateLimited                 429: .limited_by
│   └── ServerError                 5xx
├── BadReply                        a 2xx that is not of the documented shape, or over 1 MiB: .trace_id .body
├── WaitTimeout(TimeoutError)       .last .polls .elapsed .checkpoint
├── DurableError                    the database of durable waits; the cause is attached
├── ProductionFailed                .status
├── BadSignature                    a webhook that Wise did not sign
└── BadEvent                        signed, but not a production event: .delivery_id
```

Every error prints as one line, names its card where it has one, and can be pickled and copied. No error ever holds a
bearer token.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from cardprod.card import CardprodError, UsageError
from cardprod.models import ProductionFailed

if TYPE_CHECKING:
    from cardprod.card import Card
    from cardprod.checkpoint import Checkpoint
    from cardprod.models import ProductionStatus

__all__ = [
    "ApiError",
    "BadEvent",
    "BadReply",
    "BadSignature",
    "CardNotFound",
    "CardprodError",
    "DurableError",
    "Forbidden",
    "ProductionFailed",
    "RateLimited",
    "RequestTimeout",
    "ServerError",
    "StrongAuthenticationRequired",
    "TokenRefreshFailed",
    "TransportError",
    "Unauthorized",
    "UsageError",
    "WaitTimeout",
]


class TransportError(CardprodError):
    """No answer came: refused, reset, DNS, TLS, or a truncated body. The cause is attached as `__cause__`.

    All `attempts` were made already: check the network between you and Wise.
    """


class RequestTimeout(TransportError, TimeoutError):
    """The whole answer, headers and body, did not arrive within `request_timeout`. It says nothing about the card."""


class ApiError(CardprodError):
    """The answer is an error.

    Attributes:
        http_status: The HTTP status, such as 422.
        code: The error code in the answer, such as "invalid_token"; None without one.
        detail: The error's description in the answer; None without one.
        trace_id: The answer's `x-trace-id`, for Wise's support.
        body: The first 2 KiB of the answer's body, as text.
        retry_after: Seconds to wait before the next request; None if the answer did not say.
        from_gateway: Whether the body is not JSON, as the API's own errors are: the answer is likely that of a proxy
            or a gateway on the way. A wait then goes on, whatever `http_status` is.
        limited_by: What refused the request with a 429, as the answer's `X-Rate-Limited-By` names it, such as
            "wise-public-api"; None if it did not say. Some calls of Wise's have a limit of their own.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each field of an answer
        self,
        message: str,
        *,
        http_status: int,
        code: str | None = None,
        detail: str | None = None,
        trace_id: str | None = None,
        body: str = "",
        retry_after: float | None = None,
        from_gateway: bool = False,
        limited_by: str | None = None,
        card: Card | None = None,
    ) -> None:
        super().__init__(message, card=card)
        self.http_status = http_status
        self.code = code
        self.detail = detail
        self.trace_id = trace_id
        self.body = body
        self.retry_after = retry_after
        self.from_gateway = from_gateway
        self.limited_by = limited_by


class Unauthorized(ApiError):
    """401: the token is missing, wrong or expired. It ends every wait of the client at its next poll.

    Get a new user token; a client with an `OAuthToken` or another `TokenSource` gets one by itself.
    """


class TokenRefreshFailed(Unauthorized):
    """The token endpoint refused to refresh the token.

    With `code` "invalid_grant" the user must authorise again; with "invalid_client" check the client's id and secret.
    """


class Forbidden(ApiError):
    """403: the token is valid, but not for this profile or card."""


class StrongAuthenticationRequired(Forbidden):
    """403 with `x-2fa-approval-result: REJECTED`: the user must approve this with strong authentication.

    This client cannot do that for the user.
    """


class CardNotFound(ApiError):
    """404: this token can see no such card under this profile."""


class RateLimited(ApiError):
    """429: more requests than Wise allows. `retry_after` says how long to wait, `limited_by` names the limit."""


class ServerError(ApiError):
    """5xx: a failure at Wise or a proxy before it. All `attempts` were made already."""


class BadReply(CardprodError):
    """A 2xx answer that is not of the documented shape, or is over 1 MiB.

    Attributes:
        trace_id: The answer's `x-trace-id`, for Wise's support.
        body: The first 2 KiB of the answer's body, as text.
    """

    def __init__(self, message: str, *, trace_id: str | None = None, body: str = "", card: Card | None = None) -> None:
        super().__init__(message, card=card)
        self.trace_id = trace_id
        self.body = body


class WaitTimeout(CardprodError, TimeoutError):
    """The timeout passed before the card was final. The card may still be produced: wait again.

    If the last poll failed, its error is attached as `__cause__`.

    Attributes:
        last: The last status seen; None if nothing was.
        polls: How many polls were answered.
        elapsed: Seconds since the wait began.
        checkpoint: The wait as it ended: `client.resume(error.checkpoint.extended(600))` continues it, and delivers
            nothing twice.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each attribute
        self,
        message: str,
        *,
        last: ProductionStatus | None,
        polls: int,
        elapsed: float,
        checkpoint: Checkpoint | None = None,
        card: Card | None = None,
    ) -> None:
        super().__init__(message, card=card)
        self.last = last
        self.polls = polls
        self.elapsed = elapsed
        self.checkpoint = checkpoint


class DurableError(CardprodError):
    """The database of durable waits cannot be reached, or does not do what it should. Nothing is left half done.

    The driver's error is attached as `__cause__`. Try again later.
    """


class BadSignature(CardprodError):
    """A delivery without a valid signature by one of the keys: answer it with 400.

    Of a signature that is there the message does not say what is wrong, because that would help to forge one.
    """


class BadEvent(CardprodError):
    """A delivery that is signed, but is not a card's production event.

    Answer it with 200, or Wise sends it again for two weeks; and check which subscriptions use this URL.

    Attributes:
        delivery_id: The delivery's `X-Delivery-Id`, if it had one.
    """

    def __init__(self, message: str, *, delivery_id: str | None = None, card: Card | None = None) -> None:
        super().__init__(message, card=card)
        self.delivery_id = delivery_id


def copy_of(error: CardprodError) -> CardprodError:
    """Copy an error for one of several callers: a single exception that all raise would mix their tracebacks."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied
