"""The rooms of the design: who may import whom, what is public, and what an import costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import cardprod
from tests.table import Table

PACKAGE: Final = Path(cardprod.__file__).parent
FILES: Final = sorted(PACKAGE.rglob("*.py"))

ROOMS: Final = [
    "_version",
    "errors",
    "error_codes",
    "models",
    "wire",
    "schedule",
    "deliveries",
    "checkpoint",
    "watch",
    "pacing",
    "telemetry",
    "exchange",
    "channel",
    "auth",
    "transport",
    "sharing",
    "wait",
    "bulk",
    "sweep",
    "client",
    "webhooks",
    "durable",
    "otel",
    "simulator",
    "card_files",
    "cli",
]
"""Bottom first, as in the design; the version is below them all."""

PURE: Final = {
    "_version",
    "errors",
    "error_codes",
    "models",
    "wire",
    "schedule",
    "deliveries",
    "checkpoint",
    "watch",
    "pacing",
    "telemetry",
    "webhooks",
    "card_files",
}
IMPURE: Final = {"asyncio", "aiohttp", "tenacity", "time.sleep", "socket", "ssl", "threading", "concurrent"}

PUBLIC: Final = [
    "FINAL_STATUSES",
    "PRODUCTION",
    "SANDBOX",
    "AdaptiveSchedule",
    "ApiError",
    "Backoff",
    "BadEvent",
    "BadReply",
    "BadSignature",
    "Card",
    "CardLike",
    "CardNotFound",
    "CardprodError",
    "Checkpoint",
    "Client",
    "ErrorCode",
    "ErrorOrigin",
    "Forbidden",
    "OAuthToken",
    "ProductionEvent",
    "ProductionFailed",
    "ProductionStatus",
    "Progress",
    "RateLimit",
    "RateLimited",
    "RequestTimeout",
    "Schedule",
    "ServerError",
    "Status",
    "Statuses",
    "StrongAuthenticationRequired",
    "Sweep",
    "TokenPair",
    "TokenRefreshFailed",
    "TokenSource",
    "Transition",
    "TransportError",
    "Unauthorized",
    "UsageError",
    "Wait",
    "WaitTimeout",
    "Waits",
    "__version__",
]


def module_of(file: Path) -> str:
    parts = ["cardprod", *file.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Name the room a module of this package is in; the package itself is "cardprod"."""
    return module.split(".")[1] if "." in module else module


class _Imports(ast.NodeVisitor):
    """Everything a module imports when it runs, in functions too; what stands under `if TYPE_CHECKING` does not run."""

    def __init__(self) -> None:
        self.modules: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        """Skip what only a type checker reads."""
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for other in node.orelse:
                self.visit(other)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        """Take `import a, b.c`."""
        self.modules.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Take `from a import b`, where b may be a module itself."""
        assert node.level == 0, "a relative import hides where it points"
        assert node.module is not None
        self.modules.add(node.module)
        self.modules.update(f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(source: str) -> set[str]:
    visitor = _Imports()
    visitor.visit(ast.parse(source))
    return visitor.modules


def files_of(rooms: set[str]) -> list[Path]:
    return [file for file in FILES if room_of(module_of(file)) in rooms]


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_reading_imports() -> None:
    """The reader of imports sees those in functions and in else, and not those for type checkers."""
    source = """
import a.b
if TYPE_CHECKING:
    import unseen
else:
    import c
def f():
    from d import e
"""
    assert imports_of(source) == {"a.b", "c", "d", "d.e"}


def test_every_room_is_in_the_design() -> None:
    """No module stands outside the rooms that the design lists."""
    assert {room_of(module_of(file)) for file in FILES} <= {*ROOMS, "cardprod", "__main__"}


def test_pure_rooms_are_pure() -> None:
    """A pure room imports nothing that waits, sends or sleeps, not even inside a function."""
    with Table() as table:
        for file in files_of(PURE):
            with table.row(module_of(file)):
                imported = imports_of(file.read_text("utf-8"))
                assert {module for module in imported for impure in IMPURE if is_within(module, impure)} == set()


def test_all_pure_rooms_are_read() -> None:
    """None of the pure rooms is missed because it was renamed."""
    assert {room_of(module_of(file)) for file in files_of(PURE)} == PURE


def test_imports_point_upward() -> None:
    """A room imports itself and rooms that stand before it in the list, never one after it, and no public name."""
    reexports = {f"cardprod.{name}" for name in PUBLIC}
    with Table() as table:
        for file in files_of(set(ROOMS)):
            with table.row(module_of(file)):
                imported = {module for module in imports_of(file.read_text("utf-8")) if is_within(module, "cardprod")}
                rooms = {room_of(module) for module in imported if module != "cardprod"}
                below = ROOMS[: ROOMS.index(room_of(module_of(file))) + 1]
                assert rooms - {*below} == set()
                assert imported & reexports == set(), "import from the room itself"


def test_simulator_shares_no_wire() -> None:
    """The simulator shares no code with the client's wire, so that neither hides the other's mistakes."""
    with Table() as table:
        for file in files_of({"simulator"}):
            with table.row(module_of(file)):
                imported = {module for module in imports_of(file.read_text("utf-8")) if is_within(module, "cardprod")}
                forbidden = {"wire", "transport", "client", "watch", "wait", "webhooks", "deliveries"}
                assert {room_of(module) for module in imported} & forbidden == set()


def _kind_and_name(name: str) -> tuple[int, str]:
    """Order as ruff's RUF022 does: CONSTANTS, then Classes, then functions, each by name."""
    if name.isupper() and len(name) > 1:
        return 0, name
    return (1 if name[:1].isupper() else 2), name


def test_all_is_sorted_and_true() -> None:
    """Every module says in `__all__` what it offers, in order and without repeating itself, and has it."""
    with Table() as table:
        for module in [module_of(file) for file in FILES if file.name != "__main__.py"]:
            with table.row(module):
                loaded = importlib.import_module(module)
                names: list[str] = loaded.__all__
                assert names == sorted(set(names), key=_kind_and_name)
                assert [name for name in names if not hasattr(loaded, name)] == []


def test_public_names() -> None:
    """What `cardprod` offers changes only together with this list."""
    assert cardprod.__all__ == PUBLIC


def test_version_is_said_the_same_twice() -> None:
    """The version in the code is the version of the distribution."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    assert cardprod.__version__ == project["version"]


def test_import_is_light() -> None:
    """Importing the package does not load what only a first answer or a first failure needs."""
    code = "import sys, cardprod; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "cardprod" in loaded
    assert not loaded & {"tenacity", "cattrs", "cattr", "rich", "argparse", "opentelemetry", "cryptography"}
