"""The checkpoint file of `cardprod watch`: an SQLite database with a row for each card, written as things change.

| table | column | what it is |
| --- | --- | --- |
| `card` | `number` | its position, from 0 |
| | `profile_id` `card_token` | the card |
| | `started_at` | when its wait began: a timeout counts from then |
| | `status` `kiosk_id` `occurred_at` `error_code` `description` | the last status that was shown |
| | `previous` | the status before that one |
| | `seen_at` `polls` | when it was shown, and after how many answered polls |
| | `error` | the error that ended its wait, if one did: another run begins it anew |
| `watch` | `base_url` | where cards are asked for |
| | `learned` | what `AdaptiveSchedule.to_json` gave: how long statuses last |

Times are microseconds since 1970 in UTC. The row of a card whose time ran out has the last status as well. No token
but the cards' is in it, and only its owner can read it.

One run has it at a time: it holds SQLite's write lock, because with each commit it begins the next transaction.
Other programs can read it meanwhile. In WAL mode a commit is in the file as soon as it returns, also if the process is
killed; if the machine crashes, the last ones may be missing.
"""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import stat
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import attrs

from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._protocol.codec import as_datetime, unix_time
from cardprod._protocol.validation import MOST
from cardprod.checkpoint import PendingCard, wall_clock
from cardprod.errors import CardprodError, UsageError, WaitTimeout
from cardprod.models import Card, ProductionStatus, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardprod.models import Transition

_T = TypeVar("_T")
_Row: TypeAlias = tuple[Any, ...]

_MAGIC: Final = b"SQLite format 3\0"
_APPLICATION: Final = int.from_bytes(b"CPwa", "big")
_VERSION: Final = 1
_COLUMNS: Final = {
    "number": "INTEGER PRIMARY KEY",
    "profile_id": "INTEGER NOT NULL",
    "card_token": "TEXT NOT NULL",
    "started_at": "INTEGER NOT NULL",
    "status": "TEXT",
    "kiosk_id": "TEXT",
    "occurred_at": "INTEGER",
    "error_code": "TEXT",
    "description": "TEXT",
    "previous": "TEXT",
    "seen_at": "INTEGER",
    "polls": "INTEGER NOT NULL DEFAULT 0",
    "error": "TEXT",
}
_SCHEMA: Final = (
    f"CREATE TABLE card ({', '.join(f'{name} {kind}' for name, kind in _COLUMNS.items())})",
    "CREATE TABLE watch (base_url TEXT NOT NULL, learned TEXT NOT NULL)",
)
_ADD: Final = "INSERT OR REPLACE INTO card (number, profile_id, card_token, started_at) VALUES (?, ?, ?, ?)"
_CHANGE: Final = (
    "UPDATE card SET status = ?, kiosk_id = ?, occurred_at = ?, error_code = ?, description = ?, previous = ?, "
    "seen_at = ?, polls = coalesce(?, polls), error = ?, started_at = coalesce(?, started_at) WHERE number = ?"
)
_LAST: Final = unix_time(math.inf)
"""The last time that can be written."""

_LONGEST: Final = 1_000_000
"""Bytes of the longest value that is read, and of the write-ahead log between two runs."""

_SAVE_AFTER: Final = 0.4
"""Seconds until a change is written: what comes meanwhile is written with it."""

_RETRY_AFTER: Final = 60.0
"""Seconds until a file that could not be written is tried again."""
_TRIES: Final = 25
_TRY_AFTER: Final = 0.02
_BUSY: Final = 1000
"""Milliseconds for which SQLite waits for others, who have the file for moments: they read it, or see if it is free."""


@attrs.frozen
class Saved:
    """What an earlier run left: the wait of each card, by number, and the error that ended it, if one did."""

    base_url: str
    learned: str
    cards: deque[tuple[PendingCard, str | None]]


