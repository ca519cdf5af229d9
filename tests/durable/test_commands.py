"""The commands of durable waits as processes: signals, a closed output, names of tokens, and roles with little."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from cardprod import PRODUCTION, Card
from cardprod.durable import Durable
from tests.cli.commands import run, run_json, start_command, write_list
from tests.durable.support import PRODUCED, QUICK, as_role, cards_of, execute, over, run_script, working
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardprod import Client
    from cardprod.durable import Step
    from cardprod.simulator import Simulator
    from tests.durable.postgres import Postgres

pytestmark = pytest.mark.looptime(False)

_STUCK = (
    "import asyncio\nasync def on_steps(steps):\n    print('stuck', flush=True)\n    await asyncio.Event().wait()\n"
)
_BLOCKED = "import time\nasync def on_steps(steps):\n    print('stuck', flush=True)\n    time.sleep(3600)\n"


def environment_of(kiosk: Simulator, postgres: str, **more: str) -> dict[str, str]:
    return {
        "CARDPROD_TOKEN": kiosk.token,
        "CARDPROD_BASE_URL": kiosk.base_url,
        "CARDPROD_DATABASE_URL": postgres,
        "PYTHONPATH": str(Path.cwd()),
        **more,
    }


@pytest.mark.slow
@pytest.mark.parametrize("sink", [_STUCK, _BLOCKED], ids=["waits", "blocks"])
async def test_second_signal(kiosk: Simulator, postgres: str, durable: Durable, tmp_path: Path, sink: str) -> None:
    """A second signal ends a worker at once, also while its sink never returns or blocks the event loop.

    What the worker says of itself is on standard error, never among the transitions.
    """
    (tmp_path / "sink.py").write_text(sink)
    await durable.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK)
    environment = environment_of(kiosk, postgres)
    with start_command("worker", "--on-steps", "sink:on_steps", environment=environment, cwd=tmp_path) as worker:
        await until("a delivery", lambda: worker.out, lambda out: "stuck" in out, child=worker)
        worker.send(signal.SIGTERM)
        await until("the first's effect", lambda: not worker.catches(signal.SIGTERM))  # two at once would be one
        worker.send(signal.SIGTERM)
        assert await worker.until_end() == -signal.SIGTERM
        assert "working for default" in worker.err
        assert worker.out == "stuck\n"


@pytest.mark.slow
async def test_closed_output(kiosk: Simulator, client: Client, postgres: str, durable: Durable) -> None:
    """A worker whose output was closed, as `head` does, ends, and another delivers what it could not print."""
    cards = cards_of(kiosk, 3, PRODUCED)
    batch_id = await durable.submit(cards, schedule=QUICK)
    reading, writing = os.pipe()
    os.close(reading)
    with start_command("worker", "--json", environment=environment_of(kiosk, postgres), stdout=writing) as worker:
        os.close(writing)
        assert await worker.until_end() == 4
        assert "Traceback" not in worker.err
    delivered: list[str] = []

    async def on_steps(steps: Sequence[Step]) -> None:
        delivered.extend(step.card.card_token for step in steps)

    async with working(durable, client, on_steps):
        await over(durable, batch_id)
    assert sorted(delivered) == [card.card_token for card in cards]


async def test_another_schema(
    empty_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What `submit` says to run repeats its options, which variables can replace; `batch` says where it searched."""
    file = write_list(tmp_path / "cards.csv", [Card(1, "a")])
    code, out = await run("submit", file, "--schema", "other", "--database", empty_postgres)
    batch_id = out.strip()
    assert code == 0
    assert f"`cardprod batch {batch_id} --database URL --schema other`" in capfd.readouterr().err
    code, out = await run("batch", batch_id, "--schema", "other", "--database", empty_postgres)
    no_worker = f"no worker has the token 'default' for {PRODUCTION}"
    assert (code, out) == (3, f"1 card: 0 produced, 0 failed, 0 errors; 1 pending; 0 workers; 0 polls; {no_worker}\n")
    monkeypatch.setenv("CARDPROD_DATABASE_SCHEMA", "other")
    code, out = await run("batch", batch_id, "--cancel", "--database", empty_postgres)
    cancelled = "1 card: 0 produced, 0 failed, 0 errors; cancelled, 1 not waited for any more; 0 polls\n"
    assert (code, out) == (0, cancelled)
    assert await run("batch", batch_id, "--database", empty_postgres) == (4, cancelled)
    monkeypatch.delenv("CARDPROD_DATABASE_SCHEMA")
    assert (await run("batch", batch_id, "--database", empty_postgres))[0] == 2
    words = f"there is no batch {batch_id} in the schema cardprod: check both; ended ones are removed after 7 days"
    assert capfd.readouterr().err == f"cardprod: {words}\n"


