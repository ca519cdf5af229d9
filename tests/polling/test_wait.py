"""Waiting for one card over real HTTP in virtual time: every way to await it, end it, cut it off or drop it."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import sys
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

import cardprod
from cardprod import Backoff, Client, Status, UsageError, Wait
from cardprod.simulator import Fault, Simulator, Stage
from tests.cards import CARD, event_of, poll
from tests.leftovers import assert_idle, assert_nothing_left
from tests.raw_server import RawServer, answer_nothing, http_answer
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardprod import ProductionStatus, Schedule, Transition

OTHERS = [cardprod.Card(CARD.profile_id, f"other-{number}") for number in range(2)]
EVERY_10 = Backoff(first=10, factor=1, jitter=0)


def now() -> float:
    """Return the loop's virtual time."""
    return asyncio.get_running_loop().time()


def wait(client: Client, *, timeout: float | None = 900, schedule: Schedule = EVERY_10, max_failures: int = 5) -> Wait:
    """Wait for the one card, polling every 10 seconds by default."""
    return client.wait_until_final(
        CARD.profile_id, CARD.card_token, timeout=timeout, schedule=schedule, max_failures=max_failures
    )


# --- Every way to wait ---


async def simply(wait: Wait) -> ProductionStatus:
    """Await it."""
    return await wait


async def gathered(wait: Wait) -> ProductionStatus:
    """Await it with `asyncio.gather`."""
    (final,) = await asyncio.gather(wait)
    return final


async def as_task(wait: Wait) -> ProductionStatus:
    """Make a task of it."""
    return await asyncio.create_task(wait)


async def in_group(wait: Wait) -> ProductionStatus:
    """Make a task of it in a group."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(wait)
    return task.result()


async def under_timeout(wait: Wait) -> ProductionStatus:
    """Await it under `asyncio.timeout`."""
    async with asyncio.timeout(600):
        return await wait


async def waited_for(wait: Wait) -> ProductionStatus:
    """Await it with `asyncio.wait_for`."""
    return await asyncio.wait_for(wait, 600)


async def shielded(wait: Wait) -> ProductionStatus:
    """Await it with `asyncio.shield`."""
    return await asyncio.shield(wait)


async def iterated(wait: Wait) -> ProductionStatus:
    """Iterate it to its end."""
    steps = [step async for step in wait]
    assert steps[-1].is_final
    return steps[-1].current


async def one_by_one(wait: Wait) -> ProductionStatus:
    """Take each transition with `anext`."""
    step = await anext(wait)
    while not step.is_final:
        step = await anext(wait)
    with pytest.raises(StopAsyncIteration):
        await anext(wait)
    return step.current


WAYS = [simply, gathered, as_task, in_group, under_timeout, waited_for, shielded, iterated, one_by_one]


async def test_every_way_ends_in_the_final_status() -> None:
    """In whichever way a wait is awaited or iterated, it ends in the card's final status and leaves nothing."""
    plans = {"prints": Status.PRODUCED, "jams": Status.PRODUCTION_ERROR, "rejected": Status.REQUEST_ERROR}
    with Table() as table:
        for way, (plan, status) in product(WAYS, plans.items()):
            with table.row(way.__name__, plan):
                async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url) as client:
                    kiosk.add(CARD, plan)
                    waiting = wait(client)
                    assert (await way(waiting)).status is status
                    assert waiting.last is not None
                    assert waiting.last.status is status
                    assert waiting.polls == len(kiosk.requests)
                    assert_idle(client)


async def test_wait_is_a_coroutine_to_asyncio(kiosk: Simulator, client: Client) -> None:
    """A wait is a coroutine to asyncio, and a task made of it prints its name."""
    kiosk.add(CARD, "prints")
    waiting = wait(client)
    assert asyncio.iscoroutine(waiting)
    task = asyncio.create_task(waiting)
    await asyncio.sleep(1)
    assert "wait_until_final" in repr(task)
    await task


