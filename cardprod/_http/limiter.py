"""`RequestLimiter`: a permit for each request, within the rate limit and the most requests at once.

Fair between polls that somebody awaits alone and batches: every other permit is for the former, first come first
served, if there are any; the others go round the batches. Requests of batches can wait, and are spread out as
`SlidingWindow.min_interval` says, so that they never use up at once what a single poll would need.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING

from cardprod._http.rate_limit import SlidingWindow
from cardprod.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cardprod._http.rate_limit import RateLimit

__all__ = ["CLOSED", "LimiterQueue", "Permit", "RequestLimiter", "WouldBlock"]

CLOSED = "this client is closed; make a new one, or use it before leaving its `async with`"


class WouldBlock(Exception):
    """Requests are paused, and this queue does not wait for the end of a pause. Never leaves this package."""


class Permit:
    """The right to send one request. Its owner releases it or gives it back; only the first call counts.

    Args:
        limiter: Where it comes from.
        acquired_at: When it was granted, on the loop's clock.
    """

    __slots__ = ("_limiter", "acquired_at")

    def __init__(self, limiter: RequestLimiter, acquired_at: float) -> None:
        self._limiter: RequestLimiter | None = limiter
        self.acquired_at: float = acquired_at

    def release(self) -> None:
        """Free the place for the next request: this one was sent, and is over."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter._release()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - a permit is part of its limiter

    def give_back(self) -> None:
        """Free the place and its share of the rate limit: no request was sent."""
        if self._limiter is not None:
            self._limiter.window.withdraw(self.acquired_at)
            self.release()


class LimiterQueue:
    """The requests of one batch, which take turns with those of other batches and with single polls.

    Args:
        waits_for_pauses: Whether they wait for the end of a pause, and as long as a `Retry-After` says.
    """

    __slots__ = ("requests", "waiting", "waits_for_pauses")

    def __init__(self, *, waits_for_pauses: bool = True) -> None:
        self.waits_for_pauses: bool = waits_for_pauses
        self.waiting: deque[asyncio.Future[Permit]] = deque()
        """Who waits for a permit."""
        self.requests: int = 0
        """How many permits it was granted."""

    def waits_for(self, error: BaseException) -> bool:
        """Whether its requests wait as long as an error says before they are tried again."""
        return self.waits_for_pauses or not getattr(error, "retry_after", None)


class RequestLimiter:
    """Grants permits as there are places and the rate limit allows. Holds no task, and one timer at most.

    Args:
        rate_limit: The most requests per second and per minute; None for no limit.
        places: The most requests at once.
    """

    def __init__(self, rate_limit: RateLimit | None, places: int) -> None:
        self.window: SlidingWindow = SlidingWindow(rate_limit)
        """When the next request may be sent."""
        self.places: int = places
        """The most requests at once."""
        self._in_use = 0
        self._single: deque[asyncio.Future[Permit]] = deque()
        self._queues: deque[LimiterQueue] = deque()  # those in which somebody waits, the next one first
        self._is_queues_turn = False
        self._queue_sent_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def in_use(self) -> int:
        """How many permits are held."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """How many requests wait for a permit."""
        queued = (self._single, *(queue.waiting for queue in self._queues))
        return sum(not request.done() for requests in queued for request in requests)

    def try_acquire(self, now: float, queue: LimiterQueue | None) -> Permit | None:
        """Grant a permit if there is nothing to wait for."""
        if self._in_use >= self.places or self._single or self._queues:
            return None
        ready_at = self.window.ready_at() if queue is None else self._queues_ready_at(now)
        return None if ready_at > now else self._grant(now, queue)

    async def acquire(self, queue: LimiterQueue | None = None) -> Permit:
        """Wait for a permit. Cancelled, the permit goes to the next.

        Args:
            queue: The batch it is for; None for a poll that somebody awaits alone.

        Raises:
            WouldBlock: Requests are paused, or were meanwhile, and the queue does not wait for that.
            UsageError: The client was closed meanwhile.
        """
        self._loop = loop = asyncio.get_running_loop()
        now = loop.time()
        if (permit := self.try_acquire(now, queue)) is not None:
            return permit
        if queue is not None and not queue.waits_for_pauses and self.window.paused_until > now:
            raise WouldBlock
        request: asyncio.Future[Permit] = loop.create_future()
        if queue is None:
            self._single.append(request)
        else:
            if not queue.waiting:
                self._queues.append(queue)
            queue.waiting.append(request)
        if self._timer is None or self._in_use < self.places:
            self._grant_next()
        try:
            return await request
        except BaseException:  # cancelled, or its coroutine closed
            if not request.done():
                request.cancel()
            elif not request.cancelled() and request.exception() is None:  # granted just now
                request.result().give_back()
            self._grant_next()
            raise

    def pause_until(self, at: float) -> None:
        """Grant nothing before a time, and send those away who do not wait for it."""
        self.window.pause_until(at)
        for queue in self._queues:
            if not queue.waits_for_pauses:
                _send_away(queue.waiting, WouldBlock)

    def change_limit(self, rate_limit: RateLimit | None) -> None:
        """Hold another rate limit."""
        self.window.change(rate_limit)
        self._grant_next()

    def close(self) -> None:
        """Send everybody away."""
        self._set_timer(None)
        for waiting in (self._single, *(queue.waiting for queue in self._queues)):
            _send_away(waiting, lambda: UsageError(CLOSED))
            waiting.clear()
        self._queues.clear()

    def _release(self) -> None:
        self._in_use -= 1
        if self._timer is None and (self._single or self._queues):
            self._grant_next()

    def _grant(self, now: float, queue: LimiterQueue | None) -> Permit:
        self.window.record(now)
        self._in_use += 1
        if queue is not None:
            self._queue_sent_at = now
            queue.requests += 1
        return Permit(self, now)

    def _grant_next(self) -> None:
        """Grant what can be granted now, and see that the rest is granted in time: called after every change."""
        self._set_timer(None)
        if self._loop is None or self._loop.is_closed():
            return
        now = self._loop.time()
        while self._in_use < self.places:
            self._drop_cancelled()
            single_at = self.window.ready_at() if self._single else math.inf
            queues_at = self._queues_ready_at(now) if self._queues else math.inf
            if min(single_at, queues_at) > now:
                if self._single or self._queues:
                    self._set_timer(min(single_at, queues_at))
                return
            if queues_at <= now and (self._is_queues_turn or single_at > now):
                self._is_queues_turn = False
                queue = self._queues.popleft()
                request = queue.waiting.popleft()
                if queue.waiting:
                    self._queues.append(queue)
                request.set_result(self._grant(now, queue))
            else:
                self._is_queues_turn = True
                self._single.popleft().set_result(self._grant(now, None))

    def _queues_ready_at(self, now: float) -> float:
        return max(self.window.ready_at(), self._queue_sent_at + self.window.min_interval(now))

    def _drop_cancelled(self) -> None:
        while self._single and self._single[0].done():
            self._single.popleft()
        while self._queues:
            waiting = self._queues[0].waiting
            while waiting and waiting[0].done():
                waiting.popleft()
            if waiting:
                return
            self._queues.popleft()

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None or self._loop is None else self._loop.call_at(at, self._grant_next)


def _send_away(requests: Iterable[asyncio.Future[Permit]], why: Callable[[], Exception]) -> None:
    for request in requests:
        if not request.done():
            request.set_exception(why())
