"""Completion scripts: they know every command and option, and real shells take them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest

from cardprod import cli
from cardprod.cli.completion import SHELLS, script
from tests.cli.commands import run
from tests.waiting import run_program

HERE: Final = Path(__file__).parent


def shell(name: str, *argv: str) -> str:
    """Run a shell; give what it printed."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    return run_program(program, *argv, cwd=HERE).out


@pytest.mark.parametrize("name", SHELLS)
async def test_knows_everything(name: str) -> None:
    """Every command, option and choice of the command line is in each shell's script."""
    exit_code, _ = await run("completion", name)
    assert exit_code == 0
    text = script(cli.parser(), name)
    words = ["status", "wait", "watch", "simulate", "submit", "worker", "batch", "demo", "completion", *SHELLS]
    for word in (*words, "checkpoint", "per-minute", "strict", "file", "on-steps", "json"):
        assert word in text, word


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_can_read_it(name: str) -> None:
    """Each shell finds its script well-formed."""
    assert shell(name, "-n", "-c", script(cli.parser(), name)) == ""


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("wa", "wait watch"),
        ("watch --ch", "--checkpoint"),
        ("watch test_cli_compl", "test_cli_completion.py"),
        ("watch --checkpoint test_cli_compl", "test_cli_completion.py"),
        ("watch --timeout ", ""),
        ("completion ", "bash zsh fish"),
        ("status --f", "--file"),
    ],
)
def test_bash(typed: str, completed: str) -> None:
    """Bash completes commands, options, choices and files."""
    words = " ".join(f"'{word}'" for word in ["cardprod", *typed.split(" ")])
    program = f"{script(cli.parser(), 'bash')}\nCOMP_WORDS=({words}); ((COMP_CWORD = ${{#COMP_WORDS[@]}} - 1))\n"
    assert shell("bash", "-c", program + '_cardprod; echo "${COMPREPLY[@]}"').strip() == completed


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("wa", ["wait", "watch"]), ("watch --ch", ["--checkpoint"]), ("completion ", ["bash", "fish", "zsh"])],
)
def test_fish(typed: str, completed: list[str]) -> None:
    """Fish completes commands, options and choices."""
    out = shell("fish", "--no-config", "-c", f"{script(cli.parser(), 'fish')}\ncomplete -C 'cardprod {typed}'")
    assert [line.partition("\t")[0] for line in out.splitlines()] == completed