async def test_last_polls_and_repr_follow(kiosk: Simulator, client: Client) -> None:
    """A wait has what it saw so far, and its repr no whole card token."""
    kiosk.add(CARD, [("READY", 25), Stage("PRODUCED")])
    waiting = wait(client)
    assert (waiting.last, waiting.polls) == (None, 0)
    task = asyncio.create_task(waiting)
    await asyncio.sleep(15)
    assert waiting.last is not None
    assert (waiting.last.status, waiting.polls) == ("READY", 2)
    assert "READY" in repr(waiting)
    assert "2 polls" in repr(waiting)
    assert CARD.card_token not in repr(waiting)
    await task


# --- Consumed once ---


async def await_it(wait: Wait) -> None:
    """Await it."""
    await wait


async def iterate_it(wait: Wait) -> None:
    """Iterate it."""
    async for _ in wait:
        pass


async def test_wait_is_consumed_once(kiosk: Simulator, client: Client) -> None:
    """A wait can be awaited or iterated only once."""
    with Table() as table:
        for first, second in product((await_it, iterate_it), repeat=2):
            kiosk.add(CARD, "prints")
            waiting = wait(client)
            with table.row(first.__name__, second.__name__):
                await first(waiting)
                with pytest.raises(UsageError, match="once"):
                    await second(waiting)


async def test_awaiting_during_another_await(kiosk: Simulator, client: Client) -> None:
    """Awaiting a wait that another task awaits is a `UsageError`, and does not disturb that task."""
    kiosk.add(CARD, "prints")
    waiting = wait(client)
    task = asyncio.create_task(waiting)
    await asyncio.sleep(1)
    with pytest.raises(UsageError, match="once"):
        await waiting
    assert (await task).status is Status.PRODUCED


async def test_two_tasks_iterating_at_once(kiosk: Simulator, client: Client) -> None:
    """Of two tasks that ask the same wait for a transition at once, the second gets `UsageError`."""
    kiosk.add(CARD, "prints")
    waiting = wait(client)
    steps = await asyncio.gather(anext(waiting), anext(waiting), return_exceptions=True)
    assert isinstance(steps[0], cardprod.Transition)
    assert isinstance(steps[1], UsageError)


# --- Cancelled and dropped ---


async def test_break_leaves_nothing(kiosk: Simulator, client: Client) -> None:
    """Breaking out of the iteration leaves no task, no connection in use and no later poll, and ends its events."""
    kiosk.add(CARD, "never")
    async for step in wait(client):
        assert step.current.status is Status.READY
        break
    assert_idle(client)
    assert client.notify(event_of(CARD, "PRODUCED")) == 0
    await assert_nothing_left(but=1)  # the kiosk keeps the connection open
    await asyncio.sleep(600)
    assert len(kiosk.requests) == 1


@pytest.mark.parametrize("is_iterated", [True, False])
async def test_cancelled_during_a_poll(*, is_iterated: bool) -> None:
    """A wait cancelled during a poll ends at once, and its connection is closed."""
    async with RawServer(answer_nothing) as server, Client("token", base_url=server.base_url) as client:
        waiting = wait(client)
        task = asyncio.ensure_future(iterate_it(waiting) if is_iterated else await_it(waiting))
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_idle(client)
        await asyncio.sleep(60)
        assert (len(server.heads), server.connections) == (1, 0)
    await assert_nothing_left()


async def test_cancelled_while_queued() -> None:
    """A wait cancelled while its poll queues ends at once, and its request is never sent."""
    async with (
        RawServer(answer_nothing) as server,
        Client("token", base_url=server.base_url, max_concurrency=1, attempts=1) as client,
    ):
        ahead, behind = asyncio.create_task(wait(client)), asyncio.create_task(wait(client))
        await asyncio.sleep(5)
        behind.cancel()
        with pytest.raises(asyncio.CancelledError):
            await behind
        ahead.cancel()
        await asyncio.wait([ahead])
        assert_idle(client)
        await asyncio.sleep(60)
        assert len(server.heads) == 1


