"""Words and numbers as people read them."""

from __future__ import annotations

from cardprod.cli.words import clock, count_of, printable, roughly


def test_roughly() -> None:
    """An estimate is shown no more exactly than it can be."""
    estimates = {
        None: "—",
        0: "about 10 s",
        44: "about 40 s",
        89: "about 90 s",
        91: "about 2 min",
        3600: "about 60 min",
        5500: "about 2 h",
        100_000: "about 28 h",
        200_000: "about 2 days",
        1e9: "about 11,574 days",
    }
    assert {seconds: roughly(seconds) for seconds in estimates} == estimates


def test_clock() -> None:
    """Time that has passed is written as a clock does."""
    times = {0: "0:00", 125.9: "2:05", 3725: "1:02:05", 360_000: "100:00:00"}
    assert {seconds: clock(seconds) for seconds in times} == times


def test_count_of() -> None:
    """One is one, and thousands are grouped."""
    assert [count_of(count, "card") for count in (0, 1, 1234)] == ["0 cards", "1 card", "1,234 cards"]


def test_printable() -> None:
    """What could play with a terminal is taken out."""
    assert printable("a\x1b[2J\x07 ü 卡\n") == "a�[2J� ü 卡�"
