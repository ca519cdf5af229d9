"""Very many cards: what is reported of each, what is held back, and what is left when the block is left."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import UserDict
from collections.abc import Mapping
from datetime import datetime
from itertools import count, groupby, product
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from cardprod import (
    AdaptiveSchedule,
    Backoff,
    BadReply,
    Card,
    CardNotFound,
    CardprodError,
    Checkpoint,
    Client,
    ProductionStatus,
    Progress,
    RateLimit,
    ServerError,
    Status,
    Transition,
    TransportError,
    UsageError,
    WaitTimeout,
)
from cardprod.models import KnownCard
from cardprod.simulator import Fault, Simulator
from cardprod.telemetry import RequestStarted
from tests.cards import CARD, event_of
from tests.clock import wall_clock_of_the_loop
from tests.leftovers import assert_idle, assert_nothing_left
from tests.raw_server import RawServer, http_answer
from tests.table import Table
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from cardprod._polling.card_source import Cards
    from cardprod.telemetry import Event

FOREVER = RateLimit(per_second=1, per_minute=1)
PLAN = [("READY", 20.0), ("IN_PROGRESS", 30.0), ("PRODUCED", 0.0)]


@pytest.fixture(autouse=True)
def _wall_clock() -> Iterator[None]:
    with wall_clock_of_the_loop():
        yield


def cards_of(count: int) -> list[Card]:
    return [Card(123456, f"card-{number}") for number in range(count)]


def add(kiosk: Simulator, count: int) -> list[Card]:
    """Add so many cards, all with the same plan."""
    return [kiosk.add(card, PLAN) for card in cards_of(count)]


def assert_nothing_subscribed(client: Client) -> None:
    """Check that nothing of a batch is left in its client."""
    shared = client._poller.subscriptions  # pyright: ignore[reportPrivateUsage]
    assert len(shared) == 0
    assert not client._batches  # pyright: ignore[reportPrivateUsage]
    assert not any(shared.is_polled(card) for card in cards_of(100))
    assert_idle(client)


async def steps_of(client: Client, card: Card, **options: Any) -> list[Transition]:
    return [step async for step in client.wait_until_final(card.profile_id, card.card_token, **options)]


# --- Where cards come from ---


async def generate(cards: list[Card]) -> AsyncIterator[Card]:
    for card in cards:
        await asyncio.sleep(1)
        yield card


def sources(cards: list[Card]) -> dict[str, Cards]:
    return {
        "list": cards,
        "generator": (card for card in cards),
        "dict": dict.fromkeys(cards),
        "tuples": [(card.profile_id, card.card_token) for card in cards],
        "dict of tuples": {(card.profile_id, card.card_token): 1 for card in cards},
        "async": generate(cards),
    }


async def test_any_source(kiosk: Simulator, client: Client) -> None:
    """Cards come from any iterable or async iterable, for one poll of each or until all are final."""
    with Table() as table:
        for kind in sources([]):
            cards = add(kiosk, 3)
            with table.row(kind):
                outcomes = await client.get_statuses(sources(cards)[kind])
                assert _statuses(outcomes) == dict.fromkeys(cards, Status.READY)
                outcomes = await client.wait_until_all_final(sources(cards)[kind])
                assert _statuses(outcomes) == dict.fromkeys(cards, Status.PRODUCED)
                assert_nothing_subscribed(client)


def _statuses(outcomes: dict[Card, ProductionStatus | CardprodError]) -> dict[Card, object]:
    return {card: getattr(outcome, "status", outcome) for card, outcome in outcomes.items()}


async def test_no_cards(client: Client) -> None:
    """A batch without cards has no outcomes."""
    assert await client.get_statuses([]) == {}
    assert await client.wait_until_all_final(()) == {}


async def test_repeated_cards(kiosk: Simulator, client: Client) -> None:
    """A card that comes twice, as a tuple or after it has ended, is polled once and waited for once."""
    add(kiosk, 2)
    again: list[Any] = [(123456, "card-0"), Card(123456, "card-0"), (123456, "card-1")]
    assert len(await client.get_statuses(again)) == 2
    assert len(kiosk.requests) == 2

    async def late() -> AsyncIterator[Card]:
        yield Card(123456, "card-0")
        await asyncio.sleep(200)
        yield Card(123456, "card-0")

    async with client.wait_until_all_final(late()) as steps:
        reported = [step async for _, step in steps]
    assert [str(step.current.status) for step in reported if isinstance(step, Transition)] == [
        "READY",
        "IN_PROGRESS",
        "PRODUCED",
    ]


async def test_what_is_no_card_is_an_error_value(kiosk: Simulator, client: Client) -> None:
    """An item that is no card is an error beside the others, under that item, and names its place."""
    bad: list[Any] = [None, 5, (1,), (0, "card"), (1, "no spaces"), "123456", [1, "list"]]
    (card,) = add(kiosk, 1)
    with Table() as table:
        for start in (client.get_statuses, client.wait_until_all_final):
            with table.row(start.__name__):
                outcome: dict[Any, Any] = await start([card, *bad])
                assert isinstance(outcome.pop(card), ProductionStatus)
                assert list(outcome) == [*bad[:-1], "[1, 'list']"]
                assert all(isinstance(error, UsageError) for error in outcome.values())
                assert "card number 2: " in str(outcome[None])
                assert_nothing_subscribed(client)


class Unhashable:
    """An item that cannot be a key, nor be shown."""

    def __hash__(self) -> int:
        raise ValueError("no hash")

    def __repr__(self) -> str:
        raise ValueError("no repr")


async def test_item_that_raises(kiosk: Simulator, client: Client) -> None:
    """An item that cannot be a key, nor be shown, is an error beside the others too, under its class."""
    (card,) = add(kiosk, 1)
    items: list[Any] = [Unhashable(), card]
    for start in (client.get_statuses, client.wait_until_all_final):
        outcome: dict[Any, Any] = await start(items)
        assert isinstance(outcome.pop(card), ProductionStatus)
        ((key, error),) = outcome.items()
        assert key.startswith("<Unhashable at 0x")
        assert isinstance(error, UsageError)
        assert_nothing_subscribed(client)


class NoIterator:
    """What seems to be iterable, and is not."""

    def __iter__(self) -> Any:
        return None


class NoAsyncIterator:
    """What seems to be iterable by `async for`, and is not."""

    def __aiter__(self) -> Any:
        return None


async def test_source_that_cannot_be_iterated(client: Client) -> None:
    """A source that turns out not to be iterable ends its batch with a `UsageError`."""
    for source in (NoIterator(), NoAsyncIterator()):
        for start in (client.get_statuses, client.wait_until_all_final):
            with pytest.raises(UsageError, match="cards cannot be iterated: "):
                await start(source)
            assert_nothing_subscribed(client)


async def test_failed_cards_leave_no_garbage(kiosk: Simulator) -> None:
    """Cards that end with an error leave nothing for the garbage collector."""
    cards = [Card(123456, f"unknown-{number}") for number in range(20)]
    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        await client.get_statuses(cards)  # whatever is made once
        gc.collect()
        gc.disable()
        try:
            for start in (client.get_statuses, client.wait_until_all_final):
                outcome = await start(cards)
                assert all(isinstance(error, CardNotFound) for error in outcome.values())
                del outcome
            sweep = await client.sweep(Checkpoint.for_cards(cards))
            assert len(sweep.steps) == len(cards)
            del sweep
            await asyncio.sleep(1)
            errors = [thing for thing in gc.get_objects() if isinstance(thing, CardNotFound)]
            assert [error for error in errors if error.card in cards] == []
        finally:
            gc.enable()


async def test_checkpoint_of_a_card_that_was_added_again(kiosk: Simulator, client: Client) -> None:
    """A card that ended twice before either end was read is saved until both were."""
    card = kiosk.add(CARD, [("PRODUCED", 0.0)])
    async with client.wait_until_all_final(None) as steps:
        for _ in range(2):
            steps.add(card)
            await asyncio.sleep(5)
        async for _ in steps:
            break
        (saved,) = steps.checkpoint().pending
        assert [step.current.status for step in saved.undelivered] == ["PRODUCED"]
        async for _ in steps:
            break
        assert steps.checkpoint().is_done


async def test_checkpoint_in_an_observer(kiosk: Simulator, client: Client) -> None:
    """A checkpoint taken in an observer, at any event, holds the card until its end was delivered, and that end."""
    (card,) = add(kiosk, 1)
    seen: list[tuple[str, bool]] = []
    async with client.wait_until_all_final([card], schedule=Backoff(first=10, factor=1)) as steps:

        def save(event: Event) -> None:
            (pending,) = steps.checkpoint().pending
            last = [step.current.status for step in pending.undelivered][-1:]
            seen.append((type(event).__name__, last == ["PRODUCED"]))

        client.on_event = save
        async for _, step in steps:
            assert isinstance(step, Transition)
            if step.is_final:
                client.on_event = None
    assert ("TransitionSeen", True) in seen
    assert seen[-1] == ("WaitEnded", True)


class Stopped(BaseException):
    """What is no `Exception`, as pytest's own outcomes are not."""


