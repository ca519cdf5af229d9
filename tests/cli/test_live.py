"""The live view: it fits every terminal, says all without colours, and moves only where something can move."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pty
import re
import signal
import sys
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from cardprod import Card, CardNotFound, CardprodError, ProductionStatus
from cardprod.cli.output import Output
from cardprod.cli.output.events import WatchProgress, WatchStarted
from cardprod.cli.output.live import Seen, frame
from cardprod.cli.output.text import TextLines
from cardprod.cli.watch.stats import WatchStats
from cardprod.simulator import Stage
from tests.cli.commands import run, start_command, write_list
from tests.table import Table
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from cardprod.simulator import Simulator

HIDE, SHOW, CURSOR_UP = "\x1b[?25l", "\x1b[?25h", "\x1b[1A"
STARTED = WatchStarted(
    name="cards-of-november.csv",
    cards=50,
    ended=0,
    bad_rows=2,
    per_minute=1000,
    checkpoint="cards.state",
    is_resumed=False,
)


def shown(*, words: str = "") -> tuple[WatchProgress, list[Seen]]:
    """Count 50 cards of all kinds, a minute after the beginning, and list what was seen of them last."""
    cards = [Card(123456, f"ca0c8154-1e14-4464-a1ce-{number:012}") for number in range(50)]
    stats = WatchStats(0)
    stats.add(cards)
    stats.bad_rows = 2
    ends = [ProductionStatus("PRODUCED", kiosk_id="WIS00001")] * 4 + [
        ProductionStatus("PRODUCTION_ERROR", kiosk_id="WIS00001", error_code="PRD_FEEDER_JAM"),
        ProductionStatus("REQUEST_ERROR", error_code="KIOSK_ID_NOT_FOUND", description=words),
        ProductionStatus(words or "ON_THE_MOON", error_code=words or None, description=words),
    ]
    seen: list[Seen] = []
    for number, card in enumerate(cards[:25]):
        outcomes: list[ProductionStatus | CardprodError] = [ProductionStatus("READY")]
        outcomes += [ends[number // 2 % len(ends)]] if number % 2 else []
        outcomes += [CardNotFound(f"404 {words}", http_status=404, card=card)] if number % 13 == 0 else []
        for outcome in outcomes:
            stats.report(card, outcome, number, is_end=isinstance(outcome, CardprodError) or outcome.is_final)
            seen.append(Seen.of(card, outcome, number))
        stats.progress(number, 40 * number)
    stats.poll_failed(CardprodError(f"no answer {words}"))
    stats.saved_at = 55
    return stats.progress(61, 2000, paused_for=12), seen


def drawn(words: str, width: int, height: int = 40, **more: Any) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, legacy_windows=False, **more)
    with console.capture() as capture:
        console.print(frame(STARTED, *shown(words=words), width, height))
    return capture.get().splitlines()


def test_it_fits() -> None:
    """A frame is never wider than the terminal, and always a row lower, whatever a server said."""
    sizes = product([1, 2, 10, 20, 40, 60, 80, 120, 300], [1, 2, 5, 10, 24, 60])
    with Table() as table:
        for (width, height), words in product(sizes, ["", "\x1b[2J\n卡" * 50]):
            lines = drawn(words, width, height, no_color=True, color_system=None)
            with table.row(width, height, words):
                assert len(lines) <= max(1, height - 1)
                assert [line for line in lines if cell_len(line) > width or not line.isprintable()] == []


WIDE = """\
cards-of-november.csv  50 cards, 2 bad rows                                                       1:01, about 3 min left
━━━━━━━━━━━━━━━━━━━━━━━━━━━━──────────────────────────────────────────────────────────────────────────────────  13 of 50

  25  not answered yet
  12  READY
   8  PRODUCED
   2  404: this token can see no such card under this profile
   2  PRODUCTION_ERROR  PRD_FEEDER_JAM  Production error: feeder card jam
   1  REQUEST_ERROR     KIOSK_ID_NOT_FOUND  The kiosk ID does not exist

