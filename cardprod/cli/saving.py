"""The checkpoint file of `cardprod watch`: what is in it, and how it is written so that no crash can harm it.

It is JSON lines, so that a million cards neither need one huge text nor hold anybody up for long:

| line | what it is |
| --- | --- |
| the first | `version` (1), `format` ("cardprod watch"), `base_url`, `pending` and `ended` (counts), `learned` |
| then | cards that are waited for: each line a `cardprod.Checkpoint` of 500 cards at most |
| then | `ended`: cards that are final, 500 at most, each with `card status error_code` |

`learned` is what `AdaptiveSchedule.to_json` gave: how long the statuses last. No token but the cards' is in the file,
and only its owner can read it.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, Final, Literal

import attrs

from cardprod._polling.adaptive import AdaptiveSchedule
from cardprod._protocol.codec import Count, from_json, to_json
from cardprod.checkpoint import Checkpoint
from cardprod.cli.tally import Fate
from cardprod.errors import UsageError
from cardprod.models import Card, ProductionStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

__all__ = ["CheckpointFile", "Saved", "pause_after"]

_VERSION: Final = 1
_CARDS_PER_LINE: Final = 500
_WRITER: Final = "`cardprod watch`"
_ENDED: Final = '{"version":1,"ended"'
"""How the lines with cards that are final begin."""

_CAN_LOCK: Final = os.name == "posix"
"""Whether a file can be one run's alone, and be replaced while it is open."""

_SHARE: Final = 0.05
"""The most of the time that may go into writing."""

_PAUSE: Final = 2.0
_IDLE_PAUSE: Final = 60.0


def pause_after(cost: float, *, is_idle: bool) -> float:
    """Say how long to wait before the file is written again.

    Args:
        cost: Seconds that writing it took last.
        is_idle: Whether nothing was told since.

    Returns:
        Seconds: two, or a minute if there is no news; and more if writing would take a twentieth of the time.
    """
    return max(_IDLE_PAUSE if is_idle else _PAUSE, cost / _SHARE)


@attrs.frozen(kw_only=True)
class Saved:
    """What a run of `watch` leaves for the next one.

    Args:
        base_url: Where the cards were asked for.
        checkpoint: The cards that are waited for.
        ended: The cards that are final, and how they ended.
        learned: What `AdaptiveSchedule.to_json` gave.
    """

    base_url: str
    checkpoint: Checkpoint
    ended: Mapping[Card, Fate]
    learned: str

    def to_lines(self) -> Iterator[str]:
        """Write it, line by line."""
        pending, ended = self.checkpoint.pending, self.ended
        head = _Head(base_url=self.base_url, pending=len(pending), ended=len(ended), learned=self.learned)
        yield to_json(head, version=_VERSION)
        for chunk in _chunks(pending):
            yield attrs.evolve(self.checkpoint, pending=tuple(chunk)).to_json()
        for chunk in _chunks(ended.items()):
            cards = (_EndedCard(card=card, status=fate.name, error_code=fate.error_code) for card, fate in chunk)
            yield to_json(_Ended(ended=tuple(cards)), version=_VERSION)

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> Saved:
        """Read what `to_lines` wrote.

        Raises:
            UsageError: It is not that; what is wrong with it.
        """
        lines = iter(lines)
        head = from_json(_Head, next(lines, ""), version=_VERSION, writer=_WRITER)
        AdaptiveSchedule.from_json(head.learned)  # or it raises
        chunks: list[Checkpoint] = []
        ended: dict[Card, Fate] = {}
        for line in lines:
            if line.startswith(_ENDED):
                ended |= _fates_of(from_json(_Ended, line, version=_VERSION, writer=_WRITER))
            else:
                chunks.append(Checkpoint.from_json(line))
        pending = tuple(one for chunk in chunks for one in chunk.pending)
        cards = ended.keys() | {one.card for one in pending}
        if (len(pending), len(ended)) != (head.pending, head.ended) or len(cards) < len(pending) + len(ended):
            raise UsageError("it does not hold the cards that its first line names")
        checkpoint = attrs.evolve(chunks[0] if chunks else Checkpoint.for_cards(()), pending=pending)
        return cls(base_url=head.base_url, checkpoint=checkpoint, ended=ended, learned=head.learned)


@attrs.frozen(kw_only=True)
class _Head:
    """The first line."""

    format: Literal["cardprod watch"] = "cardprod watch"
    base_url: str
    pending: Count
    ended: Count
    learned: str


