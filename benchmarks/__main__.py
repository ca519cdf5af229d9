"""`python -m benchmarks`: chooses the program, prints the machine's facts and the table."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version

from benchmarks import bulk, durable, import_time, look, memory, schedule, storm, waiting, webhooks

_PROGRAMS = {
    "look": look,
    "import": import_time,
    "memory": memory,
    "schedule": schedule,
    "storm": storm,
    "bulk": bulk,
    "waiting": waiting,
    "webhooks": webhooks,
    "durable": durable,
}


def _facts() -> str:
    packages = ("cardprod", "aiohttp", "attrs", "cattrs", "tenacity")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; {versions}"


def main() -> None:
    """Run one program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True)
    for name, program in _PROGRAMS.items():
        description = (program.__doc__ or "").partition("\n")[0]
        program.add_arguments(programs.add_parser(name, help=description, description=program.__doc__))
    arguments = parser.parse_args()
    print(_facts(), end="\n\n")
    print(_PROGRAMS[arguments.program].run(arguments))


if __name__ == "__main__":
    main()
