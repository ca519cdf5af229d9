"""`cardprod worker`: work on what was submitted."""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
import traceback
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cardprod._http.environment import base_url
from cardprod.cli.arguments import add_connection, add_database, count
from cardprod.cli.connection import find_database, import_durable, make_clients
from cardprod.cli.exit_codes import PRODUCED
from cardprod.cli.output.events import Result, Warned
from cardprod.cli.output.streams import OutputLost
from cardprod.errors import CardprodError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import FrameType

    from cardprod.cli.output import Output
    from cardprod.durable import Step
    from cardprod.durable.worker import Sink

DOES: Final = "work on what was submitted, until SIGTERM or Ctrl-C"

EXAMPLES: Final = """
  cardprod worker
  cardprod worker --on-steps my_app.cards:on_steps --concurrency 8"""


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    words = "an async function that is called with the steps; without one they are printed"
    to.add_argument("--on-steps", metavar="MODULE:FUNCTION", help=words)
    to.add_argument("--concurrency", type=count, default=4, metavar="N", help="jobs at once (default 4)")
    add_database(to)
    add_connection(to)


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Work until a signal stops it, or its output is closed."""
    clients = make_clients(arguments)
    stop = asyncio.Event()
    lost: OutputLost | None = None

    async def print_steps(steps: Sequence[Step], /) -> None:
        """Print steps. Once nobody reads them, stop the work, and leave them to other workers."""
        nonlocal lost
        try:
            for step in steps:
                seconds = 0.0 if isinstance(step.what, CardprodError) else step.what.elapsed
                output.emit(Result(step.what, step.card, seconds, {"key": step.key, "batch_id": step.batch_id}))
            await output.drain()
        except OutputLost as exc:
            lost = exc
            stop.set()
            raise

    import_durable()  # before a folder is added to where modules come from
    on_steps = _imported(arguments.on_steps) if arguments.on_steps else print_steps
    _stop_on_signals(stop)
    async with AsyncExitStack() as stack:
        for client in clients.values():
            await stack.enter_async_context(client)
        durable = await stack.enter_async_context(await asyncio.to_thread(find_database, arguments))
        if not arguments.json:
            words = "Ctrl-C or SIGTERM finishes what is under way, twice ends at once"
            output.emit(Warned(f"working for {', '.join(clients)} at {base_url()}; {words}"))
        await durable.work(clients, on_steps, concurrency=arguments.concurrency, stop=stop)
    if lost is not None:
        raise lost
    return PRODUCED


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Stop the work at the first signal, and end the process at the second, also if a sink blocks it."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def first(_: int, __: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(stop.set)

    for number in numbers:
        with suppress(ValueError):  # not in the main thread
            signal.signal(number, first)


def _imported(name: str) -> Sink:
    """Import a user's function, also from the working folder."""
    from cardprod.durable.api import is_sink  # noqa: PLC0415 - an extra

    module, _, function = name.partition(":")
    if not module or not function:
        raise UsageError(f"--on-steps must be MODULE:FUNCTION, such as my_app.cards:on_steps, not {name!r}")
    # Last, so that no file there takes the place of a module that is installed.
    sys.path.append(str(Path.cwd()))
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as exc:  # whatever a user's module does when it is imported
        if isinstance(exc, ModuleNotFoundError) and exc.name and f"{module}.".startswith(f"{exc.name}."):
            raise UsageError(f"--on-steps must be importable from here; there is no module {exc.name}") from exc
        last = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{last.filename}, line {last.lineno}"
        raise UsageError(f"importing {module} raised {type(exc).__name__} in {where} ({exc}): fix that") from exc
    found: Sink | None = getattr(imported, function, None)
    if found is None:
        raise UsageError(f"--on-steps must name a function of {module}, which has no {function}")
    if not is_sink(found):
        raise UsageError(f"--on-steps must be an async function of one argument, the steps; {name} is not")
    return found