@attrs.frozen(kw_only=True)
class _EndedCard:
    card: Card
    status: str
    error_code: str | None


@attrs.frozen(kw_only=True)
class _Ended:
    """A line of cards that are final."""

    ended: tuple[_EndedCard, ...]


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    items = iter(items)
    while chunk := list(islice(items, _CARDS_PER_LINE)):
        yield chunk


def _fates_of(saved: _Ended) -> dict[Card, Fate]:
    fates: dict[Card, Fate] = {}
    for one in saved.ended:
        fate = Fate.of(ProductionStatus(one.status, error_code=one.error_code))
        if not fate.is_final:
            raise UsageError("it has a card as ended that is not", card=one.card)
        fates[one.card] = fate
    return fates


def _lock(file: IO[str]) -> None:
    """Let nobody else lock a file that is open, until it is closed. Where there are no locks, do without.

    Raises:
        BlockingIOError: Somebody else has.
    """
    import fcntl  # noqa: PLC0415 - Windows has none

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if isinstance(exc, BlockingIOError):
            raise


class CheckpointFile:
    """The file, for as long as the `with` block.

    A write is whole or it is not: it goes to a file beside it, is forced to the disk, and takes its place at once. The
    file is one run's at a time: the system keeps it from others until that run ends, however it ends (not on Windows).

    Args:
        name: Where it is.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        """What it is called."""
        self._path = Path(os.path.realpath(name))  # of a link, what it leads to is replaced
        self._beside = self._path.with_name(f".{self._path.name}.new")
        self._held: IO[str] | None = None
        self._lock = Lock()
        self._newest: float = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:  # a thread may be about to write
            self._newest = math.inf
            self._let_go()

    def read(self) -> Saved | None:
        """Read it, and keep it from others. It blocks, so call it in a thread.

        Returns:
            What an earlier run left; None if there is no such file.

        Raises:
            UsageError: It is something else, cannot be read, or is another run's.
        """
        if self._path.exists() and not self._path.is_file():
            raise self._refusal("it is no file")
        try:
            file = self._path.open(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._refusal(str(exc.strerror)) from exc
        self._hold(file)
        try:
            return Saved.from_lines(file)
        except UnicodeDecodeError as exc:
            raise self._refusal("it is not UTF-8") from exc
        except UsageError as exc:
            raise self._refusal(str(exc)) from exc

    def _refusal(self, why: str) -> UsageError:
        return UsageError(
            f"{self.name} is no checkpoint of `cardprod watch` to go on from: {why}; it was left as it is"
        )

    def write(self, saved: Saved, number: int) -> None:
        """Write it, unless what was written last is newer. It blocks, and can be called from several threads.

        Args:
            saved: What to write.
            number: The larger, the newer.

        Raises:
            UsageError: It cannot be written; why.
        """
        with self._lock:
            if number < self._newest:
                return
            try:
                self._replace(saved)
            except OSError as exc:
                raise UsageError(f"the checkpoint {self.name} cannot be written: {exc.strerror}") from exc
            self._newest = number

    def _replace(self, saved: Saved) -> None:
        if _CAN_LOCK and self._held is None and self._path.exists():
            raise self._in_use()  # it was not there when it was read
        # It is this run's alone: what lies there was left by one that was killed.
        self._beside.unlink(missing_ok=True)
        handle = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        file = open(handle, "w", encoding="ascii")  # noqa: PTH123, SIM115 - a handle has no path, and it is held
        try:
            file.writelines(f"{line}\n" for line in saved.to_lines())
            file.flush()
            os.fsync(file.fileno())
            if _CAN_LOCK:
                _lock(file)
                self._beside.replace(self._path)
        except BaseException:
            file.close()
            with suppress(OSError):  # half a file is no use, and the disk may be full
                self._beside.unlink()
            raise
        self._let_go()
        if _CAN_LOCK:
            self._held = file
        else:
            file.close()
            self._beside.replace(self._path)
        with suppress(OSError):  # not every system lets a directory be opened
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _hold(self, file: IO[str]) -> None:
        """Keep the file that was opened from others."""
        self._held = file
        if not _CAN_LOCK:
            return
        try:
            _lock(file)
            is_replaced = not os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except (BlockingIOError, FileNotFoundError):
            is_replaced = True
        if is_replaced:
            self._let_go()
            raise self._in_use()

    def _in_use(self) -> UsageError:
        return UsageError(f"another run goes on with {self.name}: wait for it, or name another file with --checkpoint")

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
