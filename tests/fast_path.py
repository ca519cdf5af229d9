"""Tests without the fast path, and tests that are about it: CI removes that file once."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

import pytest

__all__ = ["IS_THERE", "go_without", "needs_fast_path"]

_MODULE: Final = "cardprod._http.fast_path"

IS_THERE: Final = find_spec(_MODULE) is not None

needs_fast_path = pytest.mark.skipif(not IS_THERE, reason="the fast path, and what it knows of aiohttp, was removed")


def go_without(patch: pytest.MonkeyPatch) -> None:
    """Send requests through the session from now on."""
    if IS_THERE:
        patch.setattr(f"{_MODULE}._SENDER", "_gone_one_day")
