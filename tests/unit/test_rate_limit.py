"""The rate limit, and that no window of either length ever holds more than it allows."""

from __future__ import annotations

import math
import tracemalloc
from bisect import bisect_right
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod._http.rate_limit import RateLimit, SlidingWindow
from cardprod.errors import UsageError
from tests.table import Table


def leave(window: SlidingWindow, asked_at: float) -> float:
    """Leave as a request does: at once, or when the window allows it."""
    now = max(asked_at, window.ready_at())
    window.record(now)
    return now


def most_in_a_window(departures: list[float], length: float) -> int:
    """Count the most departures in any closed window of this length; the fullest one begins with a departure."""
    return max((bisect_right(departures, at + length) - first for first, at in enumerate(departures)), default=0)


# --- RateLimit ---


def test_default_is_what_wise_allows() -> None:
    """The default limit is Wise's, and cannot be changed afterwards."""
    assert RateLimit() == RateLimit(per_second=100, per_minute=1000)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(RateLimit(), "per_second", 10**6)  # noqa: B010 - assigned, a type checker would refuse it first


def test_refuses_other_numbers() -> None:
    """What is not an int of 1 or more is refused, and the message names the argument."""
    refused: list[Any] = [0, -1, 1.5, 100.0, True, "100", None, float("inf")]
    with Table() as table:
        for name in ("per_second", "per_minute"):
            for value in refused:
                with (
                    table.row(name, value),
                    pytest.raises(UsageError, match=f"^RateLimit: {name} must be an int of 1 or more, not "),
                ):
                    RateLimit(**{name: value})
        for value in refused:
            with (
                table.row("share", value),
                pytest.raises(UsageError, match=r"^RateLimit\.share: workers must be an int of 1 or more, not"),
            ):
                RateLimit().share(value)
    assert RateLimit(per_second=1, per_minute=1).share(1) == RateLimit(per_second=1, per_minute=1)


def test_share() -> None:
    """Each worker gets its part, rounded down; four cannot share three requests."""
    shares = {1: (100, 1000), 3: (33, 333), 4: (25, 250), 100: (1, 10)}
    for workers, (per_second, per_minute) in shares.items():
        assert RateLimit().share(workers) == RateLimit(per_second, per_minute)
    for limit in (RateLimit(per_second=3), RateLimit(per_minute=3)):
        with pytest.raises(UsageError, match=r"workers must be at most 3 for .*, not 4"):
            limit.share(4)


# --- SlidingWindow ---


def test_full_windows() -> None:
    """The next request leaves a millisecond after the first in a full second or minute is that old, and not sooner."""
    window = SlidingWindow(RateLimit(per_second=3, per_minute=4))
    departures = [leave(window, at) for at in (50.0, 50.25, 50.5, 50.5, 50.5, 50.5)]
    assert departures == pytest.approx([50.0, 50.25, 50.5, 51.001, 110.001, 110.251], abs=1e-9)


def test_another_limit() -> None:
    """What has left already counts under another limit, as far as the longest memory goes; with none, all may leave."""
    window = SlidingWindow(RateLimit(per_second=2, per_minute=100))
    for at in (0.0, 2.0, 4.0, 6.0):
        window.record(at)
    window.change(RateLimit(per_second=10, per_minute=4))
    assert window.ready_at() == pytest.approx(60.001)
    window.change(RateLimit(per_second=1, per_minute=100))
    assert window.ready_at() == pytest.approx(7.001)
    window.change(None)
    assert window.ready_at() == float("-inf")
    window.change(RateLimit(per_second=1, per_minute=1))
    assert leave(window, 8.0) == 8.0


def test_withdrawn_once() -> None:
    """Withdrawing one of two that left at the same moment frees its place, and no other; one that never left, none."""
    window = SlidingWindow(RateLimit(per_second=2, per_minute=100))
    window.record(5.0)
    window.record(5.0)
    window.withdraw(4.0)
    assert window.ready_at() > 6.0
    window.withdraw(5.0)
    assert leave(window, 5.0) == 5.0
    assert window.ready_at() > 6.0


