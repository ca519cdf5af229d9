"""`cardprod watch`: what one run does, what it counts, and the checkpoint file that another run continues from."""

from __future__ import annotations

__all__: list[str] = []
