"""The laws of waiting, each written once and run against every interface."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, get_args

import aiohttp
import pytest

from cardprod import (
    ApiError,
    Backoff,
    CardNotFound,
    CardprodError,
    Checkpoint,
    Client,
    Forbidden,
    RateLimit,
    RateLimited,
    ServerError,
    TransportError,
    Unauthorized,
    UsageError,
    WaitTimeout,
    telemetry,
)
from cardprod.simulator import Fault, Simulator, Stage
from cardprod.telemetry import (
    PollEnded,
    PollFailed,
    PollStarted,
    RequestEnded,
    RequestRetried,
    RequestStarted,
    TransitionSeen,
    WaitEnded,
    WaitStarted,
)
from tests.cards import CARD, event_of
from tests.clock import wall_clock_of_the_loop
from tests.conformance.durably import virtual_time_for_databases
from tests.conformance.interfaces import DATABASE, INTERFACES, Interface, Report
from tests.leftovers import assert_idle, assert_nothing_left
from tests.raw_server import RawServer, http_answer
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from cardprod import Schedule, Wait
    from cardprod.telemetry import Event

EVERY_5 = Backoff(first=5, factor=1, jitter=0)
PRINTS = [Stage("READY", 12), Stage("IN_PROGRESS", 12), Stage("PRODUCED")]
JAMS_AND_PRINTS = [
    Stage("READY", 12),
    Stage("IN_PROGRESS", 12),
    Stage("IN_PROGRESS", 12, is_new_request=True),
    Stage("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM"),
]

EVENTS: tuple[type, ...] = get_args(telemetry.Event)
EVENTS_OF_POLLS = [kind for kind in EVENTS if kind not in {WaitStarted, TransitionSeen, PollFailed, WaitEnded}]

each_interface = pytest.mark.parametrize("interface", INTERFACES, ids=lambda interface: interface.name)
# A refused token, or a client that cannot be used, leaves a durable wait to another worker.
each_interface_of_one_client = pytest.mark.parametrize(
    "interface",
    [interface for interface in INTERFACES if interface.ends_by_refusal],
    ids=lambda interface: interface.name,
)
# A sweep does not run between its polls: it gets what an event reported by the next one, and shares no polls.
each_continuous_interface = pytest.mark.parametrize(
    "interface",
    [interface for interface in INTERFACES if interface.is_continuous],
    ids=lambda interface: interface.name,
)


@pytest.fixture(autouse=True)
def _wall_clock() -> Iterator[None]:
    with wall_clock_of_the_loop():
        yield


@pytest.fixture(autouse=True)
def _database(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have one database for all tests of durable waits, and let them go by virtual time."""
    if "interface" not in request.fixturenames or request.getfixturevalue("interface").name != "durable":
        yield
        return
    if not DATABASE:
        DATABASE.append(request.getfixturevalue("postgres_server").new_database())
    with virtual_time_for_databases():
        yield


def now() -> float:
    return asyncio.get_running_loop().time()


def requests_at(kiosk: Simulator) -> list[float]:
    """Return when the requests came, from the first one on."""
    return [request.at - kiosk.requests[0].at for request in kiosk.requests]


# --- Transitions ---


