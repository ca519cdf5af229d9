"""Waits have limits: the module that has them, and the law that every test uses it."""

from __future__ import annotations

import ast
import asyncio
import os
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.waiting import LIMIT, LONG_LIMIT, LONG_TIMEOUT, Child, run_program, until, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS: Final = Path(__file__).parents[1]
WAITING: Final = TESTS / "waiting.py"
LIMITS_ITSELF: Final = {TESTS / "http" / "hostile.py"}
"""A server, which sends until its connection is closed."""

FAILS: Final = "import sys; sys.exit('the disk is full')"
HANGS: Final = "import time; print('ready', flush=True); time.sleep(60)"


# --- Waits ---


async def test_returns_what_was_accepted() -> None:
    """A wait returns the first thing seen that is accepted, from a function or a coroutine function."""
    counts = iter(range(9))

    async def count() -> int:
        return next(counts)

    assert await until("a two", lambda: next(counts), lambda seen: seen == 2) == 2
    assert await until("a four", count, lambda seen: seen == 4) == 4
    assert wait_until("a six", lambda: next(counts), lambda seen: seen == 6) == 6


@pytest.mark.parametrize("interval", [0.02, 0])
async def test_says_what_it_saw_last(interval: float) -> None:
    """A wait that reaches its limit says for what and how long it waited, and what it saw last."""
    with pytest.raises(AssertionError, match=r"waited 0.1 s for a pig that flies; seen last: 'it walks'"):
        await until("a pig that flies", lambda: "it walks", lambda _: False, limit=0.1, interval=interval)
    with pytest.raises(AssertionError, match=r"waited 0.1 s for a pig that flies; seen last: 'it walks'"):
        wait_until("a pig that flies", lambda: "it walks", lambda _: False, limit=0.1)


async def test_observation_that_hangs() -> None:
    """A wait reaches its limit also while its observation hangs."""
    with pytest.raises(AssertionError, match="waited 5 s for ever; seen last: None"):
        await until("ever", asyncio.Event().wait, limit=5)


async def test_error_of_the_observation() -> None:
    """An error of the observation is raised as it is, a timeout of its own included."""

    async def late() -> None:
        raise TimeoutError("too late")

    with pytest.raises(TimeoutError, match="too late"):
        await until("nothing", late)


@pytest.mark.looptime(False)
async def test_child_that_ended() -> None:
    """A wait on a process that has ended fails at once, with its exit code and the end of its standard error."""
    with Child(sys.executable, "-c", FAILS) as child:
        with pytest.raises(AssertionError, match=r"(?s)a line, but .* ended with 1; seen last: \[\].*the disk is full"):
            await until("a line", lambda: child.lines, child=child)
        with pytest.raises(AssertionError, match=r"(?s)a line, but .* ended with 1; seen last: \[\].*the disk is full"):
            wait_until("a line", lambda: child.lines, child=child)


def test_last_act_of_a_child() -> None:
    """What a process did before it ended is still seen."""
    with Child(sys.executable, "-c", "print('done')") as child:
        assert child.wait_for_end() == 0
        assert wait_until("a line", lambda: child.lines, child=child) == ["done"]


def test_child_that_hangs() -> None:
    """Waiting for the end of a process has a limit too, and the end of the block ends the process."""
    with Child(sys.executable, "-c", HANGS) as child:
        wait_until("its line", lambda: child.lines, child=child)
        with pytest.raises(AssertionError, match=r"waited 0.1 s for the end of .*; seen last: None"):
            child.wait_for_end(0.1)
    assert child.exit_code == -signal.SIGKILL


def test_child_of_a_child() -> None:
    """The end of the block ends also what the process started."""
    starts_another = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HANGS!r}])"
    reading_end, writing_end = os.pipe()
    with Child(sys.executable, "-c", starts_another, stdout=writing_end) as child:
        os.close(writing_end)
        wait_until("the line of the other", lambda: select.select([reading_end], [], [], 0)[0], child=child)
        assert os.read(reading_end, 100) == b"ready\n"
    wait_until("the end of its output", lambda: select.select([reading_end], [], [], 0)[0])
    assert os.read(reading_end, 100) == b""
    os.close(reading_end)


def test_program_that_is_not_there() -> None:
    """A program that is not there is an error at once, and leaves no file open."""
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        Child("no-such-program")


def test_run_program() -> None:
    """A program reads its input and gives its output; one that fails and must not says what its error was."""
    echo = "import sys; print(sys.stdin.read(), end=''); print('!', file=sys.stderr)"
    ran = run_program(sys.executable, "-c", echo, stdin="héllo")
    assert (ran.exit_code, ran.out, ran.err) == (0, "héllo", "!\n")
    assert run_program(sys.executable, "-c", FAILS, check=False).exit_code == 1
    with pytest.raises(AssertionError, match=r"(?s)ended with 1; .*the disk is full"):
        run_program(sys.executable, "-c", FAILS)


def test_ctrl_c_reaches_a_child_of_the_background() -> None:
    """A process gets Ctrl-C also if the tests run in a shell's background, where they ignore it themselves."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Child(sys.executable, "-c", HANGS) as child:
            wait_until("its line", lambda: child.lines, child=child)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            child.send(signal.SIGINT)
            assert child.wait_for_end() == -signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


def test_more_output_than_a_pipe_holds() -> None:
    """A process that nobody reads from is not held up by its output."""
    with Child(sys.executable, "-c", "import sys; sys.stderr.write('x' * 2**20)") as child:
        assert child.wait_for_end() == 0
        assert len(child.err) == 2**20


def test_output_elsewhere() -> None:
    """A process can write into a pipe of the test's."""
    reading_end, writing_end = os.pipe()
    with Child(sys.executable, "-c", "print('here')", stdout=writing_end) as child:
        os.close(writing_end)
        child.wait_for_end()
        assert (os.read(reading_end, 100), child.out) == (b"here\n", "")
    os.close(reading_end)


