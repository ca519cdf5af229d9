"""Lists of cards: what is read, and which rows are refused."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cardprod
from cardprod import Card, ProductionStatus, UsageError
from cardprod.card_files import BadRow, encoding_of, read_cards
from cardprod.models import KnownCard
from tests.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from cardprod.simulator import Simulator

TOKEN = "card_token must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ -, and not '.' or '..'"
EXPECTED = "; expected profile_id,card_token"
NO_NUMBER = "profile_id must be a whole number, such as 123456"
OBJECT = '; expected {"profile_id": 123456, "card_token": "…"}'


def read(text: str) -> list[Card | str]:
    """Read a text, in lines as a file has them."""
    rows = read_cards(io.StringIO(text, newline="\n"))
    return [row if isinstance(row, Card) else f"{row.line}: {row.reason}" for row in rows]


def test_a_bad_row_says_where(tmp_path: Path) -> None:
    """A bad row names its line, and the file if there is one, in the form that editors know."""
    path = tmp_path / "cards.csv"
    path.write_text("1,a\n2\n")
    with path.open() as file:
        assert str([*read_cards(file)][1]).startswith(f"{path}:2: the row has 1 columns")
    assert str([*read_cards(["1,a\n", "2\n"])][1]).startswith("line 2: the row has 1 columns")


async def test_rows_are_taken_wherever_cards_are(kiosk: Simulator, client: cardprod.Client) -> None:
    """What the reader yields for a card is taken wherever cards are; where a wait begins, the known status counts."""
    kiosk.add((1, "a"), [("READY", 0), ("PRODUCTION_ERROR", 60), ("IN_PROGRESS", 5), ("PRODUCED", 0)])
    known = await client.get_status(1, "a")
    names = "profile_id,card_token,after_status,after_occurred_at"
    [row] = read_cards([names, f"1,a,{known.status},{known.occurred_at}"])
    assert isinstance(row, KnownCard)
    assert [*row] == [1, "a"]
    assert {**await client.get_statuses([row])} == {(1, "a"): known}
    assert [one.last for one in cardprod.Checkpoint.for_cards([row]).pending] == [row.after]
    async with client.wait_until_all_final(None) as steps:
        steps.add(row)
        steps.no_more()
        seen = [step.current.status async for _, step in steps if isinstance(step, cardprod.Transition)]
    assert seen == ["IN_PROGRESS", "PRODUCED"]


def test_csv() -> None:
    """A CSV list needs no header; empty rows, spaces around cells and further columns do not matter."""
    assert read("1,a\n\n 2 , b \n,,\n3,c,Smith\n") == [Card(1, "a"), Card(2, "b"), Card(3, "c")]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "names", [("profile_id", "card_token"), ("Card Token", "PROFILE_ID"), ("profileId", "Holder", "card-token")]
)
def test_headers(names: tuple[str, ...], separator: str) -> None:
    """A header names the columns in any case and order, with any of the three separators, marked or not."""
    cells = {"p": "7", "c": "a", "H": "Smith"}
    row = separator.join(cells["c" if name[0] in "cC" else "H" if name == "Holder" else "p"] for name in names)
    text = f"{separator.join(names)}\n{row}\n"
    for before in ("", "\ufeff", f"sep={separator}\n", f"\ufeffSEP={separator}\n\n", '"sep=' + separator + '"\n'):
        assert read(before + text) == [Card(7, "a")]


def test_other_separators() -> None:
    """Without a header, what follows the first number separates; `sep=` allows others."""
    assert read("7;a\n8;b") == [Card(7, "a"), Card(8, "b")]
    assert read("7\ta") == [Card(7, "a")]
    assert read("sep=|\n7|a,b\n8|c\n") == [
        f"2: {TOKEN}; this one of profile 7, 'a,b', has ',' as character 2",
        Card(8, "c"),
    ]


def test_known_statuses() -> None:
    """A row can name the status that is known of its card, in CSV and in JSON lines alike; empty cells name none."""
    half_past_nine = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)
    known = ProductionStatus("PRODUCTION_ERROR", occurred_at=half_past_nine, error_code="JAM")
    expected: list[Any] = [((1, "a"), known), ((2, "b"), None), ((3, "c"), ProductionStatus("READY"))]
    rows = "1,a,PRODUCTION_ERROR,2026-11-26T09:30:00Z,JAM\n2,b,,,\n3,c,READY\n"
    text = f"profile_id,card_token,After status,after_occurred_at,afterErrorCode\n{rows}"
    assert [(row, getattr(row, "after", None)) for row in read_cards(io.StringIO(text))] == expected
    lines = [
        {
            "profile_id": 1,
            "card_token": "a",
            "after_status": "PRODUCTION_ERROR",
            "after_occurred_at": "2026-11-26T10:30:00+01:00",
            "after_error_code": "JAM",
        },
        {"profile_id": 2, "card_token": "b", "after_status": None},
        {"profile_id": 3, "card_token": "c", "after_status": "READY"},
    ]
    in_json = read_cards(json.dumps(line) for line in lines)
    assert [(row, getattr(row, "after", None)) for row in in_json] == expected


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (",2026-11-26T09:30:00Z,", "after_status must be given"),
        (",,JAM", "after_status must be given"),
        ("PRODUCTON_ERROR,,", "after_status must be as it was reported: PRODUCTION_ERROR, not 'PRODUCTON_ERROR'"),
        ("ready,,", "after_status must be as it was reported: READY, not 'ready'"),
        ("READY,2026-11-26T09:30:00,", "after_occurred_at must be a time with its offset"),
        ("READY,yesterday,", "after_occurred_at must be a time with its offset"),
    ],
)
def test_known_statuses_that_cannot_be(cells: str, words: str) -> None:
    """A known status without its name, or with a time that is none, makes a bad row."""
    header = "profile_id,card_token,after_status,after_occurred_at,after_error_code\n"
    [row] = read_cards(iter([header, f"1,a,{cells}"]))
    assert words in str(row)


def test_a_header_is_the_first_row() -> None:
    """A row of names that is not the first is no card, and one that names a column twice ends the list."""
    assert read("1,a\nprofile_id,card_token\n2,b") == [
        Card(1, "a"),
        f"2: {NO_NUMBER}; this row has 'profile_…",
        Card(2, "b"),
    ]
    [refused] = read("profile_id,card_token,Card Token\n1,a,b\n")
    assert refused == f"1: the header has card_token twice{EXPECTED}, each once"


def test_a_header_without_one_of_the_two() -> None:
    """A header that names only one of the columns ends the list: no other column is taken for it."""
    assert read("foo,cardToken\n1,a\n") == [f"1: the header has no profile_id{EXPECTED}, among any others"]


def test_a_first_row_that_is_nothing() -> None:
    """A first row that is no card and no known header ends the list: which columns are meant is unknown."""
    for first in ("profile,token", "Cards of November", "card-1,123456"):
        [refused] = read(f"{first}\n1,a\n")
        assert isinstance(refused, str)
        assert refused.startswith("1: the first row is no card, because '")
        assert refused.endswith(f" is no number, and no header{EXPECTED}")


def test_the_header_that_was_expected() -> None:
    """A bad row is reported with the header of its list."""
    assert read("Holder;Card_Token;Profile_ID\nSmith;a;x\nSmith;b\n") == [
        f"2: {NO_NUMBER}; this row has 'x'",
        "3: the row has 2 columns; expected Holder;Card_Token;Profile_ID",
    ]


def test_json_lines() -> None:
    """A line of JSON is an object with the two fields; what else it holds is ignored."""
    text = '{"profile_id": 1, "card_token": "a", "x": []}\n\n{"card_token": "b", "profileId": "2"}\n1,c\n[]\n'
    assert read(text) == [
        Card(1, "a"),
        Card(2, "b"),
        f"4: the line is no JSON object{OBJECT}",
        f"5: the line is no JSON object{OBJECT}",
    ]


def test_bad_rows() -> None:
    """A row that is no card is named by its line and what is wrong with it; the others are read."""
    rows: dict[str, Card | str] = {
        "1,a": Card(1, "a"),
        "x,b": f"{NO_NUMBER}; this row has 'x'",
        "-1,b": f"{NO_NUMBER}; this row has '-1'",
        "\u0661,b": f"{NO_NUMBER}; this row has '\\u0661'",
        "\u00b2,b": f"{NO_NUMBER}; this row has '\\xb2'",
        "123 456,b": f"{NO_NUMBER}; this row has '123 456'",
        ",b": f"{NO_NUMBER}; this row has nothing",
        f"{'ca0c8154-1e14'},b": f"{NO_NUMBER}; this row has 'ca0c8154…",
        "0,b": "profile_id must be from 1 to 2**63 - 1; this one is below that",
        "3": "the row has 1 columns" + EXPECTED,
        "4,no token!": f"{TOKEN}; this one of profile 4, 'no token'…, has ' ' as character 3",
        '"a"b,1': "this is not CSV: ',' expected after '\"'" + EXPECTED,
        "9" * 5000 + ",a": "profile_id is too long a number",  # more digits than Python reads
        "6,": f"{TOKEN}; this one of profile 6, '', is empty",
        "5,e": Card(5, "e"),
        '"open,1': "this is not CSV: unexpected end of data" + EXPECTED,
    }
    assert read("\n".join(rows)) == [
        row if isinstance(row, Card) else f"{number}: {row}" for number, row in enumerate(rows.values(), start=1)
    ]


def test_bad_objects() -> None:
    """An object that is no card is named as that."""
    rows: dict[str, str] = {
        '{"profile_id": 1.5, "card_token": "a"}': f"{NO_NUMBER}; this row has 1.5",
        '{"profile_id": true, "card_token": "a"}': f"{NO_NUMBER}; this row has True",
        '{"profile_id": null, "card_token": "a"}': f"{NO_NUMBER}; this row has nothing",
        "{bad": f"the line is no JSON object{OBJECT}",
        '{"profile_id": 1}': f"profile_id or card_token is missing{OBJECT}",
        '{"card_token": "a"}': f"profile_id or card_token is missing{OBJECT}",
        '{"profile_id": 1, "card_token": 5}': "card_token must be a str; this is a int",
        '{"a":' * 100_000: f"the line is no JSON object{OBJECT}",
    }
    with Table() as table:
        for text, reason in rows.items():
            with table.row(text):
                assert read(text) == [f"1: {reason}"]


def test_a_quote_that_is_not_closed() -> None:
    """A quote that is not closed costs the rows in it, and its message says up to which line."""
    text = "".join(f"{number},card-{number}\n" for number in range(1, 20_000))
    rows = read(f'1,first\n2,"open\n{text}')
    [refused] = [row for row in rows if isinstance(row, str)]
    assert refused.startswith("2: this is not CSV (up to line ")
    assert rows[-1] == Card(19_999, "card-19999")


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20)
CARDS = st.builds(Card, st.integers(1, 2**63 - 1), st.from_regex(r"[a-zA-Z0-9._~-]{3,40}", fullmatch=True))


@given(st.lists(st.tuples(CARDS, TEXTS)), st.sampled_from(",;\t"), st.booleans())
def test_what_csv_writers_write(rows: list[tuple[Card, str]], separator: str, has_header: bool) -> None:
    """Whatever notes stand beside the cards, line breaks, quotes and separators too, exactly the cards are read."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator)
    if has_header:
        writer.writerow(["Note\nof the holder", "Card Token", "Profile ID"])
    for card, note in rows:
        cells = [note, card.card_token, card.profile_id]
        writer.writerow(cells if has_header else [cells[2], cells[1], note])
    assert read(file.getvalue().replace("\r\n", "\n")) == [card for card, _ in rows]


