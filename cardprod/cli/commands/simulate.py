"""`cardprod simulate`: run the kiosk simulator."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from cardprod.cli.arguments import port
from cardprod.cli.output import OutputLost, RequestLogged, SimulatorStarted
from cardprod.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.arguments import Add
    from cardprod.cli.output import Output
    from cardprod.simulator import LoggedRequest

__all__ = ["add"]

_MOST_KEPT: Final = 1_000_000
"""Bytes of requests that are kept for a reader who does not read; the requests after that are not shown."""


def add(to: Add) -> None:
    """Add the command."""
    simulate = to(
        "simulate",
        run,
        does="run the kiosk simulator until Ctrl-C",
        examples=(
            "cardprod simulate --plan jams",
            "cardprod simulate --port 0 --webhooks-to http://127.0.0.1:8000/wise",
        ),
    )
    simulate.add_argument("--port", type=port, default=8080, help="port on 127.0.0.1, 0 for any (default 8080)")
    simulate.add_argument(
        "--plan",
        default="prints",
        help="what becomes of a card: prints, jams, rejected, retried or never (default prints)",
    )
    simulate.add_argument("--webhooks-to", metavar="URL", help="send a signed webhook there for each change of a card")


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Run the simulator until this is cancelled: it returns nothing."""
    from cardprod.simulator import Simulator  # noqa: PLC0415 - other commands need no web server

    def log(request: LoggedRequest) -> None:
        """Show a request, if somebody reads: an answer must not depend on that."""
        if output.kept < _MOST_KEPT:
            with suppress(OutputLost):
                output.emit(RequestLogged(request))

    webhooks = arguments.webhooks_to
    kiosk = Simulator(port=arguments.port, token=None, plan_for_unknown=arguments.plan, on_request=log, page=True)
    try:
        await kiosk.__aenter__()
    except OSError as exc:
        raise UsageError(f"cannot listen on port {arguments.port}: {exc.strerror}") from exc
    try:
        if webhooks is not None:
            try:
                kiosk.subscribe(webhooks)
            except ImportError as exc:
                raise UsageError(str(exc)) from exc
        output.emit(
            SimulatorStarted(kiosk.base_url, arguments.plan, None if webhooks is None else kiosk.public_key_url)
        )
        while True:
            with suppress(OutputLost):
                await output.drain()
            await asyncio.sleep(1)
    finally:
        await kiosk.__aexit__(None, None, None)
