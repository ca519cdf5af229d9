"""Lists of cards: what is read, and which lines are refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cardprod import Card
from cardprod.card_files import BadRow, read_cards

TOKEN = "card_token must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ -, and not '.' or '..'"
NO_NUMBER = "profile_id must be a whole number, such as 123456"
NO_LINE = "neither CSV nor a JSON object"


def read(text: str) -> list[Card | str]:
    return [row if isinstance(row, Card) else str(row) for row in read_cards(text.splitlines())]


def test_csv() -> None:
    """A CSV file needs no names; empty lines, spaces around cells and further columns do not matter."""
    assert read("1,a\n\n 2 , b \n3,c,Smith\n") == [Card(1, "a"), Card(2, "b"), Card(3, "c")]


def test_csv_with_names() -> None:
    """Where the first line names the columns, they may stand in any order, among others or alone."""
    text = '\ufeffholder,card_token,profile_id\n"Smith, J.",a,1\n,b,2\n'
    assert read(text) == [Card(1, "a"), Card(2, "b")]
    assert read("\n card_token , profile_id \na,1") == [Card(1, "a")]


def test_names_are_on_the_first_line() -> None:
    """A line of names that is not the first is a line that is no card."""
    for first in ("1,a", '{"profile_id":1,"card_token":"a"}'):
        assert read(f"{first}\nprofile_id,card_token\n2,b") == [Card(1, "a"), f"line 2: {NO_NUMBER}", Card(2, "b")]
    assert read("x\ncard_token,profile_id\n2,b") == [
        "line 1: no card_token: a row is profile_id,card_token",
        f"line 2: {NO_NUMBER}",
        Card(2, "b"),
    ]


def test_json_lines() -> None:
    """A line of JSON is an object with the two fields; what else it holds is passed over."""
    assert read('{"profile_id": 1, "card_token": "a", "x": []}\n{"card_token": "b", "profile_id": "2"}') == [
        Card(1, "a"),
        Card(2, "b"),
    ]


def test_bad_rows_are_named() -> None:
    """A line that is no card is named by its number and what is wrong with it; the others are read."""
    rows: dict[str, Card | str] = {
        "1,a": Card(1, "a"),
        "x,b": NO_NUMBER,
        "-1,b": NO_NUMBER,
        "\u0661,b": NO_NUMBER,
        "\u00b2,b": NO_NUMBER,
        "0,b": "profile_id must be from 1 to 2**63 - 1, as Wise's profile ids are",
        "3": "no card_token: a row is profile_id,card_token",
        '{"profile_id": 1.5, "card_token": "a"}': NO_NUMBER,
        '{"profile_id": true, "card_token": "a"}': NO_NUMBER,
        '{"profile_id": null, "card_token": "a"}': NO_NUMBER,
        "{bad": NO_LINE,
        "4,no token!": f"{TOKEN}; this one has 9 characters and does not qualify",
        '{"profile_id": 1}': "no card_token: a row is profile_id,card_token",
        '{"card_token": "a"}': "no profile_id: a row is profile_id,card_token",
        '{"profile_id": 1, "card_token": 5}': "card_token must be a str; this is a int",
        '{"a":' * 100_000: NO_LINE,
        '"open,1': NO_LINE,
        '"a"b,1': NO_LINE,
        "9" * 5000 + ",a": NO_LINE,  # more digits than Python reads
        "5,e": Card(5, "e"),
    }
    assert read("\n".join(rows)) == [
        row if isinstance(row, Card) else f"line {number}: {row}" for number, row in enumerate(rows.values(), start=1)
    ]


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n"), max_size=30)))
def test_hostile_lines(lines: list[str]) -> None:
    """Whatever the lines are, each gives a card or a refusal, and nothing is raised."""
    for row in read_cards(lines):
        assert isinstance(row, Card | BadRow)
