"""Cards, statuses and transitions: what they accept, and what they say."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from cardprod.error_codes import ErrorCode, ErrorOrigin
from cardprod.errors import ProductionFailed, UsageError
from cardprod.models import Card, ProductionStatus, Status, Transition

TOKEN = "ca0c8154-1e14-4464-a1ce-dcea7dc3de52"
READY = ProductionStatus("READY")
IN_PROGRESS = ProductionStatus("IN_PROGRESS", kiosk_id="WIS00001")
FAILED = ProductionStatus("PRODUCTION_ERROR", kiosk_id="WIS00001", error_code="PRT_RIBBON_ENDED")
FROZEN: list[tuple[object, str]] = [
    (Card(1, "a"), "profile_id"),
    (READY, "status"),
    (Transition(previous=None, current=READY, elapsed=0.0, polls=1), "polls"),
]


def _class_of(value: object) -> str:
    return type(value).__name__


# --- Card ---


@pytest.mark.parametrize("profile_id", [1, 123456, 2**63 - 1])
def test_card_takes_every_positive_int64(profile_id: int) -> None:
    """A profile id may be any positive int64."""
    assert Card(profile_id, TOKEN).profile_id == profile_id


@pytest.mark.parametrize("profile_id", [True, False, 0, -1, 2**63, "123456", 1.0, None, b"1"])
def test_card_refuses_other_profile_ids(profile_id: Any) -> None:
    """Anything but a positive int64, a bool and a numeric string included, is refused by name."""
    with pytest.raises(UsageError, match=r"^profile_id must be"):
        Card(profile_id, TOKEN)


@pytest.mark.parametrize("token", [TOKEN, "a", "a" * 128, "A-Z.a_z~09", "...", ".a", "-", "~"])
def test_card_takes_what_needs_no_escaping(token: str) -> None:
    """A token may be up to 128 of the characters that stand for themselves in a URL's path."""
    assert Card(1, token).card_token == token


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a" * 129,
        "a b",
        " a",
        "a/b",
        "../a",
        "a%2Fb",
        "a\n",
        "\na",
        "a\x00",
        ".",
        "..",
        "a?b",
        "a#b",
        "a:b",
        "a@b",
        "ä",
        "\u0661",
        "a\u200b",
        "\ud800",
        None,
        123,
        b"abc",
    ],
    ids=ascii,
)
def test_card_refuses_other_tokens(token: Any) -> None:
    """A token that would need escaping, or would climb about in the URL, is refused by name."""
    with pytest.raises(UsageError, match=r"^card_token must be"):
        Card(1, token)


@pytest.mark.parametrize("token", ["secret-card-token ", "x" * 129])
def test_refused_token_is_not_shown(token: str) -> None:
    """The message about a refused token does not repeat it."""
    with pytest.raises(UsageError) as caught:
        Card(1, token)
    assert token.strip() not in str(caught.value)


def test_card_is_a_key() -> None:
    """Two cards with the same ids are one key; another id makes another."""
    assert {Card(1, "a"), Card(1, "a"), Card(2, "a"), Card(1, "b")} == {Card(1, "a"), Card(2, "a"), Card(1, "b")}
    assert len({Card(1, "a"), Card(1, "a"), Card(2, "a"), Card(1, "b")}) == 3


