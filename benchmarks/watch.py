"""`cardprod watch --checkpoint` with many cards: how long it holds the event loop, and how soon it continues.

Against the same server in another process, without a rate limit. Each size is watched for so many seconds, stopped as
Ctrl-C stops it, and continued from its checkpoint for as long. Each run is a process of its own, which writes JSON
lines. A hold is the CPU time of the event loop's thread in one iteration of the loop, or in one callback.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from benchmarks import server
from benchmarks.bulk import cards_of
from benchmarks.table import markdown
from cardprod import cli

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

_POLLS_EACH: Final = 3


@attrs.define
class _Run:
    """What was measured of a run, in seconds."""

    iteration: float = 0.0
    iteration_at: float = 0.0
    callback: float = 0.0
    culprit: str = ""
    began: float | None = None


@contextlib.contextmanager
def _measured(run: _Run) -> Generator[None, None, None]:
    """Measure every iteration and every callback of event loops."""
    loop_class: Any = asyncio.BaseEventLoop
    handle_class: Any = asyncio.Handle
    run_once, run_handle = loop_class._run_once, handle_class._run  # noqa: SLF001 - there is no other place
    began_at = time.monotonic()

    def measure_iteration(loop: Any) -> None:  # noqa: ANN401 - a loop
        before = time.thread_time()
        run_once(loop)
        if (taken := time.thread_time() - before) > run.iteration:
            run.iteration, run.iteration_at = taken, time.monotonic() - began_at

    def measure_callback(handle: Any) -> None:  # noqa: ANN401 - a handle
        before = time.thread_time()
        run_handle(handle)
        if (taken := time.thread_time() - before) > run.callback:
            run.callback, run.culprit = taken, repr(handle)

    loop_class._run_once, handle_class._run = measure_iteration, measure_callback  # noqa: SLF001
    try:
        yield
    finally:
        loop_class._run_once, handle_class._run = run_once, run_handle  # noqa: SLF001


def _watch(port: int, file: str, seconds: float) -> _Run:
    """Watch a list, with the checkpoint beside it, for so many seconds after it has begun."""
    os.environ |= {"CARDPROD_TOKEN": "some-user-token", "CARDPROD_BASE_URL": f"http://127.0.0.1:{port}"}
    out, errors = Path(f"{file}.out"), os.open(f"{file}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 2)
    run = _Run()
    began_at = time.monotonic()
    is_over = threading.Event()

    def stop() -> None:
        while run.began is None and not is_over.wait(0.02):
            if b'"type": "transition"' in out.read_bytes()[:100_000]:
                run.began = time.monotonic() - began_at
        if not is_over.wait(seconds):
            os.kill(os.getpid(), signal.SIGINT)

    limits = ("--per-second", "1000000000", "--per-minute", "1000000000")
    arguments = cli.make_parser().parse_args(["watch", file, "--checkpoint", f"{file}.state", "--json", *limits])
    with out.open("w") as written, _measured(run):
        threading.Thread(target=stop).start()
        asyncio.run(cli.run(arguments, cli.Output.to(written, as_json=True)))
        is_over.set()
    return run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--cards", type=int, nargs="+", default=[300, 10_000, 1_000_000], help="sizes of lists")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run (default 60)")


def run(arguments: argparse.Namespace) -> str:
    """Measure."""
    rows: list[list[str]] = []
    context = multiprocessing.get_context("spawn")
    for count in arguments.cards:
        with tempfile.TemporaryDirectory() as folder, server.running(_POLLS_EACH) as port:
            file = Path(folder) / "cards.csv"
            file.write_text("".join(f"{profile_id},{token}\n" for profile_id, token in cards_of(count)))
            for kind in ("begun", "continued"):
                with context.Pool(1) as pool:
                    measured = pool.apply(_watch, (port, str(file), arguments.seconds))
                print(f"… {count:,} cards, {kind}: {measured}", file=sys.stderr, flush=True)
                size = Path(f"{file}.state").stat().st_size / 1e6
                iteration, callback = measured.iteration * 1e3, measured.callback * 1e3
                # What had ended already when it was continued gives no results.
                began = "—" if measured.began is None else f"{measured.began:.1f} s"
                figures = [f"{iteration:.0f} ms", f"{callback:.0f} ms", began, f"{size:.1f} MB"]
                rows.append([f"{count:,} cards, {kind}", *figures])
    return markdown(["", "longest hold", "by one callback", "first result after", "checkpoint"], rows)