async def test_outer_timeout_is_the_callers(kiosk: Simulator, client: Client) -> None:
    """A timeout of the caller's around a wait is a plain `TimeoutError` and no `WaitTimeout`, and ends its polls."""
    kiosk.add(CARD, "never")

    async def under_timeout(seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await wait(client)

    async def waited_for(seconds: float) -> None:
        await asyncio.wait_for(wait(client), seconds)

    with Table() as table:
        for ends, seconds in product((under_timeout, waited_for), (15.0, 10.0, 0.0)):
            with table.row(ends.__name__, seconds):
                with pytest.raises(TimeoutError) as caught:
                    await ends(seconds)
                assert type(caught.value) is TimeoutError
                assert_idle(client)
    requests = len(kiosk.requests)
    await asyncio.sleep(60)
    assert len(kiosk.requests) == requests


async def test_never_awaited_wait_warns(kiosk: Simulator, client: Client) -> None:
    """A wait or batch that is dropped without being awaited warns as a coroutine would, and does no I/O."""
    with pytest.warns(RuntimeWarning, match="wait_until_final was never awaited"):
        wait(client).__del__()
    with pytest.warns(RuntimeWarning, match="resume was never awaited"):
        client.resume(cardprod.Checkpoint.for_cards([CARD])).__del__()
    with pytest.warns(RuntimeWarning, match="get_statuses was never awaited"):
        client.get_statuses([CARD]).__del__()
    await asyncio.sleep(60)
    assert kiosk.requests == []


@pytest.mark.parametrize("is_begun", [True, False])
async def test_closed_wait_is_consumed(kiosk: Simulator, client: Client, *, is_begun: bool) -> None:
    """A wait that was closed, begun or not, can be closed again, and cannot be awaited or iterated."""
    kiosk.add(CARD, "never")
    waiting = wait(client)
    if is_begun:
        await anext(waiting)
    waiting.close()
    waiting.close()
    for consume in (await_it, iterate_it):
        with pytest.raises(UsageError, match="once"):
            await consume(waiting)
    assert len(kiosk.requests) == is_begun


# --- The deadline ---


async def test_iterated_wait_times_out_after_its_steps(kiosk: Simulator, client: Client) -> None:
    """An iterated wait gives its transitions, then `WaitTimeout` once, and then its end."""
    kiosk.add(CARD, "never")
    waiting = wait(client, timeout=25)
    steps: list[Transition] = []

    async def collect() -> None:
        async for step in waiting:
            steps.append(step)  # noqa: PERF401 - a comprehension would lose them

    with pytest.raises(cardprod.WaitTimeout):
        await collect()
    assert len(steps) == 1
    with pytest.raises(StopAsyncIteration):
        await anext(waiting)


async def test_queued_poll_is_cut_off_at_the_deadline() -> None:
    """A poll that queues for a permit until the deadline is cancelled there, and never sent."""
    async with (
        RawServer(answer_nothing) as server,
        Client("token", base_url=server.base_url, request_timeout=100, max_concurrency=1) as client,
    ):
        ahead = asyncio.create_task(wait(client))
        await asyncio.sleep(1)
        began = now()
        with pytest.raises(cardprod.WaitTimeout):
            await wait(client, timeout=25)
        assert now() - began == pytest.approx(25, abs=0.01)
        ahead.cancel()
        await asyncio.wait([ahead])
        assert len(server.heads) == 1
        assert_idle(client)


async def test_deadline_while_it_follows_a_poll_that_it_queued_behind(kiosk: Simulator) -> None:
    """A wait whose permit comes while another wait polls its card follows that poll, and times out at its deadline."""
    for card in (CARD, *OTHERS):
        kiosk.add(card, "never")
    async with Client(kiosk.token, base_url=kiosk.base_url, request_timeout=100, max_concurrency=1) as client:
        began = now()
        queued = asyncio.create_task(wait(client, timeout=40))
        await asyncio.sleep(1)
        for _ in OTHERS:
            kiosk.fail_next(Fault.stall(12))
        ahead = [asyncio.create_task(poll(client, card)) for card in OTHERS]
        await asyncio.sleep(15)  # the next permit is a later poll's, and the one after that a first poll's
        kiosk.fail_next(Fault.stall(60))
        first = asyncio.create_task(wait(client))
        with pytest.raises(cardprod.WaitTimeout):
            await queued
        assert now() - began == pytest.approx(40, abs=0.01)
        first.cancel()
        await asyncio.wait([first, *ahead])
        assert_idle(client)


@pytest.mark.parametrize("request_timeout", [25, 100])
async def test_request_under_way_at_the_deadline(request_timeout: float) -> None:
    """A request that goes on until the deadline or later ends the wait there, once, with `WaitTimeout`."""
    async with (
        RawServer(answer_nothing) as server,
        Client("token", base_url=server.base_url, request_timeout=request_timeout, attempts=1) as client,
    ):
        with pytest.raises(cardprod.WaitTimeout) as caught:
            await wait(client, timeout=25)
        assert now() == pytest.approx(25, abs=0.01)
        assert (caught.value.last, caught.value.polls) == (None, 0)
        assert isinstance(caught.value.__cause__, cardprod.RequestTimeout)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert_idle(client)


@pytest.mark.parametrize("timeout", [0.0, 25.0])
async def test_last_poll_has_one_request_timeout(timeout: float) -> None:  # noqa: ASYNC109 - the wait's, in seconds
    """A last poll that stalls makes the wait late by `request_timeout` at most."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        if now() - began < timeout - 0.5:
            writer.write(http_answer())

    async with RawServer(answer) as server, Client("token", base_url=server.base_url) as client:
        began = now()
        with pytest.raises(cardprod.WaitTimeout) as caught:
            await wait(client, timeout=timeout)
        assert caught.value.elapsed <= timeout + 10.01


async def test_retry_after_until_the_last_poll_would_end() -> None:
    """A `Retry-After` until exactly when the last poll would have to end leaves no time for one."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        if len(server.heads) == 1:
            writer.write(http_answer(503, Retry_After="35"))

    async with (
        RawServer(answer) as server,
        Client("token", base_url=server.base_url, request_timeout=10, attempts=1) as client,
    ):
        with pytest.raises(cardprod.WaitTimeout) as caught:
            await wait(client, timeout=25)
        assert caught.value.elapsed <= 35.01
        assert_idle(client)


async def test_deadline_of_another_wait() -> None:
    """A poll that is cut off at the deadline of one wait is no failure of the others for its card."""
    async with (
        RawServer(answer_nothing) as server,
        Client("token", base_url=server.base_url, request_timeout=20, attempts=1) as client,
    ):
        outcome = await asyncio.gather(
            *(wait(client, timeout=5) for _ in range(3)),
            wait(client, max_failures=1),
            return_exceptions=True,
        )
        short = [one.elapsed for one in outcome if isinstance(one, cardprod.WaitTimeout)]
        assert short == pytest.approx([5, 5, 5], abs=0.01)
        assert now() == pytest.approx(25, abs=0.1)
        assert isinstance(outcome[-1], cardprod.RequestTimeout)
        assert_idle(client)


async def test_no_wait_queues_behind_another_for_its_card(kiosk: Simulator) -> None:
    """A poll that waits for its permit delays no other wait for the card: a new one, or one at its deadline."""
    limit = cardprod.RateLimit(per_second=5, per_minute=30)
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit) as client:
        cards = [kiosk.add((1, f"card-{number}"), "never") for number in range(60)]
        waits = [client.wait_until_final(card.profile_id, card.card_token, timeout=None) for card in cards]
        tasks = [asyncio.ensure_future(as_task(one)) for one in waits]
        await asyncio.sleep(300)
        for card in cards[::6]:
            began = now()
            with pytest.raises(cardprod.WaitTimeout) as caught:
                await client.wait_until_final(card.profile_id, card.card_token, timeout=20)
            assert now() - began <= 30.01
            assert caught.value.polls >= 2
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert_idle(client)


