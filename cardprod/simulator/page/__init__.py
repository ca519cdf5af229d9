"""The simulator's page: it shows the cards and kiosks live in a browser, and has a button for each move.

All that it knows and does goes through the public methods of `Simulator`: `feed` reads, `commands` writes, and `routes`
serves both, and the files. Who may use it is checked in `access`, as for every route.
"""

from __future__ import annotations

from cardprod.simulator.page.routes import Page

__all__ = ["Page"]
