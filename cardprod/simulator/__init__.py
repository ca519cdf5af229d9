"""A kiosk simulator that speaks Wise's HTTP on loopback, for demos and for the tests of your own app.

```python
from cardprod import Client
from cardprod.simulator import Simulator

async with Simulator() as kiosk:
    card = kiosk.add((123456, "my-card"), "prints")
    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        final = await client.wait_until_final(card.profile_id, card.card_token)
```

For tests with pytest there are fixtures: see `cardprod.testing`.

A plan is a name (`prints`, `jams`, `rejected`, `retried`, `never`), an error code, or statuses with their seconds, as
`[("READY", 1), ("IN_PROGRESS", 5), ("PRODUCED", 0)]`. `Simulator(plan_for_unknown="prints")` knows every card, and
`kiosk.fail_next(Fault.server_error(503))` gives the next answer a fault. Time is the event loop's, so with looptime
hours pass in seconds.

A card can be moved step by step; it has then left its plan, and webhooks are sent for it as for any:

```python
async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url) as client:
    card = kiosk.add((123456, "my-card"), "never")  # READY until it is moved
    kiosk.start(card)
    kiosk.fail(card, "PRD_FEEDER_JAM")
    jammed = await client.get_status(123456, "my-card")
    assert jammed.error_meaning == "Production error: feeder card jam"
    kiosk.take_offline()
    kiosk.retry(card)  # REQUEST_ERROR, REQUEST_CREATED_BUT_NOT_STARTED
    kiosk.bring_online()  # IN_PROGRESS, under a new occurredAt
    assert kiosk.finish(card).status == "PRODUCED"
```

`cardprod simulate` serves the same, with a page at `http://127.0.0.1:8080/`. With `--plan never`, a card that your app
asks for stays READY until you start it: on the page, or by `POST /_kiosk/<move>` with a JSON object.

| move | fields |
| --- | --- |
| `add` | `profile_id`, `card_token`, `plan` |
| `start`, `retry` | `profile_id`, `card_token`; `kiosk_id`, if it is another kiosk |
| `finish` | `profile_id`, `card_token` |
| `fail`, `refuse` | `profile_id`, `card_token`, `error_code` |
| `add-kiosk`, `take-offline`, `bring-online` | `kiosk_id`, such as "WIS00001" |

The answer has the card's state, or, under 400, the `detail` of what is wrong. API and page are for this machine only:
other websites can neither read nor change them.

What there is, each with a `help` of its own, such as `help("cardprod.simulator.Simulator")`:

| to | use |
| --- | --- |
| run it | `Simulator` |
| say what becomes of a card | `Plan`: a key of `PLANS`, an error code, or `Stage`s |
| give answers a fault | `Fault`; `FaultSettings` |
| read its state and its logs | `CardState`, `KioskState`, `LoggedRequest`, `LoggedDelivery`; `Change` names a change |
| have webhooks late, lost or twice | `Subscription` |

It shares no code with the client's wire format, so that neither can hide the other's mistakes. It simulates what Wise
documents, and was never compared with the real API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING

from cardprod.simulator.faults import Fault, FaultSettings
from cardprod.simulator.kiosks import CardState, KioskState
from cardprod.simulator.plans import PLANS, Plan, Stage
from cardprod.simulator.server import Simulator
from cardprod.simulator.simulation import Change, LoggedRequest
from cardprod.simulator.webhook_sender import LoggedDelivery, Subscription

if _TYPE_CHECKING:
    # Not at run time: help() would describe each of these in full, with all that attrs adds. A test holds that they are
    # all.
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
