"""`CoroutineLike`: an object that is a coroutine to everything that takes one, and something more besides."""

from __future__ import annotations

import asyncio
import inspect
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["CoroutineLike", "returns_coroutine"]

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., object])


class CoroutineLike(Coroutine[Any, Any, _T]):
    """Can be awaited, and made a task of by `create_task`, `gather`, `TaskGroup.create_task` and `wait_for`."""

    __slots__ = ("_coroutine",)

    __name__: str
    _coroutine: Coroutine[Any, Any, _T] | None

    @abstractmethod
    def _start(self) -> Coroutine[Any, Any, _T]:
        """Begin, as a coroutine; or raise `UsageError` if that is no longer possible."""

    def __await__(self) -> Generator[Any, Any, _T]:
        self._coroutine = self._start()
        return self._coroutine.__await__()

    def send(self, value: Any, /) -> Any:  # noqa: ANN401 - the coroutine protocol says so
        """Go on until the next suspension, as the event loop asks of a coroutine."""
        return self._started().send(value)

    def throw(
        self,
        typ: BaseException | type[BaseException],
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> Any:  # noqa: ANN401 - the coroutine protocol says so
        """Raise inside, as the event loop does to cancel."""
        exc = typ if isinstance(typ, BaseException) else val if isinstance(val, BaseException) else typ()
        return self._started().throw(exc if tb is None else exc.with_traceback(tb))

    def _started(self) -> Coroutine[Any, Any, _T]:
        if self._coroutine is None:
            self._coroutine = self._start()
        return self._coroutine

    def _warn_unused(self) -> None:
        """Warn as Python does of a coroutine that was never awaited."""
        warnings.warn(f"{self.__name__} was never awaited or iterated", RuntimeWarning, stacklevel=2, source=self)


def returns_coroutine(function: _F) -> _F:
    """Mark a function that returns a `CoroutineLike` as a coroutine function, for those that ask before they call it.

    Starlette's `BackgroundTasks`, for one, would run it in a thread otherwise, and drop what it returns.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    vars(function)["_is_coroutine"] = getattr(asyncio.coroutines, "_is_coroutine", None)
    return function
