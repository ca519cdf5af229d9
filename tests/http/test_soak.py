"""The soak program, in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.waiting import LIMIT, run_program


def test_small_soak_is_well(*, full_size: bool) -> None:
    """Hundreds of looks and waits at a server that often misbehaves bring no wrong result, hang or leak."""
    looks, waits = (400, 40) if full_size else (200, 20)
    # How many answers are lost says how busy this machine is: see tests/soak.py.
    arguments = [f"--looks={looks}", f"--waits={waits}", f"--limit={LIMIT / 2}", "--most-lost=1", "--json"]
    ran = run_program(sys.executable, "-m", "tests.soak", *arguments, cwd=Path(__file__).parents[2], check=False)
    summary = json.loads(ran.out)
    assert ran.exit_code == 0, summary
    assert sum(summary["looks"].values()) == looks
    assert sum(summary["waits"].values()) == waits
    assert len(summary["faults"]) > 20
