"""The program that makes mutants of the pure modules, on sources of a line or two."""

from __future__ import annotations

import ast
import signal
from textwrap import dedent

import pytest

from tests.mutants import EQUIVALENT, TESTS, Module, exit_codes, mutants_of, unknown_equivalents


def changes(source: str) -> set[str]:
    """Give what stands in place of the source's last line in each mutant."""
    source = dedent(source)
    return {mutant.applied_to(source).splitlines()[-1].strip() for mutant in mutants_of(source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a <= b", "a >= b"}),
        ("a < b == c", {"a <= b == c", "a >= b == c", "a < b != c"}),
        ("a is not b", {"a is b"}),
        ("a in b", {"a not in b"}),
        ("x = a + b", {"x = a - b"}),
        ("x = -a ** b / c", {"x = (a ** b) / c", "x = -(a * b) / c", "x = -a ** b * c"}),
        ("x = a and b or c", {"x = a or b or c", "x = a and b and c"}),
        ("x = not a", {"x = (a)"}),
        ("x = min(any(a), b)", {"x = max(any(a), b)", "x = min(all(a), b)"}),
        ("x = a if b else c", {"x = a if True else c", "x = a if False else c"}),
        ("x = [a for a in b if a]", {"x = [a for a in b if True]", "x = [a for a in b if False]"}),
        ("x = 5", {"x = 6", "x = 4"}),
        ("x = 2.5", {"x = 3.5", "x = 5.0"}),
        ("x = True", {"x = False"}),
        ("f()", {"pass"}),
        ("raise Oops", {"pass"}),
        ("x = 'a'", set[str]()),
        ("a == 'b'", {"a != 'b'", "a == 'not b'"}),
        ("a in {'b', 'c'}", {"a not in {'b', 'c'}", "a in {'not b', 'c'}", "a in {'b', 'not c'}"}),
        ("x = a['b']", {"x = a['not b']"}),
        ("x = a.get('b')", {"x = a.get('not b')"}),
        (
            "def f(a=5, *, b: int = 1): ...",
            {f"def f(a={a}, *, b: int = {b}): ..." for a, b in ((4, 1), (6, 1), (5, 0), (5, 2))},
        ),
        ("def f(a):\n return a", {"return None"}),
        ("def f(a):\n a = b", {"pass"}),  # a name that would be missing is left alone
        ("def f(self):\n self.a = b", {"pass"}),
        ("def f():\n a = b", set[str]()),
        ("class A:\n def __init__(self, a):\n  self.a = a", set[str]()),
        ("x = 'ü' + a", {"x = 'ü' - a"}),
    ],
)
def test_operators(source: str, expected: set[str]) -> None:
    """Each kind of code is changed in the ways that are meant, and in no other."""
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""5 < 6"""',
        "__all__ = [5]",
        "x: Literal[5]",
        "x: TypeAlias = Literal[5]",
        'x = f"{5} seconds"',
        "if TYPE_CHECKING:\n x = 5",
        "def f(a: Literal[5]) -> Literal[5]: ...",
    ],
)
def test_what_does_not_run_is_left_alone(source: str) -> None:
    """Docstrings, annotations, texts for people and what only a type checker sees are not changed."""
    assert mutants_of(source) == []


def test_every_mutant_is_a_program() -> None:
    """Every mutant of a module compiles, and no two are the same."""
    source = Module.named("_polling.webhook_trust").source
    mutants = {mutant.applied_to(source) for mutant in mutants_of(source)}
    assert len(mutants) == len(mutants_of(source)) > 50
    for mutant in mutants:
        ast.parse(mutant)


def test_equivalents_exist() -> None:
    """What is listed as equivalent is a mutant of the source as it is today."""
    assert EQUIVALENT.keys() <= TESTS.keys()
    assert [text for name in EQUIVALENT for text in unknown_equivalents(Module.named(name))] == []


def test_hanging_mutant_ends() -> None:
    """A run that takes too long is ended and has no exit code; the others have theirs."""

    def hang() -> int:
        signal.pause()
        return 0

    assert exit_codes([lambda: 0, hang, lambda: 1], 0.5, 3) == [0, None, 1]
