"""Is my card printed yet? An asyncio client for the card production status of the Wise Platform API.

```python
import cardprod

async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
    status = await client.get_status(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")
    final = await client.wait_until_final(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52", timeout=600)
```

Everything public is here, but for what needs an extra or is not needed in production: `cardprod.webhooks`,
`cardprod.durable`, `cardprod.otel`, `cardprod.simulator`.
Every exception is a `CardprodError`; the tree is drawn in `cardprod.errors`.
"""

from __future__ import annotations

from cardprod._version import VERSION
from cardprod.auth import OAuthToken, TokenPair, TokenSource
from cardprod.bulk import Progress, Statuses, Waits
from cardprod.checkpoint import Checkpoint
from cardprod.client import PRODUCTION, SANDBOX, Client
from cardprod.error_codes import ErrorCode, ErrorOrigin
from cardprod.errors import (
    ApiError,
    BadEvent,
    BadReply,
    BadSignature,
    CardNotFound,
    CardprodError,
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
from cardprod.pacing import RateLimit
from cardprod.schedule import AdaptiveSchedule, Backoff, Schedule
from cardprod.sweep import Sweep
from cardprod.wait import Wait

__version__ = VERSION

__all__ = [
    "FINAL_STATUSES",
    "PRODUCTION",
    "SANDBOX",
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
