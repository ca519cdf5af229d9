"""Thousands of polls and waits against a hostile server in another process, in real time, as a program.

`python -m tests.soak --polls 20000 --waits 2000 --share 0.25 --seed 1` exits with 0 only if no result was wrong,
nothing hung, nothing was left and memory did not grow. An answer is lost if it was sent whole and the client had given
up on it: that happens where the machine stalls for longer than `--request-timeout`, and is rare on one that is idle.
`--most-lost 1` is for a machine that is not: it says nothing of the client how often that happens.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import resource
import sys
import time
from collections import Counter, defaultdict
from datetime import datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from cardprod import Backoff, CardprodError, Client, RequestTimeout, TransportError
from tests.http.hostile import HONEST, WAYS, HostileServer, in_another_process
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cardprod import ProductionStatus
    from tests.http.hostile import Served

PROFILE: Final = 123456
AT_ONCE: Final = 200
PAUSE: Final = 0.05
BACKOFF: Final = Backoff(first=0.05, factor=1.5, ceiling=0.5)
LEFT_OUT: Final = {
    HONEST,
    "429",  # each would stop the whole client for a minute: tests/http/test_too_many_requests.py is about that
    "unasked-later",  # on a busy connection it comes after the next request has left, and seems to answer that one
    "unasked-endlessly",  # as above
}
FAULTS: Final = [way for way in WAYS if way not in LEFT_OUT]
CLOSING: Final = 10.0
"""Seconds in which connections that were closed must be gone."""
MOST_OBJECTS: Final = 1.1
"""How many times as many objects there may be after the last polls as after the first."""
LOGGED_OBJECTS: Final = 4
"""Objects for each request that this program's own log keeps."""
MOST_GROWTH: Final = 2**25
"""Bytes that may come on top: a heap keeps what its worst moment took, so only what goes on growing is a leak."""

Reported: TypeAlias = tuple[str, str | None, datetime | None, str | None, str | None]
Ended: TypeAlias = tuple[tuple[Reported, ...], int]


@attrs.define
class Script:
    """What each card goes through, and the fault of each answer: all by the seed, but for the time it takes.

    A card `poll-…` stays as it is; a card `wait-…` moves on from the first request for it.
    """

    seed: int
    share: float
    _asked: Counter[str] = attrs.field(factory=Counter[str])
    _began: dict[str, float] = attrs.field(factory=dict[str, float])

    def choose(self, card: str) -> str:
        """Choose how to answer the next request for a card."""
        self._asked[card] += 1
        random = Random(f"{self.seed} {card} {self._asked[card]}")
        return random.choice(FAULTS) if random.random() < self.share else HONEST

    def plan(self, card: str) -> list[tuple[float, dict[str, str]]]:
        """Make up what becomes of a card: after how many seconds, and the answer from then on."""
        random = Random(f"{self.seed} {card}")
        ending, code = random.choice([("PRODUCED", ""), ("PRODUCED", ""), ("PRODUCTION_ERROR", "PRD_FEEDER_JAM")])
        middle = ["IN_PROGRESS"] * random.randint(1, 2) + ["HEATING_UP"] * random.randint(0, 1)
        statuses = (
            ["READY", *middle, ending] if card.startswith("wait") else [random.choice(["READY", *middle, ending])]
        )
        kiosk, at, stages = f"WIS{random.randrange(10**5):05}", 0.0, list[tuple[float, dict[str, str]]]()
        for number, status in enumerate(statuses):
            answer = {"status": status, "kioskId": kiosk, "occurredAt": f"2026-07-01T10:00:{number:02}.000Z"}
            answer["description"] = f"{card} at {kiosk}"
            stages.append((at, answer | ({"errorCode": code} if code and status == ending else {})))
            at += random.uniform(0.1, 0.6)
        return stages

    def body_of(self, card: str) -> bytes:
        """Write the honest answer for a card."""
        now = time.monotonic()
        elapsed = now - self._began.setdefault(card, now)
        return json.dumps([answer for at, answer in self.plan(card) if at <= elapsed][-1]).encode()


