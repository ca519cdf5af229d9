"""`cardprod completion`: print a script that completes the command in a shell (extra `cli`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cardprod._extras import needs_extra
from cardprod.cli.exit_codes import PRODUCED
from cardprod.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.output import Output

SHELLS: Final = ("bash", "zsh", "fish")

DOES: Final = """print a script that completes this command in a shell

It needs the extra cli."""

EXAMPLES: Final = """
  source <(cardprod completion bash)
  cardprod completion zsh > "${fpath[1]}/_cardprod"
  cardprod completion fish > ~/.config/fish/completions/cardprod.fish"""


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Add what it takes."""
    to.add_argument("shell", choices=SHELLS, help="which shell")


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Print the script."""
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError(needs_extra("cardprod completion", "cli")) from None
    from cardprod.cli.parser import make_parser  # noqa: PLC0415 - which imports this module

    output.stream.write(f"{shtab.complete(make_parser(), arguments.shell)}\n")
    return PRODUCED
