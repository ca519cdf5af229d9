"""`Sweep`: one step of waits that live in a checkpoint: every card that is due is looked at once, and nobody sleeps.

It is what a job engine asks for, again and again. What an answer means for a card is `watch`'s business, how its
request leaves `transport`'s, what a checkpoint holds `checkpoint`'s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import attrs

from cardprod.checkpoint import moment_after, wall_clock
from cardprod.errors import CardprodError, RateLimited, RequestTimeout, UsageError, WaitTimeout
from cardprod.telemetry import log_failed_look, log_transition
from cardprod.transport import Flow, Held
from cardprod.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from cardprod.checkpoint import Checkpoint, PendingCard
    from cardprod.models import Card, ProductionStatus, Transition
    from cardprod.transport import Transport
    from cardprod.watch import Terms

__all__ = ["Sweep", "sweep"]

_TICK: Final = 0.001
"""Seconds by which a timer may come before its time."""

_TOGETHER: Final = 0.1
"""Cards that are due within this share of the time until the first of them are looked at together with it."""


@attrs.frozen(kw_only=True)
class Sweep:
    """What one sweep saw, and how to go on.

    Args:
        steps: What there is to tell, in the order it was seen: cards, each with a `Transition`, or with the
            `CardprodError` that ended its wait.
        checkpoint: The waits as they are now. Keep it in the same transaction as what you make of the steps, if you
            can: until it is kept, the sweep has not happened.
        next_poll_at: When to sweep again, aware and in UTC; None if every wait has ended. Cards that are due a little
            later than the first are waited for, so that they stay together.
        looks: How many looks were answered or failed.
    """

    steps: tuple[tuple[Card, Transition | CardprodError], ...]
    checkpoint: Checkpoint
    next_poll_at: datetime | None
    looks: int


async def sweep(checkpoint: Checkpoint, transport: Transport, terms: Terms, stop: asyncio.Event | None) -> Sweep:
    """Look once at every card that is due.

    Args:
        checkpoint: The waits.
        transport: How to look.
        terms: What holds for the waits.
        stop: Set by somebody, no look begins any more.

    Raises:
        UsageError: The transport is closed or not usable; nothing has happened then.
    """
    transport.check_usable()
    loop = asyncio.get_running_loop()
    now, wall_now = loop.time(), wall_clock()
    steps: list[tuple[Card, Transition | CardprodError]] = []
    watches: list[Watch] = []
    for saved in checkpoint.pending:
        watch = Watch(saved.card, terms, now)
        watch.restore(saved, now, wall_now)
        steps.extend((saved.card, step) for step in saved.untold)
        if not watch.is_over:
            watches.append(watch)
    due = sorted((watch for watch in watches if watch.next_look_at <= now + _TICK), key=lambda one: one.next_look_at)
    round_ = _Round(transport, steps)
    await round_.look_at(due, stop)

    now, wall_now = loop.time(), wall_clock()
    gate_closed_for = transport.gate_closed_for
    if gate_closed_for > 0:
        round_.give_up_expired(due, now)
    pending: list[PendingCard] = []
    for watch in watches:
        if not watch.is_over:
            pending.append(watch.save(now, wall_now))
        elif isinstance(watch.error, WaitTimeout):
            watch.error.checkpoint = attrs.evolve(checkpoint, pending=(watch.save(now, wall_now),))
    next_look_at = _next_of([watch.next_look_at for watch in watches if not watch.is_over], now)
    if next_look_at is not None:
        next_look_at = max(next_look_at, now + gate_closed_for)
    return Sweep(
        steps=tuple(steps),
        checkpoint=attrs.evolve(checkpoint, sweep=checkpoint.sweep + 1, pending=tuple(pending)),
        next_poll_at=None if next_look_at is None else moment_after(wall_now, next_look_at - now),
        looks=round_.looks,
    )


def _next_of(dues: Iterable[float], now: float) -> float | None:
    """Say when to look again: when the first card is due, or at once if the next ones are a little later, with them."""
    dues = sorted(dues)
    if not dues:
        return None
    until = dues[0] + max(0.0, dues[0] - now) * _TOGETHER
    return max(due for due in dues if due <= until)


class _Round:
    """The looks of one sweep."""

    def __init__(self, transport: Transport, steps: list[tuple[Card, Transition | CardprodError]]) -> None:
        self.looks = 0
        """How many told something."""
        self._transport = transport
        self._steps = steps
        self._flow = Flow(is_patient=False)
        # Looks under way, and whether they run: a task that is cancelled before that runs no line of its own.
        self._looking: dict[asyncio.Task[None], bool] = {}
        self._broken_by: BaseException | None = None
        self._driver: asyncio.Task[None] | None = None

    async def look_at(self, due: Sequence[Watch], stop: asyncio.Event | None) -> None:
        """Look at each, as turns come; until the gate closes, somebody says stop, or a look shows that none can be."""
        loop = asyncio.get_running_loop()
        self._driver = loop.create_task(self._drive(due))
        others = {self._driver}
        if stop is not None:
            others.add(loop.create_task(self._obey(stop, self._driver)))
        try:
            await asyncio.wait({self._driver})
            while self._looking:
                await asyncio.wait(self._looking)
        finally:
            for task in (*others, *self._looking):
                task.cancel()
            await asyncio.wait({*others, *self._looking})
        if not self._driver.cancelled() and (error := self._driver.exception()) is not None:
            self._broken_by = self._broken_by or error
        if self._broken_by is not None:
            try:
                raise self._broken_by
            finally:
                self._broken_by = None

    async def _drive(self, due: Sequence[Watch]) -> None:
        loop = asyncio.get_running_loop()
        for watch in due:
            try:
                now = await self._transport.take_turn(self._flow)
            except Held:
                return
            watch.begin_look(now)
            task = loop.create_task(self._guard(watch))
            self._looking[task] = False
            task.add_done_callback(self._look_ended)

    def _look_ended(self, task: asyncio.Task[None]) -> None:
        if not self._looking.pop(task):
            self._transport.leave_turn(asyncio.get_running_loop().time())

    @staticmethod
    async def _obey(stop: asyncio.Event, driver: asyncio.Task[None]) -> None:
        await stop.wait()
        driver.cancel()

    async def _guard(self, watch: Watch) -> None:
        """Look; what that raises, which no card's wait can do anything about, ends the sweep."""
        task = asyncio.current_task()
        if task is not None:
            self._looking[task] = True
        try:
            await self._look(watch)
        except Exception as exc:  # noqa: BLE001 - a schedule's own, a token source's: told to whoever sweeps
            self._broken_by = self._broken_by or exc
            for other in (self._driver, *self._looking):
                if other is not None and other is not task:
                    other.cancel()

    async def _look(self, watch: Watch) -> None:
        outcome: ProductionStatus | CardprodError
        cut_off = asyncio.timeout_at(watch.cut_off_at)
        try:
            async with cut_off:
                outcome = await self._transport.look_in_turn(watch.card, self._flow)
        except Held:
            return
        except UsageError:
            raise
        except RateLimited as error:
            if error.retry_after:
                return  # nothing is known of the card, and nothing is wrong with it: it stays due
            outcome = error
        except CardprodError as error:
            outcome = error
        except TimeoutError as exc:
            if not cut_off.expired():
                raise
            outcome = RequestTimeout("the wait's time ran out during a look", card=watch.card)
            outcome.__cause__ = exc
        self._take(watch, outcome)
        del outcome  # if it is an error, its traceback holds this frame: part them

    def give_up_expired(self, due: Sequence[Watch], now: float) -> None:
        """End the waits whose deadline passed before there was a turn for their last look."""
        for watch in due:
            if not watch.is_over and watch.expires_at <= now:
                watch.give_up(now)
                self._tell_error(watch)

    def _tell_error(self, watch: Watch) -> None:
        if watch.error is not None:
            self._steps.append((watch.card, watch.error))

    def _take(self, watch: Watch, outcome: ProductionStatus | CardprodError) -> None:
        """Let a card's watch know what a look showed, and keep what there is to tell."""
        now = asyncio.get_running_loop().time()
        self.looks += 1
        if not isinstance(outcome, CardprodError):
            step = watch.observe(outcome, now)
            if step is not None:
                log_transition(watch.card, step)
                self._steps.append((watch.card, step))
        else:
            watch.fail(outcome, now)
            if not watch.is_over:
                log_failed_look(watch.card, outcome, watch.failures)
        self._tell_error(watch)
