"""The command line of `cardprod`: its commands, their arguments and their help. It parses and runs nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from cardprod._version import VERSION
from cardprod.cli import batches, commands
from cardprod.client import PRODUCTION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cardprod.cli.reports import Report

__all__ = ["parser"]

_EPILOG: Final = f"""\
environment:
  CARDPROD_TOKEN        the user token; never an argument, where others could read it
  CARDPROD_TOKEN_NAME   for `worker`: the token that `submit --token name` asks for
  CARDPROD_BASE_URL     where to ask (default {PRODUCTION})
  CARDPROD_API_VERSION  the path's version (default v3)
  CARDPROD_DATABASE_URL for `submit`, `worker` and `batch`: PostgreSQL (default: one of this user's own)

exit codes:
  0 produced   1 ended in an error status   2 usage   3 not final yet or timed out   4 API or network

examples:
  cardprod demo
  cardprod status 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52
  cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52 --timeout 600 --json
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
    _add_simulate(added)
    _add_submit(added)
    _add_worker(added)
    _add_batch(added)
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
    ) -> argparse.ArgumentParser:
        command = self._commands.add_parser(
            name,
            help=does,
            description=f"{does[0].upper()}{does[1:]}.",
            epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        self.all.append(command)
        return command


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
        does="look at a card once",
        examples=("cardprod status 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52",),
    )
    _add_card(status)


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
    _add_card(wait)


def _add_card(to: argparse.ArgumentParser) -> None:
    to.add_argument("profile", type=int, metavar="PROFILE", help="the id of the profile that owns the card")
    to.add_argument("card", metavar="CARD", help="the card's token")


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


def _add_file(to: argparse.ArgumentParser) -> None:
    to.add_argument("file", metavar="FILE", help="CSV or JSON lines, profile_id and card_token; - for stdin")


def _add_database(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--database",
        metavar="URL",
        help="PostgreSQL; better in CARDPROD_DATABASE_URL, where nobody else can read its password",
    )
