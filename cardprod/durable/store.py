"""What is stored of batches and chunks, and every change of it. The tables are in `sql/schema.sql`.

A chunk is some of a batch's cards, in one checkpoint. A change of it is one transaction: the checkpoint, how cards
ended, the transitions to deliver, and the jobs that go on with it. It is written only over the version that it began
with; where another change came first, the two are merged card by card, so that no transition is decided twice.

Each function takes the connection, and so the transaction, that it is part of.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING, Any, Final

import attrs

from cardprod._polling import stored
from cardprod._polling.sweep import Sweep
from cardprod._protocol.requests import PRODUCTION, PRODUCTION_MTLS, SANDBOX, SANDBOX_MTLS
from cardprod.checkpoint import Checkpoint
from cardprod.durable.database import fetch, fetch_one
from cardprod.durable.transitions import read_step, written_outcome, written_step
from cardprod.errors import CardprodError, UsageError
from cardprod.models import Card, ProductionStatus
from cardprod.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from psycopg import AsyncConnection

    from cardprod.durable.transitions import Step
    from cardprod.models import ProductionEvent, Transition

_LONGEST_NAME: Final = 23
"""A trigger of procrastinate's notifies "procrastinate_queue_v1#cardprod-deliver-" and this: 63 bytes at most."""

_PORTS: Final = {"https": ":443", "http": ":80"}
_DELIVERED_AT_ONCE: Final = 500


@attrs.frozen(kw_only=True)
class BatchStatus:
    """How far a batch is.

    Args:
        id: The batch.
        token_name: The name of the token that its cards are polled with.
        base_url: The API that it is for; None for that of any worker.
        created_at: When it was submitted.
        cancelled_at: When it was cancelled, if it was.
        finished_at: When its last card ended and the last transition was delivered, if it has.
        token_refused_at: When the API refused that token, if no poll has succeeded since: the batch is paused then.
        total: Its cards.
        pending: Cards that have no final result yet.
        produced: Cards that are PRODUCED.
        failed: Cards that ended in PRODUCTION_ERROR or REQUEST_ERROR.
        errors: Cards that ended with a `CardprodError`.
        polls: Polls that were answered or failed so far.
        workers: Workers at work that have that token, for that API. One that was killed counts for 15 s more, with the
            default `heartbeat`.
    """

    id: str
    token_name: str
    base_url: str | None
    created_at: datetime
    cancelled_at: datetime | None
    finished_at: datetime | None
    token_refused_at: datetime | None
    total: int
    pending: int
    produced: int
    failed: int
    errors: int
    polls: int
    workers: int


@attrs.frozen(kw_only=True)
class Chunk:
    """Some of a batch's cards, as they were last written, and what is known of the token that they are polled with."""

    id: int
    batch_id: str
    token_name: str
    token: str  # as queues name it
    version: int  # how often it was changed
    checkpoint: Checkpoint
    paused_for: float  # seconds for which requests with the token are paused
    is_refused: bool  # whether the API refused the token


def queue_name(token: str, base_url: str | None = None) -> str:
    """Return what queues and workers call a token, for one API or any.

    Names that differ in case, or `-` and `_`, are the same: no shell exports a variable with a hyphen, and the
    command's worker has its tokens from variables. An API is the same with a client certificate, and with its scheme's
    own port.
    """
    token = token.lower().replace("-", "_")
    if base_url is None and len(token) <= _LONGEST_NAME:
        return token
    scheme, _, rest = (base_url or "").rstrip("/").lower().partition("://")
    host, slash, path = rest.partition("/")
    base_url = f"{scheme}://{host.removesuffix(_PORTS.get(scheme, ''))}{slash}{path}"
    base_url = {PRODUCTION_MTLS: PRODUCTION, SANDBOX_MTLS: SANDBOX}.get(base_url, base_url)
    digest = hashlib.sha256(f"{token}@{base_url}".encode()).hexdigest()[:8]
    return f"{token[: _LONGEST_NAME - 9]}@{digest}"


async def chunks(connection: AsyncConnection[Any], ids: Sequence[int]) -> list[Chunk]:
    """Read chunks, but for those that there is nothing left to do for.

    One that cannot be read, because a newer version of this package wrote it, is left to workers that can.
    """
    found: list[Chunk] = []
    for row in await fetch(connection, "chunks", ids=list(ids)):
        try:
            row["checkpoint"] = Checkpoint.from_json(row["checkpoint"])
        except UsageError as error:
            log(logging.ERROR, "chunk %d of batch %s cannot be read: %s", row["id"], row["batch_id"], error)
        else:
            found.append(Chunk(**row))
    return found


