"""The `cardprod` command: what it prints, how it exits, and that it leaves quietly."""

from __future__ import annotations

import asyncio
import io
import json
import os
import select
import signal
from typing import TYPE_CHECKING

import pytest

from cardprod import cli
from cardprod.simulator import Fault, Stage
from tests.cards import CARD
from tests.cli.commands import command, run, run_json, start_command
from tests.waiting import until, wait_until

if TYPE_CHECKING:
    from cardprod.simulator import Plan, Simulator

_ARGUMENTS = [str(CARD.profile_id), CARD.card_token]


@pytest.mark.parametrize(
    ("plan", "exit_code"),
    [([("PRODUCED", 0)], 0), ([("PRODUCTION_ERROR", 0)], 1), ([("REQUEST_ERROR", 0)], 1), ("never", 3),
     ([("ON_THE_MOON", 0)], 3)],
)  # fmt: skip
@pytest.mark.usefixtures("environment")
async def test_status_exit_code(kiosk: Simulator, plan: Plan, exit_code: int) -> None:
    """`status` exits 0 only if the card is produced, 1 after an error, 3 while it is under way."""
    kiosk.add(CARD, plan)
    assert (await run("status", *_ARGUMENTS))[0] == exit_code
    assert len(kiosk.requests) == 1


@pytest.mark.usefixtures("environment")
async def test_status_as_json(kiosk: Simulator) -> None:
    """`status --json` gives one object with everything that is known of the card."""
    kiosk.add(CARD, [Stage("PRODUCTION_ERROR", error_code="PRT_RIBBON_ENDED", description="Replace it")])
    _, [line] = await run_json("status", *_ARGUMENTS)
    assert line.pop("occurred_at").endswith("+00:00")
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
async def test_wait_times_out(kiosk: Simulator) -> None:
    """`wait` gives up after `--timeout` seconds and exits 3."""
    kiosk.add(CARD, "never")
    exit_code, lines = await run_json("wait", *_ARGUMENTS, "--timeout", "60")
    assert exit_code == 3
    assert lines[-1]["type"] == "error"
    assert lines[-1]["error"] == "WaitTimeout"
    assert kiosk.requests[-1].at - kiosk.requests[0].at == pytest.approx(60, abs=1)


@pytest.mark.parametrize(
    ("fault", "error"),
    [(Fault.server_error(), "ServerError"), (Fault.garbage(), "TransportError"), (Fault.bad_reply(), "BadReply")],
)
@pytest.mark.usefixtures("environment")
async def test_no_usable_answer(kiosk: Simulator, fault: Fault, error: str) -> None:
    """Without a usable answer the exit code is 4, and the error is named."""
    kiosk.add(CARD)
    kiosk.fail_next(fault, times=10)
    exit_code, [line] = await run_json("status", *_ARGUMENTS)
    assert exit_code == 4
    assert line["error"] == error
    assert line["card"]["card_token"] == CARD.card_token


@pytest.mark.parametrize("arguments", [("0", "card"), ("1", "a/b"), ("1", "..")])
@pytest.mark.usefixtures("environment")
async def test_bad_card(kiosk: Simulator, arguments: tuple[str, str]) -> None:
    """A card that cannot be right exits 2, and nothing is asked."""
    assert (await run("status", *arguments))[0] == 2
    assert kiosk.requests == []


@pytest.mark.usefixtures("environment")
async def test_terminal_codes(kiosk: Simulator) -> None:
    """What a server says cannot play with the terminal."""
    kiosk.add(CARD, [Stage("\x1b[2J", description="\x07")])
    _, out = await run("status", *_ARGUMENTS)
    assert out.strip().isprintable()


async def test_demo() -> None:
    """The demo shows every fate a card can have, sums them up, exits 0 and takes less than 15 seconds."""
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


