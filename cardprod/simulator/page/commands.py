"""What the page can do: a command reads its arguments from JSON, checks them and calls one public method. No HTTP."""

from __future__ import annotations

import json
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from cardprod._protocol.validation import check_count, check_number, check_text
from cardprod.errors import UsageError
from cardprod.models import Card
from cardprod.simulator.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from cardprod.simulator.server import Simulator

__all__ = ["run_command"]

_Fields: TypeAlias = dict[str, Any]
_MOST_TIMES: Final = 10_000
_MOST_SECONDS: Final = 3600


def run_command(kiosk: Simulator, name: str, body: bytes) -> object:
    """Run a command, and return what its method returns: the state of the card that it is about, if there is one.

    Raises:
        KeyError: There is no such command; the error lists those there are.
        UsageError: An argument is invalid.
    """
    command = _COMMANDS.get(name)
    if command is None:
        raise KeyError(", ".join(_COMMANDS))
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise UsageError("a command's arguments must be a JSON object")
    return command(kiosk, cast("_Fields", fields))


def _card(fields: _Fields) -> Card:
    """Read `profile_id`, a number or a text of one, and `card_token`."""
    profile_id = fields.get("profile_id")
    if isinstance(profile_id, str) and profile_id.isascii() and profile_id.isdigit() and len(profile_id) < 20:  # noqa: PLR2004 - an int64
        profile_id = int(profile_id)
    return Card.of((profile_id, fields.get("card_token")))  # type: ignore[arg-type]  # it says what is wrong


def _text(fields: _Fields, name: str) -> str:
    value = fields.get(name)
    check_text(name, value, "a text")
    return str(value)


def _seconds(fields: _Fields, name: str) -> float:
    value: Any = fields.get(name)
    check_number(name, value, least=0, most=_MOST_SECONDS)
    return float(value)


def _kiosk_id(fields: _Fields) -> str | None:
    return None if fields.get("kiosk_id") is None else _text(fields, "kiosk_id")


_FAULTS: Final[Mapping[str, Callable[[_Fields], Fault]]] = {
    "429": lambda fields: Fault.too_many_requests(round(_seconds(fields, "seconds"))),
    "late": lambda fields: Fault.stall(_seconds(fields, "seconds")),
    "500": lambda _: Fault.server_error(500),
    "503": lambda _: Fault.server_error(503),
    "gateway_page": lambda _: Fault.gateway_page(),
    "reset": lambda _: Fault.reset(),
    "cut_body": lambda _: Fault.cut_body(),
    "garbage": lambda _: Fault.garbage(),
    "bad_reply": lambda _: Fault.bad_reply(),
}


def _apply_faults(kiosk: Simulator, fields: _Fields) -> None:
    """Set the error rate and the latency, and add a fault of the next answers unless it is null."""
    latency, rate = _seconds(fields, "latency"), fields.get("error_rate")
    check_number("error_rate", rate, least=0, most=1)
    if fields.get("fault") is not None:
        name, times = _text(fields, "fault"), fields.get("times")
        if name not in _FAULTS:
            raise UsageError(f"there is no such fault; there are {', '.join(_FAULTS)}")
        check_count("times", times, most=_MOST_TIMES)
        kiosk.fail_next(_FAULTS[name](fields), times=int(times))  # type: ignore[arg-type]  # it was checked
    if rate != kiosk.faults.error_rate:
        kiosk.set_error_rate(float(rate), SystemRandom().getrandbits(32))  # type: ignore[arg-type]  # as above
    kiosk.slow_down(latency)


def _subscribe(kiosk: Simulator, fields: _Fields) -> None:
    try:
        kiosk.subscribe(_text(fields, "url"))
    except ImportError as exc:
        raise UsageError(str(exc)) from exc


def _send_tests(kiosk: Simulator, _: _Fields) -> Awaitable[object]:
    if not kiosk.subscriptions:
        raise UsageError("there is no subscription yet: add one first")
    return kiosk.send_tests()


_COMMANDS: Final[Mapping[str, Callable[[Simulator, _Fields], object]]] = {
    "add": lambda kiosk, fields: kiosk.state_of(kiosk.add(_card(fields), _text(fields, "plan"))),
    "start": lambda kiosk, fields: kiosk.start(_card(fields), kiosk_id=_kiosk_id(fields)),
    "finish": lambda kiosk, fields: kiosk.finish(_card(fields)),
    "fail": lambda kiosk, fields: kiosk.fail(_card(fields), _text(fields, "error_code")),
    "refuse": lambda kiosk, fields: kiosk.refuse(_card(fields), _text(fields, "error_code")),
    "retry": lambda kiosk, fields: kiosk.retry(_card(fields), kiosk_id=_kiosk_id(fields)),
    "add-kiosk": lambda kiosk, fields: kiosk.add_kiosk(_kiosk_id(fields)),
    "take-offline": lambda kiosk, fields: kiosk.take_offline(_text(fields, "kiosk_id")),
    "bring-online": lambda kiosk, fields: kiosk.bring_online(_text(fields, "kiosk_id")),
    "apply-faults": _apply_faults,
    "reset-faults": lambda kiosk, _: kiosk.clear_faults(),
    "subscribe": _subscribe,
    "send-tests": _send_tests,
    "unsubscribe": lambda kiosk, _: kiosk.unsubscribe(),
}
