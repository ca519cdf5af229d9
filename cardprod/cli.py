"""The `cardprod` command: parses, prints, exits. What it shows comes from the client; nothing is decided here.

Exit codes:

| code | meaning |
| --- | --- |
| 0 | produced (`demo` and `simulate`: it ran) |
| 1 | the card ended in PRODUCTION_ERROR or REQUEST_ERROR |
| 2 | usage: an argument or the environment cannot be right |
| 3 | not final yet: the wait timed out, or, for `status`, the card is still under way |
| 4 | the API or the network: no usable answer |
| 130 | Ctrl-C |

With `--json`, one JSON object per line on standard output, told apart by `type`:

| type | fields |
| --- | --- |
| `status` | `card status is_final kiosk_id occurred_at error_code error_origin error_meaning description` |
| `transition` | as `status`, with `previous` (a status or null), `elapsed` (seconds), `polls` |
| `error` | `card` or null, `error` (the class), `message` |
| `summary` | `demo` only: `cards produced failed unfinished requests seconds` |
| `listening` | `simulate` only: `base_url plan`, with `--webhooks-to` also `public_key_url` |
| `request` | `simulate` only: `at method path http_status status fault` |

`card` is `{"profile_id": int, "card_token": str}`. Fields may be added; none will change its meaning.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

import attrs

from cardprod._version import VERSION
from cardprod.client import PRODUCTION, Client
from cardprod.errors import CardprodError, UsageError, WaitTimeout
from cardprod.models import Card, ProductionStatus, Status
from cardprod.schedule import Backoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardprod.models import Transition
    from cardprod.simulator import LoggedRequest, Simulator

__all__ = ["Report", "main", "parser", "report_to", "run"]

_PRODUCED, _FAILED, _USAGE, _NOT_FINAL, _NO_ANSWER, _INTERRUPTED = 0, 1, 2, 3, 4, 130

_EPILOG: Final = f"""\
environment:
  CARDPROD_TOKEN        the user token; never an argument, where others could read it
  CARDPROD_BASE_URL     where to ask (default {PRODUCTION})
  CARDPROD_API_VERSION  the path's version (default v3)

exit codes:
  0 produced   1 ended in an error status   2 usage   3 not final yet or timed out   4 API or network