@given(st.lists(st.tuples(CARDS, TEXTS)))
def test_what_json_writers_write(rows: list[tuple[Card, str]]) -> None:
    """Whatever else stands in JSON lines, U+2028 too, exactly the cards are read."""
    objects: list[dict[str, Any]] = [
        {"note": note, "profile_id": card.profile_id, "card_token": card.card_token} for card, note in rows
    ]
    assert read("\n".join(json.dumps(one, ensure_ascii=False) for one in objects)) == [card for card, _ in rows]


@given(st.lists(st.text(max_size=30)))
def test_hostile_lines(lines: list[str]) -> None:
    """Whatever the lines are, each row gives a card or a refusal, and nothing is raised."""
    for row in read_cards(f"{line}\n" for line in lines):
        assert isinstance(row, Card | BadRow)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(encoding: str) -> None:
    """What editors and spreadsheets write is recognized by its beginning."""
    for text in ("profile_id,card_token\n1,ä\n", "1,a", '{"profile_id": 1}'):
        written = text.encode(encoding)
        assert written.decode(encoding_of(written[:4])) == text


def test_one_text_is_no_list() -> None:
    """A text is refused at the call: it would be read character by character."""
    with pytest.raises(UsageError, match="lines must be many"):
        read_cards("profile_id,card_token\n")
