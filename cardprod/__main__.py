"""`python -m cardprod`: the same as the `cardprod` command."""

from __future__ import annotations

import os
import sys

# As for `cardprod`, no file in the working folder takes the place of a module that is imported later.
if sys.path[0] in {"", os.getcwd()}:  # noqa: PTH109 - as Python has put it there
    del sys.path[0]

from cardprod.cli import main

sys.exit(main())
