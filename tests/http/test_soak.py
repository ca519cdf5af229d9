"""The soak program, in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.waiting import LONG_LIMIT, LONG_TIMEOUT, run_program


@pytest.mark.slow
@pytest.mark.timeout(LONG_TIMEOUT)
def test_small_soak_is_well(*, full_size: bool) -> None:
    """Hundreds of polls and waits at a server that often misbehaves bring no wrong result, hang or leak."""
    polls, waits = (2000, 100) if full_size else (300, 20)
    # How many answers are lost says how busy this machine is: see tests/soak.py.
    arguments = [f"--polls={polls}", f"--waits={waits}", f"--limit={LONG_LIMIT - 50}", "--most-lost=1", "--json"]
    root = Path(__file__).parents[2]
    ran = run_program(sys.executable, "-m", "tests.soak", *arguments, cwd=root, check=False, limit=LONG_LIMIT)
    summary = json.loads(ran.out)
    assert ran.exit_code == 0, summary
    assert sum(summary["polls"].values()) == polls
    assert sum(summary["waits"].values()) == waits
    assert len(summary["faults"]) > 20
