"""`cardprod watch`: what it reports, how it exits, and that it goes on after any end."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import re
import select
import signal
import sqlite3
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from cardprod import Card, Client, OAuthToken, cli
from cardprod.simulator import Fault, Stage
from tests.cli.commands import output_of, run, run_json, start_command, write_list
from tests.table import Table
from tests.waiting import LONG_TIMEOUT, Child, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from cardprod.simulator import Plan, Simulator

Lines: TypeAlias = "Callable[[], list[dict[str, Any]]]"
PRINTS: list[tuple[str, float]] = [("READY", 40), ("IN_PROGRESS", 40), ("PRODUCED", 0)]
SLOWLY = ("--per-minute", "100")
"""For tests in which more polls would only take longer."""
ORDER = [status for status, _ in PRINTS]
JAMS: Plan = [("READY", 20), Stage("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM")]


def cards_of(kiosk: Simulator, count: int, plan: Plan = PRINTS) -> list[Card]:
    return [kiosk.add((123456, f"card-{number:03}"), plan) for number in range(count)]


def of_type(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["type"] == kind]


def reported(lines: list[dict[str, Any]]) -> dict[str, list[str]]:
    """List what was reported of each card, in its order."""
    steps: dict[str, list[str]] = {}
    for line in lines:
        if line["type"] == "transition":
            steps.setdefault(line["card"]["card_token"], []).append(line["status"])
        elif line["type"] == "error" and line["card"]:
            steps.setdefault(line["card"]["card_token"], []).append(line["error"])
    return steps


# --- What it reports ---


@pytest.mark.usefixtures("environment")
async def test_all_produced(kiosk: Simulator, tmp_path: Path) -> None:
    """Every transition of every card is reported as JSON, the summary comes last, and all produced exits 0."""
    cards = cards_of(kiosk, 5)
    exit_code, lines = await run_json("watch", write_list(tmp_path / "cards.csv", cards))
    assert exit_code == 0
    assert reported(lines) == {card.card_token: ["READY", "IN_PROGRESS", "PRODUCED"] for card in cards}
    assert lines[0] == {"type": "watching", "cards": 5, "ended": 0, "bad_rows": 0, "checkpoint": None,
                        "is_resumed": False}  # fmt: skip
    summary = lines[-1]
    assert (summary.pop("requests"), summary.pop("seconds") > 80) == (len(kiosk.requests), True)
    assert summary == {
        "type": "summary",
        "cards": 5,
        "produced": 5,
        "failed": 0,
        "unfinished": 0,
        "errors": 0,
        "bad_rows": 0,
        "ends": [{"name": "PRODUCED", "error_code": None, "meaning": None, "cards": 5}],
        "stopped_by": None,
    }


@pytest.mark.usefixtures("environment")
async def test_known_statuses(kiosk: Simulator, tmp_path: Path) -> None:
    """A card whose row names a known error is waited for beyond it, also by the run after one that had no answer."""
    (card,) = cards_of(kiosk, 1, [("PRODUCTION_ERROR", 60), ("READY", 20), ("PRODUCED", 0)])
    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        known = await client.get_status(card.profile_id, card.card_token)
    row = {"profile_id": card.profile_id, "card_token": card.card_token, "after_status": known.status}
    row |= {"after_occurred_at": str(known.occurred_at), "after_error_code": known.error_code}
    path = tmp_path / "cards.jsonl"
    path.write_text(json.dumps(row))
    kiosk.fail_next(Fault.reset(), times=6)
    argv = ("watch", str(path), "--checkpoint", str(tmp_path / "state"))
    first = asyncio.create_task(run(*argv))
    await until("a request", lambda: len(kiosk.requests) > 1)
    first.cancel()
    await asyncio.wait([first])
    exit_code, lines = await run_json(*argv)
    assert (exit_code, lines[0]["is_resumed"]) == (0, True)
    assert reported(lines) == {card.card_token: ["READY", "PRODUCED"]}


@pytest.mark.usefixtures("environment")
async def test_progress_as_json(kiosk: Simulator, tmp_path: Path) -> None:
    """Progress comes every ten seconds while something changes, else once a minute, and says where the cards are."""
    cards_of(kiosk, 2, [("READY", 400), ("PRODUCED", 0)])
    _, lines = await run_json(
        "watch", write_list(tmp_path / "cards.csv", [Card(123456, "card-000"), Card(1, "no-such")])
    )
    progress = of_type(lines, "progress")
    assert progress[0] == {
        "type": "progress",
        "cards": 2,
        "pending": 1,
        "produced": 0,
        "failed": 0,
        "unfinished": 1,
        "errors": 1,
        "bad_rows": 0,
        "requests": progress[0]["requests"],
        "seconds": 10.0,
        "statuses": {"READY": 1},
        "requests_in_last_minute": progress[0]["requests"],
        "seconds_left": None,
    }
    assert [round(after["seconds"] - before["seconds"]) for before, after in pairwise(progress)] == [60] * 6


@pytest.mark.usefixtures("environment")
async def test_all_kinds_of_ends(kiosk: Simulator, tmp_path: Path) -> None:
    """An end of any kind ends no other card's wait, and all are counted; one without an answer decides how it exits."""
    cards = cards_of(kiosk, 3)
    jammed = kiosk.add((123456, "jammed"), JAMS)
    late = kiosk.add((123456, "late"), "never")
    file = write_list(tmp_path / "cards.csv", [*cards, jammed, late, Card(123456, "unknown")], "not a card", "9,b!")
    exit_code, lines = await run_json("watch", file, "--timeout", "300")
    assert exit_code == 4
    assert [line["line"] for line in of_type(lines, "bad_row")] == [8, 9]
    assert reported(lines)["jammed"] == ["READY", "PRODUCTION_ERROR"]
    assert reported(lines)["late"] == ["READY", "WaitTimeout"]
    last_of = {line["type"]: line for line in lines if line.get("card", {}).get("card_token") == "late"}
    assert {*last_of["error"]} == {*last_of["transition"]} - {"previous"} | {"error", "message"}
    assert last_of["error"]["status"] == "READY"
    assert "last seen READY" in last_of["error"]["message"]
    assert reported(lines)["unknown"] == ["CardNotFound"]
    summary = lines[-1]
    counts = [summary[name] for name in ("cards", "produced", "failed", "unfinished", "errors", "bad_rows")]
    assert counts == [6, 3, 1, 1, 1, 2]
    assert {"name": "PRODUCTION_ERROR", "error_code": "PRD_FEEDER_JAM", "cards": 1,
            "meaning": "Production error: feeder card jam"} in summary["ends"]  # fmt: skip


