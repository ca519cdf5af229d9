"""How late is the end of a card seen, and for how many polls? Schedules on many fleets, and on one card at a time.

Virtual time: the schedules, the queue and the rate limit are the real ones; the cards of `benchmarks.fleets` are not.
Of each schedule: how many seconds late the end is seen, mean / 95th percentile / most, and the polls of a card.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from benchmarks.fleets import FLEETS, Plan, about, exactly, fleet, memoryless, poll_fleet
from cardprod import AdaptiveSchedule, Backoff, RateLimit
from cardprod._polling.adaptive import IDLE_GAP

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from benchmarks.fleets import Draw, Polled
    from cardprod import Schedule

_SCHEDULES: Final[dict[str, Callable[[], Schedule]]] = {
    "AdaptiveSchedule()": AdaptiveSchedule,
    "Backoff()": Backoff,
    "every 5 s": lambda: Backoff(first=5, factor=1, jitter=0),
    "every 15 s": lambda: Backoff(first=15, factor=1, jitter=0),
    "every 60 s": lambda: Backoff(first=60, factor=1, ceiling=60, jitter=0),
}
_SINGLE: Final[dict[str, tuple[Draw, Draw]]] = {
    "30 s + 1 min": (exactly(30), about(60)),
    "30 s + 2 min": (exactly(30), about(120)),
    "30 s + 4 min": (exactly(30), about(240)),
    "30 s + 4 min exactly": (exactly(30), exactly(240)),
    "30 s + 4 min, memoryless": (exactly(30), memoryless(240)),
    "30 s + 10 min": (exactly(30), about(600)),
    "30 s + 30 min": (exactly(30), about(1800)),
    "30 s + an hour": (exactly(30), about(3600)),
}
_SMALL: Final = 60_000
"""Seconds of stays in a fleet, all cards together, up to which it is quick."""
_MOST_CARDS: Final = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be set."""
    parser.add_argument("--fleets", nargs="+", choices=[*FLEETS], default=[*FLEETS], metavar="FLEET", help="which")
    parser.add_argument("--quick", action="store_true", help="only the fleets that take a few seconds")
    parser.add_argument("--per-second", type=int, default=100, help="rate limit (default 100)")
    parser.add_argument("--per-minute", type=int, default=1000, help="rate limit (default 1,000)")
    parser.add_argument("--png", type=Path, help="where to draw the fleets (wants matplotlib)")
    parser.add_argument("--json", type=Path, help="where to write the figures")


def run(arguments: argparse.Namespace) -> Iterator[str]:
    """Simulate, and give the tables row by row."""
    limit = RateLimit(per_second=arguments.per_second, per_minute=arguments.per_minute)
    yield _row("fleet", *_SCHEDULES, "polls/min")
    yield _row("---", *["---:"] * (len(_SCHEDULES) + 1))
    figures: dict[str, dict[str, tuple[float, float, float, float]]] = {}
    for name in arguments.fleets:
        plans = FLEETS[name]()
        if arguments.quick and (sum(sum(plan[1:]) for plan in plans) > _SMALL or len(plans) > _MOST_CARDS):
            continue
        polled = {kind: poll_fleet(plans, make(), limit=limit) for kind, make in _SCHEDULES.items()}
        figures[name] = {kind: _figures(one) for kind, one in polled.items()}
        learned = polled["AdaptiveSchedule()"]
        yield _row(name, *map(_shown, figures[name].values()), f"{sum(learned.polls) / learned.seconds * 60:.0f}")
    yield "\n" + _row("one card at a time", "AdaptiveSchedule()", "Backoff()", "polls in ten minutes", "by Backoff()")
    yield _row("---", *["---:"] * 4)
    for name, (ready, printing) in _SINGLE.items():
        yield _row(name, *_one_at_a_time(ready, printing))
    yield "\n" + "\n".join(_asked())
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2))
    if arguments.png is not None:
        _draw(figures, arguments.png)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _figures(polled: Polled) -> tuple[float, float, float, float]:
    late = sorted(polled.lateness)
    return fmean(late), late[int(0.95 * len(late))], late[-1], fmean(polled.polls)