class CheckpointStore:
    """A checkpoint file. Its work is done in a thread of its own, so that the event loop goes on."""

    def __init__(self, name: str) -> None:
        self.name: str = name
        """The file's name, for messages."""
        self.learned: Callable[[], str] | None = None
        """Returns what the schedule has learned, once there is one."""
        self._thread = ThreadPoolExecutor(1, "cardprod checkpoint")
        self._database = _Database(name)
        self._new: list[_Row] = []
        self._changes: dict[int, _Row] = {}
        self._has_changed = asyncio.Event()

    async def open(self, base_url: str) -> Saved | None:
        """Open the file, keep it from other runs, and return what an earlier one left; None if it is new.

        Raises:
            UsageError: It is another run's, or no checkpoint, or cannot be used. It was left as it is.
        """
        return await self._run(lambda: self._database.open(base_url))

    def add(self, number: int, card: Card) -> None:
        """Note a card whose wait begins now."""
        self._new.append((number, *card, unix_time(wall_clock())))
        self._has_changed.set()

    def change(self, number: int, result: Transition | CardprodError) -> None:
        """Note what was shown of a card."""
        now, previous, polls, error, started_at = wall_clock(), None, None, None, None
        if isinstance(result, CardprodError):
            status, error = result.last if isinstance(result, WaitTimeout) else None, type(result).__name__
        else:
            status, before, polls = result.current, result.previous, min(result.polls, MOST)
            if before is not None:
                previous = str(before.status)
                started_at = unix_time(now - result.elapsed) if before.is_final else None  # it is followed
        shown: _Row = (None,) * 5
        if status is not None:
            code = None if status.error_code is None else str(status.error_code)
            occurred_at = None if status.occurred_at is None else unix_time(status.occurred_at.timestamp())
            shown = str(status.status), status.kiosk_id, occurred_at, code, status.description
        seen_at = None if status is None else unix_time(now)
        self._changes[number] = *shown, previous, seen_at, polls, error, started_at, number
        self._has_changed.set()

    def forget_changes(self) -> None:
        """Drop the changes that are not written yet."""
        self._changes.clear()

    async def flush(self) -> None:
        """Write what was noted. What cannot be written is kept, to be written later: `UsageError`."""
        await self._run(self._writing())

    async def keep_writing(self, on_saved: Callable[[], None], on_failure: Callable[[UsageError], None]) -> None:
        """Write what was noted soon after it was, until this is cancelled; if that fails, try again after a while."""
        while True:
            await self._has_changed.wait()
            await asyncio.sleep(_SAVE_AFTER)
            try:
                await self.flush()
            except UsageError as error:
                on_failure(error)
                await asyncio.sleep(_RETRY_AFTER)
                self._has_changed.set()
            else:
                on_saved()

    def close(self) -> None:
        """Write the rest, and let others have the file. It blocks, so that nothing can cancel it."""
        try:
            self._thread.submit(self._writing()).result()
        finally:
            self._thread.submit(self._database.close).result()
            self._thread.shutdown()

    def _writing(self) -> Callable[[], None]:
        """Take what was noted, and return what writes it, in the thread."""
        new, self._new = self._new, []
        changes, self._changes = self._changes, {}
        self._has_changed.clear()
        learned = None if self.learned is None else self.learned()
        return lambda: self._database.write(new, changes, learned)

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class _Database:
    """The file itself, in one thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._path = Path(os.path.realpath(name))
        self._connection: sqlite3.Connection | None = None
        self._new: list[_Row] = []
        self._changes: dict[int, _Row] = {}

    def open(self, base_url: str) -> Saved | None:
        self._check_files()
        uri = f"{self._path.as_uri()}?mode=rw"
        try:
            self._connection = connection = sqlite3.connect(uri, uri=True, timeout=_BUSY / 1000, isolation_level=None)
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = NORMAL"):
                connection.execute(f"PRAGMA {pragma}")
            _lock(connection)
            saved = None
            if _schema_of(connection):
                saved = self._load(connection)
            else:
                self._create(connection, base_url)
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA journal_size_limit = {_LONGEST}")
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            self.close()
            raise self._failure(exc) from None
        except BaseException:
            self.close()
            raise
        return saved

    def write(self, new: list[_Row], changes: dict[int, _Row], learned: str | None) -> None:
        """Write rows, and those that could not be written before, and commit."""
        self._new += new
        self._changes |= changes
        connection = self._connection
        if connection is None:
            return
        try:
            if not connection.in_transaction:  # the last write failed
                connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_ADD, self._new)
            connection.executemany(_CHANGE, self._changes.values())
            if learned is not None:
                connection.execute("UPDATE watch SET learned = ?", [learned])
            connection.execute("COMMIT")
            self._new, self._changes = [], {}
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise self._unusable("written", exc) from None

    def close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _check_files(self) -> None:
        """Check the file, or create an empty one, before SQLite does anything with it."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            if Path(self._name).is_symlink() and not self._path.exists():
                raise self._refusal("it is a link that leads nowhere")
            for end in ("", "-wal", "-shm", "-journal"):  # what SQLite has beside a database
                with suppress(FileNotFoundError):
                    self._check_file(Path(f"{self._path}{end}"))
            with os.fdopen(os.open(self._path, flags, 0o600), "rb") as file:
                header = file.read(100)
        except OSError as exc:
            raise self._unusable("used", exc.strerror) from None
        if not header:
            self._path.chmod(0o600)  # it will hold the cards' tokens
            return
        if len(header) < 100 or not header.startswith(_MAGIC):  # noqa: PLR2004 - SQLite's
            raise self._refusal("it is no SQLite database")
        version, application = (int.from_bytes(header[at : at + 4], "big") for at in (60, 68))
        if application != _APPLICATION:
            raise self._refusal("it is another program's database")
        if version > _VERSION:
            raise self._refusal("a newer version of cardprod has written it")
        if version < _VERSION:
            raise self._damaged("it has no version")

    def _check_file(self, path: Path) -> None:
        found = path.lstat()
        which = "it" if path == self._path else path.name
        if not stat.S_ISREG(found.st_mode):
            raise self._refusal(f"{which} is no file")
        if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
            raise self._refusal(f"{which} is another user's file")

    def _create(self, connection: sqlite3.Connection, base_url: str) -> None:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO watch VALUES (?, ?)", [base_url, AdaptiveSchedule().to_json()])
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _load(self, connection: sqlite3.Connection) -> Saved:
        if _schema_of(connection) != {*_SCHEMA}:
            raise self._damaged("its tables are others")
        match connection.execute("SELECT base_url, learned FROM watch").fetchall():
            case [(str(base_url), str(learned))]:
                saved = Saved(base_url, learned, deque())
            case _:
                raise self._damaged("table watch")
        now = unix_time(wall_clock())
        seen: set[Card] = set()
        try:
            AdaptiveSchedule.from_json(saved.learned)
            for number, row in enumerate(connection.execute("SELECT * FROM card ORDER BY number")):
                saved.cards.append(_read_row(row, number, now))
                seen.add(saved.cards[-1][0].card)
        except (ValueError, OverflowError) as exc:
            raise self._damaged(f"card number {len(saved.cards)}: {exc}") from None
        if len(seen) < len(saved.cards):
            raise self._damaged("a card is in it twice")
        return saved

    def _damaged(self, what: str) -> UsageError:
        return self._refusal(f"it is damaged ({one_line(what, 100)})")

    def _refusal(self, why: str) -> UsageError:
        words = f"is no checkpoint of `cardprod watch` to continue from: {why}; it was left as it is; "
        words += "name another file with --checkpoint"
        return UsageError(f"{self._name} {words}")

    def _failure(self, exc: sqlite3.Error) -> UsageError:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            words = "wait for it, or name another file with --checkpoint"
            return UsageError(f"another run continues from {self._name}: {words}")
        if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            return self._unusable("written", exc)
        return self._damaged(str(exc))

    def _unusable(self, how: str, why: object) -> UsageError:
        return UsageError(f"the checkpoint {self._name} cannot be {how}: {why}; name another file with --checkpoint")


