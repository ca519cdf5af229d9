"""The errors of this package.

```
CardprodError(Exception)            .card
├── UsageError(ValueError)          a bad argument, before any I/O
├── TransportError                  no answer: refused, reset, DNS, TLS, cut body
│   └── RequestTimeout(TimeoutError)
├── ApiError                        an error answer: .http_status .code .detail .trace_id .body .retry_after
│   ├── Unauthorized                401, after one refresh where the token can be refreshed
│   │   └── TokenRefreshFailed      the token endpoint refused
│   ├── Forbidden                   403
│   │   └── StrongAuthenticationRequired
│   ├── CardNotFound                404
│   ├── RateLimited                 429: .limited_by
│   └── ServerError                 5xx
├── BadReply                        a 2xx that is not the documented shape, or over 1 MiB: .trace_id .body
├── WaitTimeout(TimeoutError)       .last .polls .elapsed .checkpoint
├── ProductionFailed                .status
├── BadSignature                    a webhook that Wise did not sign
└── BadEvent                        signed, and not a production event: .delivery_id
```

Every error is one line when printed, names the card it is about where there is one, and survives pickle and copy.
No error ever holds a bearer token.
"""

from __future__ import annotations

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
    """No answer came: refused, reset, DNS, TLS, or a body cut short. The cause is attached as `__cause__`.

    What to do: nothing at once, it was tried as often as `attempts` says; look at the network between you and Wise.
    """


class RequestTimeout(TransportError, TimeoutError):
    """The answer, headers and body together, did not arrive in time. The card's state is unknown, not changed."""


class ApiError(CardprodError):
    """An answer came, and it is an error.

    Attributes:
        http_status: The HTTP status, such as 422.
        code: The error's own code, as far as the answer names one, such as "invalid_token".
        detail: What the answer says in words, if anything.
        trace_id: The answer's `x-trace-id`: quote it to Wise's support.
        body: The first 2 KiB of the answer's body, as text.
        retry_after: Seconds until the next request is welcome; None if the answer did not say.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each thing an answer tells
        self,
        message: str,
        *,
        http_status: int,
        code: str | None = None,
        detail: str | None = None,
        trace_id: str | None = None,
        body: str = "",
        retry_after: float | None = None,
        card: Card | None = None,
    ) -> None:
        super().__init__(message, card=card)
        self.http_status = http_status
        self.code = code
        self.detail = detail
        self.trace_id = trace_id
        self.body = body
        self.retry_after = retry_after


class Unauthorized(ApiError):
    """401: the token is missing, wrong or expired. Get a new user token."""


class TokenRefreshFailed(Unauthorized):
    """The token endpoint refused to refresh the token.

    `code` "invalid_grant": the user must authorise again. "invalid_client": check the client's id and secret.
    """


class Forbidden(ApiError):
    """403: the token is good, but not for this profile or card."""


class StrongAuthenticationRequired(Forbidden):
    """403 with `x-2fa-approval-result: REJECTED`: the user must approve this with strong authentication.

    This client never signs anything by itself.
    """


class CardNotFound(ApiError):
    """404: no such card under this profile, as far as this token can see."""


class RateLimited(ApiError):
    """429: more requests than Wise allows. `retry_after` says when the next one is welcome.

    Attributes:
        limited_by: What refused the request, as the answer's `X-Rate-Limited-By` names it, such as "wise-public-api";
            None if it did not say. Some calls of Wise's have a limit of their own.
    """

    def __init__(  # noqa: PLR0913 - as above
        self,
        message: str,
        *,
        http_status: int,
        code: str | None = None,
        detail: str | None = None,
        trace_id: str | None = None,
        body: str = "",
        retry_after: float | None = None,
        limited_by: str | None = None,
        card: Card | None = None,
    ) -> None:
        super().__init__(
            message,
            http_status=http_status,
            code=code,
            detail=detail,
            trace_id=trace_id,
            body=body,
            retry_after=retry_after,
            card=card,
        )
        self.limited_by = limited_by


class ServerError(ApiError):
    """5xx: trouble at Wise or at a proxy before it. It was tried as often as `attempts` says."""


class BadReply(CardprodError):
    """A success that is not the documented shape, or is over 1 MiB.

    Attributes:
        trace_id: The answer's `x-trace-id`: quote it to Wise's support.
        body: The first 2 KiB of the answer's body, as text.
    """

    def __init__(self, message: str, *, trace_id: str | None = None, body: str = "", card: Card | None = None) -> None:
        super().__init__(message, card=card)
        self.trace_id = trace_id
        self.body = body


class WaitTimeout(CardprodError, TimeoutError):
    """The wait's own time ran out before the card was final. The card may still be printed: wait again.

    If looks were failing at the end, the last failure is attached as `__cause__`.

    Attributes:
        last: The last status seen, or None if no look was answered.
        polls: How many looks were answered.
        elapsed: Seconds since the wait began.
        checkpoint: The wait as it was: `client.resume(error.checkpoint.extended(600))` goes on with it, and tells
            nothing twice.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each thing that was seen
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


class BadSignature(CardprodError):
    """A delivery that none of the keys has signed, or that cannot have been: answer it with 400.

    It says the same whatever was wrong, because whoever made it up would learn from the rest.
    """


class BadEvent(CardprodError):
    """A delivery that is signed, and is not a card's production event.

    What to do: answer 200, or Wise sends it again for two weeks; and look which subscriptions lead to this address.

    Attributes:
        delivery_id: The delivery's `X-Delivery-Id`, if it had one.
    """

    def __init__(self, message: str, *, delivery_id: str | None = None, card: Card | None = None) -> None:
        super().__init__(message, card=card)
        self.delivery_id = delivery_id
