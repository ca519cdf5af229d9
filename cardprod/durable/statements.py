"""The statements of `sql/statements.sql`, by name."""

from __future__ import annotations

import re
from importlib import resources
from typing import Final

__all__ = ["STATEMENTS", "sql_file"]


def sql_file(name: str) -> str:
    """Return the text of a file in `sql`."""
    return (resources.files("cardprod.durable") / "sql" / name).read_text("utf-8")


def _statements() -> dict[str, bytes]:
    parts = re.split(r"^-- name: (\w+)\n", sql_file("statements.sql"), flags=re.MULTILINE)
    return {name: text.strip().encode() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


STATEMENTS: Final = _statements()
"""Each statement of `sql/statements.sql`, by its name."""
