"""The simulator's page: a person sees the cards and kiosks live in a browser, and drives them by hand.

`Page` serves three files, a stream of changes and a few commands; all it knows and does goes through the public methods
of `Simulator`. It is reached from this machine only, and by nothing but itself: see `routes`.
"""

from __future__ import annotations

from cardprod.simulator.page.routes import Page

__all__ = ["Page"]
