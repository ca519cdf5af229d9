"""What can be done to stored waits without a poll: apply an event, end those whose time ran out, merge. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from cardprod._polling.backoff import Backoff
from cardprod._polling.state import PollOptions, PollState
from cardprod.errors import WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardprod.checkpoint import Checkpoint, PendingCard
    from cardprod.errors import CardprodError
    from cardprod.models import Card, ProductionEvent, Transition

__all__ = ["apply_event", "expire", "merge"]


def apply_event(
    checkpoint: Checkpoint, event: ProductionEvent, wall_now: float
) -> tuple[Checkpoint, Transition | CardprodError | None]:
    """Apply an event to the stored wait for its card, as `Client.notify` does to one in memory.

    Args:
        checkpoint: The waits.
        event: The event.
        wall_now: The time in seconds since 1970.

    Returns:
        The waits afterwards, and the transition; None if the event is no news, or its card is not waited for.
    """
    step: Transition | CardprodError | None = None

    def apply(state: PollState) -> None:
        nonlocal step
        step = state.process_event(event, 0.0, wall_now)
        step = step or state.error

    after, _ = _changed(checkpoint, lambda one: one.card == event.card, apply, wall_now)
    return (checkpoint, None) if step is None else (after, step)


def expire(checkpoint: Checkpoint, wall_now: float) -> tuple[Checkpoint, list[tuple[Card, CardprodError]]]:
    """End the waits whose deadline has passed, without a last poll.

    Returns:
        The other waits, and how those ended.
    """

    def is_overdue(one: PendingCard) -> bool:
        return one.deadline_at is not None and one.deadline_at / 1e6 <= wall_now

    def end(state: PollState) -> None:
        state.expire(0.0)
        if isinstance(state.error, WaitTimeout):
            state.error.checkpoint = attrs.evolve(checkpoint, pending=(state.save(0.0, wall_now),))

    after, states = _changed(checkpoint, is_overdue, end, wall_now)
    return after, [(state.card, state.error) for state in states if state.error is not None]


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


def _changed(
    checkpoint: Checkpoint,
    is_changed: Callable[[PendingCard], bool],
    change: Callable[[PollState], None],
    wall_now: float,
) -> tuple[Checkpoint, list[PollState]]:
    """Change the state of some cards; one whose wait is over then is no more pending."""
    options = PollOptions(
        schedule=checkpoint.schedule or Backoff(), timeout=math.inf, max_failures=checkpoint.max_failures
    )
    pending: list[PendingCard] = []
    states: list[PollState] = []
    for one in checkpoint.pending:
        if not is_changed(one):
            pending.append(one)
            continue
        state = PollState(one.card, options, 0.0)
        state.restore(one, 0.0, wall_now)
        if not state.is_over:
            change(state)
        states.append(state)
        if not state.is_over:
            pending.append(state.save(0.0, wall_now))
    return attrs.evolve(checkpoint, pending=tuple(pending)), states
