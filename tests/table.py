"""One law over a table: every row is tried, and a failure names every row that breaks the law."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import Self


class Table:
    """Tries the rows of a table one by one, and raises what went wrong with any of them when the block ends.

    Example:
        ```python
        with Table() as table:
            for text in ("1", "2"):
                with table.row(text):
                    assert int(text)
        ```
    """

    def __init__(self) -> None:
        self._tried = 0
        self._broken: dict[str, BaseException] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        if exception_type is not None:
            return
        assert self._tried, "the table has no row"
        if self._broken:
            names = "; ".join(self._broken)
            raise BaseExceptionGroup(f"in {len(self._broken)} of {self._tried} rows: {names}", [*self._broken.values()])

    @contextmanager
    def row(self, *values: object) -> Generator[None]:
        """Try one row, which these values name."""
        self._tried += 1
        try:
            yield
        except (Exception, pytest.fail.Exception) as failure:
            if "pytest-timeout" in str(failure):  # its alarm rings once: a second row that hangs would hang for ever
                raise
            self._broken[f"{self._tried}: " + ", ".join(map(_short, values))] = failure


def _short(value: object) -> str:
    text = value if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def pairwise_rows(*dimensions: Sequence[Any], is_full: bool = False) -> list[tuple[Any, ...]]:
    """Choose rows of the product in which any two values of two dimensions meet at least once; or give all of them."""
    rows = list(product(*dimensions))
    if is_full:
        return rows
    indices = product(*(range(len(dimension)) for dimension in dimensions))
    pairs = [set(combinations(enumerate(row), 2)) for row in indices]
    unmet = set[tuple[tuple[int, int], ...]]().union(*pairs)
    chosen: list[tuple[Any, ...]] = []
    while unmet:
        best = max(range(len(rows)), key=lambda number: len(pairs[number] & unmet))
        unmet -= pairs[best]
        chosen.append(rows[best])
    return chosen
