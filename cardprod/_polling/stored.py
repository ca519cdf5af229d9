"""What can be done to stored waits without a poll: apply events, end those whose time ran out, merge. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from cardprod._polling.backoff import Backoff
from cardprod._polling.state import PollOptions, PollState
from cardprod.errors import WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardprod.checkpoint import Checkpoint, PendingCard
    from cardprod.errors import CardprodError
    from cardprod.models import Card, ProductionEvent, Transition


def apply_events(
    checkpoint: Checkpoint, events: Sequence[ProductionEvent], wall_now: float
) -> tuple[Checkpoint, dict[int, Transition | CardprodError | None]]:
    """Apply events, in their order, to the stored waits for their cards, as `Client.notify` does to those in memory.

    Args:
        checkpoint: The waits.
        events: The events.
        wall_now: The time in seconds since 1970.

    Returns:
        The waits afterwards; and for each event whose card is waited for, by its number, the transition, or None if it
        is no news.
    """
    options = _options_of(checkpoint)
    pending = {one.card: one for one in checkpoint.pending}
    steps: dict[int, Transition | CardprodError | None] = {}
    for number, event in enumerate(events):
        if event.card is None or event.card not in pending:
            continue
        state = PollState(event.card, options, 0.0)
        state.restore(pending[event.card], 0.0, wall_now)
        step = None if state.is_over else state.process_event(event, 0.0, wall_now) or state.error
        steps[number] = step
        if step is not None and state.is_over:
            del pending[event.card]
        elif step is not None:
            pending[event.card] = state.save(0.0, wall_now)
    return attrs.evolve(checkpoint, pending=tuple(pending.values())), steps


def expire(checkpoint: Checkpoint, wall_now: float) -> tuple[Checkpoint, list[tuple[Card, CardprodError]]]:
    """End the waits whose deadline has passed, without a last poll.

    Returns:
        The other waits, and how those ended.
    """
    options = _options_of(checkpoint)
    pending: list[PendingCard] = []
    ends: list[tuple[Card, CardprodError]] = []
    for one in checkpoint.pending:
        if one.deadline_at is None or one.deadline_at / 1e6 > wall_now:
            pending.append(one)
            continue
        state = PollState(one.card, options, 0.0)
        state.restore(one, 0.0, wall_now)
        if not state.is_over:
            state.expire(0.0)
        if isinstance(state.error, WaitTimeout):
            state.error.checkpoint = attrs.evolve(checkpoint, pending=(state.save(0.0, wall_now),))
        if state.error is not None:
            ends.append((one.card, state.error))
    return attrs.evolve(checkpoint, pending=tuple(pending)), ends


def merge(before: Checkpoint, after: Checkpoint, stored: Checkpoint) -> tuple[Checkpoint, set[Card]]:
    """Merge two changes of the same waits: a card that was changed in the store meanwhile stays as it is there.

    Args:
        before: The waits that both changes began with.
        after: The change to be stored.
        stored: The change that was stored meanwhile.

    Returns:
        The waits with both changes, and the cards of which `after` does not count.
    """
    began, ours = ({one.card: one for one in waits.pending} for waits in (before, after))
    theirs = {one.card: one for one in stored.pending}
    lost = {card for card, one in began.items() if theirs.get(card) != one}
    pending = (one if card in lost else ours.get(card) for card, one in theirs.items())
    return attrs.evolve(after, pending=tuple(one for one in pending if one is not None)), lost


def _options_of(checkpoint: Checkpoint) -> PollOptions:
    return PollOptions(
        schedule=checkpoint.schedule or Backoff(), timeout=math.inf, max_failures=checkpoint.max_failures
    )
