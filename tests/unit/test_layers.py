"""The layers of the design: who may import whom, what is pure, what is public, and what an import costs."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

import cardprod
from tests.table import Table
from tests.waiting import run_program

PACKAGE: Final = Path(cardprod.__file__).parent
EMPTY: Final = {PACKAGE / name / "__init__.py" for name in ("_http", "_polling", "_protocol")}
FILES: Final = sorted({*PACKAGE.rglob("*.py")} - EMPTY)

LAYERS: Final = [
    "_version",
    "_extras",
    "error_codes",
    "card",
    "_protocol.validation",
    "_protocol.codec",
    "models",
    "_polling.backoff",
    "checkpoint",
    "errors",
    "telemetry",
    "_protocol.requests",
    "_protocol.correlation",
    "_protocol.documents",
    "_protocol.api_errors",
    "_protocol.responses",
    "_protocol.events",
    "_http.environment",
    "_http.rate_limit",
    "_http.recovery",
    "_http.limiter",
    "_http.answer",
    "_http.failures",
    "_http.loopback",
    "_http.secrets",
    "_http.proxies",
    "_http.retries",
    "_http.time_limit",
    "_http.fast_path",
    "_http.session",
    "_http.auth",
    "_http.transport",
    "_polling.signal",
    "_polling.coroutine",
    "_polling.dwell_time",
    "_polling.adaptive",
    "_polling.webhook_trust",
    "_polling.ordering",
    "_polling.state",
    "_polling.stored",
    "_polling.queue",
    "_polling.subscriptions",
    "_polling.results",
    "_polling.poller",
    "_polling.wait",
    "_polling.card_source",
    "_polling.bulk",
    "_polling.waits",
    "_polling.sweep",
    "schedule",
    "client",
    "webhooks",
    "durable",
    "otel",
    "simulator",
    "testing",
    "card_files",
    "cli",
]
"""Bottom first: an import points downward only, also one that only a type checker reads."""

PURE: Final = {
    "_version",
    "_extras",
    "card",
    "errors",
    "error_codes",
    "models",
    "telemetry",
    "checkpoint",
    "webhooks",
    "card_files",
    "_protocol",
    "_http.rate_limit",
    "_http.recovery",
    "_polling.backoff",
    "_polling.dwell_time",
    "_polling.adaptive",
    "_polling.webhook_trust",
    "_polling.ordering",
    "_polling.state",
    "_polling.stored",
    "_polling.queue",
}
IMPURE: Final = {"asyncio", "aiohttp", "tenacity", "time.sleep", "socket", "ssl", "threading", "concurrent"}

PUBLIC: Final = [
    "FINAL_STATUSES",
    "PRODUCTION",
    "PRODUCTION_MTLS",
    "SANDBOX",
    "SANDBOX_MTLS",
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
    "DurableError",
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


OF_PARTS: Final = {"cardprod", "cardprod.simulator"}
"""Packages whose `__all__` is for type checkers only, because help would describe all that is in it in full."""

OF_USERS: Final = {
    "cardprod.card",
    "cardprod.card_files",
    "cardprod.checkpoint",
    "cardprod.cli",
    "cardprod.client",
    "cardprod.durable",
    "cardprod.durable.embedded",
    "cardprod.error_codes",
    "cardprod.errors",
    "cardprod.models",
    "cardprod.otel",
    "cardprod.schedule",
    "cardprod.telemetry",
    "cardprod.testing",
    "cardprod.webhooks",
}
"""The other modules that users import and have the help of, which shows what is in `__all__`."""


def module_of(file: Path) -> str:
    parts = ["cardprod", *file.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str | None:
    """Return the layer that a module of this package is in; None for the package itself."""
    inside = module.removeprefix("cardprod").removeprefix(".")
    return next((layer for layer in LAYERS if is_within(inside, layer)), None)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


class _Imports(ast.NodeVisitor):
    """Everything a module imports, in functions too: when it runs, and for type checkers only."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.for_types: set[str] = set()
        self._found = self.modules

    def visit_If(self, node: ast.If) -> None:
        """Note what only a type checker reads apart."""
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            self._found = self.for_types
            for statement in node.body:
                self.visit(statement)
            self._found = self.modules
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        """Take `import a, b.c`."""
        self._found.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Take `from a import b`, where b may be a module itself."""
        assert node.level == 0, "a relative import hides where it points"
        assert node.module is not None
        self._found.add(node.module)
        self._found.update(f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imports_of(source: str) -> _Imports:
    visitor = _Imports()
    visitor.visit(ast.parse(source))
    return visitor


def ours(imported: set[str]) -> set[str]:
    return {module for module in imported if is_within(module, "cardprod")}


def test_reading_imports() -> None:
    """The reader of imports sees those in functions and in else, and those for type checkers apart."""
    source = """
import a.b
if TYPE_CHECKING:
    import typed
else:
    import c
def f():
    from d import e