async def test_queued_poll_becomes_the_last(kiosk: Simulator) -> None:
    """A poll that still waits for its permit at the deadline becomes the last poll, which goes first."""
    limit = cardprod.RateLimit(per_second=5, per_minute=30)
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit, request_timeout=60) as client:
        cards = [kiosk.add((1, f"card-{number}"), [("READY", 290.0), ("PRODUCED", 0.0)]) for number in range(20)]
        outcome = await asyncio.gather(
            *(
                client.wait_until_final(card.profile_id, card.card_token, timeout=300 + number / 2)
                for number, card in enumerate(cards)
            ),
            return_exceptions=True,
        )
        assert [one for one in outcome if isinstance(one, BaseException)] == []


async def test_timeout_zero_polls_once(kiosk: Simulator, client: Client) -> None:
    """A wait with a timeout of 0 polls once: a final card is its result, any other `WaitTimeout`."""
    kiosk.add(CARD, "never")
    with pytest.raises(cardprod.WaitTimeout) as caught:
        await wait(client, timeout=0)
    assert caught.value.polls == len(kiosk.requests) == 1
    kiosk.add(CARD, [Stage("PRODUCED")])
    assert (await wait(client, timeout=0)).status is Status.PRODUCED


async def test_infinite_timeout_is_none(kiosk: Simulator, client: Client) -> None:
    """An infinite timeout is none, for one card and for many."""
    kiosk.add(CARD, [("READY", 86400.0), Stage("PRODUCED")])
    hourly = Backoff(ceiling=3600)
    assert (await wait(client, timeout=math.inf, schedule=hourly)).is_produced
    batch = client.wait_until_all_final([CARD], timeout=math.inf, batch_timeout=math.inf)
    assert [status.status for status in (await batch).values()] == ["PRODUCED"]  # type: ignore[union-attr]


