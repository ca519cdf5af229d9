"""PostgreSQL, and PgBouncer before it, of the tests' own: real servers from the machine's programs, on sockets only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg

from tests.waiting import Child, run_program, wait_until

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["EMPTY", "Postgres", "pgbouncer", "postgres_programs", "running_postgres"]


_OPTIONS: Final = (
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=16MB",
    "autovacuum=off",
    "jit=off",
    "max_connections=200",
)
"""A machine that crashes may lose everything; a server that crashes loses nothing."""


def postgres_programs() -> Path | None:
    """Find where initdb and postgres are; Debian does not put them on the path."""
    on_path = shutil.which("initdb")
    places = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places and (places[-1] / "postgres").exists() else None


@contextlib.contextmanager
def running_postgres(programs: Path) -> Generator[Postgres]:
    """Run a server in a folder of its own until the block is left."""
    with tempfile.TemporaryDirectory(prefix="pg") as directory:
        server = Postgres(directory, programs)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _as_whom() -> str | None:
    return "nobody" if os.getuid() == 0 else None  # both refuse to run as root


class Postgres:
    """One server in a folder of its own, which can be restarted."""

    def __init__(self, directory: str, programs: Path) -> None:
        self.directory: str = directory
        """Where its socket is."""
        self._programs = programs
        self._server: Child | None = None
        self._databases = 0
        if (user := _as_whom()) is not None:
            shutil.chown(directory, user)
        initdb = [f"{programs}/initdb", "-D", f"{directory}/data", "-U", "tester", "-A", "trust", "--no-sync"]
        run_program(*initdb, "-E", "UTF8", user=user, cwd=directory)

    def start(self) -> None:
        """Start it, unless it runs, and wait until it takes connections."""
        if self._server is not None:
            return
        options = [*_OPTIONS, f"unix_socket_directories={self.directory}"]
        settings = [word for option in options for word in ("-c", option)]
        program = [f"{self._programs}/postgres", "-D", f"{self.directory}/data", *settings]
        self._server = Child(*program, user=_as_whom(), cwd=self.directory)
        _wait_for_line(self._server, "ready to accept connections")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it. SIGINT is "fast": it does not wait for clients; SIGQUIT is as a crash."""
        if self._server is not None:
            with self._server as server:
                self._server = None
                server.send(how)
                server.wait_for_end()

    def drop_database(self, url: str) -> None:
        """Remove a database, with whatever connections are left."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {url.rpartition('=')[2]} WITH (FORCE)".encode())

    def new_database(self) -> str:
        """Make a database, and say where it is."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def url(self, database: str) -> str:
        """Say where one of its databases is."""
        return f"host={self.directory} user=tester dbname={database}"


EMPTY: Final = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE one record;
BEGIN
    SET LOCAL session_replication_role = replica;  -- no foreign keys: in any order
    FOR one IN SELECT relname, relkind FROM pg_class WHERE relnamespace = 'cardprod'::regnamespace LOOP
        IF one.relkind = 'r' AND one.relname <> 'migrations' THEN
            EXECUTE format('DELETE FROM cardprod.%I', one.relname);
        ELSIF one.relkind = 'S' THEN
            EXECUTE format('ALTER SEQUENCE cardprod.%I RESTART', one.relname);
        END IF;
    END LOOP;
END;
$$
"""
"""Ends what a test has left under way in a database, and removes the rows of durable waits."""


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
    with Child(program, str(file), user=user) as bouncer:
        _wait_for_line(bouncer, "process up")
        yield directory
        bouncer.send(signal.SIGINT)
        bouncer.wait_for_end()


def _wait_for_line(server: Child, words: str) -> None:
    """Wait until a server says that it is ready."""
    wait_until(f"a server that says {words!r}", lambda: server.err, lambda err: words in err, child=server)
