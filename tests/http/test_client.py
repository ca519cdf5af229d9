"""`Client`: what it refuses, what it reads from the environment, what it shows, and the signatures it promises."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

import cardprod
from cardprod import Client, UsageError
from tests.cards import CARD
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardprod.simulator import Simulator

SECRET = "secret-bearer-token"


async def source() -> str:
    """Give a token."""
    return SECRET


# --- What it refuses ---


def test_bad_argument_is_named() -> None:
    """A constructor's argument that cannot be right is a `UsageError` that names it."""
    bad: dict[str, list[Any]] = {
        "base_url": ["http://api.wise.com"],
        "api_version": [""],
        "session": [0, "session", aiohttp.ClientSession],
        "request_timeout": [0, -1, True, None, "10", float("nan"), float("-inf"), 10**400],
        "attempts": [0, -1, True, None, 1.0, "3"],
        "max_concurrency": [0, -1, True, None, 1.0, "3"],
        "rate_limit": [0, 100, (100, 1000), cardprod.RateLimit],
        "ssl": [True, False, "ca.pem"],
        "allow_plain_http": [None, 1, "no"],
    }
    with Table() as table:
        for name, values in bad.items():
            for value in values:
                with table.row(name, value), pytest.raises(UsageError, match=name):
                    Client("token", **{name: value})


async def test_token_source_must_be_async(kiosk: Simulator) -> None:
    """A token source that gives its token without being awaited is a `UsageError`."""
    not_async: Any = lambda: SECRET  # noqa: E731 - as a caller would
    async with Client(not_async, base_url=kiosk.base_url) as client:
        with pytest.raises(UsageError, match="token"):
            await client.get_status(1, "card")


def test_bad_wait_argument_is_named() -> None:
    """A wait's argument that cannot be right is a `UsageError` that names it, before the wait is made."""
    bad: dict[str, list[Any]] = {
        "timeout": [-1, True, "900", float("nan"), float("-inf"), 10**400],
        "max_failures": [0, -1, True, None, 1.0, "5"],
        "max_outage": [-1, True, None, "5", float("nan"), float("inf")],
        "after": ["PRODUCED", {}, 1],
        "schedule": [0, 5, "often", cardprod.Backoff],
    }
    with Table() as table:
        for name, values in bad.items():
            for value in values:
                with table.row(name, value), pytest.raises(UsageError, match=name):
                    Client("token").wait_until_final(1, "card", **{name: value})


async def test_extreme_cards_travel_whole(kiosk: Simulator, client: Client) -> None:
    """The smallest and the largest card, and every character a token may have, arrive as they are."""
    with Table() as table:
        for card in ((1, "x"), (2**63 - 1, "x" * 128), (7, "A-Za-z0-9._~-"), (7, "...")):
            with table.row(*card):
                kiosk.add(card, "never")
                assert (await client.get_status(*card)).status == "READY"


def test_extreme_arguments_are_taken() -> None:
    """Arguments at the edge of what can be right make a client, without a loop and without I/O."""
    extreme: list[dict[str, Any]] = [
        {"request_timeout": 0.001, "attempts": 1, "max_concurrency": 1, "rate_limit": None},
        {"request_timeout": 86400, "attempts": 10**6, "max_concurrency": 10**6},
        {"base_url": "http://localhost:1"},
        {"base_url": "http://[::1]:1/"},
        {"base_url": "http://192.0.2.1", "allow_plain_http": True},
        {"base_url": "https://api-mtls.transferwise.com/base/", "api_version": "2026Q3"},
    ]
    with Table() as table:
        for settings in extreme:
            with table.row(settings):
                Client("token", **settings)


# --- The environment, and what is shown ---


