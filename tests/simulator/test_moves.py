"""The moves of cards and kiosks from Python: what is possible, what a request sees then, and who is informed."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import cardprod
from cardprod.error_codes import PRODUCTION_ERROR_MEANINGS, REQUEST_ERROR_MEANINGS
from cardprod.simulator import Fault, FaultSettings, Simulator, Stage, Subscription
from tests.cards import CARD
from tests.leftovers import assert_nothing_left
from tests.raw_server import RawServer
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cardprod.simulator import CardState, Change


async def get(kiosk: Simulator, card: cardprod.Card = CARD) -> dict[str, Any]:
    """Ask for a card as a client does."""
    path = f"/v3/spend/profiles/{card.profile_id}/cards/{card.card_token}/production"
    headers = {"Authorization": f"Bearer {kiosk.token}"}
    async with aiohttp.ClientSession() as http, http.get(kiosk.base_url + path, headers=headers) as answer:
        assert answer.status == 200
        return dict(json.loads(await answer.text()))


MOVES: dict[str, Callable[[Simulator], CardState]] = {
    "start": lambda kiosk: kiosk.start(CARD),
    "finish": lambda kiosk: kiosk.finish(CARD),
    "fail": lambda kiosk: kiosk.fail(CARD, "PRD_FEEDER_JAM"),
    "refuse": lambda kiosk: kiosk.refuse(CARD, "KIOSK_ID_NOT_FOUND"),
    "retry": lambda kiosk: kiosk.retry(CARD),
}
POSSIBLE = {
    "READY": {"start": "IN_PROGRESS", "refuse": "REQUEST_ERROR"},
    "IN_PROGRESS": {"finish": "PRODUCED", "fail": "PRODUCTION_ERROR"},
    "PRODUCED": {},
    "PRODUCTION_ERROR": {"retry": "IN_PROGRESS", "refuse": "REQUEST_ERROR"},
    "REQUEST_ERROR": {"retry": "IN_PROGRESS", "refuse": "REQUEST_ERROR"},
    "QUALITY_CHECK": {"finish": "PRODUCED", "fail": "PRODUCTION_ERROR"},
}


async def test_every_move_from_every_status(kiosk: Simulator) -> None:
    """A move leads to its status, or is refused in words that name what is possible, and changes nothing."""
    with Table() as table:
        for status, move in product(POSSIBLE, MOVES):
            kiosk.add(CARD, [Stage(status)])
            expected = POSSIBLE[status].get(move)
            with table.row(move, status):
                assert set(kiosk.state_of(CARD).moves) == set(POSSIBLE[status])
                if expected is None:
                    moves = ", ".join(POSSIBLE[status])
                    possible = f"possible: {moves}" if moves else "nothing is possible but to add"
                    words = f"{move} is not possible: it is {status}; {possible}"
                    with pytest.raises(cardprod.UsageError, match=words):
                        MOVES[move](kiosk)
                else:
                    assert MOVES[move](kiosk).status == expected
                assert (await get(kiosk))["status"] == kiosk.state_of(CARD).status == (expected or status)


async def test_moved_card_leaves_its_plan(kiosk: Simulator) -> None:
    """After its first move a card changes no more by itself."""
    kiosk.add(CARD, "prints")
    await asyncio.sleep(1)
    state = kiosk.start(CARD)
    assert (state.is_manual, state.plan, state.next_status) == (True, None, None)
    await asyncio.sleep(3600)
    assert (await get(kiosk))["status"] == "IN_PROGRESS"


async def test_planned_card_says_what_comes_next(kiosk: Simulator) -> None:
    """A card on a plan says what its next status is and when, and since when it has the present one."""
    kiosk.add(CARD, "prints")
    added_at = kiosk.state_of(CARD).since
    await asyncio.sleep(3)
    state = kiosk.state_of(CARD)
    assert (state.status, state.plan, state.is_manual) == ("IN_PROGRESS", "prints", False)
    assert state.next_status == "PRODUCED"
    assert state.since == pytest.approx(added_at + 2)
    assert state.next_at == pytest.approx(added_at + 5)
    await get(kiosk)
    assert kiosk.state_of(CARD).requests == 1


async def test_retry_is_a_new_request(kiosk: Simulator) -> None:
    """Starting a card keeps its `occurredAt`, sending it to the kiosk again gives it a new one."""
    kiosk.add(CARD, "never")
    seen = [await get(kiosk)]
    for move in ("start", "fail", "retry", "finish"):
        await asyncio.sleep(5)
        MOVES[move](kiosk)
        seen.append(await get(kiosk))
    assert [each["status"] for each in seen] == ["READY", "IN_PROGRESS", "PRODUCTION_ERROR", "IN_PROGRESS", "PRODUCED"]
    times = [each["occurredAt"] for each in seen]
    assert times[0] == times[1] == times[2] < times[3] == times[4]


async def test_every_error(kiosk: Simulator) -> None:
    """A card can end with any of the 36 production and 22 request errors, and the description says what it means."""
    assert (len(PRODUCTION_ERROR_MEANINGS), len(REQUEST_ERROR_MEANINGS)) == (36, 22)
    errors = [
        *(("PRODUCTION_ERROR", *error, kiosk.fail) for error in PRODUCTION_ERROR_MEANINGS.items()),
        *(("REQUEST_ERROR", *error, kiosk.refuse) for error in REQUEST_ERROR_MEANINGS.items()),
    ]
    with Table() as table:
        for status, code, meaning, end in errors:
            kiosk.add(CARD, [Stage("IN_PROGRESS" if status == "PRODUCTION_ERROR" else "READY")])
            with table.row(code):
                end(CARD, str(code) if status == "REQUEST_ERROR" else code)
                body = await get(kiosk)
                assert (body["status"], body["errorCode"], body["description"]) == (status, code, meaning)


def wrong_calls(kiosk: Any) -> list[tuple[Callable[..., object], tuple[Any, ...], str]]:
    """List what to call, with what, and what the refusal says."""
    stage: Any = partial(Stage, "READY")
    subscription: Any = partial(Subscription, url="http://127.0.0.1:9/")
    versions: list[Any] = ["3.0.0", []]
    return [
        (kiosk.state_of, ("x",), "expected a Card or"),
        (kiosk.start, ((1, "unknown"),), "no such card; add it, or wait until"),
        (kiosk.add, (CARD, "flies"), r"'flies'; there are prints \(READY, IN_PROGRESS, PRODUCED\), jams"),
        (kiosk.add, (CARD, ["PRODUCED"]), r"such as \('PRODUCED', 5\), not 'PRODUCED'"),
        (kiosk.add, (CARD, 5), "must be a name or stages"),
        (kiosk.add, (CARD, []), "must have one stage"),
        (kiosk.add, (CARD, [("READY",) * 9]), "each a Stage or"),
        (Stage, (None,), "a stage's status"),
        *((stage, (seconds,), "a stage's seconds") for seconds in (-1, float("nan"), True, "1")),
        *((stage, (1, code), "a stage's error_code") for code in (5, b"x", object())),
        *((stage, (1, None, text), "a stage's description") for text in (5, b"x", object())),
        (stage, (1, None, None, 1), "a stage's is_new_request"),
        (
            kiosk.fail,
            (CARD, "KIOSK_ID_NOT_FOUND"),
            "no PRODUCTION_ERROR has the code 'KIOSK_ID_NOT_FOUND': use one of cardprod.ErrorCode",
        ),
        (kiosk.fail, (CARD, "feeder_jam"), "no PRODUCTION_ERROR has the code 'feeder_jam': use .*PRD_FEEDER_JAM, "),
        (kiosk.refuse, (CARD, "KIOSK_NOT_FOUND"), "'KIOSK_NOT_FOUND': use KIOSK_ID_NOT_FOUND, "),
        (kiosk.refuse, (CARD, []), "no REQUEST_ERROR has the code"),
        (partial(kiosk.start, kiosk_id="WIS00009"), (CARD,), "no kiosk 'WIS00009'; there are WIS00001"),
        (kiosk.take_offline, ("WIS00009",), "no kiosk 'WIS00009'"),
        (kiosk.bring_online, ([],), "kiosk_id must be"),
        (kiosk.add_kiosk, ("WIS00001",), "there is a kiosk WIS00001 already"),
        *((kiosk.add_kiosk, (kiosk_id,), "kiosk_id must be") for kiosk_id in ("", "a b", "x" * 33, 5)),
        *((fail, ("500",), "fault must be") for fail in (kiosk.fail_next, kiosk.fail_next_refresh)),
        *((partial(kiosk.fail_next_refresh, times=times), (Fault.reset(),), "times must be") for times in (-1, 10**20)),
        *((Fault.stall, (seconds,), "seconds must be") for seconds in (-1, float("nan"), "1")),
        *((Fault.server_error, (status,), "http_status must be") for status in (100, 600, "500")),
        (Fault.bad_reply, (5,), "body must be"),
        *((Fault.too_many_requests, (after,), "retry_after must be") for after in ("1\nX: y", 1.5, "\u0661", 10**20)),
        *((kiosk.set_error_rate, (rate, 1), "rate must be") for rate in (-1, 2, float("nan"))),
        (kiosk.set_error_rate, (1, []), "seed must be"),
        *((kiosk.slow_down, (seconds,), "seconds must be") for seconds in (-1, float("inf"))),
        *((kiosk.observe, (observer,), "observer must be") for observer in (5, None)),
        (kiosk.stop_observing, (print,), "observer is not there"),
        (kiosk.subscribe, (5,), "subscription must be"),
        *((partial(subscription, latency=pair), (), "latency") for pair in ((1,), (1, 2, 3), [1, 2], (2, 1), (-1, 2))),
        *((partial(subscription, schema_version=version), (), "schema_version") for version in versions),
        *((partial(subscription, **{share: 2}), (), share) for share in ("duplicates", "losses", "replays")),
        (partial(subscription, seed=[]), (), "seed must be"),
    ]


async def test_wrong_arguments_are_refused(kiosk: Simulator) -> None:
    """What cannot be right is a `UsageError` that names it where it is passed, and changes nothing."""
    kiosk.add(CARD, "never")
    before = kiosk.state_of(CARD), kiosk.kiosks, kiosk.faults, kiosk.subscriptions
    with Table() as table:
        for call, arguments, words in wrong_calls(kiosk):
            with table.row(call, arguments), pytest.raises(cardprod.UsageError, match=words):
                call(*arguments)
    assert (kiosk.state_of(CARD), kiosk.kiosks, kiosk.faults, kiosk.subscriptions) == before
    assert (await get(kiosk))["status"] == "READY"


async def test_simulator_that_does_not_run_refuses() -> None:
    """Before and after its `async with` a simulator does nothing, has no address, and says so."""
    kiosk = Simulator()
    with Table() as table:
        for when in ("before", "after"):
            for name, do in (
                ("add", lambda: kiosk.add(CARD)),
                ("start", lambda: kiosk.start(CARD)),
                ("take_offline", kiosk.take_offline),
                ("bring_online", kiosk.bring_online),
                ("subscribe", lambda: kiosk.subscribe("http://127.0.0.1:9/")),
                ("base_url", lambda: kiosk.base_url),
            ):
                with table.row(when, name), pytest.raises(cardprod.UsageError, match="not running"):
                    do()
            with table.row(when, "restart"), pytest.raises(cardprod.UsageError, match="not running"):
                await kiosk.restart()
            async with kiosk:
                kiosk.add(CARD)


# --- Kiosks ---


async def test_several_kiosks(kiosk: Simulator) -> None:
    """A card is at the kiosk it was started at, and may be sent to another afterwards."""
    assert kiosk.add_kiosk() == "WIS00002"
    assert kiosk.add_kiosk("LOBBY") == "LOBBY"
    assert kiosk.add_kiosk() == "WIS00003"
    kiosk.add(CARD, "never")
    assert (await get(kiosk))["kioskId"] is None
    kiosk.start(CARD, kiosk_id="LOBBY")
    assert (await get(kiosk))["kioskId"] == "LOBBY"
    assert [each.in_production for each in kiosk.kiosks] == [0, 0, 1, 0]
    kiosk.fail(CARD, "PRT_COVER_OPEN")
    assert kiosk.retry(CARD).kiosk_id == "LOBBY"
    kiosk.fail(CARD, "PRT_COVER_OPEN")
    assert kiosk.retry(CARD, kiosk_id="WIS00002").kiosk_id == (await get(kiosk))["kioskId"] == "WIS00002"


async def test_plans_stand_still_at_an_offline_kiosk(kiosk: Simulator) -> None:
    """While a kiosk is offline its cards' plans stand still; then they go on where they stood."""
    printing, produced = Stage("IN_PROGRESS", 10), Stage("PRODUCED", 10)
    kiosk.add(CARD, [Stage("READY", 10), printing, produced, Stage("READY", is_new_request=True)])
    added_at = kiosk.state_of(CARD).since
    await asyncio.sleep(15)
    kiosk.take_offline()
    late = kiosk.add((1, "late"), "prints")
    await asyncio.sleep(1000)
    kiosk.take_offline()  # it is
    state = kiosk.state_of(CARD)
    assert (state.status, state.is_paused, state.next_status) == ("IN_PROGRESS", True, None)
    assert (await get(kiosk, late))["status"] == "READY"
    kiosk.bring_online()
    kiosk.bring_online()  # it is
    await asyncio.sleep(4)
    assert [(await get(kiosk, card))["status"] for card in (CARD, late)] == ["IN_PROGRESS", "IN_PROGRESS"]
    await asyncio.sleep(2)
    assert (await get(kiosk))["status"] == "PRODUCED"
    await asyncio.sleep(10)
    assert kiosk.state_of(CARD).requested_at - added_at == pytest.approx(1030, abs=0.1)


