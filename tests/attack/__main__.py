"""The program: `python -m tests.attack`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

import attrs

import tests.attack
from tests.attack.registry import ATTACKS, NotTried
from tests.attack.target import LIMIT

if TYPE_CHECKING:
    from tests.attack.registry import Attack

MODULES: Final = ("answers", "secrets", "limits", "sessions", "saved")
PROXIES: Final = {f"{scheme}_PROXY" for scheme in ("HTTP", "HTTPS", "ALL", "NO")}


# --- The program ---


@attrs.frozen
class Outcome:
    """What came of an attack."""

    what: str
    outcome: str
    is_ok: bool


async def outcome_of(one: Attack) -> Outcome:
    """Attack, and judge what came of it."""
    try:
        async with asyncio.timeout(LIMIT):
            found = await one.run()
    except NotTried as reason:
        return Outcome(one.what, f"not tried: {reason}", is_ok=True)
    except Exception as error:  # noqa: BLE001 - an attack that fails does not hold
        return Outcome(one.what, f"{type(error).__name__}: {error}", is_ok=False)
    wrong = "; ".join(found)
    if one.known is None:
        return Outcome(one.what, wrong or "held", is_ok=not wrong)
    return Outcome(one.what, f"{one.known}: {wrong}" if wrong else "held: remove its `known=`", is_ok=bool(wrong))


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=tests.attack.__doc__)
    parser.add_argument("words", nargs="*", help="try only attacks that have one of these words")
    parser.add_argument("--json", action="store_true", help="print JSON, one line for each attack")
    options = parser.parse_args()
    for module in MODULES:
        importlib.import_module(f"tests.attack.{module}")
    for name in [name for name in os.environ if name.upper() in PROXIES]:
        del os.environ[name]  # no proxy can reach the servers here
    chosen = [one for one in ATTACKS if not options.words or any(word in one.what for word in options.words)]
    is_ok = bool(chosen)
    for one in chosen:
        outcome = asyncio.run(outcome_of(one))
        is_ok &= outcome.is_ok
        mark = "  " if outcome.is_ok else "! "
        line = json.dumps(attrs.asdict(outcome)) if options.json else f"{mark}{outcome.what}\n      {outcome.outcome}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return 0 if is_ok else 1


if __name__ == "__main__":
    logging.getLogger().addHandler(logging.NullHandler())  # failures are what is attacked with: they need no log
    sys.exit(main())
