"""`OAuthToken` over real HTTP: one refresh for all, no pair lost, and no endpoint hammered."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import traceback
import weakref
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

import cardprod
from cardprod import Client, OAuthToken, TokenPair, UsageError
from cardprod._protocol.responses import parse_token_response
from cardprod.simulator import Fault, Simulator
from tests.cards import CARD, poll
from tests.leftovers import assert_idle, assert_nothing_left
from tests.raw_server import RawServer, http_answer
from tests.table import Table

LIFE = 43_199
SECRETS = ("simulated-client-secret", "simulated-refresh-token", "simulated-token", "refreshed-access-token")


def oauth(kiosk: Simulator, **settings: Any) -> OAuthToken:
    """Make a token of the kiosk's; `access_token` is the one to begin with."""
    settings.setdefault("access_token", kiosk.token)
    return OAuthToken(kiosk.client_id, kiosk.client_secret, kiosk.refresh_token, base_url=kiosk.base_url, **settings)


def client_of(kiosk: Simulator, token: Any, **settings: Any) -> Client:
    kiosk.add(CARD, "never")
    return Client(token, base_url=kiosk.base_url, rate_limit=None, **settings)


def refreshes(kiosk: Simulator) -> int:
    return sum(request.path.endswith("/oauth/token") for request in kiosk.requests)


def status_requests(kiosk: Simulator) -> int:
    return len(kiosk.requests) - refreshes(kiosk)


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


class Store:
    """What a user's `on_refresh` does: it keeps every pair, and fails the first `failures` times."""

    def __init__(self, kiosk: Simulator, failures: int = 0) -> None:
        self.pairs: list[TokenPair] = []
        self.offered: list[TokenPair] = []
        self.requests_before: list[int] = []
        self.failures = failures
        self._kiosk = kiosk

    async def __call__(self, pair: TokenPair) -> None:
        """Store a pair."""
        self.offered.append(pair)
        self.requests_before.append(status_requests(self._kiosk))
        await asyncio.sleep(0.1)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the database is away")
        self.pairs.append(pair)


# --- One refresh for all ---


@pytest.mark.parametrize("begin", ["no token", "expired", "refused"])
async def test_many_requests_make_one_refresh(kiosk: Simulator, begin: str) -> None:
    """Hundreds of requests without a token, or with an expired or refused one, cause one refresh, and all succeed."""
    settings: dict[str, dict[str, Any]] = {
        "no token": {"access_token": None},
        "expired": {"expires_at": soon(-60)},
        "refused": {},
    }
    token = oauth(kiosk, **settings[begin])
    kiosk.expire_token()
    async with client_of(kiosk, token) as client:
        statuses = await asyncio.gather(*(poll(client) for _ in range(250)))
        assert_idle(client)
    assert {status.status for status in statuses} == {"READY"}
    assert refreshes(kiosk) == 1
    assert token.access_token == kiosk.token
    assert token.refresh_token == kiosk.refresh_token
    # Those that left with the refused token, one permit each, are repeated once; no others are.
    assert status_requests(kiosk) == (350 if begin == "refused" else 250)


async def test_requests_in_flight_are_repeated_with_the_new_token(kiosk: Simulator) -> None:
    """Requests that get a 401 for a token that was refreshed meanwhile are sent once more, without another refresh."""
    token = oauth(kiosk)
    async with client_of(kiosk, token) as client:
        kiosk.fail_next(Fault.stall(5), times=50)
        in_flight = [asyncio.create_task(poll(client)) for _ in range(50)]
        await asyncio.sleep(1)
        token.invalidate(kiosk.token)
        assert (await poll(client)).status == "READY"
        assert refreshes(kiosk) == 1
        assert {status.status for status in await asyncio.gather(*in_flight)} == {"READY"}
    assert (refreshes(kiosk), status_requests(kiosk)) == (1, 50 + 1 + 50)