async def test_from_env_reads_all_three(kiosk: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_env` takes the token, the base URL and the version from the environment, and options go before them."""
    kiosk.add(CARD, "never")
    monkeypatch.setenv("CARDPROD_TOKEN", kiosk.token)
    monkeypatch.setenv("CARDPROD_BASE_URL", kiosk.base_url)
    monkeypatch.setenv("CARDPROD_API_VERSION", "2026Q3")
    async with Client.from_env() as client:
        await client.get_status(CARD.profile_id, CARD.card_token)
    async with Client.from_env(api_version="v3", rate_limit=None) as client:
        await client.get_status(CARD.profile_id, CARD.card_token)
        assert client.rate_limit is None
    assert [request.path.split("/")[1] for request in kiosk.requests] == ["2026Q3", "v3"]


@pytest.mark.parametrize("unset", [None, ""])
def test_from_env_has_defaults(monkeypatch: pytest.MonkeyPatch, unset: str | None) -> None:
    """Without them, or with empty ones, `from_env` asks production, v3."""
    monkeypatch.setenv("CARDPROD_TOKEN", SECRET)
    for name in ("CARDPROD_BASE_URL", "CARDPROD_API_VERSION"):
        if unset is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, unset)
    assert repr(Client.from_env()) == repr(Client(SECRET)) == "<Client of https://api.wise.com, v3>"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CARDPROD_TOKEN", None),
        ("CARDPROD_TOKEN", ""),
        ("CARDPROD_BASE_URL", "nowhere"),
        ("CARDPROD_API_VERSION", "v 3"),
        ("CARDPROD_CA", "no-such-file"),
        ("CARDPROD_CERT", "no-such-file"),
        ("CARDPROD_KEY", "without its certificate"),
    ],
)
def test_from_env_checks(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    """What is missing or cannot be right in the environment is a `UsageError` that names it."""
    monkeypatch.setenv("CARDPROD_TOKEN", SECRET)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name}|{name.removeprefix('CARDPROD_').lower()}|{value}"):
        Client.from_env()


def test_options_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS that is passed to `from_env` is used, and the environment's not read; what is no option is named."""
    monkeypatch.setenv("CARDPROD_TOKEN", SECRET)
    monkeypatch.setenv("CARDPROD_CA", "no-such-file")
    Client.from_env(ssl=ssl.create_default_context())
    for unknown in ("token", "rate_limits"):
        with pytest.raises(UsageError, match=f"no option {unknown}:") as raised:
            Client.from_env(**{unknown: SECRET})
        assert SECRET not in "".join(str(frame.frame.f_locals) for frame in inspect.getinnerframes(raised.tb)[1:])


def test_repr_shows_no_token() -> None:
    """A client's repr has its base URL, and not its token."""
    for token in (SECRET, source):
        shown = repr(Client(token, base_url=cardprod.SANDBOX, api_version="2026Q3"))
        assert shown == "<Client of https://api.wise-sandbox.com, 2026Q3>"


# --- Its life ---


async def test_closed_client_refuses(kiosk: Simulator) -> None:
    """A closed client polls no more, cannot be entered, and can be closed again."""
    kiosk.add(CARD, "never")
    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        await client.get_status(CARD.profile_id, CARD.card_token)
        waiting = client.wait_until_final(CARD.profile_id, CARD.card_token)
    await client.close()
    with pytest.raises(UsageError, match="closed"):
        await client.get_status(CARD.profile_id, CARD.card_token)
    with pytest.raises(UsageError, match="closed"):
        await waiting
    with pytest.raises(UsageError, match="closed"):
        await client.__aenter__()
    await client.close()
    assert len(kiosk.requests) == 1


async def test_client_without_a_poll_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never polls makes no session."""

    def no_session(*_: object, **__: object) -> None:
        pytest.fail("a session was made")

    monkeypatch.setattr(aiohttp, "ClientSession", no_session)
    async with Client("token") as client:
        client.wait_until_final(1, "card").close()
    await client.close()


def test_client_belongs_to_its_first_loop() -> None:
    """A client that was used in one event loop is refused in another."""

    async def enter(client: Client) -> None:
        await client.__aenter__()

    async def poll(client: Client) -> None:
        await client.get_status(1, "card")

    client = Client("token", base_url="http://127.0.0.1:1")
    asyncio.run(enter(client))
    with pytest.raises(UsageError, match="another event loop"):
        asyncio.run(poll(client))
    asyncio.run(client.close())


# --- What is promised ---


def test_signatures_are_kept() -> None:
    """Names, kinds, defaults and annotations of what users call stay as the design has them."""
    signatures: dict[Callable[..., object], str] = {
        Client.__init__: (
            "(self, token: str | TokenSource, *, base_url: str = 'https://api.wise.com', api_version: str = 'v3',"
            " session: aiohttp.ClientSession | None = None, request_timeout: float = 10.0, attempts: int = 3,"
            " rate_limit: RateLimit | None = RateLimit(per_second=100, per_minute=1000),"
            " max_concurrency: int = 100,"
            " ssl: _ssl.SSLContext | None = None, proxy: ProxySetting = None, allow_plain_http: bool = False,"
            " safety_net: float = 300.0) -> None"
        ),
        Client.from_env: "(**options: Any) -> Self",
        Client.get_status: "(self, profile_id: int, card_token: str) -> ProductionStatus",
        Client.wait_until_final: (
            "(self, profile_id: int, card_token: str, *, timeout: float | None = 900.0,"
            " schedule: Schedule | None = None, max_failures: int = 5,"
            " max_outage: float = 300.0, after: ProductionStatus | None = None) -> Wait"
        ),
        Client.close: "(self) -> None",
    }
    with Table() as table:
        for function, signature in signatures.items():
            with table.row(function.__name__):
                seen = str(inspect.signature(function)).replace("'", "").replace('"', "")
                assert seen == signature.replace("'", "")


def test_base_urls_are_wises() -> None:
    """The base URLs are those Wise publishes, with and without a client certificate, and a client takes each."""
    urls = {
        cardprod.PRODUCTION: "https://api.wise.com",
        cardprod.SANDBOX: "https://api.wise-sandbox.com",
        cardprod.PRODUCTION_MTLS: "https://api-mtls.transferwise.com",
        cardprod.SANDBOX_MTLS: "https://api-mtls.wise-sandbox.com",
    }
    for constant, url in urls.items():
        assert constant == url
        assert url in repr(Client("user-token", base_url=constant))