def _shown(figures: tuple[float, float, float, float]) -> str:
    mean, p95, most, polls = figures
    return f"{mean:.1f} / {p95:.0f} / {most:.0f} @ {polls:.1f}"


def _one_at_a_time(ready: Draw, printing: Draw) -> Iterator[str]:
    random, plans, comes_at = Random(7), list[Plan](), 0.0
    for _ in range(200):
        plans.append((comes_at, ready(random), printing(random)))
        comes_at += sum(plans[-1][1:]) + 60
    learned, backoff = poll_fleet(plans, AdaptiveSchedule(), least_gap=IDLE_GAP), poll_fleet(plans, Backoff())
    for polled in (learned, backoff):
        yield f"{polled.mean:.1f} / {max(polled.lateness):.0f}"
    for polled in (learned, backoff):
        seconds = sum(sum(plan[1:]) + late for plan, late in zip(plans, polled.lateness, strict=True))
        yield f"{sum(polled.polls) / seconds * 600:.0f}"


def _asked() -> Iterator[str]:
    """Compare with exponential backoff, and with a schedule that knows the distributions, on the first fleet."""
    plans = next(iter(FLEETS.values()))()
    learned = poll_fleet(plans, AdaptiveSchedule()).mean
    # As it is often written: a task for each card, which does not start over when the card has changed.
    unchanging = [(comes_at, ready + printing, 0.0) for comes_at, ready, printing in plans]
    tasks = Backoff(first=1, factor=1.5, ceiling=60, jitter=0)
    exponential = poll_fleet(unchanging, tasks, min_interval=_at_once).mean
    oracle = poll_fleet(plans, _oracle()).mean
    yield f"On the first fleet, the mean is {learned / exponential:.3f} times that of exponential backoff, 1 to 60 s"
    yield f"({exponential:.1f} s; asked 0.20), and {learned / oracle:.3f} times that of an oracle (asked 1.05)."


def _at_once(*_: object) -> float:
    return 0.0


def _oracle() -> AdaptiveSchedule:
    """Make a schedule that knows from the start how long each status lasts, from so many cards seen exactly."""
    schedule = AdaptiveSchedule(memory=1e9)
    long_ago = 1e12  # on a clock that the run's own is behind, so that no rate is measured from it
    for _, *stays in fleet(20_000, 30, memoryless(300), about(240), seed=8):
        for status, is_first, seconds in zip(("READY", "IN_PROGRESS"), (True, False), stays, strict=True):
            for before, ended in ((0.0, False), (seconds, True)):
                schedule.learn(
                    status,
                    before,
                    seconds,
                    long_ago,
                    is_first=is_first,
                    ended=ended,
                    is_final=ended and not is_first,
                    unchanged=0,
                    requests_per_second=1e9,
                )
    return schedule


def _draw(figures: dict[str, dict[str, tuple[float, float, float, float]]], path: Path) -> None:
    """Draw for each fleet the mean and the 95th percentile of each schedule's delay."""
    import matplotlib as mpl  # noqa: PLC0415 - only for those who want the picture

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure: Any
    axes: Any
    figure, axes = plt.subplots(figsize=(10, 0.42 * len(figures) + 1.4))
    names = [*figures]
    for kind, marker, colour in zip(
        _SCHEDULES, "sovD^", ("#1b7f4d", "#b5482e", "#8a94a3", "#5b6675", "#c2c8d0"), strict=True
    ):
        means, p95s = ([max(figures[name][kind][at], 0.1) for name in names] for at in (0, 1))
        axes.hlines(range(len(names)), means, p95s, color=colour, alpha=0.5)
        axes.plot(means, range(len(names)), marker, color=colour, label=kind)
    axes.set(xscale="log", xlabel="the end is seen late: mean (marker) to 95th percentile (line), seconds")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
