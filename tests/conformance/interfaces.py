"""The interfaces of waiting, each as one function: wait for a card, and return what was reported of it.

A law is written once, in `test_laws`, and run against each of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from cardprod import Card, CardprodError, Checkpoint, Client, Transition, checkpoint
from tests.conformance.durably import follow_durably

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cardprod import Backoff, ProductionStatus

__all__ = ["DATABASE", "INTERFACES", "Interface", "Report"]


@attrs.define
class Report:
    """What an interface reported of its card."""

    transitions: list[Transition] = attrs.field(factory=list[Transition])
    error: CardprodError | None = None
    wait: Any = None
    """The wait itself, as a user may keep it: what it leaves behind must not depend on when it is freed."""

    @property
    def statuses(self) -> list[str]:
        """The statuses of the transitions."""
        return [str(transition.current.status) for transition in self.transitions]


@attrs.frozen
class Options:
    """The options of a law's wait. No law takes longer than the timeout, which ends one that fails."""

    schedule: Backoff
    timeout: float = 3600.0
    max_failures: int = 5
    max_outage: float = 0.0
    after: ProductionStatus | None = None


_MOST_SWEEPS = 2000

DATABASE: Final[list[str]] = []
"""Where durable waits are, once there is a test of them."""

Follow: TypeAlias = "Callable[[Client, Card, Options, Report], Awaitable[None]]"


@attrs.frozen
class Interface:
    """One way to wait.

    Args:
        name: What it is called.
        wait: Waits to the end, and writes what is reported into the report as it comes.
        reports_all: Whether it reports each transition, or the last one only.
        is_continuous: Whether it runs all the time and receives events, or only while it polls.
        ends_by_refusal: Whether a refused token, or a client that cannot be used, ends it; else another goes on.
    """

    name: str
    wait: Follow
    reports_all: bool = True
    is_continuous: bool = True
    ends_by_refusal: bool = True

    async def follow(self, client: Client, card: Card, **options: Any) -> Report:
        """Wait for a card, and return what was reported of it."""
        report = Report()
        await self.wait(client, card, Options(**options), report)
        return report


def _arguments(options: Options) -> dict[str, Any]:
    return {
        "schedule": options.schedule,
        "timeout": options.timeout,
        "max_failures": options.max_failures,
        "max_outage": options.max_outage,
    }


async def _awaited(client: Client, card: Card, options: Options, report: Report) -> None:
    wait = client.wait_until_final(card.profile_id, card.card_token, after=options.after, **_arguments(options))
    report.wait = wait
    try:
        final = await wait
    except CardprodError as error:
        report.error = error
    else:
        report.transitions.append(
            Transition(previous=None, current=final, elapsed=0.0, polls=wait.polls, source="poll")
        )


async def _iterated(client: Client, card: Card, options: Options, report: Report) -> None:
    wait = client.wait_until_final(card.profile_id, card.card_token, after=options.after, **_arguments(options))
    report.wait = wait
    try:
        async for transition in wait:
            report.transitions.append(transition)
    except CardprodError as error:
        report.error = error


async def _in_a_batch(client: Client, card: Card, options: Options, report: Report) -> None:
    known: dict[Card, ProductionStatus | CardprodError] = {Card(1, "another"): CardprodError("of an earlier wait")}
    known |= {} if options.after is None else {card: options.after}
    async with client.wait_until_all_final([card], after=known, **_arguments(options)) as steps:
        await _read(steps, report)


async def _resumed(client: Client, card: Card, options: Options, report: Report) -> None:
    """Begin in one batch, leave it after the first result, and go on from its checkpoint in another."""
    async with client.wait_until_all_final(None, **_arguments(options)) as steps:
        steps.add(card, after=options.after)
        steps.no_more()
        async for _, result in steps:
            _write(result, report)
            saved = steps.checkpoint().to_json()
            break
        else:
            return
    async with client.resume(Checkpoint.from_json(saved)) as steps:
        await _read(steps, report)


async def _swept(client: Client, card: Card, options: Options, report: Report) -> None:
    after = None if options.after is None else {card: options.after}
    waits = Checkpoint.for_cards([card], after=after, **_arguments(options))
    for _ in range(_MOST_SWEEPS):
        sweep = await client.sweep(waits)
        for _, result in sweep.steps:
            _write(result, report)
        waits = Checkpoint.from_json(sweep.checkpoint.to_json())
        if waits.is_done:
            return
        if sweep.next_poll_at is not None:
            await asyncio.sleep(sweep.next_poll_at.timestamp() - checkpoint.wall_clock())


async def _durably(client: Client, card: Card, options: Options, report: Report) -> None:
    await follow_durably(
        DATABASE[0],
        client,
        card,
        lambda result: _write(result, report),
        after=options.after,
        **_arguments(options),
    )


async def _read(steps: Any, report: Report) -> None:
    async for _, result in steps:
        _write(result, report)


def _write(result: Transition | CardprodError, report: Report) -> None:
    if isinstance(result, CardprodError):
        report.error = result
    else:
        report.transitions.append(result)


INTERFACES: Final = (
    Interface("awaited", _awaited, reports_all=False),
    Interface("iterated", _iterated),
    Interface("batch", _in_a_batch),
    Interface("resumed", _resumed),
    Interface("swept", _swept, is_continuous=False),
    Interface("durable", _durably, is_continuous=False, ends_by_refusal=False),
)
