"""`cardprod watch`: what one run does, what it counts, and the checkpoint file that another run continues from."""

from __future__ import annotations

from typing import Final

__all__: Final[list[str]] = []
