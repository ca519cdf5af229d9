"""The version, said once for the code; a test holds that pyproject.toml says the same."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.1.0"
