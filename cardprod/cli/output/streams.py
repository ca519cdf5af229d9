"""Standard output and standard error as they come in real life: closed, full, unread, of any encoding.

Nothing here blocks the event loop: what a pipe does not take yet is kept, until `drain` has written it.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import select
from contextlib import suppress
from typing import Final

_AT_ONCE: Final = getattr(select, "PIPE_BUF", 512)
"""Bytes that a pipe takes without blocking, if it takes any."""

_RETRY: Final = 0.01


class OutputLost(Exception):
    """Standard output cannot be written any more; `reason` is None if its reader has gone, which needs no word."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.reason: str | None = None if isinstance(error, BrokenPipeError) else error.strerror


class Stream:
    """A file descriptor to write text to. Characters that its encoding does not have become "?"."""

    def __init__(self, fd: int, encoding: str = "utf-8") -> None:
        self._fd = fd
        self._encoder = codecs.getincrementalencoder(encoding)("replace")
        self._kept = bytearray()

    @property
    def kept(self) -> int:
        """How many bytes are not written yet."""
        return len(self._kept)

    def write(self, text: str) -> None:
        """Write a text, as far as that is possible at once; `OutputLost` if it cannot be written any more."""
        self._kept += self._encoder.encode(text)
        self._write_kept()

    def drop(self) -> None:
        """Give up what is not written yet."""
        self._kept.clear()

    async def drain(self) -> None:
        """Wait until everything is written; `OutputLost` if it cannot be."""
        while self._kept:
            await asyncio.sleep(_RETRY)
            self._write_kept()

    def _write_kept(self) -> None:
        while self._kept and _takes_more(self._fd):
            try:
                del self._kept[: os.write(self._fd, self._kept[:_AT_ONCE])]
            except BlockingIOError:
                return
            except OSError as exc:
                self._kept.clear()
                raise OutputLost(exc) from None


def _takes_more(fd: int) -> bool:
    if os.name == "posix":  # Windows can select sockets only
        with suppress(OSError, ValueError):  # writing says what is wrong with it
            return bool(select.select([], [fd], [], 0)[1])
    return True


def open_missing_streams() -> None:
    """Put nothing in the place of standard streams that are closed: the next file opened would get their numbers."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR if fd else os.O_WRONLY)


def print_stderr(text: str) -> None:
    """Write a line to standard error, if it takes one."""
    with suppress(OutputLost):
        Stream(2).write(f"{text}\n")