async def _lock(connection: AsyncConnection[Any], ids: Iterable[int]) -> list[Chunk]:
    """Lock chunks, in the one order that all processes do, and read them."""
    ids = sorted(ids)
    await fetch(connection, "lock_chunks", ids=ids)
    return await chunks(connection, ids)


async def write_sweep(
    connection: AsyncConnection[Any], chunk: Chunk, sweep: Sweep, *, is_delivered: bool = True
) -> None:
    """Write a sweep, over the chunk as it was read; what was written meanwhile stays, card by card.

    Without `next_poll_at` the next one is when the first card is due. Its steps are stored if a sink gets them.
    """
    if await _write(connection, [(chunk, sweep)], is_delivered=is_delivered):
        return
    for locked in await _lock(connection, [chunk.id]):  # unless it is finished
        merged, lost = stored.merge(chunk.checkpoint, sweep.checkpoint, locked.checkpoint)
        steps = tuple((card, what) for card, what in sweep.steps if card not in lost)
        sweep = attrs.evolve(sweep, checkpoint=merged, steps=steps, next_poll_at=None)
        await _write(connection, [(locked, sweep)], is_delivered=is_delivered)


def _change(checkpoint: Checkpoint, steps: Iterable[tuple[Card, Transition | CardprodError]]) -> Sweep:
    return Sweep(checkpoint=checkpoint, steps=tuple(steps), next_poll_at=None, polls=0)


async def _write(
    connection: AsyncConnection[Any], changes: Sequence[tuple[Chunk, Sweep]], *, is_delivered: bool = True
) -> bool:
    """Write changes of chunks that are locked, or of one. Return whether it was not written meanwhile."""
    if not changes:
        return True
    rows: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    transitions: list[dict[str, Any]] = []
    for chunk, change in changes:
        pending = change.checkpoint.pending
        ends = [
            (card, what if isinstance(what, CardprodError) else what.current)
            for card, what in change.steps
            if isinstance(what, CardprodError) or what.is_final
        ]
        statuses = [end for _, end in ends if isinstance(end, ProductionStatus)]
        produced = sum(status.is_produced for status in statuses)
        if change.next_poll_at is not None:
            due_at = change.next_poll_at.timestamp()
        else:
            due_at = min((one.next_poll_at for one in pending), default=0) / 1e6
        rows.append(
            {
                "id": chunk.id,
                "version": chunk.version,
                "checkpoint": change.checkpoint.to_json(),
                "due_at": due_at,
                "deadline_at": _first_deadline(change.checkpoint),
                "pending": len(pending),
                "produced": produced,
                "failed": len(statuses) - produced,
                "errors": len(ends) - len(statuses),
                "polls": change.polls,
            }
        )
        outcomes += [
            {
                "batch_id": chunk.batch_id,
                "profile_id": card.profile_id,
                "card_token": card.card_token,
                "outcome": written_outcome(end),
            }
            for card, end in ends
        ]
        if is_delivered:
            key = f"{chunk.batch_id}.{chunk.id}.{chunk.version + 1}"
            transitions += [
                {"chunk_id": chunk.id, "key": f"{key}.{number}", "body": written_step(card, what)}
                for number, (card, what) in enumerate(change.steps)
            ]
    if not await fetch(connection, "write_chunks", **_columns(rows)):
        return False
    if outcomes:
        await fetch(connection, "write_outcomes", **_columns(outcomes))
    await plan(connection, "plan_sweeps", {row["id"]: row["due_at"] for row in rows if row["pending"]})
    if transitions:
        await fetch(connection, "add_transitions", **_columns(transitions))
    delivers = {row["chunk_id"] for row in transitions}
    await plan(connection, "plan_deliveries", dict.fromkeys(delivers))
    for row in rows:
        if not row["pending"] and row["id"] not in delivers:
            await finish(connection, row["id"])
    return True


async def plan(
    connection: AsyncConnection[Any], statement: str, times: Mapping[int, float | None], attempts: int = 0
) -> None:
    """Plan the next sweeps or deliveries of chunks, each at its time in seconds since 1970, or now."""
    if times:
        await fetch(connection, statement, id=[*times], at=[*times.values()], attempts=attempts)


