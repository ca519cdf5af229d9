"""`cardprod simulate`: run the kiosk simulator."""

from __future__ import annotations

import asyncio
import errno
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cardprod.cli.arguments import port
from cardprod.cli.output.events import Report
from cardprod.cli.output.streams import OutputLost
from cardprod.cli.words import whole
from cardprod.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.output import Output
    from cardprod.models import Card
    from cardprod.simulator import Change, LoggedRequest, Simulator

_MOST_KEPT: Final = 1_000_000
"""Bytes that are kept for a reader who does not read; the requests after that are not shown."""

_BAD_REQUEST: Final = 400
_UNKNOWN: Final = "unknown"
_FIELDS: Final = ("method", "path", "http_status", "status")

DOES: Final = """run the kiosk simulator until Ctrl-C or SIGTERM

A card of any profile begins the plan when it is requested first. One whose token
begins with the name of a plan, or an error code, and a dash has that plan: jams-1,
retried-2, PRD_HOPPER_JAM-3. unknown-4 gets a 404. CARDPROD_TOKEN=expired gets a 401.

Its page shows everything live, with a button for each move. By HTTP, a move is:
  curl -H 'Content-Type: application/json' http://127.0.0.1:8080/_kiosk/start \\
    -d '{"profile_id": 123456, "card_token": "never-1"}'
`python -m pydoc cardprod.simulator` lists the moves and their fields."""

EXAMPLES: Final = """
  cardprod simulate --plan PRD_HOPPER_JAM
  cardprod simulate --port 0 --webhooks-to http://127.0.0.1:8000/wise"""


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    plans = "what becomes of a card: prints, jams, rejected, retried, never, or an error code (default prints)"
    to.add_argument("--port", type=port, default=8080, help="port on 127.0.0.1, 0 for any (default 8080)")
    to.add_argument("--plan", default="prints", help=plans)
    to.add_argument("--webhooks-to", metavar="URL", help="send a signed webhook there for each change of a card")


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Run the simulator until this is cancelled: it never returns."""
    from cardprod.simulator import Simulator  # noqa: PLC0415 - other commands need no web server
    from cardprod.simulator.plans import as_stages  # noqa: PLC0415

    plan: str = arguments.plan
    webhooks = arguments.webhooks_to
    as_stages(plan)  # it says which plans there are

    def plan_of(card: Card) -> str | None:
        """Return the plan that a card's token begins with, or that of all."""
        name = card.card_token.partition("-")[0]
        if name == _UNKNOWN:
            return None
        with suppress(UsageError):
            as_stages(name)
            return name
        return plan

    kiosk = Simulator(
        port=arguments.port, token=None, plan_for_unknown=plan_of, on_request=partial(_show_request, output), page=True
    )
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(kiosk)
            if webhooks is not None:
                kiosk.subscribe(webhooks)
                kiosk.observe(partial(_show_delivery, output, kiosk))
        except OSError as exc:
            why = exc.strerror
            if exc.errno == errno.EADDRINUSE:
                why = f"another program does, which is what answers at http://127.0.0.1:{arguments.port}"
            raise UsageError(f"cannot listen on port {arguments.port} ({why}): choose another with --port") from exc
        except ImportError as exc:
            raise UsageError(str(exc)) from exc
        url = kiosk.base_url
        fields = {"base_url": url, "plan": plan}
        text = f"""\
Kiosk simulator at {url}
Any card of any profile begins the plan {plan!r} at its first request; jams-1 that of its name, unknown-1 gets a 404.
See and drive it in a browser: {url}/
In another terminal:
  CARDPROD_BASE_URL={url} CARDPROD_TOKEN=any cardprod wait 123456 my-card{" --follow" * (plan == "retried")}
"""
        if webhooks is not None:
            fields["public_key_url"] = kiosk.public_key_url
            text += f"Its webhooks go to {webhooks}; to verify them, have the key for Verifier():\n"
            text += f"  curl -s {kiosk.public_key_url} -o kiosk.pem\n"
        output.emit(Report(f"{text}Ctrl-C or SIGTERM stops it.", "listening", fields))
        while True:
            with suppress(OutputLost):
                await output.drain()
            await asyncio.sleep(1)


def _show_request(output: Output, request: LoggedRequest) -> None:
    answer = "no answer" if request.http_status is None else f"{request.http_status} {request.status or ''}"
    fields = {name: getattr(request, name) for name in _FIELDS}
    fields |= {"at": round(request.at, 3), "fault": None if request.fault is None else request.fault.kind}
    _show(output, f"{request.at:6.1f} s  {request.method} {request.path}  {answer}", "request", fields)


def _show_delivery(output: Output, kiosk: Simulator, change: Change) -> None:
    """Show what the endpoint answered to a webhook."""
    if change != "deliveries":
        return
    sent = kiosk.deliveries[-1]
    answer = "no answer in 5 s, or no connection" if sent.http_status is None else str(sent.http_status)
    if sent.http_status == _BAD_REQUEST:
        answer += " (does the endpoint verify it with the key above?)"
    about = f"{whole(sent.card)} {sent.status}" if sent.card else "a test"
    fields = {"at": round(sent.at, 3), **{name: getattr(sent, name) for name in ("status", "attempt", "http_status")}}
    if sent.card is not None:
        fields |= {"profile_id": sent.card.profile_id, "card_token": sent.card.card_token}
    _show(
        output,
        f"{sent.at:6.1f} s  webhook of {about}, attempt {sent.attempt}  {answer}",
        "delivery",
        fields,
    )


def _show(output: Output, text: str, kind: str, fields: dict[str, Any]) -> None:
    """Show something, if somebody reads: an answer must not depend on that."""
    if output.stream.kept < _MOST_KEPT:
        with suppress(OutputLost):
            output.emit(Report(text, kind, fields))
