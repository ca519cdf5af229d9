"""What the page can do: a command reads its arguments from JSON and calls one public method, which checks them."""

from __future__ import annotations

from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cardprod._protocol.validation import check_count, check_number
from cardprod.errors import UsageError
from cardprod.models import Card
from cardprod.simulator.faults import Fault

if TYPE_CHECKING:
    from collections import defaultdict
    from collections.abc import Awaitable, Callable, Mapping

    from cardprod.simulator.server import Simulator

Fields: TypeAlias = "defaultdict[str, Any]"
"""The arguments; one that is missing is None."""

_MOST_TIMES: Final = 10_000
_MOST_SECONDS: Final = 3600


def _card(fields: Fields) -> Card:
    """Read `profile_id`, a number or a text of one, and `card_token`."""
    profile_id = fields["profile_id"]
    if isinstance(profile_id, str) and profile_id.isascii() and profile_id.isdigit() and len(profile_id) < 20:  # noqa: PLR2004 - an int64
        profile_id = int(profile_id)
    card: Any = profile_id, fields["card_token"]
    return Card.of(card)  # it says what is wrong


def _seconds(fields: Fields, name: str) -> float:
    check_number(name, fields[name], least=0, most=_MOST_SECONDS)
    return float(fields[name])


_FAULTS: Final[Mapping[str, Callable[[Fields], Fault]]] = {
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


def _apply_faults(kiosk: Simulator, fields: Fields) -> None:
    """Set the error rate and the latency, and add a fault of the next answers unless it is null."""
    latency, rate = _seconds(fields, "latency"), fields["error_rate"]
    check_number("error_rate", rate, least=0, most=1)
    if fields["fault"] is not None:
        name, times = fields["fault"], fields["times"]
        if not isinstance(name, str) or name not in _FAULTS:
            raise UsageError(f"there is no such fault; there are {', '.join(_FAULTS)}")
        check_count("times", times, most=_MOST_TIMES)
        kiosk.fail_next(_FAULTS[name](fields), times=int(times))
    if rate != kiosk.faults.error_rate:
        kiosk.set_error_rate(float(rate), SystemRandom().getrandbits(32))
    kiosk.slow_down(latency)


def _subscribe(kiosk: Simulator, fields: Fields) -> None:
    try:
        kiosk.subscribe(fields["url"])
    except ImportError as exc:
        raise UsageError(str(exc)) from exc


def _send_tests(kiosk: Simulator, _: Fields) -> Awaitable[object]:
    if not kiosk.subscriptions:
        raise UsageError("there is no subscription yet: add one first")
    return kiosk.send_tests()


COMMANDS: Final[Mapping[str, Callable[[Simulator, Fields], object]]] = {
    # Each gives what its method does: the state of the card that it is about, if there is one.
    "add": lambda kiosk, fields: kiosk.state_of(kiosk.add(_card(fields), fields["plan"])),
    "start": lambda kiosk, fields: kiosk.start(_card(fields), kiosk_id=fields["kiosk_id"]),
    "finish": lambda kiosk, fields: kiosk.finish(_card(fields)),
    "fail": lambda kiosk, fields: kiosk.fail(_card(fields), fields["error_code"]),
    "refuse": lambda kiosk, fields: kiosk.refuse(_card(fields), fields["error_code"]),
    "retry": lambda kiosk, fields: kiosk.retry(_card(fields), kiosk_id=fields["kiosk_id"]),
    "add-kiosk": lambda kiosk, fields: kiosk.add_kiosk(fields["kiosk_id"]),
    "take-offline": lambda kiosk, fields: kiosk.take_offline(fields["kiosk_id"]),
    "bring-online": lambda kiosk, fields: kiosk.bring_online(fields["kiosk_id"]),
    "apply-faults": _apply_faults,
    "reset-faults": lambda kiosk, _: kiosk.clear_faults(),
    "subscribe": _subscribe,
    "send-tests": _send_tests,
    "unsubscribe": lambda kiosk, _: kiosk.unsubscribe(),
}
