"""An asyncio client for the card production status of the Wise Platform API: it waits until a card is printed.

```python
import cardprod

async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
    status = await client.get_status(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")  # one request

    async for step in client.wait_until_final(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52", timeout=600):
        print(step)  # READY, then READY -> IN_PROGRESS at WIS00001, …

    final = step.current
    while not final.is_produced:  # an operator may send the card to the kiosk again
        final = await client.wait_until_final(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52", after=final)
```

For many cards, from any iterable or async iterable; the error of one card is a value among the results:

```python
cards = ((123456, f"card-{number}") for number in range(50))
async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
    async with client.wait_until_all_final(cards, timeout=3600) as steps:
        async for card, step in steps:
            if isinstance(step, cardprod.CardprodError) or step.is_final:
                print(card, step, steps.progress.pending, "to go")
```

What there is, each with a `help` of its own, such as `help(cardprod.Client)`:

| to | use |
| --- | --- |
| request statuses and wait | `Client`; its `Wait`, `Statuses` and `Waits`, with `Progress` |
| read what happened | `ProductionStatus`, `Transition`, `Status`, `FINAL_STATUSES`, `ErrorCode`, `ErrorOrigin` |
| name cards | `Card`, or a `(profile_id, card_token)` tuple |
| choose the server | `PRODUCTION`, `SANDBOX`, `PRODUCTION_MTLS`, `SANDBOX_MTLS` |
| handle errors | `CardprodError`; `help("cardprod.errors")` shows the tree |
| choose how often to poll | `AdaptiveSchedule`, which learns, `Backoff`, or a `Schedule` of your own |
| change the rate limit (Wise's is the default) | `RateLimit`, and `RateLimit.share` among processes |
| have a token that refreshes itself | `OAuthToken`, `TokenPair`; or a `TokenSource` of your own |
| save waits, and go on elsewhere | `Checkpoint`, `Client.resume`, `Client.sweep`, `Sweep` |
| paste recipes: web apps, SIGTERM, TLS, … | `help("cardprod.client")` |
| see changes by webhook | `help("cardprod.webhooks")` (extra `webhooks`), `Client.notify`, `ProductionEvent` |
| let waits survive crashes, or use a job engine | `help("cardprod.durable")` (extra `durable`) |
| see logs, traces and metrics | `help("cardprod.telemetry")`, `help("cardprod.otel")` (extra `otel`) |
| test an app, or try this without Wise | `help("cardprod.testing")`, `help("cardprod.simulator")` |
| use it in a terminal | `cardprod --help` |

A status or an error code that is newer than this package, and so not in `Status` or `ErrorCode`, is a plain `str`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING

from cardprod._http.auth import OAuthToken, TokenPair, TokenSource
from cardprod._http.rate_limit import RateLimit
from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff, Schedule
from cardprod._polling.bulk import Statuses
from cardprod._polling.results import Progress
from cardprod._polling.sweep import Sweep
from cardprod._polling.wait import Wait
from cardprod._polling.waits import Waits
from cardprod._version import VERSION as __version__  # noqa: N811 - Python's name for it
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

if _TYPE_CHECKING:
    # Not at run time: help(cardprod) would describe each of these in full, 5,000 lines. A test holds that they are all.
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
