"""`wait`: so many waits at once, each until a card is PRODUCED, beside the loops and pollers a person could use.

Every way polls as often and as late: all sleep the same time between polls, a hundred requests are in flight at most
(aiohttp's own limit, or ours), and the server answers PRODUCED to the last poll. Each measurement is a process of its
own, and the ways alternate; CPU and the peak of resident memory count from when the first connections are open.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

import cardprod
from benchmarks import server
from benchmarks.peers import PROFILE, azure_client, path_of
from benchmarks.table import Series, Table

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncGenerator, Awaitable, Callable

_FINAL: Final = frozenset({"PRODUCED", "PRODUCTION_ERROR", "REQUEST_ERROR"})


def _tokens(count: int) -> list[str]:
    return [f"{number:08x}-1e14-4464-a1ce-dcea7dc3de52" for number in range(count)]


def _schedule(sleep: float) -> cardprod.Backoff:
    return cardprod.Backoff(first=sleep, factor=1, ceiling=sleep, jitter=0)


def _client(port: int) -> cardprod.Client:
    return cardprod.Client("t", base_url=f"http://127.0.0.1:{port}", rate_limit=None)


async def _wait_in_bulk(port: int, tokens: list[str], sleep: float, begin: Callable[[], None]) -> int:
    async with _client(port) as client:
        await asyncio.gather(*(client.get_status(1, f"warm-{number}") for number in range(100)))
        begin()
        cards = ((PROFILE, token) for token in tokens)
        finals = await client.wait_until_all_final(cards, schedule=_schedule(sleep), timeout=None)
        return len(finals)


async def _wait_in_tasks(port: int, tokens: list[str], sleep: float, begin: Callable[[], None]) -> int:
    async with _client(port) as client:
        await asyncio.gather(*(client.get_status(1, f"warm-{number}") for number in range(100)))
        begin()
        schedule = _schedule(sleep)
        waits = (client.wait_until_final(PROFILE, token, schedule=schedule, timeout=None) for token in tokens)
        return sum(final.is_produced for final in await asyncio.gather(*waits))


@asynccontextmanager
async def _session(port: int) -> AsyncGenerator[Callable[[str], Awaitable[Any]], None]:
    """Request a status with aiohttp's default session, as one would in a loop of one's own."""
    base_url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer t"}) as session:

        async def get_status(token: str) -> Any:  # noqa: ANN401 - JSON
            async with session.get(base_url + path_of(token)) as response:
                response.raise_for_status()
                return await response.json()

        await asyncio.gather(*(get_status(f"warm-{number}") for number in range(100)))
        yield get_status


async def _plain_loop(port: int, tokens: list[str], sleep: float, begin: Callable[[], None]) -> int:
    async with _session(port) as get_status:
        begin()

        async def wait(token: str) -> bool:
            while (await get_status(token))["status"] not in _FINAL:  # noqa: ASYNC110 - as people write it
                await asyncio.sleep(sleep)
            return True

        return sum(await asyncio.gather(*(wait(token) for token in tokens)))


async def _loop_of_stamina(port: int, tokens: list[str], sleep: float, begin: Callable[[], None]) -> int:
    import stamina  # noqa: PLC0415

    class NotYet(Exception):
        pass

    stamina.instrumentation.set_on_retry_hooks([])  # else each retry is logged
    async with _session(port) as get_status:
        begin()

        async def wait(token: str) -> bool:
            async for attempt in stamina.retry_context(
                on=(NotYet, aiohttp.ClientError),
                attempts=None,
                timeout=None,
                wait_initial=sleep,
                wait_max=sleep,
                wait_jitter=0,
                wait_exp_base=1,
            ):
                with attempt:
                    if (await get_status(token))["status"] not in _FINAL:
                        raise NotYet
            return True

        return sum(await asyncio.gather(*(wait(token) for token in tokens)))


async def _loop_of_tenacity(port: int, tokens: list[str], sleep: float, begin: Callable[[], None]) -> int:
    from tenacity import AsyncRetrying, retry_if_result, wait_fixed  # noqa: PLC0415

    def is_pending(body: Any) -> bool:  # noqa: ANN401 - JSON
        return body["status"] not in _FINAL

    async with _session(port) as get_status:
        begin()

        async def wait(token: str) -> bool:
            retrying = AsyncRetrying(retry=retry_if_result(is_pending), wait=wait_fixed(sleep))
            return not is_pending(await retrying(get_status, token))

        return sum(await asyncio.gather(*(wait(token) for token in tokens)))


async def _poller_of_azure(port: int, tokens: list[str], sleep: float, begin: Callable[[], None]) -> int:
    from azure.core.polling import (  # noqa: PLC0415
        AsyncLROPoller,
        async_base_polling,
        base_polling,
    )
    from azure.core.rest import HttpRequest  # noqa: PLC0415

    untyped: Any = async_base_polling  # its generics are the transport's affair

    class Production(
        base_polling.LongRunningOperation[Any, Any]
    ):  # what to ask and what an answer means, as its guide has it
        def can_poll(self, pipeline_response: Any) -> bool:  # noqa: ANN401
            del pipeline_response
            return True

        def set_initial_status(self, pipeline_response: Any) -> str:  # noqa: ANN401
            self._url = pipeline_response.http_response.request.url
            return self.get_status(pipeline_response)

        def get_polling_url(self) -> str:
            return str(self._url)

        def get_status(self, pipeline_response: Any) -> str:  # noqa: ANN401
            return "Succeeded" if pipeline_response.http_response.json()["status"] in _FINAL else "InProgress"

        def get_final_get_url(self, pipeline_response: Any) -> None:  # noqa: ANN401
            del pipeline_response

    async with azure_client(port) as client:

        async def first_answer(token: str) -> Any:  # noqa: ANN401
            request = HttpRequest("GET", client.format_url(path_of(token)))
            return await client.send_request(request, _return_pipeline_response=True)

        await asyncio.gather(*(first_answer(f"warm-{number}") for number in range(100)))
        begin()

        async def wait(token: str) -> bool:
            polling = untyped.AsyncLROBasePolling(timeout=sleep, lro_algorithms=[Production()])
            first = await first_answer(token)
            await asyncio.sleep(sleep)  # it asks again at once
            poller: Any = AsyncLROPoller(client, first, lambda answer: answer.http_response.json(), polling)
            return (await poller.result())["status"] in _FINAL

        return sum(await asyncio.gather(*(wait(token) for token in tokens)))


_WAYS: Final = {
    "cardprod, wait_until_all_final": _wait_in_bulk,
    "cardprod, wait_until_final in tasks": _wait_in_tasks,
    "aiohttp and a loop with asyncio.sleep": _plain_loop,
    "aiohttp and a stamina loop": _loop_of_stamina,
    "aiohttp and a tenacity loop": _loop_of_tenacity,
    "azure-core's AsyncLROPoller": _poller_of_azure,
}


def _resident(which: str) -> int:
    """Give the bytes in memory now (VmRSS), or at the most since the peak was reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{which}:"))