def test_late_request() -> None:
    """A request that is sent later than it was recorded counts from then, if the limit allows it; else as before."""
    window = SlidingWindow(RateLimit(per_second=2, per_minute=100))
    for at in (1.0, 2.5, 2.75):
        window.record(at)
    assert not window.move(1.0, 3.25)
    assert window.sent_since(1.0) == 3
    assert window.move(1.0, window.ready_at())
    assert (window.sent_since(1.25), window.sent_since(3.0)) == (3, 1)


def test_hold() -> None:
    """While requests are held, none is sent, with a limit or without, and the window is no looser after it."""
    for limit in (None, RateLimit()):
        window = SlidingWindow(limit)
        window.held_until = 30.0
        assert [leave(window, at) for at in (10.0, 10.0, 40.0)] == [30.0, 30.0, 40.0]
    window = SlidingWindow(RateLimit(per_second=1, per_minute=100))
    window.record(5.0)
    ready_at = window.ready_at()
    window.held_until = 5.5
    assert window.ready_at() == ready_at


GAPS = st.one_of(
    st.just(0.0), st.just(0.0), st.floats(0, 0.3), st.floats(0, 3), st.sampled_from([1.0, 20.0, 59.0, 60.0])
)
LIMITS = st.builds(RateLimit, per_second=st.integers(1, 6), per_minute=st.integers(1, 25))


@given(
    limit=LIMITS,
    started_at=st.one_of(st.just(0.0), st.floats(0, 1e6)),
    requests=st.lists(st.tuples(GAPS, st.sampled_from(["sent", "sent late", "withdrawn"])), max_size=80),
    pauses=st.dictionaries(st.integers(0, 79), st.floats(0, 90), max_size=3),
)
def test_no_window_is_too_full(
    limit: RateLimit, started_at: float, requests: list[tuple[float, str]], pauses: dict[int, float]
) -> None:
    """However requests arrive, and some are withdrawn or late, no second and no minute holds more than the limit."""
    window = SlidingWindow(limit)
    asked_at, now = started_at, started_at
    departures: list[float] = []
    for number, (gap, end) in enumerate(requests):
        asked_at += gap
        if number in pauses:
            window.held_until = max(window.held_until, now + pauses[number])
        now = leave(window, max(asked_at, now))
        if end == "sent late" and window.move(now, now + gap):
            now += gap
        if end == "withdrawn":
            window.withdraw(now)
        else:
            departures.append(now)
    assert departures == sorted(departures)
    assert most_in_a_window(departures, 1.0) <= limit.per_second
    assert most_in_a_window(departures, 60.0) <= limit.per_minute


@given(st.lists(st.tuples(GAPS, LIMITS, st.integers(0, 30)), max_size=30))
def test_changes_forget_nothing(events: list[tuple[float, RateLimit, int]]) -> None:
    """However the limit changes, the second and the minute before each request hold no more than it allows then."""
    window = SlidingWindow(None)
    departures: list[float] = []
    now = 0.0
    for gap, limit, wanted in events:
        now += gap
        window.change(limit)
        for _ in range(wanted):
            if window.ready_at() > now:
                break
            window.record(now)
            departures.append(now)
            assert sum(at >= now - 1.0 for at in departures) <= limit.per_second
            assert sum(at >= now - 60.0 for at in departures) <= limit.per_minute
        assert window.sent_since(now - 60.0) == sum(at >= now - 60.0 for at in departures)


def test_memory_is_bounded() -> None:
    """What was sent is forgotten once it counts no more, though no limit is ever reached."""
    window = SlidingWindow(RateLimit())
    tracemalloc.start()
    try:
        for number in range(20_000):
            window.record(number / 2)
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()
    assert window.sent_since(19_999 / 2 - 60) == 121