def is_coroutine_function(function: Any) -> bool:
    """Check as Starlette does, by the Python it runs on."""
    asks = import_module("inspect" if sys.version_info >= (3, 13) else "asyncio")
    return bool(asks.iscoroutinefunction(function))


async def test_every_way_to_use_it(kiosk: Simulator, client: Client) -> None:
    """A wait or batch works with `aclosing`, `TaskGroup.create_task`, and what asks for a coroutine function first."""
    kiosk.add(CARD, [("READY", 5), Stage("PRODUCED")])
    assert is_coroutine_function(client.wait_until_final)
    async with aclosing(wait(client)) as steps:
        async for step in steps:
            assert step.current.status == "READY"
            break
    async with asyncio.TaskGroup() as group:
        batch = group.create_task(client.wait_until_all_final([CARD]))
        statuses = group.create_task(client.get_statuses([CARD]))
    assert batch.result().keys() == statuses.result().keys() == {CARD}
    assert_idle(client)


async def test_copied(client: Client) -> None:
    """A client and its waits are not copied, as a coroutine is not: the error says what to do, and nothing warns."""
    waits = (wait(client), client.get_statuses([CARD]), client.wait_until_all_final([CARD]))
    with Table() as table:
        for one, do in product((client, *waits), (copy.copy, copy.deepcopy, pickle.dumps)):
            with table.row(type(one).__name__, do.__name__), pytest.raises(TypeError, match=r"cop.*: "):
                do(one)
    for one in waits:
        one.close()


