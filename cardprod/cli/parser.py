"""The command line of `cardprod`: its commands, their arguments and their help. It parses and runs nothing."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final, NoReturn

from cardprod._version import VERSION
from cardprod.cli.commands import batch, completion, demo, migrate, simulate, status, submit, wait, watch, worker
from cardprod.cli.exit_codes import EXIT_CODES, USAGE
from cardprod.cli.output.streams import Stream, print_stderr
from cardprod.cli.words import printable
from cardprod.client import PRODUCTION

_EPILOG: Final = f"""\
environment:
  CARDPROD_TOKEN            the user token; there is no option for it, which others could read
  CARDPROD_TOKEN_MY_BANK    worker: the token for what `submit --token my-bank` submitted; - is _
  CARDPROD_BASE_URL         the server (default {PRODUCTION})
  CARDPROD_API_VERSION      the version in the server's paths (default v3)
  CARDPROD_CA               a file of the authorities to trust, as --ca
  CARDPROD_CERT             a file of a client certificate, as --cert
  CARDPROD_KEY              a file of the certificate's key, as --key
  CARDPROD_KEY_PASSWORD     the password of that key, if it is encrypted
  CARDPROD_DATABASE_URL     submit, worker, batch, migrate: the PostgreSQL, as --database
  CARDPROD_DATABASE_SCHEMA  … the schema in it, as --schema
  CARDPROD_DATABASE_OWNER   … who made the tables, as --owner
  HTTPS_PROXY               the proxy, as --proxy; or ALL_PROXY
  NO_PROXY                  the hosts that are reached without a proxy
  NO_COLOR, FORCE_COLOR     no colours; colours also where standard output is no terminal

{EXIT_CODES}
examples:
  cardprod demo
  cardprod status 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52
  cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52 --timeout 10m --json
  cardprod watch cards.csv --checkpoint cards.state
  cardprod submit cards.csv --timeout 2h
  cardprod worker --on-steps my_app.cards:on_steps

`cardprod COMMAND --help` has more of each.
"""


class _Parser(argparse.ArgumentParser):
    """Writes help and errors as everything else is written: to streams that may be closed or full."""

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ANN401 - as argparse has it
        if file is None or file is sys.stderr:
            print_stderr(message.rstrip("\n"))
        else:
            Stream(file.fileno(), file.encoding).write(message)

    def parse_known_args(self, *args: Any, **options: Any) -> tuple[Any, list[str]]:  # noqa: ANN401 - argparse's own
        # What a command does not know is refused here, with that command's usage, and not by the parser of commands.
        known, unknown = super().parse_known_args(*args, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        print_stderr(f"{self.format_usage()}{self.prog}: error: {printable(message)}")
        self.exit(USAGE)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    description, formatter = "Is my card printed yet? Asks the Wise Platform API.", argparse.RawDescriptionHelpFormatter
    top = _Parser(prog="cardprod", description=description, epilog=_EPILOG, formatter_class=formatter)
    top.add_argument("--version", action="version", version=f"cardprod {VERSION}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for command in (demo, status, wait, watch, simulate, submit, worker, batch, migrate, completion):
        line, _, more = command.DOES.partition("\n")
        parser = commands.add_parser(
            command.__name__.rpartition(".")[2],
            help=line,
            description=f"{line[0].upper()}{line[1:]}.\n{more}",
            epilog=f"examples:{command.EXAMPLES}\n\n`cardprod --help` has the exit codes, and the environment.",
            formatter_class=formatter,
        )
        parser.set_defaults(run=command.run, is_live=False, plain=False)
        parser.add_argument("--json", action="store_true", help="JSON lines instead of text")
        command.add_arguments(parser)
    return top
