"""What an error, its frames and the logs show, and which secrets are in it."""

from __future__ import annotations

import contextlib
import logging
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.attack.target import SECRETS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from tests.attack.registry import Found

TESTS: Final = Path(__file__).parents[1]


def shown_by(error: BaseException | None) -> Iterator[tuple[str, str]]:
    """Give what an error and all that it comes from show, with the local variables that error reporters collect."""
    seen: list[BaseException] = []
    queue = [error]
    while queue:
        one = queue.pop()
        if one is None or any(one is other for other in seen):
            continue
        seen.append(one)
        queue += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
        yield type(one).__name__, f"{one} {one!r} {vars(one)} {''.join(traceback.format_exception(one))}"
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if not Path(frame.f_code.co_filename).is_relative_to(TESTS):
                for name, value in frame.f_locals.items():
                    yield f"variable {name} of {frame.f_code.co_qualname}", repr(value)


@contextlib.contextmanager
def logged() -> Generator[list[tuple[str, str]]]:
    """Collect what is logged meanwhile."""
    records: list[tuple[str, str]] = []

    def keep(record: logging.LogRecord) -> bool:
        records.append((f"log of {record.name}", f"{record.getMessage()} {vars(record)}"))
        return False

    handler = logging.Handler()
    handler.addFilter(keep)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def leaks(shown: Iterable[tuple[str, str]], secrets: Iterable[str] = SECRETS) -> Found:
    return sorted({f"{secret[:20]}… is in {where}" for where, text in shown for secret in secrets if secret in text})