def _measure(name: str, port: int, count: int, sleep: float) -> tuple[float, float, float]:
    """Wait for so many cards in one way; give CPU seconds, bytes and seconds."""
    tokens = _tokens(count)
    began: list[tuple[float, int, float]] = []

    def begin() -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see proc(5)
        began.append((time.process_time(), _resident("VmRSS"), time.perf_counter()))

    done = asyncio.run(_WAYS[name](port, tokens, sleep, begin))
    assert done == count  # noqa: S101 - a way that loses a card has no figure
    cpu, before, at = began[0]
    return time.process_time() - cpu, _resident("VmHWM") - before, time.perf_counter() - at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--waits", type=int, default=10_000, help="waits at once (default 10,000)")
    parser.add_argument("--polls", type=int, default=5, help="polls until a card is produced (default 5)")
    parser.add_argument("--sleep", type=float, default=5.0, help="seconds between two polls of a card (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way (default 3)")


def run(arguments: argparse.Namespace) -> list[Table]:
    """Measure, and give the tables."""
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in _WAYS}
    context = multiprocessing.get_context("spawn")
    for _ in range(arguments.rounds):
        for name in _WAYS:
            with server.running(arguments.polls) as port, context.Pool(1) as pool:
                measured[name].append(pool.apply(_measure, (name, port, arguments.waits, arguments.sleep)))
            print(f"… {name}: {len(measured[name])} of {arguments.rounds}", file=sys.stderr, flush=True)
    title = f"{arguments.waits:,} waits at once, {arguments.polls} polls each"
    seconds = {"seconds, all in all": [f"{measured[name][0][2]:.0f}" for name in _WAYS]}
    return [
        Table(
            title=f"CPU: {title}",
            unit="ms per wait",
            digits=2,
            series=[
                Series(name, [cpu / arguments.waits * 1e3 for cpu, _, _ in each]) for name, each in measured.items()
            ],
            more=seconds,
        ),
        Table(
            title=f"Memory: {title}",
            unit="bytes per wait",
            series=[Series(name, [peak / arguments.waits for _, peak, _ in each]) for name, each in measured.items()],
        ),
    ]
