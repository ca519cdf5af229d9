"""`PollQueue`: which of many cards is due, and the phase of each. Pure: time is a number, no asyncio.

`take` returns a due card to be polled. After any other change of a card, `reschedule` puts it into its new phase.

Scheduled cards are in a heap by `next_poll_at`; once that has come they are due, and in another by `urgent_at`.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from cardprod._polling.state import PollState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cardprod.models import Card

TICK: Final = 0.001
"""Seconds by which a timer of the event loop may fire early."""

_STALE: Final = 1024


class Phase(Enum):
    """The phase of a card in its queue."""

    NEW = "never polled"
    SCHEDULED = "its next poll is scheduled"
    DUE = "its next poll is due"
    POLLING = "a poll of it is in flight"
    FOLLOWING = "another wait's poll of it is in flight"
    IDLE = "it was polled, and must be rescheduled"
    OVER = "its wait is over, or was abandoned"


class QueuedState(PollState):
    """One card's state, and its phase in its queue. The heaps order those that are due together by their deadline."""

    # It is a subclass, not an object with a state, to save memory: with 1,000,000 cards each byte is a megabyte.
    __slots__ = ("phase",)

    phase: Phase

    def on_poll_ended(self) -> None:
        """End the phase POLLING or FOLLOWING; it must be rescheduled."""
        if self.phase is not Phase.OVER:
            self.phase = Phase.IDLE

    def __lt__(self, other: QueuedState) -> bool:
        return self._deadline_at < other._deadline_at


_S = TypeVar("_S", bound=QueuedState)


