"""What to run where an extra is missing."""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cardprod
from cardprod._extras import install_command, needs_extra
from tests.table import Table
from tests.waiting import run_program

if TYPE_CHECKING:
    import pytest

SOURCES: dict[str, Any] = {
    "an index": (None, "pip install 'cardprod[otel]'"),
    "a checkout": ({"url": "file:///src/card%20prod", "dir_info": {}}, "pip install '/src/card prod[otel]'"),
    "an editable checkout": (
        {"url": "file:///src/cardprod", "dir_info": {"editable": True}},
        "pip install -e '/src/cardprod[otel]'",
    ),
    "git": (
        {"url": "https://git.example/cardprod.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}},
        "pip install 'cardprod[otel] @ git+https://git.example/cardprod.git'",
    ),
    "a branch of git": (
        {"url": "https://git.example/cardprod.git", "vcs_info": {"vcs": "git", "requested_revision": "next"}},
        "pip install 'cardprod[otel] @ git+https://git.example/cardprod.git@next'",
    ),
    "a wheel": (
        {"url": "https://files.example/cardprod-0.1.0-py3-none-any.whl", "archive_info": {}},
        "pip install 'cardprod[otel] @ https://files.example/cardprod-0.1.0-py3-none-any.whl'",
    ),
    "nothing that pip wrote": (["odd"], "pip install 'cardprod[otel]'"),
    "half of it": ({"vcs_info": {}, "url": "x"}, "pip install 'cardprod[otel]'"),
}


def test_command_is_for_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command installs the extra from where the package was installed: a checkout, git, a file, an index."""

    def recorded(name: str) -> Distribution:
        assert name == "cardprod"
        return PathDistribution(tmp_path)

    monkeypatch.setattr(Distribution, "from_name", recorded)
    with Table() as table:
        for name, (source, command) in SOURCES.items():
            with table.row(name):
                (tmp_path / "direct_url.json").write_text("" if source is None else json.dumps(source))
                assert install_command("otel") == command
                assert needs_extra("this", "otel") == f"this needs the extra 'otel': {command}"


def test_no_other_module_says_how_to_install() -> None:
    """No message has a command of its own, which would be wrong where the package came from somewhere else."""
    files = [*Path(cardprod.__file__).parent.rglob("*.py")]
    own = re.compile(r"pip install (?!pytest |looptime`)")  # those two are no extras of the package
    assert [file.name for file in files if own.search(file.read_text("utf-8"))] == ["_extras.py"]


HIDDEN = {
    "cryptography": "cardprod.webhooks.Verifier.for_sandbox()",
    "psycopg": "cardprod.durable.Durable",
    "opentelemetry": "cardprod.otel.instrument(None)",
}


def test_missing_extra_is_named() -> None:
    """Where an extra is missing, its first use says which and how to install it; help and the package itself work."""
    hide = (
        "import sys; sys.modules |= dict.fromkeys(sys.argv[1:]); import cardprod, cardprod.cli, pydoc\n"
        "for name in ('webhooks', 'durable', 'otel'):\n    assert 'extra' in pydoc.render_doc(f'cardprod.{name}')"
    )
    attempts = [f"try: {attempt}\nexcept ImportError as error: print(error)" for attempt in HIDDEN.values()]
    ran = run_program(sys.executable, "-c", "\n".join([hide, *attempts]), *HIDDEN)
    assert len(ran.out.splitlines()) == len(HIDDEN)
    for line in ran.out.splitlines():
        assert "needs the extra '" in line
        assert "pip install " in line