@pytest.mark.slow
async def test_refused_token(
    kiosk: Simulator, postgres: str, durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that is refused is shown by the worker, in a few lines however many the cards, and by `batch`."""
    monkeypatch.setenv("CARDPROD_DATABASE_URL", postgres)
    batch_id = await durable.submit(cards_of(kiosk, 60, "never"), schedule=QUICK)
    environment = environment_of(kiosk, postgres, CARDPROD_TOKEN="expired")
    with start_command("worker", environment=environment) as worker:
        await until("a refusal", lambda: worker.err, lambda err: "the token 'default' was refused" in err, child=worker)
        await until("it", lambda: durable.status(batch_id), lambda status: status.token_refused_at)
        assert worker.err.count("a poll failed") <= 3
    code, out = await run("batch", batch_id)
    assert code == 3  # its cards are pending
    assert "the token 'default' is refused" in out
    code, [shown] = await run_json("batch", batch_id)
    assert shown["token_refused_at"] is not None


async def test_migrate(empty_postgres: str, role: str) -> None:
    """`migrate` makes the tables; `migrate --sql` prints what does, and nothing else; psql prints nothing for it."""
    exit_code, script = await run("migrate", "--sql", "--role", role)
    assert exit_code == 0
    assert script.startswith("BEGIN;")
    with psycopg.connect(empty_postgres, autocommit=True) as connection:
        cursor = connection.execute(script.encode())
        assert not any(cursor.description for _ in iter(cursor.nextset, None))
    assert await run("migrate", "--database", empty_postgres) == (0, "")
    assert execute(empty_postgres, "SELECT count(*) FROM batches") == [(0,)]
    assert await run("migrate", "--role", role, "--database", empty_postgres) == (2, "")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "belongs to the role little, which could run code as this one: "),
        ({"CARDPROD_DATABASE_OWNER": "little"}, "there is no batch "),
    ],
)
async def test_tables_of_another_owner(  # noqa: PLR0917 - fixtures
    empty_postgres: str,
    role: str,
    more: dict[str, str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Tables of another owner are refused with the option to add, and used once it or its variable is there."""
    run_script(empty_postgres, f"CREATE SCHEMA cardprod; GRANT ALL ON SCHEMA cardprod TO {role}; SET ROLE {role}")
    script = Durable(empty_postgres).migration_script().removeprefix("BEGIN;")
    run_script(empty_postgres, f"BEGIN; SET LOCAL ROLE {role}; {script}")
    run_script(empty_postgres, "CREATE ROLE app LOGIN")
    try:
        run_script(empty_postgres, Durable(empty_postgres).migration_script(role="app"))
        monkeypatch.setenv("CARDPROD_DATABASE_URL", as_role(empty_postgres, "app"))
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        assert (await run("batch", "00000000-0000-0000-0000-000000000000"))[0] == 2
        err = capfd.readouterr().err
        assert words in err
        assert more or "add --owner little; else choose another schema" in err
    finally:
        run_script(empty_postgres, "DROP OWNED BY app CASCADE; DROP ROLE app")


@pytest.mark.slow
async def test_refused_login(kiosk: Simulator, empty_postgres: str) -> None:
    """A login that the database refuses ends a worker at its start, with what to check."""
    environment = environment_of(kiosk, f"{empty_postgres}_not")
    with start_command("worker", environment=environment) as worker:
        assert await worker.until_end() == 2
        assert "the database refuses this login (" in worker.err
        assert "check the connection string's user, password and database" in worker.err


@pytest.mark.slow
async def test_database_that_goes_away(kiosk: Simulator, postgres_server: Postgres) -> None:
    """A worker whose database goes away says so and why once, in its own words, and again when it is back."""
    postgres = postgres_server.new_database()
    with start_command("worker", environment=environment_of(kiosk, postgres)) as worker:
        await until("its start", lambda: worker.err)
        await until("its tables", lambda: execute(postgres, "SELECT to_regclass('workers')") != [(None,)])
        await until("its work", lambda: execute(postgres, "SELECT id FROM workers"))
        await asyncio.to_thread(postgres_server.stop)
        try:
            await until("a word", lambda: worker.err, lambda err: "cannot be reached" in err, child=worker)
        finally:
            postgres_server.start()
        await until("another", lambda: worker.err, lambda err: "the database answers again" in err, child=worker)
        worker.send(signal.SIGTERM)
        assert await worker.until_end() == 0
        first, *away, back = worker.err.splitlines()
    assert first.startswith(f"cardprod: working for default at {kiosk.base_url}; ")
    assert back == "cardprod: the database answers again"
    assert len(away) == 1


@pytest.mark.slow
async def test_sink_that_raises(kiosk: Simulator, postgres: str, durable: Durable, tmp_path: Path) -> None:
    """What a sink raises is shown with the step's key, and once with the file and line."""
    (tmp_path / "sink.py").write_text("async def on_steps(steps):\n    raise KeyError('mine')\n")
    batch_id = await durable.submit(cards_of(kiosk, 1, PRODUCED), schedule=QUICK)
    environment = environment_of(kiosk, postgres)
    with start_command("worker", "--on-steps", "sink:on_steps", environment=environment, cwd=tmp_path) as worker:
        await until("two failures", lambda: worker.err.count("raised, so"), lambda count: count == 2, child=worker)
        assert worker.err.count(f"{batch_id}.1.1.0 of 123456/") == 2
        assert worker.err.count(f'File "{tmp_path}/sink.py", line 2, in on_steps') == 1
