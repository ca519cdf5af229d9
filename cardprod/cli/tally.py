"""What has become of the cards of a `watch`, counted as it is told: how they stand, how they ended, how fast it goes.

Pure: it asks nobody, shows nothing, and takes the time as a number. All that a view needs for one refresh is there
without going over the cards.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

import attrs

from cardprod import errors
from cardprod.cli.exit_codes import FAILED, NO_ANSWER, NOT_FINAL, PRODUCED, USAGE, exit_code_of, worst_of
from cardprod.cli.wording import count_of
from cardprod.errors import CardprodError
from cardprod.models import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cardprod.checkpoint import PendingCard
    from cardprod.models import Card, ProductionStatus, Transition

__all__ = ["Fate", "Recent", "Summary", "Tally", "Told", "message_of"]

_LATEST: Final = 12
_NAMED: Final = 20
"""How many of the cards that were not produced are named in the end."""

_MINUTE: Final = 60.0
_RATE_WINDOW: Final = 300.0
"""Seconds for which cards that ended tell how fast others will."""

_LEAST_ENDS: Final = 5
"""Cards that must have ended in that time for the rest to be guessed at."""

_STALLED: Final = 10
_STALLED_SECONDS: Final = 30.0
"""Nothing can be said of the rest if nobody ended for ten times as long as usual, and this long at least."""

_SAMPLE: Final = 1.0
_SHOWN: Final = 300
_SHOWN_NAME: Final = 60
"""Characters of a status or a code: those that nobody documents are a server's words."""


def message_of(error: CardprodError) -> str:
    """Give an error's words in one line, without the name of its card."""
    words = str(error) if error.card is None else str(error).removeprefix(f"card {error.card}: ")
    return one_line(words, _SHOWN)


_MEANINGS: Final[Mapping[type, str]] = {
    errors.UsageError: "an argument is invalid, or the client cannot be used",
    errors.RequestTimeout: "no whole answer in time",
    errors.TransportError: "no answer",
    errors.TokenRefreshFailed: "the token endpoint refused to refresh the token",
    errors.Unauthorized: "401: the token is missing, invalid or expired",
    errors.StrongAuthenticationRequired: "403: the user must approve this with strong authentication",
    errors.Forbidden: "403: the token is not for this profile or card",
    errors.CardNotFound: "404: this token can see no such card under this profile",
    errors.RateLimited: "429: more requests than Wise allows",
    errors.ServerError: "5xx: Wise, or a proxy before it, could not answer",
    errors.ApiError: "the answer is an error",
    errors.BadReply: "the answer is not of the documented shape",
    errors.WaitTimeout: "the timeout passed before the card was final",
}


def _meaning_of(error: type[CardprodError]) -> str | None:
    """Return what a class of errors means, in a few words."""
    return next((_MEANINGS[cls] for cls in error.__mro__ if cls in _MEANINGS), None)


@attrs.frozen
class Fate:
    """How a card ended: what those that are counted together have in common.

    Args:
        name: The final status, or the class of the `CardprodError`.
        error_code: The error code that went with the status, if any.
        meaning: What that means, if anybody knows. It may be a server's words, and so is no part of what is counted.
        exit_code: What it makes of the command's exit code.
        is_final: Whether it is a final status; else the card's wait ended and its production may go on.
    """

    name: str
    error_code: str | None
    meaning: str | None = attrs.field(eq=False)
    exit_code: int
    is_final: bool

    @classmethod
    def of(cls, what: ProductionStatus | CardprodError) -> Fate:
        """Say what a status or an error makes of its card in the end."""
        if isinstance(what, CardprodError):
            return cls(type(what).__name__, None, _meaning_of(type(what)), exit_code_of(what), is_final=False)
        meaning = what.error_meaning or (None if what.error_code is None else what.description)
        code = None if what.error_code is None else one_line(what.error_code, _SHOWN_NAME)
        return cls(one_line(what.status, _SHOWN_NAME), code, meaning, exit_code_of(what), what.is_final)

    def __str__(self) -> str:
        text = self.name if self.error_code is None else f"{self.name}  {self.error_code}"
        return text if self.meaning is None else f"{text} ({self.meaning})"


