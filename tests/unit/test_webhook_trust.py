"""How far webhooks are relied on, in numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod import Card, ProductionStatus, UsageError
from cardprod._polling.webhook_trust import WebhookTrust

CARDS = [Card(1, f"card-{number}") for number in range(50)]
DONE = ProductionStatus("PRODUCED")
PRINTING = ProductionStatus("IN_PROGRESS")


def trusting(events: int = 20) -> WebhookTrust:
    """Make one that has heard of some changes, all in time."""
    deliveries = WebhookTrust(300)
    for card in CARDS[:events]:
        deliveries.arrived(card, DONE, 0, is_news=True)
    return deliveries


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "300", True])
def test_bad_safety_net(seconds: float) -> None:
    """A safety net that cannot be is refused by name."""
    with pytest.raises(UsageError, match="safety_net"):
        WebhookTrust(seconds)


def test_no_events_no_gap() -> None:
    """Where no event ever comes, no look is put off, however many changes are found."""
    deliveries = WebhookTrust(300)
    for now, card in enumerate(CARDS):
        deliveries.found(card, DONE, now)
        assert deliveries.gap(now) == 0
    assert deliveries.trust == 0


def test_events_that_tell_everything_open_the_gap() -> None:
    """Each change that an event tells first brings the gap nearer to the safety net, and never beyond it."""
    deliveries = WebhookTrust(300)
    gaps: list[float] = []
    for card in CARDS:
        deliveries.arrived(card, DONE, 0, is_news=True)
        gaps.append(deliveries.gap(0))
    assert gaps == sorted(gaps)
    assert gaps[5] > 200
    assert 299 < gaps[-1] <= 300


def test_duplicates_and_strangers_prove_nothing() -> None:
    """An event that is no news, and that no look ran ahead of, raises no trust."""
    deliveries = WebhookTrust(300)
    for card in CARDS:
        deliveries.arrived(card, DONE, 0, is_news=False)
    assert deliveries.trust == 0


def test_late_event_is_a_hit() -> None:
    """An event that comes a little after a look found the same proves that events come."""
    deliveries = WebhookTrust(300)
    deliveries.arrived(CARDS[0], DONE, 0, is_news=False)
    deliveries.found(CARDS[1], DONE, 10)
    deliveries.arrived(CARDS[1], PRINTING, 11, is_news=False)  # of before that
    assert deliveries.trust == 0
    deliveries.arrived(CARDS[1], DONE, 12, is_news=False)
    assert deliveries.trust == 0.3
    deliveries.arrived(CARDS[1], DONE, 13, is_news=False)  # and once only
    assert deliveries.trust == 0.3


@pytest.mark.parametrize(("seconds", "trust"), [(14.9, 0.51), (15.0, 0.15)])
def test_event_that_comes_too_late_is_a_miss(seconds: float, trust: float) -> None:
    """An event counts as a hit for 15 s after a poll found the change; from then on the change was a miss."""
    deliveries = trusting(events=1)
    deliveries.found(CARDS[1], DONE, 10)
    deliveries.arrived(CARDS[1], DONE, 10 + seconds, is_news=False)
    assert deliveries.trust == pytest.approx(trust)


def test_first_event_proves_nothing_of_what_came_before() -> None:
    """A change that was found before any event ever came is no hit when its event comes."""
    deliveries = WebhookTrust(300)
    deliveries.found(CARDS[0], DONE, 0)
    deliveries.arrived(CARDS[0], DONE, 1, is_news=False)
    assert deliveries.trust == 0


def test_second_change_takes_the_place_of_the_first() -> None:
    """Of two changes of a card in a row the second waits for its event, from when it was found; the first does not."""
    deliveries = trusting()
    before = deliveries.trust
    deliveries.found(CARDS[0], PRINTING, 0)
    deliveries.found(CARDS[1], DONE, 1)
    deliveries.found(CARDS[0], DONE, 10)
    misses: list[int] = []
    for now in (15.5, 16.5, 24.5, 25.5):
        deliveries.gap(now)
        misses.append(round(math.log2(before / deliveries.trust)))
    assert misses == [0, 1, 1, 2]


def test_memory_is_bounded() -> None:
    """Of thousands of changes that no event told, 4,096 are remembered; of the rest no event is a hit."""
    deliveries = WebhookTrust(300)
    cards = [Card(1, f"card-{number}") for number in range(4097)]
    deliveries.arrived(CARDS[0], DONE, 0, is_news=False)
    for card in cards:
        deliveries.found(card, DONE, 0)
    deliveries.arrived(cards[4096], DONE, 1, is_news=False)
    assert deliveries.trust == 0
    deliveries.arrived(cards[4095], DONE, 1, is_news=False)
    assert deliveries.trust == 0.3


def test_misses_close_the_gap() -> None:
    """Changes that only looks find bring the looks back: after three the gap is a hundredth."""
    deliveries = trusting()
    assert deliveries.gap(0) > 290
    for now, card in enumerate(CARDS[30:33]):
        deliveries.found(card, DONE, now)
    assert deliveries.gap(14) > 290  # their events may still come
    assert deliveries.gap(17.1) < 3


def test_quiet_night_changes_nothing() -> None:
    """Time alone neither raises nor lowers the trust."""
    deliveries = trusting()
    assert deliveries.gap(0) == deliveries.gap(100_000)


def test_a_change_found_by_many_is_one_miss() -> None:
    """A change that everybody who waits for the card has found counts once, from when it was found first."""
    deliveries, once = trusting(), trusting()
    for now in range(10):
        deliveries.found(CARDS[0], DONE, now)
    once.found(CARDS[0], DONE, 0)
    assert deliveries.gap(15.5) == once.gap(15.5) < 50


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["found", "news", "old"]),
            st.sampled_from(CARDS),
            st.sampled_from([DONE, PRINTING]),
            st.floats(0, 30),
        ),
        max_size=60,
    ),
    st.floats(0, 1000),
)
def test_bounds(happenings: list[tuple[str, Card, ProductionStatus, float]], safety_net: float) -> None:
    """Whatever happens, the gap is between nothing and the safety net, and settles when every event is overdue."""
    deliveries = WebhookTrust(safety_net)
    now = 0.0
    for what, card, status, later in happenings:
        now += later
        if what == "found":
            deliveries.found(card, status, now)
        else:
            deliveries.arrived(card, status, now, is_news=what == "news")
        assert 0 <= deliveries.gap(now) <= safety_net
        assert 0 <= deliveries.trust < 1
    settled = deliveries.gap(now + 20)
    assert deliveries.gap(now + 1e6) == settled  # nothing waits for its event any more
