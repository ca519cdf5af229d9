"""`import`: what `import cardprod` costs beside `import aiohttp`, each in fresh interpreters.

Runs alternate, and the clock is inside the interpreter, around the import alone.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.table import markdown

if TYPE_CHECKING:
    import argparse

_PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def _seconds(module: str) -> float:
    command = [sys.executable, "-c", _PROGRAM.format(module)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--runs", type=int, default=31, help="runs of each (default 31)")


def run(arguments: argparse.Namespace) -> str:
    """Measure, and give the table."""
    modules = ("aiohttp", "cardprod")
    for module in modules:
        _seconds(module)  # the first run writes the byte code
    times: dict[str, list[float]] = {module: [] for module in modules}
    for _ in range(arguments.runs):
        for module in modules:
            times[module].append(_seconds(module))
    base = statistics.median(times["aiohttp"])
    rows: list[list[str]] = []
    for module, each in times.items():
        median = statistics.median(each)
        spread = f"{min(each) * 1e3:.0f} to {max(each) * 1e3:.0f}"
        rows.append([f"import {module}", f"{median * 1e3:.0f}", spread, f"{median / base:.2f}"])
    return markdown(["", "ms (median)", "spread", "times aiohttp"], rows)