async def test_cancelled_caller_does_not_cancel_the_refresh(kiosk: Simulator) -> None:
    """Cancelling the poll that began a refresh does not cancel the refresh for the polls that wait for it."""
    token = oauth(kiosk, access_token=None)
    kiosk.fail_next_refresh(Fault.stall(3))
    async with client_of(kiosk, token) as client:
        tasks = [asyncio.create_task(poll(client)) for _ in range(10)]
        await asyncio.sleep(1)
        for task in tasks[:5]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[:5]] == [asyncio.CancelledError] * 5
    assert all(isinstance(outcome, cardprod.ProductionStatus) for outcome in outcomes[5:])
    assert refreshes(kiosk) == 1


async def test_closing_waits_for_the_pair(kiosk: Simulator) -> None:
    """A refresh that all callers left ends, and its pair is stored, before the client is closed."""
    store = Store(kiosk)
    token = oauth(kiosk, access_token=None, on_refresh=store)
    kiosk.fail_next_refresh(Fault.stall(3))
    async with client_of(kiosk, token) as client:
        polling = asyncio.create_task(poll(client))
        await asyncio.sleep(1)
        polling.cancel()
    assert [pair.access_token for pair in store.pairs] == [kiosk.token]
    await asyncio.sleep(1)
    await assert_nothing_left()


# --- Before expiry ---


async def test_refreshes_well_before_expiry(kiosk: Simulator) -> None:
    """A token is refreshed between once and one and a half times `refresh_before` before it expires, at random."""
    ages: list[float] = []
    async with client_of(kiosk, "unused"):
        for _ in range(20):
            token = oauth(kiosk, access_token=kiosk.token, expires_at=soon(LIFE), refresh_before=1000)
            began_at = asyncio.get_running_loop().time()
            before = refreshes(kiosk)
            await token()
            await asyncio.sleep(LIFE - 1550)
            async with asyncio.timeout(LIFE):
                while refreshes(kiosk) == before:
                    await asyncio.sleep(10)
                    await token()
            ages.append(asyncio.get_running_loop().time() - began_at)
    assert all(LIFE - 1500 - 1 <= age <= LIFE - 1000 + 11 for age in ages)
    assert len({round(age, -1) for age in ages}) > 5


async def test_short_life_is_refreshed_at_its_half() -> None:
    """A token that lives shorter than `refresh_before` is refreshed at half its life, not at every poll."""
    async with Simulator(token_seconds=60) as kiosk:
        token = oauth(kiosk, access_token=None)
        async with client_of(kiosk, token) as client:
            for _ in range(120):
                await poll(client)
                await asyncio.sleep(1)
        assert 4 <= refreshes(kiosk) <= 5
        assert status_requests(kiosk) == 120


