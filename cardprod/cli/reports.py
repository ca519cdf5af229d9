"""What the commands tell, and how it looks: `Report`, as JSON lines for programs, and as text for people.

Nothing is asked and nothing decided here.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import attrs

from cardprod.cli.views import json_view, lines_view, say
from cardprod.cli.wording import printable
from cardprod.errors import CardprodError
from cardprod.models import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardprod.cli.lists import CardList
    from cardprod.cli.live import Terminal
    from cardprod.cli.tally import Tally
    from cardprod.cli.views import Setting, View, WriteText
    from cardprod.durable import BatchStatus, Step
    from cardprod.models import Card, ProductionStatus, Transition
    from cardprod.simulator import LoggedRequest

__all__ = ["Report", "report_to"]


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

    def bad_rows(self, listed: CardList) -> None:
        """Tell which lines of a list are no cards, if there are such."""
        ...

    def view(self, tally: Tally, setting: Setting, *, plain: bool) -> View:
        """Make what shows a `watch`.

        Args:
            tally: What it shows.
            setting: What does not change meanwhile.
            plain: Whether people want lines even where a live view can be had.
        """
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

    def bad_rows(self, listed: CardList) -> None:
        for row in listed.bad_rows:
            self._write("bad_row", line=row.line, reason=row.reason)

    def view(self, tally: Tally, setting: Setting, *, plain: bool) -> View:
        del plain  # nothing could be plainer
        return json_view(self, self._write, tally, setting)

    def _write(self, kind: str, **fields: Any) -> None:  # noqa: ANN401 - whatever JSON can say
        print(json.dumps({"type": kind, **fields}), file=self._out, flush=True)


class _TextLines:
    """For people: lines, in colours where there is a terminal that has them."""

    def __init__(self, write: WriteText, terminal: Terminal | None = None) -> None:
        self._write = write
        self._terminal = terminal

    def status(self, card: Card, status: ProductionStatus) -> None:
        self._write(f"{card}  {status}", status.status)

    def transition(self, card: Card, step: Transition, seconds: float) -> None:
        self._write(f"{seconds:6.1f} s  {card}  {step}", step.current.status)

    def error(self, error: CardprodError) -> None:
        say(str(error))

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
            f"See and move the cards in a browser: {base_url}/\n"
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
        refused = f"; the token {status.token_name!r} is refused" if status.token_refused_at else ""
        self._write(f"{status.total} cards: {ends}; {state}; {status.polls} polls{refused}")

    def step(self, step: Step) -> None:
        if isinstance(step.what, CardprodError):
            self._write(str(step.what))
        else:
            self._write(f"{step.what.elapsed:6.1f} s  {step.card}  {step.what}", step.what.current.status)

    def note(self, text: str) -> None:
        self._write(text)

    def bad_rows(self, listed: CardList) -> None:
        if listed.bad_rows:
            say(listed.complaint)

    def view(self, tally: Tally, setting: Setting, *, plain: bool) -> View:
        live = None if plain or self._terminal is None else self._terminal.live_view(tally, setting)
        return live or lines_view(self._write, tally, setting)


def report_to(out: TextIO, *, as_json: bool) -> Report:
    """Make the report: for programs, or for people; in colours with the extra `cli` on a terminal."""
    if as_json:
        return _JsonLines(out)
    try:
        from cardprod.cli.live import Terminal  # noqa: PLC0415 - an extra
    except ImportError:
        return _TextLines(_plain_lines_to(out))
    terminal = Terminal.of(out)
    return _TextLines(_plain_lines_to(out)) if terminal is None else _TextLines(terminal.write, terminal)


def _plain_lines_to(out: TextIO) -> WriteText:
    def write(text: str, status: str | None = None) -> None:
        del status
        print(printable(text), file=out, flush=True)

    return write


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
