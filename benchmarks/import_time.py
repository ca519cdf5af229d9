"""`import`: what `import cardprod` costs beside `import aiohttp`, each in fresh interpreters.

Runs alternate, and the clock is inside the interpreter, around the import alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.table import Series, Table

if TYPE_CHECKING:
    import argparse

_PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def _seconds(module: str) -> float:
    command = [sys.executable, "-c", _PROGRAM.format(module)]
    # With byte code, as installed packages have it, whatever this shell is set to.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--runs", type=int, default=31, help="runs of each (default 31)")


def run(arguments: argparse.Namespace) -> list[Table]:
    """Measure, and give the table."""
    modules = ("aiohttp", "cardprod")
    for module in modules:
        _seconds(module)  # the first run writes the byte code
    times: dict[str, list[float]] = {module: [] for module in modules}
    for _ in range(arguments.runs):
        for module in modules:
            times[module].append(_seconds(module) * 1e3)
    return [Table(title="import", unit="ms", series=[Series(module, each) for module, each in times.items()])]
