"""PostgreSQL, and PgBouncer before it, of the tests' own: real servers from the machine's programs, on sockets only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Postgres", "pgbouncer", "postgres_programs"]


def postgres_programs() -> Path | None:
    """Find where initdb and postgres are; Debian does not put them on the path."""
    on_path = shutil.which("initdb")
    places = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places and (places[-1] / "postgres").exists() else None


def _as_whom() -> str | None:
    return "nobody" if os.getuid() == 0 else None  # both refuse to run as root


class Postgres:
    """One server, which can be restarted.

    Args:
        directory: A folder of its own.
        programs: Where its programs are.
    """

    def __init__(self, directory: str, programs: Path) -> None:
        self._directory = directory
        self._programs = programs
        self._server: subprocess.Popen[str] | None = None
        self._databases = 0
        if (user := _as_whom()) is not None:
            shutil.chown(directory, user)
        initdb = [f"{programs}/initdb", "-D", f"{directory}/data", "-U", "tester", "-A", "trust", "--no-sync"]
        subprocess.run([*initdb, "-E", "UTF8"], user=user, check=True, capture_output=True, cwd=directory)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={self._directory}"]
        self._server = subprocess.Popen(
            [f"{self._programs}/postgres", "-D", f"{self._directory}/data", *options],
            user=_as_whom(),
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._directory,
        )
        assert self._server.stderr is not None
        for line in self._server.stderr:
            if "ready to accept connections" in line:
                break

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it. SIGINT is "fast": it does not wait for clients; SIGQUIT is as a crash."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.communicate(timeout=60)
            self._server = None

    @property
    def directory(self) -> str:
        """Where its socket is."""
        return self._directory

    def new_database(self) -> str:
        """Make a database, and say where it is."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def url(self, database: str) -> str:
        """Say where one of its databases is."""
        return f"host={self._directory} user=tester dbname={database}"


@contextlib.contextmanager
def pgbouncer(program: str, postgres: Postgres, directory: str) -> Generator[str]:
    """PgBouncer in transaction mode before a server: the folder its socket is in."""
    settings = f"""
[databases]
* = host={postgres.directory} user=tester
[pgbouncer]
pool_mode = transaction
auth_type = any
listen_addr =
listen_port = 6432
unix_socket_dir = {directory}
default_pool_size = 3
"""
    file = Path(directory) / "pgbouncer.ini"
    file.write_text(settings)
    if (user := _as_whom()) is not None:
        shutil.chown(directory, user)
    with subprocess.Popen([program, str(file)], user=user, stderr=subprocess.PIPE, text=True) as bouncer:
        assert bouncer.stderr is not None
        try:
            for line in bouncer.stderr:
                if "process up" in line:
                    break
            yield directory
        finally:
            bouncer.send_signal(signal.SIGINT)
            bouncer.communicate(timeout=60)
