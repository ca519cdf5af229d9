"""Mutation testing of the pure modules, as a program: do their unit tests notice when the code is wrong?

`python -m tests.mutants checkpoint models` changes each module in one small way after another, runs its own tests
on it, and counts the mutants that died: those for which a test failed, or which ran into the time limit. What survives
is printed as a line of source before and after. `--list` prints all mutants of a module, `--only 17` prints one of them
as a diff and runs it with the tests' output shown. The exit code is 1 if fewer died than `--at-least` percent of those
that are not listed in `EQUIVALENT`.

Each mutant runs in a process of its own, forked after the third-party packages were imported, in which an import hook
serves the changed source. Nothing is written to the source tree.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import itertools
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from bisect import bisect_left, bisect_right
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from multiprocessing.connection import wait
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from types import CodeType

ROOT: Final = Path(__file__).parents[1]
_found = find_spec("cardprod")  # without importing it: each mutant does that for itself
assert _found is not None
assert _found.origin is not None
PACKAGE: Final = Path(_found.origin).parent
"""The package that the tests run on, here or installed."""

TESTS: Final[Mapping[str, tuple[str, ...]]] = {
    "_http.rate_limit": ("unit/test_rate_limit.py",),
    "_http.recovery": ("unit/test_recovery.py",),
    "_polling.adaptive": ("unit/test_schedule.py", "unit/test_schedule_model.py", "unit/test_never_worse.py"),
    "_polling.backoff": ("unit/test_schedule.py",),
    "_polling.dwell_time": ("unit/test_schedule.py", "unit/test_schedule_model.py"),
    "_polling.ordering": ("unit/test_ordering.py",),
    "_polling.queue": ("unit/test_queue.py",),
    "_polling.state": (
        "unit/test_state.py",
        "unit/test_state_events.py",
        "unit/test_state_learning.py",
        "unit/test_checkpoint.py",  # what is saved and restored
    ),
    "_polling.webhook_trust": ("unit/test_webhook_trust.py",),
    "_protocol.api_errors": ("unit/test_protocol.py",),
    "_protocol.correlation": ("unit/test_correlation.py",),
    "_protocol.codec": ("unit/test_codec.py", "unit/test_checkpoint.py"),
    "_protocol.documents": ("unit/test_protocol.py", "unit/test_events.py"),
    "_protocol.events": ("unit/test_events.py",),
    "_protocol.headers": ("unit/test_webhooks_verify.py",),
    "_protocol.requests": ("unit/test_protocol.py",),
    "_protocol.responses": ("unit/test_protocol.py",),
    "card_files": ("unit/test_card_files.py",),
    "checkpoint": ("unit/test_checkpoint.py",),
    "error_codes": ("unit/test_error_codes.py",),
    "card": ("unit/test_models.py",),
    "errors": ("unit/test_errors.py",),
    "models": ("unit/test_models.py",),
    "telemetry": ("unit/test_log_records.py",),
    "webhooks": ("unit/test_webhooks_verify.py",),
}
"""Each pure module, and the files under `tests/` that test it."""

EQUIVALENT: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "_http.recovery": {
        "The first request sets it before anything reads it.": (
            (
                "self._at = -math.inf # when the last request was sent -> self._at = (math.inf) # when the last "
                "request was sent"
            ),
        ),
    },
    "_polling.adaptive": {
        "The first poll sets them all before anything reads them.": (
            (
                "self._seconds = self._polls = self._mass = self._waited = self._delays = self._longest_delay = 0.0 -> "
                "self._seconds = self._polls = self._mass = self._waited = self._delays = self._longest_delay = 1.0"
            ),
        ),
    },
    "_polling.dwell_time": {
        "There are as many numbers in each.": (
            (
                "bins = zip(map(add, prior, events), map(add, _WIDTHS, at_risk), strict=True) -> "
                "bins = zip(map(add, prior, events), map(add, _WIDTHS, at_risk), strict=False)"
            ),
        ),
        "Where nothing has ended, all is multiplied by one.": ("if self._ended: -> if True:",),
        "A part of 0 seconds has no share of anything.": ("while end > _ENDS[bin_]: -> while end >= _ENDS[bin_]:",),
    },
    "_polling.ordering": {
        "Equal times were sent back before this line.": (
            (
                "return Order.NEWER if new > known else Order.OLDER -> return Order.NEWER if new >= known else "
                "Order.OLDER"
            ),
        ),
    },
    "_polling.queue": {
        "Entries that no longer count are sorted out one change sooner or later.": (
            "_STALE: Final = 1024 -> _STALE: Final = 1023",
            "_STALE: Final = 1024 -> _STALE: Final = 1025",
            "self._stale = 0 -> self._stale = -1",
            "self._stale = 0 -> self._stale = 1",
            (
                "if self._stale > _STALE and self._stale * 2 > len(self._scheduled) + len(self._due): -> "
                "if self._stale >= _STALE and self._stale * 2 > len(self._scheduled) + len(self._due):"
            ),
            (
                "if self._stale > _STALE and self._stale * 2 > len(self._scheduled) + len(self._due): -> "
                "if self._stale > _STALE and self._stale * 2 >= len(self._scheduled) + len(self._due):"
            ),
        ),
    },
    "_protocol.api_errors": {
        "A 299 is a success, of a card and of a refresh alike, and never asked for its error.": (
            "if 300 <= http_status < 400: # noqa: PLR2004 -> if 299 <= http_status < 400: # noqa: PLR2004",
        ),
        "An empty text is neither digits nor a date, so that None comes of it anyway.": ("if not text: -> if False:",),
    },
    "_protocol.documents": {
        "ASCII is a shortcut: what follows gives the same text.": ("if kept.isascii(): -> if False:",),
        "Every note that cattrs adds to a fault has a name.": (
            (
                'field = next((note.name for note in getattr(fault, "__notes__", ()) if hasattr(note, "name")), '
                '"?") -> field = next((note.name for note in getattr(fault, "__notes__", ()) if True), "?")'
            ),
        ),
    },
    "_protocol.requests": {
        "The prefix is made of the other fields, so that two endpoints differ in it only if they differ in those.": (
            (
                "prefix: str = attrs.field(init=False, repr=False, eq=False) -> prefix: str = "
                "attrs.field(init=False, repr=False, eq=True)"
            ),
        ),
    },
    "models": {
        "None is no code of the table, and comes back as it is.": (
            (
                "return None if text is None else _CODES.get(text, text) -> "
                "return None if False else _CODES.get(text, text)"
            ),
        ),
        "No unknown word is a key of the tables, so that a get of it gives None as well.": (
            "if not isinstance(self.status, Status) or not isinstance(self.error_code, ErrorCode): -> if False:",
            (
                "if not isinstance(self.status, Status) or not isinstance(self.error_code, ErrorCode): -> if not "
                "isinstance(self.status, Status) and not isinstance(self.error_code, ErrorCode):"
            ),
        ),
    },
    "webhooks": {
        "There is exactly one signature here, the first and the last.": (
            (
                "if len(signatures) != 1 or len(signatures[0]) > _LONGEST_SIGNATURE: -> if len(signatures) != 1 or "
                "len(signatures[-1]) > _LONGEST_SIGNATURE:"
            ),
            (
                'signature = base64.b64decode(signatures[0].strip(" \\t"), validate=True) -> signature = '
                'base64.b64decode(signatures[-1].strip(" \\t"), validate=True)'
            ),
        ),
    },
}
"""Mutants that behave like the original: for each module, the reason and the mutants as they are printed.

