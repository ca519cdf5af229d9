"""How a client comes back after a 429: the pause, the probe and the rising rate, with numbers."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod._http.recovery import Recovery
from tests.table import Table

HALF = 1 / 3
"""Makes an own pause two thirds of its most."""


def recovery(ceiling: float = 1000.0) -> Recovery:
    return Recovery(ceiling, lambda: HALF)


def probed(at: float = 10.0, ceiling: float = 1000.0) -> Recovery:
    """Return a recovery whose probe was sent and answered at that time."""
    one = recovery(ceiling)
    one.refuse(at - 1, at - 2, None)
    assert one.record(at)
    one.end_probe(was_sent=True)
    return one


def risen_to_eight() -> tuple[Recovery, float, float]:
    """Return a recovery whose rate has risen to 8 or more, when the next request may be sent, and the rate."""
    one = probed()
    while one.rate < 8:
        one.record(one.ready_at)
    return one, one.ready_at, one.rate


def test_pause() -> None:
    """The pause is the `Retry-After`, two minutes at most, and half a second at most without one."""
    pauses = [(None, 1 / 3), (0.0, 1 / 3), (0.1, 0.1), (2.0, 2.0), (120.0, 120.0), (3600.0, 120.0)]
    with Table() as table:
        for retry_after, pause in pauses:
            with table.row(retry_after):
                one = recovery()
                one.refuse(100.0, 99.0, retry_after)
                assert one.paused_until == one.ready_at == pytest.approx(100.0 + pause)


@given(st.lists(st.floats(0, 200), min_size=1))
def test_pause_never_ends_sooner(pauses: list[float]) -> None:
    """Of several pauses the one that ends last counts, in whatever order they come."""
    one = recovery()
    for ends_at in pauses:
        before = one.ready_at
        one.pause_until(ends_at)
        assert one.ready_at >= before
    assert one.ready_at == max(pauses)


def test_one_probe() -> None:
    """After the pause one request is sent, and no other until it has ended; if it was not sent, the next one is it."""
    one = recovery()
    one.pause_until(5.0)
    assert one.record(6.0)
    assert one.ready_at == math.inf
    one.end_probe(was_sent=False)
    assert one.ready_at == 5.0
    assert one.record(7.0)
    one.end_probe(was_sent=True)
    assert one.ready_at == 8.0
    assert not one.record(8.0)


def test_refused_probes() -> None:
    """Each probe that is refused without a `Retry-After` doubles the pause, up to a minute, until one is answered."""
    one, now = recovery(), 0.0
    pauses: list[float] = []
    one.refuse(now, now, None)
    for _ in range(9):
        pauses.append(one.ready_at - now)
        now = one.ready_at
        one.record(now)
        now += 0.1
        one.refuse(now, now - 0.1, None)
        one.end_probe(was_sent=True)  # as its permit is released
    assert pauses == pytest.approx([1 / 3, 2 / 3, 4 / 3, 8 / 3, 16 / 3, 32 / 3, 64 / 3, 40, 40])
    one.record(one.ready_at)
    one.refuse(now + 50, now + 49, 2.0)
    assert one.ready_at == now + 52
    one.record(one.ready_at)
    one.end_probe(was_sent=True)
    one.refuse(now + 100, now + 99, None)
    assert one.ready_at == pytest.approx(now + 100 + 1 / 3)


def test_a_probe_that_was_not_sent() -> None:
    """A probe that was not sent shortens no later pause."""
    one = recovery()
    for number in range(3):
        one.record(100.0 * number)
        one.refuse(100.0 * number, 100.0 * number - 1, None)
    one.record(300.0)
    one.end_probe(was_sent=False)
    one.record(300.0)
    one.refuse(300.0, 299.0, None)
    assert one.ready_at == pytest.approx(300 + 16 / 3)


def test_rate_doubles_each_second() -> None:
    """Before any rate was refused, it doubles each second until it reaches the ceiling, and the recovery is over."""
    one = probed(10.0, ceiling=100.0)
    assert recovery().rate == one.rate == 1
    sent: list[float] = []
    while not one.is_over:
        sent.append(one.ready_at - 10.0)
        one.record(one.ready_at)
    assert [sum(second <= at < second + 1 for at in sent) for second in range(5)] == [0, 3, 5, 12, 22]
    assert 6 < sent[-1] < 7.5


def test_over_at_the_ceiling() -> None:
    """A recovery is over once the probe was answered and the rate has reached the ceiling, and not before."""
    assert not recovery(ceiling=1.0).is_over
    assert probed(ceiling=1.0).is_over
    assert not probed(ceiling=1.001).is_over


def test_rate_after_a_refused_one() -> None:
    """After a refused rate R it is 0.7 R, R after ten seconds under load, and 9 R after forty."""
    one, now, refused = risen_to_eight()
    one.refuse(now, now - 0.01, 2.0)
    assert one.ready_at == now + 2
    one.record(now + 2)
    one.end_probe(was_sent=True)
    assert one.rate == pytest.approx(0.7 * refused)
    rates = {0: 0.7, 10: 1.0, 20: 1.3, 40: 9.1}
    seen: dict[int, float] = {}
    began_at = now + 2
    while one.ready_at < began_at + 41:
        one.record(one.ready_at)
        seen.setdefault(int(one.ready_at - began_at), one.rate / refused)
    assert {second: seen[second] for second in rates} == pytest.approx(rates, rel=0.1)


def test_slowest_rate() -> None:
    """However often it is refused, one request a minute is tried."""
    one, now = probed(), 100.0
    for _ in range(30):
        one.refuse(now, now - 0.1, 1.0)
        one.record(now + 1)
        one.end_probe(was_sent=True)
        now += 200
    assert one.rate == pytest.approx(1 / 60)


def test_requests_of_one_burst_count_once() -> None:
    """Of the requests under way at a 429, the others pause longer at most, and do not lower the rate again."""
    one, now, refused = risen_to_eight()
    for number in range(20):
        one.refuse(now + number / 100, now - 0.2 + number / 100, 2.0)
    assert one.ready_at == pytest.approx(now + 0.19 + 2)
    one.record(now + 3)
    one.end_probe(was_sent=True)
    assert one.rate == pytest.approx(0.7 * refused)


@pytest.mark.parametrize("is_answered", [True, False])
def test_late_refusal_of_an_earlier_request(*, is_answered: bool) -> None:
    """A request that was sent before the first 429, or with it, pauses when it is refused, and counts for no more."""
    one, now, refused = risen_to_eight()
    one.refuse(now, now - 0.01, 1.0)
    one.record(now + 1)  # the probe
    if is_answered:
        one.end_probe(was_sent=True)
    one.refuse(now + 1.5, now, None)
    assert one.ready_at == pytest.approx(now + 1.5 + 1 / 3)
    one.record(now + 3)
    one.end_probe(was_sent=True)
    assert one.rate == pytest.approx(0.7 * refused)


def test_idle_time_proves_nothing() -> None:
    """While nothing is sent, the rate rises no longer than for two intervals between requests."""
    one = probed(10.0)
    one.record(11.0)
    assert one.rate == 2
    one.record(5000.0)
    assert one.rate == 4


@attrs.define
class TokenBucket:
    """A server that refuses what exceeds so many requests a second, with a burst."""

    per_second: float
    burst: float
    tokens: float = attrs.field(init=False)
    at: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.tokens = self.burst

    def takes(self, now: float) -> bool:
        """Whether a request at this time is answered."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.per_second)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def serve(bucket: TokenBucket, *, retry_after: float | None, latency: float, seconds: float) -> tuple[int, int]:
    """Send as very many tasks that always have more; return how many requests were answered, and how many refused."""
    one, now = recovery(100.0), 0.0
    answered = refused = 0
    under_way: deque[tuple[float, float, bool, bool]] = deque()  # when it ends, when sent, whether probe, whether taken
    one.pause_until(0.0)
    while now < seconds:
        ends_at = under_way[0][0] if under_way else math.inf
        if one.ready_at < ends_at:
            now = max(now, one.ready_at)
            is_probe = one.record(now)
            under_way.append((now + latency, now, is_probe, bucket.takes(now)))
            continue
        now, sent_at, is_probe, is_taken = under_way.popleft()
        answered, refused = answered + is_taken, refused + (not is_taken)
        if not is_taken:
            one.refuse(now, sent_at, retry_after)
        if is_probe:
            one.end_probe(was_sent=True)
    return answered, refused