def make_server(seed: int, share: float) -> HostileServer:
    """Make the server that follows a script."""
    script = Script(seed, share)
    return HostileServer(script.choose, script.body_of, pause=PAUSE)


def served(answer: dict[str, str]) -> Reported:
    """Return what an answer says of a card, by reading no more than its JSON."""
    occurred_at = datetime.fromisoformat(answer["occurredAt"])
    return answer["status"], answer["kioskId"], occurred_at, answer.get("errorCode"), answer["description"]


def reported(status: ProductionStatus) -> Reported:
    """Return what the client reports of a card."""
    return str(status.status), status.kiosk_id, status.occurred_at, status.error_code, status.description


@attrs.define
class Memory:
    """How much there is: bytes resident, and objects the garbage collector knows of."""

    rss: int
    objects: int

    @classmethod
    def now(cls) -> Memory:
        """Measure."""
        gc.collect()
        return cls(resident(), len(gc.get_objects()))


def resident() -> int:
    """Return how many bytes the process has in memory."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:  # elsewhere than on Linux, the peak must do
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def open_files() -> int:
    """Count the open file descriptors, sockets among them."""
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - a Path of each would not be cheaper


@attrs.define
class Soak:
    """One run, and what came of it."""

    script: Script
    polls: int
    waits: int
    outcomes: Counter[str] = attrs.field(factory=Counter[str])
    failures: dict[str, type[CardprodError]] = attrs.field(factory=dict[str, type[CardprodError]])
    ended: dict[str, Ended] = attrs.field(factory=dict[str, "Ended"])
    wrong: list[str] = attrs.field(factory=list[str])
    leaks: list[str] = attrs.field(factory=list[str])
    hangs: int = 0
    lost: int = 0
    memory: list[Memory] = attrs.field(factory=list[Memory])
    _done: int = 0

    async def poll(self, client: Client, card: str) -> None:
        """Poll once, and judge the outcome."""
        try:
            status = await client.get_status(PROFILE, card)
        except CardprodError as error:
            self.outcomes[type(error).__name__] += 1
            self.failures[card] = type(error)
        except Exception as error:  # noqa: BLE001 - any other exception is a fault
            self.wrong.append(f"{card}: {error!r}")
        else:
            self.outcomes[str(status.status)] += 1
            if reported(status) != served(self.script.plan(card)[0][1]):
                self.wrong.append(f"{card}: {status}")
        self._done += 1
        if self._done % 1000 == 0:
            waits = f"{len(self.ended)} of {self.waits} waits"
            sys.stderr.write(f"{self._done} of {self.polls} polls, {waits}, {resident() >> 20} MiB\n")

    async def wait(self, client: Client, card: str) -> None:
        """Wait for a card, and keep what was reported of it, with how many polls were answered."""
        wait = client.wait_until_final(PROFILE, card, timeout=None, schedule=BACKOFF, max_failures=50)
        try:
            self.ended[card] = tuple([reported(step.current) async for step in wait]), wait.polls
        except Exception as error:  # noqa: BLE001 - no wait may end without its card's end
            self.wrong.append(f"{card}: {error!r}")

    async def run(self, base_url: str, request_timeout: float, limit: float) -> None:
        """Poll the first cards while all the waits go on, which takes the most memory; then the others."""
        edge = min(1000, self.polls // 4)
        cards = [f"poll-{number}" for number in range(self.polls)]
        before = open_files()
        settings: dict[str, Any] = {"request_timeout": request_timeout, "rate_limit": None, "max_concurrency": AT_ONCE}
        try:
            async with asyncio.timeout(limit), Client("soak-test-token", base_url=base_url, **settings) as client:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._poll_all(client, cards[:edge]))
                    for number in range(self.waits):
                        group.create_task(self.wait(client, f"wait-{number}"))
                self.memory.append(Memory.now())
                await self._poll_all(client, cards[edge:])
                self.memory.append(Memory.now())
        except TimeoutError:
            self.hangs = self.polls - self._done + self.waits - len(self.ended)

        def left() -> tuple[int, int]:
            gc.collect()
            return len(asyncio.all_tasks()) - 1, open_files() - before

        try:
            await until("nothing left", left, lambda seen: seen == (0, 0), limit=CLOSING)
        except AssertionError:
            tasks, files = left()
            self.leaks += [f"{tasks} tasks", f"{files} open files"]

    async def _poll_all(self, client: Client, cards: Iterable[str]) -> None:
        async def work(queue: Iterator[str]) -> None:
            for card in queue:
                await self.poll(client, card)

        queue = iter(cards)
        await asyncio.gather(*(work(queue) for _ in range(AT_ONCE)))

    def judge(self, log: list[Served]) -> None:
        """Compare what the client reported with what the server did."""
        by_card: defaultdict[str, list[Served]] = defaultdict(list)
        for entry in log:
            by_card[entry.card].append(entry)
        for card, error in self.failures.items():
            last = by_card[card][-1].way if by_card[card] else HONEST
            if error not in {WAYS[last].error, TransportError, RequestTimeout}:
                self.wrong.append(f"{card}: {error.__name__} after {last}")
        for card, (said, polls) in self.ended.items():
            answers = [served(json.loads(entry.body)) for entry in by_card[card] if entry.body is not None]
            lost = len(answers) - polls
            self.lost += lost
            expected = tuple(one for one, _ in groupby(answers))
            rest = iter(expected)
            if said != expected and not (lost > 0 and all(one in rest for one in said)):
                self.wrong.append(f"{card}: reported {said}, served {expected}")
            if lost < 0 or said[-1] != served(self.script.plan(card)[-1][1]):
                self.wrong.append(f"{card}: {lost} answers lost, ended as {said[-1]}")

    def summary(self, log: list[Served], seconds: float, most_lost: float) -> dict[str, Any]:
        """Return the result as one object."""
        first, last = self.memory if len(self.memory) > 1 else (Memory(1, 1), Memory(0, 0))
        ratios = {"rss": round(last.rss / first.rss, 3), "objects": round(last.objects / first.objects, 3)}
        grown = last.rss > first.rss + MOST_GROWTH or (
            last.objects > first.objects * MOST_OBJECTS + len(log) * LOGGED_OBJECTS
        )
        faults = Counter(entry.way for entry in log)
        is_well = not (self.wrong or self.leaks or self.hangs or grown) and self.lost <= len(log) * most_lost
        return {
            "ok": is_well and len(self.ended) == self.waits,
            "polls": dict(self.outcomes.most_common()),
            "waits": dict(Counter(said[-1][0] for said, _ in self.ended.values())),
            "requests": len(log),
            "faults": {way: count for way, count in faults.most_common() if way != HONEST},
            "wrong": self.wrong,
            "lost": self.lost,
            "hangs": self.hangs,
            "leaks": self.leaks,
            "memory": {"first": attrs.asdict(first), "last": attrs.asdict(last), "ratio": ratios},
            "seconds": round(seconds, 1),
        }


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--polls", type=int, default=20_000)
    parser.add_argument("--waits", type=int, default=2_000)
    parser.add_argument("--share", type=float, default=0.25, help="the share of answers that misbehave")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--request-timeout", type=float, default=0.5, help="seconds")
    parser.add_argument("--limit", type=float, default=600, help="seconds, after which what goes on is a hang")
    parser.add_argument("--most-lost", type=float, default=0.02, help="the share of requests whose answer may be lost")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    options = parser.parse_args()
    logging.getLogger("cardprod").setLevel(logging.ERROR)  # a failed poll of a wait is expected here
    began = time.monotonic()
    soak = Soak(Script(options.seed, options.share), options.polls, options.waits)
    with in_another_process(partial(make_server, options.seed, options.share)) as far:
        asyncio.run(soak.run(far.base_url, options.request_timeout, options.limit))
    soak.judge(far.log)
    summary = soak.summary(far.log, time.monotonic() - began, options.most_lost)
    lines = [json.dumps(summary)] if options.json else [f"{name:>9}  {value}" for name, value in summary.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if summary["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
