"""The checkpoint file of `watch`: it says the same when it is read again, is one run's, and harms no other file."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import threading
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cardprod import AdaptiveSchedule, Card, ProductionStatus, Transition, UsageError, WaitTimeout, cli
from cardprod.card_files import KnownCard, read_cards
from cardprod.cli.watch.store import CheckpointStore, Saved
from tests.cli.commands import start_command
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

pytestmark = pytest.mark.looptime(False)  # a thread works, whatever the time is

URL = "https://api.wise.com"
READY = ProductionStatus("READY")
JAM = ProductionStatus("PRODUCTION_ERROR", "WIS1", datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "PRD_FEEDER_JAM", "Jam.")


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[tuple[CheckpointStore, Saved | None]]:
    """Have a file, as a run that then ends."""
    store = CheckpointStore(str(path))
    try:
        yield store, await store.open(URL)
    finally:
        store.close()


async def is_new(path: Path) -> bool:
    async with opened(path) as (_, saved):
        return saved is None


async def saved_in(path: Path) -> Saved:
    """Give what is in a checkpoint file, which is not new."""
    async with opened(path) as (_, saved):
        assert saved is not None
        return saved


async def write(path: Path, cards: int = 3) -> None:
    """Write cards: the first ended, the second is in a status, the others were never seen."""
    async with opened(path) as (store, _):
        for number in range(cards):
            store.add(number, Card(1, f"card-{number}"))
        await store.flush()
        for number, status in enumerate((JAM, READY)[:cards]):
            store.change(number, Transition(None, READY, 0, 1))
            if status is JAM:
                store.change(number, Transition(READY, JAM, 1, 2))


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_written_and_read(tmp_path: Path) -> None:
    """What is written is read again: each card's wait, and the last status that was shown."""
    assert await is_new(tmp_path / "state")
    await write(tmp_path / "state")
    saved = await saved_in(tmp_path / "state")
    assert (saved.base_url, saved.learned) == (URL, AdaptiveSchedule().to_json())
    waits = [wait for wait, _ in saved.cards]
    assert [wait.card for wait in waits] == [Card(1, f"card-{number}") for number in range(3)]
    assert [wait.last for wait in waits] == [JAM, READY, None]
    assert [wait.is_first for wait in waits] == [False, True, True]
    assert [wait.polls for wait in waits] == [2, 1, 0]


async def test_an_error_is_kept_until_another_status(tmp_path: Path) -> None:
    """A card whose wait ended with an error is marked as that, until it is begun anew."""
    await write(tmp_path / "state")
    async with opened(tmp_path / "state") as (store, _):
        store.change(1, UsageError("nothing"))
    saved = await saved_in(tmp_path / "state")
    assert [(error, wait.last) for wait, error in saved.cards] == [(None, JAM), ("UsageError", None), (None, None)]
    async with opened(tmp_path / "state") as (store, _):
        store.add(1, Card(1, "card-1"))
    assert (await saved_in(tmp_path / "state")).cards[1][1] is None


async def test_a_timeout_keeps_the_last_status(tmp_path: Path) -> None:
    """The row of a card whose time ran out has the last status beside the error, for those who read the file."""
    await write(tmp_path / "state")
    async with opened(tmp_path / "state") as (store, _):
        store.change(1, WaitTimeout("late", last=READY, polls=1, elapsed=60))
    saved = await saved_in(tmp_path / "state")
    assert (saved.cards[1][1], saved.cards[1][0].last) == ("WaitTimeout", READY)