"""
    found = imports_of(source)
    assert (found.modules, found.for_types) == ({"a.b", "c", "d", "d.e"}, {"typed"})


def test_every_module_has_a_layer() -> None:
    """No module stands outside the layers, but the package itself, and no layer is listed that is not there."""
    modules = {module_of(file) for file in FILES}
    assert {module for module in modules if layer_of(module) is None} == {"cardprod", "cardprod.__main__"}
    assert {layer_of(module) for module in modules} - {None} == set(LAYERS)


def test_pure_modules_are_pure() -> None:
    """A pure module imports nothing that waits, sends or sleeps, not even inside a function."""
    with Table() as table:
        for file in FILES:
            inside = module_of(file).removeprefix("cardprod.")
            if any(is_within(inside, pure) for pure in PURE):
                with table.row(inside):
                    imported = imports_of(file.read_text("utf-8")).modules
                    assert {module for module in imported for impure in IMPURE if is_within(module, impure)} == set()


def test_imports_point_downward() -> None:
    """A module imports its own layer and those below it, also for types; and names from where they are defined."""
    reexports = {f"cardprod.{name}" for name in PUBLIC}
    with Table() as table:
        for file in FILES:
            layer = layer_of(module_of(file))
            if layer is None:
                continue
            with table.row(module_of(file)):
                found = imports_of(file.read_text("utf-8"))
                allowed = LAYERS[: LAYERS.index(layer) + 1]
                assert {layer_of(module) for module in ours(found.modules | found.for_types)} - {
                    None,
                    *allowed,
                } == set()
                assert (found.modules | found.for_types) & reexports == set()


def test_nothing_is_read_from_docstrings() -> None:
    """No module reads a docstring, but one to add a table to its own: `python -OO` has none."""
    with Table() as table:
        for file in FILES:
            with table.row(module_of(file)):
                source = file.read_text("utf-8").replace('__doc__ = f"""{__doc__ or ""}', "")
                assert "__doc__" not in source
                assert "getdoc" not in source


def test_every_record_is_harmless() -> None:
    """Only `telemetry` writes records to the package's logger: a log handler that raises must do no harm anywhere."""
    for file in FILES:
        if file.name != "telemetry.py":
            text = file.read_text("utf-8")
            assert re.findall(r"LOGGER\.(?:debug|info|warning|error|exception|critical|log)\(", text) == [], file.name


def test_simulator_shares_no_code_with_the_client() -> None:
    """The simulator shares no code with what it tests but values and argument checks: neither hides mistakes."""
    shared = {
        "_version",
        "_extras",
        "errors",
        "error_codes",
        "models",
        "telemetry",
        "simulator",
        "_protocol.validation",
    }
    with Table() as table:
        for file in FILES:
            if layer_of(module_of(file)) == "simulator":
                with table.row(module_of(file)):
                    imported = ours(imports_of(file.read_text("utf-8")).modules)
                    assert {layer_of(module) for module in imported} - {None, *shared} == set()


def test_only_the_fast_path_knows_aiohttp_inside() -> None:
    """No module but `fast_path` uses a name of aiohttp that is not public."""
    private = ["ResponseHandler", "client_proto", '"_factory"', "set_response_params"]
    for file in FILES:
        if file.name != "fast_path.py":
            text = file.read_text("utf-8")
            assert [name for name in private if name in text] == [], file.name


def _kind_and_name(name: str) -> tuple[int, str]:
    """Order as ruff's RUF022 does: CONSTANTS, then Classes, then functions, each by name."""
    if name.isupper() and len(name) > 1:
        return 0, name
    return (1 if name[:1].isupper() else 2), name


def test_all_is_sorted_and_true() -> None:
    """A module that users import lists in `__all__` what it offers, in order and once; elsewhere underscores say it."""
    with Table() as table:
        for module in {module_of(file) for file in FILES if file.name != "__main__.py"} - OF_PARTS:
            with table.row(module):
                loaded = importlib.import_module(module)
                assert ("__all__" in vars(loaded)) == (module in OF_USERS)
                names: list[str] = vars(loaded).get("__all__", [])
                assert names == sorted(set(names), key=_kind_and_name)
                assert [name for name in names if not hasattr(loaded, name)] == []
                assert [name for name in names if name.startswith("check_")] == [], "it checks our own arguments"


def _listed_for_type_checkers(module: ModuleType) -> list[str]:
    """Return the `__all__` that only type checkers see; all public names of the module must be in it."""
    source = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
    listed: list[str] = []
    for node in ast.walk(source):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            listed = ast.literal_eval(node.value)
    names = {name for name, value in vars(module).items() if name[:1] != "_" and not isinstance(value, ModuleType)}
    assert names - {"annotations"} == {*listed} - {"__version__"}
    return listed


def test_public_names() -> None:
    """What `cardprod` offers, to programs and to type checkers, changes only together with this list."""
    assert _listed_for_type_checkers(cardprod) == PUBLIC
    assert sorted(PUBLIC, key=_kind_and_name) == PUBLIC


def test_import_is_light() -> None:
    """Importing the package does not load what only a client that runs needs."""
    code = "import sys, cardprod; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(run_program(sys.executable, "-c", code).out.split())
    assert "cardprod" in loaded
    assert not loaded & {"tenacity", "cattrs", "cattr", "rich", "argparse", "opentelemetry", "cryptography"}