examples:
  cardprod demo
  cardprod status 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52
  cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52 --timeout 600 --json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; None takes the process's.

    Returns:
        The exit code.
    """
    arguments = parser().parse_args(argv)
    report = report_to(sys.stdout, as_json=arguments.json)
    try:
        return asyncio.run(run(arguments, report))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NO_ANSWER


async def run(arguments: argparse.Namespace, report: Report) -> int:
    """Run a parsed command inside an event loop, and say how it ended."""
    try:
        exit_code: int = await arguments.run(arguments, report)
    except CardprodError as error:
        report.error(error)
        return _exit_code_of(error)
    return exit_code


def _exit_code_of(error: CardprodError) -> int:
    if isinstance(error, UsageError):
        return _USAGE
    return _NOT_FINAL if isinstance(error, WaitTimeout) else _NO_ANSWER


def _exit_code_for(status: ProductionStatus) -> int:
    if status.is_produced:
        return _PRODUCED
    return _FAILED if status.is_final else _NOT_FINAL


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:  # noqa: PLR2004 - what TCP has
        raise argparse.ArgumentTypeError("a port is from 0 to 65535")
    return port


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="cardprod",
        description="Is my card printed yet? Asks the Wise Platform API.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"cardprod {VERSION}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="watch seven cards at a simulated kiosk, for ten seconds or so")
    demo.set_defaults(run=_demo)

    status = commands.add_parser("status", help="look at a card once")
    status.set_defaults(run=_status)

    wait = commands.add_parser("wait", help="wait until a card is final, telling each transition")
    wait.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS", help="give up after (default 900)")
    wait.set_defaults(run=_wait)

    simulate = commands.add_parser("simulate", help="run the kiosk simulator until Ctrl-C")
    simulate.add_argument("--port", type=_port, default=8080, help="port on 127.0.0.1, 0 for any (default 8080)")
    simulate.add_argument("--plan", default="prints", help="what becomes of a card: prints, jams, rejected, retried or "
                          "never (default prints)")  # fmt: skip
    simulate.add_argument("--webhooks-to", metavar="URL", help="send a signed webhook there for each change of a card")
    simulate.set_defaults(run=_simulate)

    for command in (status, wait):
        command.add_argument("profile", type=int, metavar="PROFILE", help="the id of the profile that owns the card")
        command.add_argument("card", metavar="CARD", help="the card's token")
    for command in (demo, status, wait, simulate):
        command.add_argument("--json", action="store_true", help="JSON lines instead of text")
    return top


# --- The commands -----------------------------------------------------------------------------------------------------


async def _status(arguments: argparse.Namespace, report: Report) -> int:
    card = Card(arguments.profile, arguments.card)
    async with Client.from_env() as client:
        status = await client.get_status(card.profile_id, card.card_token)
    report.status(card, status)
    return _exit_code_for(status)


async def _wait(arguments: argparse.Namespace, report: Report) -> int:
    card = Card(arguments.profile, arguments.card)
    async with Client.from_env() as client:
        wait = client.wait_until_final(card.profile_id, card.card_token, timeout=arguments.timeout)
        async for step in wait:
            report.transition(card, step, step.elapsed)
            if step.is_final:
                return _exit_code_for(step.current)
    return _NOT_FINAL  # a wait that ends without a final step has raised before this


async def _simulate(arguments: argparse.Namespace, report: Report) -> int:
    from cardprod.simulator import Simulator  # noqa: PLC0415 - a web server is nothing to load for a look

    kiosk = Simulator(port=arguments.port, token=None, plan_for_unknown=arguments.plan, on_request=report.request)
    try:
        await kiosk.__aenter__()
    except OSError as exc:
        raise UsageError(f"cannot listen on port {arguments.port}: {exc.strerror}") from exc
    async with AsyncExitStack() as stack:
        stack.push_async_exit(kiosk)
        if arguments.webhooks_to is not None:
            try:
                kiosk.subscribe(arguments.webhooks_to)
            except ImportError as exc:
                raise UsageError(str(exc)) from exc
        report.listening(
            kiosk.base_url, arguments.plan, None if arguments.webhooks_to is None else kiosk.public_key_url
        )
        await asyncio.Event().wait()
    return _PRODUCED


@attrs.frozen
class _Scene:
    """One card of the demo: its plan, what goes wrong on the way, and how often its owner waits for it."""

    plan: str
    faults: int = 0
    waits: int = 1


_SCENES: Final = (
    _Scene("prints"),
    _Scene("jams"),
    _Scene("prints", faults=2),
    _Scene("rejected"),
    _Scene("retried", waits=2),
    _Scene("never"),
    _Scene("prints"),
)
_DEMO_SCHEDULE: Final = Backoff(first=0.4, factor=1.4, ceiling=1.0)
_DEMO_TIMEOUT: Final = 9.0
_MENDING: Final = 3.0


async def _demo(_: argparse.Namespace, report: Report) -> int:
    from cardprod.simulator import Simulator  # noqa: PLC0415 - as above

    loop = asyncio.get_running_loop()
    started_at = loop.time()
    async with Simulator() as kiosk, Client(kiosk.token, base_url=kiosk.base_url) as client:
        report.note(f"A simulated kiosk at {kiosk.base_url}, {len(_SCENES)} cards, and the real client over real HTTP:")
        finals = await asyncio.gather(
            *(
                _play(scene, number, kiosk=kiosk, client=client, report=report, started_at=started_at)
                for number, scene in enumerate(_SCENES, start=1)
            )
        )
        report.summary(finals, len(kiosk.requests), loop.time() - started_at)
    return _PRODUCED


async def _play(  # noqa: PLR0913 - all that is on stage
    scene: _Scene, number: int, *, kiosk: Simulator, client: Client, report: Report, started_at: float
) -> Status | str | None:
    """Follow one card; give its last status if it is final."""
    from cardprod.simulator import Fault  # noqa: PLC0415 - as above

    loop = asyncio.get_running_loop()
    await asyncio.sleep((number - 1) * 0.3)  # people do not come to a kiosk all at once
    card = kiosk.add((123456, f"card-{number}"), scene.plan)
    for fault in (Fault.server_error(503), Fault.reset())[: scene.faults]:
        kiosk.fail_next(fault, card=card)
    last: ProductionStatus | None = None
    for again in range(scene.waits):
        if again:
            report.note(f"{card.card_token}: the ribbon is replaced and the card sent to the kiosk again")
            await asyncio.sleep(_MENDING)
        wait = client.wait_until_final(card.profile_id, card.card_token, timeout=_DEMO_TIMEOUT, schedule=_DEMO_SCHEDULE)
        try:
            async for step in wait:
                last = step.current
                report.transition(card, step, loop.time() - started_at)
        except WaitTimeout as error:
            report.error(error)
            return None
    return last.status if last is not None else None


# --- Reports ----------------------------------------------------------------------------------------------------------


class Report(Protocol):
    """What a command has to tell, whoever reads it."""

    def status(self, card: Card, status: ProductionStatus) -> None:
        """Tell what one look saw."""
        ...

    def transition(self, card: Card, step: Transition, seconds: float) -> None:
        """Tell a transition, so many seconds after the command began."""
        ...

    def error(self, error: CardprodError) -> None:
        """Tell what ended a command, or a card of the demo."""
        ...

    def summary(self, finals: Sequence[Status | str | None], requests: int, seconds: float) -> None:
        """Tell what became of the demo's cards: the last status of each, None if it is not final."""
        ...

    def listening(self, base_url: str, plan: str, public_key_url: str | None) -> None:
        """Tell where the simulator is, and, if it sends webhooks, where the key to verify them with is."""
        ...

    def request(self, request: LoggedRequest) -> None:
        """Tell what the simulator was asked."""
        ...

    def note(self, text: str) -> None:
        """Tell people something."""
        ...