@pytest.mark.parametrize("error", [LookupError, Stopped, asyncio.CancelledError])
async def test_source_that_raises(kiosk: Simulator, client: Client, error: type[BaseException]) -> None:
    """What a source raises ends its batch, as itself or, if it is a cancellation, as an error; and nothing hangs."""

    def plain() -> Iterator[Card]:
        yield add(kiosk, 1)[0]
        raise error("the cursor is gone")

    async def asynchronous() -> AsyncIterator[Card]:
        for card in plain():
            yield card

    is_cancelled = error is asyncio.CancelledError
    raised, words = (UsageError, "source of cards was cancelled") if is_cancelled else (error, "the cursor is gone")
    for start in (client.get_statuses, client.wait_until_all_final):
        both: list[Cards] = [plain(), asynchronous()]
        for source in both:
            with pytest.raises(raised, match=words):
                async with asyncio.timeout(600):
                    await start(source)
            assert_nothing_subscribed(client)


async def test_poll_cancelled_by_a_stranger(kiosk: Simulator, client: Client) -> None:
    """A task of a batch that somebody else cancels ends the batch with an error, and nothing hangs."""

    def cancel(event: Event) -> None:
        task = asyncio.current_task()
        if isinstance(event, RequestStarted) and task is not None:
            task.cancel()

    client.on_event = cancel
    for start in (client.get_statuses, client.wait_until_all_final):
        with pytest.raises(UsageError, match="by somebody else"):
            async with asyncio.timeout(600):
                await start(add(kiosk, 1))
        assert_nothing_subscribed(client)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks are of Python 3.12 and later")
async def test_nothing_is_polled_after_an_eager_source_has_failed(kiosk: Simulator, client: Client) -> None:
    """A batch that its source has broken off in the first steps of an eager task polls nothing."""
    cards = add(kiosk, 3)
    eager: Any = getattr(asyncio, "eager_task_factory", None)
    asyncio.get_running_loop().set_task_factory(eager)

    def fail() -> Iterator[Card]:
        yield from cards
        raise LookupError

    async with client.wait_until_all_final(fail()) as steps:
        await asyncio.sleep(5)
        with pytest.raises(LookupError):
            await anext(aiter(steps))
    assert kiosk.requests == []


