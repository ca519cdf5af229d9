"""Processes of the command that are forked from one in which everything is imported: real ones, started in no time.

Streams, signals, environment, working folder and exit are a process's own also so; what importing the package costs,
half a second of a processor, is paid once. Only what is about the start of Python itself needs a new one.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
from contextlib import suppress
from functools import cache
from typing import Any, Final

from tests.waiting import LIMIT, Child

__all__ = ["ForkedChild"]

_SERVER: Final = r"""
import encodings.idna, gc, json, os, signal, socket, sys
from aiohttp import web
from cardprod import cli, simulator
from cardprod._http import retries
from cardprod._protocol import documents
from cardprod.cli.output import live
from cardprod.cli.watch import session, store

documents.status_structurer("answer")
gc.freeze()

def fork_for_each_request():
    control = socket.socket(fileno=0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, files, *_ = socket.recv_fds(control, 1_000_000, 4)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, reports = files
    forked = os.fork()
    if forked:
        os.write(reports, b"%d" % forked)
        os.write(reports, b"%d" % os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]))
        os._exit(0)
    os.setsid()
    control.detach()
    os.close(reports)
    argv, environment, folder, is_open = json.loads(request)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if is_open[number]:
            file = streams.pop(0)
            os.dup2(file, number)
            os.close(file)
        else:  # as Python begins where a stream is closed
            os.close(number)
            setattr(sys, name, None)
    return argv, environment, folder

argv, environment, folder = fork_for_each_request()
os.environ.clear()
os.environ.update(environment)
os.chdir(folder)
if argv[0] == "-c":
    exec(argv[1])
else:
    sys.exit(cli.main(argv))
"""


@cache
def _server() -> socket.socket:
    """Start the process that forks. It ends with this one, or when nothing can come from it any more."""
    ours, its = socket.socketpair()
    with its:
        atexit.register(Child(sys.executable, "-P", "-c", _SERVER, stdin=its.fileno()).close)
    return ours


class _Forked:
    """What a `subprocess.Popen` does, for a process that is no child of this one."""

    def __init__(self, argv: list[str], streams: list[int], environment: object, folder: object) -> None:
        self._reports, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            is_open = [stream >= 0 for stream in streams]
            request = json.dumps([argv, environment, str(folder), is_open]).encode()
            socket.send_fds(_server(), [request], [*(each for each in streams if each >= 0), its.fileno()])
        pid = self._read(LIMIT)
        assert pid is not None, "no process was forked"
        self.pid: int = pid
        self._exit_code: int | None = None

    def _read(self, limit: float) -> int | None:
        """Read the next report, a number in a message of its own; None if none came in time."""
        self._reports.settimeout(limit)
        with suppress(TimeoutError, BlockingIOError):
            return int(self._reports.recv(100))
        return None

    def poll(self) -> int | None:
        if self._exit_code is None:
            self._exit_code = self._read(0)
        return self._exit_code

    def wait(self, limit: float) -> None:
        if self._exit_code is None:
            self._exit_code = self._read(limit)
        self._reports.close()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkedChild(Child):
    """A process of the command with these arguments, or of a program after "-c". A stream that is -1 is closed."""

    def _start(self, argv: tuple[str, ...], streams: list[int], **more: Any) -> Any:
        return _Forked([*argv], streams, more["env"], more["cwd"] or ".")