@pytest.mark.parametrize("fault", [Fault.server_error(503), Fault.reset(), Fault.stall()], ids=lambda fault: fault.kind)
async def test_failed_refresh_before_expiry_fails_no_poll(
    kiosk: Simulator, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    """While the old token is good, polls go on with it, a warning is logged, and the endpoint is rarely asked."""
    kiosk.fail_next_refresh(fault, times=10_000)
    token = oauth(kiosk, expires_at=soon(600))
    async with client_of(kiosk, token) as client:
        for _ in range(100):
            assert (await poll(client)).status == "READY"
            await asyncio.sleep(5)
        failed = refreshes(kiosk)
        assert 1 <= failed <= 60 if fault.kind != "stall" else failed == 0
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert warnings
        assert all("old one is still used" in record.getMessage() for record in warnings)
        await asyncio.sleep(600)
        with pytest.raises(cardprod.CardprodError, match=r"refreshing the token: |no token from its source"):
            await poll(client)


# --- The pair ---


async def test_pair_is_stored_before_it_is_used(kiosk: Simulator) -> None:
    """`on_refresh` has the new pair before any request carries it, and the pair is what a restart needs."""
    store = Store(kiosk)
    async with client_of(kiosk, oauth(kiosk, access_token=None, on_refresh=store)) as client:
        await asyncio.gather(*(poll(client) for _ in range(10)))
    [pair] = store.pairs
    assert (pair.access_token, pair.refresh_token) == (kiosk.token, kiosk.refresh_token)
    assert pair.expires_at is not None
    assert timedelta(seconds=LIFE - 60) < pair.expires_at - datetime.now(UTC) < timedelta(seconds=LIFE + 60)
    assert store.requests_before == [0]
    restarted = OAuthToken(
        kiosk.client_id,
        kiosk.client_secret,
        pair.refresh_token,
        access_token=pair.access_token,
        expires_at=pair.expires_at,
        base_url=kiosk.base_url,
    )
    async with client_of(kiosk, restarted) as client:
        await poll(client)
    assert refreshes(kiosk) == 1


async def test_pair_that_could_not_be_stored_is_not_lost(kiosk: Simulator) -> None:
    """If `on_refresh` raises, its error surfaces, the pair stays on the token, and is offered again, not refreshed."""
    store = Store(kiosk, failures=2)
    token = oauth(kiosk, access_token=None, on_refresh=store)
    async with client_of(kiosk, token) as client:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="database is away"):
                await poll(client)
            assert (token.access_token, token.refresh_token) == (kiosk.token, kiosk.refresh_token)
        assert status_requests(kiosk) == 0
        assert (await poll(client)).status == "READY"
    assert refreshes(kiosk) == 1
    assert store.offered == [store.pairs[0]] * 3


async def test_slow_store_does_not_extend_polls(kiosk: Simulator) -> None:
    """While `on_refresh` hangs, polls fail within their own time, and it is not called a second time."""
    released = asyncio.Event()
    calls: list[TokenPair] = []

    async def store(pair: TokenPair) -> None:
        calls.append(pair)
        await released.wait()

    async with client_of(kiosk, oauth(kiosk, access_token=None, on_refresh=store), attempts=1) as client:
        for _ in range(2):
            with pytest.raises(cardprod.RequestTimeout, match="no token from its source within 10 s"):
                await poll(client)
        released.set()
        assert (await poll(client)).status == "READY"
    assert len(calls) == 1


# --- Refusals and failures ---


@pytest.mark.parametrize(
    ("begin", "code", "words"),
    [("revoked", "invalid_grant", "the user must authorise again"), ("stranger", "invalid_client", "client_secret")],
)
async def test_refusal_for_good_is_raised_without_asking_again(
    kiosk: Simulator, begin: str, code: str, words: str
) -> None:
    """A refusal for good is asked for once, and raises in each caller a `TokenRefreshFailed` that says what to do."""
    if begin == "revoked":
        kiosk.revoke_tokens()
        token = oauth(kiosk)
    else:
        token = OAuthToken("stranger", "x", kiosk.refresh_token, base_url=kiosk.base_url)
    cards = [cardprod.Card(1, f"card-{number}") for number in range(20)]
    async with client_of(kiosk, token) as client:
        errors = await asyncio.gather(*(poll(client, card) for card in cards), return_exceptions=True)
        for card, error in zip(cards, errors, strict=True):
            assert isinstance(error, cardprod.TokenRefreshFailed)
            assert (error.card, error.code) == (card, code)
            assert error.trace_id is not None
            assert all(part in str(error) for part in ("refreshing the token: ", words, error.trace_id))
        asked = len(kiosk.requests)
        await asyncio.sleep(86_400)
        with pytest.raises(cardprod.TokenRefreshFailed):
            await client.wait_until_final(1, "card-1")
        assert len(kiosk.requests) - asked <= 1  # a poll with the old token, where there is one
    assert refreshes(kiosk) == 1