async def test_start_at_an_offline_kiosk(kiosk: Simulator) -> None:
    """A card sent to an offline kiosk is pending in Wise's own words, and begins, as a new request, when it is back."""
    kiosk.add(CARD, "never")
    kiosk.take_offline()
    state = kiosk.start(CARD)
    assert (state.status, state.error_code, state.is_pending) == (
        "REQUEST_ERROR",
        "REQUEST_CREATED_BUT_NOT_STARTED",
        True,
    )
    before = await get(kiosk)
    await asyncio.sleep(60)
    assert kiosk.retry(CARD).is_pending
    await asyncio.sleep(60)
    kiosk.bring_online()
    after = await get(kiosk)
    assert (after["status"], kiosk.state_of(CARD).is_pending) == ("IN_PROGRESS", False)
    assert before["occurredAt"] < after["occurredAt"]


async def test_nothing_is_finished_at_an_offline_kiosk(kiosk: Simulator) -> None:
    """At an offline kiosk production cannot be finished, but it can fail."""
    kiosk.add(CARD, [Stage("IN_PROGRESS", 10), Stage("PRODUCED")])
    kiosk.take_offline()
    with pytest.raises(cardprod.UsageError, match="it is IN_PROGRESS, and kiosk WIS00001 is offline; possible: fail"):
        kiosk.finish(CARD)
    await asyncio.sleep(20)
    assert kiosk.fail(CARD, "SAT_SERVER_NOT_REACHABLE").status == "PRODUCTION_ERROR"
    kiosk.bring_online()
    await asyncio.sleep(20)
    assert (await get(kiosk))["errorCode"] == "SAT_SERVER_NOT_REACHABLE"


