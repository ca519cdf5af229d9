"""How late is the end seen, and for how many looks? Schedules compared on one simulated fleet, in virtual time.

Real are the schedules, `Waits`, the turnstile and the pacer. Made up are the cards, whose statuses last as the workload
says, and the network, which takes `--latency` seconds. The alternatives are what is written by hand: a task for each
card that sleeps and looks, through the same pacer, first come first served. A server that holds both limits exactly, in
any second and any minute, says what it answered with 429.
"""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
from collections import deque
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import attrs
import looptime

from benchmarks.table import markdown
from cardprod._http.rate_limit import RateLimit
from cardprod._http.transport import Transport
from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._polling.backoff import Backoff
from cardprod._polling.poller import Poller
from cardprod._polling.state import PollOptions
from cardprod._polling.subscriptions import Subscriptions
from cardprod._polling.waits import Waits
from cardprod._polling.webhook_trust import WebhookTrust
from cardprod._protocol.requests import Endpoint
from cardprod.errors import RateLimited
from cardprod.models import Card, ProductionStatus, Status
from cardprod.telemetry import Telemetry

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from cardprod._http.limiter import Permit
    from cardprod._http.secrets import Secret
    from cardprod._polling.backoff import Schedule

_FIXED: Final = (5.0, 15.0, 30.0, 60.0)
_LOOK_COSTS: Final = (0.002, 0.02, 0.1, 0.2, 0.5, 0.8, 1.5)
_SAMPLES: Final = 20_000

WORKLOADS: Final = {
    "base": "arriving over the time, printing lognormal",
    "exponential": "printing exponential: nothing to learn",
    "bimodal": "60 % print fast, 25 % slowly, 15 % jam within a minute",
    "slowdown": "the kiosk takes twice as long from half-way on",
    "at-once": "all cards at once",
    "ten": "ten cards within a minute",
}


@attrs.frozen(kw_only=True)
class Workload:
    """What the cards do."""

    name: str
    cards: int
    minutes: float
    ready_mean: float
    print_median: float
    print_sigma: float
    latency: float
    limit: RateLimit
    seed: int

    def plans(self) -> list[tuple[float, float, float]]:
        """Make up for each card when it comes, how long it is READY, and how long it prints; in seconds."""
        chance = Random(self.seed)
        count = 10 if self.name == "ten" else self.cards
        over = {"at-once": 0.0, "ten": 60.0}.get(self.name, self.minutes * 60)
        plans = [self._plan(chance, chance.uniform(0, over), over) for _ in range(count)]
        return sorted(plans)

    def _plan(self, chance: Random, comes_at: float, over: float) -> tuple[float, float, float]:
        ready = chance.expovariate(1 / self.ready_mean)
        return comes_at, ready, self._printing(chance, comes_at + ready > over / 2)

    def _printing(self, chance: Random, is_late: bool) -> float:
        normal = self.print_median * math.exp(chance.gauss(0, self.print_sigma))
        if self.name == "exponential":
            return chance.expovariate(1 / self.print_median)
        if self.name == "slowdown":
            return normal * (2 if is_late else 1)
        if self.name == "bimodal":
            kind = chance.random()
            if kind < 0.6:
                return self.print_median * math.exp(chance.gauss(0, 0.15))
            return self.print_median * 2.5 * math.exp(chance.gauss(0, 0.15)) if kind < 0.85 else chance.uniform(5, 60)
        return normal


@attrs.frozen(kw_only=True)
class Outcome:
    """What a schedule achieved: looks per card, and delays in seconds until a status was seen."""

    name: str
    looks: float
    mean: float
    p95: float
    printing_mean: float
    printing_missed: float
    refused: int


_READY: Final = ProductionStatus(Status.READY)
_PRINTING: Final = ProductionStatus(Status.IN_PROGRESS, kiosk_id="WIS00001")
_PRODUCED: Final = ProductionStatus(Status.PRODUCED, kiosk_id="WIS00001")