async def test_refusal_is_copied_once(kiosk: Simulator) -> None:
    """A refusal is each caller's own error, with nothing behind it but its cause, and keeps no caller's frames."""
    kiosk.revoke_tokens()
    token = oauth(kiosk, access_token=None)
    errors: list[BaseException] = []
    async with client_of(kiosk, token, attempts=1) as client:
        for call in (token, token, partial(poll, client), partial(poll, client)):
            with pytest.raises(cardprod.TokenRefreshFailed) as caught:
                await call()
            assert caught.value.__context__ is caught.value.__cause__
            errors.append(caught.value)
        assert len({*map(id, errors)}) == len(errors)
        assert len([*traceback.walk_tb(errors[0].__traceback__)]) == len([*traceback.walk_tb(errors[1].__traceback__)])


async def test_failing_endpoint_is_named() -> None:
    """A failing token endpoint raises the errors that a poll would raise, with messages that name the refresh."""
    failures: list[tuple[Fault, type[Exception], int]] = [
        (Fault.too_many_requests(1), cardprod.RateLimited, 3),
        (Fault.server_error(500), cardprod.ServerError, 3),
        (Fault.gateway_page(), cardprod.ServerError, 3),
        (Fault.gateway_page(403), cardprod.TokenRefreshFailed, 1),
        (Fault.server_error(302), cardprod.ApiError, 1),
        (Fault.bad_reply("{}"), cardprod.BadReply, 1),
        (Fault.bad_reply('{"access_token":"two words","refresh_token":"r"}'), cardprod.BadReply, 1),
        (Fault.reset(), cardprod.TransportError, 3),
        (Fault.cut_body(), cardprod.TransportError, 3),
        (Fault.garbage(), cardprod.TransportError, 3),
    ]
    with Table() as table:
        for fault, error, requests in failures:
            with table.row(fault, error.__name__):
                async with Simulator() as kiosk:
                    await _assert_refresh_fails(kiosk, fault, error, requests)


async def _assert_refresh_fails(kiosk: Simulator, fault: Fault, error: type[Exception], requests: int) -> None:
    kiosk.fail_next_refresh(fault, times=3)
    token = oauth(kiosk, access_token=None)
    with pytest.raises(error, match=r"^refreshing the token: ") as caught:
        await token()
    assert type(caught.value) is error
    assert not any(secret in str(vars(caught.value)) + str(caught.value) for secret in SECRETS)
    assert refreshes(kiosk) == requests
    with pytest.raises(error):
        await token()
    assert refreshes(kiosk) == requests  # not asked again
    await asyncio.sleep(10)
    kiosk.fail_next_refresh(Fault.stall(0))
    if requests == 3:  # other failures are remembered
        assert await token() == kiosk.token


async def test_silent_endpoint_times_out(kiosk: Simulator) -> None:
    """An endpoint that never answers is a `RequestTimeout` of the refresh, after its attempts."""
    kiosk.fail_next_refresh(Fault.stall(), times=3)
    with pytest.raises(cardprod.RequestTimeout, match="refreshing the token: no whole answer within 10 s"):
        await oauth(kiosk, access_token=None)()


async def test_refresh_that_passes_is_retried(kiosk: Simulator) -> None:
    """A failure that passes is retried within the refresh, and fails no poll."""
    kiosk.fail_next_refresh(Fault.server_error(503), times=2)
    async with client_of(kiosk, oauth(kiosk, access_token=None), attempts=1) as client:
        assert (await poll(client)).status == "READY"
    assert (refreshes(kiosk), status_requests(kiosk)) == (3, 1)


def test_next_loop_goes_on() -> None:
    """A token whose refresh was cut short by the end of its loop refreshes in the next one."""
    token: list[OAuthToken] = []

    async def cut_short() -> None:
        async with Simulator() as kiosk:
            kiosk.fail_next_refresh(Fault.stall())
            token.append(oauth(kiosk, access_token=None))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await token[0]()

    async def fail() -> None:
        with pytest.raises(cardprod.TransportError, match="refreshing the token"):
            await token[0]()

    asyncio.run(cut_short())
    asyncio.run(fail())  # the kiosk is gone, but the refresh was begun anew


