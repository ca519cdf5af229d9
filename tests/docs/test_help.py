"""What people read: help(), README and the other pages."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pytest

import cardprod
from cardprod import errors, simulator
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
PAGES: Final = [ROOT / name for name in ("README.md", "CHANGELOG.md", "benchmarks/README.md", "tests/README.md")]
MODULES: Final = [
    "cardprod",
    "cardprod.checkpoint",
    "cardprod.client",
    "cardprod.durable",
    "cardprod.errors",
    "cardprod.models",
    "cardprod.otel",
    "cardprod.schedule",
    "cardprod.simulator",
    "cardprod.telemetry",
    "cardprod.testing",
    "cardprod.webhooks",
]
"""The modules that README or `help(cardprod)` sends readers to."""

SOURCES: Final = [
    path
    for folder in ("cardprod", "tests", "benchmarks", ".ci")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {"", ".py", ".sql", ".js", ".css", ".html"} and path.is_file()
]
"""Everything that a contributor reads, besides the pages."""

IDIOM: Final = re.compile(
    r"(?<![a-z])(?:look(?:s|ed|ing)?(?! up\b)|told|untold|hears?|heard|by hand|whoever|mend(?:s|ed|ing)?|minded"
    r"|chances?|patiently|weather(?:ed|s)?|tally|fates?|turnstile|takes? turns?|takes? note|storms?|decipher)(?![a-z])",
    re.IGNORECASE,
)
"""What plain technical English has other words for: poll, report, deliver, receive, fix, honour, random, faults."""
FIRST_EDITION: Final = {"takeover.sql", "test_roles.py", Path(__file__).name}
"""These name a column as it was once called, and this file names all of the words."""


def _help(thing: object) -> str:
    return re.sub(r".\x08", "", pydoc.render_doc(thing))  # bold is a letter struck twice


def test_help_of_the_package() -> None:
    """`help(cardprod)` is two pages at most, and names all that there is, or, for errors, where they are."""
    text = _help(cardprod)
    assert len(text.splitlines()) <= 110
    public = {name for name, value in vars(cardprod).items() if name[:1] != "_" and not isinstance(value, ModuleType)}
    there = {name for name in public - {"annotations", "CardLike"} if re.search(rf"\b{name}\b", cardprod.__doc__ or "")}
    assert public - {"annotations", "CardLike"} - there <= set(errors.__all__)
    assert set(errors.__all__) <= set(re.findall(r"\w+", errors.__doc__ or ""))


def test_help_of_the_simulator() -> None:
    """`help(cardprod.simulator)` is two pages at most, without what attrs adds, and names all that there is."""
    text = _help(simulator)
    assert len(text.splitlines()) <= 110
    assert "__attrs_" not in text
    public = {name for name, value in vars(simulator).items() if name[:1] != "_" and not isinstance(value, ModuleType)}
    assert {
        name for name in public - {"annotations"} if not re.search(rf"\b{name}\b", simulator.__doc__ or "")
    } == set()


def test_help_of_the_client() -> None:
    """`help(cardprod.Client)` shows each method with its arguments, and what `None` and the defaults mean."""
    text = _help(cardprod.Client)
    for words in (
        "Args:",
        "Returns:",
        "Raises:",
        "timeout",
        "max_outage",
        "after",
        "rate_limit",
        "proxy",
        "safety_net",
    ):
        assert words in text
    assert "__attrs_" not in text


def _documented(module: str) -> Iterator[tuple[str, Any]]:
    """Give each public class and function of a module, and their public methods."""
    for name, thing in vars(importlib.import_module(module)).items():
        if name.startswith("_") or not str(getattr(thing, "__module__", "")).startswith("cardprod"):
            continue
        if inspect.isfunction(thing):
            yield name, thing
        if inspect.isclass(thing):
            yield name, thing
            for method, function in vars(thing).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{name}.{method}", function


def test_arguments_are_documented() -> None:
    """Each public class and function has a docstring; one that lists arguments lists all."""
    with Table() as table:
        for module in MODULES:
            for name, thing in _documented(module):
                with table.row(module, name):
                    text = inspect.getdoc(thing)
                    assert text
                    if inspect.isfunction(thing) and "Args:" in text:
                        arguments = set(inspect.signature(thing).parameters) - {"self", "cls"}
                        assert {
                            one for one in arguments if not re.search(rf"^ +\*?{one}:", text, re.MULTILINE)
                        } == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_are_plain(page: Path) -> None:
    """The pages are in plain technical English."""
    assert IDIOM.findall(page.read_text("utf-8")) == []


def test_docstrings_are_plain() -> None:
    """The docstrings that README sends readers to are in plain technical English."""
    with Table() as table:
        for module in MODULES:
            with table.row(module):
                assert IDIOM.findall(importlib.import_module(module).__doc__ or "") == []
                assert IDIOM.findall(_help(cardprod.Client)) == []


def test_sources_are_plain() -> None:
    """The names, comments and texts of the package, its tests and its benchmarks are in plain technical English."""
    assert len(SOURCES) > 100
    with Table() as table:
        for path in SOURCES:
            if path.name not in FIRST_EDITION:
                with table.row(path.relative_to(ROOT).as_posix()):
                    assert IDIOM.findall(path.read_text("utf-8")) == []


def test_readme_is_short() -> None:
    """README has 300 lines at most, and its table of contents leads to each of its sections."""
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 300
    assert max(len(line) for line in text.splitlines() if not line.startswith(("|", "[", "python3"))) <= 135
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^## (.+)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([a-z0-9-]+)\)", text)) == anchors


def test_links_lead_somewhere() -> None:
    """Each link of a page to a file of the project leads to one."""
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_help_commands() -> None:
    """Each `help(…)` that a page or a docstring names is of something that there is, and a module's needs no import."""
    texts = [page.read_text("utf-8") for page in PAGES]
    texts += [importlib.import_module(one).__doc__ or "" for one in MODULES]
    named = {name for text in texts for name in re.findall(r"help\(\"?(cardprod[\w.]*)\"?\)", text)}
    assert not [name for text in texts for name in re.findall(r"help\((cardprod\.[a-z]\w*)\)", text)]
    assert len(named) > 5
    for name in named:
        assert pydoc.locate(name) is not None, name
