"""`cardprod completion`: print a script that completes the command in a shell (extra `cli`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cardprod.cli.exit_codes import PRODUCED
from cardprod.cli.output import Notice
from cardprod.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from cardprod.cli.arguments import Add
    from cardprod.cli.output import Output

__all__ = ["SHELLS", "add"]

SHELLS: Final = ("bash", "zsh", "fish")


def add(to: Add) -> None:
    """Add the command."""
    command = to(
        "completion",
        run,
        does="print a script that completes this command in a shell (extra cli)",
        examples=(
            "source <(cardprod completion bash)",
            'cardprod completion zsh > "${fpath[1]}/_cardprod"',
            "cardprod completion fish > ~/.config/fish/completions/cardprod.fish",
        ),
    )
    command.add_argument("shell", choices=SHELLS, help="which shell")


async def run(arguments: argparse.Namespace, output: Output) -> int:
    """Print the script."""
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError("this needs the extra cli: pip install 'cardprod[cli]'") from None
    from cardprod.cli.parser import make_parser  # noqa: PLC0415 - which imports this module

    for line in shtab.complete(make_parser(), arguments.shell).splitlines():
        output.emit(Notice(line))
    return PRODUCED
