"""How far webhooks are trusted, in numbers."""

from __future__ import annotations

import math
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod import Card, ProductionStatus, UsageError
from cardprod._polling.webhook_trust import WebhookTrust

CARDS = [Card(1, f"card-{number}") for number in range(50)]
DONE = ProductionStatus("PRODUCED")
PRINTING = ProductionStatus("IN_PROGRESS")


def trusting(events: int = 20) -> WebhookTrust:
    """Make one that received events of some changes, all in time."""
    webhooks = WebhookTrust(300)
    for card in CARDS[:events]:
        webhooks.arrived(card, DONE, 0, is_news=True)
    return webhooks


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "300", True])
def test_bad_safety_net(seconds: float) -> None:
    """A safety net that cannot be is refused by name."""
    with pytest.raises(UsageError, match="safety_net"):
        WebhookTrust(seconds)


def test_no_events_no_gap() -> None:
    """Where no event ever comes, no poll is postponed, however many changes are found."""
    webhooks = WebhookTrust(300)
    for now, card in enumerate(CARDS):
        webhooks.found(card, DONE, now)
        assert webhooks.gap(now) == 0
    assert webhooks.trust == 0


def test_duplicates_and_strangers_prove_nothing() -> None:
    """An event that changes nothing, and whose change no poll found first, raises no trust."""
    webhooks = WebhookTrust(300)
    for card in CARDS:
        webhooks.arrived(card, DONE, 0, is_news=False)
    assert webhooks.trust == 0


def test_late_event_is_a_hit() -> None:
    """An event that comes soon after a poll found the same counts as a hit."""
    webhooks = WebhookTrust(300)
    webhooks.arrived(CARDS[0], DONE, 0, is_news=False)
    webhooks.found(CARDS[1], DONE, 10)
    webhooks.arrived(CARDS[1], PRINTING, 11, is_news=False)  # of before that
    assert webhooks.trust == 0
    webhooks.arrived(CARDS[1], DONE, 12, is_news=False)
    assert webhooks.trust == 0.3
    webhooks.arrived(CARDS[1], DONE, 13, is_news=False)  # and once only
    assert webhooks.trust == 0.3


@pytest.mark.parametrize(("seconds", "trust"), [(14.9, 0.51), (15.0, 0.15)])
def test_event_that_comes_too_late_is_a_miss(seconds: float, trust: float) -> None:
    """An event counts as a hit for 15 s after a poll found the change; from then on the change was a miss."""
    webhooks = trusting(events=1)
    webhooks.found(CARDS[1], DONE, 10)
    webhooks.arrived(CARDS[1], DONE, 10 + seconds, is_news=False)
    assert webhooks.trust == pytest.approx(trust)


def test_first_event_proves_nothing_of_what_came_before() -> None:
    """A change that was found before any event ever came is no hit when its event comes."""
    webhooks = WebhookTrust(300)
    webhooks.found(CARDS[0], DONE, 0)
    webhooks.arrived(CARDS[0], DONE, 1, is_news=False)
    assert webhooks.trust == 0


def test_second_change_takes_the_place_of_the_first() -> None:
    """Of two changes of a card in a row the second waits for its event, from when it was found; the first does not."""
    webhooks = trusting()
    before = webhooks.trust
    webhooks.found(CARDS[0], PRINTING, 0)
    webhooks.found(CARDS[1], DONE, 1)
    webhooks.found(CARDS[0], DONE, 10)
    misses: list[int] = []
    for now in (15.5, 16.5, 24.5, 25.5):
        webhooks.gap(now)
        misses.append(round(math.log2(before / webhooks.trust)))
    assert misses == [0, 1, 1, 2]


def test_memory_is_bounded() -> None:
    """Of thousands of changes without an event, 4,096 are remembered; an event of any other is no hit."""
    webhooks = WebhookTrust(300)
    cards = [Card(1, f"card-{number}") for number in range(4097)]
    webhooks.arrived(CARDS[0], DONE, 0, is_news=False)
    for card in cards:
        webhooks.found(card, DONE, 0)
    webhooks.arrived(cards[4096], DONE, 1, is_news=False)
    assert webhooks.trust == 0
    webhooks.arrived(cards[4095], DONE, 1, is_news=False)
    assert webhooks.trust == 0.3


def test_gap_in_numbers() -> None:
    """The gap is the cubed trust's share of the safety net, or shorter, so that an average change is seen 3 s late."""
    webhooks, now = WebhookTrust(300), 0.0
    trust = changes = lost = 0.0
    webhooks.arrived(CARDS[0], DONE, now, is_news=False)  # after the first event, a change without one is a miss
    for is_lost in [*[False] * 40, True, *[False] * 30, True, True, *[False] * 20]:
        if is_lost:
            webhooks.found(CARDS[0], DONE, now)
            now += 15
        else:
            webhooks.arrived(CARDS[0], DONE, now, is_news=True)
        trust = trust / 2 if is_lost else trust + 0.3 * (1 - trust)
        changes, lost = changes * 0.99 + 1, lost * 0.99 + is_lost
        assert webhooks.gap(now) == pytest.approx(min(300 * trust**3, 2 * 3 * changes / lost if lost else math.inf))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_lost_events_shorten_the_gap(share: float) -> None:
    """Where a share of the events is lost for good, the gap stays so short that changes are seen 3 s late on average.

    Half a gap passes until a poll finds a change without an event.
    """
    webhooks, random, now = WebhookTrust(300), Random(1), 0.0
    lateness: list[float] = []
    for number in range(3000):
        now += 20  # so that a miss is known before the next change
        card = CARDS[number % len(CARDS)]
        is_lost = random.random() < share
        lateness.append(webhooks.gap(now) / 2 if is_lost else 0.0)
        if is_lost:
            webhooks.found(card, DONE, now)
        else:
            webhooks.arrived(card, DONE, now, is_news=True)
    assert fmean(lateness[100:]) <= 3.2
    for card in CARDS * 20:
        webhooks.arrived(card, DONE, now + 20, is_news=True)
    assert webhooks.gap(now + 20) > 290  # once none is lost any more


def test_a_change_found_by_many_is_one_miss() -> None:
    """A change that several waits for a card have found counts once, from when it was found first."""
    webhooks, once = trusting(), trusting()
    for now in range(10):
        webhooks.found(CARDS[0], DONE, now)
    once.found(CARDS[0], DONE, 0)
    assert webhooks.gap(15.5) == once.gap(15.5) < 50


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
    webhooks = WebhookTrust(safety_net)
    now = 0.0
    for what, card, status, later in happenings:
        now += later
        if what == "found":
            webhooks.found(card, status, now)
        else:
            webhooks.arrived(card, status, now, is_news=what == "news")
        assert 0 <= webhooks.gap(now) <= safety_net
        assert 0 <= webhooks.trust < 1
    settled = webhooks.gap(now + 20)
    assert webhooks.gap(now + 1e6) == settled  # no change still waits for its event


def test_event_without_a_word() -> None:
    """An event whose status is empty, which only a user can have made, counts as any other."""
    webhooks = WebhookTrust(300)
    webhooks.arrived(CARDS[0], ProductionStatus(""), 0, is_news=False)
    assert webhooks.trust == 0
