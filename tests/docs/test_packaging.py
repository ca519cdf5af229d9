"""What is built and shipped: the wheel's contents, its metadata, and the README's own commands."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

import cardprod
from tests.waiting import run_program

_ROOT = Path(__file__).parents[2]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built by hatchling as pip would build it."""
    where = tmp_path_factory.mktemp("wheel")
    run_program(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(where), cwd=_ROOT)
    [built] = where.glob("*.whl")
    return zipfile.ZipFile(built)


def test_wheel_contents(wheel: zipfile.ZipFile) -> None:
    """The wheel holds all modules, the statements, the page and the typing marker, and nothing else."""
    files = [*(_ROOT / "cardprod").rglob("*.py"), *(_ROOT / "cardprod" / "durable" / "sql").glob("*.sql")]
    modules = {path.relative_to(_ROOT).as_posix() for path in files}
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    page = {f"cardprod/simulator/page/{name}" for name in ("icon.svg", "index.html", "script.js", "style.css")}
    assert shipped == modules | page | {"cardprod/py.typed"}


def test_wheel_entry_points(wheel: zipfile.ZipFile) -> None:
    """The wheel installs the `cardprod` command and the pytest plugin."""
    [entry_points] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    lines = wheel.read(entry_points).decode().splitlines()
    assert "cardprod = cardprod.cli:main" in lines
    assert "cardprod = cardprod.testing" in lines


def test_version_is_said_once() -> None:
    """The code, pyproject.toml and the newest entry of the changelog name the same version."""
    changelog = re.search(r"^## \[([0-9.]+)\]", (_ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changelog is not None
    assert cardprod.__version__ == _PROJECT["version"] == changelog[1]


def test_four_dependencies() -> None:
    """The base install needs aiohttp, attrs, cattrs and tenacity, and no more."""
    base = [requirement for requirement in requires("cardprod") or [] if "extra ==" not in requirement]
    assert sorted(re.split(r"\W", requirement)[0] for requirement in base) == ["aiohttp", "attrs", "cattrs", "tenacity"]


def test_readme_commands() -> None:
    """The README's first two commands are one shell line each, of plain venv and pip."""
    blocks = re.findall(r"```sh\n(.*?)```", (_ROOT / "README.md").read_text(), re.DOTALL)
    demo, tests = blocks[0].strip(), blocks[1].strip()
    for command in (demo, tests):
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert demo.endswith("cardprod demo")
    assert "pytest" in tests
    assert tests in (_ROOT / ".ci" / "run").read_text() or "README.md" in (_ROOT / ".ci" / "run").read_text()


def test_no_machine_in_the_project() -> None:
    """No tracked file names a registry's host or a path of somebody's machine."""
    if shutil.which("git") is None or not (_ROOT / ".git").exists():
        pytest.skip("this is no checkout, or git is not installed: nothing says which files are tracked")
    tracked = run_program("git", "ls-files", cwd=_ROOT)
    forbidden = re.compile("/" + "root/|/" + "home/|py" + "pi\\.|files\\.python" + "hosted|index" + "-url")
    for name in tracked.out.splitlines():
        text = (_ROOT / name).read_bytes().decode("utf-8", "replace")
        assert not forbidden.search(text.replace("https://pypi.org/project/", "")), name
