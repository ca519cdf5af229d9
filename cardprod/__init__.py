"""Is my card printed yet? An asyncio client for the card production status of the Wise Platform API.

Share one client among everything in a process that uses the same token. It requests a card's status once, or waits
until the card is PRODUCED, PRODUCTION_ERROR or REQUEST_ERROR: await the wait for the final status, or iterate it for
each `Transition`:

```python
import cardprod

async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
    status = await client.get_status(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")

    async for step in client.wait_until_final(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52", timeout=600):
        print(step)  # READY, then READY -> IN_PROGRESS at WIS00001, …

    if step.current.status == "PRODUCTION_ERROR":
        print(step.current.error_origin, step.current.error_meaning)
```

For many cards, from any iterable or async iterable, use `Client.get_statuses` and `Client.wait_until_all_final`. The
error of one card is a value among the results:

```python
cards = ((123456, f"card-{number}") for number in range(50))
async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
    async with client.wait_until_all_final(cards, timeout=3600) as steps:
        async for card, step in steps:
            if isinstance(step, cardprod.CardprodError) or step.is_final:
                print(card, step, steps.progress.pending, "to go")
```

| to | use |
| --- | --- |
| choose how often to poll | `Backoff`, or `AdaptiveSchedule`, which learns |
| change the rate limit (Wise's is the default) | `RateLimit`, and `RateLimit.share` among processes |
| have a token that refreshes itself | `OAuthToken` |
| see a change at once, by webhook | `cardprod.webhooks` (extra `webhooks`) and `Client.notify` |
| let a wait outlive its process | `Checkpoint`, `Client.resume`, `Client.sweep`, or `cardprod.durable` (extra too) |
| see logs, traces and metrics | `cardprod.telemetry`, and `cardprod.otel` (extra `otel`) |
| test an app, or try this without Wise | `cardprod.simulator` |
| use it in a terminal | `cardprod --help` |

All errors are `CardprodError`s; `cardprod.errors` shows the tree. A status or an error code that is newer than this
package, and so not in `Status` or `ErrorCode`, is a plain `str`.
"""

from __future__ import annotations

from cardprod._http.auth import OAuthToken, TokenPair, TokenSource
from cardprod._http.rate_limit import RateLimit
from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff, Schedule
from cardprod._polling.bulk import Statuses
from cardprod._polling.results import Progress
from cardprod._polling.sweep import Sweep
from cardprod._polling.wait import Wait
from cardprod._polling.waits import Waits
from cardprod._version import VERSION
from cardprod.checkpoint import Checkpoint
from cardprod.client import PRODUCTION, PRODUCTION_MTLS, SANDBOX, SANDBOX_MTLS, Client
from cardprod.error_codes import ErrorCode, ErrorOrigin
from cardprod.errors import (
    ApiError,
    BadEvent,
    BadReply,
    BadSignature,
    CardNotFound,
    CardprodError,
    DurableError,
    Forbidden,
    ProductionFailed,
    RateLimited,
    RequestTimeout,
    ServerError,
    StrongAuthenticationRequired,
    TokenRefreshFailed,
    TransportError,
    Unauthorized,
    UsageError,
    WaitTimeout,
)
from cardprod.models import FINAL_STATUSES, Card, CardLike, ProductionEvent, ProductionStatus, Status, Transition

__version__ = VERSION

__all__ = [
    "FINAL_STATUSES",
    "PRODUCTION",
    "PRODUCTION_MTLS",
    "SANDBOX",
    "SANDBOX_MTLS",
    "AdaptiveSchedule",
    "ApiError",
    "Backoff",
    "BadEvent",
    "BadReply",
    "BadSignature",
    "Card",
    "CardLike",
    "CardNotFound",
    "CardprodError",
    "Checkpoint",
    "Client",
    "DurableError",
    "ErrorCode",
    "ErrorOrigin",
    "Forbidden",
    "OAuthToken",
    "ProductionEvent",
    "ProductionFailed",
    "ProductionStatus",
    "Progress",
    "RateLimit",
    "RateLimited",
    "RequestTimeout",
    "Schedule",
    "ServerError",
    "Status",
    "Statuses",
    "StrongAuthenticationRequired",
    "Sweep",
    "TokenPair",
    "TokenRefreshFailed",
    "TokenSource",
    "Transition",
    "TransportError",
    "Unauthorized",
    "UsageError",
    "Wait",
    "WaitTimeout",
    "Waits",
    "__version__",
]
