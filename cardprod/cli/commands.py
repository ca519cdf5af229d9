"""The commands that look at cards and follow one, and the simulator: `status`, `wait`, `demo` and `simulate`.

What the client says goes to a report; how that looks is `reports`' business.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import attrs

from cardprod._polling.backoff import Backoff
from cardprod.cli.completion import script
from cardprod.cli.exit_codes import NOT_FINAL, PRODUCED, USAGE, exit_code_of, worst_of
from cardprod.cli.lists import CardList, read_list
from cardprod.client import Client
from cardprod.errors import CardprodError, UsageError, WaitTimeout
from cardprod.models import Card

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.reports import Report
    from cardprod.models import ProductionStatus, Status
    from cardprod.simulator import Simulator

__all__ = ["complete", "demo", "look", "simulate", "wait"]


async def look(arguments: argparse.Namespace, report: Report) -> int:
    """Look once: at one card, or at each of many."""
    one = arguments.file is None and len(arguments.cards) == 1
    listed = await _listed(arguments)
    async with Client.from_env() as client:
        if one:
            [card] = listed.cards
            status = await client.get_status(card.profile_id, card.card_token)
            report.status(card, status)
            return exit_code_of(status)
        report.bad_rows(listed)
        codes = {USAGE} if listed.bad_rows else set[int]()
        async with client.get_statuses(listed.cards) as pairs:
            async for card, outcome in pairs:
                if isinstance(outcome, CardprodError):
                    report.error(outcome)
                else:
                    report.status(card, outcome)
                codes.add(exit_code_of(outcome))
    return worst_of(codes)


async def _listed(arguments: argparse.Namespace) -> CardList:
    """Take the cards of a list, or those of the command line."""
    if arguments.file is None:
        return CardList("", [Card(arguments.profile, card_token) for card_token in arguments.cards], [])
    if arguments.profile is not None:
        raise UsageError("name either PROFILE CARD [CARD …] or a list of cards with --file")
    listed = await read_list(arguments.file)
    if arguments.strict:
        listed.refuse_bad_rows(so="nothing was looked at")
    return listed


async def wait(arguments: argparse.Namespace, report: Report) -> int:
    """Wait until a card is final, telling each transition."""
    card = Card(arguments.profile, arguments.card)
    async with Client.from_env() as client:
        transitions = client.wait_until_final(card.profile_id, card.card_token, timeout=arguments.timeout)
        async for step in transitions:
            report.transition(card, step, step.elapsed)
            if step.is_final:
                return exit_code_of(step.current)
    return NOT_FINAL  # a wait that ends without a final step has raised before this


async def simulate(arguments: argparse.Namespace, report: Report) -> int:
    """Run the simulator until it is cancelled."""
    from cardprod.simulator import Simulator  # noqa: PLC0415 - a web server is nothing to load for a look

    kiosk = Simulator(
        port=arguments.port, token=None, plan_for_unknown=arguments.plan, on_request=report.request, page=True
    )
    try:
        await kiosk.__aenter__()
    except OSError as exc:
        raise UsageError(f"cannot listen on port {arguments.port}: {exc.strerror}") from exc
    async with AsyncExitStack() as stack:
        stack.push_async_exit(kiosk)
        if arguments.webhooks_to is not None:
            try:
                kiosk.subscribe(arguments.webhooks_to)
            except ImportError as exc:
                raise UsageError(str(exc)) from exc
        report.listening(
            kiosk.base_url, arguments.plan, None if arguments.webhooks_to is None else kiosk.public_key_url
        )
        await asyncio.Event().wait()
    return PRODUCED


@attrs.frozen
class _Scene:
    """One card of the demo: its plan, what goes wrong on the way, and how often its owner waits for it."""

    plan: str
    faults: int = 0
    waits: int = 1


_SCENES: Final = (
    _Scene("prints"),
    _Scene("jams"),
    _Scene("prints", faults=2),
    _Scene("rejected"),
    _Scene("retried", waits=2),
    _Scene("never"),
    _Scene("prints"),
)
_DEMO_SCHEDULE: Final = Backoff(first=0.4, factor=1.4, ceiling=1.0)
_DEMO_TIMEOUT: Final = 9.0
_MENDING: Final = 3.0


async def demo(_: argparse.Namespace, report: Report) -> int:
    """Play seven cards at a simulated kiosk."""
    from cardprod.simulator import Simulator  # noqa: PLC0415 - as above

    loop = asyncio.get_running_loop()
    started_at = loop.time()
    async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url) as client:
        report.note(f"A simulated kiosk at {kiosk.base_url}, {len(_SCENES)} cards, and the real client over real HTTP:")
        finals = await asyncio.gather(
            *(
                _play(scene, number, kiosk=kiosk, client=client, report=report, started_at=started_at)
                for number, scene in enumerate(_SCENES, start=1)
            )
        )
        report.summary(finals, len(kiosk.requests), loop.time() - started_at)
    return PRODUCED


async def _play(  # noqa: PLR0913 - all that is on stage
    scene: _Scene, number: int, *, kiosk: Simulator, client: Client, report: Report, started_at: float
) -> Status | str | None:
    """Follow one card; give its last status if it is final."""
    from cardprod.simulator import Fault  # noqa: PLC0415 - as above

    loop = asyncio.get_running_loop()
    await asyncio.sleep((number - 1) * 0.3)  # people do not come to a kiosk all at once
    card = kiosk.add((123456, f"card-{number}"), scene.plan)
    for fault in (Fault.server_error(503), Fault.reset())[: scene.faults]:
        kiosk.fail_next(fault, card=card)
    last: ProductionStatus | None = None
    for again in range(scene.waits):
        if again:
            report.note(f"{card.card_token}: the ribbon is replaced and the card sent to the kiosk again")
            await asyncio.sleep(_MENDING)
        transitions = client.wait_until_final(
            card.profile_id, card.card_token, timeout=_DEMO_TIMEOUT, schedule=_DEMO_SCHEDULE
        )
        try:
            async for step in transitions:
                last = step.current
                report.transition(card, step, loop.time() - started_at)
        except WaitTimeout as error:
            report.error(error)
            return None
    return last.status if last is not None else None


# --- Completion ---


async def complete(arguments: argparse.Namespace, _: Report) -> int:
    """Print a script that completes the command in a shell."""
    print(script(arguments.parser(), arguments.shell), end="")
    return PRODUCED
