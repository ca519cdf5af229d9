"""The attacks on a client."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.waiting import LONG_LIMIT, LONG_TIMEOUT, run_program


@pytest.mark.slow
@pytest.mark.timeout(LONG_TIMEOUT)
def test_every_attack_is_held_off(*, full_size: bool) -> None:
    """Whatever `python -m tests.attack` tries, the client holds."""
    root = Path(__file__).parents[2]
    chosen = [] if full_size else ["saved events", "signature", "synchronous"]
    ran = run_program(sys.executable, "-m", "tests.attack", "--json", *chosen, cwd=root, check=False, limit=LONG_LIMIT)
    outcomes = [json.loads(line) for line in ran.out.splitlines()]
    assert [one for one in outcomes if not one["is_ok"]] == []
    assert outcomes
    assert ran.exit_code == 0, ran.err
