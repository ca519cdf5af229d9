"""`RequestLimiter`: a permit for each request, within the rate limit and the limit of concurrent requests.

It is fair between single polls and batches: permits go alternately to a single poll, in the order they came, and to a
batch, round robin. Requests of batches are spaced by `SlidingWindow.min_interval`, so that they do not use up at once
what a single poll would need. After a 429 `Recovery` says when the next permit is granted, until it is over.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from cardprod._http.rate_limit import SlidingWindow
from cardprod._http.recovery import Recovery
from cardprod.errors import RateLimited, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cardprod._http.rate_limit import RateLimit

_UNLIMITED: Final = 1000.0
"""Requests per second at which a client without a rate limit has recovered from a 429."""

_LATE: Final = 0.01
"""Seconds after its grant for which a permit counts from then."""

_TICK: Final = 0.001
"""Seconds: a pause that ends so soon is waited for by all; other clocks may differ so much from rounding."""

CLOSED = "this client is closed; make a new one, or use it before leaving its `async with`"


class WouldBlock(Exception):
    """Requests are paused, and this queue does not wait for pauses. Never raised to users."""


class Permit:
    """The permission to send one request. Its owner releases it or gives it back; only the first call counts."""

    __slots__ = ("_limiter", "acquired_at", "queue")

    def __init__(self, limiter: RequestLimiter, acquired_at: float, queue: LimiterQueue | None) -> None:
        self._limiter: RequestLimiter | None = limiter
        self.acquired_at: float = acquired_at
        """When it was granted, or renewed, on the loop's clock."""
        self.queue: LimiterQueue | None = queue
        """The batch that it is for; None for a single poll."""

    def release(self, *, was_sent: bool = True) -> None:
        """End the request and free its place."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter._end(self, was_sent)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - a permit is part of it

    def give_back(self) -> None:
        """Free the place, and the share of the rate limit, of a request that was not sent."""
        self.release(was_sent=False)


class LimiterQueue:
    """The requests of one batch, which the limiter alternates with other batches and single polls.

    Args:
        waits_for_pauses: Whether they wait until a pause after a 429 ends, and for a `Retry-After`.
    """

    __slots__ = ("requests", "waiting", "waits_for_pauses")

    def __init__(self, *, waits_for_pauses: bool = True) -> None:
        self.waits_for_pauses: bool = waits_for_pauses
        self.waiting: list[tuple[float, int, asyncio.Future[Permit]]] = []
        """Requests that wait for a permit: a heap by when they are urgent, and in their order."""
        self.requests: int = 0
        """Permits granted so far, but for those that were given back."""

    def waits_for(self, error: BaseException) -> bool:
        """Whether its requests are retried after an error: if it asks to wait, only a queue that waits for pauses."""
        asks_to_wait = isinstance(error, RateLimited) or getattr(error, "retry_after", None)
        return self.waits_for_pauses or not asks_to_wait


class RequestLimiter:
    """Grants permits within the rate limit and the limit of concurrent requests. Has no task, and at most one timer."""

    def __init__(self, rate_limit: RateLimit | None, places: float) -> None:
        self.window: SlidingWindow = SlidingWindow(rate_limit)
        """When the next request may be sent."""
        self._recovery = Recovery(_ceiling_of(rate_limit))  # a new one when one is over
        self._probe: Permit | None = None  # of the last request that was sent after a pause, alone
        self.places: float = places
        """The most requests at once."""
        self.in_use: int = 0
        """Permits granted and not released yet."""
        self._single: deque[asyncio.Future[Permit]] = deque()
        self._queues: deque[LimiterQueue] = deque()  # those with waiting requests, the next one first
        self._is_queue_next = False
        self._queue_sent_at = -math.inf
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait for a permit."""
        return sum(not request.done() for request in self._requests())

    @property
    def paused_until(self) -> float:
        """When the current pause ends, or the last one ended."""
        return self._recovery.paused_until

    def try_acquire(self, now: float, queue: LimiterQueue | None) -> Permit | None:
        """Return a permit if one can be granted now and no request is waiting; else None."""
        if self.in_use >= self.places or self._single or self._queues:
            return None
        ready_at = self.window.ready_at() if queue is None else self._queues_ready_at(now)
        return None if ready_at > now else self._grant(now, queue)

    async def acquire(
        self, queue: LimiterQueue | None = None, urgent_at: float = -math.inf, *, was_refused: bool = False
    ) -> Permit:
        """Queue for a permit, as where `try_acquire` gave none. If the wait is cancelled, it goes to the next request.

        Args:
            queue: The batch it is for; None for a single poll.
            urgent_at: When it is urgent: the queue's request with the earliest time is its next.
            was_refused: Whether the request got a 429 before; it goes before those that did not.

        Raises:
            WouldBlock: Requests are paused, or were during the wait, and the queue does not wait for pauses.
            UsageError: The client was closed during the wait.
        """
        self._loop = loop = asyncio.get_running_loop()
        if queue is not None and not queue.waits_for_pauses and self.paused_until > loop.time() + _TICK:
            raise WouldBlock
        request: asyncio.Future[Permit] = loop.create_future()
        if queue is not None:
            if not queue.waiting:
                self._queues.append(queue)
            self._number += 1
            place = (-math.inf, -self._number) if was_refused else (urgent_at, self._number)
            heappush(queue.waiting, (*place, request))
        elif was_refused:
            self._single.appendleft(request)
        else:
            self._single.append(request)
        if self.in_use < self.places:
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

    def renew(self, permit: Permit, now: float) -> bool:
        """Record a permit that was granted a while ago as of now, because its request is sent only now.

        Requests that waited together, for a token or while the event loop stood still, would else be sent beside those
        that the limit allows now.

        Returns:
            Whether it may be sent now; else, as the limit is used up or a pause has begun, it is to be given back.
        """
        if now <= permit.acquired_at + _LATE:
            return True
        if self.paused_until > now or not self.window.move(permit.acquired_at, now):
            return False
        permit.acquired_at = now
        return True

    def pause_until(self, at: float) -> None:
        """Grant nothing before a time, and then one permit, as after a 429."""
        self._recovery.pause_until(at)
        self._end_requests_that_do_not_wait()

    def refuse(self, permit: Permit, now: float, retry_after: float | None) -> None:
        """Grant nothing for a while, because the request of a permit got a 429, perhaps with a `Retry-After`."""
        self._recovery.refuse(now, permit.acquired_at, retry_after)
        self._end_requests_that_do_not_wait()

    def resume(self) -> None:
        """End a pause, and what follows it, now."""
        self._recovery = Recovery(self._recovery.ceiling)
        self._follow_recovery()
        self._grant_next()

    def change_limit(self, rate_limit: RateLimit | None) -> None:
        """Use another rate limit from now on."""
        self.window.change(rate_limit)
        self._recovery.ceiling = _ceiling_of(rate_limit)
        self._grant_next()

    def close(self) -> None:
        """End all waiting requests with `UsageError`."""
        self._set_timer(None)
        _fail_requests(self._requests(), lambda: UsageError(CLOSED))
        self._single.clear()
        for queue in self._queues:
            queue.waiting.clear()
        self._queues.clear()

    def has_spare(self, now: float) -> bool:
        """Whether requests are left over: none waits for a permit, and half of every window is free."""
        is_free = self.in_use < self.places and not (self._single or self._queues)
        return is_free and self.window.ready_at() <= now and self.window.min_interval(now) == 0

    def _requests(self) -> Iterator[asyncio.Future[Permit]]:
        yield from self._single
        for queue in self._queues:
            yield from (request for *_, request in queue.waiting)

    def _end(self, permit: Permit, was_sent: bool) -> None:
        if permit is self._probe:
            self._recovery.end_probe(was_sent=was_sent)
            self._follow_recovery()
        if not was_sent:
            if permit.queue is not None:
                permit.queue.requests -= 1
            self.window.withdraw(permit.acquired_at)
            self._set_timer(None)  # it is too late now
        self.in_use -= 1
        if self._timer is None and (self._single or self._queues):
            self._grant_next()

    def _grant(self, now: float, queue: LimiterQueue | None) -> Permit:
        self.window.record(now)
        self.in_use += 1
        if queue is not None:
            self._queue_sent_at = now
            queue.requests += 1
        permit = Permit(self, now, queue)
        if self._recovery.is_under_way:
            if self._recovery.record(now):
                self._probe = permit
            self._follow_recovery()
        return permit

    def _end_requests_that_do_not_wait(self) -> None:
        self._follow_recovery()
        for queue in self._queues:
            if not queue.waits_for_pauses:
                _fail_requests((request for *_, request in queue.waiting), WouldBlock)

    def _follow_recovery(self) -> None:
        if self._recovery.is_over:
            self._recovery = Recovery(self._recovery.ceiling)
        self.window.held_until = self._recovery.ready_at

    def _grant_next(self) -> None:
        """Grant the permits that can be granted now, and set the timer for the next one. Called after every change."""
        self._set_timer(None)
        if self._loop is None or self._loop.is_closed():
            return
        now = self._loop.time()
        while self.in_use < self.places:
            self._drop_cancelled()
            single_at = self.window.ready_at() if self._single else math.inf
            queues_at = self._queues_ready_at(now) if self._queues else math.inf
            if min(single_at, queues_at) > now:
                if min(single_at, queues_at) < math.inf:  # else none is waiting, or all for the end of the probe
                    self._set_timer(min(single_at, queues_at))
                return
            if queues_at <= now and (self._is_queue_next or single_at > now):
                self._is_queue_next = False
                queue = self._queues.popleft()
                *_, request = heappop(queue.waiting)
                if queue.waiting:
                    self._queues.append(queue)
                request.set_result(self._grant(now, queue))
            else:
                self._is_queue_next = True
                self._single.popleft().set_result(self._grant(now, None))

    def _queues_ready_at(self, now: float) -> float:
        ready_at, spaced_at = self.window.ready_at(), self._queue_sent_at + self.window.min_interval(now)
        return ready_at if ready_at > spaced_at else spaced_at

    def _drop_cancelled(self) -> None:
        while self._single and self._single[0].done():
            self._single.popleft()
        while self._queues:
            waiting = self._queues[0].waiting
            while waiting and waiting[0][-1].done():
                heappop(waiting)
            if waiting:
                return
            self._queues.popleft()

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None or self._loop is None else self._loop.call_at(at, self._grant_next)


def _ceiling_of(rate_limit: RateLimit | None) -> float:
    return _UNLIMITED if rate_limit is None else rate_limit.per_second


def _fail_requests(requests: Iterable[asyncio.Future[Permit]], make_error: Callable[[], Exception]) -> None:
    for request in requests:
        if not request.done():
            request.set_exception(make_error())