class _JsonLines:
    """For programs: one JSON object per line. ASCII only, so that no terminal or encoding can be upset by it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def status(self, card: Card, status: ProductionStatus) -> None:
        self._write("status", card=attrs.asdict(card), **_fields(status))

    def transition(self, card: Card, step: Transition, seconds: float) -> None:
        del seconds  # a program reads `elapsed`, which is the wait's own
        self._write(
            "transition",
            card=attrs.asdict(card),
            previous=None if step.previous is None else step.previous.status,
            **_fields(step.current),
            elapsed=round(step.elapsed, 3),
            polls=step.polls,
        )

    def error(self, error: CardprodError) -> None:
        card = None if error.card is None else attrs.asdict(error.card)
        self._write("error", card=card, error=type(error).__name__, message=str(error))

    def summary(self, finals: Sequence[Status | str | None], requests: int, seconds: float) -> None:
        counts = _counts(finals)
        self._write("summary", cards=len(finals), **counts, requests=requests, seconds=round(seconds, 1))

    def listening(self, base_url: str, plan: str, public_key_url: str | None) -> None:
        more = {} if public_key_url is None else {"public_key_url": public_key_url}
        self._write("listening", base_url=base_url, plan=plan, **more)

    def request(self, request: LoggedRequest) -> None:
        fault = None if request.fault is None else request.fault.kind
        self._write(
            "request",
            at=round(request.at, 3),
            method=request.method,
            path=request.path,
            http_status=request.http_status,
            status=request.status,
            fault=fault,
        )

    def note(self, text: str) -> None:
        """Say nothing: a note is for people."""

    def _write(self, kind: str, **fields: Any) -> None:  # noqa: ANN401 - whatever JSON can say
        print(json.dumps({"type": kind, **fields}), file=self._out, flush=True)


class _Text:
    """For people: plain lines."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def status(self, card: Card, status: ProductionStatus) -> None:
        self._write(f"{card}  {status}", status.status)

    def transition(self, card: Card, step: Transition, seconds: float) -> None:
        self._write(f"{seconds:6.1f} s  {card}  {step}", step.current.status)

    def error(self, error: CardprodError) -> None:
        print(f"cardprod: {_printable(str(error))}", file=sys.stderr, flush=True)

    def summary(self, finals: Sequence[Status | str | None], requests: int, seconds: float) -> None:
        counts = _counts(finals)
        self._write(
            f"\n{len(finals)} cards: {counts['produced']} produced, {counts['failed']} ended in an error, "
            f"{counts['unfinished']} not final when its time ran out; {requests} requests in {seconds:.1f} s"
        )

    def listening(self, base_url: str, plan: str, public_key_url: str | None) -> None:
        webhooks = "" if public_key_url is None else f"Its webhooks are verified with the key at {public_key_url}\n"
        self._write(
            f"Kiosk simulator at {base_url}: a card begins the plan {plan!r} when it is first asked for.\n"
            f"In another terminal:\n"
            f"  CARDPROD_BASE_URL={base_url} CARDPROD_TOKEN=any cardprod wait 123456 my-card\n"
            f"{webhooks}Ctrl-C stops it."
        )

    def request(self, request: LoggedRequest) -> None:
        answer = "no answer" if request.http_status is None else f"{request.http_status} {request.status or ''}"
        self._write(f"{request.at:6.1f} s  {request.method} {request.path}  {answer}")

    def note(self, text: str) -> None:
        self._write(text)

    def _write(self, text: str, status: Status | str | None = None) -> None:
        """Write a line; `status` says what it is about, for a report that has colours."""
        del status
        print(_printable(text), file=self._out, flush=True)


