"""What the command prints: everything foreign is harmless, in the words of the command line, with whole tokens."""

from __future__ import annotations

import ast
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hypothesis import given
from hypothesis import strategies as st

import cardprod
from cardprod import Card, CardprodError, ProductionStatus, ServerError, Transition, errors
from cardprod.card_files import BadRow
from cardprod.cli.output import Output
from cardprod.cli.output.events import BadRowFound, Event, Report, Result, Warned, WatchEnded, WatchStarted
from cardprod.cli.watch.stats import WatchStats
from cardprod.cli.words import clock, count_of, in_words, printable, roughly
from tests.cli.commands import output_of
from tests.table import Table

if TYPE_CHECKING:
    import pytest

TOKEN: Final = "ca0c8154-1e14-4464-a1ce-dcea7dc3de52"
CARD: Final = Card(123456, TOKEN)
HOSTILE: Final = "\x1b[2J\r\n   1.0 s  1/other  PRODUCED\u2028\u202e\x07\x9b" + " " * 200 + "1/other  PRODUCED"


def events_with(text: str) -> list[Event]:
    """Make events of every kind, with a text everywhere that a server, a list or an environment can put one."""
    status = ProductionStatus(text, text, None, text, text)
    error = ServerError(text, http_status=500, code=text, detail=text, card=CARD)
    stats = WatchStats(0)
    stats.add([CARD, Card(1, "other"), Card(1, "third")])
    stats.report(CARD, status, 1, is_end=False)
    stats.report(Card(1, "other"), ProductionStatus("PRODUCTION_ERROR", text, None, text, text), 1, is_end=True)
    stats.report(Card(1, "third"), error, 1, is_end=True)
    stats.poll_failed(error)
    progress = stats.progress(2, 3)
    return [
        Result(status, CARD),
        Result(error, CARD),
        Result(Transition(status, status, 1, 1), CARD, 1),
        Result(error, CARD, 1),
        BadRowFound(text, BadRow(1, text)),
        WatchStarted(text, 3, 0, 0, 1000, text, is_resumed=True),
        progress,
        WatchEnded(progress, "Unauthorized", text),
        Warned(text),
    ]


def printed(output: Output, events: list[Event], read: Any, capfd: pytest.CaptureFixture[str]) -> list[str]:
    for event in events:
        output.emit(event)
    captured = capfd.readouterr()
    return [*read().split("\n"), *captured.err.split("\n"), *captured.out.split("\n")]


def test_a_servers_words_make_no_lines(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is in a server's words, no more lines are printed than with harmless ones, and all are printable."""
    with output_of() as (output, read):
        harmless = printed(output, events_with("x"), read, capfd)
    with output_of() as (output, read):
        hostile = printed(output, events_with(HOSTILE), read, capfd)
    assert len(hostile) == len(harmless)
    for line in hostile:
        assert line.isprintable()
        assert not re.match(r" *[0-9.]+ s  1/other  PRODUCED$", line)


@given(st.text())
def test_hostile_reports(text: str) -> None:
    """Whatever a text is, what is printed of it is printable, line by line."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        Output.to(file).emit(Report(text))
        file.seek(0)
        lines = file.read().split("\n")
    assert len(lines) == text.count("\n") + 2
    assert all(line.isprintable() for line in lines)


def test_json_is_ascii() -> None:
    """In JSON, a server's words are data: each event is one line of printable ASCII, and says what they were."""
    with output_of("--json") as (output, read):
        for event in events_with(HOSTILE):
            output.emit(event)
        lines = read().splitlines()
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert json.loads(lines[0])["status"] == HOSTILE


# --- Words ---

CODE: Final = re.compile(
    r"\w+=|_mtls|\b(ssl|base_url|api_version|allow_plain_http|load_cert_chain|Client|on_steps|batch_id|True|False|None)\b"
)
"""What only those know who write Python."""

SEEN: Final = ("_http/failures.py", "_http/proxies.py", "_protocol/requests.py", "_protocol/api_errors.py")
"""The modules whose messages users of the command see."""


def messages_of(file: Path) -> list[str]:
    """List the texts of a module that are sentences, or parts of one: in calls of errors, and in tables."""
    tree = ast.parse(file.read_text("utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    texts = [node.value for node in constants if isinstance(node.value, str)]
    return [text for text in texts if text.count(" ") > 2 and not text.startswith("(?") and "Literal[" not in text]


def test_words_of_the_command_line() -> None:
    """No message of the client that a user of the command can see names an argument or a class of Python."""
    with Table() as table:
        for name in SEEN:
            for message in messages_of(Path(cardprod.__file__).parent / name):
                with table.row(name, message):
                    assert CODE.findall(in_words(message)) == []
                    assert ("check base_url" in message) == ("check CARDPROD_BASE_URL (https://" in in_words(message))


def test_a_card_is_named_alike() -> None:
    """What is said of a card names it in one way, with its whole token; in JSON, where a field names it, not at all."""
    error = ServerError("no answer", http_status=500, card=CARD)
    with output_of() as (output, read), output_of("--json") as (json_output, read_json):
        for each in (output, json_output):
            each.emit(Result(error, CARD, 1))
            each.emit(Result(ProductionStatus("READY"), CARD))
        assert re.fullmatch(rf" +1\.0 s  123456/{TOKEN}  no answer\n123456/{TOKEN}  READY\n", read())
        assert json.loads(read_json().splitlines()[0])["message"] == "no answer"
    assert in_words(f"a poll failed: {error}") == f"a poll failed: {CARD}: no answer"


def test_no_class_names() -> None:
    """In text, no class of errors is named."""
    with output_of() as (output, read), Table() as table:
        names = [name for name in errors.__all__ if issubclass(getattr(errors, name), CardprodError)]
        for name in names:
            error = getattr(errors, name).__new__(getattr(errors, name), "went wrong")
            error.card = None
            stats = WatchStats(0)
            stats.add([CARD])
            stats.report(CARD, error, 1, is_end=True)
            output.emit(Result(error, CARD))
            output.emit(WatchEnded(stats.progress(2, 3), None, None))
            with table.row(name):
                assert name not in read()


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