async def test_the_documented_query(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The queries of the help give a row per card, with its last status and when that was seen, and a list to retry."""
    await write(tmp_path / "state")
    with pytest.raises(SystemExit):
        cli.main(["watch", "--help"])
    queries = {
        " ".join(query.split())
        for text in (capfd.readouterr().out, cli.__doc__ or "")
        for query in re.findall(r'"(SELECT [^"]*)"', text)
    }
    query, retry = sorted(queries, key=len)
    with closing(sqlite3.connect(tmp_path / "state")) as database:
        rows = database.execute(query).fetchall()
        found = database.execute(retry)
        lines = [",".join(map(str, row)) for row in ([name for name, *_ in found.description or ()], *found)]
    known = ProductionStatus(JAM.status, occurred_at=JAM.occurred_at, error_code=JAM.error_code)
    [row] = [row for row in read_cards(lines) if isinstance(row, KnownCard)]
    assert (row, row.after) == (Card(1, "card-0"), known)
    assert [row[:-1] for row in rows] == [
        (1, "card-0", "PRODUCTION_ERROR", "PRD_FEEDER_JAM", None),
        (1, "card-1", "READY", None, None),
        (1, "card-2", None, None, None),
    ]
    age = datetime.now(UTC) - datetime.fromisoformat(f"{rows[0][-1]}+00:00")
    assert abs(age) < timedelta(minutes=1)


async def test_a_followed_wait_has_its_own_time(tmp_path: Path) -> None:
    """What follows an error status is of a wait of its own, whose time began when that did."""
    await write(tmp_path / "state")
    async with opened(tmp_path / "state") as (store, _):
        store.change(0, Transition(JAM, READY, 3600, 3))
        store.change(1, Transition(READY, ProductionStatus("IN_PROGRESS"), 3600, 3))
    saved = await saved_in(tmp_path / "state")
    followed, other = (saved.cards[number][0].started_at for number in (0, 1))
    assert other - followed == pytest.approx(3600e6, abs=60e6)


async def test_learned_is_kept(tmp_path: Path) -> None:
    """What the schedule has learned is in the file when the run ends."""
    learned = AdaptiveSchedule(typical={"READY": 60}).to_json()
    async with opened(tmp_path / "state") as (store, _):
        store.learned = lambda: learned
    assert (await saved_in(tmp_path / "state")).learned == learned


async def test_anybody_can_read_it(tmp_path: Path) -> None:
    """While a run has the file, its owner can read it with SQLite, and nobody else can; in the end it is one file."""
    await write(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600
    async with opened(tmp_path / "state") as (store, _):
        store.change(1, Transition(READY, JAM, 1, 2))
        await store.flush()
        with closing(sqlite3.connect(tmp_path / "state")) as database:
            rows = database.execute("SELECT card_token, status FROM card ORDER BY number").fetchall()
    assert rows == [("card-0", "PRODUCTION_ERROR"), ("card-1", "PRODUCTION_ERROR"), ("card-2", None)]
    assert names_in(tmp_path) == ["state"]


async def test_one_run_at_a_time(tmp_path: Path) -> None:
    """While one run has the file, another is refused, however often the first one writes."""
    async with opened(tmp_path / "state") as (first, _):
        for number in range(2):
            with pytest.raises(UsageError, match=r"another run continues from .*state"):
                await saved_in(tmp_path / "state")
            first.add(number, Card(1, f"card-{number}"))
            await first.flush()
    assert len((await saved_in(tmp_path / "state")).cards) == 2


@pytest.mark.parametrize("tries", [1, 20])
async def test_a_reader_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int) -> None:
    """Who reads the file, and so locks it for a moment, as SQLite does after a crash, keeps no run away."""
    await write(tmp_path / "state")
    with closing(sqlite3.connect(tmp_path / "state", isolation_level=None, check_same_thread=False)) as reader:
        reader.execute("BEGIN EXCLUSIVE")
        left = iter(range(1, tries))

        def sleep(_: float) -> None:
            if next(left, None) is None and reader.in_transaction:
                reader.execute("ROLLBACK")

        monkeypatch.setattr("cardprod.cli.watch.store.time.sleep", sleep)
        assert not await is_new(tmp_path / "state")
        assert not reader.in_transaction


async def test_a_reader_that_recovers_the_file(tmp_path: Path) -> None:
    """A reader that lets nobody else even read, as SQLite does while it recovers a file, keeps no run away."""
    await write(tmp_path / "state")
    with closing(sqlite3.connect(tmp_path / "state", isolation_level=None, check_same_thread=False)) as reader:
        reader.execute("PRAGMA locking_mode = EXCLUSIVE")
        reader.execute("BEGIN EXCLUSIVE")
        recovered = threading.Timer(0.05, reader.close)
        recovered.start()
        assert not await is_new(tmp_path / "state")
        recovered.join(10)


def test_killed_while_it_writes(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves a file with everything that was written before."""
    program = f"""
import asyncio
from cardprod import Card
from cardprod.cli.watch.store import CheckpointStore
async def main():
    store = CheckpointStore({str(tmp_path / "state")!r})
    saved = await store.open("")
    for number in range(len(saved.cards) if saved else 0, 1_000_000):
        store.add(number, Card(1, f"card-{{number}}"))
        await store.flush()
        print(number, flush=True)
asyncio.run(main())
"""
    for writes in (1, 20, 50):
        with start_command("-c", program) as writing:
            wait_until(f"{writes} writes", lambda: writing.lines[writes - 1 :], child=writing)  # noqa: B023 - it ends here
            writing.close()
        with closing(sqlite3.connect(tmp_path / "state")) as database:
            [(count, last)] = database.execute("SELECT count(*), max(number) FROM card")
        assert count == last + 1


# --- Other files ---


def change(path: Path, *statements: str) -> None:
    """Change a checkpoint file as somebody else could."""
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda path: path.write_text("profile_id,card_token\n1,a\n" * 10), "it is no SQLite database"),
    "a little": (lambda path: path.write_bytes(b"SQLite"), "it is no SQLite database"),
    "another program's": (lambda path: change(path, "PRAGMA application_id = 7"), "another program's database"),
    "newer": (lambda path: change(path, "PRAGMA user_version = 2"), "a newer version of cardprod has written it"),
    "no version": (lambda path: change(path, "PRAGMA user_version = 0"), "it is damaged"),
    "cut off": (lambda path: os.truncate(path, 5000), "it is damaged"),
    "a page of nothing": (lambda path: overwrite(path, 4096, bytes(4096)), "it is damaged"),
    "a page of noise": (lambda path: overwrite(path, 4096, bytes(range(256)) * 16), "it is damaged"),
    "another table": (lambda path: change(path, "CREATE TABLE more (x)"), "it is damaged (its tables are others)"),
    "a trigger": (
        lambda path: change(path, "CREATE TRIGGER t AFTER UPDATE ON card BEGIN DELETE FROM watch; END"),
        "its tables are others",
    ),
    "a view": (
        lambda path: change(path, "DROP TABLE card", "CREATE VIEW card AS SELECT 1 AS number"),
        "its tables are others",
    ),
    "no base URL": (lambda path: change(path, "DELETE FROM watch"), "it is damaged (table watch)"),
    "bytes": (lambda path: change(path, "UPDATE watch SET base_url = x'00'"), "it is damaged (table watch)"),
    "not learned": (lambda path: change(path, "UPDATE watch SET learned = '{}'"), "AdaptiveSchedule.to_json"),
    "no token": (lambda path: change(path, "UPDATE card SET card_token = 'a/b'"), "card_token must be"),
    "no text": (lambda path: change(path, "UPDATE card SET status = x'00'"), "card number 0: status"),
    "no UTF-8": (lambda path: change(path, "UPDATE card SET status = CAST(x'ff' AS TEXT)"), "it is damaged"),
    "huge": (
        lambda path: change(path, "UPDATE card SET status = hex(zeroblob(2000000)) WHERE number = 0"),
        "it is damaged",
    ),
    "no time": (lambda path: change(path, "UPDATE card SET seen_at = NULL"), "or seen_at"),
    "no such time": (lambda path: change(path, "UPDATE card SET started_at = 9223372036854775807"), "card number 0"),
    "a real": (lambda path: change(path, "UPDATE card SET started_at = 1.5"), "card number 0: started_at"),
    "a hole": (lambda path: change(path, "DELETE FROM card WHERE number = 1"), "card number 1: number, polls"),
    "twice": (lambda path: change(path, "UPDATE card SET card_token = 'card-0'"), "a card is in it twice"),
    "less than none": (lambda path: change(path, "UPDATE card SET polls = -1"), "number, polls"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_another_file_is_refused(tmp_path: Path, name: str) -> None:
    """A file that is not one of these, whole and of this version, is refused with why, and stays as it is."""
    make, why = HOSTILE[name]
    path = tmp_path / "state"
    await write(path, 50)
    make(path)
    before = path.read_bytes()
    with pytest.raises(
        UsageError, match=r"is no checkpoint of `cardprod watch` to continue from: .*it was left as it is"
    ) as caught:
        await saved_in(path)
    assert why in str(caught.value)
    assert path.read_bytes() == before
    assert names_in(tmp_path) == ["state"]


async def test_an_empty_file_is_a_fresh_start(tmp_path: Path) -> None:
    """A file without anything in it is a new one, which only its owner can read from then on."""
    (tmp_path / "state").touch(0o644)
    assert await is_new(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600
    assert not await is_new(tmp_path / "state")


async def test_links(tmp_path: Path) -> None:
    """A link to a file stays a link; one that leads nowhere is refused, and what it names is not made."""
    (tmp_path / "link").symlink_to(tmp_path / "state")
    with pytest.raises(UsageError, match="a link that leads nowhere"):
        await saved_in(tmp_path / "link")
    assert not (tmp_path / "state").exists()
    await write(tmp_path / "state")
    assert not await is_new(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
async def test_a_link_beside_it(tmp_path: Path, end: str) -> None:
    """A link in the place of a file that SQLite has beside it is refused, and what it leads to stays as it is."""
    await write(tmp_path / "state")
    (tmp_path / "mine").write_text("precious")
    (tmp_path / f"state{end}").symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match=f"state{end} is no file"):
        await saved_in(tmp_path / "state")
    assert (tmp_path / "mine").read_text() == "precious"


async def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A directory, a pipe or a device is no place for a checkpoint; nor is a directory that is not there."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UsageError, match="is no file"):
            await saved_in(path)
    with pytest.raises(UsageError, match="cannot be used: No such file or directory"):
        await saved_in(tmp_path / "nowhere" / "state")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
async def test_another_users_file_is_refused(tmp_path: Path) -> None:
    """Another user's file is refused, though it could be written."""
    await write(tmp_path / "state")
    os.chown(tmp_path / "state", 65534, 65534)
    with pytest.raises(UsageError, match="it is another user's file"):
        await saved_in(tmp_path / "state")