@pytest.mark.usefixtures("environment")
async def test_lines_for_people(kiosk: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a terminal transitions alone are on standard output; progress, bad rows and a summary are beside it."""
    cards = cards_of(kiosk, 2)
    jammed = kiosk.add((123456, "jammed"), JAMS)
    exit_code, out = await run("watch", write_list(tmp_path / "cards.csv", [*cards, jammed], "bad"))
    err = capfd.readouterr().err
    assert exit_code == 1
    assert "s  123456/jammed  READY -> PRODUCTION_ERROR at WIS00001: PRD_FEEDER_JAM (Production error: feeder" in out
    assert all(re.match(r" *[0-9.]+ s  123456/", line) for line in out.splitlines())
    first, *progress, headline, produced, failed = err.splitlines()
    assert headline.startswith("cardprod: 3 cards, 1 bad row: 2 produced, 1 ended in an error; ")
    assert produced == "cardprod:   2  PRODUCED"
    assert failed == "cardprod:   1  PRODUCTION_ERROR  PRD_FEEDER_JAM (Production error: feeder card jam)"
    assert first.startswith("cardprod: ")
    assert first.endswith("cards.csv:5: the row has 1 columns; expected profile_id,card_token")
    assert progress[0].startswith("cardprod: 0:10: 0 of 3 cards ended; 3 READY; ")
    assert " of 1,000 requests in the last minute; — left" in progress[0]


@pytest.mark.usefixtures("environment")
async def test_trouble_is_reported(
    kiosk: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polls that fail while their card's wait goes on are counted in the progress, with why, and nowhere else."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # without pytest's, as when the command is a process
    [card] = cards_of(kiosk, 1)
    kiosk.fail_next(Fault.server_error(503), times=3, card=card)
    assert (await run("watch", write_list(tmp_path / "cards.csv", [card])))[0] == 0
    err = capfd.readouterr().err
    assert "1 poll failed in the last minute and will be repeated: " in err
    assert all(line.startswith("cardprod: ") for line in err.splitlines())


@pytest.mark.usefixtures("environment")
async def test_no_answer_yet(kiosk: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """While nothing answers, the first failed poll is reported at once, with until when it goes on; and only that."""
    argv = ["watch", write_list(tmp_path / "cards.csv", cards_of(kiosk, 3))]
    kiosk.fail_next(Fault.reset(), times=1000)
    began_at = asyncio.get_running_loop().time()
    with output_of(*argv) as (output, _):
        watching = asyncio.create_task(cli.run(cli.make_parser().parse_args(argv), output))
        err = await until("a failed poll", lambda: capfd.readouterr().err)
        assert asyncio.get_running_loop().time() - began_at < 5
        assert err.startswith("cardprod: no usable answer yet: ")
        assert "; a card is given up after 5 failed polls in a row, " in err
        assert await watching == 4
    assert "no usable answer yet" not in capfd.readouterr().err


@pytest.mark.usefixtures("environment")
async def test_answers_that_come_no_more(kiosk: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """After an answer nothing is said of a failed poll; a run that continues and has none yet says it."""
    state = tmp_path / "state"
    argv = ["watch", write_list(tmp_path / "cards.csv", cards_of(kiosk, 3)), "--checkpoint", str(state)]
    async with watching_json(argv[1], state) as (watching, _):
        await asyncio.sleep(1)
        kiosk.fail_next(Fault.reset(), times=6)
        await asyncio.sleep(9)
        watching.cancel()
        await asyncio.wait([watching])
    assert "no usable answer yet" not in capfd.readouterr().err
    kiosk.fail_next(Fault.reset(), times=1000)
    assert (await run(*argv))[0] == 4
    assert ", which last at least 300 s if it had an answer before" in capfd.readouterr().err


@pytest.mark.usefixtures("environment")
async def test_rate_limit(kiosk: Simulator, tmp_path: Path) -> None:
    """`--per-minute` and `--per-second` hold, and 0 is refused."""
    file = write_list(tmp_path / "cards.csv", cards_of(kiosk, 20, [("PRODUCED", 0)]))
    assert (await run_json("watch", file, "--per-minute", "10"))[0] == 0
    assert kiosk.requests[10].at - kiosk.requests[0].at >= 60
    assert (await run("watch", file, "--per-second", "0"))[0] == 2


@pytest.mark.usefixtures("environment")
async def test_a_refused_token_stops_it(kiosk: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A token that is no longer accepted stops it with 4 after a few polls, and a new one goes on from there."""
    cards = cards_of(kiosk, 40, [("READY", 40), ("IN_PROGRESS", 120), ("PRODUCED", 0)])
    file, state = write_list(tmp_path / "cards.csv", cards), tmp_path / "state"
    async with watching_json(file, state, *SLOWLY) as (watching, lines):
        await asyncio.sleep(60)
        kiosk.expire_token()
        exit_code, first = await watching, lines()
    assert (exit_code, first[-1]["stopped_by"]) == (4, "Unauthorized")
    refused = [request for request in kiosk.requests if request.http_status == 401]
    assert 0 < len(refused) < 60
    assert "set CARDPROD_TOKEN to a new one; the same command continues from" in capfd.readouterr().err
    fresh = OAuthToken(kiosk.client_id, kiosk.client_secret, kiosk.refresh_token, base_url=kiosk.base_url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARDPROD_TOKEN", await fresh())
        exit_code, second = await run_json("watch", file, "--checkpoint", str(state), *SLOWLY)
    assert (exit_code, second[-1]["produced"]) == (0, 40)
    steps = reported([*first, *second])
    for card in cards:
        both = [status for status in steps[card.card_token] if status != "Unauthorized"]
        assert both in (ORDER, ["READY", *ORDER])  # the one card that was refused begins anew


@pytest.mark.usefixtures("environment")
async def test_status_of_many(kiosk: Simulator, tmp_path: Path) -> None:
    """`status` requests many cards once, of one profile or of a list, and exits with what most needs attention."""
    kiosk.add((123456, "a"), [("PRODUCED", 0)])
    kiosk.add((123456, "b"), [("PRODUCTION_ERROR", 0)])
    exit_code, lines = await run_json("status", "123456", "a", "b")
    assert exit_code == 1
    assert {line["card"]["card_token"]: line["status"] for line in lines} == {"a": "PRODUCED", "b": "PRODUCTION_ERROR"}
    file = write_list(tmp_path / "cards.csv", [Card(123456, "a"), Card(123456, "none")], "bad")
    exit_code, lines = await run_json("status", "--file", file)
    assert (exit_code, [line["type"] for line in lines]) == (4, ["bad_row", "status", "error"])
    assert (await run_json("status", "--file", file, "--strict"))[0] == 2
    assert (await run_json("status", "--file", write_list(tmp_path / "one", [Card(123456, "a")], "bad")))[0] == 2
    assert len(kiosk.requests) == 5
    assert (await run("status", "123456", "a", "--file", file))[0] == 2


@pytest.mark.usefixtures("environment")
async def test_a_refused_token_is_reported_once(
    kiosk: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of many cards, the first one that the token is refused for ends it, with 4 and one line, as JSON and as text."""
    file = write_list(tmp_path / "cards.csv", cards_of(kiosk, 300))
    kiosk.expire_token()
    with Table() as table:
        for arguments in (["status", "--file", file], ["watch", file]):
            with table.row(arguments[0]):
                exit_code, lines = await run_json(*arguments)
                assert (exit_code, reported(lines)) == (4, {"card-000": ["Unauthorized"]})
                exit_code, out = await run(*arguments)
                assert (exit_code, len(out.splitlines())) == (4, 1)
                assert capfd.readouterr().err.count("the token is not accepted: set CARDPROD_TOKEN to a new one") == 2
    assert len(kiosk.requests) < 500


@pytest.mark.usefixtures("environment")
async def test_what_another_run_does(kiosk: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where a card is not final or had no answer in the end, it says what the same command does; else it does not."""
    file, state = write_list(tmp_path / "cards.csv", cards_of(kiosk, 2, [("PRODUCED", 0)])), str(tmp_path / "state")
    continues = f"cardprod: the same command continues from {state}\n"
    begins = "cardprod: the same command begins with all cards again; with --checkpoint it would continue\n"
    assert (await run("watch", file))[0] == 0
    assert "the same command" not in capfd.readouterr().err
    kiosk.fail_next(Fault.reset(), times=1000)
    for more, words in ([], begins), (["--checkpoint", state], continues):
        assert (await run("watch", file, *more))[0] == 4
        assert capfd.readouterr().err.endswith(words)


# --- The checkpoint file ---


def kept(state: Path) -> dict[str, str | None]:
    """Read which status of each card a checkpoint file holds, also while a run has it."""
    if not state.exists() or not state.stat().st_size:
        return {}
    with closing(sqlite3.connect(f"{state.as_uri()}?mode=ro", uri=True, timeout=10)) as database:
        return dict(database.execute("SELECT card_token, status FROM card"))


@pytest.mark.parametrize("seconds", [0.5, 41, 60])
@pytest.mark.usefixtures("environment")
async def test_cancelled_and_gone_on_with(kiosk: Simulator, tmp_path: Path, seconds: float) -> None:
    """A watch that is cancelled goes on where it was: nothing is reported twice or lost, and new cards are added."""
    cards = cards_of(kiosk, 30)
    state = tmp_path / "state"
    first = reported(await cancelled_after(seconds, write_list(tmp_path / "cards.csv", cards[:20]), state))
    assert {token: status for token, status in kept(state).items() if status is not None} == {
        token: steps[-1] for token, steps in first.items()
    }
    exit_code, lines = await run_json(
        "watch", write_list(tmp_path / "cards.csv", cards), "--checkpoint", str(state), *SLOWLY
    )
    assert exit_code == 0
    assert lines[-1]["produced"] == 30
    second = reported(lines)
    for card in cards[:20]:
        assert [*first[card.card_token], *second[card.card_token]] == ["READY", "IN_PROGRESS", "PRODUCED"]
    for card in cards[20:]:
        assert second[card.card_token][-1] == "PRODUCED"


@asynccontextmanager
async def watching_json(file: str, state: Path, *more: str) -> AsyncGenerator[tuple[asyncio.Task[int], Lines]]:
    """Watch, and give the task and what returns the lines so far, once there is a first result."""
    argv = ["watch", file, "--checkpoint", str(state), "--json", *more]
    with output_of(*argv) as (output, printed):
        watching = asyncio.create_task(cli.run(cli.make_parser().parse_args(argv), output))
        await until("the first result", lambda: '"transition"' in printed(), interval=0)  # which lets no time pass
        yield watching, lambda: [json.loads(line) for line in printed().splitlines()]


async def cancelled_after(seconds: float, file: str, state: Path, *more: str) -> list[dict[str, Any]]:
    """Watch for so long, and return what was reported until then."""
    async with watching_json(file, state, *SLOWLY, *more) as (watching, lines):
        await asyncio.sleep(seconds)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        return lines()


@pytest.mark.usefixtures("environment")
async def test_once_all_are_final(kiosk: Simulator, tmp_path: Path) -> None:
    """Once all are final, the same command requests nothing, prints the same summary and exits the same."""
    file = write_list(tmp_path / "cards.csv", [*cards_of(kiosk, 3), kiosk.add((1, "jammed"), JAMS)])
    first_code, first = await run_json("watch", file, "--checkpoint", str(tmp_path / "state"))
    asked = len(kiosk.requests)
    second_code, second = await run_json("watch", file, "--checkpoint", str(tmp_path / "state"))
    assert (first_code, second_code, len(kiosk.requests)) == (1, 1, asked)
    assert [line["type"] for line in second] == ["watching", "summary"]
    assert (second[0]["ended"], second[0]["is_resumed"]) == (4, True)
    changing = {"requests", "seconds"}
    assert {k: v for k, v in second[-1].items() if k not in changing} == {
        k: v for k, v in first[-1].items() if k not in changing
    }


@pytest.mark.usefixtures("environment")
async def test_what_is_not_final_begins_anew(kiosk: Simulator, tmp_path: Path) -> None:
    """Cards whose time ran out, or that had no answer, are waited for again by the same command."""
    late = kiosk.add((1, "late"), [("READY", 300), ("PRODUCED", 0)])
    file = write_list(tmp_path / "cards.csv", [*cards_of(kiosk, 1), late, Card(1, "unknown")])
    arguments = ("watch", file, "--checkpoint", str(tmp_path / "state"), "--timeout", "200")
    assert (await run_json(*arguments))[0] == 4
    kiosk.add((1, "unknown"), [("PRODUCED", 0)])
    exit_code, lines = await run_json(*arguments)
    assert exit_code == 0
    assert reported(lines) == {"late": ["READY", "PRODUCED"], "unknown": ["PRODUCED"]}


@pytest.mark.parametrize(("first", "second", "exit_code"), [("none", "100", 3), ("100", "none", 0), ("100", "1000", 0)])
@pytest.mark.usefixtures("environment")
async def test_another_timeout(kiosk: Simulator, tmp_path: Path, first: str, second: str, exit_code: int) -> None:
    """A watch that is continued with another timeout applies it to the cards that were begun before."""
    file = write_list(tmp_path / "cards.csv", cards_of(kiosk, 2, [("READY", 200), ("PRODUCED", 0)]))
    async with watching_json(file, tmp_path / "state", "--timeout", first) as (watching, _):
        watching.cancel()
        await asyncio.wait([watching])
    arguments = ("watch", file, "--checkpoint", str(tmp_path / "state"), "--timeout", second)
    assert (await run_json(*arguments))[0] == exit_code


@pytest.mark.usefixtures("environment")
async def test_refused_checkpoints(
    kiosk: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of other cards or of another place is refused before anything is requested, and stays as it is."""
    cards, state = cards_of(kiosk, 3, [("PRODUCED", 0)]), tmp_path / "state"
    file, other = write_list(tmp_path / "cards.csv", cards), write_list(tmp_path / "other.csv", cards[1:])
    await run("watch", file, "--checkpoint", str(state))
    requests, before = len(kiosk.requests), state.read_bytes()
    assert (await run("watch", other, "--checkpoint", str(state)))[0] == 2
    assert "is of other cards: 1 of them are not in this list, such as 123456/card-000" in capfd.readouterr().err
    monkeypatch.setenv("CARDPROD_BASE_URL", "https://api.wise.com")
    assert (await run("watch", file, "--checkpoint", str(state)))[0] == 2
    assert "is of cards at http://127.0.0.1" in capfd.readouterr().err
    assert (len(kiosk.requests), state.read_bytes()) == (requests, before)


@pytest.mark.usefixtures("environment")
async def test_a_disk_that_is_full(
    kiosk: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that cannot be written for a while is reported, the watch goes on, and nothing is missing later."""
    cards, state = cards_of(kiosk, 2, [("READY", 200), ("IN_PROGRESS", 100), ("PRODUCED", 0)]), tmp_path / "state"
    fails = True

    class FullDisk(sqlite3.Connection):
        def executemany(self, *statement: Any) -> sqlite3.Cursor:
            if fails:
                raise sqlite3.OperationalError("database or disk is full")
            return super().executemany(*statement)

    connect: Any = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", functools.partial(connect, factory=FullDisk))
    async with watching_json(write_list(tmp_path / "cards.csv", cards), state) as (watching, _):
        await asyncio.sleep(100)
        assert kept(state) == {}
        fails = False
        assert await watching == 0
    assert "cannot be written: database or disk is full" in capfd.readouterr().err
    assert kept(state) == {card.card_token: "PRODUCED" for card in cards}


# --- Real processes ---


def start(kiosk: Simulator, *argv: str, **child: Any) -> Child:
    environment = {"CARDPROD_TOKEN": kiosk.token, "CARDPROD_BASE_URL": kiosk.base_url}
    return start_command("watch", *argv, environment=environment, **child)


@pytest.mark.slow
@pytest.mark.looptime(False)  # other processes go by real time
@pytest.mark.timeout(LONG_TIMEOUT)
async def test_killed_again_and_again(kiosk: Simulator, tmp_path: Path, *, full_size: bool) -> None:
    """Killed at any moment, it goes on: no transition follows one that was not reported, and the file can be read."""
    cards = cards_of(kiosk, 60 if full_size else 12, "never")
    file, state = write_list(tmp_path / "cards.csv", cards), tmp_path / "state"
    arguments = (file, "--checkpoint", str(state), "--json", "--per-second", "40")
    lines: list[dict[str, Any]] = []

    async def watch_and_kill(*, until_kept: str, requests: int) -> None:
        """Let its file hold a card in a status, and then send so many requests, and kill it."""
        with start(kiosk, *arguments) as watching:
            await until(until_kept, lambda: kept(state).values(), lambda found: until_kept in found, child=watching)
            sent = len(kiosk.requests) + requests
            await until("requests", lambda: len(kiosk.requests), lambda count: count >= sent, child=watching)
            watching.send(signal.SIGKILL)
            await watching.until_end()
            assert watching.err == ""
            lines.extend(json.loads(line) for line in watching.lines)

    await watch_and_kill(until_kept="READY", requests=3)
    for card in cards:
        kiosk.start(card)
    await watch_and_kill(until_kept="IN_PROGRESS", requests=0)
    for card in cards[::2]:
        kiosk.finish(card)
    await watch_and_kill(until_kept="PRODUCED", requests=5)
    assert {*kept(state).values()} & {"READY", "IN_PROGRESS"}  # else nothing is continued
    for card in cards[1::2]:
        kiosk.finish(card)
    with start(kiosk, *arguments) as watching:
        assert (await watching.until_end(), watching.err) == (0, "")
        lines += [json.loads(line) for line in watching.lines]
    assert lines[-1]["produced"] == len(cards)
    steps = reported(lines)
    assert {token: steps[token][-1] for token in steps} == {card.card_token: "PRODUCED" for card in cards}
    before: dict[str, set[str | None]] = {token: {None} for token in steps}
    for line in of_type(lines, "transition"):
        reported_before = before[line["card"]["card_token"]]
        assert line["previous"] in reported_before
        reported_before.add(line["status"])
    # What is shown again is what was shown after the file was written last.
    assert sum(map(len, steps.values())) < 2 * 3 * len(cards)


@pytest.mark.looptime(False)
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_stopped_by_a_signal(kiosk: Simulator, tmp_path: Path, number: signal.Signals, exit_code: int) -> None:
    """Ctrl-C and SIGTERM stop it at once: the file holds all that was reported, it says how to go on, and exits so."""
    cards = cards_of(kiosk, 3, "never")
    state = tmp_path / "state"
    with start(kiosk, write_list(tmp_path / "cards.csv", cards), "--checkpoint", str(state), "--json") as watching:
        await until("three cards", lambda: watching.lines, lambda lines: len(lines) == 4, child=watching)
        watching.send(number)
        watching.send(number)  # a second signal changes nothing
        assert await watching.until_end() == exit_code
        assert watching.err == f"cardprod: stopped by {number.name}; the same command continues from {state}\n"
        lines = [json.loads(line) for line in watching.lines]
    assert (lines[-1]["stopped_by"], lines[-1]["unfinished"]) == (number.name, 3)
    assert reported(lines) == {card.card_token: ["READY"] for card in cards}
    assert set(kept(state).values()) == {"READY"}


@pytest.mark.looptime(False)
async def test_reader_gone(kiosk: Simulator, tmp_path: Path) -> None:
    """A reader that leaves early ends it with 4 and without a word, and what it has not read is shown another time."""
    cards = cards_of(kiosk, 200, [("PRODUCED", 0)])
    file, state = write_list(tmp_path / "cards.csv", cards), tmp_path / "state"
    reading_end, writing_end = os.pipe()
    with start(kiosk, file, "--checkpoint", str(state), "--json", stdout=writing_end) as watching:
        os.close(writing_end)
        await until("a result", lambda: select.select([reading_end], [], [], 0)[0], child=watching)
        read = os.read(reading_end, 65_536).decode()
        os.close(reading_end)
        assert await watching.until_end() == 4
        assert watching.err == ""
    shown = {token for token, status in kept(state).items() if status is not None}
    assert shown <= {card.card_token for card in cards if f'"{card.card_token}"' in read}


@pytest.mark.looptime(False)
async def test_the_first_line_is_enough(kiosk: Simulator) -> None:
    """A list on standard input is waited for from its first line, while the others are still to come."""
    [first, second] = cards_of(kiosk, 2, [("PRODUCED", 0)])
    reading_end, writing_end = os.pipe()
    with start(kiosk, "-", "--json", stdin=reading_end) as watching:
        os.close(reading_end)
        os.write(writing_end, f"{first.profile_id},{first.card_token}\n".encode())
        await until("the first card", lambda: "PRODUCED" in watching.out, child=watching)
        os.write(writing_end, f"{second.profile_id},{second.card_token}\nbad\n".encode())
        os.close(writing_end)
        words = "cardprod: the exit code is 2: 1 bad row, though all cards are produced\n"
        assert (await watching.until_end(), watching.err) == (2, words)
        lines = [json.loads(line) for line in watching.lines]
    assert reported(lines) == {card.card_token: ["PRODUCED"] for card in (first, second)}
    assert (lines[0]["cards"], lines[-1]["cards"], lines[-1]["bad_rows"]) == (0, 2, 1)


async def test_ctrl_c_while_somebody_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading standard input can be cancelled, though nothing comes."""
    monkeypatch.setenv("CARDPROD_TOKEN", "any")
    reading_end, writing_end = os.pipe()
    monkeypatch.setattr("cardprod.cli.lists._STDIN", reading_end)
    watching = asyncio.create_task(run("watch", "-"))
    await asyncio.sleep(1)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    os.close(writing_end)
