"""Where the cards of a batch come from: any iterable or async iterable, read without holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from cardprod._protocol.validation import check_cards
from cardprod.errors import UsageError
from cardprod.models import Card

if TYPE_CHECKING:
    from cardprod.models import CardLike

Cards: TypeAlias = "Iterable[CardLike] | AsyncIterable[CardLike]"
"""What cards can come from: anything that can be iterated, by `for` or `async for`."""

_S = TypeVar("_S")
_I = TypeVar("_I")

_SLICE: Final = 0.004
"""Seconds of work, after which the event loop runs something else."""
_CHECK_EVERY: Final = 16


class TimeSlice:
    """Work that lets the event loop run something else every few milliseconds."""

    __slots__ = ("_began_at",)

    def __init__(self) -> None:
        self._began_at = perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether this slice of work has taken long enough."""
        return perf_counter() - self._began_at > _SLICE

    async def pause_if_over(self) -> None:
        """Let the event loop run something else, if this slice has taken long enough, and begin the next one."""
        if self.is_over:
            await asyncio.sleep(0)
            self._began_at = perf_counter()


def check_source(cards: object) -> None:
    """Check, before anything begins, that cards may come from this.

    Raises:
        UsageError: They may not.
    """
    check_cards(cards)
    if not isinstance(cards, Iterable | AsyncIterable):
        raise UsageError(f"cards must be iterable, by for or async for; this is a {type(cards).__name__}")


async def each_card(source: Cards) -> AsyncIterator[Card]:
    """Iterate the cards of a source.

    Raises:
        UsageError: An item is no card; which one it was.
    """
    async for _, card in each_item(source):
        if isinstance(card, UsageError):
            raise card
        yield card


async def each_item(source: Cards) -> AsyncIterator[tuple[object, Card | UsageError]]:
    """Iterate the items of a source, each with the card that it is, or with what is wrong with it."""
    work = TimeSlice()
    count = 0
    if isinstance(source, AsyncIterable):
        async for item in _begun(aiter, source):
            count += 1
            yield item, _card_of(item, count)
            if count % _CHECK_EVERY == 0:
                await work.pause_if_over()
        return
    for item in _begun(iter, source):
        count += 1
        yield item, _card_of(item, count)
        if count % _CHECK_EVERY == 0:
            await work.pause_if_over()


def _begun(begin: Callable[[_S], _I], source: _S) -> _I:
    try:
        return begin(source)
    except TypeError as exc:
        raise UsageError(f"cards cannot be iterated: {exc}; pass an iterable or an async iterable of cards") from exc


def _card_of(item: CardLike, count: int) -> Card | UsageError:
    try:
        return Card.of(item)
    except Exception as exc:  # noqa: BLE001 - mostly ours; or the item's own
        return UsageError(f"card number {count}: {exc}")
