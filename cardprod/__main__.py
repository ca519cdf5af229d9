"""`python -m cardprod`: the same as the `cardprod` command."""

from __future__ import annotations

import sys

from cardprod.cli import main

__all__: list[str] = []

sys.exit(main())