@pytest.mark.parametrize(("value", "name"), FROZEN, ids=["Card", "ProductionStatus", "Transition"])
def test_values_cannot_change(value: object, name: str) -> None:
    """A value is frozen, and has no room for attributes it was not made with."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, name, 2)
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize("value", [value for value, _ in FROZEN], ids=_class_of)
def test_values_survive_copying(value: object) -> None:
    """A value that was copied, or that crossed a process border, equals the original and hashes alike."""
    crossed = pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes
    assert crossed == copy.deepcopy(value) == value
    assert hash(crossed) == hash(value)


@pytest.mark.parametrize("card_like", [Card(1, TOKEN), (1, TOKEN)], ids=_class_of)
def test_card_of(card_like: Card | tuple[int, str]) -> None:
    """A tuple of both ids is as good as a card."""
    assert Card.of(card_like) == Card(1, TOKEN)


def test_card_of_a_card_is_that_card() -> None:
    """A card is not made anew when it is one already."""
    card = Card(1, TOKEN)
    assert Card.of(card) is card


@pytest.mark.parametrize(
    "card_like", [(), (1,), (1, TOKEN, 3), [1, TOKEN], TOKEN, "ab", None, 1, {"profile_id": 1}], ids=repr
)
def test_card_of_refuses_the_rest(card_like: Any) -> None:
    """What is neither a card nor a pair is refused."""
    with pytest.raises(UsageError, match="expected a Card or a"):
        Card.of(card_like)


@pytest.mark.parametrize(("card_like", "name"), [(("1", TOKEN), "profile_id"), ((1, ""), "card_token")])
def test_card_of_checks_the_pair(card_like: Any, name: str) -> None:
    """A pair is checked as a card is."""
    with pytest.raises(UsageError, match=f"^{name}"):
        Card.of(card_like)


@pytest.mark.parametrize("show", [str, repr, "{}".format])
def test_card_shows_its_token_shortened(show: Any) -> None:
    """Printed in any way, a card shows the profile and no more than the first 8 characters of its token."""
    shown = show(Card(123456, TOKEN))
    assert "123456" in shown
    assert TOKEN[:8] in shown
    assert TOKEN[:9] not in shown


# --- ProductionStatus ---


@pytest.mark.parametrize("status", Status)
def test_known_status_becomes_the_enum(status: Status) -> None:
    """The text of a known status becomes the enum's member."""
    assert ProductionStatus(status.value).status is status
    assert ProductionStatus(status).status is status


@pytest.mark.parametrize("text", ["TELEPORTED", "produced", "PRODUCED ", "Status.PRODUCED"])
def test_unknown_status_stays_text_and_is_not_final(text: str) -> None:
    """A status this package does not know is kept as it came, and nothing ends with it."""
    status = ProductionStatus(text, error_code="PRT_PAUSED")
    assert status.status == text
    assert not isinstance(status.status, Status)
    assert not status.is_final
    assert not status.is_produced
    assert status.error_meaning is None
    assert status.raise_for_failure() is status


@pytest.mark.parametrize("code", ErrorCode)
def test_known_code_becomes_the_enum(code: ErrorCode) -> None:
    """The text of a known error code becomes the enum's member, with its origin."""
    status = ProductionStatus("PRODUCTION_ERROR", error_code=code.value)
    assert status.error_code is code
    assert status.error_origin is code.origin


def test_unknown_code_stays_text() -> None:
    """An error code this package does not know is kept as it came, without a meaning and from nowhere known."""
    status = ProductionStatus("PRODUCTION_ERROR", error_code="PRT_ON_FIRE")
    assert status.error_code == "PRT_ON_FIRE"
    assert not isinstance(status.error_code, ErrorCode)
    assert status.error_origin is ErrorOrigin.UNKNOWN
    assert status.error_meaning is None


def test_no_code_has_no_origin() -> None:
    """Without an error code there is neither an origin nor a meaning."""
    assert IN_PROGRESS.error_origin is None
    assert IN_PROGRESS.error_meaning is None