_COLOURS: Final = {
    Status.READY: "cyan",
    Status.IN_PROGRESS: "yellow",
    Status.PRODUCED: "bold green",
    Status.PRODUCTION_ERROR: "bold red",
    Status.REQUEST_ERROR: "bold red",
}


def report_to(out: TextIO, *, as_json: bool) -> Report:
    """Make the report: for programs, or for people; in colours with the extra `cli` on a terminal."""
    if as_json:
        return _JsonLines(out)
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        return _Text(out)
    console = Console(file=out, highlight=False)
    if not console.is_terminal:
        return _Text(out)

    class _Coloured(_Text):
        def _write(self, text: str, status: Status | str | None = None) -> None:
            colour = _COLOURS.get(status, "") if isinstance(status, Status) else ""
            console.print(Text(_printable(text), style=colour), soft_wrap=True)

    return _Coloured(out)


def _fields(status: ProductionStatus) -> dict[str, Any]:
    return {
        "status": status.status,
        "is_final": status.is_final,
        "kiosk_id": status.kiosk_id,
        "occurred_at": None if status.occurred_at is None else status.occurred_at.isoformat(),
        "error_code": status.error_code,
        "error_origin": status.error_origin,
        "error_meaning": status.error_meaning,
        "description": status.description,
    }


def _counts(finals: Sequence[Status | str | None]) -> dict[str, int]:
    produced = sum(final == Status.PRODUCED for final in finals)
    unfinished = sum(final is None for final in finals)
    return {"produced": produced, "failed": len(finals) - produced - unfinished, "unfinished": unfinished}


def _printable(text: str) -> str:
    """Take out what could play with a terminal: a server's words are shown here."""
    return "".join(character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}"
                   for character in text)  # fmt: skip