async def test_from_another_thread(kiosk: Simulator, client: Client) -> None:
    """What would wake nothing from another thread is a usage error there, which says what to call instead."""
    kiosk.add(CARD, "never")
    single = wait(client, timeout=25)
    waiting = asyncio.create_task(single)
    await asyncio.sleep(1)
    async with client.wait_until_all_final(None) as steps:
        calls: list[Callable[[], object]] = [
            partial(client.notify, event_of(CARD, "PRODUCED")),
            partial(client.pause, 5),
            partial(setattr, client, "rate_limit", None),
            client.resume_requests,
            single.close,
            steps.no_more,
            steps.close,
        ]
        with Table() as table:
            for call in calls:
                with table.row(call), pytest.raises(UsageError, match="call_soon_threadsafe"):
                    await asyncio.to_thread(call)
    with pytest.raises(UsageError, match="run_coroutine_threadsafe"):
        await asyncio.to_thread(asyncio.run, client.close())
    with pytest.raises(cardprod.WaitTimeout):  # nothing of it was done
        await waiting
    assert now() >= 25


async def test_clock_starts_with_the_first_step(kiosk: Simulator, client: Client) -> None:
    """A wait's time begins when it is awaited, not when it is made."""
    kiosk.add(CARD, "never")
    waiting = wait(client, timeout=25)
    await asyncio.sleep(1000)
    with pytest.raises(cardprod.WaitTimeout) as caught:
        await waiting
    assert caught.value.elapsed == pytest.approx(25, abs=0.01)


# --- Failed polls ---


async def test_many_failures_end_it() -> None:
    """Failures up to the limit end a wait with the last of them, as it is."""
    failures = [
        (Fault.server_error(503), cardprod.ServerError),
        (Fault.too_many_requests(61), cardprod.RateLimited),
        (Fault.server_error(422), cardprod.ApiError),
        (Fault.bad_reply(), cardprod.BadReply),
        (Fault.garbage(), cardprod.TransportError),
        (Fault.stall(), cardprod.RequestTimeout),
    ]
    with Table() as table:
        for fault, failure in failures:
            with table.row(fault, failure.__name__):
                waiting = await _assert_wait_fails(fault, failure, requests=4, attempts=1)
                assert waiting.polls == 0


async def _assert_wait_fails(fault: Fault, failure: type[Exception], *, requests: int, attempts: int) -> Wait:
    """Wait while every answer has this fault; check how it ends, and after how many requests."""
    async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url, attempts=attempts) as client:
        kiosk.add(CARD, "never")
        kiosk.fail_next(fault, times=9)
        waiting = wait(client, max_failures=4)
        with pytest.raises(failure) as caught:
            await waiting
        assert type(caught.value) is failure
        assert_idle(client)
        if fault.kind != "stall":  # a stalled request is logged when it ends
            assert len(kiosk.requests) == requests
        return waiting


async def test_closed_client_ends_its_waits_during_a_poll() -> None:
    """A wait that is polling when its client is closed ends with `UsageError` at once."""
    async with RawServer(answer_nothing) as server:
        async with Client("token", base_url=server.base_url) as client:
            task = asyncio.create_task(wait(client))
            await asyncio.sleep(5)
        began = now()
        with pytest.raises(UsageError, match="closed"):
            await task
        assert now() - began < 0.1


async def test_iteration_of_a_closed_client_ends_once(kiosk: Simulator) -> None:
    """An iteration whose client was closed between two polls, or between two steps, raises that once, and then ends."""
    for is_polled_next in (True, False):
        kiosk.add(CARD, "never")
        async with Client(kiosk.token, base_url=kiosk.base_url) as client:
            steps = wait(client)
            await anext(steps)
            next_step = asyncio.create_task(anext(steps)) if is_polled_next else anext(steps)
            await asyncio.sleep(5)
        with pytest.raises(UsageError, match="closed"):
            await next_step
        with pytest.raises(StopAsyncIteration):
            await anext(steps)