# --- Sources of the user's own ---


@pytest.mark.parametrize(
    ("given", "requests"),
    [(["wrong", "simulated-token"], 2), (["wrong", "wrong"], 1), (["wrong", "again", "third"], 2)],
)
async def test_own_source_is_asked_again_after_a_401(kiosk: Simulator, given: list[str], requests: int) -> None:
    """After a 401 an async callable is asked again; another token is tried once, the same is `Unauthorized`."""
    tokens = iter(given)

    async def source() -> str:
        return next(tokens)

    async with client_of(kiosk, source) as client:
        if "simulated-token" in given:
            assert (await poll(client)).status == "READY"
        else:
            with pytest.raises(cardprod.Unauthorized):
                await poll(client)
    assert status_requests(kiosk) == requests


async def test_own_source_is_invalidated_at_a_401(kiosk: Simulator) -> None:
    """`invalidate` of a source, async or not, is called with the token that got the 401, before it is asked again."""

    class Source:
        def __init__(self) -> None:
            self.token = "stale-token"
            self.invalidated: list[str] = []

        async def __call__(self) -> str:
            return self.token

        def invalidate(self, token: str) -> None:
            self.invalidated.append(token)
            self.token = kiosk.token

    class AsyncSource(Source):
        async def invalidate(self, token: str) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            super().invalidate(token)

    for source in (Source(), AsyncSource()):
        async with client_of(kiosk, source) as client:
            assert (await poll(client)).status == "READY"
        assert source.invalidated == ["stale-token"]


async def test_token_is_asked_for_again_after_queueing(kiosk: Simulator) -> None:
    """A queued poll leaves with the token that is good when it gets its permit."""
    current = "simulated-token"

    async def source() -> str:
        return current

    kiosk.add(CARD, "never")
    limit = cardprod.RateLimit(per_second=1, per_minute=60)
    async with Client(source, base_url=kiosk.base_url, rate_limit=limit) as client:
        polling = [asyncio.create_task(poll(client)) for _ in range(5)]
        await asyncio.sleep(2.5)
        await oauth(kiosk, access_token=None)()
        current = kiosk.token
        await asyncio.gather(*polling)
    assert status_requests(kiosk) == 5


async def test_failing_source_after_queueing_keeps_no_permit(kiosk: Simulator) -> None:
    """A source that raises when a queued poll gets its permit keeps no permit."""
    asked = 0

    async def source() -> str:
        nonlocal asked
        asked += 1
        if asked == 3:  # the second time for the second poll
            raise LookupError("the vault is sealed")
        return kiosk.token

    async with client_of(kiosk, source, max_concurrency=1) as client:
        kiosk.fail_next(Fault.stall(1))
        outcomes = await asyncio.gather(*(poll(client) for _ in range(3)), return_exceptions=True)
        assert sum(isinstance(outcome, LookupError) for outcome in outcomes) == 1
        assert (await poll(client)).status == "READY"
        assert_idle(client)


# --- What it refuses, and what it shows ---


def test_bad_argument_is_named() -> None:
    """An argument that cannot be right is a `UsageError` that names it, before any request, and shows no secret."""
    bad: dict[str, list[Any]] = {
        "client_id": [None, "", "a:b", "a\nb", "ä", 5],
        "client_secret": [None, "", "a\nb", "ä", b"x"],
        "refresh token": [None, "", "a b", "a\n", 5],
        "access token": ["", "a b", "a\n", 5],
        "expires_at": ["2026-01-01", 5, datetime(2026, 1, 1)],  # noqa: DTZ001 - the point
        "on_refresh": [5, "store"],
        "refresh_before": [-1, None, True, float("nan"), "5"],
        "request_timeout": [0, -1, None, True, float("inf")],
        "session": [5, "session"],
        "ssl": [5, False, True],
        "base_url": ["nowhere", "http://api.wise.com", None],
        "api_version": ["", "v 3", None],
    }
    good = {"client_id": "id", "client_secret": "canary-1", "refresh_token": "canary-2", "access_token": "canary-3"}
    with Table() as table:
        for name, values in bad.items():
            for value in values:
                arguments: dict[str, Any] = good | {name.replace(" ", "_"): value}
                with table.row(name, value):
                    with pytest.raises(UsageError, match=name) as caught:
                        OAuthToken(**arguments)
                    assert "canary" not in str(caught.value)


