"""`cardprod worker`: work on what was submitted."""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cardprod.cli.arguments import add_connection, add_database, count
from cardprod.cli.connection import find_database, make_clients
from cardprod.cli.exit_codes import PRODUCED
from cardprod.cli.output.events import Report, step_of
from cardprod.errors import CardprodError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from cardprod.cli.output import Output
    from cardprod.cli.parser import Commands
    from cardprod.durable import Step
    from cardprod.durable.worker import Sink

__all__ = ["add", "run"]


def add(to: Commands) -> None:
    """Add the command."""
    worker = to.add(
        "worker",
        run,
        "work on what was submitted, until SIGTERM or Ctrl-C",
        "cardprod worker",
        "cardprod worker --on-steps my_app.cards:on_steps --concurrency 8",
    )
    words = "an async function that is called with the steps; without one they are printed"
    worker.add_argument("--on-steps", metavar="MODULE:FUNCTION", help=words)
    worker.add_argument("--concurrency", type=count, default=4, metavar="N", help="jobs at once (default 4)")
    add_database(worker)
    add_connection(worker)


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Work until a signal."""
    clients = make_clients(arguments)
    durable = await asyncio.to_thread(find_database, arguments.database)
    # After everything of ours is imported, because it adds a folder to where modules come from.
    on_steps = _imported(arguments.on_steps) if arguments.on_steps else _printer(output)
    stop = asyncio.Event()
    with suppress(NotImplementedError):  # Windows
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        for client in clients.values():
            await stack.enter_async_context(client)
        await stack.enter_async_context(durable)
        output.emit(Report(f"Working for {', '.join(clients)}; Ctrl-C or SIGTERM stops after what is under way."))
        await durable.work(clients, on_steps, concurrency=arguments.concurrency, stop=stop)
    return PRODUCED


def _imported(name: str) -> Sink:
    """Import a user's function, also from the working folder."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise UsageError(f"--on-steps must be MODULE:FUNCTION, such as my_app.cards:on_steps, not {name!r}")
    # Last, so that no file there takes the place of a module that is installed.
    sys.path.append(str(Path.cwd()))
    try:
        found: Sink = getattr(importlib.import_module(module), function)
    except Exception as exc:  # whatever a user's module does when it is imported
        raise UsageError(f"--on-steps: {name} cannot be imported: {type(exc).__name__}: {exc}") from exc
    if not callable(found):
        raise UsageError(f"--on-steps must be an async function; {name} is a {type(found).__name__}")
    return found


def _printer(output: Output) -> Sink:
    async def on_steps(steps: Sequence[Step], /) -> None:
        for step in steps:
            seconds = 0.0 if isinstance(step.what, CardprodError) else step.what.elapsed
            output.emit(step_of(step.card, step.what, seconds, {"key": step.key, "batch_id": step.batch_id}))
        await output.drain()

    return on_steps
