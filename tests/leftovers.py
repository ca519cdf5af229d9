"""Checks that nothing was left behind: no task, no request, no connection."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import cardprod


async def assert_nothing_left(*, but: int = 0) -> None:
    """Check that no task is left in the running loop but the caller's, and `but` more that the test knows of."""
    for _ in range(10):  # closed connections take a few iterations of the loop to go
        await asyncio.sleep(0)
    gc.collect()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert len(others) <= but, others


def assert_idle(client: cardprod.Client) -> None:
    """Check that nothing of the client's is under way: no request, no permit held or waited for, no connection."""
    # No public name shows these.
    transport: Any = client._transport  # pyright: ignore[reportPrivateUsage]
    assert transport._time_limit.running == 0
    assert transport.limiter.in_use == 0
    assert transport.limiter.waiting == 0
    session = transport._channel.session
    if session is not None and session.connector is not None:
        assert not session.connector._acquired