@each_interface
async def test_transitions(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """Every new status is reported once, in order, with its time and polls; so is a new request of the same status."""
    kiosk.add(CARD, JAMS_AND_PRINTS)
    report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert report.error is None
    expected = ["READY", "IN_PROGRESS", "IN_PROGRESS", "PRODUCTION_ERROR"]
    assert report.statuses == (expected if interface.reports_all else expected[-1:])
    last = report.transitions[-1]
    assert last.current.error_code == "PRD_FEEDER_JAM"
    assert last.polls == len(kiosk.requests)
    if interface.reports_all:
        assert [step.previous for step in report.transitions] == [
            None,
            *(step.current for step in report.transitions[:-1]),
        ]
        assert [(round(step.elapsed), step.polls) for step in report.transitions] == [(0, 1), (15, 4), (25, 6), (40, 9)]
    assert_idle(client)


@each_interface
async def test_unchanged_polls_report_nothing(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """Polls that show nothing new report nothing."""
    kiosk.add(CARD, [Stage("READY", 40), Stage("PRODUCED")])
    report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert report.statuses == (["READY", "PRODUCED"] if interface.reports_all else ["PRODUCED"])
    assert len(kiosk.requests) == 9


# --- The deadline ---


@each_interface
async def test_last_poll_at_the_deadline(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """The last sleep is cut to the deadline, one last poll is made there, and what it shows counts."""
    kiosk.add(CARD, [Stage("READY", 11.9), Stage("PRODUCED")])
    report = await interface.follow(client, CARD, schedule=EVERY_5, timeout=12)
    assert report.statuses[-1] == "PRODUCED"
    assert requests_at(kiosk) == pytest.approx([0, 5, 10, 12], abs=0.1)


@each_interface
async def test_timeout(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """A card that is not final after its last poll ends in a `WaitTimeout` with what was seen and a checkpoint."""
    kiosk.add(CARD, "never")
    report = await interface.follow(client, CARD, schedule=EVERY_5, timeout=12)
    error = report.error
    assert isinstance(error, WaitTimeout)
    assert (error.card, error.polls, error.last and error.last.status) == (CARD, 4, "READY")
    assert error.elapsed == pytest.approx(12, abs=0.1)
    assert error.checkpoint is not None
    kiosk.add(CARD, [Stage("READY", 3), Stage("PRODUCED")])
    outcome = await client.resume(error.checkpoint.extended(60))
    assert [status.status for status in outcome.values()] == ["PRODUCED"]  # type: ignore[union-attr]


@each_interface
async def test_request_is_cut_off_by_the_deadline(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """A poll that is under way at the deadline is cut off there."""
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.stall(), times=100)
    report = await interface.follow(client, CARD, schedule=EVERY_5, timeout=7)
    assert isinstance(report.error, WaitTimeout)
    assert now() == pytest.approx(7, abs=0.5)
    assert_idle(client)


# --- Failures ---


@each_interface
async def test_timers_that_fire_early(
    kiosk: Simulator, client: Client, interface: Interface, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait whose deadline comes half a millisecond early, as uvloop rounds it, is cut off there as on any loop."""
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.stall(), times=9)
    loop = asyncio.get_running_loop()
    call_at: Callable[..., asyncio.TimerHandle] = loop.call_at

    def early(when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        is_ahead = when - 0.0005 > now()  # else time would stand still
        handle: asyncio.TimerHandle = call_at(when - 0.0005 if is_ahead else when, *args, **options)
        return handle

    monkeypatch.setattr(loop, "call_at", early)
    report = await interface.follow(client, CARD, schedule=EVERY_5, timeout=4)
    assert isinstance(report.error, WaitTimeout)
    assert report.error.elapsed == pytest.approx(4, abs=0.1)


@each_interface
async def test_failures_in_a_row_end_it(kiosk: Simulator, interface: Interface) -> None:
    """As many failed polls in a row as `max_failures` end the wait with the last of them; an answer starts anew."""
    async with Client(kiosk.token, base_url=kiosk.base_url, attempts=1) as client:
        kiosk.add(CARD, "never")
        kiosk.fail_next(Fault.server_error(), times=2)
        asyncio.get_running_loop().call_later(12, lambda: kiosk.fail_next(Fault.server_error(503), times=3))
        report = await interface.follow(client, CARD, schedule=EVERY_5, max_failures=3)
    assert isinstance(report.error, ServerError)
    assert report.error.http_status == 503
    assert len(kiosk.requests) == 2 + 1 + 3


@each_interface
@pytest.mark.parametrize("max_outage", [300.0, 0.0])
async def test_outage(kiosk: Simulator, interface: Interface, max_outage: float) -> None:
    """An outage that is shorter than `max_outage` ends no wait that had an answer, however many polls fail."""
    async with Client(kiosk.token, base_url=kiosk.base_url, attempts=1) as client:
        kiosk.add(CARD, [Stage("READY", 100), Stage("PRODUCED")])
        asyncio.get_running_loop().call_later(12, lambda: kiosk.fail_next(Fault.reset(), times=12))
        report = await interface.follow(client, CARD, schedule=EVERY_5, max_outage=max_outage)
    if max_outage:
        assert (report.error, report.statuses[-1]) == (None, "PRODUCED")
    else:
        assert isinstance(report.error, TransportError)


@each_interface
async def test_retry_after_of_a_failing_server(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """After a 5xx with a `Retry-After` no poll of the wait is made before it."""
    kiosk.add(CARD, [Stage("READY", 40), Stage("PRODUCED")])
    asyncio.get_running_loop().call_later(12, lambda: kiosk.fail_next(Fault.server_error(503, 120), times=1))
    report = await interface.follow(client, CARD, schedule=EVERY_5, max_failures=1, max_outage=300)
    assert (report.error, report.statuses[-1]) == (None, "PRODUCED")
    assert requests_at(kiosk) == pytest.approx([0, 5, 10, 15, 135], abs=0.5)


@each_interface
async def test_retry_after_beyond_the_deadline(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """A `Retry-After` that is longer than the time left ends the wait at its deadline, without a poll."""
    kiosk.add(CARD, "never")
    asyncio.get_running_loop().call_later(12, lambda: kiosk.fail_next(Fault.server_error(503, 120), times=1))
    report = await interface.follow(client, CARD, schedule=EVERY_5, timeout=60)
    assert isinstance(report.error, WaitTimeout)
    assert requests_at(kiosk) == pytest.approx([0, 5, 10, 15], abs=0.5)
    assert now() <= 71


@each_interface
async def test_refusals_of_a_gateway(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """A 401, 403 or 404 that is not the API's own JSON is a failed poll, not the end of the wait."""
    kiosk.add(CARD, [Stage("PRODUCED")])
    for page in ((401, "<h1>blocked</h1>", "text/html"), (403, "no", "text/plain"), (404, "", "")):
        kiosk.fail_next(Fault("answer", *page))
    report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert (report.error, report.statuses) == (None, ["PRODUCED"])


# --- After a known status ---


@each_interface
async def test_after(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """A wait after a known error reports what comes after it, and not the error again."""
    kiosk.add(CARD, JAMS_AND_PRINTS)
    jam = await client.wait_until_final(CARD.profile_id, CARD.card_token, schedule=EVERY_5)
    asyncio.get_running_loop().call_later(23, lambda: kiosk.add(CARD, PRINTS))
    report = await interface.follow(client, CARD, schedule=EVERY_5, after=jam)
    assert report.error is None
    assert report.statuses == (["READY", "IN_PROGRESS", "PRODUCED"] if interface.reports_all else ["PRODUCED"])
    if interface.reports_all:
        assert report.transitions[0].previous == jam


@each_interface
async def test_after_without_a_retry(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """A card that stays in the known error ends in a `WaitTimeout` that names it, and is polled as any other."""
    kiosk.add(CARD, [Stage("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM")])
    jam = await client.get_status(CARD.profile_id, CARD.card_token)
    report = await interface.follow(client, CARD, schedule=EVERY_5, after=jam, timeout=22)
    assert isinstance(report.error, WaitTimeout)
    assert (report.error.last, report.statuses) == (jam, [])
    assert len(kiosk.requests) == 1 + 6
    assert report.error.checkpoint is not None
    outcome = await client.resume(report.error.checkpoint.extended(22))
    assert isinstance(outcome[CARD], WaitTimeout)


@each_interface
@pytest.mark.parametrize(("http_status", "error"), [(401, Unauthorized), (403, Forbidden), (404, CardNotFound)])
async def test_some_answers_end_it_at_once(
    kiosk: Simulator, client: Client, interface: Interface, http_status: int, error: type[ApiError]
) -> None:
    """401, 403 and 404 end a wait at once, but for a 401 to a durable wait, whose token is the worker's."""
    if http_status == 401 and not interface.ends_by_refusal:
        return
    if http_status != 404:
        kiosk.add(CARD, "never")
        kiosk.fail_next(Fault.server_error(http_status), times=5)
    report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert type(report.error) is error
    assert len(kiosk.requests) == 1


@each_interface
async def test_retry_after(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """After a 429 no request is sent before its `Retry-After`, and it counts as no failure of a wait."""
    kiosk.add(CARD, PRINTS)
    kiosk.fail_next(Fault.too_many_requests(30))
    report = await interface.follow(client, CARD, schedule=EVERY_5, max_failures=1)
    assert report.error is None
    assert report.statuses[-1] == "PRODUCED"
    first, second, *_ = requests_at(kiosk)
    assert second - first >= 30


@each_interface
async def test_timeout_in_a_pause(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """A wait whose time runs out in the pause after a 429 says so, and for how long the pause goes on."""
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.too_many_requests(100), times=9)
    report = await interface.follow(client, CARD, schedule=EVERY_5, timeout=20)
    assert isinstance(report.error, WaitTimeout)
    assert now() <= 31  # the last poll has had `request_timeout` to begin
    assert re.search(r"requests are paused for \d+ s more, after a 429", str(report.error))


@each_interface
async def test_longest_retry_after(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """After a 429 with a `Retry-After` of an hour, as of a proxy, the card is polled again after two minutes."""
    kiosk.add(CARD, PRINTS)
    kiosk.fail_next(Fault.too_many_requests(3600))
    report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert report.error is None
    first, second, *_ = requests_at(kiosk)
    assert second - first == pytest.approx(120, abs=6)


@each_interface
@pytest.mark.parametrize("retry_after", [None, 1])
async def test_pauses_cost_nothing(
    kiosk: Simulator, client: Client, interface: Interface, retry_after: int | None
) -> None:
    """However many 429s come in a row, they count as no failure of a wait, and each costs one request."""
    kiosk.add(CARD, PRINTS)
    kiosk.fail_next(Fault.too_many_requests(retry_after), times=7)
    report = await interface.follow(client, CARD, schedule=EVERY_5, max_failures=1)
    assert report.error is None
    assert report.statuses[-1] == "PRODUCED"
    assert [request.http_status for request in kiosk.requests[:8]] == [429] * 7 + [200]


# --- Events ---


@each_continuous_interface
async def test_event_is_reported_at_once(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """An event is reported when it comes, without a poll, and ends the wait if it is final."""
    kiosk.add(CARD, "never")
    hourly = Backoff(first=3600, factor=1, ceiling=3600)
    waiting = asyncio.create_task(interface.follow(client, CARD, schedule=hourly))
    await asyncio.sleep(100)
    assert client.notify(event_of(CARD, "PRODUCED")) == 1
    report = await waiting
    assert now() == pytest.approx(100, abs=0.1)
    assert report.statuses[-1] == "PRODUCED"
    assert_idle(client)


@each_interface
async def test_older_event_changes_nothing(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """An event that is older than what is known, late or repeated, is not reported and undoes nothing."""
    kiosk.add(CARD, PRINTS)
    waiting = asyncio.create_task(interface.follow(client, CARD, schedule=EVERY_5))
    long_ago = datetime(2026, 11, 24, 9, tzinfo=UTC)
    for _ in range(5):
        await asyncio.sleep(4)
        client.notify(event_of(CARD, "READY", occurred_at=long_ago, sent_at=long_ago))
        client.notify(event_of(CARD, "PRODUCTION_ERROR", occurred_at=long_ago, sent_at=long_ago))
    report = await waiting
    assert report.statuses == (["READY", "IN_PROGRESS", "PRODUCED"] if interface.reports_all else ["PRODUCED"])


# --- Sharing ---


@each_continuous_interface
async def test_event_of_an_earlier_production_changes_nothing(
    kiosk: Simulator, client: Client, interface: Interface
) -> None:
    """An old event that is delivered again ends no wait, where nothing but its sending time shows that it is old."""
    kiosk.add(CARD, PRINTS)
    long_ago = datetime.now(UTC) - timedelta(days=3)

    def redeliver(event: Event) -> None:
        if isinstance(event, TransitionSeen) and not event.transition.is_final:
            client.notify(event_of(CARD, "PRODUCTION_ERROR", sent_at=long_ago))

    client.on_event = redeliver
    report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert report.statuses[-1] == "PRODUCED"


@each_continuous_interface
async def test_polls_are_shared(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """Waits for the same card in one client, begun together, cost one wait's requests."""
    kiosk.add(CARD, PRINTS)
    reports = await asyncio.gather(*(interface.follow(client, CARD, schedule=EVERY_5) for _ in range(4)))
    assert {report.statuses[-1] for report in reports} == {"PRODUCED"}
    assert len(kiosk.requests) <= 8


# --- Telemetry ---


def extract(events: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@each_interface
async def test_observer_sees_every_wait(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """An observer gets the start and the end of each wait, each transition once, and each failed poll."""
    events: list[Event] = []
    client.on_event = events.append
    kiosk.add(CARD, PRINTS)
    kiosk.fail_next(Fault.bad_reply())
    await interface.follow(client, CARD, schedule=EVERY_5)
    started, ended = extract(events, WaitStarted), extract(events, WaitEnded)
    assert [event.wait for event in started] == [event.wait for event in ended] != []
    seen = [str(event.transition.current.status) for event in extract(events, TransitionSeen)]
    assert seen == ["READY", "IN_PROGRESS", "PRODUCED"]
    assert [event.failures for event in extract(events, PollFailed)] == [1]
    assert all(event.error is None for event in ended)


@each_interface
async def test_events_add_up(kiosk: Simulator, interface: Interface) -> None:
    """Each poll that starts ends once; each request is a poll's first or a retry; each failed poll, one of its wait."""
    ways: dict[str, list[Fault]] = {
        "it fails, and then goes on": [Fault.too_many_requests(1), *[Fault.server_error(500)] * 5],
        "it fails to the end": [Fault.server_error(503)] * 99,
        "the deadline comes in a pause": [Fault.too_many_requests(100)] * 9,
        "the deadline comes before a retry": [Fault.server_error(503, 60)] * 9,
        "the deadline comes in a request": [Fault.stall()] * 9,
        "the client gives up a request after two minutes": [Fault.too_many_requests(50)] * 9,
        "it is refused": [Fault.server_error(403)],
        "it breaks on the way": [Fault.reset(), Fault.cut_body(), Fault.garbage(), Fault.bad_reply()],
    }
    with Table() as table:
        for name, faults in ways.items():
            with table.row(name):
                await _add_up(kiosk, interface, faults, 600 if "minutes" in name else 20)


@each_interface
async def test_retry_that_is_never_sent(kiosk: Simulator, interface: Interface) -> None:
    """A request whose retry a pause, or a token source that fails, prevents is not reported as retried."""
    tokens = [kiosk.token]

    async def source() -> str:
        if not tokens:
            raise TransportError("the vault does not answer")
        return tokens.pop()

    with Table() as table:
        for name, token, pause in (("its token source fails", source, 0), ("requests are paused", kiosk.token, 60)):
            with table.row(name):
                events = await _events_of_a_failed_request(kiosk, interface, token, pause)
                assert len(extract(events, RequestStarted)) == 1
                assert extract(events, RequestRetried) == []


async def _events_of_a_failed_request(
    kiosk: Simulator, interface: Interface, token: str | Callable[[], Coroutine[Any, Any, str]], pause: float
) -> list[Event]:
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.server_error(503))
    events: list[Event] = []

    def observe(event: Event) -> None:
        events.append(event)
        if isinstance(event, RequestEnded) and pause:
            client.pause(pause)

    async with Client(token, base_url=kiosk.base_url, attempts=2) as client:
        client.on_event = observe
        await interface.follow(client, CARD, schedule=EVERY_5, timeout=4)
    return events


async def _add_up(kiosk: Simulator, interface: Interface, faults: list[Fault], seconds: float) -> None:
    kiosk.clear_faults()
    kiosk.add(CARD, "never")
    for fault in faults:
        kiosk.fail_next(fault)
    events: list[Event] = []
    async with Client(kiosk.token, base_url=kiosk.base_url, attempts=2, rate_limit=None) as client:
        client.on_event = events.append
        await interface.follow(client, CARD, schedule=EVERY_5, timeout=seconds)
    counts = Counter(type(event).__name__ for event in events)
    polls = [type(event).__name__ for event in events if isinstance(event, PollStarted | PollEnded)]
    assert polls == ["PollStarted", "PollEnded"] * counts["PollStarted"]
    names = [type(event).__name__ for event in events]
    assert {names[at + 1] for at, name in enumerate(names) if name == "RequestRetried"} <= {"RequestStarted"}
    assert counts["RequestStarted"] == counts["RequestEnded"] == counts["PollStarted"] + counts["RequestRetried"]
    outcomes = [event.outcome for event in extract(events, PollEnded)]
    failed = [one for one in outcomes if isinstance(one, CardprodError)]
    if not interface.is_continuous:  # it does not wait for the end of a pause: its card stays due, and nothing failed
        failed = [one for one in failed if not isinstance(one, RateLimited)]
    ended_by = extract(events, WaitEnded)[-1].error
    is_last = bool(failed) and failed[-1] in {ended_by, ended_by.__cause__}
    assert counts["PollFailed"] + is_last == len(failed)


@each_interface
async def test_observer_that_raises_harms_nothing(
    kiosk: Simulator, client: Client, interface: Interface, caplog: pytest.LogCaptureFixture
) -> None:
    """What an observer raises is logged once, and does not change a wait."""

    def fail(event: Event) -> None:
        raise LookupError(type(event).__name__)

    client.on_event = fail
    kiosk.add(CARD, PRINTS)
    report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert report.statuses[-1] == "PRODUCED"
    assert [record.levelname for record in caplog.records if "LookupError" in record.getMessage()] == ["ERROR"]


@each_interface
async def test_observer_that_ends_in_a_cancellation(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """A `CancelledError` of an observer, as of a future that it asks, does not change a wait either."""

    def ask(_: Event) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        future.result()

    client.on_event = ask
    kiosk.add(CARD, PRINTS)
    report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert report.statuses[-1] == "PRODUCED"
    assert_idle(client)


@each_continuous_interface
async def test_observer_that_notifies(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """Events that an observer gives the client while it is called are reported after what it was called for."""
    after = {"READY": "IN_PROGRESS", "IN_PROGRESS": "PRODUCED"}

    def notify(event: Event) -> None:
        if isinstance(event, TransitionSeen) and (following := after.get(str(event.transition.current.status))):
            client.notify(event_of(CARD, following))

    client.on_event = notify
    kiosk.add(CARD, "never")
    report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert report.statuses == (["READY", "IN_PROGRESS", "PRODUCED"] if interface.reports_all else ["PRODUCED"])


@each_interface
async def test_observer_that_notifies_at_the_beginning(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """An event that an observer gives the client when a wait begins is reported, and ends the wait if it is final."""

    def notify(event: Event) -> None:
        if isinstance(event, WaitStarted):
            client.notify(event_of(CARD, "PRODUCED"))

    client.on_event = notify
    kiosk.add(CARD, "never")
    report = await interface.follow(client, CARD, schedule=EVERY_5, timeout=60)
    assert (report.statuses, report.error) == (["PRODUCED"], None)
    assert kiosk.requests == []


@pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError])
@each_interface
async def test_log_handler_that_raises(interface: Interface, error: type[BaseException]) -> None:
    """What a log handler raises does not change a wait, nor what its observer gets."""

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise error(record.getMessage())

    events: list[Event] = []
    logger, handler = logging.getLogger("cardprod"), Broken()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        answer = http_answer(body='{"status":"PRODUCED","occurredAt":"illegible"}')
        async with RawServer.saying(answer) as server, Client("token", base_url=server.base_url) as client:
            client.on_event = events.append
            report = await interface.follow(client, CARD, schedule=EVERY_5)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert (report.statuses, report.error) == (["PRODUCED"], None)
    assert len(extract(events, TransitionSeen)) == len(extract(events, PollEnded)) == 1


@each_interface
async def test_record_factory_of_an_application(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """A record factory that sets fields with the names of ours does not disturb a wait."""
    usual = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = usual(*args, **kwargs)
        for name in ("card", "status", "error", "elapsed", "polls", "failures", "cardprod_card", "cardprod_error"):
            setattr(record, name, "the application's")
        return record

    kiosk.add(CARD, PRINTS)
    kiosk.fail_next(Fault.bad_reply())
    logging.setLogRecordFactory(factory)
    try:
        report = await interface.follow(client, CARD, schedule=EVERY_5)
    finally:
        logging.setLogRecordFactory(usual)
    assert report.statuses[-1] == "PRODUCED"


# --- Cancellation, closing, tasks ---


@each_interface_of_one_client
async def test_cancelled_at_any_moment(
    kiosk: Simulator, client: Client, interface: Interface, *, full_size: bool
) -> None:
    """Cancelled at any moment, a wait ends then, leaves no task, permit or subscription behind, and polls no more."""
    kiosk.add(CARD, "never")
    kiosk.slow_down(0.5)
    gc.freeze()  # or each of the collections below would go through what a hundred tests have left to pytest
    for steps in range(60 if full_size else 30):
        waiting = asyncio.create_task(interface.follow(client, CARD, schedule=EVERY_5))
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps % 3 == 2:
            await asyncio.sleep(steps / 10)
        waiting.cancel()
        cancelled_at = now()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert now() == cancelled_at
        del waiting
        gc.collect()
        assert_idle(client)
        assert len(client._poller.subscriptions) == 0  # pyright: ignore[reportPrivateUsage]
    gc.unfreeze()
    kiosk.clear_faults()
    await asyncio.sleep(1)
    requests = len(kiosk.requests)
    await asyncio.sleep(60)
    assert len(kiosk.requests) == requests
    await assert_nothing_left(but=1)  # the simulator's connection


def fail_in_every_way(kiosk: Simulator) -> None:
    """Make the next polls of the card fail in ways that emit every kind of event; after them it stays READY."""
    kiosk.clear_faults()
    kiosk.add(CARD, "never")
    kiosk.fail_next(Fault.too_many_requests(1))
    kiosk.fail_next(Fault.server_error(500), times=3)


@each_interface
async def test_observer_that_cancels(kiosk: Simulator, interface: Interface) -> None:
    """A wait whose task an observer cancels ends at once, whichever event it was called for, and leaves nothing."""
    with Table() as table:
        for kind in EVENTS:
            with table.row(kind.__name__):
                await _cancel_at(kind, kiosk, interface)


async def _cancel_at(kind: type, kiosk: Simulator, interface: Interface) -> None:
    cancelled_at: list[float] = []

    def cancel(event: Event) -> None:
        if isinstance(event, kind):
            cancelled_at.append(now())
            waiting.cancel()

    fail_in_every_way(kiosk)
    async with Client(kiosk.token, base_url=kiosk.base_url, attempts=2) as client:
        client.on_event = cancel
        waiting = asyncio.create_task(interface.follow(client, CARD, schedule=EVERY_5, timeout=30))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert now() == cancelled_at[0]
        assert_idle(client)


async def _iterated(wait: Wait) -> None:
    async for _ in wait:
        pass
    raise UsageError("it was closed, as an iteration shows by its end")


def _wait(client: Client) -> Wait:
    return client.wait_until_final(CARD.profile_id, CARD.card_token, schedule=EVERY_5, timeout=30)


async def _awaited(one: Any) -> None:
    await one


CLOSABLE: dict[str, tuple[Callable[[Client], Any], Callable[[Any], Coroutine[Any, Any, None]]]] = {
    "awaited": (_wait, _awaited),
    "iterated": (_wait, _iterated),
    "batch": (lambda client: client.wait_until_all_final([CARD], schedule=EVERY_5, timeout=30), _awaited),
    "resumed": (lambda client: client.resume(Checkpoint.for_cards([CARD], schedule=EVERY_5, timeout=30)), _awaited),
    "statuses": (lambda client: client.get_statuses([CARD]), _awaited),
}


@pytest.mark.parametrize("name", CLOSABLE)
async def test_observer_that_closes(kiosk: Simulator, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A wait or a batch that an observer closes ends at once, whichever event it was called for, and leaves nothing."""
    with Table() as table:
        for kind in EVENTS_OF_POLLS if name == "statuses" else EVENTS:
            with table.row(kind.__name__):
                await _close_at(kind, kiosk, *CLOSABLE[name])
    assert "an observer" not in caplog.text


async def _close_at(
    kind: type, kiosk: Simulator, make: Callable[[Client], Any], use: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    closed_at: list[float] = []

    def close(event: Event) -> None:
        if isinstance(event, kind):
            closed_at.append(now())
            one.close()

    fail_in_every_way(kiosk)
    async with Client(kiosk.token, base_url=kiosk.base_url, attempts=2) as client:
        client.on_event = close
        one = make(client)
        with pytest.raises(UsageError, match="closed"):
            await use(one)
        assert now() == closed_at[0]
        assert_idle(client)
        assert len(client._poller.subscriptions) == 0  # pyright: ignore[reportPrivateUsage]


@each_interface_of_one_client
async def test_closing_the_client_ends_it(kiosk: Simulator, interface: Interface) -> None:
    """A wait whose client is closed, also between two polls, ends at once with a `UsageError` that says so."""
    kiosk.add(CARD, "never")
    client = Client(kiosk.token, base_url=kiosk.base_url)
    waiting = asyncio.create_task(_ending(interface, client))
    await asyncio.sleep(12)
    await client.close()
    closed_at = asyncio.get_running_loop().time()
    error = await waiting
    # Between two sweeps it is the caller who sleeps.
    assert not interface.is_continuous or asyncio.get_running_loop().time() < closed_at + 1
    assert isinstance(error, UsageError)
    assert "closed" in str(error)
    await assert_nothing_left(but=1)


async def _ending(interface: Interface, client: Client, schedule: Schedule = EVERY_5) -> BaseException | None:
    try:
        return (await interface.follow(client, CARD, schedule=schedule)).error
    except UsageError as error:
        return error


@each_interface
async def test_eager_tasks(kiosk: Simulator, interface: Interface) -> None:
    """Under an eager task factory, of Python 3.12, every wait reports the same, and no permit is given back twice."""
    eager: Any = getattr(asyncio, "eager_task_factory", None)
    asyncio.get_running_loop().set_task_factory(eager)
    limit = RateLimit(per_second=1000, per_minute=10_000)
    cards = [kiosk.add((123456, f"card-{number}"), PRINTS) for number in range(6)]
    async with Client(kiosk.token, base_url=kiosk.base_url, max_concurrency=2, rate_limit=limit) as client:
        reports = await asyncio.gather(*(interface.follow(client, card, schedule=EVERY_5) for card in cards))
        assert_idle(client)
    assert {report.statuses[-1] for report in reports} == {"PRODUCED"}


@each_interface
async def test_token_source_that_ends_in_a_cancellation(kiosk: Simulator, interface: Interface) -> None:
    """A token source that raises a `CancelledError` of its own is a failure like any other, and nothing hangs."""

    async def cancelled() -> str:
        raise asyncio.CancelledError

    kiosk.add(CARD, "never")
    async with Client(cancelled, base_url=kiosk.base_url) as client:
        async with asyncio.timeout(600):
            report = await interface.follow(client, CARD, schedule=EVERY_5, max_failures=2)
        assert type(report.error) is TransportError
        assert_idle(client)
    assert kiosk.requests == []


@each_interface_of_one_client
async def test_token_source_that_closes_its_client(kiosk: Simulator, interface: Interface) -> None:
    """A client that its token source closes ends the wait with a `UsageError`, and cancels nothing of the caller's."""

    async def closing() -> str:
        await client.close()
        return kiosk.token

    client = Client(closing, base_url=kiosk.base_url)
    error = await _ending(interface, client)
    assert "closed" in str(error)
    await asyncio.sleep(1)
    await assert_nothing_left(but=1)


@each_interface
async def test_trace_config_that_ends_in_a_cancellation(kiosk: Simulator, interface: Interface) -> None:
    """A `CancelledError` of a lent session's own, as of its trace config, is a failed poll, and nothing hangs."""

    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    kiosk.add(CARD, "never")
    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(cancelled)
    async with aiohttp.ClientSession(trace_configs=[trace]) as session:
        async with Client(kiosk.token, base_url=kiosk.base_url, session=session) as client, asyncio.timeout(600):
            report = await interface.follow(client, CARD, schedule=EVERY_5, max_failures=2)
        assert type(report.error) is TransportError
        assert "something that it awaited was cancelled" in str(report.error)
        assert_idle(client)
    assert kiosk.requests == []


class Stopped(BaseException):
    """What is no `Exception`, as pytest's own outcomes are not."""


@each_interface
async def test_token_source_that_raises_no_exception(kiosk: Simulator, interface: Interface) -> None:
    """What a token source raises is raised by the wait, also if it is no `Exception`."""

    async def stopped() -> str:
        raise Stopped

    kiosk.add(CARD, "never")
    async with Client(stopped, base_url=kiosk.base_url) as client:
        with pytest.raises(Stopped):
            async with asyncio.timeout(600):
                await interface.follow(client, CARD, schedule=EVERY_5)
        assert_idle(client)
    await assert_nothing_left()


@each_interface_of_one_client
async def test_token_source_that_raises_the_end_of_an_iteration(kiosk: Simulator, interface: Interface) -> None:
    """A token source's own `StopAsyncIteration`, as of `anext`, is raised, and not taken for the end of the wait."""

    async def exhausted() -> str:
        raise StopAsyncIteration

    kiosk.add(CARD, "never")
    async with Client(exhausted, base_url=kiosk.base_url) as client:
        with pytest.raises((RuntimeError, StopAsyncIteration)):
            async with asyncio.timeout(600):
                await interface.follow(client, CARD, schedule=EVERY_5)
        assert_idle(client)
    await assert_nothing_left()


class CancelledLater:
    """A schedule that asks, at its second delay, for the result of what was cancelled."""

    def __init__(self) -> None:
        self.delays = 0

    def delay(self, unchanged: int, random: float) -> float:
        """Return the first, raise at the second."""
        del unchanged, random
        self.delays += 1
        if self.delays == 2:
            raise asyncio.CancelledError
        return 100


# A checkpoint holds no schedule of a user's own.
@pytest.mark.parametrize("interface", [one for one in INTERFACES if one.name in {"awaited", "iterated", "batch"}])
async def test_schedule_that_ends_in_a_cancellation(kiosk: Simulator, client: Client, interface: Interface) -> None:
    """A schedule's own `CancelledError` ends its wait with an error, and no other wait for the same card."""
    kiosk.add(CARD, PRINTS)
    waiting = asyncio.create_task(_ending(interface, client, CancelledLater()))
    await asyncio.sleep(10)
    report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert report.statuses[-1] == "PRODUCED"
    assert "schedule was cancelled" in str(await waiting)
    assert_idle(client)


class InvalidLater:
    """A schedule whose delays are invalid once there were so many."""

    def __init__(self, valid: int) -> None:
        self.valid = valid

    def delay(self, unchanged: int, random: float) -> float:
        """Return 5 seconds, and in the end none."""
        del unchanged, random
        self.valid -= 1
        return 0.0 if self.valid < 0 else 5.0


each_moment_of_a_schedule = pytest.mark.parametrize(
    ("valid", "ends_at"), [(0, 0), (1, 4), (2, 9)], ids=["after a poll", "after an event", "when a poll is postponed"]
)


@each_moment_of_a_schedule
@pytest.mark.parametrize("interface", [one for one in INTERFACES if one.name in {"awaited", "iterated", "batch"}])
async def test_schedule_whose_delay_is_invalid(
    kiosk: Simulator, client: Client, interface: Interface, valid: int, ends_at: float
) -> None:
    """A delay that is no time to sleep ends the wait with a `UsageError`, and observers see its end then."""
    ended: list[tuple[float, type]] = []

    def observe(event: Event) -> None:
        if isinstance(event, WaitEnded):
            ended.append((round(now()), type(event.error)))

    client.on_event = observe
    kiosk.add(CARD, "never")
    waiting = asyncio.create_task(interface.follow(client, CARD, schedule=InvalidLater(valid)))
    await asyncio.sleep(4)
    client.notify(event_of(CARD, "IN_PROGRESS"))  # news: a poll due less than 8 s later is postponed
    report = await waiting
    assert "a schedule's delay must be a finite number of seconds above 0" in str(report.error)
    assert ended == [(ends_at, UsageError)]
    assert_idle(client)


class RaisesLater(InvalidLater):
    """A schedule that raises once there were so many delays."""

    def __init__(self, valid: int, error: type[BaseException]) -> None:
        super().__init__(valid)
        self.error = error

    def delay(self, unchanged: int, random: float) -> float:
        """Return 5 seconds, and in the end raise."""
        delay = super().delay(unchanged, random)
        if not delay:
            raise self.error
        return delay


@each_moment_of_a_schedule
@pytest.mark.parametrize(
    "errors",
    [(asyncio.CancelledError, UsageError), (StopAsyncIteration, RuntimeError), (LookupError, LookupError)],
    ids=lambda errors: errors[0].__name__,
)
@pytest.mark.parametrize("interface", [one for one in INTERFACES if one.name in {"awaited", "iterated", "batch"}])
async def test_schedule_that_raises(  # noqa: PLR0917 - what it is tried with
    kiosk: Simulator,
    client: Client,
    interface: Interface,
    valid: int,
    ends_at: float,
    errors: tuple[type[BaseException], type[Exception]],
) -> None:
    """What a schedule raises ends its wait with an error then: as no cancellation, and not as if the wait were over."""
    error, raised = errors
    kiosk.add(CARD, "never")
    waiting = asyncio.create_task(interface.follow(client, CARD, schedule=RaisesLater(valid, error)))
    await asyncio.sleep(4)
    client.notify(event_of(CARD, "IN_PROGRESS"))
    [ended] = await asyncio.gather(waiting, return_exceptions=True)
    assert type(ended.error if isinstance(ended, Report) else ended) is raised
    assert round(now()) == max(4, ends_at)
    assert_idle(client)


async def test_schedule_that_raises_between_two_steps(kiosk: Simulator, client: Client) -> None:
    """What a schedule raises at an event between two steps is raised by the next one at once, and no poll is made."""
    kiosk.add(CARD, "never")
    steps = aiter(client.wait_until_final(CARD.profile_id, CARD.card_token, schedule=RaisesLater(1, LookupError)))
    await anext(steps)
    began, requests = asyncio.get_running_loop().time(), len(kiosk.requests)
    client.notify(event_of(CARD, "IN_PROGRESS"))
    with pytest.raises(LookupError):
        await anext(steps)
    assert (asyncio.get_running_loop().time(), len(kiosk.requests)) == (began, requests)


class InvalidDelay(InvalidLater):
    """A schedule whose delay is no number of seconds."""

    def __init__(self, delay: Any) -> None:
        super().__init__(1)
        self.invalid = delay

    def delay(self, unchanged: int, random: float) -> float:
        """Return 5 seconds, and then no seconds."""
        return super().delay(unchanged, random) or self.invalid


@pytest.mark.parametrize(
    "delay", [None, "5", Decimal(5), True, math.nan, 10**5000, Fraction(1, 10**400)], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("interface", [one for one in INTERFACES if one.name in {"awaited", "iterated", "batch"}])
async def test_schedule_whose_delay_is_no_number(
    kiosk: Simulator, client: Client, interface: Interface, delay: Any
) -> None:
    """A delay of another type ends the wait with a `UsageError` that says what a delay must be."""
    kiosk.add(CARD, "never")
    report = await interface.follow(client, CARD, schedule=InvalidDelay(delay))
    assert "a schedule's delay must be a finite number of seconds" in str(report.error)
    assert_idle(client)


# --- Secrets ---


@each_interface_of_one_client
async def test_no_secret_is_shown(kiosk: Simulator, interface: Interface, caplog: pytest.LogCaptureFixture) -> None:
    """The bearer token is in no record and no error of a wait, and a card's token is whole in no record."""
    caplog.set_level(logging.DEBUG)
    token = "bearer-canary-5b1d7f9e2c"
    async with Client(token, base_url=kiosk.base_url, attempts=2) as client:
        kiosk.add(CARD, "never")  # the simulator refuses this token
        report = await interface.follow(client, CARD, schedule=EVERY_5)
    assert isinstance(report.error, Unauthorized)
    printed = f"{report.error} {report.error!r} {report.error.__cause__!r} {vars(report.error)}"
    records = " ".join(
        f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name == "cardprod"
    )
    assert token not in printed + records
    assert CARD.card_token not in records
