"""`python -m benchmarks`: chooses the program, prints the machine's facts and the tables, writes JSON and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import (
    bulk,
    durable,
    faults,
    import_time,
    memory,
    outages,
    request,
    schedule,
    wait,
    waiting,
    watch,
    webhooks,
)
from benchmarks.table import Table, draw, machine, write_json

_PROGRAMS = {
    "request": request,
    "wait": wait,
    "import": import_time,
    "memory": memory,
    "schedule": schedule,
    "outages": outages,
    "faults": faults,
    "bulk": bulk,
    "waiting": waiting,
    "watch": watch,
    "webhooks": webhooks,
    "durable": durable,
}


_DRAWN = ("request", "wait", "memory", "import", "bulk")
"""Those that give tables of figures, and not a text of their own; `schedule` draws its own picture."""
_ALL = (*_DRAWN, "schedule")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True)
    for name, program in _PROGRAMS.items():
        description = (program.__doc__ or "").partition("\n")[0]
        subparser = programs.add_parser(name, help=description, description=program.__doc__)
        program.add_arguments(subparser)
        if name in _DRAWN:
            subparser.add_argument("--json", type=Path, help="where to write the figures of every round")
            subparser.add_argument("--png", type=Path, help="where to draw them (wants matplotlib)")
    every = programs.add_parser("all", help=f"{', '.join(_ALL)}, one after the other, as they are by default")
    every.add_argument("--folder", type=Path, default=Path(), help="where to write a .json and a .png of each")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    result = _PROGRAMS[arguments.program].run(arguments)
    tables: list[Table] = []
    for one in [result] if isinstance(result, str) else result:  # each is printed as soon as it is ready
        print(one, end="\n" if isinstance(one, str) else "\n\n", flush=True)
        if not isinstance(one, str):
            tables.append(one)
    if tables and arguments.json is not None:
        write_json(tables, arguments.json)
    if tables and arguments.png is not None:
        draw(tables, arguments.png)


def main() -> None:
    """Run one program, or those that matter most."""
    parser = _parser()
    arguments = parser.parse_args()
    print("; ".join(f"{name} {fact}" for name, fact in machine().items()), end="\n\n", flush=True)
    if arguments.program != "all":
        _run(arguments)
        return
    for name in _ALL:
        print(f"# {name}\n", flush=True)
        written = arguments.folder / name
        _run(parser.parse_args([name, "--json", f"{written}.json", "--png", f"{written}.png"]))
        print()


if __name__ == "__main__":
    main()