async def test_added_while_it_is_resumed(kiosk: Simulator, client: Client) -> None:
    """A card of a checkpoint that is added as well is waited for as the checkpoint says, and reported once."""
    cards = add(kiosk, 1)
    async with client.wait_until_all_final(cards, timeout=3600) as steps:
        await anext(aiter(steps))
        saved = steps.checkpoint()
    async with client.resume(saved) as steps:
        steps.add(cards[0])
        (pending,) = steps.checkpoint().pending
        assert pending.deadline_at == saved.pending[0].deadline_at
        statuses = [step.current.status async for _, step in steps if isinstance(step, Transition)]
    assert statuses == ["IN_PROGRESS", "PRODUCED"]


async def test_batch_used_from_another_thread(client: Client) -> None:
    """What goes by the clock of the loop is refused elsewhere, with an error that says so."""
    async with client.wait_until_all_final(None) as steps:
        for use in (lambda: steps.add(CARD), steps.checkpoint):
            with pytest.raises(UsageError, match="event loop"):
                await asyncio.to_thread(use)
        steps.no_more()


async def test_batch_left_before_its_tasks_run_uses_no_budget(kiosk: Simulator) -> None:
    """Batches that are left before any task of theirs runs send nothing, and leave the whole rate limit to others."""
    cards = add(kiosk, 10)
    limit = RateLimit(per_second=10, per_minute=10)
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit) as client:
        for _ in range(10):
            async with client.wait_until_all_final(cards):
                pass
            async with client.get_statuses(cards):
                await asyncio.sleep(0)
        began_at = asyncio.get_running_loop().time()
        sent = len(kiosk.requests)
        await asyncio.gather(*(client.get_status(card.profile_id, card.card_token) for card in cards[sent:]))
        assert asyncio.get_running_loop().time() - began_at < 5
        assert_idle(client)


async def test_tuples_find_their_cards(kiosk: Simulator, client: Client) -> None:
    """A card equals its tuple and unpacks like it, so either finds the other's outcome."""
    (card,) = add(kiosk, 1)
    profile_id, card_token = card
    outcome: dict[Any, Any] = await client.get_statuses([card])
    assert outcome[profile_id, card_token] is outcome[card]
    assert {(profile_id, card_token): 1}[card] == 1  # type: ignore[index]
    assert card != (profile_id, "another")


async def test_no_source(client: Client) -> None:
    """What cannot be iterated, or is a text, one card or a dict of something else, is refused at each call."""
    a_card, a_dict = r"not one card: pass a list, \[card\]$", "not a dict of something else$"
    bad: list[tuple[Any, str]] = [
        ("123456/card", "not a text$"),
        (b"bytes", "not a text$"),
        (bytearray(), "not a text$"),
        (5, "int$"),
        (CARD, a_card),
        ((123456, "card"), a_card),
        ({"profile_id": 1, "card": "a"}, a_dict),
        ({123456: "card"}, a_dict),
        (MappingProxyType({123456: "card"}), a_dict),
    ]
    calls: list[Any] = [client.get_statuses, client.wait_until_all_final, Checkpoint.for_cards]
    with Table() as table:
        for call, (source, words) in product(calls, bad):
            with table.row(call.__name__, source), pytest.raises(UsageError, match=f"^cards must be .*{words}"):
                call(source)
    with pytest.raises(UsageError, match=r"^cards must be iterable, .* NoneType$"):
        client.get_statuses(None)  # type: ignore[arg-type] # a batch of None is one that cards are added to


async def test_no_known_status(client: Client) -> None:
    """What is no status, or holds what none does, is refused as a known one at each call."""
    status: Any = 5
    bad: list[Any] = ["PRODUCED", ProductionStatus(status), ProductionStatus("")]
    async with client.wait_until_all_final(None) as steps:
        calls: dict[str, Callable[[Any], object]] = {
            "wait_until_final": lambda after: client.wait_until_final(CARD.profile_id, CARD.card_token, after=after),
            "wait_until_all_final": lambda after: client.wait_until_all_final([CARD], after={CARD: after}),
            "add": lambda after: steps.add(CARD, after=after),
            "for_cards": lambda after: Checkpoint.for_cards([CARD], after={CARD: after}),
            "KnownCard": lambda after: KnownCard(CARD.profile_id, CARD.card_token, after),
        }
        with Table() as table:
            for (name, call), known in product(calls.items(), bad):
                with table.row(name, known), pytest.raises(UsageError, match=r"^after|: after"):
                    call(known)
        steps.no_more()


async def test_statuses_are_lazy(kiosk: Simulator, client: Client) -> None:
    """Cards are taken from the source as they can be polled, so that a slow reader does not get far ahead."""
    taken = 0

    def counted() -> Iterator[Card]:
        nonlocal taken
        for taken, card in enumerate(add(kiosk, 2000), 1):  # noqa: B007 - it is asserted below
            yield card

    async with client.get_statuses(counted()) as pairs:
        async for _ in pairs:
            break
        await asyncio.sleep(3600)
        assert 100 <= taken <= 400
    assert_nothing_subscribed(client)


async def test_waits_take_all(kiosk: Simulator, client: Client) -> None:
    """Cards to wait for are all taken at once, however few can be polled."""
    async with client.wait_until_all_final([kiosk.add(card, "never") for card in cards_of(5000)]) as steps:
        await until("5000 cards", lambda: steps.progress.total, lambda total: total == 5000, interval=0)
        assert steps.progress.pending == 5000
        assert steps.progress.requests < 200


# --- What is reported ---


class Counted(UserDict[Any, Any]):
    """Statuses by card, which count how many entries are iterated."""

    read = 0

    def __iter__(self) -> Iterator[Any]:
        for card in super().__iter__():
            self.read += 1
            yield card