def test_expiry_without_a_token_is_refused() -> None:
    """`expires_at` without a token is refused."""
    with pytest.raises(UsageError, match="expires_at"):
        OAuthToken("id", "secret", "refresh", expires_at=soon(5))


def test_shows_no_secret() -> None:
    """A token and a pair are printed without what is secret in them."""
    token = OAuthToken("my-id", "canary-secret", "canary-refresh", access_token="canary-access")
    assert repr(token) == "<OAuthToken at https://api.wise.com, expires at None>"
    assert repr(TokenPair("canary-access", "canary-refresh")) == "TokenPair(expires_at=None)"


async def test_refreshes_that_do_not_help() -> None:
    """Where requests get a 401 although refreshes succeed, each is sent twice at most, and few cause a refresh."""
    grants = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal grants
        if server.heads[-1].startswith("POST"):
            grants += 1
            writer.write(http_answer(body=json.dumps({"access_token": f"access-token-{grants}", "expires_in": LIFE})))
        else:
            writer.write(http_answer(401, '{"error":"invalid_token"}'))

    async with RawServer(answer) as server:
        token = OAuthToken("id", "secret", "refresh-token", access_token="access-token-0", base_url=server.base_url)
        async with Client(token, base_url=server.base_url, rate_limit=None) as client:
            outcome = await client.get_statuses([(1, f"card-{number}") for number in range(300)])
            assert {type(error) for error in outcome.values()} == {cardprod.Unauthorized}
            assert (grants, len(server.heads)) == (1, 1 + 2 * 100 + 200)  # 100 are sent at once
            assert token.refresh_token == "refresh-token"
            await asyncio.sleep(31)
            with pytest.raises(cardprod.Unauthorized):
                await poll(client)
            assert grants == 2


async def test_no_refresh_is_kept(kiosk: Simulator) -> None:
    """A refresh that has ended keeps neither the error of `on_refresh`, with its frames, nor its caller's context."""

    class Held:
        pass

    async def store(_: TokenPair) -> None:
        raise LookupError

    held: list[weakref.ref[Held]] = []
    variable: ContextVar[Held] = ContextVar("variable")

    async def ask(token: OAuthToken) -> None:
        value = Held()
        held.append(weakref.ref(value))
        variable.set(value)
        with pytest.raises(LookupError):
            await token()

    async with client_of(kiosk, token := oauth(kiosk, access_token=None, on_refresh=store)):
        await asyncio.create_task(ask(token))
        await asyncio.sleep(1)
        gc.collect()
        assert held[0]() is None


async def test_on_refresh_that_is_not_async(kiosk: Simulator) -> None:
    """A synchronous `on_refresh` is named as such, and called once."""
    stored: list[TokenPair] = []
    store: Any = stored.append
    async with client_of(kiosk, oauth(kiosk, access_token=None, on_refresh=store)) as client:
        for _ in range(3):
            with pytest.raises(UsageError, match="on_refresh must be an async callable"):
                await poll(client)
    assert (len(stored), refreshes(kiosk)) == (1, 1)


@pytest.mark.parametrize(
    "answered",
    [{"expires_at": "2026-11-26T12:00:00Z"}, {"expires_in": "soon", "expires_at": "2026-11-26T12:00:00.000+00:00"}],
)
def test_expires_at_is_used(answered: dict[str, str]) -> None:
    """Where an answer has no usable `expires_in`, its `expires_at` says how long the token is valid."""
    body = json.dumps({"access_token": "some-access-token", **answered}).encode()
    noon = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
    assert parse_token_response(200, {}, body, noon - 600).expires_in == 600
    assert parse_token_response(200, {}, body, noon + 1).expires_in is None