@attrs.frozen
class Told:
    """One thing that was told: a transition, or the error that ended a card's wait.

    Args:
        card: Of which card.
        what: What.
        seconds: How long after the command began.
    """

    card: Card
    what: Transition | CardprodError
    seconds: float

    @property
    def status(self) -> str | None:
        """The status the card came to; None for an error."""
        return None if isinstance(self.what, CardprodError) else self.what.current.status

    @property
    def outcome(self) -> ProductionStatus | CardprodError:
        """What the card came to."""
        return self.what if isinstance(self.what, CardprodError) else self.what.current

    @property
    def short(self) -> str:
        """What it came to, in words, without what was before."""
        outcome = self.outcome
        return (
            f"{type(outcome).__name__}: {message_of(outcome)}" if isinstance(outcome, CardprodError) else str(outcome)
        )

    def __str__(self) -> str:
        return self.short if isinstance(self.what, CardprodError) else str(self.what)


class Recent:
    """By how much a number that only grows grew lately.

    Args:
        window: Seconds that count as lately.
        now: The time.
        count: The number now.
    """

    __slots__ = ("_samples", "_window")

    def __init__(self, window: float, now: float, count: int = 0) -> None:
        self._window = window
        self._samples: deque[tuple[float, int]] = deque([(now, count)])

    def note(self, now: float, count: int) -> None:
        """Take a sample. One a second is kept, and of those before the window the last one."""
        samples = self._samples
        if len(samples) > 1 and now - samples[-2][0] < _SAMPLE:
            samples[-1] = now, count
        else:
            samples.append((now, count))
        while len(samples) > 2 and samples[1][0] <= now - self._window:  # noqa: PLR2004 - a first and a last one
            samples.popleft()

    @property
    def growth(self) -> tuple[int, float]:
        """By how much it grew, and in how many seconds, from the first sample that counts to the last."""
        (began_at, least), (ended_at, most) = self._samples[0], self._samples[-1]
        return most - least, ended_at - began_at


@attrs.frozen(kw_only=True)
class Summary:
    """What became of all cards, in the end or when it was stopped.

    Args:
        cards: How many there are.
        produced: How many are PRODUCED.
        failed: How many ended in PRODUCTION_ERROR or REQUEST_ERROR.
        unfinished: How many are not final: their time ran out, or the command was stopped before.
        errors: How many have no usable answer.
        bad_rows: How many lines of the list are no cards.
        requests: Requests sent by this run, repeated ones included.
        seconds: How long this run took.
        ends: How they ended, with how many of each, the most frequent first.
        named: The first cards that were not produced, of those that ended in this run.
        stopped_by: What ended it before its time: a signal's name, or the class of an error; None if nothing did.
    """

    cards: int
    produced: int
    failed: int
    unfinished: int
    errors: int
    bad_rows: int
    requests: int
    seconds: float
    ends: tuple[tuple[Fate, int], ...]
    named: tuple[Told, ...]
    stopped_by: str | None

    @property
    def exit_code(self) -> int:
        """The exit code, but for that of a signal."""
        kinds = {NO_ANSWER: self.errors, NOT_FINAL: self.unfinished, FAILED: self.failed, USAGE: self.bad_rows}
        return worst_of(code for code, count in kinds.items() if count)


