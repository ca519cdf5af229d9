"""The codec: what is written is read again as it was, and nothing else is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod import Card, ErrorCode, ProductionStatus, Status, UsageError
from cardprod._protocol.codec import Count, UnixTime, as_datetime, from_json, to_json, to_plain, unix_time
from tests.table import Table


@attrs.frozen(kw_only=True)
class Sample:
    """One field of each kind that the codec knows."""

    text: str = ""
    count: Count = 0
    number: float = 0.0
    flag: bool = False
    moment: datetime | None = None
    unix: UnixTime | None = None
    choice: Literal["poll", "webhook"] = "poll"
    card: Card | None = None
    statuses: tuple[ProductionStatus, ...] = ()


TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]))
SAMPLES: Final = st.builds(
    Sample,
    text=TEXT,
    count=st.integers(0, 2**63 - 1),
    number=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    moment=st.none() | st.datetimes(timezones=st.just(UTC)),
    unix=st.none() | st.integers(-62135596800000000, 253402300799999999),
    choice=st.sampled_from(["poll", "webhook"]),
    card=st.none() | st.builds(Card, st.integers(1, 2**63 - 1), st.just("a-b.c~d_e")),
    statuses=st.lists(
        st.builds(
            ProductionStatus,
            TEXT.filter(str.strip) | st.sampled_from(Status),
            occurred_at=st.none() | st.datetimes(timezones=st.just(UTC)),
            error_code=st.none() | TEXT | st.sampled_from(ErrorCode),
        ),
        max_size=3,
    ).map(tuple),
)


def read(text: str) -> Sample:
    return from_json(Sample, text, version=3, writer="Sample")


@given(SAMPLES)
def test_round_trip(sample: Sample) -> None:
    """What was written is read as it was, its enums included."""
    again = read(to_json(Sample, sample, version=3))
    assert again == sample
    for status, before in zip(again.statuses, sample.statuses, strict=True):
        assert (type(status.status), type(status.error_code)) == (type(before.status), type(before.error_code))


def test_one_line_of_plain_json() -> None:
    """A value is one line of ASCII, the version first, its times whole microseconds."""
    moment = datetime(2026, 11, 24, 13, tzinfo=timezone(timedelta(hours=1)))
    text = to_json(Sample, Sample(text="ü\n", moment=moment), version=3)
    assert text.startswith('{"version":3,"text":"\\u00fc\\n","count":0,')
    assert '"moment":1795521600000000,' in text
    assert read(text).moment == moment


def test_fields_with_defaults_may_be_missing() -> None:
    """A field that has a default may be missing; one that has none, or is unknown, may not."""
    assert read('{"version": 3}') == Sample()
    with pytest.raises(UsageError, match=r"^this is not what Card gave: profile_id is missing @ profile_id$"):
        from_json(Card, '{"version": 3, "card_token": "a"}', version=3, writer="Card")
    with pytest.raises(UsageError, match=r"^this is not what Sample gave: unknown fields: a, b$"):
        read('{"version": 3, "b": 1, "a": 2}')


WRONG: Final[dict[str, list[Any]]] = {
    "text": [None, 1, ["a"], "\ud800"],
    "count": [None, -1, True, 1.0, "1", 2**63],
    "number": [None, "1", True, float("nan"), float("inf"), 10**400],
    "flag": [None, 0, "true"],
    "moment": ["2026-11-24T12:00:00+00:00", 1.5, True, 10**18, -(10**17)],
    "unix": ["1", 1.5, True, 10**18, -(10**17)],
    "choice": [None, "rumour", 1, []],
    "card": [[1, "a"], "1/a", {"profile_id": "1", "card_token": "a"}, {"profile_id": 1, "card_token": ".."}],
    "statuses": [None, {}, "", [None], [{"status": None}], [{"status": "READY", "error_code": 5}]],
}


def test_nothing_is_coerced() -> None:
    """A value of another type, or out of range, is refused, and the message says where it is."""
    with Table() as table:
        for name, values in WRONG.items():
            for value in values:
                with table.row((name, str(value)[:40])), pytest.raises(UsageError, match=rf" @ {name}") as caught:
                    read(json.dumps({"version": 3, name: value}))
                assert caught.value.__cause__ is None


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*WRONG, "version", "other"]), JSON)
def test_hostile_values(name: str, value: object) -> None:
    """Whatever stands in the JSON, the value is read, and can be written again, or a `UsageError` refuses it."""
    try:
        sample = read(json.dumps({"version": 3, name: value}))
    except UsageError:
        return
    assert read(to_json(Sample, sample, version=3)) == sample


def test_times() -> None:
    """Times outside of every calendar become its end, and microseconds are kept."""
    assert as_datetime(unix_time(1e300)) == as_datetime(unix_time(1e15)) == datetime.max.replace(tzinfo=UTC)
    assert as_datetime(unix_time(1795521600.123456)) == datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)


LEAST_TIME: Final = -62_135_596_800_000_000
MOST_TIME: Final = 253_402_300_799_999_999


def test_bounds() -> None:
    """The least and the most of each number are read, and nothing beyond them."""
    for name, least, most in (
        ("count", 0, 2**63 - 1),
        ("unix", LEAST_TIME, MOST_TIME),
        ("moment", LEAST_TIME, MOST_TIME),
    ):
        for value in (least, most):
            assert json.loads(to_json(Sample, read(json.dumps({"version": 3, name: value})), version=3))[name] == value
        for value in (least - 1, most + 1):
            with pytest.raises(UsageError, match=rf" @ {name}$"):
                read(json.dumps({"version": 3, name: value}))
    assert (unix_time(-1e300), unix_time(1e300)) == (LEAST_TIME, MOST_TIME)


def test_plain() -> None:
    """Plain values are objects, arrays and scalars, but for times."""
    status = ProductionStatus(Status.READY, occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
    plain = to_plain(Sample(card=Card(1, "a"), statuses=(status,)))
    assert plain["card"] == {"profile_id": 1, "card_token": "a"}
    assert [one["status"] for one in plain["statuses"]] == ["READY"]
