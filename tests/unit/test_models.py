"""Cards, statuses, transitions and events: what they accept, and how they are printed."""

from __future__ import annotations

import copy
import json
import pickle
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod.checkpoint import Checkpoint, PendingCard
from cardprod.error_codes import ErrorCode, ErrorOrigin
from cardprod.errors import ProductionFailed, UsageError
from cardprod.models import Card, KnownCard, ProductionEvent, ProductionStatus, Status, Transition, one_line
from tests.table import Table

if TYPE_CHECKING:
    from decimal import Decimal

TOKEN = "ca0c8154-1e14-4464-a1ce-dcea7dc3de52"
READY = ProductionStatus("READY")
IN_PROGRESS = ProductionStatus("IN_PROGRESS", kiosk_id="WIS00001")
FAILED = ProductionStatus("PRODUCTION_ERROR", kiosk_id="WIS00001", error_code="PRT_RIBBON_ENDED")
FROZEN: list[tuple[object, str]] = [
    (Card(1, "a"), "profile_id"),
    (READY, "status"),
    (Transition(previous=None, current=READY, elapsed=0.0, polls=1), "polls"),
    (ProductionEvent(card=Card(1, "a"), status=READY), "is_test"),
]


# --- Foreign text ---


def test_one_line() -> None:
    """Foreign text becomes one printable line of at most so many characters, and says where it was cut."""
    lines = {
        "": "",
        " a\r\n\tb\u2028 c ": "a b c",
        "a\x1b[2J\x00\u202e\ud800": "a\ufffd[2J\ufffd\ufffd\ufffd",
        "x" * 10: "x" * 10,
        "x" * 11: "x" * 9 + "…",
        "x" + " " * 38 + "yz": "x y",  # of a text without end, four times the limit is read
    }
    with Table() as table:
        for text, line in lines.items():
            with table.row(text):
                assert one_line(text, 10) == line


# --- Card ---


def test_card_takes_what_needs_no_escaping() -> None:
    """A profile id may be any positive int64, a token up to 128 characters that stand for themselves in a URL."""
    for profile_id in (1, 123456, 2**63 - 1):
        for token in (TOKEN, "a", "a" * 128, "A-Z.a_z~09", "...", ".a", "-", "~"):
            card = Card(profile_id, token)
            assert (card.profile_id, card.card_token) == (profile_id, token)


def test_card_refuses_the_rest() -> None:
    """What cannot be a profile id or a token is refused by name, the profile first, and a token is not shown."""
    no_int, no_int64 = (
        "profile_id must be an int, such as 123456; this is a ",
        "profile_id must be from 1 to 2**63 - 1; this one is ",
    )
    no_text, no_token = "card_token must be a str; this is a ", "card_token must be 1 to 128 characters of "
    tokens = ["", "a" * 129, "a b", " a", "a/b", "../a", "a%2Fb", "a\n", "\na", "a\x00", ".", "..", "a?b", "a#b"]
    tokens += ["a:b", "a@b", "ä", "\u0661", "a\u200b", "\ud800", "secret-card-token ", "x" * 130]
    refused: list[tuple[Any, Any, str]] = [
        *((profile_id, TOKEN, f"{no_int}{type(profile_id).__name__}") for profile_id in (True, "1", 1.0, None, b"1")),
        *((profile_id, TOKEN, no_int64) for profile_id in (0, -1, 2**63, 2**64, -(2**63))),
        *((1, token, f"{no_text}{type(token).__name__}") for token in (None, 123, b"abc")),
        *((1, token, no_token) for token in tokens),
        (False, "", f"{no_int}bool"),
        (0, "", no_int64),
        (2**63 - 1, "", no_token),
    ]
    with Table() as table:
        for profile_id, token, problem in refused:
            with table.row(profile_id, token):
                with pytest.raises(UsageError) as caught:
                    Card(profile_id, token)
                assert str(caught.value).startswith(problem)
                if problem is no_token:
                    assert re.search(
                        r"; this one of profile \d+, '.*'…?, (?:is empty|has a m|has '\S* ?' as ch|has 1\d\d char)",
                        str(caught.value),
                    )
                    assert len(token.strip()) < 9 or token.strip() not in str(caught.value)


