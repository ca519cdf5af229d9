"""Where webhooks can be sent. What a client does with them is in `tests/polling/test_webhooks.py`."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cardprod
from cardprod.simulator import Subscription
from tests.table import Table

UNUSABLE_URLS: Final = (
    "",
    "nowhere",
    "//127.0.0.1/",
    "ftp://127.0.0.1/",
    "javascript:alert(1)",
    "http:",
    "http://",
    "http:///wise",
    "http://:80/",
    "http://[",
    "http://]",
    "http://[::1",
    "http://[]@",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:port/",
    "http://a b/",
    "http://127.0.0.1/\n",
    "http://\ud800/",
    "http://127.0.0.1/" + "x" * 2_000,
)


def test_unusable_url_is_refused() -> None:
    """A URL that nothing can be sent to is refused when it is subscribed, whatever is wrong with it."""
    with Table() as table:
        for url in (*UNUSABLE_URLS, 5, None):
            with table.row(url), pytest.raises(cardprod.UsageError, match="a subscription's url must be"):
                Subscription(url=url)  # type: ignore[arg-type]  # what comes from a page can be anything
    for url in ("localhost:8000/wise", "user:password@localhost:8000/wise?key=password#password"):
        with pytest.raises(cardprod.UsageError) as caught:
            Subscription(url=url)
        assert str(caught.value).endswith("characters at most, not 'localhost:8000/wise'")


_PARTS: Final = (
    "http://",
    "https:",
    "//",
    "[",
    "]",
    "@",
    ":",
    "%",
    "%zz",
    "a",
    "::1",
    "80",
    "?",
    "#",
    "..",
    "é",
    "。",
    " ",
)


@given(st.lists(st.sampled_from(_PARTS)).map("".join) | st.text())
def test_any_text_is_a_url_or_refused(text: str) -> None:
    """Whatever text is subscribed to, it is refused in words, or can be shown."""
    with suppress(cardprod.UsageError):
        assert Subscription(url=f"http://{text}").endpoint.startswith("http://")


def test_endpoint_shows_no_secret() -> None:
    """What is shown of a subscription has no user, no password, no query and no fragment in it."""
    subscription = Subscription(url="https://user:hidden@[::1]:8443/wise?key=hidden#hidden")
    assert subscription.endpoint == "https://[::1]:8443/wise"
    assert "hidden" not in repr(subscription)
