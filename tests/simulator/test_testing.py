"""The pytest plugin as its users have it: in a process of its own, with each plugin that runs async tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cardprod import testing
from tests.waiting import run_program

if TYPE_CHECKING:
    from pathlib import Path

_TESTS = """
import sys, time
import pytest

# The plugin is there, and before a test asks for a fixture it has imported no simulator.
assert "cardprod.testing" in sys.modules
assert "cardprod.simulator" not in sys.modules


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.asyncio
async def test_a_jam_is_reported(kiosk, kiosk_client):
    kiosk.start(kiosk.add((123456, "my-card"), "never"))
    kiosk.fail((123456, "my-card"), "PRD_FEEDER_JAM")
    final = await kiosk_client.wait_until_final(123456, "my-card")
    assert final.error_code == "PRD_FEEDER_JAM"


@pytest.mark.asyncio
async def test_each_test_has_its_own(kiosk, kiosk_client):
    assert kiosk.cards == ()
    assert kiosk.requests == []


@pytest.mark.asyncio
@pytest.mark.looptime(True)
async def test_virtual_time(kiosk, kiosk_client):
    began = time.monotonic()
    kiosk.add((123456, "my-card"), [("READY", 600), ("IN_PROGRESS", 600), ("PRODUCED", 1)])
    final = await kiosk_client.wait_until_final(123456, "my-card", timeout=None)
    assert final.is_produced
    assert time.monotonic() - began < 300


@pytest.mark.anyio
async def test_anyio(kiosk, kiosk_client):
    kiosk.add((123456, "my-card"), [("PRODUCED", 1)])
    assert (await kiosk_client.get_status(123456, "my-card")).is_produced


"""
_INI = """
[pytest]
asyncio_mode = {mode}
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


def test_fixtures(tmp_path: Path, *, full_size: bool) -> None:
    """The fixtures work in real and virtual time, in both modes of pytest-asyncio and with anyio."""
    (tmp_path / "test_cards.py").write_text(_TESTS)
    plugins = ["-p", "no:hypothesispytest", "-p", "no:sybil", "-p", "no:cacheprovider", "-p", "no:xdist"]
    for mode, passed in (("strict", 4), ("auto", 3)) if full_size else (("strict", 4),):
        (tmp_path / "pytest.ini").write_text(_INI.format(mode=mode))
        chosen = ["-k", "not anyio"] if mode == "auto" else []  # in auto mode every fixture is pytest-asyncio's
        argv = [sys.executable, "-m", "pytest", "-q", *plugins, *chosen, str(tmp_path)]
        done = run_program(*argv, cwd=tmp_path, check=False)
        assert done.exit_code == 0, done.out + done.err
        assert f"{passed} passed" in done.out


def test_public_module() -> None:
    """`cardprod.testing` has the fixtures too, for `pytest_plugins`."""
    assert testing.__all__ == ["kiosk", "kiosk_client"]
