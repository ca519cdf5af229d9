"""One run of `cardprod watch`: waits for the cards of a list, reports what they show, and keeps the checkpoint.

What is promised: whatever ends the run, even `kill -9`, the same command continues from its checkpoint. What was shown
is in the file within a second, and nothing is in it that was not shown: a result is noted only when standard output has
taken it. (In the live view, shown means counted.)

Cards that ended in a final status are not waited for again; those whose wait ended with an error, or because their time
ran out, begin anew; cards that are new in the list are added. The others go on, with the timeout of this run, which
counts from when their wait began.
"""

from __future__ import annotations

import asyncio
import gc
import math
import signal
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import attrs

from cardprod._http.environment import base_url
from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.card_source import TimeSlice
from cardprod._protocol.codec import unix_time
from cardprod.checkpoint import Checkpoint, wall_clock
from cardprod.cli.exit_codes import SIGNALLED, USAGE
from cardprod.cli.follow import counted_on
from cardprod.cli.lists import CardList, read_blocks, report_bad_rows, warn_of_bad_rows
from cardprod.cli.output.events import Result, Warned, WatchEnded, WatchStarted
from cardprod.cli.output.streams import OutputLost
from cardprod.cli.watch.stats import WatchStats, exit_code_for
from cardprod.cli.words import count_of, message_of, whole
from cardprod.errors import CardprodError, Unauthorized, UsageError
from cardprod.models import ProductionStatus, Transition
from cardprod.telemetry import PollEnded, PollFailed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Coroutine, Generator, Iterable, Sequence

    from cardprod._polling.waits import Waits
    from cardprod.checkpoint import PendingCard
    from cardprod.cli.output import Output
    from cardprod.cli.output.events import WatchProgress
    from cardprod.cli.watch.store import CheckpointStore, Saved
    from cardprod.client import Client
    from cardprod.models import Card
    from cardprod.telemetry import Event

_AT_LEAST_EVERY: Final = 60.0
"""Seconds after which progress is reported though nothing has changed."""

_AT_ONCE: Final = 1000
_LAST_WORDS: Final = 1.0
"""Seconds for which a run that was stopped waits for its output to be read."""

_MOST_FAILURES: Final = 5
_LONGEST_OUTAGE: Final = 300.0
"""Failed polls in a row after which a card is given up, and for how long they failed if it had an answer."""

_LONG: Final = 0.01


