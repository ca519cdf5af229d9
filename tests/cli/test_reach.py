"""How the command reaches the API, through proxies and with certificates; and how it follows a card."""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from cardprod import Card
from cardprod.cli.arguments import duration
from cardprod.cli.connection import make_client
from cardprod.errors import UsageError
from cardprod.simulator import Stage
from tests.cli.commands import run, run_json, write_list
from tests.cli.test_watch import cancelled_after
from tests.clock import wall_clock_of_the_loop
from tests.table import Table

if TYPE_CHECKING:
    from cardprod.simulator import Plan, Simulator

JAM = Stage("PRODUCTION_ERROR", 60, error_code="PRD_FEEDER_JAM")
RETRIED: Plan = [("READY", 20), JAM, ("READY", 20), ("PRODUCED", 0)]
ORDER = ["READY", "PRODUCTION_ERROR", "READY", "PRODUCED"]


def test_durations() -> None:
    """A duration is read as people write it, and anything else is refused with what would be right."""
    durations = {"90": 90, "0": 0, "1.5": 1.5, "90s": 90, "10m": 600, "2h": 7200, "1h30m": 5400, "1d": 86_400}
    for text, seconds in {**durations, "none": math.inf}.items():
        assert duration(text) == seconds
    with Table() as table:
        for text in ("", "-1", "1 h", "h", "1h30", "nan", "inf", "1e3", "\u0661", "9" * 30, "10 minutes"):
            with table.row(text), pytest.raises(argparse.ArgumentTypeError, match=r"a duration is like 90|is too long"):
                duration(text)


# --- Follow ---


@pytest.mark.usefixtures("environment")
async def test_wait_follows(kiosk: Simulator) -> None:
    """`wait --follow` goes on after an error status until the card is produced, and shows each transition once."""
    kiosk.add((1, "card"), RETRIED)
    exit_code, lines = await run_json("wait", "1", "card", "--follow")
    assert (exit_code, [line["status"] for line in lines]) == (0, ORDER)
    assert [line["previous"] for line in lines] == [None, "READY", "PRODUCTION_ERROR", "READY"]
    kiosk.add((1, "card"), RETRIED)
    assert (await run_json("wait", "1", "card"))[0] == 1


@pytest.mark.usefixtures("environment")
async def test_after_a_timeout(kiosk: Simulator, capfd: pytest.CaptureFixture[str]) -> None:
    """A wait that timed out says so where its results are, with the whole token, the last status and its time."""
    kiosk.add((1, "a-card-with-a-long-token"), "never")
    arguments = ("wait", "1", "a-card-with-a-long-token", "--timeout", "1m")
    exit_code, out = await run(*arguments)
    words = r" +60\.0 s  1/a-card-with-a-long-token  not final after 60 s and \d+ answered polls: last seen READY; .*"
    assert exit_code == 3
    assert re.fullmatch(words, out.splitlines()[-1])
    assert capfd.readouterr().err == ""
    exit_code, lines = await run_json(*arguments)
    assert (exit_code, [line["type"] for line in lines]) == (3, ["transition", "error"])
    assert (lines[-1]["error"], lines[-1]["status"]) == ("WaitTimeout", "READY")
    assert lines[-1]["seen_at"] > lines[0]["seen_at"]


@pytest.mark.usefixtures("environment")
async def test_the_last_line_of_each_card(kiosk: Simulator, tmp_path: Path) -> None:
    """In JSON `is_last` is true on the last line of each card, whatever its end, and on no other line."""
    ends: dict[str, Plan] = {"printed": RETRIED, "jammed": [JAM], "stuck": [("READY", 20), Stage("REQUEST_ERROR")]}
    commands = {
        "status": ["status", "1", *ends, "never", "unknown"],
        **{f"wait {name}": ["wait", "1", name, "--timeout", "3m"] for name in (*ends, "never", "unknown")},
        "watch": ["watch", str(tmp_path / "cards.csv"), "--timeout", "3m"],
    }
    write_list(tmp_path / "cards.csv", [Card(1, name) for name in (*ends, "never", "unknown")])
    with Table() as table:
        for name, arguments in commands.items():
            for option in ([], ["--follow"])[: 1 if name == "status" else 2]:
                for token, plan in {**ends, "never": "never"}.items():
                    kiosk.add((1, token), plan)
                _, lines = await run_json(*arguments, *option)
                about = {line["card"]["card_token"]: line for line in lines if line.get("card")}
                assert about
                with table.row(name, *option):
                    assert [line for line in lines if line.get("is_last")] == sorted(about.values(), key=lines.index)
                    assert all("is_last" in line for line in lines if line.get("card"))
                    assert not [line for line in lines if line.get("is_final") and "not final" in str(line)]


@pytest.mark.usefixtures("environment")
async def test_following_is_one_timeout(kiosk: Simulator, tmp_path: Path) -> None:
    """A card that is followed has one `--timeout` and one count of polls, also where `watch` goes on after an end."""
    file, state = write_list(tmp_path / "cards.csv", [Card(1, "card")]), tmp_path / "state"
    commands = {
        "wait": ["wait", "1", "card"],
        "watch": ["watch", file],
        "watch, continued": ["watch", file, "--checkpoint", str(state)],
    }
    with wall_clock_of_the_loop(), Table() as table:
        for name, arguments in commands.items():
            stages: Plan = [("READY", 20), JAM, Stage("IN_PROGRESS", 20, is_new_request=True), JAM]
            kiosk.add((1, "card"), stages)
            began_at, requests = asyncio.get_running_loop().time(), len(kiosk.requests)
            if "continued" in name:
                await cancelled_after(50, file, state, "--follow")
            _, lines = await run_json(*arguments, "--follow", "--timeout", "3m")
            [end] = [line for line in lines if line.get("is_last")]
            with table.row(name):
                assert asyncio.get_running_loop().time() - began_at == pytest.approx(180, abs=2)
                assert end["elapsed"] == pytest.approx(180, abs=2)
                assert "continued" in name or end["polls"] == len(kiosk.requests) - requests
                counted = [(line["elapsed"], line["polls"]) for line in lines if "polls" in line]
                assert counted == sorted(counted)
                assert re.match(
                    rf"not PRODUCED after 1[78]\d(\.\d)? s and {end['polls']} answered polls: nothing newer than ",
                    end["message"],
                )
                assert [line["status"] for line in lines if line["type"] == "transition"][-1] == "PRODUCTION_ERROR"