def test_card_is_a_key() -> None:
    """Two cards with the same ids are one key; another id makes another."""
    assert len({Card(1, "a"), Card(1, "a"), Card(2, "a"), Card(1, "b")}) == 3


def test_values_cannot_change() -> None:
    """A value is frozen, and has no room for attributes it was not made with."""
    for value, name in FROZEN:
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, name, 2)
        assert not hasattr(value, "__dict__")


def test_values_survive_copying() -> None:
    """A value that was copied, or that crossed a process border, equals the original and hashes alike."""
    for value, _ in FROZEN:
        crossed = pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes
        assert crossed == copy.deepcopy(value) == value
        assert hash(crossed) == hash(value)


def test_token_of_a_subclass_of_str() -> None:
    """A card's token is a plain str, whatever a subclass of it does: hashing it must not end the wait for others."""

    class Escaped(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            raise LookupError

        def __hash__(self) -> int:
            raise LookupError

        def __str__(self) -> str:
            return "another"

    card = Card(1, Escaped("card-1"))
    assert type(card.card_token) is str
    assert {card: "found"}[Card(1, "card-1")] == "found"


def test_card_of_a_subclass() -> None:
    """A card that hashes or compares in its own way is taken as one that does not, and another as it is."""

    class Unhashable(Card):
        __hash__ = None  # type: ignore[assignment]

    class Escaped(Card):
        def __eq__(self, other: object) -> bool:
            raise LookupError

        def __hash__(self) -> int:
            raise LookupError

    class Order(Card):
        pass

    @attrs.frozen
    class Row(KnownCard):
        row: int

    plain = Card(1, TOKEN)
    for cls in (Unhashable, Escaped):
        card = Card.of(cls(1, TOKEN))
        assert (type(card), card) == (Card, plain)
    order, known = Order(1, TOKEN), KnownCard(1, TOKEN, READY)
    assert Card.of(order) is order
    assert Card.of(known) is known
    plain_row = Card.of(Row(1, TOKEN, READY, row=7))
    assert isinstance(plain_row, KnownCard)
    assert (type(plain_row), plain_row, plain_row.after) == (KnownCard, plain, READY)


def test_card_of() -> None:
    """A card is taken as it is and a pair as a card, which is checked; what is neither is refused."""
    card = Card(1, TOKEN)
    assert Card.of(card) is card
    assert Card.of((1, TOKEN)) == card
    no_card = "expected a Card or a (profile_id, card_token) tuple, got a "
    refused: list[Any] = [(), (1,), (1, TOKEN, 3), [1, TOKEN], TOKEN, "ab", None, 1, {"profile_id": 1, "card_token": 2}]
    problems = [(value, f"{no_card}{type(value).__name__}") for value in refused]
    problems += [(("1", TOKEN), "profile_id must be"), ((1, ""), "card_token must be")]
    with Table() as table:
        for value, problem in problems:
            with table.row(value), pytest.raises(UsageError, match=f"^{re.escape(problem)}"):
                Card.of(value)


def test_card_shows_its_token_shortened() -> None:
    """Printed in any way, a card shows the profile and of a long token no more than the first and last 4 characters."""
    card = Card(123456, TOKEN)
    assert (str(card), repr(card), f"{card}") == (
        "123456/ca0c…de52",
        "Card(123456, 'ca0c…de52')",
        "123456/ca0c…de52",
    )
    assert (str(Card(1, "12345678")), str(Card(1, "123456789"))) == ("1/12345678", "1/1234…6789")


# --- ProductionStatus ---


def test_known_words_become_the_enums() -> None:
    """The text of a known status or error code becomes the enum's member, the code with its origin."""
    for status in Status:
        assert ProductionStatus(status.value).status is status
        assert ProductionStatus(status).status is status
    for code in ErrorCode:
        seen = ProductionStatus("PRODUCTION_ERROR", error_code=code.value)
        assert (seen.error_code, seen.error_origin) == (code, code.origin)
        assert isinstance(seen.error_code, ErrorCode)


def test_unknown_status_stays_text_and_is_not_final() -> None:
    """A status this package does not know is kept as it came, and nothing ends with it."""
    for text in ("TELEPORTED", "produced", "PRODUCED ", "Status.PRODUCED"):
        status = ProductionStatus(text, error_code="PRT_PAUSED")
        assert status.status == text
        assert not isinstance(status.status, Status)
        assert not status.is_final
        assert not status.is_produced
        assert status.error_meaning is None
        assert status.raise_for_failure() is status


def test_final_and_produced() -> None:
    """Three statuses are final, and one of them means that the card is printed."""
    assert {status: (seen.is_final, seen.is_produced) for status in Status for seen in [ProductionStatus(status)]} == {
        Status.READY: (False, False),
        Status.IN_PROGRESS: (False, False),
        Status.PRODUCED: (True, True),
        Status.PRODUCTION_ERROR: (True, False),
        Status.REQUEST_ERROR: (True, False),
    }


def test_meaning_and_origin() -> None:
    """A code is read together with its status, and means nothing under another; an unknown one stays as it came."""
    rows: dict[tuple[str, str | None], tuple[str | None, ErrorOrigin | None]] = {
        ("REQUEST_ERROR", "UNKNOWN_ERROR"): ("An error occurred on the server", ErrorOrigin.UNKNOWN),
        ("PRODUCTION_ERROR", "UNKNOWN_ERROR"): ("Unknown error", ErrorOrigin.UNKNOWN),
        ("REQUEST_ERROR", "PRT_PAUSED"): (None, ErrorOrigin.PRINTER),
        ("PRODUCTION_ERROR", "PAN_ALREADY_EXISTS"): (None, ErrorOrigin.REQUEST),
        ("READY", "UNKNOWN_ERROR"): (None, ErrorOrigin.UNKNOWN),
        ("PRODUCTION_ERROR", "PRT_ON_FIRE"): (None, ErrorOrigin.UNKNOWN),
        ("PRODUCTION_ERROR", None): (None, None),
    }
    for (status, code), expected in rows.items():
        seen = ProductionStatus(status, error_code=code)
        assert (seen.error_code, seen.error_meaning, seen.error_origin) == (code, *expected)


def test_raise_for_failure() -> None:
    """A card that ended in an error raises with the status on it, if asked to; any other is given back."""
    for status in Status:
        seen = ProductionStatus(status, kiosk_id="WIS00001", error_code="UNKNOWN_ERROR")
        if status.endswith("_ERROR"):
            with pytest.raises(ProductionFailed, match=f"^not produced: {status} at WIS00001: UNKNOWN_ERROR") as caught:
                seen.raise_for_failure()
            assert caught.value.status is seen
            with pytest.raises(ProductionFailed, match=r"^card 1/a: not produced: ") as caught:
                seen.raise_for_failure((1, "a"))
            assert caught.value.card == (1, "a")
        else:
            assert seen.raise_for_failure() is seen


def test_status_printed() -> None:
    """Printed, a status is what a person wants to know: what, where, and what went wrong, in 300 characters."""
    texts = [
        (READY, "READY"),
        (ProductionStatus("READY", description="Card ready for production"), "READY"),
        (IN_PROGRESS, "IN_PROGRESS at WIS00001"),
        (FAILED, "PRODUCTION_ERROR at WIS00001: PRT_RIBBON_ENDED (Printer error: ribbon has ended)"),
        (
            ProductionStatus("PRODUCTION_ERROR", error_code="PRT_ON_FIRE", description="smoke"),
            "PRODUCTION_ERROR: PRT_ON_FIRE (smoke)",
        ),
        (
            ProductionStatus("PRODUCTION_ERROR", error_code="PRT_PAUSED", description="smoke"),
            "PRODUCTION_ERROR: PRT_PAUSED (Printer error: printer paused)",
        ),
        (ProductionStatus("REQUEST_ERROR", error_code="NEW"), "REQUEST_ERROR: NEW"),
        (ProductionStatus("TELEPORTED", occurred_at=datetime(2024, 1, 1, tzinfo=UTC)), "TELEPORTED"),
        (ProductionStatus("T" * 300), "T" * 300),
        (ProductionStatus("T" * 301), "T" * 299 + "…"),
    ]
    with Table() as table:
        for status, text in texts:
            with table.row(status):
                assert str(status) == text


# --- Transition ---


def test_transition_printed() -> None:
    """Printed, a transition says from what to what; the first poll says only what."""
    texts = [
        (None, READY, "READY"),
        (READY, IN_PROGRESS, "READY -> IN_PROGRESS at WIS00001"),
        (
            IN_PROGRESS,
            FAILED,
            "IN_PROGRESS -> PRODUCTION_ERROR at WIS00001: PRT_RIBBON_ENDED (Printer error: ribbon has ended)",
        ),
        (ProductionStatus("TELE\nPORTED"), READY, "TELE PORTED -> READY"),
        (ProductionStatus("T" * 301), READY, "T" * 299 + "… -> READY"),
    ]
    with Table() as table:
        for previous, current, text in texts:
            with table.row(text):
                assert str(Transition(previous=previous, current=current, elapsed=1.0, polls=2)) == text


def test_transition_is_as_final_as_its_status() -> None:
    """A transition is final when the status it leads to is, and comes from a poll by default."""
    for current, is_final in ((READY, False), (IN_PROGRESS, False), (FAILED, True)):
        transition = Transition(previous=READY, current=current, elapsed=1.0, polls=2)
        assert transition.is_final is is_final
        assert transition.source == "poll"


# --- ProductionEvent ---

SENT_AT = datetime(2026, 11, 24, 12, 0, 5, 250_000, UTC)
# As version 0.1.0 wrote it: what waits in a queue must be read by the version after it.
WRITTEN: dict[str, Any] = {
    "version": 1,
    "card": {"profile_id": 1, "card_token": "a"},
    "status": {
        "status": "IN_PROGRESS",
        "kiosk_id": "WIS00001",
        "occurred_at": 1795521605250000,
        "error_code": None,
        "description": None,
    },
    "sent_at": 1795521605250000,
    "delivery_id": "d-1",
    "subscription_id": "s-1",
    "schema_version": "4.0.0",
    "is_test": False,
}
EVENT = ProductionEvent(
    card=Card(1, "a"),
    status=ProductionStatus("IN_PROGRESS", kiosk_id="WIS00001", occurred_at=SENT_AT),
    sent_at=SENT_AT,
    delivery_id="d-1",
    subscription_id="s-1",
    schema_version="4.0.0",
)


def test_event_is_written_as_before() -> None:
    """An event is one line of JSON in a form that stays, and what was written in it is read."""
    assert json.loads(EVENT.to_json()) == WRITTEN
    assert "\n" not in EVENT.to_json()
    assert ProductionEvent.from_json(json.dumps(WRITTEN)) == EVENT


@given(
    st.builds(
        ProductionEvent,
        card=st.none() | st.just(Card(1, TOKEN)),
        status=st.builds(
            ProductionStatus,
            status=st.text(),
            kiosk_id=st.none() | st.text(),
            occurred_at=st.none() | st.datetimes(timezones=st.just(UTC)),
            error_code=st.none() | st.text(),
            description=st.none() | st.text(),
        ),
        sent_at=st.none() | st.datetimes(timezones=st.just(UTC)),
        delivery_id=st.none() | st.text(),
        is_test=st.booleans(),
    )
)
def test_json_of_an_event(event: ProductionEvent) -> None:
    """An event that is written as JSON is read as the same event."""
    assert ProductionEvent.from_json(event.to_json()) == event


def test_json_of_subclasses() -> None:
    """What is of a subclass, as a `KnownCard` is, is written as what it is read as, in events and checkpoints alike."""

    @attrs.frozen
    class Noted(ProductionStatus):
        note: str = "a caller's own"

    plain, noted, produced = ProductionStatus("READY"), Noted("READY"), Noted("PRODUCED")
    event = ProductionEvent(card=KnownCard(1, TOKEN, plain), status=noted)
    assert ProductionEvent.from_json(event.to_json()) == ProductionEvent(card=Card(1, TOKEN), status=plain)
    step = Transition(previous=noted, current=produced, elapsed=1.0, polls=1)
    one = PendingCard(card=Card(1, TOKEN), started_at=0, next_poll_at=0, last=noted, undelivered=(step,))
    (again,) = Checkpoint.from_json(Checkpoint(id="x", pending=(one,)).to_json()).pending
    assert (again.last, again.undelivered[0].previous) == (plain, plain)
    assert again.undelivered[0].current == ProductionStatus("PRODUCED")


@attrs.frozen(kw_only=True)
class PricedEvent(ProductionEvent):
    """An event with fields of the caller's own, the type of one of which only a type checker knows."""

    row: int = 0
    price: Decimal | None = None


@attrs.frozen(kw_only=True)
class PricedCheckpoint(Checkpoint):
    """A checkpoint with such fields."""

    row: int = 0
    price: Decimal | None = None


def test_json_of_subclasses_with_fields_of_their_own() -> None:
    """A subclass is written as what it is read as, and reads that, whatever fields it has and of whatever types."""
    priced = PricedEvent(card=Card(1, TOKEN), status=READY, row=7)
    event = ProductionEvent(card=Card(1, TOKEN), status=READY)
    assert priced.to_json() == event.to_json()
    assert ProductionEvent.from_json(priced.to_json()) == event
    assert PricedEvent.from_json(event.to_json()) == attrs.evolve(priced, row=0)
    waits = Checkpoint.for_cards([(1, TOKEN)])
    priced_waits = PricedCheckpoint(id=waits.id, pending=waits.pending, row=7)
    assert priced_waits.to_json() == waits.to_json()
    assert Checkpoint.from_json(priced_waits.to_json()) == waits
    assert PricedCheckpoint.from_json(waits.to_json()) == attrs.evolve(priced_waits, row=0)


def test_bad_json_of_an_event() -> None:
    """What was not written by `to_json`, or by another version, is refused."""
    not_ours = "this is not what ProductionEvent.to_json gave: "
    texts = dict.fromkeys(("", "[]", "null", "1", "[" * 100_000), not_ours + "it is no JSON object") | {
        "{}": not_ours + "it has no version",
        json.dumps(WRITTEN | {"version": 2}): (
            "this was written by ProductionEvent.to_json in version 2; known is version 1: install a newer one"
        ),
        json.dumps(WRITTEN | {"card": {"profile_id": 0, "card_token": "a"}}): (
            not_ours + "profile_id must be from 1 to 2**63 - 1; this one is below that @ card"
        ),
        json.dumps(WRITTEN | {"status": {"status": 5}}): not_ours + "expected a string @ status.status",
        json.dumps(WRITTEN | {"status": "READY"}): not_ours + "expected an object @ status",
        json.dumps(WRITTEN | {"sent_at": "soon"}): (
            not_ours + "expected a time, in whole microseconds since 1970 @ sent_at"
        ),
        json.dumps(WRITTEN | {"unknown": 1}): (not_ours + "unknown fields: unknown"),
    }
    with Table() as table:
        for text, problem in texts.items():
            with table.row(text):
                with pytest.raises(UsageError) as caught:
                    ProductionEvent.from_json(text)
                assert str(caught.value) == problem


def test_event_that_cannot_be() -> None:
    """An invalid event or status is refused when it is made, not when it is delivered or compared."""
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - it is what must be refused
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"card": (1, "a")}, "card must be a Card or None, not a tuple"),
        ({"status": "PRODUCED"}, "status must be a ProductionStatus, not a str"),
        (
            {"status": ProductionStatus("READY", occurred_at=naive)},
            "occurred_at must be an aware datetime or None, not ",
        ),
        ({"sent_at": naive}, "sent_at must be an aware datetime or None, not "),
        ({"sent_at": "2026-01-01T00:00:00Z"}, "sent_at must be an aware datetime or None, not "),
    ]
    with pytest.raises(UsageError, match=r"^after: its occurred_at must be an aware datetime or None"):
        KnownCard(1, TOKEN, ProductionStatus("READY", occurred_at=naive))
    with Table() as table:
        for change, problem in wrong:
            fields: dict[str, Any] = {"card": Card(1, TOKEN), "status": READY} | change
            with table.row(problem), pytest.raises(UsageError, match=f"^an event's {problem}"):
                ProductionEvent(**fields)
