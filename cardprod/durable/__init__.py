"""Waits that survive machines: batches of cards in PostgreSQL, which any worker may go on with.

```python
from cardprod.durable import Durable

async with Durable("postgresql://…") as durable:
    batch_id = await durable.submit(cards, timeout=3600)  # here, in a web app
    await durable.work({"default": client}, on_steps)     # there, in as many processes as you like
```

A durable wait is a row that no worker owns. Needs the extra `durable`, and PostgreSQL (tested: 15, 18); jobs are
procrastinate's. `api` has `Durable`; `worker` and `recovery` the work; `store` every change of what is stored, and
`sql` the tables and statements; `database` connections and errors; `schema` the migrations.
"""

from __future__ import annotations

from cardprod.durable.api import Durable
from cardprod.durable.store import BatchStatus
from cardprod.durable.transitions import Step

__all__ = ["BatchStatus", "Durable", "Step"]
