"""`cardprod migrate`: make the tables of durable waits, or bring them up to date."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from cardprod.cli.arguments import add_database
from cardprod.cli.connection import find_database
from cardprod.cli.exit_codes import PRODUCED
from cardprod.cli.output.events import Warned
from cardprod.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.output import Output

DOES: Final = """make the tables of durable waits, or bring them up to date

Workers do it themselves where their role may. Where it may not, an administrator runs the SQL: the database's owner, or
a superuser, or another role, which workers then trust with --owner. The role of --role can submit, work, read and take
webhooks. One that only reads (`batch`) needs no more than

  GRANT USAGE ON SCHEMA cardprod TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA cardprod TO reader;"""

EXAMPLES: Final = """
  cardprod migrate
  cardprod migrate --sql --role app | psql -q DATABASE"""


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    to.add_argument("--sql", action="store_true", help="print the SQL and connect to nothing")
    to.add_argument("--role", metavar="ROLE", help="with --sql: grant this role what workers and submitters need")
    add_database(to)


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Migrate, or print the SQL that does."""
    if arguments.sql:
        arguments.database = "dbname=not-used"
        output.stream.write(find_database(arguments).migration_script(role=arguments.role))
        return PRODUCED
    if arguments.role:
        raise UsageError("--role needs --sql: add it, and have an administrator run what it prints")
    async with await asyncio.to_thread(find_database, arguments) as durable:
        await durable.migrate()
    output.emit(Warned(f"the schema {durable.settings.schema} is up to date"))
    return PRODUCED