class PollQueue(Generic[_S]):
    """The cards of one batch.

    New cards and cards whose poll is urgent are taken alternately, so that neither have to wait for all of the others;
    cards that are due and not urgent come after them. Stale entries of a heap, of cards that were rescheduled, stay
    until they are its first, or until most entries are stale.
    """

    def __init__(self) -> None:
        self._new: deque[_S] = deque()
        self._scheduled: list[tuple[float, _S]] = []
        self._due: list[tuple[float, _S]] = []
        self._stale = 0
        self._is_new_next = True
        self._active: set[_S] = set()  # POLLING and FOLLOWING
        self._deadlines: list[_S] = []  # a heap

    def __len__(self) -> int:
        """Count the entries, stale ones included."""
        return len(self._new) + len(self._scheduled) + len(self._due) + len(self._active)

    def __iter__(self) -> Iterator[_S]:
        """Iterate the cards whose wait is not over."""
        yield from (state for state in self._new if state.phase is Phase.NEW)
        yield from (state for state in self._active if not state.is_over)
        seen: set[_S] = set()  # a card that was rescheduled for the same time has two valid entries
        for heap, counts in ((self._scheduled, _is_scheduled), (self._due, _is_due)):
            for at, state in heap:
                if counts(at, state) and state not in seen:
                    seen.add(state)
                    yield state

    def add(self, state: _S) -> bool:
        """Add a card, and return whether it has a deadline."""
        if state.last is None:
            state.phase = Phase.NEW
            self._new.append(state)
        else:
            self._schedule(state)
        has_deadline = state.expires_at != math.inf
        if has_deadline:
            heappush(self._deadlines, state)
        return has_deadline

    def due_at(self, now: float) -> float:
        """Return when the next card is due; infinite if none is scheduled."""
        is_any_due = bool(self._new) or self._first_due() is not None
        return min(now if is_any_due else math.inf, self._first_scheduled_at())

    def take(self, now: float, claim_poll: Callable[[Card], bool]) -> _S | None:
        """Return a due card, now in the phase POLLING; None if none is due.

        Args:
            now: The time.
            claim_poll: Claims the poll of a card. If it returns False, another wait polls the card now: the card is
                then FOLLOWING that poll, and the next one is taken.
        """
        while True:
            due = self._next_due(now)
            if self._new and (self._is_new_next or due is None or due.urgent_at > now):
                self._is_new_next = False
                state = self._new.popleft()
                if state.phase is not Phase.NEW or state.ended_by is not None:
                    continue  # an event or its deadline came before its first poll
            elif due is not None:
                self._is_new_next = True
                state = heappop(self._due)[1]
            else:
                return None
            self._active.add(state)
            if claim_poll(state.card):
                state.phase = Phase.POLLING
                return state
            state.phase = Phase.FOLLOWING

    def postpone(self, now: float, gap: float) -> _S | None:
        """Postpone the next due poll, if the card was seen less than `gap` seconds ago.

        Returns:
            Its card, which must be rescheduled; None if no poll was postponed.
        """
        due = self._next_due(now + TICK)
        return due if due is not None and due.postpone(now, gap) else None

    def reschedule(self, state: _S) -> bool:
        """Put a card into its new phase after any change of its state.

        Returns:
            Whether its wait is over and it was removed now.
        """
        phase, is_over = state.phase, state.ended_by is not None
        if phase is not Phase.IDLE:
            if phase is Phase.OVER or (phase is Phase.POLLING and not is_over):
                return False
            if phase is Phase.SCHEDULED or phase is Phase.DUE:
                self._leave_stale()
        self._active.discard(state)
        if is_over:
            state.phase = Phase.OVER
        else:
            self._schedule(state)
        return is_over

    def next_expiry(self) -> float:
        """Return the first `expires_at` of the cards, when even a late last poll must have ended; infinite for none."""
        while self._deadlines and self._deadlines[0].phase is Phase.OVER:
            heappop(self._deadlines)
        return self._deadlines[0].expires_at if self._deadlines else math.inf

    def expire(self, now: float) -> Iterator[_S]:
        """Expire the cards whose `expires_at` has passed without a last poll; each must be rescheduled.

        A card that is being polled is skipped: its poll ends its wait.
        """
        while self.next_expiry() <= now + TICK:
            state = heappop(self._deadlines)
            if state.phase is not Phase.POLLING:
                state.expire(now)
                yield state

    def clear(self) -> Iterator[_S]:
        """Remove all cards, one by one, and yield those whose wait was not over, now in the phase OVER."""
        while self._new:
            if (state := self._new.pop()).phase is Phase.NEW:
                state.phase = Phase.OVER
                yield state
        while self._active:
            if not (state := self._active.pop()).is_over:
                state.phase = Phase.OVER
                yield state
        for heap, counts in ((self._scheduled, _is_scheduled), (self._due, _is_due)):
            while heap:
                at, state = heap.pop()
                if counts(at, state):
                    state.phase = Phase.OVER
                    yield state

    def _schedule(self, state: _S) -> None:
        state.phase = Phase.SCHEDULED
        heappush(self._scheduled, (state.next_poll_at, state))

    def _next_due(self, now: float) -> _S | None:
        """Move the cards that have become due to their heap, and return its first; None if none is due."""
        scheduled = self._scheduled
        while scheduled and scheduled[0][0] <= now:
            at, state = heappop(scheduled)
            if _is_scheduled(at, state):
                state.phase = Phase.DUE
                heappush(self._due, (state.urgent_at, state))
            else:
                self._stale -= 1
        return self._first_due()

    def _first_scheduled_at(self) -> float:
        """Return when the first scheduled card is due, after removing stale entries before it."""
        heap = self._scheduled
        while heap:
            at, state = heap[0]
            if _is_scheduled(at, state):
                return at
            self._stale -= 1
            heappop(heap)
        return math.inf

    def _first_due(self) -> _S | None:
        """Return the first due card, after removing stale entries before it."""
        heap = self._due
        while heap:
            at, state = heap[0]
            if _is_due(at, state):
                return state
            self._stale -= 1
            heappop(heap)
        return None

    def _leave_stale(self) -> None:
        self._stale += 1
        if self._stale > _STALE and self._stale * 2 > len(self._scheduled) + len(self._due):
            self._scheduled = [entry for entry in self._scheduled if _is_scheduled(*entry)]
            self._due = [entry for entry in self._due if _is_due(*entry)]
            heapify(self._scheduled)
            heapify(self._due)
            self._stale = 0


def _is_scheduled(at: float, state: QueuedState) -> bool:
    return state.phase is Phase.SCHEDULED and state.next_poll_at == at and state.ended_by is None


def _is_due(at: float, state: QueuedState) -> bool:
    return state.phase is Phase.DUE and state.urgent_at == at and state.ended_by is None
