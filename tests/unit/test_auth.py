"""What may pass for a bearer token."""

from __future__ import annotations

from typing import Any

import pytest

from cardprod.auth import check_token
from cardprod.errors import UsageError


@pytest.mark.parametrize("token", ["a", "6b4d3f8e-user-token", "AbC123-._~+/==", "!~", "x" * 5000])
def test_lets_a_token_pass(token: str) -> None:
    """A token of printable ASCII passes unchanged, however long."""
    assert check_token(token) == token


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("", "empty"),
        ("sesame-sesame\n", "white space"),
        ("sesame-sesame\r\nX-Injected: 1", "white space"),
        (" sesame-sesame", "white space"),
        ("sesame sesame", "white space"),
        ("sesame\tsesame", "white space"),
        ("sesame\x00sesame", "control"),
        ("sesame\x7fsesame", "control"),
        ("sesame-sésame", "non-ASCII"),
        ("sesame\u2028sesame", "non-ASCII"),
        ("sesame\ud800", "non-ASCII"),
        (b"sesame-sesame", "not a bytes"),
        (["sesame-sesame"], "not a list"),
        (123456, "not a int"),
        (None, "not a NoneType"),
    ],
    ids=ascii,
)
def test_refuses_a_token_without_showing_it(token: Any, problem: str) -> None:
    """What cannot be a token is refused in words that say why and show nothing of it."""
    with pytest.raises(UsageError, match=problem) as caught:
        check_token(token)
    shown = str(caught.value) + repr(caught.value)
    assert "sesame" not in shown
    assert "sésame" not in shown
    assert "123456" not in shown