A reason says why there is no difference to notice. "Too hard to test" is none.
"""

# --- Mutants ---

MOST_SHOWN: Final = 200
"""Characters of source."""


@attrs.frozen(order=True)
class Mutant:
    """One small change to a module's source.

    Args:
        start: Where the replaced text begins.
        end: Where it ends.
        text: What stands there instead.
        line: The number of the line it begins in.
        description: The lines it stands in, before and after, with their white space collapsed.
    """

    start: int
    end: int
    text: str
    line: int = attrs.field(eq=False)
    description: str = attrs.field(eq=False)

    def applied_to(self, source: str) -> str:
        """Return the source with this change."""
        return source[: self.start] + self.text + source[self.end :]


_COMPARISONS: Final[Mapping[type[ast.cmpop], tuple[str, tuple[str, ...]]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_ARITHMETIC: Final[Mapping[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}
_OPPOSITES: Final[Mapping[str, str]] = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LOOKUPS: Final = frozenset({"get", "pop", "startswith", "endswith"})
"""Methods whose string argument decides something."""

_NO_CODE: Final = frozenset({"__all__", "__slots__"})


def mutants_of(source: str) -> list[Mutant]:
    """Make all mutants of a module, in the order of its source."""
    return sorted(set(_Mutation(source).mutants()))


class _Mutation:
    """Walks a module's syntax tree and gives the changes to its source.

    The source is changed as text, not the tree, so that a mutant reads like the line it was made from.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines = source.splitlines(keepends=True)
        self._starts = [0, *itertools.accumulate(map(len, self._lines))]

    def mutants(self) -> Iterator[Mutant]:
        """Yield every change, some of them twice."""
        for node, function in _code(ast.parse(self._source)):
            for start, end, text in self._changes(node, function):
                yield self._mutant(start, end, text)

    def _mutant(self, start: int, end: int, text: str) -> Mutant:
        line = bisect_right(self._starts, start)
        begin, until = self._starts[line - 1], self._starts[bisect_left(self._starts, end)]
        before = self._source[begin:until]
        after = self._source[begin:start] + text + self._source[end:until]
        return Mutant(start, end, text, line, f"{_collapsed(before)} -> {_collapsed(after)}")

    def _changes(  # noqa: C901, PLR0912 - a table, with a line or two for each kind of code
        self, node: ast.AST, function: ast.AST | None
    ) -> Iterator[tuple[int, int, str]]:
        match node:
            case ast.Compare():
                yield from self._comparisons(node)
                for operand in (node.left, *node.comparators):
                    for value in operand.elts if isinstance(operand, ast.Set | ast.Tuple | ast.List) else [operand]:
                        yield from self._another_string(value)
            case ast.BinOp() if not (isinstance(node.op, ast.BitOr) and _is_type(node.right)):
                yield self._operator(node, node.left, node.right, *_ARITHMETIC[type(node.op)])
            case ast.AugAssign() if type(node.op) in _ARITHMETIC:
                old, new = _ARITHMETIC[type(node.op)]
                yield self._operator(node, node.target, node.value, f"{old}=", f"{new}=")
                yield *self._place(node), "pass"
            case ast.BoolOp():
                old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                for left, right in itertools.pairwise(node.values):
                    yield self._token(left, right, old, new)
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                yield *self._place(node), f"({self._text(node.operand)})"
            case ast.If() | ast.While() | ast.IfExp():
                yield from self._forced(node.test)
            case ast.comprehension():
                for condition in node.ifs:
                    yield from self._forced(condition)
            case ast.Constant():
                for number in _other_numbers(node.value):
                    yield *self._place(node), repr(number)
            case ast.Subscript():
                yield from self._another_string(node.slice)
            case ast.Call(func=ast.Name(id=name)) if name in _OPPOSITES:
                yield *self._place(node.func), _OPPOSITES[name]
            case ast.Call(func=ast.Attribute(attr=name)) if name in _LOOKUPS and node.args:
                yield from self._another_string(node.args[0])
            case ast.Return(value=ast.expr() as value) if not _is_constant(value, None, False):
                yield *self._place(node), "return None"
            case ast.Break():
                yield *self._place(node), "continue"
            case ast.Continue():
                yield *self._place(node), "break"
            case ast.Raise() | ast.Delete():
                yield *self._place(node), "pass"
            case ast.Expr(value=ast.Call() | ast.Await() | ast.Yield() | ast.YieldFrom()):
                yield *self._place(node), "pass"
            case ast.Assign() | ast.AnnAssign(value=ast.expr()) if _is_set_before(node, function):
                yield *self._place(node), "pass"
            case _:
                pass

    def _comparisons(self, node: ast.Compare) -> Iterator[tuple[int, int, str]]:
        for operator, (left, right) in zip(node.ops, itertools.pairwise([node.left, *node.comparators]), strict=True):
            old, others = _COMPARISONS[type(operator)]
            for new in others:
                yield self._token(left, right, old, new)

    def _operator(self, node: ast.AST, left: ast.AST, right: ast.AST, old: str, new: str) -> tuple[int, int, str]:
        start, end, text = self._token(left, right, old, new)
        if old not in {"**", "|"}:  # the new operator binds as the old one
            return start, end, text
        begin, until = self._place(node)
        return begin, until, f"({self._source[begin:start]}{text}{self._source[end:until]})"

    def _token(self, left: ast.AST, right: ast.AST, old: str, new: str) -> tuple[int, int, str]:
        """Replace an operator, which stands somewhere between its operands."""
        start = self._source.index(old, self._place(left)[1], self._place(right)[0])
        return start, start + len(old), new

    def _forced(self, condition: ast.expr) -> Iterator[tuple[int, int, str]]:
        if not isinstance(condition, ast.Constant):
            yield *self._place(condition), "True"
            yield *self._place(condition), "False"

    def _another_string(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield *self._place(node), repr(f"not {node.value}")

    def _place(self, node: Any) -> tuple[int, int]:
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        """Make a place in the text of one in the tree, whose columns count bytes."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _text(self, node: ast.AST) -> str:
        start, end = self._place(node)
        return self._source[start:end]


def _collapsed(text: str) -> str:
    """Put some lines of source on one, and cut them after `MOST_SHOWN` characters."""
    line = " ".join(text.split())
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]} …"


def _code(node: ast.AST, function: ast.AST | None = None) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """Walk what runs, each node with the function it is in: no annotation, no text that is made for people."""
    yield node, function
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node
    hints = [getattr(node, name, None) for name in ("annotation", "returns")]
    for child in ast.iter_child_nodes(node):
        if child not in hints and not _is_skipped(child):
            yield from _code(child, function)


def _is_skipped(node: ast.AST) -> bool:
    match node:
        case ast.JoinedStr():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name in _NO_CODE
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
            return True
        case _:
            return False


def _is_type(node: ast.expr) -> bool:
    """Return whether this is the right side of a union of types."""
    if isinstance(node, ast.Name):
        return node.id in {"bool", "bytes", "dict", "float", "int", "list", "str"} or node.id[0].isupper()
    return _is_constant(node, None)


def _is_constant(node: ast.expr, *values: object) -> bool:
    return isinstance(node, ast.Constant) and any(node.value is value for value in values)


def _other_numbers(value: object) -> Iterable[object]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1]
        case float():
            return {value + 1, value * 2} - {value}
        case _:
            return []


def _is_set_before(node: ast.Assign | ast.AnnAssign, function: ast.AST | None) -> bool:
    """Return whether what is assigned had a value before, so that without the assignment the code still runs."""
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    known = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
    for other in ast.walk(function):
        if isinstance(other, ast.Name) and isinstance(other.ctx, ast.Store) and other.lineno < node.lineno:
            known.add(other.id)
    names = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name | ast.Attribute)]
    for name in names:
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store) and name.id not in known:
            return False
        if isinstance(name, ast.Attribute) and isinstance(name.ctx, ast.Store) and function.name == "__init__":
            return False
    return True


# --- A run of one mutant ---


class _Served(SourceFileLoader):
    """Imports one module from a source that is not the one on disk."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        super().__init__(name, str(path))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source that was given, without any cache."""
        code: CodeType = compile(self._source, self.path, "exec", dont_inherit=True)
        return code

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find this module, and no other."""
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None


class _Plugin:
    """Runs first what failed lately, then the quickest tests, and measures them.

    Neighbouring mutants mostly die by the same test. Each run appends the one that failed to a file for the next.
    """

    def __init__(self, seconds: Mapping[str, float], failed: Path | None) -> None:
        self._before = seconds
        self._failed = failed
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        """Try fewer examples, and stop at the first failing one."""
        phases = [Phase.explicit, Phase.generate]
        slow = list(HealthCheck)  # a busy machine is no reason for a mutant to die
        settings.register_profile(
            "mutants", settings(), phases=phases, max_examples=EXAMPLES, suppress_health_check=slow
        )
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort the tests by when they last failed, then by how long they took before."""
        lately = (
            [] if self._failed is None or not self._failed.exists() else self._failed.read_text().splitlines()[-50:]
        )
        last = {test: number for number, test in enumerate(lately)}
        items.sort(key=lambda item: (-last.get(item.nodeid, -1), self._before.get(item.nodeid, 0.0)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what failed."""
        if report.failed and self._failed is not None:
            with self._failed.open("a") as file:
                file.write(f"{report.nodeid}\n")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measure a test."""
        began_at = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - began_at


EXAMPLES: Final = 30
"""How many examples Hypothesis tries: a mutant that is noticed only now and then needs a test of its own."""

MOST_MEMORY: Final = 4 * 2**30
"""Bytes of address space for one run: a mutant that appends for ever shall not take the machine's memory."""


@attrs.frozen
class Module:
    """A module with its source and its tests."""

    name: str
    path: Path
    source: str
    tests: tuple[str, ...]

    @classmethod
    def named(cls, name: str) -> Module:
        """Find one of the pure modules by its name in the package."""
        path = PACKAGE / f"{name.replace('.', '/')}.py"
        return cls(name, path, path.read_text(), tuple(str(ROOT / "tests" / test) for test in TESTS[name]))

    def run(
        self, source: str, seconds: Mapping[str, float], failed: Path | None = None, *, is_shown: bool = False
    ) -> tuple[int, _Plugin]:
        """Run the tests on some source of this module, in this process, which can do nothing else afterwards."""
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if not is_shown:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        sys.meta_path.insert(0, _Served(f"cardprod.{self.name}", self.path, source))
        plugin = _Plugin(seconds, failed)
        options = [
            "-x",
            "-q",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            "--timeout=0",
            "--assert=plain",
        ]  # rewriting takes time
        settings_of = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
        return int(pytest.main([*options, *settings_of, *self.tests], plugins=[plugin])), plugin


_FORK: Final = multiprocessing.get_context("fork")


def exit_codes(
    works: Sequence[Callable[[], int]],
    limit: float,
    jobs: int,
    *,
    done: Callable[[int, int | None], None] | None = None,
) -> list[int | None]:
    """Run each of these in a process of its own, and return their exit codes; None for one that took too long.

    Args:
        works: Functions that give an exit code.
        limit: Seconds for each.
        jobs: How many run at once.
        done: Is called after each, with its number from 0 and its exit code.
    """

    def run(work: Callable[[], int]) -> None:
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            code = work()
        except BaseException:  # noqa: BLE001 - a mutant can raise anything, and this process ends here
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)  # without whatever a mutant left to do at exit

    waiting = list(enumerate(works))[::-1]
    running: dict[Any, tuple[int, Any, float]] = {}
    codes: list[int | None] = [None] * len(works)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, work = waiting.pop()
                process = _FORK.Process(target=run, args=(work,), daemon=True)
                process.start()
                running[process.sentinel] = number, process, time.monotonic() + limit
            next_limit = min(until for _, _, until in running.values())
            ended = wait([*running], max(0.0, next_limit - time.monotonic()))
            late = [sentinel for sentinel, (_, _, until) in running.items() if until <= time.monotonic()]
            for sentinel in {*ended, *late}:
                number, process, _ = running.pop(sentinel)
                process.kill()
                process.join()
                codes[number] = process.exitcode if sentinel in ended else None
                if done is not None:
                    done(number, codes[number])
    finally:
        for _, process, _ in running.values():
            process.kill()
            process.join()
    return codes


# --- The program ---


@attrs.frozen
class Result:
    """What came of a module's mutants; those that hung are among those that died."""

    module: Module
    died: list[Mutant]
    hung: int
    survived: list[Mutant]
    seconds: float

    @property
    def all(self) -> int:
        """How many mutants were run."""
        return len(self.died) + len(self.survived)

    @property
    def equivalent(self) -> list[tuple[Mutant, str]]:
        """The survivors that are listed as equivalent, with their reasons."""
        reasons = reasons_for(self.module.name)
        return [(one, reasons[one.description]) for one in self.survived if one.description in reasons]

    @property
    def missed(self) -> list[Mutant]:
        """The survivors that some test should have noticed."""
        reasons = reasons_for(self.module.name)
        return [one for one in self.survived if one.description not in reasons]

    @property
    def wrongly_listed(self) -> list[Mutant]:
        """Mutants that are listed as equivalent, and died."""
        reasons = reasons_for(self.module.name)
        return [one for one in self.died if one.description in reasons]

    @property
    def raw_percent(self) -> float:
        """How many died, of all."""
        return _percent(len(self.died), self.all)

    @property
    def percent(self) -> float:
        """How many died, of those that are not equivalent."""
        return _percent(len(self.died), self.all - len(self.equivalent))

    def text(self) -> str:
        """Format it as lines for people."""
        name, equivalent = self.module.name, self.equivalent
        lines = [f"{name}: {self.all} mutants, {len(self.died)} died ({self.raw_percent:.0f} %)"]
        if self.hung:
            lines[0] += f", {self.hung} of them by the time limit"
        if equivalent:
            lines[0] += f"; {len(equivalent)} are equivalent, of the others {self.percent:.1f} % died"
        lines[0] += f", in {self.seconds:.0f} s"
        lines += [f"  {self._place(one)}: {one.description}" for one in self.missed]
        lines += [f"  {self._place(one)}: equivalent: {reason}: {one.description}" for one, reason in equivalent]
        lines += [
            f"  {self._place(one)}: listed as equivalent, but died: {one.description}" for one in self.wrongly_listed
        ]
        lines += [f"  listed as equivalent, but no such mutant: {text}" for text in unknown_equivalents(self.module)]
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "module": self.module.name,
            "mutants": self.all,
            "died": len(self.died),
            "hung": self.hung,
            "equivalent": len(self.equivalent),
            "raw_percent": round(self.raw_percent, 2),
            "percent": round(self.percent, 2),
            "seconds": round(self.seconds, 1),
            "survived": [{"line": one.line, "mutation": one.description} for one in self.missed],
        }

    def _place(self, one: Mutant) -> str:
        return f"{self.module.path.relative_to(PACKAGE.parent)}:{one.line}"


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 100.0


def reasons_for(module: str) -> dict[str, str]:
    """Return which mutants of a module are equivalent to the original, each with the reason."""
    return {mutation: reason for reason, mutations in EQUIVALENT.get(module, {}).items() for mutation in mutations}


def unknown_equivalents(module: Module) -> list[str]:
    """Return which mutants are listed as equivalent and do not exist, since the source has changed."""
    listed = reasons_for(module.name).keys()
    return sorted(listed - {one.description for one in mutants_of(module.source)})


def _prepare(directory: str) -> None:
    """Let all runs share what they cache, outside of the source tree."""
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = directory
    sys.pycache_prefix = directory
    sys.dont_write_bytecode = False
    os.chdir(ROOT)


def _preload(names: Iterable[str]) -> None:
    """Import what a run has imported, but for this project, so that the next runs are forked with it."""
    for name in names:
        if name.partition(".")[0] not in {"__main__", "benchmarks", "cardprod", "tests"}:
            with contextlib.suppress(ImportError):  # made by another module, and there when that is
                importlib.import_module(name)
    assert "cardprod" not in sys.modules  # or no run would import its mutant


def _measured(module: Module) -> dict[str, float]:
    """Run the tests on the module as it is; return how long each took.

    Raises:
        SystemExit: They fail.
    """
    receiver, sender = _FORK.Pipe(duplex=False)

    def work() -> int:
        code, plugin = module.run(module.source, {})
        sender.send((plugin.seconds, [*sys.modules]))
        return code

    if exit_codes([work], 600, 1) != [0]:
        raise SystemExit(f"{module.name}: its tests fail, or take ten minutes, before anything is changed")
    seconds: dict[str, float]
    seconds, names = receiver.recv()
    _preload(names)
    return seconds


def run(module: Module, mutants: Sequence[Mutant], jobs: int, directory: Path) -> Result:
    """Run the tests on each mutant."""
    began_at = time.monotonic()
    seconds = _measured(module)
    count = itertools.count(1)
    failed = directory / f"{module.name}.failed"

    def done(number: int, code: int | None) -> None:
        so_far = next(count)
        if code == 0:
            sys.stderr.write(f"{module.name}: survived: {mutants[number].line}: {mutants[number].description}\n")
        if so_far % 50 == 0:
            sys.stderr.write(f"{module.name}: {so_far} of {len(mutants)}\n")

    def work(mutant: Mutant) -> Callable[[], int]:
        return lambda: module.run(mutant.applied_to(module.source), seconds, failed)[0]

    codes = exit_codes([work(one) for one in mutants], 10 + 4 * sum(seconds.values()), jobs, done=done)
    ends = list(zip(mutants, codes, strict=True))
    return Result(
        module,
        died=[one for one, code in ends if code != 0],
        hung=codes.count(None),
        survived=[one for one, code in ends if code == 0],
        seconds=time.monotonic() - began_at,
    )


def run_one(module: Module, mutant: Mutant) -> int:
    """Print one mutant as a diff, and run it with the tests' output shown."""
    name = str(module.path.relative_to(PACKAGE.parent))
    changed = mutant.applied_to(module.source)
    diff = difflib.unified_diff(
        module.source.splitlines(keepends=True), changed.splitlines(keepends=True), name, f"{name} (mutant)"
    )
    _print("".join(diff))
    is_alive = exit_codes([lambda: module.run(changed, {}, is_shown=True)[0]], 600, 1) == [0]
    _print("It survived." if is_alive else "It died.")
    return int(is_alive)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _terminated(*_: object) -> None:
    sys.exit("terminated")  # which ends the runs first


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="+", choices=sorted(TESTS), metavar="MODULE", help=", ".join(sorted(TESTS)))
    parser.add_argument("--list", action="store_true", help="print the mutants, numbered, and run none")
    parser.add_argument("--only", type=int, metavar="N", help="print and run one mutant, by its number")
    parser.add_argument("--sample", type=int, metavar="N", help="run so many, drawn at random")
    parser.add_argument("--seed", type=int, default=1, help="for --sample")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many run at once (default: 2)")
    parser.add_argument("--at-least", type=float, default=90.0, metavar="PERCENT", help="what must die (default: 90)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    modules = [Module.named(name) for name in options.modules]
    if options.list:
        for module in modules:
            for position, one in enumerate(mutants_of(module.source), start=1):
                _print(f"{position} {module.path.relative_to(PACKAGE.parent)}:{one.line}: {one.description}")
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        _prepare(directory)
        if options.only is not None:
            number: int = options.only
            return run_one(modules[0], mutants_of(modules[0].source)[number - 1])
        results: list[Result] = []
        for module in modules:
            mutants = mutants_of(module.source)
            if options.sample is not None:
                mutants = sorted(Random(options.seed).sample(mutants, min(options.sample, len(mutants))))
            result = run(module, mutants, max(1, options.jobs), Path(directory))
            results.append(result)
            if not options.json:
                _print(result.text())
    if options.json:
        _print(json.dumps([result.as_json() for result in results], indent=2))
    is_good = all(
        result.percent >= options.at_least and not result.wrongly_listed and not unknown_equivalents(result.module)
        for result in results
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