def _schema_of(connection: sqlite3.Connection) -> set[str]:
    return {str(sql) for (sql,) in connection.execute("SELECT sql FROM sqlite_master")}


@cache
def _wrong_type(types: tuple[type, ...]) -> str | None:
    """Return the column whose value cannot be of its type; None if there is none. Most rows have the same types."""
    for found, (name, kind) in zip(types, _COLUMNS.items(), strict=True):
        if found is not (int if "INTEGER" in kind else str) and (found is not type(None) or " " in kind):
            return name
    return None


def _read_row(row: _Row, number: int, now: int) -> tuple[PendingCard, str | None]:
    """Read a row of the table `card`; `ValueError` if it cannot be one that was written here."""
    if (wrong := _wrong_type(tuple(map(type, row)))) is not None:
        raise ValueError(wrong)
    found, profile_id, card_token, started_at, status, kiosk_id, occurred_at, *rest = row
    error_code, description, previous, seen_at, polls, error = rest
    if found != number or polls < 0 or (status is not None and seen_at is None):
        raise ValueError("number, polls or seen_at")
    if not all(0 <= moment <= _LAST for moment in (started_at, seen_at or 0)):
        raise ValueError("started_at or seen_at")
    occurred = None if occurred_at is None else as_datetime(occurred_at)
    wait = PendingCard(
        card=Card(profile_id, card_token),
        started_at=started_at,
        next_poll_at=now,
        polls=polls,
        last=None if status is None else ProductionStatus(status, kiosk_id, occurred, error_code, description),
        began_at=seen_at,
        polled_at=seen_at,
        is_first=previous is None,
    )
    return wait, error


def _lock(connection: sqlite3.Connection) -> None:
    """Begin to write, and so keep other runs away.

    Another run lets go of the file for an instant with each commit, so who can lock it three times in a row has it. A
    program that reads it has it for a moment when it opens or closes it, so who fails tries again for half a second.
    """
    locked = 0
    connection.execute("PRAGMA busy_timeout = 0")  # else it would wait for such an instant
    for left in reversed(range(_TRIES)):
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or left < 3 - locked:
                raise
            locked = 0
        else:
            locked += 1
            if locked == 3:  # noqa: PLR2004 - as above
                break
            connection.execute("ROLLBACK")
        time.sleep(_TRY_AFTER)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY}")