async def test_very_many_known_statuses(kiosk: Simulator, client: Client) -> None:
    """Of very many known statuses few are read at once; of the others each card's own, an invalid one as its error."""
    first, second, third = cards = add(kiosk, 3)
    ready = await client.get_status(first.profile_id, first.card_token)
    known = Counted({(1, f"other-{number}"): ready for number in range(5000)})
    known |= {tuple(first): ready, second: "READY", third: CardprodError("of an earlier wait")}
    async with client.wait_until_all_final(cards, after=known) as steps:
        assert known.read <= 1000
        results = [pair async for pair in steps]
    assert known.read <= 1000
    first_steps = dict(reversed(results))
    began_with = {card: step.previous for card, step in first_steps.items() if isinstance(step, Transition)}
    assert began_with == {first: ready, third: None}
    error = first_steps[second]
    assert isinstance(error, UsageError)
    assert "after: a status must be a ProductionStatus" in str(error)
    async with client.wait_until_all_final(None, after=known) as steps:
        with pytest.raises(UsageError, match="after: a status must be a ProductionStatus"):
            steps.add(second)


class LazyDict(dict[Any, Any]):
    """Statuses by card that are read when they are asked for, and one of which cannot be."""

    def __getitem__(self, card: Any) -> Any:
        if card == (123456, "card-0"):
            raise OSError("the disk is gone")
        return super().__getitem__(card)


class LazyMapping(Mapping[Any, Any]):
    """Such a mapping that is no dict, and reads as well what `items` gives."""

    def __init__(self, ends: dict[Any, Any]) -> None:
        self._ends = LazyDict(ends)

    def __getitem__(self, card: Any) -> Any:
        return self._ends[card]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ends)

    def __len__(self) -> int:
        return len(self._ends)


@pytest.mark.parametrize("lazy", [LazyDict, LazyMapping])
async def test_known_status_that_cannot_be_read(
    kiosk: Simulator, client: Client, lazy: type[LazyDict | LazyMapping]
) -> None:
    """What the statuses that are known raise for one card is an error of that card, and ends no other wait."""
    first, second = add(kiosk, 2)
    error = CardprodError("of an earlier wait")
    after = lazy({first: error, second: error})
    outcome = await client.wait_until_all_final([first, second], after=after)
    assert isinstance(outcome[first], UsageError)
    assert "the disk is gone" in str(outcome[first])
    assert isinstance(outcome[second], ProductionStatus)
    with pytest.raises(UsageError, match="the disk is gone"):
        Checkpoint.for_cards([second, first], after=after)
    assert len(Checkpoint.for_cards([second], after=after).pending) == 1


def test_invalid_known_statuses(client: Client) -> None:
    """What is wrong with known statuses is said at once, as far as it is among the first of them."""
    invalid: Any
    for invalid in ({"a": ProductionStatus("READY")}, {(1, "a"): "READY"}, {("1", "a"): ProductionStatus("READY")}, ""):
        with pytest.raises(UsageError):
            client.wait_until_all_final([], after=invalid)
        with pytest.raises(UsageError):
            Checkpoint.for_cards([], after=invalid)


async def test_errors_are_values(kiosk: Simulator, client: Client) -> None:
    """One card's error is reported with its card, and ends no other wait."""
    known = add(kiosk, 3)
    statuses = await client.get_statuses([*known, (1, "unknown")])
    missing = statuses.pop(Card(1, "unknown"))
    assert isinstance(missing, CardNotFound)
    assert missing.card == Card(1, "unknown")
    assert all(isinstance(status, ProductionStatus) for status in statuses.values())
    kiosk.fail_next(Fault.server_error(503), times=100, card=known[0])
    outcome = await client.wait_until_all_final([*known, (1, "unknown")], max_failures=2)
    kinds = [type(outcome[card]) for card in (*known, Card(1, "unknown"))]
    assert kinds == [ServerError, ProductionStatus, ProductionStatus, CardNotFound]


async def test_progress(kiosk: Simulator, client: Client) -> None:
    """Progress counts cards by how they ended, and requests."""
    cards = [kiosk.add((1, f"{plan}-{n}"), plan) for plan in ("prints", "jams", "rejected") for n in range(2)]
    waits = client.wait_until_all_final([*cards, (1, "unknown")])
    assert waits.progress == Progress(total=0, pending=0, produced=0, failed=0, errors=0, requests=0)
    await waits
    requests = len(kiosk.requests)
    assert waits.progress == Progress(total=7, pending=0, produced=2, failed=4, errors=1, requests=requests)
    assert "0 of 7 cards pending" in repr(waits)


# --- How it is used ---


async def test_used_once(kiosk: Simulator, client: Client) -> None:
    """A batch is used once, and iterated inside its block by one task."""
    for batch in (client.get_statuses(add(kiosk, 1)), client.wait_until_all_final(add(kiosk, 1))):
        with pytest.raises(UsageError, match="async with"):
            aiter(batch)
        await batch
        with pytest.raises(UsageError, match="once"):
            await batch
    async with client.wait_until_all_final(add(kiosk, 1)) as steps:
        await anext(aiter(steps))
        reading = asyncio.ensure_future(anext(aiter(steps)))
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="another task"):
            await anext(aiter(steps))
        await reading


