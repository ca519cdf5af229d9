"""The `cardprod` command: parses, prints, exits. What it shows comes from the client; nothing is decided here.

Exit codes:

| code | meaning |
| --- | --- |
| 0 | produced (`status` and `wait`; the others: it was done) |
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
| `submitted` | `submit` only: `batch_id cards` |
| `batch` | `batch` only: the fields of `cardprod.durable.BatchStatus` |
| `summary` | `demo` only: `cards produced failed unfinished requests seconds` |
| `listening` | `simulate` only: `base_url plan`, with `--webhooks-to` also `public_key_url` |
| `request` | `simulate` only: `at method path http_status status fault` |

What `worker` tells are lines `transition` and `error` that also have `key` and `batch_id`: a line may come again, with
the same key. `card` is `{"profile_id": int, "card_token": str}`. Fields may be added; none will change its meaning.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

import attrs

from cardprod._version import VERSION
from cardprod.card_files import BadRow, read_cards
from cardprod.client import PRODUCTION, Client
from cardprod.errors import CardprodError, UsageError, WaitTimeout
from cardprod.models import Card, ProductionStatus, Status
from cardprod.schedule import Backoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardprod.durable import BatchStatus, Durable, Step
    from cardprod.durable.worker import Sink
    from cardprod.models import Transition
    from cardprod.simulator import LoggedRequest, Simulator

__all__ = ["Report", "main", "parser", "report_to", "run"]

_PRODUCED, _FAILED, _USAGE, _NOT_FINAL, _NO_ANSWER, _INTERRUPTED = 0, 1, 2, 3, 4, 130

_SHOWN_ROWS: Final = 10

_EPILOG: Final = f"""\
environment:
  CARDPROD_TOKEN        the user token; never an argument, where others could read it
  CARDPROD_TOKEN_NAME   for `worker`: the token that `submit --token name` asks for
  CARDPROD_BASE_URL     where to ask (default {PRODUCTION})
  CARDPROD_API_VERSION  the path's version (default v3)
  CARDPROD_DATABASE_URL for `submit`, `worker` and `batch`: PostgreSQL (default: one of this user's own)

exit codes:
  0 produced   1 ended in an error status   2 usage   3 not final yet or timed out   4 API or network

examples:
  cardprod demo
  cardprod status 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52
  cardprod wait 123456 ca0c8154-1e14-4464-a1ce-dcea7dc3de52 --timeout 600 --json
  cardprod submit cards.csv --timeout 3600
  cardprod worker --on-steps my_app.cards:on_steps
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
    submit = commands.add_parser("submit", help="hand cards over, to be waited for by workers")
    submit.add_argument("file", metavar="FILE", help="CSV or JSON lines, profile_id and card_token; - for stdin")
    submit.add_argument("--timeout", type=float, metavar="SECONDS", help="give a card up after (default: never)")
    submit.add_argument("--token", default="default", metavar="NAME", help="the name of the token to look with")
    submit.set_defaults(run=_submit)

    worker = commands.add_parser("worker", help="work on what was submitted, until SIGTERM or Ctrl-C")
    worker.add_argument("--on-steps", metavar="MODULE:FUNCTION", help="an async function that is given the steps; "
                        "without one they are printed")  # fmt: skip
    worker.add_argument("--concurrency", type=int, default=4, metavar="N", help="jobs worked at once (default 4)")
    worker.set_defaults(run=_worker)

    batch = commands.add_parser("batch", help="see how far a batch is")
    batch.add_argument("batch", metavar="BATCH", help="what `submit` printed")
    batch.add_argument("--results", action="store_true", help="tell how each card ended, as far as it has")
    batch.add_argument("--cancel", action="store_true", help="stop waiting for its cards")
    batch.set_defaults(run=_batch)

    for command in (submit, worker, batch):
        command.add_argument("--database", metavar="URL", help="PostgreSQL; better in CARDPROD_DATABASE_URL, where "
                             "nobody else can read its password")  # fmt: skip
    for command in (demo, status, wait, simulate, submit, worker, batch):
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

    kiosk = Simulator(
        port=arguments.port, token=None, plan_for_unknown=arguments.plan, on_request=report.request, page=True
    )
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


# --- Durable waits ---


def _durable(database: str | None) -> Durable:
    """Find the database, and start one of this user's own if none is named."""
    try:
        from cardprod.durable import Durable  # noqa: PLC0415 - the extra

        database = database or os.environ.get("CARDPROD_DATABASE_URL")
        if not database:
            from cardprod.durable import embedded  # noqa: PLC0415 - as above

            database = embedded.start()
    except ImportError as exc:
        raise UsageError(f"this needs the extra durable: pip install 'cardprod[durable]' ({exc})") from exc
    return Durable(database)


def _cards_of(name: str) -> list[Card]:
    """Read a list of cards; all of it, or none."""
    try:
        # Kept open by nobody: the lines are read at once.
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{name} cannot be read: {getattr(exc, 'strerror', None) or 'it is not UTF-8'}") from exc
    cards: list[Card] = []
    bad: list[BadRow] = []
    for row in read_cards(text.splitlines()):
        if isinstance(row, Card):
            cards.append(row)
        else:
            bad.append(row)
    if bad:
        more = f", and {len(bad) - _SHOWN_ROWS} more" if len(bad) > _SHOWN_ROWS else ""
        raise UsageError(f"{name}: " + "; ".join(map(str, bad[:_SHOWN_ROWS])) + more + "; nothing was submitted")
    return cards


async def _submit(arguments: argparse.Namespace, report: Report) -> int:
    cards = await asyncio.to_thread(_cards_of, arguments.file)
    async with await asyncio.to_thread(_durable, arguments.database) as durable:
        batch_id = await durable.submit(cards, timeout=arguments.timeout, token=arguments.token)
    report.submitted(batch_id, len(dict.fromkeys(cards)))
    return _PRODUCED


async def _batch(arguments: argparse.Namespace, report: Report) -> int:
    async with await asyncio.to_thread(_durable, arguments.database) as durable:
        if arguments.cancel:
            await durable.cancel(arguments.batch)
        report.batch(await durable.status(arguments.batch))
        if arguments.results:
            async for card, outcome in durable.results(arguments.batch):
                if isinstance(outcome, ProductionStatus):
                    report.status(card, outcome)
                else:
                    report.error(outcome)
    return _PRODUCED


async def _worker(arguments: argparse.Namespace, report: Report) -> int:
    on_steps = _imported(arguments.on_steps) if arguments.on_steps else _printer(report)
    clients = _clients_from_env()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        for client in clients.values():
            await stack.enter_async_context(client)
        durable = await stack.enter_async_context(await asyncio.to_thread(_durable, arguments.database))
        report.note(f"Working for {', '.join(clients)}; Ctrl-C or SIGTERM finishes what is under way and stops.")
        await durable.work(clients, on_steps, concurrency=arguments.concurrency, stop=stop)
    return _PRODUCED


def _clients_from_env() -> dict[str, Client]:
    """Make a client for each token of the environment."""
    clients: dict[str, Client] = {}
    base_url = os.environ.get("CARDPROD_BASE_URL") or PRODUCTION
    api_version = os.environ.get("CARDPROD_API_VERSION") or "v3"
    for variable, token in os.environ.items():
        if variable.startswith("CARDPROD_TOKEN_") and token:
            name = variable.removeprefix("CARDPROD_TOKEN_").lower()
            clients[name] = Client(token, base_url=base_url, api_version=api_version)
    if os.environ.get("CARDPROD_TOKEN") or not clients:
        clients["default"] = Client.from_env()
    return clients


def _imported(name: str) -> Sink:
    """Find a user's function by its name, from where the command runs."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise UsageError(f"--on-steps must be MODULE:FUNCTION, such as my_app.cards:on_steps, not {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Sink = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as exc:
        raise UsageError(f"--on-steps: {exc}") from exc
    return found


def _printer(report: Report) -> Sink:
    async def on_steps(steps: Sequence[Step], /) -> None:
        for step in steps:
            report.step(step)

    return on_steps


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

    def submitted(self, batch_id: str, cards: int) -> None:
        """Tell that cards were handed over."""
        ...

    def batch(self, status: BatchStatus) -> None:
        """Tell how far a batch is."""
        ...

    def step(self, step: Step) -> None:
        """Tell what a worker saw."""
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
        self._write_transition(card, step)

    def _write_transition(self, card: Card, step: Transition, **more: str) -> None:
        self._write(
            "transition",
            card=attrs.asdict(card),
            previous=None if step.previous is None else step.previous.status,
            **_fields(step.current),
            elapsed=round(step.elapsed, 3),
            polls=step.polls,
            **more,
        )

    def error(self, error: CardprodError) -> None:
        self._write_error(error)

    def _write_error(self, error: CardprodError, **more: str) -> None:
        card = None if error.card is None else attrs.asdict(error.card)
        self._write("error", card=card, error=type(error).__name__, message=str(error), **more)

    def submitted(self, batch_id: str, cards: int) -> None:
        self._write("submitted", batch_id=batch_id, cards=cards)

    def batch(self, status: BatchStatus) -> None:
        fields = attrs.asdict(status)
        self._write(
            "batch",
            **{name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()},
        )

    def step(self, step: Step) -> None:
        more = {"key": step.key, "batch_id": step.batch_id}
        if isinstance(step.what, CardprodError):
            self._write_error(step.what, **more)
        else:
            self._write_transition(step.card, step.what, **more)

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
            f"Watch and drive it in a browser: {base_url}/\n"
            f"In another terminal:\n"
            f"  CARDPROD_BASE_URL={base_url} CARDPROD_TOKEN=any cardprod wait 123456 my-card\n"
            f"{webhooks}Ctrl-C stops it."
        )

    def request(self, request: LoggedRequest) -> None:
        answer = "no answer" if request.http_status is None else f"{request.http_status} {request.status or ''}"
        self._write(f"{request.at:6.1f} s  {request.method} {request.path}  {answer}")

    def submitted(self, batch_id: str, cards: int) -> None:
        print(f"{cards} cards submitted; ask for them with `cardprod batch {batch_id}`", file=sys.stderr, flush=True)
        self._write(batch_id)

    def batch(self, status: BatchStatus) -> None:
        ends = f"{status.produced} produced, {status.failed} ended in an error, {status.errors} gave up"
        state = "cancelled" if status.cancelled_at else "over" if status.finished_at else f"{status.pending} to go"
        self._write(f"{status.total} cards: {ends}; {state}; {status.looks} looks")

    def step(self, step: Step) -> None:
        if isinstance(step.what, CardprodError):
            self._write(str(step.what))
        else:
            self._write(f"{step.what.elapsed:6.1f} s  {step.card}  {step.what}", step.what.current.status)

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
