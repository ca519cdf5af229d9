"""`CoroutineLike`: the base of objects that work as a coroutine, and have other methods as well."""

from __future__ import annotations

import asyncio
import inspect
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from cardprod.errors import UsageError

if TYPE_CHECKING:
    from types import TracebackType

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., object])


class CoroutineLike(Coroutine[Any, Any, _T]):
    """Can be awaited, and passed to `create_task`, `gather`, `TaskGroup.create_task` and `wait_for`."""

    __slots__ = ("_coroutine",)

    __name__: str
    _coroutine: Coroutine[Any, Any, _T] | None

    @abstractmethod
    def _start(self) -> Coroutine[Any, Any, _T]:
        """Return the coroutine that does the work; or raise `UsageError` if it cannot start any more."""

    def __await__(self) -> Generator[Any, Any, _T]:
        self._coroutine = self._start()
        return self._coroutine.__await__()

    def send(self, value: Any, /) -> Any:  # noqa: ANN401 - the coroutine protocol says so
        """Run until the next suspension. Called by the event loop."""
        return self._started().send(value)

    def throw(
        self,
        typ: BaseException | type[BaseException],
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> Any:  # noqa: ANN401 - the coroutine protocol says so
        """Raise inside the coroutine. Called by the event loop, to cancel it."""
        exc = typ if isinstance(typ, BaseException) else val if isinstance(val, BaseException) else typ()
        return self._started().throw(exc if tb is None else exc.with_traceback(tb))

    def _started(self) -> Coroutine[Any, Any, _T]:
        if self._coroutine is None:
            self._coroutine = self._start()
        return self._coroutine

    def _close_coroutine(self) -> None:
        """Close the coroutine, if there is one; but not while it runs: then an observer that it has called ends it."""
        if self._coroutine is not None and not getattr(self._coroutine, "cr_running", False):
            self._coroutine.close()

    def __reduce__(self) -> NoReturn:
        # As of a coroutine: a copy would share what each of the two ends once.
        raise TypeError(f"cannot copy or pickle {self.__name__}: ask the client for another")

    def _warn_unused(self) -> None:
        """Warn as Python does about a coroutine that was never awaited."""
        warnings.warn(f"{self.__name__} was never awaited or iterated", RuntimeWarning, stacklevel=2, source=self)


def returns_coroutine(function: _F) -> _F:
    """Mark a function that returns a `CoroutineLike` as a coroutine function, for frameworks that check for one.

    Starlette's `BackgroundTasks`, for instance, would otherwise run it in a thread and ignore what it returns.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    vars(function)["_is_coroutine"] = getattr(asyncio.coroutines, "_is_coroutine", None)
    return function


def check_loop(loop: asyncio.AbstractEventLoop | None, words: str) -> None:
    """Raise `UsageError` if an event loop runs, but in another thread: nothing that waits there would be woken.

    Args:
        loop: The event loop; None for none yet.
        words: What must be done in it, and how it is done from another thread.
    """
    if loop is None or not loop.is_running():
        return
    try:
        is_here = asyncio.get_running_loop() is loop
    except RuntimeError:
        is_here = False
    if not is_here:
        raise UsageError(words)


def not_an_end(error: BaseException) -> BaseException:
    """Return what an iterator raises for an error: as in Python's generators, no `StopAsyncIteration` of a user's code.

    It would end the iteration as if every result had come.
    """
    if not isinstance(error, StopAsyncIteration):
        return error
    failure = RuntimeError("a token source or a schedule raised StopAsyncIteration")
    failure.__cause__ = error
    return failure