class Tally:
    """Counts.

    Args:
        cards: The cards, each once.
        now: The time. Any clock in seconds.
    """

    def __init__(self, cards: Iterable[Card], now: float) -> None:
        # None before the first look, then the status, and in the end the fate: of which there are few, and each once.
        self._standing: dict[Card, str | Fate | None] = dict.fromkeys(cards)
        self._fates: dict[Fate, Fate] = {}
        self._began_at = now
        self._now = now
        self._last_end_at = now
        self._requests = Recent(_MINUTE, now)
        self._ends = Recent(_RATE_WINDOW, now)
        self._ended_here = 0
        self.total: int = len(self._standing)
        """Cards, each once."""
        self.pending: int = self.total
        """Cards that have not ended."""
        self.requests: int = 0
        """Requests sent."""
        self.statuses: Counter[str] = Counter()
        """How many of the pending cards stand where, as far as they were looked at."""
        self.fates: Counter[Fate] = Counter()
        """How many cards ended how."""
        self.latest: deque[Told] = deque(maxlen=_LATEST)
        """What was told last, the latest last."""
        self.named: list[Told] = []
        """The first cards that ended and were not produced."""
        self.failed_looks: int = 0
        """Looks that failed while their card's wait went on."""
        self._why_failed = ""
        self._failures = Recent(_MINUTE, now)
        self.paused_for: float = 0.0
        """Seconds for which nothing is sent, because the API asked for that."""
        self._saved_at: float | None = None

    # --- What happens ---

    def go_on_from(self, pending: Iterable[PendingCard], ended: Mapping[Card, Fate]) -> None:
        """Take over what an earlier run knew of its cards."""
        for one in pending:
            if one.last is not None:
                self._stand(one.card, one_line(one.last.status, _SHOWN_NAME))
        for card, fate in ended.items():
            self._end(card, fate)

    def saw(self, card: Card, what: Transition | CardprodError, now: float) -> Told:
        """Take what was told of a card.

        Args:
            card: The card.
            what: A transition, or the error that ended its wait.
            now: The time.

        Returns:
            The same, as it will be shown.
        """
        told = Told(card, what, now - self._began_at)
        self.latest.append(told)
        outcome = told.outcome
        if isinstance(outcome, CardprodError) or outcome.is_final:
            fate = Fate.of(outcome)
            self._end(card, fate)
            self._ended_here += 1
            self._last_end_at = now
            if fate.exit_code != PRODUCED and len(self.named) < _NAMED:
                self.named.append(told)
        else:
            self._stand(card, one_line(outcome.status, _SHOWN_NAME))
        return told

    def failed_look(self, error: CardprodError) -> None:
        """Take note of a look that failed while its card's wait goes on."""
        self.failed_looks += 1
        self._why_failed = message_of(error)

    def saved(self, now: float) -> None:
        """Take note that all this was saved as it was at that time."""
        self._saved_at = now

    def sample(self, now: float, requests: int, paused_for: float = 0.0) -> None:
        """Take note of how far it is, from time to time.

        Args:
            now: The time.
            requests: How many requests were sent so far.
            paused_for: Seconds for which none will be, because the API asked for that.
        """
        self._now = now
        self.requests = requests
        self.paused_for = paused_for
        self._requests.note(now, requests)
        self._failures.note(now, self.failed_looks)
        if self._ended_here:
            self._ends.note(now, self._ended_here)
        else:
            self._ends = Recent(_RATE_WINDOW, now)  # what is measured begins with the first end

    def _stand(self, card: Card, status: str) -> None:
        self._leave(card)
        self._standing[card] = status
        self.statuses[status] += 1

    def _end(self, card: Card, fate: Fate) -> None:
        self._leave(card)
        fate = self._fates.setdefault(fate, fate)
        self._standing[card] = fate
        self.fates[fate] += 1
        self.pending -= 1

    def _leave(self, card: Card) -> None:
        before = self._standing[card]
        if isinstance(before, Fate):
            self.fates[before] -= 1
            self.pending += 1
        elif before is not None:
            self.statuses[before] -= 1

    # --- How it stands ---

    @property
    def seconds(self) -> float:
        """Seconds since it began, when the last sample was taken."""
        return self._now - self._began_at

    @property
    def saved_ago(self) -> float | None:
        """Seconds since it was saved; None if it was not yet."""
        return None if self._saved_at is None else max(0.0, self._now - self._saved_at)

    @property
    def unseen(self) -> int:
        """How many cards were never looked at."""
        return self.pending - self.statuses.total()

    @property
    def requests_in_last_minute(self) -> int:
        """Requests sent in the minute before the last sample."""
        return self._requests.growth[0]

    @property
    def trouble(self) -> str | None:
        """How many looks failed in the last minute, while their cards' waits went on, and why; None if none did."""
        count = self._failures.growth[0]
        if not count:
            return None
        return f"{count_of(count, 'look')} failed in the last minute, to be tried again: {self._why_failed}"

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all have ended, if those that are left go on as those of the last minutes did.

        None if nobody knows: before some have ended, and once they have stopped to.
        """
        grown, seconds = self._ends.growth
        if not self.pending:
            return 0.0
        if grown < _LEAST_ENDS or seconds <= 0:
            return None
        if self._now - self._last_end_at > max(_STALLED_SECONDS, _STALLED * seconds / grown):
            return None
        return self.pending * seconds / grown

    def ended(self) -> dict[Card, Fate]:
        """Give the cards that are final. It goes over all of them."""
        return {card: fate for card, fate in self._standing.items() if isinstance(fate, Fate) and fate.is_final}

    def count(self, exit_code: int) -> int:
        """Say how many cards ended in what makes this exit code."""
        return sum(count for fate, count in self.fates.items() if fate.exit_code == exit_code)

    def summary(self, *, bad_rows: int = 0, stopped_by: str | None = None) -> Summary:
        """Sum up."""
        return Summary(
            cards=self.total,
            produced=self.count(PRODUCED),
            failed=self.count(FAILED),
            unfinished=self.count(NOT_FINAL) + self.pending,
            errors=self.count(NO_ANSWER) + self.count(USAGE),
            bad_rows=bad_rows,
            requests=self.requests,
            seconds=self.seconds,
            ends=tuple((fate, count) for fate, count in self.fates.most_common() if count),
            named=tuple(self.named),
            stopped_by=stopped_by,
        )
