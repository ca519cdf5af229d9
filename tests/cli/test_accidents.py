"""Accidents of streams and files as they come in real life: each ends with the documented exit code, and a sentence."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

import aiohttp
import attrs
import pytest
import pytest_asyncio

from cardprod import Card
from cardprod.cli.lists import read_list
from cardprod.simulator import Stage
from tests.cli.commands import clean_environment, run, start_command
from tests.table import Table
from tests.waiting import Child, until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cardprod.simulator import Simulator

pytestmark = pytest.mark.looptime(False)  # other processes go by real time

NO_SPACE: Final = "cardprod: standard output cannot be written: No space left on device"
NO_CARDS: Final = "it has no cards; expected profile_id,card_token. With --allow-empty that is no error"
PRODUCED: Final = "1/produced  PRODUCED at WIS00001"
OTHER: Final = "is no checkpoint of `cardprod watch` to continue from"


@attrs.frozen
class Accident:
    """A command line, its exit code, and patterns of what it prints and of what it says of it."""

    line: str
    exit_code: int
    out: str = ""
    err: str = ""
    environment: Mapping[str, str] = {}


STREAMS: Final = {
    "stdout closed": Accident("status 1 produced >&-", 0),
    "stdout full": Accident("status 1 produced >/dev/full", 4, err=NO_SPACE),
    "stdout full, live": Accident("watch one.csv >/dev/full", 4, err=NO_SPACE),
    "stdout full, help": Accident("--help >/dev/full", 4, err=NO_SPACE),
    "stdout full, an error": Accident("status 1 unknown --json >/dev/full", 4, err=NO_SPACE),
    "stdout read only": Accident(
        "status 1 produced 1</dev/null", 4, err="cardprod: standard output cannot be written: Bad file descriptor"
    ),
    "stderr full": Accident("status 1 unknown 2>/dev/full", 4),
    "stderr closed, usage": Accident("status 2>&-", 2),
    "both closed": Accident("status 1 failed >&- 2>&-", 1),
    "all closed, with a checkpoint": Accident("watch one.csv --checkpoint state <&- >&- 2>&-", 0),
    "stdin closed": Accident("watch - <&-", 2, err="cardprod: standard input cannot be read: Bad file descriptor"),
    "stdin is the checkpoint": Accident(
        "watch - --checkpoint empty.csv <empty.csv", 2, err="cardprod: --checkpoint names the list itself.*"
    ),
    "stdin with a bad row, strict": Accident(
        "watch - --strict <bad.csv", 2, err="cardprod: standard input:2: .*\ncardprod: nothing was begun, because .*"
    ),
    "stdin empty": Accident("watch - </dev/null", 2, err=f"cardprod: standard input: {NO_CARDS}"),
    "stdin empty, allowed": Accident(
        "watch - --allow-empty --plain </dev/null", 0, err=r"cardprod: 0 cards: nothing to .*"
    ),
    "stdout latin-1": Accident(
        "status 1 foreign",
        1,
        out=r"1/foreign  PRODUCTION_ERROR at WIS00001: NEW \(Papierstau: \?\?\)",
        environment={"PYTHONIOENCODING": "latin-1"},
    ),
    "stdout ASCII": Accident(
        "status 1 foreign --json",
        1,
        out=r'\{"type": "status", .*\\u5361.*\}',
        environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
}

FILES: Final = {
    "a list with a header alone": Accident("status --file header.csv", 2, err=f"cardprod: header.csv: {NO_CARDS}"),
    "a list that is not there": Accident(
        "watch no.csv", 2, err="cardprod: no.csv cannot be read: No such file or directory"
    ),
    "a list that is a folder": Accident("watch .", 2, err="cardprod: . cannot be read: Is a directory"),
    "a list that is no text": Accident(
        "status --file noise",
        2,
        err=r"(cardprod: noise:\d+: [^\n]+\n)+cardprod: the exit code is 2: no row of the list is a card",
    ),
    "a list with a bad row, strict": Accident(
        "watch bad.csv --strict", 2, err="cardprod: bad.csv:2: .*\ncardprod: nothing was begun, because .*"
    ),
    "a list from a pipe": Accident("status --file /dev/fd/{pipe}", 0, out=PRODUCED),
    "a list of a spreadsheet": Accident("status --file excel.csv", 0, out=PRODUCED),
    "a list of an old spreadsheet": Accident("status --file old.csv", 0, out=PRODUCED),
    "a checkpoint that is the list": Accident(
        "watch one.csv --checkpoint one.csv", 2, err="cardprod: --checkpoint names the list itself: name another file"
    ),
    "an empty list that is the checkpoint": Accident(
        "watch empty.csv --allow-empty --checkpoint empty.csv", 2, err="cardprod: --checkpoint names the list itself.*"
    ),
    "a checkpoint that is another list": Accident(
        "watch one.csv --checkpoint header.csv", 2, err=f"cardprod: header.csv {OTHER}: it is no SQLite database; .*"
    ),
    "authorities that are not there": Accident(
        "status 1 produced --ca no.pem", 2, err="cardprod: the authorities in no.pem cannot be read: No such .*"
    ),
    "authorities that are none": Accident(
        "status 1 produced --ca one.csv", 2, err="cardprod: the authorities in one.csv cannot be used: it is not PEM"
    ),
    "a key without a certificate": Accident(
        "status 1 produced", 2, err=".*: name that with --cert or CARDPROD_CERT", environment={"CARDPROD_KEY": "key"}
    ),
    "no token": Accident("wait 1 card", 2, err=".*no CARDPROD_TOKEN: set it .*", environment={"CARDPROD_TOKEN": ""}),
}


@pytest_asyncio.fixture
async def folder(kiosk: Simulator, tmp_path: Path) -> Path:
    """A folder with lists, and cards at the kiosk."""
    kiosk.add((1, "produced"), [("PRODUCED", 0)])
    kiosk.add((1, "failed"), [("PRODUCTION_ERROR", 0)])
    kiosk.add((1, "foreign"), [Stage("PRODUCTION_ERROR", error_code="NEW", description="Papierstau: 卡片")])
    table = 'sep=;\r\nInhaber;Card Token;PROFILE ID\r\n"Jörg\u2028Müller\r\n7,card";produced;1\r\n;;\r\n'
    contents = {
        "one.csv": b"1,produced\n",
        "empty.csv": b"",
        "bad.csv": b"1,produced\nbad\n",
        "header.csv": b"profile_id,card_token\n",
        "noise": bytes(range(256)) * 9,
        "excel.csv": table.encode("utf-16"),
        "old.csv": table.replace("\u2028", " ").encode("cp1252"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def check(accident: Accident, exit_code: int, out: str, err: str) -> None:
    assert exit_code == accident.exit_code, err
    assert re.fullmatch(accident.out, out.rstrip("\n"), re.DOTALL), out
    assert re.fullmatch(accident.err, err.rstrip("\n")), err


async def test_accidents_of_streams(kiosk: Simulator, folder: Path) -> None:
    """An accident ends with the documented exit code and a sentence or nothing, and words for people are in no JSON."""
    before = contents_of(folder)
    env = clean_environment(CARDPROD_TOKEN=kiosk.token, CARDPROD_BASE_URL=kiosk.base_url, COLUMNS="300")

    async def run_in_shell(accident: Accident) -> None:
        line = f'exec "$0" -m cardprod {accident.line}'
        with Child("bash", "-c", line, sys.executable, env={**env, **accident.environment}, cwd=folder) as child:
            check(accident, await child.until_end(), child.out, child.err)

    await asyncio.gather(*map(run_in_shell, STREAMS.values()))
    check_files(folder, before)


def check_files(folder: Path, before: dict[str, bytes]) -> None:
    """Check that the checkpoint holds the card, and that every other file is what it was."""
    with closing(sqlite3.connect(folder / "state")) as database:
        assert database.execute("SELECT status FROM card").fetchall() == [("PRODUCED",)]
    assert {name: content for name, content in contents_of(folder).items() if name != "state"} == before


async def test_a_defect_while_a_list_is_read(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Whatever goes wrong in the thread that reads a list ends the command: it is not waited for without end."""

    def fail(_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("cardprod.cli.lists.read_cards", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        await read_list(str(folder / "one.csv"))


@pytest.mark.usefixtures("environment")
async def test_accidents_of_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever a file is that was named, it ends with a sentence and the documented exit code, and stays as it is."""
    monkeypatch.chdir(folder)
    before = contents_of(folder)
    reading_end, writing_end = os.pipe()
    os.write(writing_end, b"1,produced\n")
    os.close(writing_end)
    with Table() as table:
        for name, accident in FILES.items():
            with table.row(name), pytest.MonkeyPatch.context() as patch:
                for variable, value in accident.environment.items():
                    patch.setenv(variable, value)
                exit_code, out = await run(*accident.line.format(pipe=reading_end).split())
                check(accident, exit_code, out, capfd.readouterr().err)
    os.close(reading_end)
    assert contents_of(folder) == before


@pytest.mark.parametrize("line", ["status 1 produced", "watch one.csv --json", "demo", "completion bash", "--help"])
async def test_a_reader_that_has_gone(kiosk: Simulator, folder: Path, line: str) -> None:
    """Where nobody reads its output any more, the command ends with 4 and without a word."""
    if "completion" in line:
        pytest.importorskip("shtab")
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    environment = {"CARDPROD_TOKEN": kiosk.token, "CARDPROD_BASE_URL": kiosk.base_url}
    with start_command(*line.split(), environment=environment, stdout=writing_end, cwd=folder) as child:
        os.close(writing_end)
        assert (await child.until_end(), child.err) == (4, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_reader_that_does_not_read(kiosk: Simulator, folder: Path, number: signal.Signals) -> None:
    """A watch whose output nobody reads waits, and a signal ends it all the same; its file has what was taken."""
    cards = [kiosk.add((1, f"card-{number:03}-{'x' * 100}"), [("PRODUCED", 0)]) for number in range(250)]
    (folder / "many.csv").write_text("\n".join(f"1,{card.card_token}" for card in cards))
    environment = {"CARDPROD_TOKEN": kiosk.token, "CARDPROD_BASE_URL": kiosk.base_url}
    arguments = ("watch", "many.csv", "--json", "--checkpoint", "state", "--per-second", "10000")
    reading_end, writing_end = os.pipe()
    with start_command(*arguments, environment=environment, stdout=writing_end, cwd=folder) as child:
        os.close(writing_end)
        sent: list[int] = [-1, -2]

        def count_requests() -> bool:
            sent.append(len(kiosk.requests))
            return sent[-1] == sent[-2] > 0

        await until("an end of requests", count_requests, child=child, interval=0.3)
        child.send(number)
        assert await child.until_end() == 128 + number
        assert child.err.startswith(f"cardprod: stopped by {number.name}; ")
    with open(reading_end, encoding="ascii") as file:  # noqa: PTH123, ASYNC230 - what was taken is there
        lines = file.read().splitlines()
    with suppress(ValueError):  # the last one is cut
        lines = [line for line in lines if json.loads(line)["type"] == "transition"]
    with closing(sqlite3.connect(folder / "state")) as database:
        [(kept,)] = database.execute("SELECT count(*) FROM card WHERE status IS NOT NULL")
    assert 0 < kept <= len(lines) < 250


@pytest.mark.parametrize("is_read", [True, False])
async def test_a_simulator_that_nobody_reads(is_read: bool) -> None:
    """What the simulator answers does not depend on whether anybody reads what it prints."""
    reading_end, writing_end = os.pipe()
    with start_command("simulate", "--port", "0", "--json", stdout=writing_end) as child:
        os.close(writing_end)
        first = await asyncio.to_thread(os.read, reading_end, 65_536)
        if not is_read:
            os.close(reading_end)
        url = json.loads(first)["base_url"]
        card = Card(1, "x" * 128)
        path = f"{url}/v3/spend/profiles/1/cards/{card.card_token}/production"
        headers = {"Authorization": "Bearer any"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for _ in range(300):  # of which each prints 300 bytes: more than a pipe takes
                async with session.get(path) as response:
                    assert response.status in {200, 404}
        assert child.exit_code is None
        child.send(signal.SIGINT)
        assert await child.until_end() == 130
        assert child.err == ""
    if is_read:
        os.close(reading_end)


async def test_planted_modules(kiosk: Simulator, folder: Path) -> None:
    """A file in the working folder takes the place of no module, and a user's function is found there all the same."""
    for name in ("psycopg", "procrastinate", "sqlite3", "rich", "platformdirs"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'planted')!r}, 'w')")
    (folder / "mine.py").write_text("1 / 0")
    environment = {"CARDPROD_TOKEN": kiosk.token, "CARDPROD_BASE_URL": kiosk.base_url, "FORCE_COLOR": "1"}
    database = ("--database", f"host={folder} dbname=none")
    commands = {
        ("worker", "--on-steps", "os.path:join", *database): 2,
        ("worker", "--on-steps", "mine:on_steps", *database): 2,
        ("watch", "one.csv", "--checkpoint", "state"): 0,
    }
    for arguments, exit_code in commands.items():
        with start_command(*arguments, environment=environment, cwd=folder) as child:
            assert await child.until_end() == exit_code, child.err
            assert ("division by zero" in child.err) == ("mine:on_steps" in arguments)
    assert not (folder / "planted").exists()


async def test_unexpected_errors(folder: Path) -> None:
    """A defect of the command itself exits with 70: Python's own code would say that a card ended in an error."""
    program = "import sys; from cardprod import cli; cli.commands.status.make_client = 1; "
    program += "sys.exit(cli.main(['status', '1', 'card']))"
    with start_command("-c", program, environment={"CARDPROD_TOKEN": "any"}, cwd=folder) as child:
        assert await child.until_end() == 70
        assert "cardprod: a defect of this command, please report it:" in child.err
        await until("its traceback", lambda: "TypeError" in child.err)
