"""`cardprod watch`: the bulk wait for the cards of a list, shown while it goes on, and kept in a checkpoint file.

What is promised: whenever the command dies, even by `kill -9`, the same command goes on from its checkpoint file. It
tells every transition that was not told before; it may tell again what was told since the file was written last; and it
loses none that was told or saved. For that, a transition is out before the next one is taken, and the file only ever
holds what is out. (In the live view, told means counted.) The file is written every two seconds, rarer if that would
take a twentieth of the time, and in the end.

Cards that are final are not waited for again; those whose wait ended otherwise, with an error or because their time ran
out, begin anew; cards that the list has now, and had not then, are added. A deadline stays where it was. A file that is
no such checkpoint, of other cards, of another base URL or in use by another run is refused before anything is asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import attrs

from cardprod._http.rate_limit import RateLimit
from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod.checkpoint import Checkpoint
from cardprod.cli.exit_codes import SIGNALLED
from cardprod.cli.lists import read_list
from cardprod.cli.saving import CheckpointFile, Saved, pause_after
from cardprod.cli.tally import Tally
from cardprod.cli.views import Setting
from cardprod.client import PRODUCTION, Client
from cardprod.errors import Unauthorized, UsageError
from cardprod.models import one_line
from cardprod.telemetry import LOGGER, PollFailed

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncGenerator, Collection, Coroutine, Generator

    from cardprod._polling.waits import Waits
    from cardprod.cli.lists import CardList
    from cardprod.cli.reports import Report
    from cardprod.cli.views import View
    from cardprod.models import Card
    from cardprod.telemetry import Event

__all__ = ["watch"]

_MINUTE: Final = 60
_SHOWN_NAME: Final = 60
_NOWHERE: Final = logging.NullHandler()
_AFTER_FAILURE: Final = 60.0
"""Seconds until the checkpoint file is tried again, if it could not be written."""


async def watch(arguments: argparse.Namespace, report: Report) -> int:
    """Wait until all cards of a list are final, showing how far it is."""
    client = Client.from_env()
    client.rate_limit = _limit_of(arguments)
    listed = await read_list(arguments.file)
    if arguments.strict:
        listed.refuse_bad_rows(so="nothing was begun")
    if arguments.checkpoint is None:
        return await _watch(client, listed, None, arguments, report)
    with CheckpointFile(arguments.checkpoint) as file:
        return await _watch(client, listed, file, arguments, report)


async def _watch(
    client: Client, listed: CardList, file: CheckpointFile | None, arguments: argparse.Namespace, report: Report
) -> int:
    cards = list(dict.fromkeys(listed.cards))
    base_url = os.environ.get("CARDPROD_BASE_URL") or PRODUCTION
    saved = None if file is None else await asyncio.to_thread(file.read)
    if file is not None and saved is not None:
        _check_same(file, saved, cards, base_url)
    schedule = AdaptiveSchedule() if saved is None else AdaptiveSchedule.from_json(saved.learned)
    tally = Tally(cards, asyncio.get_running_loop().time())
    if saved is not None:
        tally.go_on_from(saved.checkpoint.pending, saved.ended)
    keeper = None if file is None else _Keeper(file, base_url, schedule, tally)
    if keeper is not None:
        await keeper.keep(Checkpoint.for_cards(()) if saved is None else saved.checkpoint)
    limit = client.rate_limit
    setting = Setting(
        name=one_line(listed.name, _SHOWN_NAME),
        bad_rows=len(listed.bad_rows),
        per_minute=None if limit is None else min(limit.per_minute, limit.per_second * _MINUTE),
        checkpoint=None if file is None else file.name,
        is_gone_on_with=saved is not None,
    )
    report.bad_rows(listed)
    waits = _waits(client, cards, saved, arguments.timeout, schedule)
    del saved  # of a million cards it is as large as the waits
    LOGGER.addHandler(_NOWHERE)  # without any handler Python prints warnings to standard error, across the view
    async with client, aclosing(waits):  # also where they are never begun, because nobody reads the output
        view = report.view(tally, setting, plain=arguments.plain)
        return await _Watching(client, tally, view, keeper).run(waits, bad_rows=setting.bad_rows)


def _limit_of(arguments: argparse.Namespace) -> RateLimit:
    limits = {"per_second": arguments.per_second, "per_minute": arguments.per_minute}
    return RateLimit(**{name: value for name, value in limits.items() if value is not None})


def _check_same(file: CheckpointFile, saved: Saved, cards: Collection[Card], base_url: str) -> None:
    """Make sure that a checkpoint is of these cards.

    Raises:
        UsageError: It is of others.
    """
    if saved.base_url != base_url:
        raise UsageError(
            f"{file.name} is of cards at {saved.base_url}, not at {base_url}: name another file with --checkpoint"
        )
    others = {one.card for one in saved.checkpoint.pending} | saved.ended.keys()
    others -= set(cards)
    if others:
        raise UsageError(
            f"{file.name} is of other cards: {len(others):,} of them are not in this list, such as "
            f"{min(map(str, others))}; name another file with --checkpoint"
        )


def _waits(
    client: Client, cards: Collection[Card], saved: Saved | None, timeout: float | None, schedule: AdaptiveSchedule
) -> Waits:
    """Begin the waits, or go on with those that were saved, and begin only the others."""
    if saved is None:
        return client.wait_until_all_final(cards, timeout=timeout, schedule=schedule)
    known = {one.card for one in saved.checkpoint.pending} | saved.ended.keys()
    fresh = Checkpoint.for_cards((card for card in cards if card not in known), timeout=timeout, schedule=None)
    both = attrs.evolve(saved.checkpoint, pending=(*saved.checkpoint.pending, *fresh.pending))
    return client.resume(both, schedule=schedule)


class _Keeper:
    """Keeps the checkpoint file. What is written is what was out at one moment."""

    def __init__(self, file: CheckpointFile, base_url: str, schedule: AdaptiveSchedule, tally: Tally) -> None:
        self._file = file
        self._base_url = base_url
        self._schedule = schedule
        self._tally = tally
        self._written = 0

    async def keep(self, checkpoint: Checkpoint) -> None:
        """Write it in a thread, so that the looks go on."""
        saved, now = self._saved(checkpoint), asyncio.get_running_loop().time()
        await asyncio.to_thread(self._write, saved, self._written)
        self._tally.saved(now)

    def keep_at_once(self, checkpoint: Checkpoint) -> None:
        """Write it, and give nobody a turn before it is."""
        self._write(self._saved(checkpoint), self._written)

    def _saved(self, checkpoint: Checkpoint) -> Saved:
        self._written += 1
        ended, learned = self._tally.ended(), self._schedule.to_json()
        return Saved(base_url=self._base_url, checkpoint=checkpoint, ended=ended, learned=learned)

    def _write(self, saved: Saved, number: int) -> None:
        with suppress(OSError, ValueError):  # of a file; nothing else can be forced to a disk
            os.fsync(sys.stdout.fileno())
        self._file.write(saved, number)


class _Watching:
    """One run: reads what the waits tell, shows it, and keeps it."""

    def __init__(self, client: Client, tally: Tally, view: View, keeper: _Keeper | None) -> None:
        self._client = client
        self._tally = tally
        self._view = view
        self._keeper = keeper
        self._news = 0
        self._is_over = False
        client.on_event = self._process_event

    def _process_event(self, event: Event) -> None:
        """Count a poll that failed while its card's wait goes on: it is shown in the view."""
        if isinstance(event, PollFailed):
            self._tally.failed_look(event.error)

    async def run(self, waits: Waits, *, bad_rows: int) -> int:
        """Run until all cards are final, or somebody has had enough.

        Returns:
            The exit code.
        """
        heard: list[signal.Signals] = []
        stop = asyncio.timeout(None)
        with self._view, _signals_heard(heard, stop):
            async with waits as steps:
                try:
                    stopped_by = await self._until(stop, steps)
                except TimeoutError:
                    if not heard:
                        raise
                    stopped_by = heard[0].name
                except asyncio.CancelledError:
                    self._keep_at_last(steps)
                    raise
                # If something else is raised, such as by a reader that has gone, the file stays as it is: what was
                # taken last may not be out.
                self._keep_at_last(steps)
        self._take_sample(waits)
        summary = self._tally.summary(bad_rows=bad_rows, stopped_by=stopped_by)
        self._view.summary(summary)
        return SIGNALLED + heard[0] if heard and stopped_by == heard[0].name else summary.exit_code

    async def _until(self, stop: asyncio.Timeout, steps: Waits) -> str | None:
        """Read until the end, or until it is stopped. Say what the waits ended with before that, if anything."""
        async with stop, _meanwhile(stop, self._refresh(steps), self._keep(steps)):
            return await self._read(steps)

    async def _read(self, steps: Waits) -> str | None:
        loop = asyncio.get_running_loop()
        async for card, what in steps:
            self._view.told(self._tally.saw(card, what, loop.time()))
            self._news += 1
            if isinstance(what, Unauthorized):
                return type(what).__name__  # every other card would get the same answer
        self._is_over = True
        return None

    async def _refresh(self, steps: Waits) -> None:
        while True:
            await asyncio.sleep(self._view.pause)
            self._take_sample(steps)
            self._view.refresh()

    def _take_sample(self, steps: Waits) -> None:
        now = asyncio.get_running_loop().time()
        self._tally.sample(now, steps.progress.requests, self._client.paused_for)

    async def _keep(self, steps: Waits) -> None:
        """Write the checkpoint file from time to time."""
        if self._keeper is None:
            return
        loop = asyncio.get_running_loop()
        cost, news, written_at = 0.0, 0, loop.time()
        while True:
            await asyncio.sleep(pause_after(cost, is_idle=False))
            if self._news == news and loop.time() - written_at < pause_after(cost, is_idle=True):
                continue
            began, news = perf_counter(), self._news
            try:
                await self._keeper.keep(steps.checkpoint())
            except UsageError as error:
                self._view.warn(str(error))
                await asyncio.sleep(_AFTER_FAILURE)
            cost, written_at = perf_counter() - began, loop.time()

    def _keep_at_last(self, steps: Waits) -> None:
        if self._keeper is None:
            return
        try:
            self._keeper.keep_at_once(Checkpoint.for_cards(()) if self._is_over else steps.checkpoint())
        except UsageError as error:
            self._view.warn(str(error))


# --- Around it --------------------------------------------------------------------------------------------------------


def _expire(stop: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # it has already, or is over: whoever presses Ctrl-C twice is not heard twice
        stop.reschedule(asyncio.get_running_loop().time())


@asynccontextmanager
async def _meanwhile(stop: asyncio.Timeout, *works: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Do works beside the block, until it ends. What one of them raises ends the block, and is raised."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            _expire(stop)

    tasks = [asyncio.create_task(work) for work in works]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ends:
            if isinstance(error, Exception):
                raise error


@contextmanager
def _signals_heard(heard: list[signal.Signals], stop: asyncio.Timeout) -> Generator[None]:
    """Let Ctrl-C and SIGTERM end the block, and list them. One that is ignored stays so, as for `nohup` and `&`."""
    loop = asyncio.get_running_loop()

    def hear(number: signal.Signals) -> None:
        heard.append(number)
        _expire(stop)

    numbers = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    for number in numbers:
        with suppress(NotImplementedError):  # Windows, where Ctrl-C cancels instead
            loop.add_signal_handler(number, hear, number)
    try:
        yield
    finally:
        for number in numbers:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