async def apply_events(connection: AsyncConnection[Any], events: Sequence[ProductionEvent]) -> list[int]:
    """Apply events, in their order, to all stored waits for their cards, and note them for the workers' clients.

    There is one statement of each kind, however many the chunks are: each costs a round trip, which takes long where
    the event loop is busy, and workers wait for the locks.

    Returns:
        For each event how many waits for its card there are.
    """
    cards = [event.card for event in events if event.card is not None]
    found = await fetch(
        connection,
        "chunks_of_events",
        profile_ids=[card.profile_id for card in cards],
        card_tokens=[card.card_token for card in cards],
    )
    counts, are_news = [0] * len(events), [False] * len(events)
    changes: list[tuple[Chunk, Sweep]] = []
    locked = await _lock(connection, [row["chunk_id"] for row in found])
    wall_now = await time_of(connection)
    for chunk in locked:
        checkpoint, steps = stored.apply_events(chunk.checkpoint, events, wall_now)
        news: list[tuple[Card, Transition | CardprodError]] = []
        for number, step in steps.items():
            counts[number] += 1
            card = events[number].card
            if step is not None and card is not None:
                are_news[number] = True
                news.append((card, step))
        if news:
            changes.append((chunk, _change(checkpoint, news)))
        await asyncio.sleep(0)  # a chunk of a thousand cards takes some 20 ms
    await _write(connection, changes)
    await fetch(connection, "add_events", bodies=[event.to_json() for event in events], are_news=are_news)
    return counts


async def expire_chunk(connection: AsyncConnection[Any], chunk_id: int) -> None:
    """End the waits of a chunk whose deadline has passed, unless the chunk is being changed at this moment."""
    if await fetch_one(connection, "lock_free_chunk", id=chunk_id) is None:
        return
    for chunk in await chunks(connection, [chunk_id]):
        checkpoint, steps = stored.expire(chunk.checkpoint, await time_of(connection))
        if steps:
            await _write(connection, [(chunk, _change(checkpoint, steps))])


async def undelivered(
    connection: AsyncConnection[Any], chunk_id: int, delivered: Sequence[int] = ()
) -> dict[int, Step]:
    """Note that transitions were delivered, and finish the chunk if those were its last; else read the next ones.

    Returns:
        The next transitions, each by its id; none if there are none left.
    """
    batch = await fetch_one(connection, "lock_batch_of_chunk", id=chunk_id)
    if batch is None:
        return {}
    if delivered:
        await fetch(connection, "drop_delivered", ids=list(delivered))
    rows = await fetch(connection, "undelivered", chunk_id=chunk_id, most=_DELIVERED_AT_ONCE)
    if not rows:
        await finish(connection, chunk_id)
    return {row["id"]: read_step(batch["id"], row["key"], row["body"]) for row in rows}


async def finish(connection: AsyncConnection[Any], chunk_id: int) -> None:
    """Finish a chunk if nothing is left to do for it, and its batch if that was its last."""
    ended = await fetch_one(connection, "finish_chunk", id=chunk_id)
    if ended is not None:
        await fetch(connection, "lock_batch", id=ended["batch_id"])
        await fetch(connection, "finish_batch", id=ended["batch_id"])


async def add_chunk(connection: AsyncConnection[Any], batch_id: str, checkpoint: Checkpoint) -> int:
    """Add cards to a batch that is not complete yet, and return the id of their chunk."""
    cards = [one.card for one in checkpoint.pending]
    [added] = await fetch(
        connection,
        "add_chunk",
        batch_id=batch_id,
        checkpoint=checkpoint.to_json(),
        deadline_at=_first_deadline(checkpoint),
        total=len(cards),
        profile_ids=[card.profile_id for card in cards],
        card_tokens=[card.card_token for card in cards],
    )
    return int(added["id"])


async def cancel(connection: AsyncConnection[Any], batch_id: str) -> bool:
    """End a batch: nothing of it can be written or delivered any more. Return whether it was under way."""
    await fetch(connection, "cancel_chunks", id=batch_id)
    return await fetch_one(connection, "cancel_batch", id=batch_id) is not None


async def time_of(connection: AsyncConnection[Any]) -> float:
    """Return the database's time in seconds since 1970."""
    [row] = await fetch(connection, "now")
    return float(row["now"])


def _first_deadline(checkpoint: Checkpoint) -> float | None:
    return min((one.deadline_at / 1e6 for one in checkpoint.pending if one.deadline_at is not None), default=None)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
