"""What a watch counts: how many cards are in which status, how they ended, how fast it goes. Pure: time is a number.

Everything that a report of progress needs is there without going over the cards.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

import attrs

from cardprod.cli.exit_codes import FAILED, NO_ANSWER, NOT_FINAL, PRODUCED, USAGE, exit_code_of, worst_of
from cardprod.cli.output.events import WatchProgress
from cardprod.cli.words import meaning_of, message_of
from cardprod.errors import CardprodError, WaitTimeout
from cardprod.models import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cardprod.models import Card, ProductionStatus

_MINUTE: Final = 60.0
_RATE_WINDOW: Final = 300.0
"""Seconds in which cards that ended predict how fast others will."""

_LEAST_ENDS: Final = 5
"""Cards that must have ended in that time for a prediction."""

_STALLED: Final = 10
_STALLED_SECONDS: Final = 30.0
"""There is no prediction if no card ended for ten times as long as usual, and this long at least."""

_SAMPLE: Final = 1.0
_SHOWN: Final = 60
"""Characters of a status or a code: undocumented ones are a server's words."""


@attrs.frozen
class OutcomeKind:
    """How a card ended: in a final status, or with an error, whose class is its name. A meaning can be a server's."""

    name: str
    error_code: str | None
    meaning: str | None = attrs.field(eq=False)
    exit_code: int
    is_status: bool

    @classmethod
    def of(cls, outcome: ProductionStatus | CardprodError) -> OutcomeKind:
        """Return the kind of an outcome, without what differs between cards that are counted together."""
        if isinstance(outcome, CardprodError):
            error = type(outcome)
            exit_code, words = exit_code_of(outcome), meaning_of(error)
            if isinstance(outcome, WaitTimeout) and exit_code != NOT_FINAL:
                words = "the timeout passed before any usable answer"
            return cls(error.__name__, None, words, exit_code, is_status=False)
        code = None if outcome.error_code is None else one_line(outcome.error_code, _SHOWN)
        meaning = outcome.error_meaning or (None if code is None else outcome.description)
        return cls(one_line(outcome.status, _SHOWN), code, meaning, exit_code_of(outcome), is_status=True)


class Growth:
    """By how much a number that never falls grew within a window of time."""

    __slots__ = ("_samples", "_window")

    def __init__(self, window: float, now: float) -> None:
        self._window = window
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def add(self, now: float, count: int) -> None:
        """Add a sample. One a second is kept, and of those before the window the last one."""
        samples = self._samples
        if len(samples) > 1 and now - samples[-2][0] < _SAMPLE:
            samples.pop()
        samples.append((now, count))
        while len(samples) > 2 and samples[1][0] <= now - self._window:  # noqa: PLR2004 - a first and a last one
            samples.popleft()

    @property
    def growth(self) -> tuple[int, float]:
        """By how much it grew, and in how many seconds, from the first sample that counts to the last."""
        (began_at, least), (ended_at, most) = self._samples[0], self._samples[-1]
        return most - least, ended_at - began_at