1,960 of 1,000 requests in the last minute  ━━━━━━━━━━━━━━━━━━━━  2,000 in all
paused for 12 s more, as the API asked
1 poll failed in the last minute and will be repeated: no answer
checkpoint cards.state  saved 0:06 ago

    0:19  123456/ca0c8154-1e14-4464-a1ce-000000000019  PRODUCED at WIS00001
    0:20  123456/ca0c8154-1e14-4464-a1ce-000000000020  READY
    0:21  123456/ca0c8154-1e14-4464-a1ce-000000000021  READY
    0:21  123456/ca0c8154-1e14-4464-a1ce-000000000021  PRODUCED at WIS00001
    0:22  123456/ca0c8154-1e14-4464-a1ce-000000000022  READY
    0:23  123456/ca0c8154-1e14-4464-a1ce-000000000023  READY
    0:23  123456/ca0c8154-1e14-4464-a1ce-000000000023  PRODUCTION_ERROR at WIS00001: PRD_FEEDER_JAM (Production error: …
    0:24  123456/ca0c8154-1e14-4464-a1ce-000000000024  READY
"""


def test_what_it_shows() -> None:
    """A frame says how far it is, where the cards are and how they ended, how much is used, and what was seen last."""
    assert "\n".join(line.rstrip() for line in drawn("", 120, color_system=None)) + "\n" == WIDE


def test_what_a_narrow_one_shows() -> None:
    """Where there is no room for a card's token its end is seen, which differs where tokens were counted up."""
    assert "    0:19  …00000000019  PRODUCED at WIS…" in drawn("", 40, color_system=None)


def test_colours_only_add() -> None:
    """Nothing is shown by colours alone: without them a frame says the same."""
    coloured = "\n".join(drawn("", 80, color_system="standard"))
    assert "\x1b[36mREADY" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == "\n".join(drawn("", 80, color_system=None))


# --- A real terminal ---


async def in_terminal(
    kiosk: Simulator, *argv: str, interrupt_at: str | None = None, **environment: str
) -> tuple[int, str]:
    """Run the command in a terminal of 80 columns; give its exit code and all that it wrote there."""
    ours, its = pty.openpty()
    os.set_blocking(ours, False)
    variables = {"COLUMNS": "80", "LINES": "24", "TERM": "xterm", **environment}
    variables |= {"CARDPROD_TOKEN": kiosk.token, "CARDPROD_BASE_URL": kiosk.base_url}
    written = bytearray()

    def read() -> str:
        with contextlib.suppress(
            OSError
        ):  # nothing is there yet; or, in the end, nobody has the terminal open any more
            while part := os.read(ours, 65536):
                written.extend(part)
        return written.decode(errors="replace")

    def read_to_the_end() -> int | None:
        exit_code = running.exit_code  # first, for then nothing comes after what is read now
        read()
        return exit_code

    with start_command("watch", *argv, environment=variables, stdin=its, stdout=its, stderr=its) as running:
        os.close(its)
        if interrupt_at is not None:
            await until(interrupt_at, read, lambda text: interrupt_at in text, child=running)
            running.send(signal.SIGINT)
        exit_code = await until("its end", read_to_the_end, lambda code: code is not None)
    text = read()
    os.close(ours)
    assert exit_code is not None
    return exit_code, text


def two_cards(kiosk: Simulator, tmp_path: Path) -> str:
    """Write a list of two cards, one of which jams."""
    cards = [
        kiosk.add((123456, "card-1"), [("READY", 0.3), ("PRODUCED", 0)]),
        kiosk.add((123456, "card-2"), [("READY", 0.3), Stage("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM")]),
    ]
    return write_list(tmp_path / "cards.csv", cards)


@pytest.mark.looptime(False)
async def test_in_a_terminal(kiosk: Simulator, tmp_path: Path) -> None:
    """In a terminal a view is drawn in place, and in the end there are the lost cards, the summary and the cursor."""
    exit_code, written = await in_terminal(kiosk, two_cards(kiosk, tmp_path))
    assert exit_code == 1
    assert written.startswith(HIDE)
    view, summary = written.split(SHOW)
    assert "requests in the last minute" in view
    assert "card-2" in summary
    assert "PRODUCTION_ERROR at WIS00001: PRD_FEEDER_JAM" in summary
    assert "2 cards: 1 produced, 1 ended in an error" in summary
    assert "requests in the last minute" not in summary


@pytest.mark.looptime(False)
async def test_ctrl_c_in_a_terminal(kiosk: Simulator, tmp_path: Path) -> None:
    """Ctrl-C takes the view away, gives the cursor back, sums up and says how to go on."""
    file, state = write_list(tmp_path / "cards.csv", [kiosk.add((1, "card"), "never")]), str(tmp_path / "state")
    exit_code, written = await in_terminal(kiosk, file, "--checkpoint", state, interrupt_at="READY")
    assert exit_code == 130
    summary = written.split(SHOW)[1]
    assert "1 card: 1 not final" in summary
    assert f"cardprod: stopped by SIGINT; the same command continues from {state}" in summary
    assert "Traceback" not in written


@pytest.mark.looptime(False)
async def test_what_the_terminal_or_the_user_wants(kiosk: Simulator, tmp_path: Path) -> None:
    """In a dumb terminal, or for who wants lines or JSON, nothing moves; with NO_COLOR the view has no colours."""
    rows: dict[tuple[str, ...], tuple[dict[str, str], bool]] = {
        (): ({"TERM": "dumb"}, False),
        ("--plain",): ({}, False),
        ("--json",): ({}, False),
        ("--follow",): ({"NO_COLOR": "1"}, True),
    }
    cards = two_cards(kiosk, tmp_path)
    runs = [
        in_terminal(kiosk, cards, *arguments, interrupt_at="PRD_FEEDER_JAM" if moves else None, **environment)
        for arguments, (environment, moves) in rows.items()
    ]
    with Table() as table:
        for row, (exit_code, written) in zip(rows.items(), await asyncio.gather(*runs), strict=True):
            with table.row(*row):
                moves = row[1][1]
                assert exit_code == (130 if moves else 1)
                assert (HIDE in written, CURSOR_UP in written) == (moves, moves)
                assert "PRD_FEEDER_JAM" in written
                assert not moves or not re.search(r"\x1b\[[0-9;]*3[0-7]m", written)


@pytest.mark.looptime(False)
async def test_forced_colours_move_nothing(kiosk: Simulator, tmp_path: Path) -> None:
    """FORCE_COLOR in a log gives coloured lines, and nothing that moves."""
    environment = {"CARDPROD_TOKEN": kiosk.token, "CARDPROD_BASE_URL": kiosk.base_url, "FORCE_COLOR": "1"}
    with start_command("watch", two_cards(kiosk, tmp_path), environment=environment) as running:
        await running.until_end()
        out = running.out
    assert "\x1b[1;31m" in out
    assert HIDE not in out
    assert CURSOR_UP not in out


@pytest.mark.usefixtures("environment")
async def test_without_rich(
    kiosk: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without the extra there are lines; where a live view could be, in a terminal, it says once what that needs."""
    monkeypatch.delitem(sys.modules, "cardprod.cli.output.live", raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    exit_code, out = await run("watch", two_cards(kiosk, tmp_path))
    assert exit_code == 1
    assert "PRODUCED" in out
    assert "extra" not in capfd.readouterr().err
    for is_live, words in (
        (False, ""),
        (True, r"cardprod: the live view needs the extra 'cli': pip .*; or use --plain\n"),
    ):
        reading_end, writing_end = os.openpty()
        with os.fdopen(writing_end, "w") as terminal:
            assert type(Output.to(terminal, is_live=is_live)) is TextLines
        os.close(reading_end)
        assert re.fullmatch(words, capfd.readouterr().err)