def test_limit_is_below_pytest_s(pytestconfig: pytest.Config) -> None:
    """A wait's limit comes before pytest's, which could not say what was waited for."""
    assert float(pytestconfig.getini("timeout")) > LIMIT
    assert LONG_TIMEOUT > LONG_LIMIT


# --- The law ---


def dotted(node: ast.AST) -> str:
    """Spell a name, as `ast.unparse` does in ten times the time."""
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            return f"{dotted(value)}.{name}"
        case _:
            return "?"


def is_call(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in names


def is_bounded(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether `asyncio.timeout(…)` is around it, in the same function."""
    while (node := parents.get(node, node)) in parents and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if isinstance(node, ast.AsyncWith) and any(is_call(item.context_expr, "timeout") for item in node.items):
            return True
    return False


def goes_by_real_time(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a test, or its whole module, is marked so that virtual time is off."""
    while node in parents:
        node = parents[node]
        marks: list[ast.expr] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            marks = node.decorator_list
        elif isinstance(node, ast.Module):
            marks = [one.value for one in node.body if isinstance(one, ast.Assign)]
        if any(ast.unparse(mark) == "pytest.mark.looptime(False)" for mark in marks):
            return True
    return False


def faults_of(source: str) -> Iterator[str]:
    """Find what could hang, and what would hold only on a quick machine."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        line = f"line {getattr(node, 'lineno', 0)}: "
        imported = [node.module] if isinstance(node, ast.ImportFrom) else []
        imported += [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if "subprocess" in imported or is_call(node, "create_subprocess_exec", "create_subprocess_shell"):
            yield line + "processes are started by tests.waiting, which ends them and waits with a limit"
        if isinstance(node, ast.Call) and dotted(node.func) == "time.sleep":
            yield line + "a sleep in real time; wait for a condition"
        if isinstance(node, ast.While):
            polls = [inner for part in (node.test, *node.body) for inner in ast.walk(part)]
            is_idle = all(isinstance(one, ast.Pass | ast.Continue) for one in node.body)
            if (is_idle or any(is_call(one, "sleep", "poll") for one in polls)) and not is_bounded(node, parents):
                yield line + "a loop that polls without a limit; use `until` or `wait_until`"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            has_no_limit = not node.args and not node.keywords
            is_of_asyncio = isinstance(parents[node], ast.Await | ast.Call)
            if node.func.attr in {"join", "communicate", "recv"} and has_no_limit:
                yield line + f"`{node.func.attr}` without a limit"
            if node.func.attr == "wait" and has_no_limit and not is_of_asyncio:
                yield line + "`wait` without a limit"
            if dotted(node.func) == "asyncio.sleep" and goes_by_real_time(node, parents) and not is_zero(node):
                yield line + "a sleep of fixed length in real time; wait for a condition"


def is_zero(call: ast.Call) -> bool:
    return ast.unparse(call.args[0]) == "0"


def test_waits_have_limits() -> None:
    """No test can wait without a limit, or depends on how quick the machine is."""
    files = {*TESTS.rglob("*.py")} - {WAITING, *LIMITS_ITSELF}
    faults = {str(file.relative_to(TESTS)): [*faults_of(file.read_text("utf-8"))] for file in sorted(files)}
    assert {file: found for file, found in faults.items() if found} == {}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import subprocess", "processes are started"),
        ("from subprocess import run", "processes are started"),
        ("async def test():\n    await asyncio.create_subprocess_exec('ls')", "processes are started"),
        ("time.sleep(1)", "a sleep in real time"),
        ("while not done:\n    time.sleep(0)", "a sleep in real time"),
        ("async def test():\n    while not done:\n        await asyncio.sleep(1)", "a loop that polls"),
        ("async def test():\n    while await more():\n        pass", "a loop that polls"),
        ("while child.poll() is None:\n    note()", "a loop that polls"),
        (
            "async with asyncio.timeout(1):\n    async def f():\n        while x:\n            await sleep(1)",
            "a loop that",
        ),
        ("thread.join()", "`join` without"),
        ("process.communicate()", "`communicate` without"),
        ("process.wait()", "`wait` without"),
        ("pipe.recv()", "`recv` without"),
        ("@pytest.mark.looptime(False)\nasync def test():\n    await asyncio.sleep(1)", "a sleep of fixed length"),
        ("pytestmark = pytest.mark.looptime(False)\nasync def test():\n    await asyncio.sleep(1)", "a sleep of fixed"),
    ],
)
def test_what_the_law_forbids(source: str, words: str) -> None:
    """Each kind of wait without a limit, and of dependence on speed, is found."""
    assert any(words in fault for fault in faults_of(source))


@pytest.mark.parametrize(
    "source",
    [
        "async def test():\n    await asyncio.sleep(1)",
        "@pytest.mark.looptime(False)\nasync def test():\n    await asyncio.sleep(0)",
        "async def test():\n    async with asyncio.timeout(1):\n        while x:\n            await asyncio.sleep(1)",
        "while queue:\n    queue.pop()",
        "async def test():\n    await event.wait()\n    thread.join(5)\n    ', '.join(words)",
    ],
)
def test_what_the_law_allows(source: str) -> None:
    """Virtual sleeps, waits with a limit and loops that wait for nothing are not found."""
    assert list(faults_of(source)) == []
