"""Correlation ids: which answers a client takes for its own."""

from __future__ import annotations

import uuid
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardprod._protocol.correlation import CorrelationIds
from cardprod.errors import TransportError
from tests.table import Table

NAME: Final = "X-External-Correlation-Id"
FIRST: Final = uuid.UUID("ca0c8154-1e14-4464-a1ce-ffffffffffff")


def is_taken(ids: CorrelationIds, correlation_id: str, echoed: str | None, http_status: int = 200) -> bool:
    """Whether an answer with this id passes."""
    try:
        ids.check(correlation_id, http_status, {} if echoed is None else {NAME: echoed})
    except TransportError:
        return False
    return True


@given(st.uuids(version=4))
def test_ids_are_different_uuids(first: uuid.UUID) -> None:
    """Each id is a UUID of its own, which begins like the client's."""
    ids = CorrelationIds(first)
    made = [ids.make() for _ in range(5)]
    assert {one[:24] for one in made} == {str(first)[:24]}
    assert len(set(made)) == 5
    assert [str(uuid.UUID(one)) for one in made] == made


def test_server_that_never_echoed() -> None:
    """From a server that never echoed an id, any is accepted but that of another request of this client."""
    with Table() as table:
        for echoed in (None, "", "an example", str(uuid.uuid4()), "b5d4e8d6-0000-4000-a000-000000000000"):
            with table.row(echoed):
                ids = CorrelationIds(FIRST)
                ids.make()
                assert is_taken(ids, ids.make(), echoed)
                assert is_taken(ids, ids.make(), echoed)
    ids = CorrelationIds(FIRST)
    before, now = ids.make(), ids.make()
    for echoed in (before, before.upper(), f'"{before}"', f"urn:uuid:{before}", f"an example, {before}"):
        assert not is_taken(ids, now, echoed)


@pytest.mark.parametrize("spelling", ["{0}", '"{0}"', " {0} ", '"{0} "', "{{{0}}}", "urn:uuid:{0}", "an example, {0}"])
@pytest.mark.parametrize("is_upper", [False, True])
def test_server_that_echoes(spelling: str, *, is_upper: bool) -> None:
    """Once a server has echoed an id, in any spelling, a 200 without the request's own is refused."""
    ids = CorrelationIds(FIRST)
    first, second = ids.make(), ids.make()

    def spell(one: str) -> str:
        return spelling.format(one.upper() if is_upper else one)

    assert is_taken(ids, first, spell(first))
    assert is_taken(ids, second, spell(second))
    for echoed in (None, "", "an example", str(uuid.uuid4()), first):
        assert not is_taken(ids, second, echoed)


@pytest.mark.parametrize("http_status", [201, 302, 401, 404, 429, 503])
def test_errors_are_what_they_say(http_status: int) -> None:
    """An answer that is no 200 is accepted whatever id it carries: a 429's `Retry-After` counts."""
    ids = CorrelationIds(FIRST)
    first, second = ids.make(), ids.make()
    assert is_taken(ids, first, first)
    for echoed in (None, first, "an example"):
        assert is_taken(ids, second, echoed, http_status)
