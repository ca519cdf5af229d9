"""What is stored of batches and chunks, and every change of it. The tables are in `sql/schema.sql`.

A chunk is some of a batch's cards, in one checkpoint. A change of it is one transaction: the checkpoint, how cards
ended, the transitions to deliver, and the jobs that go on with it. It is written only over the version that it began
with; where another change came first, the two are merged card by card, so that no transition is decided twice.

Each function takes the connection, and so the transaction, that it is part of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from cardprod._polling import stored
from cardprod.checkpoint import Checkpoint
from cardprod.durable.database import fetch, fetch_one
from cardprod.durable.transitions import outcomes_of, read_step, written_outcome, written_step
from cardprod.models import Card, ProductionStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from typing import Self

    from psycopg import AsyncConnection

    from cardprod.durable.transitions import Step
    from cardprod.errors import CardprodError
    from cardprod.models import ProductionEvent, Transition

__all__ = ["BatchStatus", "Change", "Chunk", "apply_events", "change_chunk", "finish", "undelivered"]

_DELIVERED_AT_ONCE: Final = 500
_CHUNKS_AT_ONCE: Final = 50
"""Chunks that events are applied to in one transaction: it locks them, and workers wait."""


@attrs.frozen(kw_only=True)
class BatchStatus:
    """How far a batch is.

    Args:
        id: The batch.
        token_name: The name of the token that its cards are polled with.
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
    """

    id: str
    token_name: str
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


@attrs.frozen(kw_only=True)
class Chunk:
    """Some of a batch's cards, as they were last written.

    Args:
        id: The chunk.
        batch_id: Its batch.
        token: The token of its batch, as queues name it.
        version: How often it was changed.
        checkpoint: Its cards.
        paused_for: Seconds for which requests with the token are paused.
        is_refused: Whether the API refused the token.
    """

    id: int
    batch_id: str
    token: str
    version: int
    checkpoint: Checkpoint
    paused_for: float
    is_refused: bool

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        """Read a row."""
        fields: dict[str, Any] = {**row, "checkpoint": Checkpoint.from_json(row["checkpoint"])}
        return cls(**fields)


@attrs.frozen(kw_only=True)
class Change:
    """A change of a chunk.

    Args:
        checkpoint: Its cards afterwards.
        steps: The transitions, and the errors that ended waits.
        polls: How many polls it took.
        next_poll_at: When to sweep the chunk again, in seconds since 1970; None if no card is pending.
        delivers: Whether the steps are to be delivered to a sink.
    """

    checkpoint: Checkpoint
    steps: Sequence[tuple[Card, Transition | CardprodError]]
    polls: int = 0
    next_poll_at: float | None = None
    delivers: bool = True


async def chunk(connection: AsyncConnection[Any], chunk_id: int) -> Chunk | None:
    """Read a chunk; None if there is nothing left to do for it."""
    row = await fetch_one(connection, "chunk", id=chunk_id)
    return None if row is None else Chunk.of(row)


async def change_chunk(connection: AsyncConnection[Any], chunk: Chunk, change: Change) -> bool:
    """Write a change, over the chunk as it was read; what was written meanwhile stays, card by card.

    Returns:
        Whether it was written; False if the chunk is finished.
    """
    began = chunk
    while not await _write(connection, chunk, change):
        row = await fetch_one(connection, "lock_chunk", id=began.id)
        if row is None:
            return False
        chunk = Chunk.of(row)
        merged, lost = stored.merge(began.checkpoint, change.checkpoint, chunk.checkpoint)
        change = attrs.evolve(
            change,
            checkpoint=merged,
            steps=[(card, what) for card, what in change.steps if card not in lost],
            next_poll_at=min((one.next_poll_at / 1e6 for one in merged.pending), default=None),
        )
        began = chunk
    return True


async def _write(connection: AsyncConnection[Any], chunk: Chunk, change: Change) -> bool:
    ends = outcomes_of(change.steps)
    statuses = [end for _, end in ends if isinstance(end, ProductionStatus)]
    produced = sum(status.is_produced for status in statuses)
    pending = change.checkpoint.pending
    at = change.next_poll_at
    if at is None:
        at = min((one.next_poll_at for one in pending), default=0) / 1e6
    written = await fetch_one(
        connection,
        "write_chunk",
        id=chunk.id,
        version=chunk.version,
        checkpoint=change.checkpoint.to_json(),
        due_at=at,
        deadline_at=_first_deadline(change.checkpoint),
        pending=len(pending),
        produced=produced,
        failed=len(statuses) - produced,
        errors=len(ends) - len(statuses),
        polls=change.polls,
    )
    if written is None:
        return False
    if ends:
        await fetch(
            connection,
            "write_outcomes",
            batch_id=chunk.batch_id,
            **_columns(card for card, _ in ends),
            outcomes=[written_outcome(end) for _, end in ends],
        )
    if pending:
        await fetch(connection, "plan_sweep", id=chunk.id, token=chunk.token, at=at, attempts=0)
    if change.steps and change.delivers:
        await fetch(
            connection,
            "add_transitions",
            chunk_id=chunk.id,
            keys=[f"{chunk.batch_id}.{chunk.id}.{chunk.version + 1}.{number}" for number in range(len(change.steps))],
            bodies=[written_step(card, what) for card, what in change.steps],
        )
        await fetch(connection, "plan_delivery", id=chunk.id, token=chunk.token, delay=0.0, attempts=0)
    elif not pending:
        await finish(connection, chunk.id)
    return True


async def apply_events(connection: AsyncConnection[Any], events: Sequence[ProductionEvent]) -> list[int | None]:
    """Apply events, in their order, to all stored waits for their cards, and note them for the workers' clients.

    What that takes is a chunk read and written, so the number of chunks is bounded; all events of those are applied.

    Returns:
        For each event how many waits for its card there are; None if it was not applied and is left for the next
        transaction.
    """
    found = await fetch(connection, "chunks_of_events", **_columns(event.card for event in events if event.card))
    chunks_of: dict[Card | None, set[int]] = {}
    for one in found:
        chunks_of.setdefault(Card(one["profile_id"], one["card_token"]), set()).add(one["chunk_id"])
    taken: set[int] = set()
    for event in events:
        more = taken | chunks_of.get(event.card, set())
        if not taken or len(more) <= _CHUNKS_AT_ONCE:
            taken = more
    numbers = [number for number, event in enumerate(events) if chunks_of.get(event.card, set()) <= taken]
    applied = [events[number] for number in numbers]
    counts, are_news = [0] * len(applied), [False] * len(applied)
    wall_now = await time_of(connection)
    for chunk_id in sorted(taken):  # all processes lock them in one order
        row = await fetch_one(connection, "lock_chunk", id=chunk_id)
        if row is None:
            continue
        chunk = Chunk.of(row)
        checkpoint, steps = stored.apply_events(chunk.checkpoint, applied, wall_now)
        news: list[tuple[Card, Transition | CardprodError]] = []
        for number, step in steps.items():
            counts[number] += 1
            card = applied[number].card
            if step is not None and card is not None:
                are_news[number] = True
                news.append((card, step))
        if news:
            await change_chunk(connection, chunk, Change(checkpoint=checkpoint, steps=news))
    await fetch(connection, "add_events", bodies=[event.to_json() for event in applied], are_news=are_news)
    by_number = dict(zip(numbers, counts, strict=True))
    return [by_number.get(number) for number in range(len(events))]


async def expire_chunk(connection: AsyncConnection[Any], chunk_id: int) -> int:
    """End the waits of a chunk whose deadline has passed, and return how many those were."""
    row = await fetch_one(connection, "lock_chunk", id=chunk_id)
    if row is None:
        return 0
    chunk = Chunk.of(row)
    checkpoint, steps = stored.expire(chunk.checkpoint, await time_of(connection))
    if steps:
        await change_chunk(connection, chunk, Change(checkpoint=checkpoint, steps=steps))
    return len(steps)


async def undelivered(
    connection: AsyncConnection[Any], chunk_id: int, delivered: Sequence[int] = ()
) -> tuple[str, dict[int, Step]] | None:
    """Note that transitions were delivered, and finish the chunk if those were its last; else read the next ones.

    Returns:
        The token of its batch, as queues name it, and the next transitions, each with its id; None if it is finished.
    """
    batch = await fetch_one(connection, "lock_batch_of_chunk", id=chunk_id)
    if batch is None:
        return None
    if delivered:
        await fetch(connection, "drop_delivered", ids=list(delivered))
    rows = await fetch(connection, "undelivered", chunk_id=chunk_id, most=_DELIVERED_AT_ONCE)
    if not rows:
        await finish(connection, chunk_id)
    return batch["token"], {row["id"]: read_step(batch["id"], row["key"], row["body"]) for row in rows}


async def finish(connection: AsyncConnection[Any], chunk_id: int) -> None:
    """Finish a chunk if nothing is left to do for it, and its batch if that was its last."""
    ended = await fetch_one(connection, "finish_chunk", id=chunk_id)
    if ended is not None:
        await fetch(connection, "lock_batch", id=ended["batch_id"])
        await fetch(connection, "finish_batch", id=ended["batch_id"])


async def add_chunk(connection: AsyncConnection[Any], batch_id: str, checkpoint: Checkpoint) -> None:
    """Add cards to a batch that is not complete yet."""
    await fetch(
        connection,
        "add_chunk",
        batch_id=batch_id,
        checkpoint=checkpoint.to_json(),
        deadline_at=_first_deadline(checkpoint),
        total=len(checkpoint.pending),
        **_columns(one.card for one in checkpoint.pending),
    )


async def cancel(connection: AsyncConnection[Any], batch_id: str) -> bool:
    """End a batch: nothing of it can be written or delivered any more. Return whether it was under way."""
    await fetch(connection, "cancel_chunks", id=batch_id)
    return await fetch_one(connection, "cancel_batch", id=batch_id) is not None


async def time_of(connection: AsyncConnection[Any]) -> float:
    """Return the database's time in seconds since 1970."""
    row = await fetch_one(connection, "now")
    assert row is not None, "it selects no rows of a table"  # noqa: S101 - for the type checker
    now: float = row["now"]
    return now


def _first_deadline(checkpoint: Checkpoint) -> float | None:
    return min((one.deadline_at / 1e6 for one in checkpoint.pending if one.deadline_at is not None), default=None)


def _columns(cards: Iterable[Card]) -> dict[str, list[Any]]:
    cards = list(cards)
    return {
        "profile_ids": [card.profile_id for card in cards],
        "card_tokens": [card.card_token for card in cards],
    }
