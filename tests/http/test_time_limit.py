"""The time limit of the polls of a wait, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from cardprod._http.time_limit import CutOff
from tests.clock import now


async def test_each_is_ended_at_the_time() -> None:
    """Each of several that are limited to one time, with others between them that end before, is ended there."""
    cut_off, at = CutOff(), now() + 10
    for seconds in (2, 3, 60):
        cut_off.start(at)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            assert cut_off.stop()
        else:
            assert not cut_off.stop()
    assert now() == pytest.approx(at)
    assert not cut_off.is_called_off
    assert cut_off.task.cancelling() == 0
    cut_off.close()


async def test_nothing_is_ended_between_two() -> None:
    """What runs after one has ended is not ended, at the time or by calling off."""
    cut_off = CutOff()
    cut_off.start(now() + 10)
    await asyncio.sleep(1)
    cut_off.call_off()
    cut_off.stop()
    cut_off.call_off()
    await asyncio.sleep(60)
    cut_off.start(now() + 10)
    cut_off.close()
    await asyncio.sleep(60)
    assert cut_off.task.cancelling() == 0


async def test_called_off_at_once() -> None:
    """What is not needed any more is ended at once, which shows that it did not take too long."""
    cut_off, began = CutOff(), now()
    cut_off.start(None)
    asyncio.get_running_loop().call_later(3, cut_off.call_off)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(60)
    assert cut_off.stop()
    assert cut_off.is_called_off
    assert now() - began == pytest.approx(3)


async def test_cancellation_by_a_caller_counts() -> None:
    """A cancellation by a caller in the same moment is the caller's."""
    stopped: list[bool] = []

    async def limited() -> None:
        cut_off = CutOff()
        cut_off.start(now() + 10)
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(cut_off.stop())
            cut_off.close()

    task = asyncio.create_task(limited())
    asyncio.get_running_loop().call_at(now() + 10, task.cancel)
    await asyncio.wait([task])
    assert task.cancelled()
    assert stopped == [False]