class _Kiosk(Transport):
    """The cards at their kiosk, and the way there: everything of the real one but the network."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(
            Endpoint("http://127.0.0.1:1", "v3", False),
            "token-that-is-never-sent",
            Telemetry(),
            session=None,
            request_timeout=10.0,
            attempts=3,
            rate_limit=workload.limit,
            max_concurrency=100,
            ssl=None,
        )
        self._latency = workload.latency
        plans = workload.plans()
        self.cards = [Card(123456, f"card-{number}") for number in range(len(plans))]
        self._plans = dict(zip(self.cards, plans, strict=True))
        self._windows = ((1.0, workload.limit.per_second), (60.0, workload.limit.per_minute))
        self._arrivals: deque[float] = deque(maxlen=max(workload.limit.per_second, workload.limit.per_minute))
        self.looks = 0
        self.refused = 0
        self.final_delays: dict[Card, float] = {}
        self.printing_delays: dict[Card, float] = {}

    async def arriving(self) -> AsyncIterator[Card]:
        """Give each card when it comes."""
        loop = asyncio.get_running_loop()
        for card in self.cards:
            delay = self._plans[card][0] - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            yield card

    async def _send(
        self,
        card: Card,
        token: Secret,  # noqa: ARG002 - as the real one is called
        loop: asyncio.AbstractEventLoop,
        permit: Permit,
        began_at: float | None = None,  # noqa: ARG002 - as above
    ) -> ProductionStatus:
        try:
            self._arrive(loop.time())
            return await self._answer(card, loop)
        finally:
            permit.release()

    def _arrive(self, now: float) -> None:
        """Count a request as a server does that holds both limits exactly."""
        arrivals = self._arrivals
        if any(len(arrivals) >= most and now - arrivals[-most] < seconds for seconds, most in self._windows):
            self.refused += 1
            self.limiter.pause_until(now + 5)
            raise RateLimited("429", http_status=429, retry_after=5.0)
        arrivals.append(now)

    async def _answer(self, card: Card, loop: asyncio.AbstractEventLoop) -> ProductionStatus:
        self.looks += 1
        comes_at, ready, printing = self._plans[card]
        age = loop.time() - comes_at
        await asyncio.sleep(self._latency)
        if age < ready:
            return _READY
        if age < ready + printing:
            self.printing_delays.setdefault(card, loop.time() - comes_at - ready)
            return _PRINTING
        self.final_delays.setdefault(card, loop.time() - comes_at - ready - printing)
        return _PRODUCED

    def outcome(self, name: str) -> Outcome:
        """Sum up."""
        delays = sorted(self.final_delays.values())
        assert len(delays) == len(self.cards)  # noqa: S101 - a schedule that loses a card has no figure
        seen = self.printing_delays.values()
        return Outcome(
            name=name,
            looks=self.looks / len(delays),
            mean=fmean(delays),
            p95=delays[int(0.95 * len(delays))],
            printing_mean=fmean(seen) if seen else math.nan,
            printing_missed=1 - len(seen) / len(delays),
            refused=self.refused,
        )


async def _by_waits(kiosk: _Kiosk, schedule: Schedule, workload: Workload) -> None:
    terms = PollOptions(
        schedule=schedule,
        timeout=None,
        max_failures=5,
        requests_per_second=min(workload.limit.per_second, workload.limit.per_minute / 60),
        random=Random(workload.seed).random,
    )
    poller = Poller(kiosk, Subscriptions(WebhookTrust(0)), Telemetry())
    async with Waits(kiosk.arriving(), poller, set(), terms) as steps:
        async for _ in steps:
            pass


async def _by_hand(kiosk: _Kiosk, delays: Callable[[int], float]) -> None:
    """Do as everybody does: a task for each card, which looks, and sleeps, and looks."""

    async def follow(card: Card) -> None:
        looks = 0
        while True:
            if (await kiosk.request(card)).is_final:
                return
            await asyncio.sleep(delays(looks))
            looks += 1

    async with asyncio.TaskGroup() as group:
        async for card in kiosk.arriving():
            group.create_task(follow(card))


def _oracle(workload: Workload) -> AdaptiveSchedule:
    """Make a schedule that knows from the start how long each status lasts, from so many cards seen exactly."""
    schedule = AdaptiveSchedule(memory=1e9)
    long_ago = 1e12  # on a clock that the run's own will be behind, so that no rate is measured from it
    plans = attrs.evolve(workload, cards=_SAMPLES, seed=workload.seed + 1, name=workload.name.replace("ten", "base"))
    for _, ready, printing in plans.plans():
        for status, is_first, seconds in ((Status.READY, True, ready), (Status.IN_PROGRESS, False, printing)):
            for before, ended in ((0.0, False), (seconds, True)):
                schedule.learn(
                    status,
                    before,
                    seconds,
                    long_ago,
                    is_first=is_first,
                    ended=ended,
                    is_final=ended and not is_first,
                    requests_per_second=math.inf,
                )
    return schedule


def _work(kiosk: _Kiosk, name: str, workload: Workload) -> Coroutine[Any, Any, None]:
    kind, _, value = name.partition(" ")
    match kind:
        case "every":
            return _by_hand(kiosk, lambda _: float(value.removesuffix(" s")))
        case "exponential":
            return _by_hand(kiosk, lambda looks: min(1.5 ** min(looks, 99), 60.0))
        case "Backoff()":
            return _by_waits(kiosk, Backoff(), workload)
        case "oracle":
            return _by_waits(kiosk, _oracle(workload), workload)
        case _:
            cost = float(value.removeprefix("at ").removesuffix(" s"))
            return _by_waits(kiosk, AdaptiveSchedule(poll_cost=cost), workload)


def _run(job: tuple[str, Workload]) -> Outcome:
    name, workload = job
    loop = looptime.new_event_loop(start=0)
    try:
        kiosk = _Kiosk(workload)
        loop.run_until_complete(_work(kiosk, name, workload))
        return kiosk.outcome(name)
    finally:
        loop.close()


def _names(workload: Workload) -> list[str]:
    names = [f"every {seconds:g} s" for seconds in _FIXED]
    names += ["exponential 1 to 60 s", "Backoff()"]
    names += [f"AdaptiveSchedule at {cost:g} s" for cost in _LOOK_COSTS]
    return names if workload.name == "slowdown" else [*names, "oracle"]  # nobody knows a kiosk that changes


@attrs.frozen
class Comparison:
    """How the schedules did on one workload, and what is asked of the one that learns."""

    workload: Workload
    outcomes: list[Outcome]

    def by_name(self, name: str) -> Outcome:
        """Find an outcome."""
        return next(outcome for outcome in self.outcomes if outcome.name == name)

    @property
    def best_fixed(self) -> Outcome:
        """The fixed interval with the least mean delay."""
        return min((one for one in self.outcomes if one.name.startswith("every")), key=lambda one: one.mean)

    @property
    def whole(self) -> Outcome:
        """The one that learns, with its default settings, which use the whole limit."""
        return self.by_name(f"AdaptiveSchedule at {_LOOK_COSTS[0]:g} s")

    def held_to(self, other: Outcome) -> Outcome:
        """The one that learns, told to use as many looks as another or fewer."""
        learned = [one for one in self.outcomes if one.name.startswith("Adaptive") and one.looks <= other.looks]
        return max(learned, key=lambda one: one.looks, default=self.outcomes[-2])

    def table(self) -> str:
        """Give all of them as a table."""
        rows = [
            [
                one.name,
                f"{one.looks:.1f}",
                f"{one.mean:.2f}",
                f"{one.p95:.1f}",
                f"{one.printing_mean:.1f}",
                f"{one.printing_missed:.1%}",
                str(one.refused),
            ]
            for one in self.outcomes
        ]
        head = ["schedule", "looks per card", "final seen late, mean s", "p95 s", "printing seen late, mean s"]
        return markdown([*head, "printing never seen", "429s"], rows)

    def asks(self) -> str:
        """Give what is asked, and what is so, as a table."""
        exponential, backoff = self.by_name("exponential 1 to 60 s"), self.by_name("Backoff()")
        fixed, whole, few, fewer = self.best_fixed, self.whole, self.held_to(self.best_fixed), self.held_to(exponential)
        asks = [("mean, whole limit, to Backoff()", whole.mean / backoff.mean, 1.05)]
        if self.workload.name == "base":
            asks += [
                ("mean, whole limit, to exponential backoff", whole.mean / exponential.mean, 0.20),
                (f"mean, whole limit, to the best fixed interval ({fixed.name})", whole.mean / fixed.mean, 0.42),
                (f"mean, {fewer.looks:.1f} looks, to exponential backoff", fewer.mean / exponential.mean, 0.35),
                (f"mean, {few.looks:.1f} looks, to the best fixed interval", few.mean / fixed.mean, 0.55),
                ("mean, whole limit, to the oracle", whole.mean / self.by_name("oracle").mean, 1.15),
            ]
        if self.workload.name == "exponential":
            asks.append((f"mean, {few.looks:.1f} looks, to the best fixed interval", few.mean / fixed.mean, 1.05))
        asks.append(("p95, whole limit, to the best fixed interval", whole.p95 / fixed.p95, 1.0))
        asks.append(("429s", float(max(one.refused for one in self.outcomes)), 0.0))
        rows = [
            [what, f"{value:.3f}", f"{most:.2f}", "kept" if value <= most else "MISSED"] for what, value, most in asks
        ]
        return markdown(["asked of AdaptiveSchedule", "measured", "at most", ""], rows)


def _draw(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the mean delay over the looks per card."""
    import matplotlib as mpl  # noqa: PLC0415 - only for those who want the picture

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure: Any
    panels: Any
    columns = min(3, len(comparisons))
    rows = math.ceil(len(comparisons) / columns)
    figure, panels = plt.subplots(rows, columns, figsize=(5.0 * columns, 3.8 * rows), squeeze=False)
    for comparison, axes in zip(comparisons, panels.flat, strict=False):
        lines = (("every", "o--", "fixed interval"), ("Adaptive", "s-", "AdaptiveSchedule, by poll_cost"))
        for start, style, label in lines:
            line = sorted((one.looks, one.mean) for one in comparison.outcomes if one.name.startswith(start))
            axes.plot(*zip(*line, strict=True), style, label=label)
        for name, style in (("exponential 1 to 60 s", "v"), ("Backoff()", "^"), ("oracle", "*")):
            for one in comparison.outcomes:
                if one.name == name:
                    axes.plot([one.looks], [one.mean], style, markersize=9, label=name)
        axes.set(title=WORKLOADS[comparison.workload.name], xlabel="looks per card", ylabel="end seen late, mean s")
        axes.set_ylim(0, 1.1 * max(one.mean for one in comparison.outcomes))
        axes.grid(alpha=0.3)
    panels.flat[len(comparisons) - 1].legend(fontsize=8, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    names = [*WORKLOADS, "all"]
    parser.add_argument("--workload", choices=names, default="base", help="what the cards do (default base)")
    parser.add_argument("--cards", type=int, default=2000, help="how many come (default 2,000; workload ten: 10)")
    parser.add_argument("--minutes", type=float, default=30, help="over how long they come (default 30)")
    parser.add_argument("--ready-mean", type=float, default=300, help="READY: exponential, mean seconds (default 300)")
    parser.add_argument("--print-median", type=float, default=240, help="printing: median seconds (default 240)")
    parser.add_argument("--print-sigma", type=float, default=0.35, help="printing: sigma of its log (default 0.35)")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds for an answer (default 0.05)")
    parser.add_argument("--per-second", type=int, default=100, help="rate limit (default 100)")
    parser.add_argument("--per-minute", type=int, default=1000, help="rate limit (default 1,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the cards and of chance (default 1)")
    parser.add_argument("--processes", type=int, default=2, help="simulations at once (default 2)")
    parser.add_argument("--png", type=Path, help="where to draw looks against delay (wants matplotlib)")
    parser.add_argument("--json", type=Path, help="where to write the figures")


def run(arguments: argparse.Namespace) -> str:
    """Simulate, and give the tables."""
    names = [*WORKLOADS] if arguments.workload == "all" else [arguments.workload]
    workloads = [
        Workload(
            name=name,
            cards=arguments.cards,
            minutes=arguments.minutes,
            ready_mean=arguments.ready_mean,
            print_median=arguments.print_median,
            print_sigma=arguments.print_sigma,
            latency=arguments.latency,
            limit=RateLimit(per_second=arguments.per_second, per_minute=arguments.per_minute),
            seed=arguments.seed,
        )
        for name in names
    ]
    jobs = [(name, workload) for workload in workloads for name in _names(workload)]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        outcomes = iter(pool.map(_run, jobs, chunksize=1))
    comparisons = [Comparison(workload, [next(outcomes) for _ in _names(workload)]) for workload in workloads]
    if arguments.png is not None:
        _draw(comparisons, arguments.png)
    if arguments.json is not None:
        figures = {one.workload.name: [attrs.asdict(outcome) for outcome in one.outcomes] for one in comparisons}
        arguments.json.write_text(json.dumps(figures, indent=2))
    return "\n\n".join(
        f"## {one.workload.name}: {WORKLOADS[one.workload.name]}\n\n{one.table()}\n\n{one.asks()}"
        for one in comparisons
    )