@pytest.mark.parametrize(
    ("status", "is_final", "is_produced"),
    [
        (Status.READY, False, False),
        (Status.IN_PROGRESS, False, False),
        (Status.PRODUCED, True, True),
        (Status.PRODUCTION_ERROR, True, False),
        (Status.REQUEST_ERROR, True, False),
    ],
)
def test_final_and_produced(status: Status, is_final: bool, is_produced: bool) -> None:
    """Three statuses are final, and one of them means that the card is printed."""
    seen = ProductionStatus(status)
    assert (seen.is_final, seen.is_produced) == (is_final, is_produced)


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        ("REQUEST_ERROR", "UNKNOWN_ERROR", "An error occurred on the server"),
        ("PRODUCTION_ERROR", "UNKNOWN_ERROR", "Unknown error"),
        ("REQUEST_ERROR", "PRT_PAUSED", None),
        ("PRODUCTION_ERROR", "PAN_ALREADY_EXISTS", None),
        ("READY", "UNKNOWN_ERROR", None),
    ],
)
def test_meaning_needs_status_and_code(status: str, code: str, meaning: str | None) -> None:
    """A code is read together with its status, and means nothing under a status it is not documented for."""
    assert ProductionStatus(status, error_code=code).error_meaning == meaning


@pytest.mark.parametrize("status", ["PRODUCTION_ERROR", "REQUEST_ERROR"])
def test_raise_for_failure_raises(status: str) -> None:
    """A card that ended in an error raises with the status on it, if asked to."""
    seen = ProductionStatus(status, kiosk_id="WIS00001", error_code="UNKNOWN_ERROR")
    with pytest.raises(ProductionFailed, match=f"{status} at WIS00001: UNKNOWN_ERROR") as caught:
        seen.raise_for_failure()
    assert caught.value.status is seen


@pytest.mark.parametrize("status", ["READY", "IN_PROGRESS", "PRODUCED"])
def test_raise_for_failure_lets_the_rest_pass(status: str) -> None:
    """What is no failure is given back, so that the call can stand in a chain."""
    seen = ProductionStatus(status)
    assert seen.raise_for_failure() is seen


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (READY, "READY"),
        (ProductionStatus("READY", description="Card ready for production"), "READY"),
        (IN_PROGRESS, "IN_PROGRESS at WIS00001"),
        (FAILED, "PRODUCTION_ERROR at WIS00001: PRT_RIBBON_ENDED (Printer error: ribbon has ended)"),
        (
            ProductionStatus("PRODUCTION_ERROR", error_code="PRT_ON_FIRE", description="smoke"),
            "PRODUCTION_ERROR: PRT_ON_FIRE (smoke)",
        ),
        (ProductionStatus("REQUEST_ERROR", error_code="NEW"), "REQUEST_ERROR: NEW"),
        (ProductionStatus("TELEPORTED", occurred_at=datetime(2024, 1, 1, tzinfo=UTC)), "TELEPORTED"),
    ],
)
def test_status_printed(status: ProductionStatus, text: str) -> None:
    """Printed, a status is what a person wants to know: what, where, and what went wrong."""
    assert str(status) == text


# --- Transition ---


@pytest.mark.parametrize(
    ("previous", "current", "text"),
    [
        (None, READY, "READY"),
        (READY, IN_PROGRESS, "READY -> IN_PROGRESS at WIS00001"),
        (
            IN_PROGRESS,
            FAILED,
            "IN_PROGRESS -> PRODUCTION_ERROR at WIS00001: PRT_RIBBON_ENDED (Printer error: ribbon has ended)",
        ),
        (ProductionStatus("TELEPORTED"), READY, "TELEPORTED -> READY"),
    ],
)
def test_transition_printed(previous: ProductionStatus | None, current: ProductionStatus, text: str) -> None:
    """Printed, a transition says from what to what; the first look says only what."""
    assert str(Transition(previous=previous, current=current, elapsed=1.0, polls=2)) == text


@pytest.mark.parametrize(("current", "is_final"), [(READY, False), (IN_PROGRESS, False), (FAILED, True)])
def test_transition_is_as_final_as_what_is_seen(current: ProductionStatus, is_final: bool) -> None:
    """A transition is final when the status it leads to is."""
    transition = Transition(previous=READY, current=current, elapsed=1.0, polls=2)
    assert transition.is_final is is_final
    assert transition.source == "poll"
