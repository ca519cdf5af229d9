"""The commands, a module for each: `add` adds it to the parser, and `run` runs it."""

from __future__ import annotations

__all__: list[str] = []