async def test_cards_added(kiosk: Simulator, client: Client) -> None:
    """A batch begun without cards stays open for those that are added, until `no_more`."""
    cards = add(kiosk, 3)
    steps = client.wait_until_all_final(None)
    with pytest.raises(UsageError, match="inside"):
        steps.add(cards[0])
    async with steps:
        reading = asyncio.create_task(_read(aiter(steps)))
        await asyncio.sleep(1000)
        assert steps.add((123456, "card-0")) == cards[0] == steps.add(cards[0])
        await asyncio.sleep(1000)
        kiosk.add(cards[0], PLAN)
        steps.add(cards[0])  # it has ended, and is waited for again
        steps.add(cards[1])
        steps.no_more()
        seen = await reading
        with pytest.raises(UsageError, match="has ended"):
            steps.add(cards[2])
    finals = [card for card, step in seen if isinstance(step, Transition) and step.is_final]
    assert sorted(card.card_token for card in finals) == ["card-0", "card-0", "card-1"]
    assert steps.progress.total == 3
    with pytest.raises(UsageError, match="has ended"):
        steps.add(cards[2])


@pytest.mark.parametrize("is_paused", [False, True])
async def test_the_timeout_of_a_card_that_is_added(kiosk: Simulator, client: Client, *, is_paused: bool) -> None:
    """A card that is added with a timeout of its own has that one, and the others have the batch's.

    That is so whatever their order, and also where a pause lets none have its last poll: it could take 10 s.
    """
    shorter, longer, other, endless = [kiosk.add(card, "never") for card in cards_of(4)]
    async with client.wait_until_all_final(None, timeout=60, batch_timeout=200) as steps:
        for wrong in (-1, float("nan"), True):
            with pytest.raises(UsageError, match="timeout must be"):
                steps.add(shorter, timeout=wrong)
        if is_paused:
            client.pause(1000)
        steps.add(longer, timeout=90)
        steps.add(other)
        steps.add(shorter, timeout=5)
        steps.add(endless, timeout=float("inf"))
        steps.no_more()
        ends = {card: step.elapsed async for card, step in steps if isinstance(step, WaitTimeout)}
    seconds = {shorter: 5, other: 60, longer: 90, endless: 200}
    assert ends == {card: pytest.approx(after + 10 * is_paused, abs=1) for card, after in seconds.items()}