class WatchStats:
    """Counts cards, each once. A card's number is its position, here and in the checkpoint file."""

    def __init__(self, now: float) -> None:
        self._numbers: dict[Card, int] = {}
        self._states: list[str | OutcomeKind | None] = []  # the last status, or how the card ended
        self._kinds: dict[OutcomeKind, OutcomeKind] = {}
        self._statuses: Counter[str] = Counter()
        self._ends: Counter[OutcomeKind] = Counter()
        self._began_at = self._last_end_at = now
        self._ended_here = self._failed_polls = 0
        self._why_failed = ""
        self._ends_growth = Growth(_RATE_WINDOW, now)
        self._requests_growth, self._failures_growth = Growth(_MINUTE, now), Growth(_MINUTE, now)
        self.bad_rows: int = 0
        """Rows of the list that are no cards."""
        self.saved_at: float | None = None
        """When the checkpoint was written."""

    def __len__(self) -> int:
        return len(self._states)

    @property
    def pending(self) -> int:
        """Cards that have not ended."""
        return len(self._states) - self._ends.total()

    def add(self, cards: Iterable[Card]) -> list[Card]:
        """Add cards, and return those that are new."""
        numbers = self._numbers
        new: list[Card] = []
        for card in cards:
            if card not in numbers:
                numbers[card] = len(numbers)
                new.append(card)
        self._states.extend([None] * len(new))
        return new

    def number_of(self, card: Card) -> int:
        """Return a card's number: they are counted from 0."""
        return self._numbers[card]

    def restore(self, card: Card, outcome: ProductionStatus | None, *, is_end: bool) -> None:
        """Add a card as an earlier run knew it."""
        self.add([card])
        if outcome is not None:
            self._set(card, outcome, is_end=is_end)

    def report(self, card: Card, outcome: ProductionStatus | CardprodError, now: float, *, is_end: bool) -> None:
        """Count a card's new status, or the error that ended its wait; and whether that is its end."""
        self._set(card, outcome, is_end=is_end)
        if is_end:
            self._ended_here += 1
            self._last_end_at = now

    def _set(self, card: Card, outcome: ProductionStatus | CardprodError, *, is_end: bool) -> None:
        number = self._numbers[card]
        before = self._states[number]
        if isinstance(before, OutcomeKind):
            self._ends[before] -= 1
        elif before is not None:
            self._statuses[before] -= 1
        if is_end or isinstance(outcome, CardprodError):
            kind = OutcomeKind.of(outcome)
            self._states[number] = kind = self._kinds.setdefault(kind, kind)  # one object for all cards
            self._ends[kind] += 1
        else:
            self._states[number] = status = one_line(outcome.status, _SHOWN)
            self._statuses[status] += 1

    def poll_failed(self, error: CardprodError) -> None:
        """Count a poll that failed while its card's wait goes on."""
        self._failed_polls += 1
        self._why_failed = message_of(error)

    def progress(self, now: float, requests: int, paused_for: float = 0.0) -> WatchProgress:
        """Sum up, with the requests sent so far. Speeds are measured from one call to the next: call it regularly."""
        self._requests_growth.add(now, requests)
        self._failures_growth.add(now, self._failed_polls)
        if self._ended_here:
            self._ends_growth.add(now, self._ended_here)
        else:
            self._ends_growth = Growth(_RATE_WINDOW, now)  # what is measured begins with the first end
        by_code = Counter[int]()
        for kind, count in self._ends.items():
            by_code[kind.exit_code] += count
        return WatchProgress(
            cards=len(self._states),
            produced=by_code[PRODUCED],
            failed=by_code[FAILED],
            unfinished=by_code[NOT_FINAL] + self.pending,
            errors=by_code[NO_ANSWER] + by_code[USAGE],
            bad_rows=self.bad_rows,
            requests=requests,
            seconds=now - self._began_at,
            pending=self.pending,
            unseen=self.pending - self._statuses.total(),
            statuses={status: count for status, count in self._statuses.most_common() if count},
            ends=tuple((kind, count) for kind, count in self._ends.most_common() if count),
            requests_in_last_minute=self._requests_growth.growth[0],
            seconds_left=self._seconds_left(now),
            paused_for=paused_for,
            failed_polls=self._failures_growth.growth[0],
            why_failed=self._why_failed,
            saved_ago=None if self.saved_at is None else max(0.0, now - self.saved_at),
        )

    def _seconds_left(self, now: float) -> float | None:
        ended, seconds = self._ends_growth.growth
        if not self.pending:
            return 0.0
        if ended < _LEAST_ENDS or seconds <= 0:
            return None
        is_stalled = now - self._last_end_at > max(_STALLED_SECONDS, _STALLED * seconds / ended)
        return None if is_stalled else self.pending * seconds / ended


def exit_code_for(progress: WatchProgress) -> int:
    """Return the exit code of a watch that was not stopped."""
    counts = {
        NO_ANSWER: progress.errors,
        NOT_FINAL: progress.unfinished,
        FAILED: progress.failed,
        USAGE: progress.bad_rows,
    }
    return worst_of(code for code, count in counts.items() if count)