async def test_refused_for_good_does_not_begin(kiosk: Simulator) -> None:
    """A pending card that is refused for another reason meanwhile does not begin when its kiosk is back."""
    kiosk.add(CARD, "never")
    kiosk.take_offline()
    kiosk.start(CARD)
    kiosk.refuse(CARD, "PAN_ALREADY_EXISTS")
    kiosk.bring_online()
    assert (await get(kiosk))["errorCode"] == "PAN_ALREADY_EXISTS"


# --- Faults ---


async def test_slowness(kiosk: Simulator) -> None:
    """Every answer is late until that is reset, whatever other fault it has."""
    kiosk.add(CARD, "never")
    loop = asyncio.get_running_loop()
    kiosk.slow_down(4)
    kiosk.fail_next(Fault.stall(3))
    for seconds in (7, 4):
        began = loop.time()
        await get(kiosk)
        assert loop.time() - began == pytest.approx(seconds, abs=0.01)
    kiosk.slow_down(0)
    began = loop.time()
    await get(kiosk)
    assert loop.time() - began < 0.1


async def test_fault_settings(kiosk: Simulator) -> None:
    """The settings say which faults are to come, and after a reset there are none."""
    jammed = Fault.too_many_requests(5)
    kiosk.fail_next(jammed, times=3)
    kiosk.fail_next(Fault.reset())
    kiosk.fail_next(Fault.server_error(), card=CARD)
    kiosk.set_error_rate(1, seed=1)
    kiosk.slow_down(2.5)
    assert kiosk.faults == FaultSettings(next=((jammed, 3), (Fault.reset(), 1)), error_rate=1, latency=2.5)
    kiosk.fail_next_refresh(Fault.server_error())
    kiosk.clear_faults()
    assert kiosk.faults == FaultSettings(next=(), error_rate=0, latency=0)
    kiosk.add(CARD)
    await get(kiosk)
    source = cardprod.OAuthToken(kiosk.client_id, kiosk.client_secret, kiosk.refresh_token, base_url=kiosk.base_url)
    async with cardprod.Client(source, base_url=kiosk.base_url, attempts=1) as client:
        await client.get_status(CARD.profile_id, CARD.card_token)


