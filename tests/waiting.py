"""Waits with a limit, and processes that cannot hang a test: no other module of the tests polls or starts any.

A wait ends when its condition holds. It fails at its limit, or as soon as the process that it depends on has ended, and
says what it saw last. `tests/docs/test_waiting.py` holds the tests to this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from inspect import isawaitable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar, overload

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping
    from typing import Self

__all__ = ["LIMIT", "LONG_LIMIT", "LONG_TIMEOUT", "Child", "Finished", "run_program", "until", "wait_until"]

T = TypeVar("T")

LIMIT: Final = 40.0
"""Seconds that a wait may last: less than pytest's `timeout`, which can only say where a test was, and not why."""

LONG_LIMIT: Final = 150.0
LONG_TIMEOUT: Final = 4 * LONG_LIMIT
"""The same two for the few tests that need seconds of a whole processor: `pytest.mark.timeout(LONG_TIMEOUT)`."""

_INTERVAL: Final = 0.02
_TAIL: Final = 2_000
_SHOWN: Final = 500


class Child:
    """A process of a test's own. Unless it has ended at the end of the `with` block, it is killed with what it started.

    Its output goes to files: no full pipe can stop it, and what it said last is there when a test fails. It starts with
    the default handling of SIGINT, also where the tests run in the background: a shell lets what it starts there ignore
    Ctrl-C, and a child would inherit that.

    Args:
        argv: The program and its arguments.
        stdin: The text that it reads; or a file descriptor.
        stdout: Where its output goes, if not to `out`: a file descriptor.
        stderr: Likewise, for `err`.
        env: Its environment, if not this process's.
        cwd: Its working directory, if not this process's.
        user: The user that it runs as, if not this process's.
    """

    def __init__(
        self,
        *argv: str,
        stdin: str | int = "",
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        user: str | None = None,
    ) -> None:
        self._argv = argv
        with contextlib.ExitStack() as files, _default_sigint():
            self._out, self._err = _new_file(files), _new_file(files)
            streams = [
                stdin if isinstance(stdin, int) else _new_file(files, stdin.encode()).fileno(),
                self._out.fileno() if stdout is None else stdout,
                self._err.fileno() if stderr is None else stderr,
            ]
            self._process = subprocess.Popen(
                argv,
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                env=env,
                cwd=cwd,
                user=user,
                start_new_session=True,
            )
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return " ".join(self._argv)[:_SHOWN]

    def close(self) -> None:
        """Kill it, and what it started, unless it has ended; and drop its output."""
        if self.exit_code is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(LIMIT)
        self._files.close()

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative if a signal ended it; None while it runs."""
        return self._process.poll()

    @property
    def out(self) -> str:
        """What it has printed."""
        return _read(self._out)

    @property
    def lines(self) -> list[str]:
        """The whole lines that it has printed."""
        return self.out.rpartition("\n")[0].splitlines()

    @property
    def err(self) -> str:
        """What it has written to its standard error."""
        return _read(self._err)

    def catches(self, number: signal.Signals) -> bool:
        """Whether it handles a signal itself, rather than by the default action (Linux)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text("ascii")
        [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
        return bool(int(caught, 16) >> (number - 1) & 1)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait_for_end(self, limit: float = LIMIT) -> int:
        """Wait for its end, and return its exit code."""
        exit_code = wait_until(f"the end of `{self}`", lambda: self.exit_code, _is_there, child=self, limit=limit)
        assert exit_code is not None
        return exit_code

    async def until_end(self, limit: float = LIMIT) -> int:
        """Wait for its end while the event loop goes on, and return its exit code."""
        exit_code = await until(f"the end of `{self}`", lambda: self.exit_code, _is_there, child=self, limit=limit)
        assert exit_code is not None
        return exit_code


def _new_file(files: contextlib.ExitStack, content: bytes = b"") -> IO[bytes]:
    file = files.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - it is
    file.write(content)
    file.seek(0)
    return file


def _read(file: IO[bytes]) -> str:
    # Not by `read`: the child writes where its parent's copy of the descriptor stands.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


@contextlib.contextmanager
def _default_sigint() -> Generator[None]:
    """Let a process that is started now have the default handling of SIGINT: unlike SIG_IGN, a handler ends there."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    assert threading.current_thread() is threading.main_thread(), "start a Child in the main thread, and wait in others"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@attrs.frozen
class Finished:
    """What came of a process: its exit code, what it printed, and what it wrote to its standard error."""

    exit_code: int
    out: str
    err: str


def run_program(*argv: str, stdin: str = "", limit: float = LIMIT, check: bool = True, **child: Any) -> Finished:
    """Run a program to its end; where it must succeed and does not, fail with what it said last."""
    with Child(*argv, stdin=stdin, **child) as running:
        exit_code = running.wait_for_end(limit)
        if check and exit_code:
            raise AssertionError(f"`{running}` ended with {exit_code}{_last_words(running)}")
        return Finished(exit_code, running.out, running.err)


@overload
async def until(
    what: str,
    observe: Callable[[], Awaitable[T]],
    accept: Callable[[T], object] = ...,
    *,
    child: Child | None = ...,
    limit: float = ...,
    interval: float = ...,
) -> T: ...
@overload
async def until(
    what: str,
    observe: Callable[[], T],
    accept: Callable[[T], object] = ...,
    *,
    child: Child | None = ...,
    limit: float = ...,
    interval: float = ...,
) -> T: ...
async def until(
    what: str,
    observe: Callable[[], Any],
    accept: Callable[[Any], object] = bool,
    *,
    child: Child | None = None,
    limit: float = LIMIT,
    interval: float = _INTERVAL,
) -> Any:
    """Observe until what is seen is accepted, and return it; the event loop goes on meanwhile.

    Args:
        what: What is waited for, in words.
        observe: Gives what is seen now, or an awaitable of it.
        accept: Whether what is seen ends the wait.
        child: The process that must bring it about: if it has ended, the wait fails.
        limit: Seconds, of the event loop's clock and of the real one.
        interval: Seconds between two observations; 0 to observe at each iteration of the event loop.

    Raises:
        AssertionError: It was not seen within the limit, or the process has ended.
    """
    seen: Any = None
    expires_at = time.monotonic() + limit  # virtual time stands still while the loop is busy
    limited = asyncio.timeout(limit)
    try:
        async with limited:
            while True:
                has_ended = child is not None and child.exit_code is not None  # before what it did at its end is seen
                seeing = observe()
                seen = await seeing if isawaitable(seeing) else seeing
                if accept(seen):
                    return seen
                _check(what, seen, expires_at, limit, child, has_ended=has_ended)
                await asyncio.sleep(interval)
    except TimeoutError:
        if not limited.expired():
            raise
        _check(what, seen, 0.0, limit, child, has_ended=False)


def wait_until(
    what: str,
    observe: Callable[[], T],
    accept: Callable[[T], object] = bool,
    *,
    child: Child | None = None,
    limit: float = LIMIT,
) -> T:
    """Do what `until` does where there is no event loop, or none that must go on."""
    expires_at = time.monotonic() + limit
    while True:
        has_ended = child is not None and child.exit_code is not None
        seen = observe()
        if accept(seen):
            return seen
        _check(what, seen, expires_at, limit, child, has_ended=has_ended)
        time.sleep(_INTERVAL)


def _check(what: str, seen: object, expires_at: float, limit: float, child: Child | None, *, has_ended: bool) -> None:
    """Fail if waiting has become pointless."""
    shown = f"seen last: {repr(seen)[:_SHOWN]}{'' if child is None else _last_words(child)}"
    if child is not None and has_ended:
        raise AssertionError(f"waiting for {what}, but `{child}` ended with {child.exit_code}; {shown}")
    if time.monotonic() >= expires_at:
        raise AssertionError(f"waited {limit:g} s for {what}; {shown}")


def _last_words(child: Child) -> str:
    err = child.err
    return f"; its standard error ends so:\n{err[-_TAIL:]}" if err else "; its standard error is empty"


def _is_there(value: object) -> bool:
    return value is not None
