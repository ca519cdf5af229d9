"""Lists of cards: what is read, and what is complained of, line by line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cardprod import Card
from cardprod.card_files import BadRow, read_cards

TOKEN = "card_token must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ -, and not '.' or '..'"


def read(text: str) -> list[Card | str]:
    return [row if isinstance(row, Card) else str(row) for row in read_cards(text.splitlines())]


def test_csv() -> None:
    """A CSV file needs no names; empty lines and spaces around cells do not matter."""
    assert read("1,a\n\n 2 , b \n") == [Card(1, "a"), Card(2, "b")]


def test_csv_with_names() -> None:
    """Where the first line names the columns, they may stand in any order, among others."""
    text = '\ufeffholder,card_token,profile_id\n"Smith, J.",a,1\n,b,2\n'
    assert read(text) == [Card(1, "a"), Card(2, "b")]


def test_json_lines() -> None:
    """A line of JSON is an object with the two fields; what else it holds is passed over."""
    assert read('{"profile_id": 1, "card_token": "a", "x": []}\n{"card_token": "b", "profile_id": "2"}') == [
        Card(1, "a"),
        Card(2, "b"),
    ]


def test_bad_rows_are_named() -> None:
    """A line that is no card is named by its number and what is wrong with it; the others are read."""
    text = '1,a\nx,b\n3\n{"profile_id": 1.5, "card_token": "a"}\n{bad\n4,no token!\n{"profile_id": 1}\n"open,1\n5,e'
    assert read(text) == [
        Card(1, "a"),
        "line 2: profile_id must be a whole number, such as 123456",
        "line 3: no card_token: a row is profile_id,card_token",
        "line 4: profile_id must be a whole number, such as 123456",
        "line 5: neither CSV nor a JSON object",
        f"line 6: {TOKEN}; this one has 9 characters and does not qualify",
        "line 7: no card_token: a row is profile_id,card_token",
        "line 8: neither CSV nor a JSON object",
        Card(5, "e"),
    ]


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n"), max_size=30)))
def test_hostile_lines(lines: list[str]) -> None:
    """Whatever the lines are, each gives a card or a complaint, and nothing is raised."""
    for row in read_cards(lines):
        assert isinstance(row, Card | BadRow)