async def test_token_requests_have_correlation_ids() -> None:
    """Each token request has a correlation id of its own."""
    async with RawServer.saying(http_answer(503)) as server:
        with pytest.raises(cardprod.ServerError):
            await OAuthToken("id", "secret", "refresh-token", base_url=server.base_url)()
    ids = {
        line for head in server.heads for line in head.split("\r\n") if line.startswith("X-External-Correlation-Id: ")
    }
    assert len(ids) == len(server.heads) > 1


# --- Refreshes whose answer was lost ---


def lose(how: str) -> Fault:
    faults = {
        "no answer": Fault.stall(),
        "broken": Fault.reset(),
        "cut": Fault.cut_body(),
        "garbled": Fault.garbage(),
        "gateway": Fault.gateway_page(502),
        "failed": Fault.server_error(500),
        "strange": Fault.bad_reply(),
    }
    return faults[how]


def sent(kiosk: Simulator, how: str) -> int:
    """Count the refreshes; a request that was given up without an answer is not in the simulator's log."""
    return refreshes(kiosk) + (how == "no answer")


LOST = ["no answer", "broken", "cut", "garbled", "gateway", "failed", "strange"]


@pytest.mark.parametrize("how", LOST)
async def test_lost_refresh_is_not_sent_again(kiosk: Simulator, how: str) -> None:
    """A refresh whose answer was lost is not sent again while the old token is good, until shortly before its end."""
    token = oauth(kiosk, expires_at=soon(3600), request_timeout=2)
    kiosk.fail_next_refresh(lose(how))
    async with client_of(kiosk, token) as client:
        await poll(client)
        await asyncio.sleep(1800)  # it is due at half of its lifetime
        for _ in range(28):
            assert (await poll(client)).status == "READY"
            await asyncio.sleep(60)
        assert sent(kiosk, how) == 1
        for _ in range(2):
            assert (await poll(client)).status == "READY"
            await asyncio.sleep(60)
        assert sent(kiosk, how) == 2
        assert token.access_token == kiosk.token


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("begin", ["refused later", "refused", "expired", "no token"])
async def test_lost_refresh_is_sent_again_when_needed(kiosk: Simulator, how: str, begin: str) -> None:
    """It is sent again once the old token gets a 401, and at once where there is no good token."""
    settings: dict[str, dict[str, Any]] = {"no token": {"access_token": None}, "expired": {"expires_at": soon(-60)}}
    token = oauth(kiosk, request_timeout=2, **settings.get(begin, {"expires_at": soon(3600)}))
    kiosk.fail_next_refresh(lose(how))
    async with client_of(kiosk, token) as client:
        if begin == "refused later":
            await poll(client)
            await asyncio.sleep(1800)
            await poll(client)
            await asyncio.sleep(100)
            assert sent(kiosk, how) == 1
        kiosk.expire_token()
        if how == "strange" and begin != "refused later":
            with pytest.raises(cardprod.BadReply):
                await poll(client)
            await asyncio.sleep(5)
        assert (await poll(client)).status == "READY"
        await asyncio.sleep(5)
        assert sent(kiosk, how) == 2


@pytest.mark.parametrize("http_status", [408, 429, 503])
async def test_refresh_that_was_not_taken_is_sent_again(kiosk: Simulator, http_status: int) -> None:
    """A refresh that the endpoint has not processed, by what it answers, is sent again while the old token is good."""
    token = oauth(kiosk, expires_at=soon(3600))
    kiosk.fail_next_refresh(Fault.server_error(http_status), times=2)
    async with client_of(kiosk, token) as client:
        await poll(client)
        await asyncio.sleep(1800)
        for _ in range(3):
            await poll(client)
            await asyncio.sleep(30)
        assert refreshes(kiosk) == 3
        assert token.access_token == kiosk.token
