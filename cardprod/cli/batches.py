"""The commands about durable waits: `submit`, `worker`, `batch`, `migrate`. What they do is `cardprod.durable`'s."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cardprod.cli.exit_codes import PRODUCED
from cardprod.cli.lists import read_list
from cardprod.cli.views import say
from cardprod.client import PRODUCTION, Client
from cardprod.errors import UsageError
from cardprod.models import ProductionStatus

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import FrameType

    from cardprod.cli.reports import Report
    from cardprod.durable import Durable, Step
    from cardprod.durable.worker import Sink

__all__ = ["batch", "migrate", "submit", "worker"]


def _durable(arguments: argparse.Namespace) -> Durable:
    """Find the database, and start one of this user's own if none is named."""
    try:
        from cardprod.durable import Durable  # noqa: PLC0415 - the extra

        database = arguments.database or os.environ.get("CARDPROD_DATABASE_URL")
        if not database:
            from cardprod.durable import embedded  # noqa: PLC0415 - as above

            database = embedded.start()
    except ImportError as exc:
        raise UsageError(str(exc)) from exc  # it names the extra, and the command that installs it
    return Durable(database, schema=arguments.schema, owner=arguments.owner)


async def submit(arguments: argparse.Namespace, report: Report) -> int:
    """Hand the cards of a list over; all of it, or none."""
    listed = await read_list(arguments.file)
    listed.refuse_bad_rows(so="nothing was submitted")
    async with await asyncio.to_thread(_durable, arguments) as durable:
        batch_id = await durable.submit(listed.cards, timeout=arguments.timeout, token=arguments.token)
    report.submitted(batch_id, len(dict.fromkeys(listed.cards)))
    return PRODUCED


async def batch(arguments: argparse.Namespace, report: Report) -> int:
    """Tell how far a batch is, and how its cards ended, or cancel it."""
    async with await asyncio.to_thread(_durable, arguments) as durable:
        if arguments.cancel:
            await durable.cancel(arguments.batch)
        report.batch(await durable.status(arguments.batch))
        if arguments.results:
            async for card, outcome in durable.results(arguments.batch):
                if isinstance(outcome, ProductionStatus):
                    report.status(card, outcome)
                else:
                    report.error(outcome)
    return PRODUCED


async def migrate(arguments: argparse.Namespace, report: Report) -> int:
    """Make the tables or bring them up to date, or print the SQL that does."""
    del report  # what is printed is SQL, whoever reads it
    if arguments.sql:
        arguments.database = "dbname=not-used"
        print(_durable(arguments).migration_script(role=arguments.role), end="")
        return PRODUCED
    if arguments.role:
        raise UsageError("--role goes with --sql: an administrator runs what that prints")
    async with await asyncio.to_thread(_durable, arguments) as durable:
        await durable.migrate()
    say(f"the schema {arguments.schema} is up to date")
    return PRODUCED


async def worker(arguments: argparse.Namespace, report: Report) -> int:
    """Work on what was submitted, until a signal stops it or its output is closed."""
    clients = _clients_from_env()
    stop = asyncio.Event()
    printer = _Printer(report, stop)
    on_steps = _imported(arguments.on_steps) if arguments.on_steps else printer
    _stop_on_signals(stop)
    async with AsyncExitStack() as stack:
        for client in clients.values():
            await stack.enter_async_context(client)
        durable = await stack.enter_async_context(await asyncio.to_thread(_durable, arguments))
        if not arguments.json:
            say(f"working for {', '.join(clients)}; Ctrl-C or SIGTERM finishes what is under way, twice ends at once")
        await durable.work(clients, on_steps, concurrency=arguments.concurrency, stop=stop)
    if printer.error is not None:
        raise printer.error
    return PRODUCED


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Let the first signal stop the work, and the second end the process at once, also if a sink blocks it."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def first(_: int, __: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(stop.set)

    for number in numbers:
        with suppress(ValueError):  # not in the main thread
            signal.signal(number, first)


def _clients_from_env() -> dict[str, Client]:
    """Make a client for each token of the environment."""
    clients: dict[str, Client] = {}
    base_url = os.environ.get("CARDPROD_BASE_URL") or PRODUCTION
    api_version = os.environ.get("CARDPROD_API_VERSION") or "v3"
    for variable, token in os.environ.items():
        if variable.startswith("CARDPROD_TOKEN_") and token:
            name = variable.removeprefix("CARDPROD_TOKEN_").lower()
            clients[name] = Client(token, base_url=base_url, api_version=api_version)
    if os.environ.get("CARDPROD_TOKEN") or not clients:
        clients["default"] = Client.from_env()
    return clients


def _imported(name: str) -> Sink:
    """Find a user's function by its name, from where the command runs."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise UsageError(f"--on-steps must be MODULE:FUNCTION, such as my_app.cards:on_steps, not {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Sink = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as exc:
        raise UsageError(f"--on-steps: {exc}") from exc
    return found


class _Printer:
    """Prints transitions. Once nobody reads them, it stops the work, and they are left to other workers."""

    def __init__(self, report: Report, stop: asyncio.Event) -> None:
        self._report = report
        self._stop = stop
        self.error: BrokenPipeError | None = None

    async def __call__(self, steps: Sequence[Step], /) -> None:
        try:
            for step in steps:
                self._report.step(step)
        except BrokenPipeError as exc:
            self.error = exc
            self._stop.set()
            raise
