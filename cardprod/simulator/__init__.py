"""A kiosk simulator that speaks Wise's HTTP on loopback, for demos and for the tests of your own app.

```python
from cardprod import Client
from cardprod.simulator import Simulator

async with Simulator() as kiosk:
    card = kiosk.add((123456, "my-card"), "prints")
    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        final = await client.wait_until_final(card.profile_id, card.card_token)
```

Its cards run on plans, or are moved: `kiosk.start(card)`, `kiosk.fail(card, "PRD_FEEDER_JAM")`, `kiosk.retry(card)`,
`kiosk.take_offline()`. With `page=True`, as `cardprod simulate` has it, a page in a browser shows everything live, and
has a button for each move. For tests with pytest there are fixtures: see `cardprod.testing`.

It writes its JSON by hand and shares no code with the client's wire format, so that neither can hide the other's
mistakes. It simulates what Wise documents; it has never been compared with the real API.
"""

from __future__ import annotations

from cardprod.simulator.faults import Fault, FaultSettings
from cardprod.simulator.kiosks import CardState, KioskState
from cardprod.simulator.plans import PLANS, Plan, Stage
from cardprod.simulator.server import Simulator
from cardprod.simulator.simulation import Change, LoggedRequest
from cardprod.simulator.webhook_sender import LoggedDelivery, Subscription

__all__ = [
    "PLANS",
    "CardState",
    "Change",
    "Fault",
    "FaultSettings",
    "KioskState",
    "LoggedDelivery",
    "LoggedRequest",
    "Plan",
    "Simulator",
    "Stage",
    "Subscription",
]
