"""The command line of `cardprod`: its commands, their arguments and their help. It parses and runs nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from cardprod._http.rate_limit import RateLimit
from cardprod._version import VERSION
from cardprod.cli import batches, commands, completion, watching
from cardprod.client import PRODUCTION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cardprod.cli.reports import Report

__all__ = ["parser"]

_PROFILE: Final = "the id of the profile that owns the card"
_LIST: Final = "CSV or JSON lines, profile_id and card_token; - for stdin"

_WATCH: Final = """\
With --checkpoint the same command goes on where it was, whatever ended it, even
kill -9: nothing that was told or saved is lost, and what was told since the file
was last written may be told again (it is written every two seconds, rarer with
very many cards). Cards that are final are not asked for again; those whose time
ran out, or that had no usable answer, are. Ctrl-C is fine. When all are final,
the file says so: remove it to begin again.

Lines that are no cards are told and counted, and the others go on. The exit code
is that of the card that most needs attention: 4 no usable answer, 3 not final,
1 ended in an error status, 2 only such lines, 0 all produced."""

_EPILOG: Final = f"""\
environment:
  CARDPROD_TOKEN        the user token; never an argument, where others could read it
  CARDPROD_TOKEN_NAME   for `worker`: the token that `submit --token name` asks for; - is _
  CARDPROD_BASE_URL     where to ask (default {PRODUCTION})
  CARDPROD_API_VERSION  the path's version (default v3)
  CARDPROD_DATABASE_URL for `submit`, `worker`, `batch`, `migrate`: PostgreSQL (default: one of this user's own)

exit codes:
  0 produced   1 ended in an error status   2 usage   3 not final yet or timed out   4 API or network
  with many cards the first of 4, 3, 1, 2 that one of them makes; 130 Ctrl-C

examples:
  cardprod demo
  cardprod status 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52
  cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52 --timeout 600 --json
  cardprod watch cards.csv --checkpoint cards.state
  cardprod submit cards.csv --timeout 3600
  cardprod worker --on-steps my_app.cards:on_steps

`cardprod COMMAND --help` has more of each.
"""


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:  # noqa: PLR2004 - what TCP has
        raise argparse.ArgumentTypeError("a port is from 0 to 65535")
    return port


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="cardprod",
        description="Is my card printed yet? Asks the Wise Platform API.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"cardprod {VERSION}")
    added = _Commands(top)
    _add_demo(added)
    _add_status(added)
    _add_wait(added)
    _add_watch(added)
    _add_simulate(added)
    _add_submit(added)
    _add_worker(added)
    _add_batch(added)
    _add_migrate(added)
    _add_completion(added)
    for command in added.all:
        command.add_argument("--json", action="store_true", help="JSON lines instead of text")
    return top


class _Commands:
    """The commands of a parser, each added with what they all have: a function to run, and examples of it."""

    def __init__(self, top: argparse.ArgumentParser) -> None:
        self._commands = top.add_subparsers(required=True, metavar="COMMAND")
        self.all: list[argparse.ArgumentParser] = []

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace, Report], Awaitable[int]],
        *,
        does: str,
        examples: tuple[str, ...],
        more: str = "",
    ) -> argparse.ArgumentParser:
        command = self._commands.add_parser(
            name,
            help=does,
            description=f"{does[0].upper()}{does[1:]}." + (more and f"\n\n{more}"),
            epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        self.all.append(command)
        return command


class _InsteadOf(argparse.Action):
    """An option that takes the place of arguments that else must be given."""

    def __init__(self, *, positionals: Sequence[argparse.Action], **more: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(**more)
        self._positionals = positionals

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *values: object) -> None:
        """Take the value, and ask for the others no more."""
        del parser
        setattr(namespace, self.dest, values[0])
        for positional in self._positionals:
            positional.required = False


def _add_demo(to: _Commands) -> None:
    to.add(
        "demo",
        commands.demo,
        does="watch seven cards at a simulated kiosk, for ten seconds or so",
        examples=("cardprod demo", "cardprod demo --json"),
    )


def _add_status(to: _Commands) -> None:
    status = to.add(
        "status",
        commands.look,
        does="look once at a card, or at each of many",
        examples=(
            "cardprod status 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52",
            "cardprod status 123456 card-1 card-2 card-3",
            "cardprod status --file cards.csv --json",
        ),
    )
    profile = status.add_argument("profile", type=int, metavar="PROFILE", help=_PROFILE)
    cards = status.add_argument("cards", nargs="+", metavar="CARD", help="a card's token")
    status.add_argument(
        "--file",
        action=_InsteadOf,
        positionals=(profile, cards),
        metavar="FILE",
        help=f"a list of cards instead: {_LIST}",
    )
    status.add_argument("--strict", action="store_true", help="look at none if a line of the list is no card")


def _add_wait(to: _Commands) -> None:
    wait = to.add(
        "wait",
        commands.wait,
        does="wait until a card is final, telling each transition",
        examples=(
            "cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52",
            "cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52 --timeout 60 && echo printed",
        ),
    )
    wait.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS", help="give up after (default 900)")
    wait.add_argument("profile", type=int, metavar="PROFILE", help=_PROFILE)
    wait.add_argument("card", metavar="CARD", help="the card's token")


def _add_watch(to: _Commands) -> None:
    watch = to.add(
        "watch",
        watching.watch,
        does="wait until all cards of a list are final, with a live view in a terminal",
        more=_WATCH,
        examples=(
            "cardprod watch cards.csv",
            "cardprod watch cards.csv --checkpoint cards.state --timeout 3600",
            "list-cards | cardprod watch - --strict --json > steps.jsonl",
        ),
    )
    _add_file(watch)
    watch.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="keep in this file how far it is, and go on from there if it exists",
    )
    watch.add_argument("--timeout", type=float, metavar="SECONDS", help="give a card up after (default: never)")
    watch.add_argument("--strict", action="store_true", help="begin nothing if a line of the list is no card")
    watch.add_argument("--plain", action="store_true", help="lines instead of a live view, in a terminal too")
    limit = RateLimit()
    for name, most in (("second", limit.per_second), ("minute", limit.per_minute)):
        watch.add_argument(
            f"--per-{name}", type=int, metavar="N", help=f"the most requests in a {name} (default {most:,})"
        )


def _add_simulate(to: _Commands) -> None:
    simulate = to.add(
        "simulate",
        commands.simulate,
        does="run the kiosk simulator until Ctrl-C",
        examples=(
            "cardprod simulate --plan jams",
            "cardprod simulate --port 0 --webhooks-to http://127.0.0.1:8000/wise",
        ),
    )
    simulate.add_argument("--port", type=_port, default=8080, help="port on 127.0.0.1, 0 for any (default 8080)")
    simulate.add_argument(
        "--plan",
        default="prints",
        help="what becomes of a card: prints, jams, rejected, retried or never (default prints)",
    )
    simulate.add_argument("--webhooks-to", metavar="URL", help="send a signed webhook there for each change of a card")


def _add_submit(to: _Commands) -> None:
    submit = to.add(
        "submit",
        batches.submit,
        does="hand cards over, to be waited for by workers",
        examples=("cardprod submit cards.csv --timeout 3600", "list-cards | cardprod submit - --token my-bank"),
    )
    _add_file(submit)
    submit.add_argument("--timeout", type=float, metavar="SECONDS", help="give a card up after (default: never)")
    submit.add_argument("--token", default="default", metavar="NAME", help="the name of the token to look with")
    _add_database(submit)


def _add_worker(to: _Commands) -> None:
    worker = to.add(
        "worker",
        batches.worker,
        does="work on what was submitted, until SIGTERM or Ctrl-C",
        examples=("cardprod worker", "cardprod worker --on-steps my_app.cards:on_steps --concurrency 8"),
    )
    worker.add_argument(
        "--on-steps",
        metavar="MODULE:FUNCTION",
        help="an async function that is given the steps; without one they are printed",
    )
    worker.add_argument("--concurrency", type=int, default=4, metavar="N", help="jobs worked at once (default 4)")
    _add_database(worker)


def _add_batch(to: _Commands) -> None:
    batch = to.add(
        "batch",
        batches.batch,
        does="see how far a batch is",
        examples=("cardprod batch ID", "cardprod batch ID --results --json", "cardprod batch ID --cancel"),
    )
    batch.add_argument("batch", metavar="BATCH", help="what `submit` printed")
    batch.add_argument("--results", action="store_true", help="tell how each card ended, as far as it has")
    batch.add_argument("--cancel", action="store_true", help="stop waiting for its cards")
    _add_database(batch)


def _add_migrate(to: _Commands) -> None:
    migrate = to.add(
        "migrate",
        batches.migrate,
        does="make the tables of durable waits, or bring them up to date",
        examples=("cardprod migrate", "cardprod migrate --sql --role cards | psql -f - admin-database"),
        more="Workers do it themselves where their role may. Where it may not, an administrator runs the SQL.",
    )
    migrate.add_argument("--sql", action="store_true", help="print the SQL and connect to nothing")
    migrate.add_argument("--role", metavar="ROLE", help="with --sql: grant this role what a worker needs")
    _add_database(migrate)


def _add_completion(to: _Commands) -> None:
    command = to.add(
        "completion",
        commands.complete,
        does="print a script that completes this command in a shell",
        examples=(
            "source <(cardprod completion bash)",
            'cardprod completion zsh > "${fpath[1]}/_cardprod"',
            "cardprod completion fish > ~/.config/fish/completions/cardprod.fish",
        ),
    )
    command.add_argument("shell", choices=completion.SHELLS, help="which shell")
    command.set_defaults(parser=parser)


def _add_file(to: argparse.ArgumentParser) -> None:
    to.add_argument("file", metavar="FILE", help=_LIST)


def _add_database(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--database",
        metavar="URL",
        help="PostgreSQL; better in CARDPROD_DATABASE_URL, where nobody else can read its password",
    )
    to.add_argument("--schema", default="cardprod", metavar="NAME", help="the schema of the tables (default cardprod)")
    to.add_argument(
        "--owner", metavar="ROLE", help="who made the tables, if neither you, the database's owner nor root"
    )