# --- Who is informed ---


@pytest.fixture
async def hooks() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """An endpoint for webhooks, and what it received."""
    received: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        received.append((await request.json())["data"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    async with TestServer(app) as server:
        yield str(server.make_url("/")), received


async def test_webhooks_of_moves(kiosk: Simulator, hooks: tuple[str, list[dict[str, Any]]]) -> None:
    """Each move sends one webhook, with the kiosk and the code; the plan that is over sends none."""
    url, received = hooks
    kiosk.subscribe(url)
    kiosk.add(CARD, "prints")
    for move in ("start", "fail", "retry", "finish"):
        MOVES[move](kiosk)
        await asyncio.sleep(0.5)
    await asyncio.sleep(60)
    assert [each["status"] for each in received] == ["IN_PROGRESS", "PRODUCTION_ERROR", "IN_PROGRESS", "PRODUCED"]
    assert [each["error_code"] for each in received] == [None, "PRD_FEEDER_JAM", None, None]
    assert {each["kiosk_id"] for each in received} == {"WIS00001"}
    assert received[1]["occurred_at"] < received[2]["occurred_at"] == received[3]["occurred_at"]


async def test_webhooks_and_an_offline_kiosk(kiosk: Simulator, hooks: tuple[str, list[dict[str, Any]]]) -> None:
    """A paused plan sends nothing; what continues or begins when the kiosk is back sends a webhook then."""
    url, received = hooks
    kiosk.subscribe(url)
    kiosk.add(CARD, [Stage("IN_PROGRESS", 10), Stage("PRODUCED")])
    other = kiosk.add((1, "other"), "never")
    kiosk.take_offline()
    kiosk.start(other)
    await asyncio.sleep(100)
    assert [each["status"] for each in received] == ["REQUEST_ERROR"]
    kiosk.bring_online()
    await asyncio.sleep(100)
    assert [(each["resource"]["card_token"], each["status"]) for each in received[1:]] == [
        ("other", "IN_PROGRESS"),
        (CARD.card_token, "PRODUCED"),
    ]


class Observer:
    """Remembers the changes it was called with: cards with their new status, and all else by name."""

    def __init__(self, kiosk: Simulator) -> None:
        self._kiosk = kiosk
        self.cards: list[tuple[cardprod.Card, str]] = []
        self.others: list[str] = []

    def __call__(self, change: Change) -> None:
        """Remember it."""
        if isinstance(change, cardprod.Card):
            self.cards.append((change, self._kiosk.state_of(change).status))
        else:
            self.others.append(change)


async def test_planned_changes_are_observed(kiosk: Simulator) -> None:
    """An observer is called for each planned change as it comes, and sees the new status; when removed, no more."""
    kiosk.add(CARD, "retried")
    observer = Observer(kiosk)
    kiosk.observe(observer)
    await asyncio.sleep(60)
    order = ["IN_PROGRESS", "PRODUCTION_ERROR", "IN_PROGRESS", "PRODUCED"]
    assert observer.cards == [(CARD, status) for status in order]
    kiosk.add(CARD, "prints")
    kiosk.stop_observing(observer)
    await asyncio.sleep(60)
    assert observer.cards[4:] == [(CARD, "READY")]


async def test_everything_else_is_observed(kiosk: Simulator, hooks: tuple[str, list[dict[str, Any]]]) -> None:
    """An observer is called for kiosks, faults, subscriptions, requests and deliveries."""
    observer = Observer(kiosk)
    kiosk.observe(observer)
    kiosk.add_kiosk()
    kiosk.take_offline("WIS00002")
    kiosk.fail_next(Fault.stall(1))
    kiosk.subscribe(hooks[0])
    kiosk.add(CARD, "never")
    await get(kiosk)
    kiosk.start(CARD)
    await asyncio.sleep(1)
    order = ["kiosks", "kiosks", "faults", "subscriptions", "faults", "requests", "deliveries"]
    assert observer.others == order
    assert kiosk.subscriptions[0].url == hooks[0]


@pytest.mark.parametrize("error", [BrokenPipeError, asyncio.CancelledError])
async def test_callbacks_that_fail_change_nothing(
    hooks: tuple[str, list[dict[str, Any]]], caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    """An observer or an `on_request` that raises changes no answer, move or webhook; its first error is logged."""

    def fail(_: object) -> None:
        raise error

    async with Simulator(on_request=fail) as kiosk:
        kiosk.observe(fail)
        kiosk.subscribe(hooks[0])
        kiosk.add(CARD, "prints")
        assert (await get(kiosk))["status"] == "READY"
        await asyncio.sleep(3)
        assert kiosk.finish(CARD).status == "PRODUCED"
        await asyncio.sleep(1)
    assert [each["status"] for each in hooks[1]] == ["IN_PROGRESS", "PRODUCED"]
    assert len(caplog.records) == 1


async def test_observers_come_and_go() -> None:
    """An observer that begins when a change is due, or ends while it is called, costs no other a change."""

    class Once(Observer):
        def __call__(self, change: Change) -> None:
            super().__call__(change)
            kiosk.stop_observing(self)

    async with Simulator() as kiosk:
        observers = Once(kiosk), Observer(kiosk), Observer(kiosk)
        loop = asyncio.get_running_loop()
        for observer in observers[:2]:
            kiosk.observe(observer)
        loop.call_at(loop.time() + 2, kiosk.observe, observers[2])
        kiosk.add(CARD, [Stage("READY", 2), Stage("IN_PROGRESS", 3), Stage("PRODUCED")])
        await asyncio.sleep(10)
    seen = [[status for _, status in observer.cards] for observer in observers]
    assert seen[0] == ["READY"]
    assert seen[1] == ["READY", "IN_PROGRESS", "PRODUCED"]
    assert seen[2][-1] == "PRODUCED"


async def test_plans_go_on_when_it_runs_again(hooks: tuple[str, list[dict[str, Any]]]) -> None:
    """A simulator that is left and entered again reports the changes of its plans as before."""
    kiosk = Simulator()
    async with kiosk:
        kiosk.subscribe(hooks[0])
        kiosk.add(CARD, "prints")
    async with kiosk:
        await asyncio.sleep(10)
    assert [each["status"] for each in hooks[1]] == ["IN_PROGRESS", "PRODUCED"]


async def test_its_end_waits_for_nothing() -> None:
    """A simulator ends at once, be those who wait for answers there or gone, and leaves nothing."""
    async with RawServer(lambda _: asyncio.sleep(3600)) as endless:
        async with Simulator() as kiosk:
            for _ in range(3):
                kiosk.subscribe(endless.base_url)
            kiosk.start(kiosk.add(CARD, "never"))
            kiosk.fail_next(Fault.stall(), times=3)  # aiohttp tries a broken connection once more by itself
            late, testing = asyncio.create_task(get(kiosk)), asyncio.create_task(kiosk.send_tests())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(get(kiosk), 1)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 1
        assert await testing == [None, None, None]
        with pytest.raises(aiohttp.ClientConnectionError):
            await late
    await assert_nothing_left()


async def test_no_timer_runs_when_nobody_observes(kiosk: Simulator) -> None:
    """Without an observer or a subscription no timer runs for the plans: virtual time would jump to it."""
    inner: Any = kiosk
    timers = inner._simulation._timers
    kiosk.add(CARD, "retried")
    assert not timers
    observer = Observer(kiosk)
    kiosk.observe(observer)
    assert timers
    kiosk.stop_observing(observer)
    assert not timers


async def test_observer_that_moves_the_kiosk(kiosk: Simulator) -> None:
    """An observer that brings a kiosk back while it goes offline leaves no card of it paused."""
    cards = [kiosk.add((1, token), [Stage("IN_PROGRESS", 10), Stage("PRODUCED")]) for token in "ab"]
    was_moved = False

    def bring_back(_: object) -> None:
        nonlocal was_moved
        if not was_moved:
            was_moved = True
            kiosk.bring_online()

    kiosk.observe(bring_back)
    kiosk.take_offline()
    assert was_moved
    assert [kiosk.state_of(card).is_paused for card in cards] == [False, False]
