"""Completion scripts: they know every command and option, and real shells take them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest

from cardprod.cli.commands.completion import SHELLS
from tests.cli.commands import run
from tests.waiting import run_program

HERE: Final = Path(__file__).parent


async def script(name: str) -> str:
    pytest.importorskip("shtab")
    exit_code, out = await run("completion", name)
    assert exit_code == 0
    return out


def shell(name: str, *argv: str) -> str:
    """Run a shell; give what it printed."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    return run_program(program, *argv, cwd=HERE).out


@pytest.mark.parametrize("name", SHELLS)
async def test_knows_everything(name: str) -> None:
    """Every command, option and choice of the command line is in each shell's script, and the shell can read it."""
    text = await script(name)
    words = ["status", "wait", "watch", "simulate", "submit", "worker", "batch", "demo", "completion", *SHELLS]
    for word in (*words, "checkpoint", "per-minute", "strict", "file", "on-steps", "json", "follow", "proxy"):
        assert word in text, word
    assert shell(name, "-n", "-c", text) == ""


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("wa", "wait watch"),
        ("watch --ch", "--checkpoint"),
        ("watch test_compl", "test_completion.py"),
        ("watch --checkpoint test_compl", "test_completion.py"),
        ("completion ", "bash zsh fish"),
        ("status --file test_compl", "test_completion.py"),
    ],
)
async def test_bash(typed: str, completed: str) -> None:
    """Bash completes commands, options, choices and files."""
    words = " ".join(f"'{word}'" for word in ["cardprod", *typed.split(" ")])
    program = f"{await script('bash')}\nCOMP_WORDS=({words}); ((COMP_CWORD = ${{#COMP_WORDS[@]}} - 1))\n"
    assert shell("bash", "-c", program + '_shtab_cardprod; echo "${COMPREPLY[@]}"').strip() == completed


async def test_without_shtab(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Without the extra it says which one it needs."""
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert await run("completion", "bash") == (2, "")
    assert "needs the extra 'cli': pip install " in capfd.readouterr().err
