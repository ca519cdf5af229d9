"""One look over the network: pace, send, decipher, try again.

How one request goes over aiohttp is `exchange`'s business, what an answer means `wire`'s, when the next look is due
`watch`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import uuid
from collections import deque
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

from cardprod.auth import OAuthToken, check_token
from cardprod.channel import Channel
from cardprod.errors import CardprodError, RateLimited, RequestTimeout, TransportError, Unauthorized, UsageError
from cardprod.exchange import check_verifies, decipher_without, forget, may_pass, seconds_to_retry
from cardprod.pacing import Pacer
from cardprod.telemetry import LOGGER, log_look, log_retry
from cardprod.wire import decipher, is_answer_to

if TYPE_CHECKING:
    import ssl as _ssl
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    import aiohttp
    from tenacity import RetryCallState

    from cardprod.auth import TokenSource
    from cardprod.models import Card, ProductionStatus
    from cardprod.pacing import RateLimit
    from cardprod.telemetry import Observer
    from cardprod.wire import Endpoint

__all__ = ["Flow", "Held", "Transport"]

_MAX_NODE: Final = 2**48 - 1

_CLOSED: Final = "this client is closed; make a new one, or look before leaving its `async with`"


class Held(Exception):
    """There is no turn before a time that an impatient flow does not wait for. Never leaves this package."""


class Transport:
    """Carries looks to the server, at most so many at once and so many per second, and brings their answers.

    Belongs to the event loop of its first look.

    Args:
        endpoint: Where to ask.
        token: The bearer token, or where it comes from.
        session: A session of the caller's, used as it is and never closed; None to make one at the first look.
        request_timeout: Seconds for one exchange, connecting, headers and body together.
        attempts: How often one look may be sent, the first time included.
        rate_limit: What the pacer holds; None for no limit.
        max_concurrency: The most exchanges under way at once.
        ssl: The TLS context; None for aiohttp's own, which verifies.
    """

    def __init__(  # noqa: PLR0913 - one for each thing a user may set
        self,
        endpoint: Endpoint,
        token: str | TokenSource,
        *,
        session: aiohttp.ClientSession | None,
        request_timeout: float,
        attempts: int,
        rate_limit: RateLimit | None,
        max_concurrency: int,
        ssl: _ssl.SSLContext | None,
    ) -> None:
        check_verifies(ssl, session)
        self._endpoint = endpoint
        self._source = token if callable(token) else None
        self._token = "" if callable(token) else check_token(token)
        self._borrowed = session
        self._channel: Channel | None = None
        self._request_timeout = request_timeout
        self._cutoff = _Cutoff(request_timeout)
        self._attempts = attempts
        self._turnstile = _Turnstile(Pacer(rate_limit), max_concurrency)
        self._ssl: _ssl.SSLContext | bool = True if ssl is None else ssl
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Future[None] | None = None
        self._closed = False
        # A random UUID whose last 12 digits are counted on from where they are: fresh each time, and cheap.
        first_id = uuid.uuid4()
        self._correlation_prefix = str(first_id)[:24]
        self._correlation_counter = itertools.count(first_id.node)
        self.observer: Observer | None = None
        """Who is told of requests, looks and waits."""

    def look(self, card: Card) -> Coroutine[Any, Any, ProductionStatus]:
        """Ask once for a card's status, trying again after trouble that may pass.

        Args:
            card: Which card.

        Returns:
            What the answer says.

        Raises:
            UsageError: The transport is closed, or belongs to another event loop.
            TransportError: No answer came.
            ApiError: An error came.
            BadReply: What came is not the documented shape.
        """
        if self.observer is None and not LOGGER.isEnabledFor(logging.DEBUG):
            return self._look(card)
        return self._look_observed(card)

    async def take_turn(self, flow: Flow) -> float:
        """Wait for a turn to look, before it is decided at which card.

        What follows must be `look_in_turn` or `leave_turn`.

        Args:
            flow: Whose turn.

        Returns:
            The time it came.

        Raises:
            UsageError: The transport is closed, or belongs to another event loop.
            Held: The gate is closed, and the flow does not wait for it.
        """
        loop = asyncio.get_running_loop()
        if self._closed or self._loop is not loop:
            self.check_usable()
        now = loop.time()
        return now if self._turnstile.pass_at_once(now, flow) else await self._turnstile.queue(loop, flow)

    def close_gate(self, seconds: float) -> None:
        """Let no request out for so long."""
        self._turnstile.close_until(asyncio.get_running_loop().time() + seconds)

    @property
    def gate_closed_for(self) -> float:
        """Seconds for which no request may leave, because of a 429; 0 mostly."""
        return max(0.0, self._turnstile.pacer.gate_opens_at - asyncio.get_running_loop().time())

    def change_limit(self, rate_limit: RateLimit | None) -> None:
        """Hold another rate limit from now on."""
        self._turnstile.change_limit(rate_limit)

    def leave_turn(self, came_at: float) -> None:
        """Give back a turn that is not used."""
        self._turnstile.take_back(came_at)

    def look_in_turn(self, card: Card, flow: Flow) -> Coroutine[Any, Any, ProductionStatus]:
        """Ask once for a card's status, as `look` does, in a turn that was taken.

        Args:
            card: Which card.
            flow: Whose turn it is; further attempts take turns with the others of it.
        """
        if self.observer is None and not LOGGER.isEnabledFor(logging.DEBUG):
            return self._look(card, flow, has_turn=True)
        return self._look_observed(card, flow, has_turn=True)

    async def _look_observed(self, card: Card, flow: Flow | None = None, *, has_turn: bool = False) -> ProductionStatus:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        outcome: ProductionStatus | CardprodError | None = None
        try:
            outcome = await self._look(card, flow, has_turn=has_turn)
        except CardprodError as error:
            outcome = error
            raise
        else:
            return outcome
        finally:
            if outcome is not None:  # else cancelled
                log_look(card, loop.time() - began_at, outcome)
                if self.observer is not None:
                    self.observer.looked(card, loop.time() - began_at, outcome)
            del outcome  # if it is an error, its traceback holds this frame: part them

    async def _look(self, card: Card, flow: Flow | None = None, *, has_turn: bool = False) -> ProductionStatus:
        loop = asyncio.get_running_loop()
        try:
            # Every coroutine on the way costs, under way as well as made: mostly this one sends by itself.
            if self._source is None and self._loop is loop and not self._closed:
                now = loop.time()
                if has_turn or self._turnstile.pass_at_once(now, flow):
                    return await self._send(card, self._token, loop, now)
            return await self._exchange(card, flow, has_turn=has_turn)
        except CardprodError as error:
            error.card = card
            if self._attempts == 1 or not may_pass(error) or (flow is not None and not flow.waits_for(error)):
                raise
            failure = error
        try:
            return await self._retry(card, failure, flow)
        finally:
            del failure  # its traceback holds this frame: part them, so that nothing waits for the garbage collector

    async def close(self) -> None:
        """Refuse new looks, end those under way, and close the session if it is our own. Twice does no harm."""
        self._closed = True
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
        self._turnstile.close()
        self._cutoff.close()
        if self._channel is not None:
            await self._channel.close()
        if isinstance(self._source, OAuthToken):
            await self._source.close()

    def check_usable(self) -> None:
        """Make sure that a look could begin in the running loop.

        Raises:
            UsageError: The transport is closed, or belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise UsageError(_CLOSED)
        if self._loop is not loop:
            if self._loop is not None:
                raise UsageError("this client belongs to another event loop; make one in each loop that needs one")
            self._loop = loop
            self._closing = loop.create_future()

    async def _exchange(self, card: Card, flow: Flow | None, *, has_turn: bool = False) -> ProductionStatus:
        """Send one request when its turn comes, and once more if its token was refused and another has come."""
        loop = asyncio.get_running_loop()
        if (self._closed or self._loop is not loop) and not has_turn:
            self.check_usable()
        source = self._source
        if source is None:
            now = loop.time()
            if not has_turn and not self._turnstile.pass_at_once(now, flow):
                await self._turnstile.queue(loop, flow)
                now = loop.time()
            return await self._send(card, self._token, loop, now)
        if has_turn:
            token = await self._token_in_turn(source, loop)
        else:
            token = await self._pass_with_token(source, await self._token_from(source, loop), loop, flow)
        try:
            return await self._send(card, token, loop, loop.time())
        except Unauthorized as error:
            refusal = error
        try:
            invalidate = getattr(source, "invalidate", None)
            if callable(invalidate):
                invalidate(token)
            other = await self._token_from(source, loop)
            if other == token:
                raise refusal
            token = await self._pass_with_token(source, other, loop, flow)
            return await self._send(card, token, loop, loop.time())
        finally:
            del refusal  # its traceback holds this frame: part them

    async def _pass_with_token(
        self, source: TokenSource, token: str, loop: asyncio.AbstractEventLoop, flow: Flow | None
    ) -> str:
        """Wait for one's turn with a token in hand; one that had to queue asks again, for it may have changed since."""
        if self._turnstile.pass_at_once(loop.time(), flow):
            return token
        await self._turnstile.queue(loop, flow)
        return await self._token_in_turn(source, loop)

    async def _token_in_turn(self, source: TokenSource, loop: asyncio.AbstractEventLoop) -> str:
        """Ask the source for a token with a turn taken, which is given up if none comes."""
        try:
            return await self._token_from(source, loop)
        except BaseException:
            self._turnstile.leave()
            raise

    async def _send(self, card: Card, token: str, loop: asyncio.AbstractEventLoop, now: float) -> ProductionStatus:
        """Send one request and read its whole answer, both within one timeout that starts now. Its place is taken."""
        if self._closed:  # between its turn and this line
            self._turnstile.leave()
            raise UsageError(_CLOSED)
        observer = self.observer
        task = self._cutoff.start(loop, now)
        if observer is not None:
            observer.request_began()
        try:
            channel = self._channel
            if channel is None:
                channel = self._channel = Channel(self._endpoint.prefix, self._borrowed, self._ssl)
            correlation_id = f"{self._correlation_prefix}{next(self._correlation_counter) & _MAX_NODE:012x}"
            request = self._endpoint.build_request(card, token=token, correlation_id=correlation_id)
            http_status, headers, body = await channel.get(request)
            return _decipher(token, correlation_id, http_status, headers, body)
        except TransportError as error:
            forget((token,), error)
            raise
        except RateLimited as error:
            self._close_for(error, loop)  # before the place is given to the next: it is closed to that one already
            raise
        except asyncio.CancelledError as exc:
            if not self._cutoff.came(task):
                raise
            raise self._cut_off("no whole answer") from exc
        finally:
            self._cutoff.stop(task)
            self._turnstile.leave()
            if observer is not None:
                observer.request_ended()

    def _close_for(self, error: RateLimited, loop: asyncio.AbstractEventLoop) -> None:
        """Close the gate for as long as a 429 says."""
        if error.retry_after is not None:
            self._turnstile.close_until(loop.time() + error.retry_after)
        if self.observer is not None:
            self.observer.rate_limited()

    async def _token_from(self, source: TokenSource, loop: asyncio.AbstractEventLoop) -> str:
        """Ask the source for a token, for as long as a request may take."""
        task = self._cutoff.start(loop, loop.time())
        try:
            giving: object = source()
            if not isawaitable(giving):
                raise UsageError("the token source must be an async callable: what it gives is awaited")
            return check_token(await giving)
        except asyncio.CancelledError as exc:
            if not self._cutoff.came(task):
                raise
            raise self._cut_off("no token from its source") from exc
        finally:
            self._cutoff.stop(task)

    def _cut_off(self, what: str) -> CardprodError:
        """Make the error for what was cut off: by closing, or by its time."""
        return (
            UsageError(_CLOSED)
            if self._closed
            else RequestTimeout(f"{what} within {self._request_timeout:g} s: try again")
        )

    async def _retry(self, card: Card, failure: CardprodError, flow: Flow | None) -> ProductionStatus:
        """Go on after a failed first attempt. Only here is tenacity met, with a fresh object for each failing look."""
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt  # noqa: PLC0415

        first: CardprodError | None = failure

        async def attempt() -> ProductionStatus:
            nonlocal first
            if first is not None:
                failed, first = first, None
                raise failed
            return await self._exchange(card, flow)

        def before_sleep(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            log_retry(card, state.attempt_number, error, state.upcoming_sleep)
            if self.observer is not None:
                self.observer.retried(error)

        retrying = AsyncRetrying(
            sleep=self._sleep,
            stop=stop_after_attempt(self._attempts),
            wait=seconds_to_retry,
            retry=retry_if_exception(lambda error: may_pass(error) and (flow is None or flow.waits_for(error))),
            before_sleep=before_sleep,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except CardprodError as error:
            error.card = card
            raise
        finally:
            first = None
            del failure, retrying  # as in `look`

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not on after the client is closed: the attempt that follows finds that out."""
        if self._closing is not None:
            await asyncio.wait([self._closing], timeout=seconds)


def _decipher(
    token: str, correlation_id: str, http_status: int, headers: Mapping[str, str], body: bytes
) -> ProductionStatus:
    if not is_answer_to(headers, correlation_id):
        raise TransportError("the answer is to another request: try again (the correlation id is not ours)")
    return decipher_without((token,), decipher, http_status, headers, body)


class _Cutoff:
    """Cuts off exchanges that take longer than all of them may, with one timer for all.

    The one that started first is the first to be due, because each may take equally long. A timer for each would cost
    more than everything else this package adds to a look: 8 of 65 µs, as `asyncio.timeout` or aiohttp's own.
    Cutting off is cancelling, and is told from a caller's cancelling as `asyncio.timeout` tells it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # Whose exchange → when it is due, and how often the task was being cancelled before; in the order they started.
        self._under_way: dict[asyncio.Task[Any], tuple[float, int]] = {}
        self._cut_off: dict[asyncio.Task[Any], int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop, now: float) -> asyncio.Task[Any]:
        """Start the clock for what the current task does next, and say which task that is."""
        task = asyncio.current_task()
        if task is None:
            raise UsageError("a look must be awaited inside a task, as every coroutine under asyncio.run is")
        due_at = now + self._seconds
        self._under_way[task] = due_at, task.cancelling()
        if self._timer is None:
            self._timer = loop.call_at(due_at, self._cut_off_overdue)
        return task

    def came(self, task: asyncio.Task[Any]) -> bool:
        """Say, of a cancellation, whether it is the cut-off alone, and no caller is cancelling the task as well."""
        cancelling = self._cut_off.pop(task, None)
        return cancelling is not None and task.uncancel() <= cancelling

    def stop(self, task: asyncio.Task[Any]) -> None:
        """Stop the task's clock."""
        if self._under_way.pop(task, None) is None and self._cut_off.pop(task, None) is not None:
            task.uncancel()  # it was cut off and ended in another way at the same time

    def close(self) -> None:
        """Cut off everything that is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._under_way:
            self._cut_off_first()

    def _cut_off_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        while self._under_way:
            due_at, _ = next(iter(self._under_way.values()))
            if due_at > now:
                self._timer = loop.call_at(due_at, self._cut_off_overdue)
                return
            self._cut_off_first()

    def _cut_off_first(self) -> None:
        task, (_, cancelling) = next(iter(self._under_way.items()))
        del self._under_way[task]
        self._cut_off[task] = cancelling
        task.cancel()


class Flow:
    """The looks of one batch. They take turns with those of other batches, and with looks somebody awaits alone.

    Args:
        is_patient: Whether they wait when they are told to come back later: for a closed gate, or a `Retry-After`.
    """

    __slots__ = ("is_patient", "queue", "requests")

    def __init__(self, *, is_patient: bool = True) -> None:
        self.is_patient: bool = is_patient
        self.queue: deque[asyncio.Future[float]] = deque()
        """Who waits for a turn."""
        self.requests: int = 0
        """How many turns it had."""

    def waits_for(self, error: BaseException) -> bool:
        """Whether it waits as long as an error says before it tries again."""
        return self.is_patient or not getattr(error, "retry_after", None)


class _Turnstile:
    """Lets requests out as there are places and the pacer allows.

    Every other turn is for looks somebody awaits alone, first come first served, if there are any; the others go
    round the flows. Those of flows can wait, and are spread out as the pacer says, so that they never use up at once
    what a look that somebody awaits would need.

    Holds no task, and one timer at the most. Whoever passed must leave.
    """

    def __init__(self, pacer: Pacer, places: int) -> None:
        self.pacer = pacer
        """What it asks when the next may leave."""
        self._places = places
        self._queue: deque[asyncio.Future[float]] = deque()
        self._flows: deque[Flow] = deque()  # those in which somebody waits, the next one first
        self._is_flows_turn = False
        self._flow_left_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def pass_at_once(self, now: float, flow: Flow | None) -> bool:
        """Pass if there is nothing to wait for."""
        if not self._places or self._queue or self._flows:
            return False
        if flow is None:
            if self.pacer.ready_at() > now:
                return False
            self.pacer.depart(now)
            self._places -= 1
            return True
        if self._flows_ready_at(now) > now:
            return False
        self._let_one_of(flow, now)
        return True

    async def queue(self, loop: asyncio.AbstractEventLoop, flow: Flow | None) -> float:
        """Wait for one's turn, and pass. Cancelled, one's turn goes to the next.

        Returns:
            When it came.

        Raises:
            Held: The gate is closed, or was meanwhile, and the flow does not wait for it.
        """
        self._loop = loop
        if flow is not None and not flow.is_patient and self.pacer.gate_opens_at > loop.time():
            raise Held
        turn: asyncio.Future[float] = loop.create_future()
        if flow is None:
            self._queue.append(turn)
        else:
            if not flow.queue:
                self._flows.append(flow)
            flow.queue.append(turn)
        if self._timer is None or self._places:
            self._let_out()
        try:
            return await turn
        except BaseException:  # cancelled, or its coroutine closed
            if not turn.done():
                turn.cancel()
            elif not turn.cancelled() and turn.exception() is None:  # the turn had just come
                self.take_back(turn.result())
            self._let_out()
            raise

    def leave(self) -> None:
        """Give the place to the next."""
        self._places += 1
        if self._timer is None and (self._queue or self._flows):
            self._let_out()

    def take_back(self, came_at: float) -> None:
        """Let a turn that came and is not used be another's."""
        self.pacer.take_back(came_at)
        self.leave()

    def close_until(self, opens_at: float) -> None:
        """Let nobody out before then, and send those away who do not wait for it."""
        self.pacer.close_until(opens_at)
        for flow in self._flows:
            if not flow.is_patient:
                _send_away(flow.queue, Held)

    def change_limit(self, rate_limit: RateLimit | None) -> None:
        """Hold another rate limit from now on."""
        self.pacer.change(rate_limit)
        self._let_out()

    def close(self) -> None:
        """Send everybody away."""
        self._set_timer(None)
        for queue in (self._queue, *(flow.queue for flow in self._flows)):
            _send_away(queue, lambda: UsageError(_CLOSED))
            queue.clear()
        self._flows.clear()

    def _let_out(self) -> None:
        self._set_timer(None)
        if self._loop is None or self._loop.is_closed():
            return
        now = self._loop.time()
        while self._places:
            self._forget_cancelled()
            alone_at = self.pacer.ready_at() if self._queue else math.inf
            flows_at = self._flows_ready_at(now) if self._flows else math.inf
            if min(alone_at, flows_at) > now:
                if self._queue or self._flows:
                    self._set_timer(min(alone_at, flows_at))
                return
            if flows_at <= now and (self._is_flows_turn or alone_at > now):
                self._is_flows_turn = False
                flow = self._flows.popleft()
                turn = flow.queue.popleft()
                if flow.queue:
                    self._flows.append(flow)
                self._let_one_of(flow, now)
            else:
                self._is_flows_turn = True
                turn = self._queue.popleft()
                self.pacer.depart(now)
                self._places -= 1
            turn.set_result(now)

    def _let_one_of(self, flow: Flow, now: float) -> None:
        self.pacer.depart(now)
        self._places -= 1
        self._flow_left_at = now
        flow.requests += 1

    def _flows_ready_at(self, now: float) -> float:
        return max(self.pacer.ready_at(), self._flow_left_at + self.pacer.spread(now))

    def _forget_cancelled(self) -> None:
        while self._queue and self._queue[0].done():
            self._queue.popleft()
        while self._flows:
            queue = self._flows[0].queue
            while queue and queue[0].done():
                queue.popleft()
            if queue:
                return
            self._flows.popleft()

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None or self._loop is None else self._loop.call_at(at, self._let_out)


def _send_away(turns: Iterable[asyncio.Future[float]], why: Callable[[], Exception]) -> None:
    for turn in turns:
        if not turn.done():
            turn.set_exception(why())