async def test_deadlines_that_pass_while_nothing_runs(kiosk: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards whose deadline passes while their process stands still have their last poll when it goes on."""
    loop, slept = asyncio.get_running_loop(), [0.0]
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + slept[-1])
    async with Client(kiosk.token, base_url=kiosk.base_url, max_concurrency=2) as client:
        loop.call_later(45, slept.append, 3600.0)
        outcome = await client.wait_until_all_final(add(kiosk, 20), timeout=60, schedule=Backoff(first=20, factor=1))
    assert [end.status for end in outcome.values() if isinstance(end, ProductionStatus)] == ["PRODUCED"] * 20


async def test_open_batch_ends_at_its_timeout(kiosk: Simulator, client: Client) -> None:
    """A batch to which cards are added ends at its `batch_timeout`, without `no_more`."""
    card = kiosk.add(cards_of(1)[0], "never")
    async with asyncio.timeout(600), client.wait_until_all_final(None, timeout=None, batch_timeout=20) as steps:
        steps.add(card)
        *_, (_, end) = [pair async for pair in steps]
    assert isinstance(end, WaitTimeout)
    assert end.elapsed == pytest.approx(20, abs=1)


async def _read(pairs: AsyncIterator[tuple[Card, Any]]) -> list[tuple[Card, Any]]:
    return [pair async for pair in pairs]


async def test_client_closed_meanwhile(kiosk: Simulator) -> None:
    """Closing a client ends its batches with a `UsageError`."""
    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        batch = asyncio.ensure_future(client.wait_until_all_final(add(kiosk, 3)))
        await asyncio.sleep(5)
    with pytest.raises(UsageError, match="closed"):
        await batch
    with pytest.raises(UsageError, match="closed"):
        await client.get_statuses(cards_of(1))


async def test_token_source_that_raises(kiosk: Simulator) -> None:
    """What a token source raises ends the batch with it: it is no card's error."""

    async def locked() -> str:
        raise PermissionError("the vault is locked")

    async with Client(locked, base_url=kiosk.base_url) as client:
        for batch in (client.get_statuses(add(kiosk, 3)), client.wait_until_all_final(add(kiosk, 3))):
            with pytest.raises(PermissionError, match="the vault is locked"):
                await batch
        assert_nothing_subscribed(client)


async def test_refresh_that_takes_a_second(kiosk: Simulator) -> None:
    """Polls that waited together for a token stay within the rate limit, beside those that come after it."""
    cards = [kiosk.add(card, "never") for card in cards_of(250)]

    async def refreshing() -> str:
        await asyncio.sleep(max(0.0, began + 1 - asyncio.get_running_loop().time()))
        return kiosk.token

    ways: list[Callable[[Client], Awaitable[object]]] = [
        lambda client: client.get_statuses(cards),
        lambda client: client.wait_until_all_final(cards, timeout=5),
        lambda client: client.sweep(Checkpoint.for_cards(cards)),
    ]
    for poll_all in ways:
        before, began = len(kiosk.requests), asyncio.get_running_loop().time()
        async with Client(refreshing, base_url=kiosk.base_url) as client:
            await poll_all(client)
        sent = [request.at for request in kiosk.requests[before:]]
        assert max(sum(first <= at < first + 1 for at in sent) for first in sent) <= 100
        assert len(sent) >= len(cards)
        await asyncio.sleep(60)


@pytest.mark.parametrize("refused", [0, 10])
async def test_slow_token_source(kiosk: Simulator, refused: int) -> None:
    """A token source that takes its time at each request costs no request of the limit, and none is counted unsent."""
    cards, loop = [kiosk.add(card, "never") for card in cards_of(60)], asyncio.get_running_loop()

    async def slow() -> str:
        await asyncio.sleep(0.02)
        return kiosk.token

    kiosk.fail_next(Fault.too_many_requests(1), times=refused)
    async with Client(slow, base_url=kiosk.base_url, rate_limit=RateLimit(per_second=20, per_minute=1000)) as client:
        began = loop.time()
        async with client.get_statuses(cards) as outcomes:
            answered = [outcome async for _, outcome in outcomes if isinstance(outcome, ProductionStatus)]
        assert outcomes.progress.requests == len(kiosk.requests) == len(answered) + refused == len(cards) + refused
        assert loop.time() < began + (3.5 if not refused else 9)


async def test_requests_that_a_standstill_held_back(kiosk: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests whose permits were granted before their process stood still stay within the rate limit after it."""
    loop, stood = asyncio.get_running_loop(), 0.0
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + stood)

    def cards() -> Iterator[Card]:
        nonlocal stood
        for number, card in enumerate(cards_of(300)):
            if number == 90:
                stood = 1.5
            yield kiosk.add(card, "never")

    async with Client(kiosk.token, base_url=kiosk.base_url, max_concurrency=300) as client:
        assert len(await client.get_statuses(cards())) == 300
    sent = [request.at for request in kiosk.requests]
    assert max(sum(first <= at < first + 1 for at in sent) for first in sent) <= 100


async def test_one_error_that_a_token_source_raises_again_and_again(kiosk: Simulator) -> None:
    """An error that a token source keeps, as that of a shared future, names its own card for each who gets it."""
    kept = TransportError("the vault does not answer")

    async def vault() -> str:
        raise kept

    async with Client(vault, base_url=kiosk.base_url, attempts=1) as client:
        for batch in (client.get_statuses(add(kiosk, 3)), client.wait_until_all_final(add(kiosk, 3), max_failures=1)):
            outcome = await batch
            assert {card: getattr(error, "card", None) for card, error in outcome.items()} == {
                card: card for card in cards_of(3)
            }
        assert kept.card is None


async def test_options_that_cannot_be_right(client: Client) -> None:
    """Options that cannot be right are refused at once, by name."""
    bad: dict[str, Any] = {
        "timeout": -1,
        "batch_timeout": float("nan"),
        "max_failures": 0,
        "schedule": AdaptiveSchedule,
    }
    with Table() as table:
        for name, value in bad.items():
            with table.row(name, value), pytest.raises(UsageError, match=name):
                client.wait_until_all_final([], **{name: value})


# --- What is held back ---


async def test_slow_reader(kiosk: Simulator, client: Client) -> None:
    """A slow reader holds the polls back, and gets everything in the end."""
    cards = add(kiosk, 600)
    async with client.wait_until_all_final(cards, schedule=Backoff(first=15, factor=1)) as steps:
        pairs = aiter(steps)
        reported = [await anext(pairs)]
        await asyncio.sleep(3600)
        assert len(kiosk.requests) < 500
        reported += [pair async for pair in pairs]
    ends = [card for card, step in reported if isinstance(step, Transition) and step.is_final]
    assert sorted(ends, key=str) == sorted(cards, key=str)


async def test_single_poll_beside_many(kiosk: Simulator, client: Client, *, full_size: bool) -> None:
    """A single poll is answered soon, however many cards are queued."""
    count, polls = (50_000, 200) if full_size else (10_000, 20)
    add(kiosk, 1)
    loop = asyncio.get_running_loop()
    async with (
        client.wait_until_all_final(cards_of(count), max_failures=100) as waits,
        client.get_statuses(cards_of(count)) as pairs,
    ):
        reading = asyncio.create_task(_read(aiter(pairs)))
        for _ in range(polls):
            await asyncio.sleep(2.5)
            began_at = loop.time()
            await client.get_status(123456, "card-0")
            assert loop.time() - began_at < 2
        assert waits.progress.pending > count / 2  # most of them are still there
        assert not reading.done()
        reading.cancel()
    assert_nothing_subscribed(client)


# --- Deadlines ---


async def test_deadline_without_permits(kiosk: Simulator) -> None:
    """Without a permit for its last poll a wait still ends soon after its deadline."""
    loop = asyncio.get_running_loop()
    deadlines: list[dict[str, Any]] = [{"timeout": 60}, {"batch_timeout": 60}, {"timeout": 900, "batch_timeout": 60}]
    with Table() as table:
        for options in deadlines:
            async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=FOREVER) as client:
                began_at = loop.time()
                with table.row(options):
                    outcome = await client.wait_until_all_final(add(kiosk, 500), **options)
                    assert 60 <= loop.time() - began_at <= 75
                    assert len(outcome) == 500
                    assert sum(isinstance(error, WaitTimeout) for error in outcome.values()) >= 498
                    assert_nothing_subscribed(client)


async def test_batch_timeout_leaves_the_source(kiosk: Simulator, client: Client) -> None:
    """Cards that a source has not yielded by the batch's end are not waited for."""

    async def trickle() -> AsyncIterator[Card]:
        for card in add(kiosk, 1000):
            yield card
            await asyncio.sleep(10)

    outcome = await client.wait_until_all_final(trickle(), batch_timeout=65)
    assert len(outcome) == 7


# --- Leaving ---


@pytest.mark.parametrize("is_async", [False, True])
async def test_generator_of_a_batch_that_was_left(client: Client, *, is_async: bool) -> None:
    """A generator that only its batch holds is closed when the batch is left, and not by the garbage collector."""
    closed: list[str] = []

    def given() -> Iterator[Card]:
        try:
            yield from (Card(1, f"card-{number}") for number in count())
        finally:
            closed.append("plain")

    async def asked() -> AsyncIterator[Card]:
        try:
            for number in count():
                yield Card(1, f"card-{number}")
        finally:
            await asyncio.sleep(0)
            closed.append("async")

    gc.disable()
    try:
        for batch in (client.get_statuses, client.wait_until_all_final):
            async with batch(asked() if is_async else given()) as results:
                await anext(aiter(results))
            await asyncio.sleep(1)
            assert closed.pop() == ("async" if is_async else "plain")
            del results
    finally:
        gc.enable()


async def test_leaving_early(kiosk: Simulator, client: Client) -> None:
    """However and whenever the block is left, no task, permit, poll or subscription is left behind."""
    cards = add(kiosk, 40)
    kiosk.slow_down(2)  # so that some polls are under way at any moment
    with Table() as table:
        for how, after in product(("break", "raise", "cancel", "timeout"), (0, 0.5, 10)):
            for batch in (client.wait_until_all_final(cards), client.get_statuses(cards)):
                with table.row(type(batch).__name__, how, after):
                    await _leave_early(batch, how, after)
                    assert_nothing_subscribed(client)
            await client.get_status(123456, "card-0")
            await asyncio.sleep(1)


async def _leave_early(batch: Any, how: str, after: float) -> None:
    async def use() -> None:
        async with batch as pairs:
            reading = asyncio.create_task(_read(aiter(pairs)))
            try:
                if after:
                    await asyncio.sleep(after)
                if how == "raise":
                    raise LookupError
                if how != "break":
                    await asyncio.sleep(1000)
            finally:
                reading.cancel()

    task = asyncio.create_task(use())
    if how == "timeout":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, after + 0.1)
    elif how == "cancel":
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif how == "raise":
        with pytest.raises(LookupError):
            await task
    else:
        await task


@pytest.mark.parametrize("again", [False, True])
async def test_leaving_many(kiosk: Simulator, again: bool) -> None:
    """Leaving the block ends 20,000 waits, also if leaving it is cancelled too."""
    async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=FOREVER) as client:

        async def wait() -> None:
            async with client.wait_until_all_final(cards_of(20_000)):
                await asyncio.sleep(1000)

        task = asyncio.create_task(wait())
        await asyncio.sleep(30)
        assert len(client._poller.subscriptions) > 19_000  # pyright: ignore[reportPrivateUsage]
        task.cancel()
        if again:
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(1)
        assert_nothing_subscribed(client)