async def test_simulate_tells_each_request() -> None:
    """`simulate` says where it listens, starts any card on its plan, and tells each request it is asked."""
    out = io.StringIO()
    arguments = cli.parser().parse_args(["simulate", "--port", "0", "--plan", "jams", "--json"])
    simulation = asyncio.create_task(cli.run(arguments, cli.report_to(out, as_json=True)))
    listening = json.loads(await until("where it listens", out.getvalue))
    environment = {"CARDPROD_TOKEN": "any", "CARDPROD_BASE_URL": listening["base_url"]}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert (await run("wait", *_ARGUMENTS))[0] == 1
    simulation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await simulation
    requests = [json.loads(line) for line in out.getvalue().splitlines()[1:]]
    assert {request["status"] for request in requests} == {"READY", "IN_PROGRESS", "PRODUCTION_ERROR"}


def test_port_in_use() -> None:
    """A port that is taken is said in one line, and exits 2."""

    async def simulate_twice() -> int:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return (await run("simulate", "--port", str(port)))[0]

    with asyncio.Runner() as runner:
        assert runner.run(simulate_twice()) == 2


def test_no_token() -> None:
    """Without CARDPROD_TOKEN the command exits 2 and says what to set."""
    finished = command("status", "1", "card")
    assert finished.exit_code == 2
    assert "CARDPROD_TOKEN" in finished.err
    assert len(finished.err.splitlines()) == 1


def test_bad_arguments() -> None:
    """Arguments that cannot be parsed exit 2 with the usage."""
    finished = command("wait", "not-a-number", "card")
    assert finished.exit_code == 2
    assert "usage:" in finished.err


def test_help_tells_everything() -> None:
    """`--help` names the commands, the environment and the exit codes."""
    out = command("--help").out
    for words in ("demo", "status", "wait", "simulate", "CARDPROD_TOKEN", "exit codes", "examples:"):
        assert words in out


@pytest.mark.parametrize("name", ["demo", "status", "wait", "watch", "simulate"])
def test_token_is_never_an_argument(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No command takes a token as an argument."""
    with pytest.raises(SystemExit):
        cli.parser().parse_args([name, "--help"])
    out = capsys.readouterr().out
    assert f"cardprod {name}" in out
    assert "--token" not in out


@pytest.mark.parametrize("name", ["simulate", "demo"])
def test_ctrl_c(name: str) -> None:
    """Ctrl-C ends the command with 130 and without a word of complaint."""
    with start_command(name, *(["--port", "0"] if name == "simulate" else [])) as running:
        wait_until("its first line", lambda: running.lines, child=running)
        running.send(signal.SIGINT)
        assert running.wait_for_end() == 130
        assert running.err == ""


def test_reader_gone() -> None:
    """A reader that leaves early, as `head` does, ends the command without a traceback."""
    reading_end, writing_end = os.pipe()
    with start_command("demo", stdout=writing_end) as running:
        os.close(writing_end)
        wait_until("its first line", lambda: select.select([reading_end], [], [], 0)[0], child=running)
        os.close(reading_end)
        running.wait_for_end()
        assert running.err == ""


@pytest.mark.parametrize("as_json", [True, False])
def test_simulated_webhooks(*, as_json: bool) -> None:
    """`simulate --webhooks-to` tells where the key is that its webhooks are verified with."""
    argv = ["simulate", "--port", "0", "--webhooks-to", "http://127.0.0.1:9/wise", *(["--json"] if as_json else [])]
    with start_command(*argv) as running:
        count = 1 if as_json else 5
        lines = wait_until("its lines", lambda: running.lines, lambda lines: len(lines) >= count, child=running)
    if as_json:
        told = json.loads(lines[0])
        assert told["public_key_url"] == told["base_url"] + "/webhooks/public-key.pem"
    else:
        assert lines[1].startswith("Watch and drive it in a browser: http://127.0.0.1:")
        assert "/webhooks/public-key.pem" in lines[4]


def test_simulated_webhooks_to_nowhere() -> None:
    """An address that is no URL is a usage error."""
    finished = command("simulate", "--port", "0", "--webhooks-to", "nowhere")
    assert finished.exit_code == 2
    assert "url must be http or https" in finished.err
