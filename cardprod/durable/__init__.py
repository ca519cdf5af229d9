"""Waits that survive machines: batches of cards in PostgreSQL, that any worker may take the next step of.

```python
from cardprod.durable import Durable

async with Durable("postgresql://…") as durable:
    batch_id = await durable.submit(cards, timeout=3600)  # here, in a web app
    await durable.work({"default": client}, on_steps)     # there, in as many processes as you like
```

A durable wait is a row that no worker owns. Needs the extra `durable`, and PostgreSQL (tested: 15, 18);
jobs are procrastinate's. `steps` has what a sink is given, `store` the tables and every statement, `worker` the work.
"""

from __future__ import annotations

from cardprod.durable.engine import Durable
from cardprod.durable.steps import Step
from cardprod.durable.store import BatchStatus

__all__ = ["BatchStatus", "Durable", "Step"]