# --- Sharing ---


async def test_many_waits_cost_one_cards_polls(kiosk: Simulator, client: Client) -> None:
    """However many waits a card has, in batches or alone, they cost one card's polls, and each gets all transitions."""
    kiosk.add(CARD, PLAN)
    await steps_of(client, CARD)
    alone = len(kiosk.requests)
    kiosk.add(CARD, PLAN)
    waits = [steps_of(client, CARD) for _ in range(100)]
    batches = [client.wait_until_all_final([CARD], schedule=Backoff()) for _ in range(100)]
    outcomes: list[Any] = await asyncio.gather(*waits, *batches)
    assert len(kiosk.requests) - alone <= alone + 3
    for outcome in outcomes[:100]:
        assert [step.current.status for step in outcome] == [status for status, _ in PLAN]
    for outcome in outcomes[100:]:
        assert outcome[CARD].is_produced
    assert_nothing_subscribed(client)


async def test_event_reaches_all_waits(kiosk: Simulator, client: Client) -> None:
    """An event reaches every wait for its card at once, at whatever moment of a poll it comes."""
    done = ProductionStatus(Status.PRODUCED, kiosk_id="WIS00001")
    kiosk.add(CARD, "never")
    shared = client._poller.subscriptions  # pyright: ignore[reportPrivateUsage]
    for after in (0.0, 0.001, 1.3, 20.0):
        batch = asyncio.ensure_future(client.wait_until_all_final([CARD]))
        alone = asyncio.create_task(steps_of(client, CARD))
        await until("two waits", lambda: len(shared.of(CARD)), lambda waits: waits == 2, interval=0)
        await asyncio.sleep(after)
        assert client.notify(event_of(CARD, "PRODUCED")) == 2
        assert await batch == {CARD: done}
        assert (await alone)[-1].source == "webhook"
        assert (await alone)[-1].current == done
        await asyncio.sleep(1)
        assert client.notify(event_of(CARD, "PRODUCED")) == 0
        assert_nothing_subscribed(client)


async def test_poll_under_way_does_not_undo_an_event() -> None:
    """The answer to a poll that began before an event does not count after it."""
    may_answer = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        writer.write(http_answer())

    async with RawServer(answer) as server, Client("token", base_url=server.base_url) as client:
        async with client.wait_until_all_final([CARD]) as steps:
            pairs = aiter(steps)
            reading = asyncio.ensure_future(anext(pairs))
            await asyncio.sleep(1)
            client.notify(event_of(CARD, "IN_PROGRESS"))
            _, step = await reading
            assert isinstance(step, Transition)
            assert step.current.status == "IN_PROGRESS"
            reading = asyncio.ensure_future(anext(pairs))
            may_answer.set()
            await asyncio.sleep(0.5)
            assert not reading.done()
            reading.cancel()
        assert_nothing_subscribed(client)