@pytest.mark.usefixtures("environment")
async def test_watch_follows(kiosk: Simulator, tmp_path: Path) -> None:
    """`watch --follow` waits until cards are produced, also after a run without it that ended in an error."""
    cards = [kiosk.add((1, f"card-{number}"), RETRIED) for number in range(3)]
    file, state = write_list(tmp_path / "cards.csv", cards), str(tmp_path / "state")
    arguments = ("watch", file, "--checkpoint", state)
    exit_code, first = await run_json(*arguments)
    assert (exit_code, first[-1]["failed"]) == (1, 3)
    exit_code, second = await run_json(*arguments, "--follow")
    assert (exit_code, second[-1]["produced"]) == (0, 3)
    for card in cards:
        statuses = [
            line["status"]
            for line in (*first, *second)
            if line["type"] == "transition" and line["card"]["card_token"] == card.card_token
        ]
        assert statuses == ORDER
    again = kiosk.add((1, "again"), RETRIED)
    exit_code, lines = await run_json("watch", write_list(tmp_path / "one.csv", [again]), "--follow")
    assert [line["status"] for line in lines if line["type"] == "transition"] == ORDER
    assert (exit_code, lines[-1]["ends"][0]["name"]) == (0, "PRODUCED")


# --- TLS and proxies ---


def client_with(**arguments: str | None) -> None:
    """Make the client for these arguments."""
    names = dict.fromkeys(("proxy", "ca", "cert", "key"))
    make_client(argparse.Namespace(**{**names, **arguments}))


@pytest.fixture
def pem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names of PEM files: an authority, a client certificate, its key, the key encrypted, and another key."""
    monkeypatch.setenv("CARDPROD_TOKEN", "any")
    authority, files = trustme.CA(), {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key", "other")}
    client = authority.issue_cert("client")
    authority.cert_pem.write_to_path(files["ca"])
    client.cert_chain_pems[0].write_to_path(files["cert"])
    client.private_key_pem.write_to_path(files["key"])
    authority.issue_cert("other").private_key_pem.write_to_path(files["other"])
    return files


def test_tls(pem: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A CA bundle and a client certificate come from arguments or variables, and what is wrong with them is said."""
    made: list[ssl.SSLContext] = []
    real = ssl.create_default_context

    def make(cafile: str | None) -> ssl.SSLContext:
        made.append(real(cafile=cafile))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", make)
    client_with(ca=pem["ca"], cert=pem["cert"], key=pem["key"])
    monkeypatch.setenv("CARDPROD_CA", pem["ca"])
    client_with()
    assert [len(context.get_ca_certs()) for context in made] == [1, 1]
    refused = {
        "the key is another certificate's": {"cert": pem["cert"], "key": pem["other"]},
        "the client certificate .* cannot be read: No such file": {"cert": "nowhere"},
        "the authorities in .* cannot be used: it is not PEM": {"ca": __file__},
    }
    with Table() as table:
        for words, arguments in refused.items():
            with table.row(words), pytest.raises(UsageError, match=words):
                client_with(**arguments)


def test_an_encrypted_key(pem: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of an encrypted key comes from a variable; without it, nobody is asked on a terminal."""
    file = Path(pem["key"])
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    encrypted = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    file.write_bytes(encrypted)
    with pytest.raises(UsageError, match="the key of the client certificate is encrypted: set CARDPROD_KEY_PASSWORD"):
        client_with(cert=pem["cert"], key=pem["key"])
    monkeypatch.setenv("CARDPROD_KEY_PASSWORD", "wrong")
    with pytest.raises(UsageError, match="CARDPROD_KEY_PASSWORD is wrong"):
        client_with(cert=pem["cert"], key=pem["key"])
    monkeypatch.setenv("CARDPROD_KEY_PASSWORD", "secret")
    client_with(cert=pem["cert"], key=pem["key"])


async def test_proxies(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """`--proxy` names a proxy, "none" none, and one that is no URL or cannot be reached is named as that."""
    monkeypatch.setenv("CARDPROD_TOKEN", "any")
    monkeypatch.setenv("CARDPROD_BASE_URL", "https://wise.invalid")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert (await run("status", "1", "card", "--proxy", "nonsense"))[0] == 2
    assert capfd.readouterr().err == (
        "cardprod: --proxy must be the URL of an http proxy, such as http://proxy.example:3128, or none\n"
    )
    assert (await run("status", "1", "card"))[0] == 4
    words = "cardprod: 1/card: the proxy could not be reached: check --proxy, or HTTPS_PROXY in the environment"
    assert capfd.readouterr().err.startswith(words)
    assert (await run("status", "1", "card", "--proxy", "none"))[0] == 4
    assert "proxy" not in capfd.readouterr().err
