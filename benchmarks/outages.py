"""How many waits survive an outage? Waits of up to an hour, in whose middle every answer fails for a while.

Virtual time, real HTTP to the simulator: its connections break, it answers 503, or a gateway answers in its place.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import looptime

from cardprod import Card, Client, ProductionStatus
from cardprod.simulator import Fault, Simulator
from cardprod.telemetry import LOGGER

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_FAULTS: Final = {
    "connections break": Fault.reset(),
    "503": Fault.server_error(503),
    "a gateway's page with 404": Fault.gateway_page(404),
}
_MANY: Final = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 10, 500], help="waits at once (default 1 10 500)")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[10, 60, 240, 600], help="how long the outages last"
    )
    parser.add_argument("--max-outage", type=float, default=300, help="what the waits are given (default 300)")


def run(arguments: argparse.Namespace) -> Iterator[str]:
    """Simulate, and give the table row by row."""
    LOGGER.setLevel(logging.CRITICAL)
    kinds = [f"{cards:,} {kind}" for cards in arguments.cards for kind in ("alone", "in a batch")]
    yield f"| outage | {' | '.join(kinds)} |"
    yield f"| --- |{' ---: |' * len(kinds)}"
    for name, fault in _FAULTS.items():
        for seconds in arguments.seconds:
            survived = [
                f"{_run(cards, is_batch, fault, seconds, arguments.max_outage)} of {cards}"
                for cards in arguments.cards
                for is_batch in (False, True)
            ]
            yield f"| {name}, {seconds:g} s | {' | '.join(survived)} |"


def _run(cards: int, is_batch: bool, fault: Fault, seconds: float, max_outage: float) -> int:
    loop = looptime.new_event_loop(start=0)
    try:
        return loop.run_until_complete(_survivors(cards, is_batch, fault, seconds, max_outage))
    finally:
        loop.close()


async def _survivors(count: int, is_batch: bool, fault: Fault, seconds: float, max_outage: float) -> int:
    loop = asyncio.get_running_loop()
    cards = [Card(123456, f"card-{number}") for number in range(count)]
    async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url) as client:
        for card in cards:
            kiosk.add(card, [("READY", 240), ("IN_PROGRESS", 120 + seconds), ("PRODUCED", 0)])
        loop.call_later(300, lambda: kiosk.fail_next(fault, times=_MANY))
        loop.call_later(300 + seconds, kiosk.clear_faults)
        if is_batch:
            batch = client.wait_until_all_final(cards, timeout=3600, max_outage=max_outage)
            outcomes: list[object] = [*(await batch).values()]
        else:
            waits = [
                client.wait_until_final(card.profile_id, card.card_token, timeout=3600, max_outage=max_outage)
                for card in cards
            ]
            outcomes = [*await asyncio.gather(*waits, return_exceptions=True)]
    return sum(isinstance(outcome, ProductionStatus) and outcome.is_produced for outcome in outcomes)
