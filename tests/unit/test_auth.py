"""What is accepted as a bearer token."""

from __future__ import annotations

from typing import Any

import pytest

from cardprod._http.auth import check_token
from cardprod.errors import UsageError
from tests.table import Table


def test_accepts_a_token() -> None:
    """A token of printable ASCII is accepted unchanged, however long."""
    for token in ("a", "6b4d3f8e-user-token", "AbC123-._~+/==", "!~", "x" * 5000):
        assert check_token(token) == token


def test_refuses_a_token_without_showing_it() -> None:
    """What cannot be a token is refused with the reason, which shows nothing of it."""
    characters = "^the token holds white space, control or non-ASCII characters; "
    refused: list[tuple[Any, str]] = [
        ("", "^the token is empty: pass the whole token"),
        *((f"sesame-{bad}-sesame", characters) for bad in "\n\r\t \x00\x7f\x80é\u2028\ud800"),
        *((token, characters) for token in ("sesame\n", "\nsesame", " sesame", "sesame\r\nX-Injected: 1")),
        *((token, "^the token begins with 'Bearer ': pass only") for token in ("Bearer sesame", "bearer sesame\n")),
        (b"sesame", "or an async callable that gives one, not a bytes$"),
        (["sesame"], "not a list$"),
        (123456, "not a int$"),
        (None, "not a NoneType$"),
    ]
    with Table() as table:
        for token, problem in refused:
            with table.row(token):
                with pytest.raises(UsageError, match=problem) as caught:
                    check_token(token)
                shown = str(caught.value) + repr(caught.value)
                assert "sesame" not in shown
                assert "123456" not in shown