class WatchSession:
    """One run, with an opened client, and a checkpoint file if there is to be one."""

    def __init__(
        self, client: Client, output: Output, arguments: argparse.Namespace, store: CheckpointStore | None
    ) -> None:
        self._client = client
        self._output = output
        self._arguments = arguments
        self._store = store
        self._per_minute: int = min(arguments.per_minute, arguments.per_second * 60)
        self._schedule = AdaptiveSchedule()
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._stats = WatchStats(self._began_at)
        self._waits: list[Waits] = []
        self._followed: dict[Card, tuple[float, int]] = {}  # after an error status: seconds and polls until then
        self._list = CardList("standard input")  # until it has come; then as far as it has not begun
        self._unnamed: set[Card] = set()  # cards of the checkpoint that standard input has not named yet
        self._stopped: asyncio.Future[str] = self._loop.create_future()
        self._is_unanswered = True  # until an answer, or until it was said that there is none
        client.on_event = self._process_event

    async def run(self, listed: CardList | None) -> int:
        """Run until all cards have ended, or it is stopped, and return the exit code.

        Without a list it is read from standard input, from its first line on.
        """
        with self._stopped_by_signals():
            try:
                await self._wait(listed)
            except OutputLost:
                if self._store is not None:
                    self._store.forget_changes()  # the reader that has gone may not have read them
                raise
            finally:
                if self._store is not None:
                    try:
                        self._store.close()
                    except UsageError as error:
                        self._warn(error)
        progress, stopped_by = self._progress(), self._stopped.result() if self._stopped.done() else None
        self._output.emit(WatchEnded(progress, stopped_by, self._arguments.checkpoint))
        if stopped_by is not None:
            await self._output.drain(_LAST_WORDS)
        number: int | None = getattr(signal, stopped_by or "", None)
        if number is not None:
            return SIGNALLED + number
        if (exit_code := exit_code_for(progress)) == USAGE:
            warn_of_bad_rows(self._output, progress.cards, progress.bad_rows)
        return exit_code

    async def _wait(self, listed: CardList | None) -> None:
        arguments, stats = self._arguments, self._stats
        saved = None if self._store is None else await self._store.open(base_url())
        pending, new = await asyncio.to_thread(self._prepare, listed, saved)
        counts = len(stats), len(stats) - stats.pending, stats.bad_rows
        self._output.emit(
            WatchStarted(self._list.name, *counts, self._per_minute, arguments.checkpoint, saved is not None)
        )
        report_bad_rows(self._list, self._output)
        async with AsyncExitStack() as stack:
            # Two batches, because only waits that are resumed have deadlines of their own. They share what is learned.
            opened = self._client.wait_until_all_final(
                None,
                timeout=arguments.timeout,
                schedule=self._schedule,
                max_failures=_MOST_FAILURES,
                max_outage=_LONGEST_OUTAGE,
            )
            self._waits.append(await stack.enter_async_context(opened))
            works = [self._read(opened, opened), self._feed(new, opened, has_more=listed is None)]
            if pending:
                resumed = await asyncio.to_thread(self._resume, pending)
                self._waits.append(await stack.enter_async_context(resumed))
                works.append(self._read(resumed, opened))
                pending.clear()
            await self._run_all(works, opened)

    def _prepare(self, listed: CardList | None, saved: Saved | None) -> tuple[list[PendingCard], list[Card]]:
        """Count the cards that are known; return the waits to resume, and the cards whose waits begin."""
        pending: list[PendingCard] = []
        new: list[Card] = []
        if saved is not None:
            self._check_same(listed, saved)
        if listed is not None:
            self._list = listed
        if saved is not None:
            self._schedule = AdaptiveSchedule.from_json(saved.learned)
            while saved.cards:  # emptied one by one: to drop a million at once would hold everything up
                wait, error = saved.cards.popleft()
                last = wait.last if error is None else None
                is_final = last is not None and last.is_final
                is_followed = last is not None and is_final and self._arguments.follow and not last.is_produced
                self._stats.restore(wait.card, last, is_end=is_final and not is_followed)
                if error is not None:
                    new.append(wait.card)
                elif is_followed or not is_final:
                    pending.append(self._continued(wait, is_followed=is_followed))
        if self._store is not None:
            self._store.learned = self._schedule.to_json
        self._stats.bad_rows = len(self._list.bad_rows)
        new += self._stats.add(self._list.cards)
        gc.freeze()  # each collection goes over a large list again until it is old
        return pending, new

    def _continued(self, wait: PendingCard, *, is_followed: bool) -> PendingCard:
        """Return a wait of an earlier run with this run's timeout, and with what the list says is known of the card."""
        at, timeout, now = wait.started_at, self._arguments.timeout, unix_time(wall_clock())
        if is_followed:
            if at / 1e6 + timeout < now / 1e6:  # it is over, so it begins anew
                at = now
            wait = attrs.evolve(wait, is_after=True, started_at=at)
        elif wait.last is None and (after := self._list.after.get(wait.card)) is not None:
            wait = attrs.evolve(wait, last=after, is_after=after.is_final, began_at=at, polled_at=at)
        return attrs.evolve(wait, deadline_at=None if timeout == math.inf else unix_time(at / 1e6 + timeout))

    def _check_same(self, listed: CardList | None, saved: Saved) -> None:
        """Check that a checkpoint is of these cards. Of a list that is still to come, this cannot be known."""
        file, other = self._arguments.checkpoint, "name another file with --checkpoint"
        if saved.base_url != base_url():
            raise UsageError(f"{file} is of cards at {saved.base_url}, not at {base_url()}: {other}")
        cards = {wait.card for wait, _ in saved.cards}
        if listed is None:
            self._unnamed = cards
        elif others := cards - {*listed.cards}:
            example = f"{len(others):,} of them are not in this list, such as {min(map(whole, others))}"
            raise UsageError(f"{file} is of other cards: {example}; a list may only grow, so {other}")

    def _resume(self, pending: list[PendingCard]) -> Waits:
        empty = Checkpoint.for_cards((), max_failures=_MOST_FAILURES, max_outage=_LONGEST_OUTAGE)
        checkpoint = attrs.evolve(empty, pending=tuple(pending))
        resumed = self._client.resume(checkpoint, schedule=self._schedule)
        gc.freeze()
        return resumed

    # --- What goes on side by side ---

    async def _run_all(self, works: Iterable[Coroutine[Any, Any, None]], opened: Waits) -> None:
        """Run all until they have ended, one raises, or the run is stopped."""
        needed = {asyncio.create_task(work) for work in works}
        tasks = needed | {asyncio.create_task(self._report_progress())}
        if self._store is not None:
            tasks.add(asyncio.create_task(self._store.keep_writing(self._note_saved, self._warn)))
        try:
            while needed and not self._stopped.done():
                if len(needed) == 1:  # all cards were read, and the waits that were resumed have ended
                    opened.no_more()
                watched: set[asyncio.Future[Any]] = {*tasks, self._stopped}
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                ended = {task for task in tasks if task.done()}
                for task in ended:
                    task.result()
                tasks -= ended
                needed -= ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, new: Sequence[Card], opened: Waits, *, has_more: bool) -> None:
        """Begin the waits of cards: of those that are known, and of those that come."""
        for first in range(0, len(new), _AT_ONCE):
            await self._begin(new[first : first + _AT_ONCE], opened)
        if not has_more:
            return
        async with aclosing(read_blocks(self._arguments.file)) as blocks:
            async for block in blocks:
                self._stats.bad_rows += len(block.bad_rows)
                report_bad_rows(block, self._output)
                await self._output.drain()
                self._list.after |= block.after
                self._unnamed.difference_update(block.cards)
                for first in range(0, len(block.cards), _AT_ONCE):
                    await self._begin(self._stats.add(block.cards[first : first + _AT_ONCE]), opened)
        if self._unnamed:
            unnamed = f"{count_of(len(self._unnamed), 'card')} of {self._arguments.checkpoint}"
            self._output.emit(Warned(f"{unnamed} not named on standard input; continued all the same"))
        if not (len(self._stats) or self._stats.bad_rows or self._arguments.allow_empty):
            self._list.check_not_empty()

    async def _begin(self, cards: Sequence[Card], opened: Waits) -> None:
        work = TimeSlice()
        if self._store is not None:
            for card in cards:
                self._store.add(self._stats.number_of(card), card)
                await work.pause_if_over()
            try:
                await self._store.flush()  # so that what is shown of them finds their rows
            except UsageError as error:
                self._warn(error)
        for card in cards:
            opened.add(card, after=self._list.after.pop(card, None))
            await work.pause_if_over()

    async def _read(self, waits: Waits, opened: Waits) -> None:
        """Report what the waits show, and note it once it is out."""
        work = TimeSlice()
        async for card, result in waits:
            await work.pause_if_over()
            if self._stopped.done():  # what was not shown is shown by the next run
                return
            now = self._loop.time()
            self._is_unanswered = False
            if before := self._followed.get(card):
                result = counted_on(card, result, *before)  # noqa: PLW2901
            step = result if isinstance(result, Transition) else None
            is_end = step is None or step.is_final
            is_followed = step is not None and is_end and self._arguments.follow and not step.current.is_produced
            self._output.emit(Result(result, card, now - self._began_at, is_followed=is_followed))
            await self._output.drain()
            outcome = result if isinstance(result, CardprodError) else result.current
            self._stats.report(card, outcome, now, is_end=is_end and not is_followed)
            if self._store is not None:
                self._store.change(self._stats.number_of(card), result)
            if step is not None and is_followed:
                self._followed[card] = step.elapsed, step.polls
                left = self._arguments.timeout - step.elapsed
                opened.add(card, after=step.current, timeout=None if left == math.inf else max(0.0, left))
            elif isinstance(result, Unauthorized):
                self._stop(type(result).__name__)  # every other card would get the same answer

    async def _report_progress(self) -> None:
        before: object = None
        reported_at = 0.0
        while True:
            if self._output.redraws:
                self._output.emit(self._progress())
            await asyncio.sleep(self._output.interval)
            progress = self._progress()
            now = progress.pending, progress.failed_polls, progress.statuses
            if now != before or progress.seconds - reported_at >= _AT_LEAST_EVERY:
                before, reported_at = now, progress.seconds
                self._output.emit(progress)

    def _progress(self) -> WatchProgress:
        requests = sum(waits.progress.requests for waits in self._waits)
        return self._stats.progress(self._loop.time(), requests, self._client.paused_for)

    def _process_event(self, event: Event) -> None:
        if isinstance(event, PollFailed):
            self._stats.poll_failed(event.error)
            if self._is_unanswered:
                self._is_unanswered = False
                words = f"a card is given up after {_MOST_FAILURES} failed polls in a row"
                words += f", which last at least {_LONGEST_OUTAGE:.0f} s if it had an answer before"
                self._output.emit(Warned(f"no usable answer yet: {message_of(event.error)}; {words}"))
        elif isinstance(event, PollEnded) and isinstance(event.outcome, ProductionStatus):
            self._is_unanswered = False

    def _note_saved(self) -> None:
        self._stats.saved_at = self._loop.time()

    def _warn(self, error: UsageError) -> None:
        self._output.emit(Warned(str(error)))

    # --- How it is stopped ---

    def _stop(self, by: str) -> None:
        if not self._stopped.done():
            self._stopped.set_result(by)

    @contextmanager
    def _stopped_by_signals(self) -> Generator[None]:
        """Let Ctrl-C and SIGTERM stop it. One that is ignored stays ignored, as for `nohup` and `&`."""
        numbers = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
        with suppress(NotImplementedError):  # Windows, where Ctrl-C cancels instead
            for number in numbers:
                self._loop.add_signal_handler(number, self._stop, number.name)
        try:
            yield
        finally:
            with suppress(NotImplementedError):
                for number in numbers:
                    self._loop.remove_signal_handler(number)


@contextmanager
def no_long_collections() -> Generator[None]:
    """Keep Python's garbage collector from walking over a million cards again and again, which takes it a second.

    Once a collection took long, what each finds alive is left out of all later ones. If it is cyclic garbage one day,
    it stays; but cards, statuses and waits are in no cycles.
    """
    began_at, is_large = 0.0, False

    def freeze(phase: str, info: dict[str, int]) -> None:
        nonlocal began_at, is_large
        if phase == "start":
            began_at = perf_counter()
            return
        is_large = is_large or perf_counter() - began_at > _LONG
        if is_large and info["generation"] > 0:
            gc.freeze()

    gc.callbacks.append(freeze)
    try:
        yield
    finally:
        gc.callbacks.remove(freeze)
