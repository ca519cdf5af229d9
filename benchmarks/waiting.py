"""What a waiting card costs: resident memory each, the card and its token included; each way in a process of its own.

- *registered*: `wait_until_all_final` has taken so many cards and polled none yet; at 1,000 requests a minute
  most of a million cards are in this state for hours.
- *polled once*: every card was polled, is READY and waits an hour for its next poll.
- The others are what people write themselves: a task for each card that polled once, and sleeps an hour.

Beside that, how long it takes to take all cards, and for how long at most the event loop was blocked meanwhile: with
Python's garbage collector as it is, whose full collections walk over every object there is, and without it.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying, retry_if_result, wait_fixed

from benchmarks import server
from benchmarks.bulk import cards_of
from benchmarks.table import markdown
from cardprod import Backoff, Client, RateLimit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from cardprod import ProductionStatus

_HOUR = 3600.0
_HOURLY = Backoff(first=_HOUR, factor=1, ceiling=_HOUR)
_PAGE = 4096


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


async def _longest_hold(until: asyncio.Event) -> float:
    """Say for how many seconds at most the loop did not get round."""
    longest, last = 0.0, perf_counter()
    while not until.is_set():
        await asyncio.sleep(0)
        now = perf_counter()
        longest, last = max(longest, now - last), now
    return longest


async def _register(port: int, count: int) -> tuple[float, float, float]:
    """Take so many cards; give bytes for each, seconds for all, and the longest hold of the loop."""
    limit = RateLimit(per_second=1, per_minute=1)  # nothing is polled meanwhile
    async with Client("some-user-token", base_url=f"http://127.0.0.1:{port}", rate_limit=limit) as client:
        await client.get_status(1, "warm")  # opens the session, and uses up the minute
        before, began_at, is_done = _resident(), perf_counter(), asyncio.Event()
        holding = asyncio.create_task(_longest_hold(is_done))
        async with client.wait_until_all_final(cards_of(count)) as steps:
            while steps.progress.total < count:  # noqa: ASYNC110 - another task changes it
                await asyncio.sleep(0.001)
            seconds = perf_counter() - began_at
            is_done.set()
            hold = await holding
            return (_resident() - before) / count, seconds, hold


async def _poll_once(port: int, count: int) -> float:
    async with Client("some-user-token", base_url=f"http://127.0.0.1:{port}", rate_limit=None) as client:
        await asyncio.gather(*(client.get_status(1, f"warm-{number}") for number in range(100)))
        before = _resident()
        async with client.wait_until_all_final(cards_of(count), schedule=_HOURLY) as steps:
            seen = 0
            async for _ in steps:
                seen += 1
                if seen == count:
                    break
            return (_resident() - before) / count


async def _by_task(client: Client, profile_id: int, card_token: str) -> None:
    while not (await client.get_status(profile_id, card_token)).is_final:  # noqa: ASYNC110 - as people write it
        await asyncio.sleep(_HOUR)


async def _by_tenacity(client: Client, profile_id: int, card_token: str) -> None:
    def is_pending(status: ProductionStatus) -> bool:
        return not status.is_final

    retrying = AsyncRetrying(retry=retry_if_result(is_pending), wait=wait_fixed(_HOUR))
    await retrying(client.get_status, profile_id, card_token)


async def _by_wait(client: Client, profile_id: int, card_token: str) -> None:
    await client.wait_until_final(profile_id, card_token, timeout=None, schedule=_HOURLY)


_WAYS = {"a task for each card": _by_task, "a tenacity loop for each card": _by_tenacity, "wait_until_final": _by_wait}


async def _in_tasks(port: int, count: int, way: str) -> float:
    async with Client("some-user-token", base_url=f"http://127.0.0.1:{port}", rate_limit=None) as client:
        await asyncio.gather(*(client.get_status(1, f"warm-{number}") for number in range(100)))
        before = _resident()
        tasks = [asyncio.create_task(_WAYS[way](client, *card)) for card in cards_of(count)]
        await asyncio.sleep(0)
        await client.get_status(1, "last")  # queued last, so answered about last
        await asyncio.sleep(0.5)
        figure = (_resident() - before) / count
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return figure


def _registering(port: int, count: int, *, collects: bool) -> tuple[float, float, float]:
    if not collects:
        gc.disable()
    return asyncio.run(_register(port, count))


def _polling_once(port: int, count: int) -> float:
    return asyncio.run(_poll_once(port, count))


def _sleeping(port: int, count: int, way: str) -> float:
    return asyncio.run(_in_tasks(port, count, way))


def _alone(function: Callable[..., object], *arguments: object, **options: object) -> Any:  # noqa: ANN401
    """Call a function in a process of its own."""
    with server.running(10**9) as port, multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (port, *arguments), options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--cards", type=int, default=1_000_000, help="cards to register (default 1,000,000)")
    parser.add_argument("--polled", type=int, default=200_000, help="cards to poll once (default 200,000)")
    parser.add_argument("--tasks", type=int, default=50_000, help="cards with a task each (default 50,000)")


def run(arguments: argparse.Namespace) -> str:
    """Measure, and give the tables."""
    each, seconds, hold = _alone(_registering, arguments.cards, collects=True)
    _, seconds_without, hold_without = _alone(_registering, arguments.cards, collects=False)
    rows = [
        ["wait_until_all_final, registered", f"{arguments.cards:,}", f"{each:,.0f}"],
        [
            "wait_until_all_final, polled once",
            f"{arguments.polled:,}",
            f"{_alone(_polling_once, arguments.polled):,.0f}",
        ],
    ]
    rows += [
        [f"{way}, polled once", f"{arguments.tasks:,}", f"{_alone(_sleeping, arguments.tasks, way):,.0f}"]
        for way in _WAYS
    ]
    holds = [
        ["as it is", f"{seconds:.1f}", f"{hold * 1000:.1f}"],
        ["off", f"{seconds_without:.1f}", f"{hold_without * 1000:.1f}"],
    ]
    return "\n\n".join(
        [
            markdown(["waiting cards", "cards", "resident bytes each"], rows),
            markdown([f"taking {arguments.cards:,} cards; garbage collector", "s", "loop blocked, ms at most"], holds),
        ]
    )
