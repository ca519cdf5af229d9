"""The commands, a module for each: `add` adds it to the parser, and `run` runs it."""

from __future__ import annotations

from typing import Final

__all__: Final[list[str]] = []