@given(limit=LIMITS, gaps=st.lists(GAPS, min_size=1, max_size=80))
def test_no_request_waits_without_need(limit: RateLimit, gaps: list[float]) -> None:
    """A request that waits would, a moment sooner, have crowded a window a hundredth of a second longer."""
    window = SlidingWindow(limit)
    asked_at, now = 0.0, 0.0
    departures: list[float] = []
    for gap in gaps:
        asked_at += gap
        arrived = max(asked_at, now)
        now = leave(window, arrived)
        if now > arrived:
            sooner = [*departures, max(arrived, now - 0.001)]
            assert (
                most_in_a_window(sooner, 1.01) > limit.per_second or most_in_a_window(sooner, 60.01) > limit.per_minute
            )
        departures.append(now)


# --- The minimum interval of requests that can wait ---


def test_min_interval() -> None:
    """Once half of a window is used, what is left lasts until more comes free, at the moment that asks for most."""
    default, of_ten = RateLimit(), RateLimit(per_second=100, per_minute=10)
    late = [0.0] + [58.0] * 15  # nothing comes free for long after the first
    two_rushes = [0.0] * 5 + [50.0] * 5
    gaps: list[tuple[RateLimit | None, list[float], float, float]] = [
        (None, [0.0] * 5000, 0.0, 0.0),
        (default, [], 0.0, 0.0),
        (default, [0.0] * 50, 0.0, 0.0),
        (default, [0.0] * 51, 0.0, 1.001 / 50),
        (default, [0.0] * 51, 0.5, 0.501 / 50),
        (default, [0.0] * 51, 1.001, 0.0),
        (default, [0.0] * 100, 0.0, 1.001),
        (of_ten, [0.0] * 5, 0.0, 0.0),
        (of_ten, [0.0] * 6, 0.0, 60.001 / 5),
        (of_ten, [0.0] * 6, 30.0, 30.001 / 5),
        (of_ten, two_rushes, 60.0, 50.001 / 6),
        (of_ten, two_rushes, 60.001, 0.0),
        (of_ten, two_rushes, 61.0, 0.0),
        # Up to 15 departures, each is a moment that counts; of 16, every second one.
        (RateLimit(per_second=100, per_minute=15), late[:15], 59.0, 59.001 / 2),
        (RateLimit(per_second=100, per_minute=16), late, 59.0, 59.001 / 3),
    ]
    with Table() as table:
        for limit, departures, now, gap in gaps:
            with table.row(limit, len(departures), now):
                window = SlidingWindow(limit)
                for at in departures:
                    window.record(at)
                assert window.min_interval(now) == pytest.approx(gap, abs=1e-9)


@given(st.integers(1, 50), st.integers(1, 200), st.lists(st.floats(0, 30), max_size=60))
def test_min_interval_keeps_the_limit_and_uses_it(per_second: int, per_minute: int, alone: list[float]) -> None:
    """Spread out, requests use what the limit allows in the long run, and never more."""
    window = SlidingWindow(RateLimit(per_second, per_minute))
    departures: list[float] = []
    now, last = 0.0, -math.inf
    waiting_alone = sorted(alone, reverse=True)
    while now < 600:
        at = max(now, window.ready_at(), last + window.min_interval(now))
        if waiting_alone and max(waiting_alone[-1], window.ready_at()) <= at:
            now = max(now, waiting_alone.pop(), window.ready_at())
        else:
            now = last = at
        window.record(now)
        departures.append(now)
    assert most_in_a_window(departures, 1.0) <= per_second
    assert most_in_a_window(departures, 60.0) <= per_minute
    allowed = min(per_second, per_minute / 60)
    assert sum(300 <= at < 600 for at in departures) >= 0.9 * 300 * allowed - 2


def test_min_interval_leaves_no_long_silence() -> None:
    """Even right after the first rush of requests, some request may leave every few tenths of a second."""
    window = SlidingWindow(RateLimit())
    now, last, longest = 0.0, -math.inf, 0.0
    while now < 300:
        at = max(now, window.ready_at(), last + window.min_interval(now))
        longest = max(longest, at - now)
        now = last = at
        window.record(now)
    assert longest < 0.5