@pytest.mark.parametrize("retry_after", [None, 1.0, 2.0])
@pytest.mark.parametrize("burst", [1.0, 5.0])
@pytest.mark.parametrize("latency", [0.001, 0.2])
def test_server_with_a_lower_limit(retry_after: float | None, burst: float, latency: float, *, full_size: bool) -> None:
    """Of what a server allows, a client with a higher limit gets 0.7 or more; it is refused every 6 seconds at most."""
    with Table() as table:
        for per_second in (0.5, 2.0, 5.0, 20.0, 60.0) if full_size else (0.5, 5.0, 20.0):
            with table.row(per_second):
                bucket = TokenBucket(per_second, burst)
                answered, refused = serve(bucket, retry_after=retry_after, latency=latency, seconds=300.0)
                assert answered >= 0.7 * 300 * per_second
                assert refused <= 300 / 6 * (1 + latency * per_second) + 5


@given(
    st.lists(st.tuples(st.sampled_from(["send", "refuse", "pause", "end", "give back"]), st.floats(0, 30)), max_size=60)
)
def test_whatever_comes(steps: list[tuple[str, float]]) -> None:
    """Whatever comes, nothing is sent within a pause, beside a probe, or closer together than the rate allows."""
    one, now, probes = recovery(), 0.0, 0
    one.pause_until(1.0)
    sent: list[float] = []
    for what, seconds in steps:
        now += seconds
        if what == "send" and one.ready_at < math.inf:
            now = max(now, one.ready_at)
            assert now >= one.paused_until
            assert not probes
            sent.append(now)
            probes = int(one.record(now))
        elif what == "refuse" and sent:
            one.refuse(now, sent[-1], seconds)
            assert one.ready_at >= now
        elif what == "pause":
            one.pause_until(now + seconds)
        elif probes:
            one.end_probe(was_sent=what == "end")
            probes = 0
        if one.ready_at < math.inf and what in {"refuse", "pause"}:
            probes = 0
        assert one.rate > 0
    assert all(earlier <= later for earlier, later in pairwise(sent))
