"""The soak program, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_small_soak_is_well() -> None:
    """Hundreds of looks and waits at a server that often misbehaves bring no wrong result, hang or leak."""
    size = ["--looks", "400", "--waits", "40"]
    # The program's own half second for a request is too short on a busy machine: what is answered later counts as lost.
    times = ["--limit", "100", "--request-timeout", "3"]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--json", *size, *times],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    summary = json.loads(ran.stdout)
    assert ran.returncode == 0, summary
    assert sum(summary["looks"].values()) == 400
    assert sum(summary["waits"].values()) == 40
    assert len(summary["faults"]) > 20
