"""Completion for shells: scripts made of the command line's parser, so that they know what it knows. Pure.

Each is small and static: it runs nothing while somebody types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import attrs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["SHELLS", "script"]


@attrs.frozen
class _Option:
    """An option of a command, or a positional argument if it has no names.

    Args:
        names: What it is called, such as "-h" and "--help".
        about: What it does.
        choices: What it can be; none if that is not known.
        is_file: Whether it is a file's name.
        takes_value: Whether something follows its name.
    """

    names: Sequence[str]
    about: str
    choices: Sequence[str]
    is_file: bool
    takes_value: bool


@attrs.frozen
class _Command:
    name: str
    about: str
    options: Sequence[_Option]

    @property
    def flags(self) -> list[str]:
        """The names of its options."""
        return [name for option in self.options for name in option.names]

    @property
    def positionals(self) -> list[_Option]:
        """Its arguments that have no names."""
        return [option for option in self.options if not option.names]


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Write the completion of a parser's commands.

    Args:
        parser: The parser: subcommands with options, no deeper.
        shell: A key of `SHELLS`.
    """
    return "\n".join(_WRITERS[shell](parser.prog, list(_commands_of(parser)))) + "\n"


def _commands_of(parser: argparse.ArgumentParser) -> Iterator[_Command]:
    for action in _actions_of(parser):
        choices: object = action.choices
        if isinstance(choices, dict):
            for name, command in cast("dict[str, argparse.ArgumentParser]", choices).items():
                yield _Command(
                    name,
                    (command.description or "").partition("\n")[0],
                    [_option_of(one) for one in _actions_of(command)],
                )


def _actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # noqa: SLF001 - what argparse itself shows in no other way than as help


def _option_of(action: argparse.Action) -> _Option:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    return _Option(
        names=action.option_strings,
        about=action.help or "",
        choices=[str(choice) for choice in action.choices or ()],
        is_file=metavar == "FILE",
        takes_value=action.nargs != 0,
    )


# --- Shells -----------------------------------------------------------------------------------------------------------


def _bash(prog: str, commands: Sequence[_Command]) -> Iterator[str]:
    yield f"# bash completion for {prog}; put it where bash finds it, or: source <({prog} completion bash)"
    yield f"_{prog}() {{"
    yield '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield "  COMPREPLY=()"
    yield "  if ((COMP_CWORD == 1)); then"
    yield f'    COMPREPLY=($(compgen -W "{" ".join(one.name for one in commands)} --help --version" -- "$word"))'
    yield "    return"
    yield "  fi"
    yield '  case "${COMP_WORDS[1]} $before" in'
    for command in commands:
        for option in command.options:
            if option.names and option.takes_value:
                cases = " | ".join(f'"{command.name} {name}"' for name in option.names)
                yield f"    {cases}) {_bash_value(option)}; return ;;"
    yield "  esac"
    yield '  case "${COMP_WORDS[1]}" in'
    for command in commands:
        yield f"    {command.name})"
        yield "      if [[ $word == -* ]]; then"
        yield f'        COMPREPLY=($(compgen -W "{" ".join(command.flags)}" -- "$word"))'
        for option in command.positionals[:1]:
            if option.choices or option.is_file:
                yield "      else"
                yield f"        {_bash_value(option)}"
        yield "      fi ;;"
    yield "  esac"
    yield "}"
    yield f"complete -o filenames -F _{prog} {prog}"


def _bash_value(option: _Option) -> str:
    if option.is_file:
        return 'COMPREPLY=($(compgen -f -- "$word"))'
    return f'COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$word"))' if option.choices else ":"


def _zsh(prog: str, commands: Sequence[_Command]) -> Iterator[str]:
    yield f"#compdef {prog}"
    yield f"# zsh completion for {prog}; put it as _{prog} on $fpath, or: source <({prog} completion zsh)"
    yield f"_{prog}() {{"
    yield "  local -a commands"
    yield "  commands=("
    for command in commands:
        yield f"    {_quoted(f'{command.name}:{_plain(command.about)}')}"
    yield "  )"
    yield "  if ((CURRENT == 2)); then"
    yield f"    _describe -t commands '{prog} command' commands"
    yield "    return"
    yield "  fi"
    yield "  shift words"
    yield "  ((CURRENT--))"
    yield "  case $words[1] in"
    for command in commands:
        yield f"    {command.name})"
        yield "      _arguments \\"
        specs = [spec for option in command.options for spec in _zsh_specs(option)]
        for spec in specs[:-1]:
            yield f"        {spec} \\"
        yield f"        {specs[-1]} ;;"
    yield "  esac"
    yield "}"
    yield f'if [[ $funcstack[1] == _{prog} ]]; then _{prog} "$@"; else compdef _{prog} {prog}; fi'


def _zsh_specs(option: _Option) -> Iterator[str]:
    action = "_files" if option.is_file else f"({' '.join(option.choices)})" if option.choices else " "
    about = _plain(option.about).replace("[", "(").replace("]", ")").replace(":", ";")
    if not option.names:
        yield _quoted(f":{about}:{action}")
    for name in option.names:
        yield _quoted(f"{name}[{about}]" + (f":value:{action}" if option.takes_value else ""))


def _fish(prog: str, commands: Sequence[_Command]) -> Iterator[str]:
    yield f"# fish completion for {prog}; put it in ~/.config/fish/completions/{prog}.fish"
    yield f"complete -c {prog} -f"
    for command in commands:
        about = _quoted(_plain(command.about))
        yield f"complete -c {prog} -n __fish_use_subcommand -a {command.name} -d {about}"
    for command in commands:
        here = f"complete -c {prog} -n '__fish_seen_subcommand_from {command.name}'"
        for option in command.options:
            values = " -F" if option.is_file else f" -a {_quoted(' '.join(option.choices))}" if option.choices else ""
            if not option.names and values:
                yield here + values
            for name in option.names:
                flag = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                takes = " -r" if option.takes_value else ""
                yield f"{here} {flag}{takes}{values} -d {_quoted(_plain(option.about))}"


def _plain(text: str) -> str:
    """Take the marks out of a help text that argparse or a shell would read."""
    return text.replace("%%", "%").replace("`", "").replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")


def _quoted(text: str) -> str:
    return f"'{text}'"


_WRITERS: Final[dict[str, Callable[[str, Sequence[_Command]], Iterator[str]]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}

SHELLS: Final = tuple(_WRITERS)
"""The shells that can be completed in."""