def test_client_closed_after_the_loop_of_its_wait() -> None:
    """A client can be closed after the event loop in which a wait of it sleeps."""
    loop = asyncio.new_event_loop()

    async def begin() -> tuple[Client, asyncio.Task[Transition]]:
        async with Simulator() as kiosk:
            kiosk.add(CARD, "never")
            client = Client(kiosk.token, base_url=kiosk.base_url)
            steps = wait(client)
            await anext(steps)
            next_step = asyncio.create_task(anext(steps))
            await asyncio.sleep(0)
            return client, next_step

    client, next_step = loop.run_until_complete(begin())
    loop.close()
    asyncio.run(client.close())
    assert not next_step.done()


async def test_slow_consumer_gets_the_last_poll(kiosk: Simulator, client: Client) -> None:
    """A consumer that is busy past the deadline still gets the last poll, and with it the final status."""
    kiosk.add(CARD, [("READY", 15), ("PRODUCED", 0)])
    seen: list[str] = []
    async for step in wait(client, timeout=20):
        seen.append(str(step.current.status))
        await asyncio.sleep(100)
    assert seen == ["READY", "PRODUCED"]


async def test_closed_wait_stops_an_iteration(kiosk: Simulator, client: Client) -> None:
    """A wait that is closed while it is iterated gives no more steps and polls no more."""
    kiosk.add(CARD, "prints")
    waiting = wait(client)
    steps = aiter(waiting)
    await anext(steps)
    waiting.close()
    assert [step async for step in steps] == []
    assert len(kiosk.requests) == 1


async def test_iteration_closed_by_another_task(kiosk: Simulator, client: Client) -> None:
    """A wait that another task closes while it sleeps ends its iteration at once, and polls no more."""
    kiosk.add(CARD, "never")
    waiting = wait(client)
    reading = asyncio.create_task(iterate_it(waiting))
    await asyncio.sleep(5)
    waiting.close()
    await asyncio.wait_for(reading, 1)
    assert len(kiosk.requests) == 1
    assert_idle(client)


@pytest.mark.parametrize("is_polling", [False, True])
async def test_awaited_wait_closed_by_another_task(kiosk: Simulator, client: Client, *, is_polling: bool) -> None:
    """A wait that another task closes while it is awaited ends there with `UsageError`, at once."""
    kiosk.add(CARD, "never")
    if is_polling:
        kiosk.fail_next(Fault.stall())
    for start in (await_it, asyncio.create_task):
        waiting = wait(client)
        awaiting: asyncio.Future[Any] = asyncio.ensure_future(start(waiting))
        await asyncio.sleep(5)
        waiting.close()
        with pytest.raises(UsageError, match="this wait was closed while it was awaited"):
            await asyncio.wait_for(awaiting, 1)
        assert_idle(client)


@pytest.mark.parametrize("valid", [0, 1], ids=["after a poll", "after an event that came before it"])
async def test_failing_schedule_costs_no_transition(kiosk: Simulator, client: Client, valid: int) -> None:
    """A transition that a failing schedule has kept from its reader is in no checkpoint as known: it comes later."""
    delays = iter([EVERY_10.first] * valid)

    class Broken:
        def delay(self, unchanged: int, random: float) -> float:
            for delay in delays:
                return delay
            raise LookupError(unchanged, random)

    kiosk.add(CARD, [Stage("READY", 15), Stage("PRODUCED")])
    if valid:
        client.notify(event_of(CARD, "IN_PROGRESS", occurred_at=datetime.now(UTC)))
    waiting = wait(client, schedule=Broken())
    with pytest.raises(LookupError):
        await anext(waiting)
    async with client.resume(waiting.checkpoint(), schedule=EVERY_10) as steps:
        assert [str(step) async for _, step in steps] == ["READY", "READY -> PRODUCED at WIS00001"]