async def test_event_ends_a_card_during_its_poll() -> None:
    """An event that ends a card during its poll counts, whatever the poll answers; the other waits go on."""
    may_answer = asyncio.Event()
    other = Card(123456, "other")

    async def answer(writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        writer.write(http_answer(body='{"status":"PRODUCED"}'))

    async with RawServer(answer) as server, Client("token", base_url=server.base_url) as client:
        batch = asyncio.ensure_future(client.wait_until_all_final([CARD, other]))
        await asyncio.sleep(1)
        assert client.notify(event_of(CARD, "PRODUCTION_ERROR")) == 1
        may_answer.set()
        assert _statuses(await batch) == {CARD: Status.PRODUCTION_ERROR, other: Status.PRODUCED}
        assert_nothing_subscribed(client)


# --- All at once ---


@pytest.mark.seeds(2, 6)
async def test_chaos(seed: int) -> None:
    """Batches, waits and polls, cancelled at random among faults, with events or without, each report a chain of
    transitions and leave nothing.
    """
    random = Random(seed)
    async with Simulator() as kiosk:
        cards = cards_of(60)
        for card in cards:
            kiosk.add(card, [("READY", random.uniform(1, 60)), ("IN_PROGRESS", random.uniform(1, 60)), ("PRODUCED", 0)])
        kiosk.set_error_rate(0.15, seed)
        limit = random.choice([None, RateLimit(), RateLimit(5, 100)])
        async with Client(kiosk.token, base_url=kiosk.base_url, rate_limit=limit) as client:
            events = _schedule_events(client, kiosk, cards, random) if seed % 3 else []
            work = [_at_random(client, cards, random, kind) for kind in range(4) for _ in range(10)]
            tasks = [asyncio.create_task(one) for one in work]
            await _cancel_some(tasks, random)
            await _check_outcomes(tasks)
            for event in events:
                event.cancel()
            # A wait that was left between two steps is subscribed until it is gone; its task's error holds it, and
            # asyncio in debug holds that until the loop's next iteration.
            tasks.clear()
            await asyncio.sleep(0)
            gc.collect()
            assert_nothing_subscribed(client)
        await asyncio.sleep(10)
    await assert_nothing_left()


async def _cancel_some(tasks: list[asyncio.Task[None]], random: Random) -> None:
    for task in random.sample(tasks, 6):
        await asyncio.sleep(random.choice([0, random.uniform(0, 20)]))
        task.cancel()


async def _check_outcomes(tasks: list[asyncio.Task[None]]) -> None:
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, asyncio.CancelledError | CardprodError | TimeoutError | None):
            raise outcome


def _schedule_events(client: Client, kiosk: Simulator, cards: list[Card], random: Random) -> list[asyncio.TimerHandle]:
    """Schedule an event of each change for the client: late, twice, or never."""
    loop = asyncio.get_running_loop()
    inner: Any = kiosk._simulation  # pyright: ignore[reportPrivateUsage]  # what is to come, nobody but it knows
    now = inner.clock.now()
    timers: list[asyncio.TimerHandle] = []
    for card in cards:
        for phase in inner.cards[card].phases_after(now):
            occurred_at = datetime.fromisoformat(inner.clock.timestamp(phase.requested_at))
            sent_at = datetime.fromisoformat(inner.clock.timestamp(phase.since))
            event = event_of(card, phase.stage.status, occurred_at=occurred_at, sent_at=sent_at)
            timers += [
                loop.call_later(phase.since - now + random.choice([0, random.uniform(0, 60)]), client.notify, event)
                for _ in range(random.choice([0, 1, 1, 2]))
            ]
    return timers


async def _at_random(client: Client, cards: list[Card], random: Random, kind: int) -> None:
    some = random.choices(cards, k=random.randint(1, 40))
    async with asyncio.timeout(random.choice([None, None, random.uniform(0, 100)])):
        if kind == 0:
            await _follow(client, some, random)
        elif kind == 1:
            await asyncio.sleep(random.uniform(0, 50))
            await steps_of(client, some[0], max_failures=50, timeout=random.choice([None, 100]))
        elif kind == 3:
            last: ProductionStatus | None = None
            wait = client.wait_until_final(*attrs.astuple(some[0]), max_failures=50, timeout=random.choice([None, 100]))
            async for step in wait:
                assert (step.previous is None) is (last is None)
                assert step.previous is None or last is None or step.previous.status == last.status
                last = step.current
                await asyncio.sleep(random.choice([0, random.uniform(0, 50)]))
                if random.random() < 0.1:
                    break
        else:
            await asyncio.sleep(random.uniform(0, 100))
            assert (await client.get_statuses(some)).keys() == set(some)


async def _follow(client: Client, cards: list[Card], random: Random) -> None:
    reported: dict[Card, list[Any]] = {card: [] for card in cards}
    timeout, schedule = random.choice([None, 30, 300]), random.choice([None, Backoff()])
    async with client.wait_until_all_final(cards, max_failures=50, timeout=timeout, schedule=schedule) as steps:
        async for card, step in steps:
            reported[card].append(step)
            if random.random() < 0.1:
                await asyncio.sleep(random.uniform(0, 5))
    for of_one in reported.values():
        *before, last = of_one
        assert isinstance(last, WaitTimeout | BadReply | ServerError) or last.is_final
        chain = [step for step in of_one if isinstance(step, Transition)]
        assert [step.previous for step in chain] == [None, *(step.current for step in chain[:-1])][: len(chain)]
        assert len([*groupby(step.current for step in chain)]) == len(chain)
        assert all(isinstance(step, Transition) for step in before)


# --- Memory ---


async def test_waiting_card_is_small(client: Client) -> None:
    """A card that waits for a permit takes less than 400 bytes beside the card itself: no task, no future, no timer."""
    client.pause(3600)
    cards = cards_of(2_000)
    tracemalloc.start()
    try:
        async with client.wait_until_all_final(cards) as steps:
            await until("all cards", lambda: steps.progress.total, lambda total: total == len(cards), interval=0)
            taken, _ = tracemalloc.get_traced_memory()
            assert len(asyncio.all_tasks()) < 5
    finally:
        tracemalloc.stop()
    assert taken / len(cards) < 400
