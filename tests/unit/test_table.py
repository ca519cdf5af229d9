"""The tests' own tables: a law that some rows break is a failure that names those rows."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.table import Table, pairwise_rows


def test_every_broken_row_is_named() -> None:
    """A table tries all its rows, and its failure names and holds those that failed, in whatever way."""

    def try_all() -> None:
        with Table() as table:
            for text in ("1", "one", "2", "two\n", "3"):
                with table.row(text):
                    int(text)
            with table.row("missing", 4), pytest.raises(ValueError, match="invalid"):
                int("4")

    with pytest.raises(BaseExceptionGroup) as caught:
        try_all()
    assert str(caught.value).startswith(r"in 3 of 6 rows: 2: one; 4: 'two\n'; 6: missing, 4")
    assert [type(failure) for failure in caught.value.exceptions] == [ValueError, ValueError, pytest.fail.Exception]


def test_table_without_rows_fails() -> None:
    """A table that tried nothing proves nothing."""
    with pytest.raises(AssertionError, match="no row"), Table():
        pass


def test_any_two_values_meet() -> None:
    """Pairwise rows are fewer than the product, and each two values of two dimensions are in one of them."""
    dimensions = ("abcd", "xyz", (1, 2), (True, False))
    rows = pairwise_rows(*dimensions)
    assert len(rows) <= 14
    met = {pair for row in rows for pair in combinations(enumerate(row), 2)}
    assert met == {pair for row in product(*dimensions) for pair in combinations(enumerate(row), 2)}
    assert len(pairwise_rows(*dimensions, is_full=True)) == 4 * 3 * 2 * 2
