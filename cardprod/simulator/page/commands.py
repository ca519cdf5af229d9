"""What the page may ask of the simulator: a command's name and its JSON, turned into one public method. No HTTP."""

from __future__ import annotations

import json
import math
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

from cardprod._protocol.validation import check_number, check_text
from cardprod.errors import UsageError
from cardprod.models import Card
from cardprod.simulator.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from cardprod.simulator.floor import CardState
    from cardprod.simulator.server import Simulator

__all__ = ["COMMANDS", "Arguments"]

_MOST_TIMES: Final = 10_000
_MOST_SECONDS: Final = 3600.0


class Arguments:
    """A command's arguments, none of which can be trusted to be there, or to be what it should be.

    Args:
        body: A JSON object.

    Raises:
        UsageError: It is none.
    """

    def __init__(self, body: bytes) -> None:
        try:
            fields: Any = json.loads(body)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise UsageError("a command's arguments are a JSON object")
        self._fields: dict[str, Any] = fields

    def card(self) -> Card:
        """Read the card: `profile_id`, a number or a text of one, and `card_token`."""
        profile_id = self._fields.get("profile_id")
        if isinstance(profile_id, str) and profile_id.isascii() and profile_id.isdigit() and len(profile_id) < 20:  # noqa: PLR2004 - an int64
            profile_id = int(profile_id)
        return Card.of((profile_id, self._fields.get("card_token")))  # type: ignore[arg-type]  # it says what is wrong

    def text(self, name: str) -> str:
        """Read a text."""
        value = self.text_or_none(name)
        if value is None:
            raise UsageError(f"{name} is missing")
        return value

    def text_or_none(self, name: str) -> str | None:
        """Read a text that may be missing."""
        value = self._fields.get(name)
        if value is not None:
            check_text(name, value, "a text")
        return value

    def number(self, name: str, most: float, *, least: float = 0.0) -> float:
        """Read a number."""
        value: Any = self._fields.get(name)
        check_number(name, value, least=least, most=most)
        return float(value)

    def count(self, name: str, most: int, *, least: int = 0) -> int:
        """Read a whole number."""
        value = self.number(name, most, least=least)
        if value != math.floor(value):
            raise UsageError(f"{name} must be a whole number")
        return int(value)


_FAULTS: Final[Mapping[str, Callable[[Arguments], Fault]]] = {
    "429": lambda arguments: Fault.too_many_requests(arguments.count("seconds", int(_MOST_SECONDS))),
    "500": lambda _: Fault.server_error(500),
    "503": lambda _: Fault.server_error(503),
    "gateway_page": lambda _: Fault.gateway_page(),
    "slow": lambda arguments: Fault.stall(arguments.number("seconds", _MOST_SECONDS)),
    "reset": lambda _: Fault.reset(),
    "cut_body": lambda _: Fault.cut_body(),
    "garbage": lambda _: Fault.garbage(),
    "bad_reply": lambda _: Fault.bad_reply(),
}


def _add(kiosk: Simulator, arguments: Arguments) -> CardState:
    return kiosk.state_of(kiosk.add(arguments.card(), arguments.text("plan")))


def _fault(kiosk: Simulator, arguments: Arguments) -> None:
    name = arguments.text("fault")
    make = _FAULTS.get(name)
    if make is None:
        raise UsageError(f"no fault is named {name!r}; there are {', '.join(_FAULTS)}")
    kiosk.fail_next(make(arguments), times=arguments.count("times", _MOST_TIMES, least=1))


def _storm(kiosk: Simulator, arguments: Arguments) -> None:
    kiosk.storm(arguments.number("share", 1), SystemRandom().getrandbits(32))


def _subscribe(kiosk: Simulator, arguments: Arguments) -> None:
    try:
        kiosk.subscribe(arguments.text("url"))
    except ImportError as exc:
        raise UsageError(str(exc)) from exc


def _add_kiosk(kiosk: Simulator, arguments: Arguments) -> None:
    kiosk.add_kiosk(arguments.text_or_none("kiosk_id"))


async def _send_tests(kiosk: Simulator, _: Arguments) -> None:
    if not kiosk.subscriptions:
        raise UsageError("webhooks go nowhere yet; say where to first")
    await kiosk.send_tests()


COMMANDS: Final[Mapping[str, Callable[[Simulator, Arguments], CardState | Awaitable[None] | None]]] = {
    "add": _add,
    "start": lambda kiosk, it: kiosk.start(it.card(), kiosk_id=it.text_or_none("kiosk_id")),
    "finish": lambda kiosk, it: kiosk.finish(it.card()),
    "fail": lambda kiosk, it: kiosk.fail(it.card(), it.text("error_code")),
    "refuse": lambda kiosk, it: kiosk.refuse(it.card(), it.text("error_code")),
    "retry": lambda kiosk, it: kiosk.retry(it.card(), kiosk_id=it.text_or_none("kiosk_id")),
    "add-kiosk": _add_kiosk,
    "take-offline": lambda kiosk, it: kiosk.take_offline(it.text("kiosk_id")),
    "bring-online": lambda kiosk, it: kiosk.bring_online(it.text("kiosk_id")),
    "fault": _fault,
    "storm": _storm,
    "slow-down": lambda kiosk, it: kiosk.slow_down(it.number("seconds", _MOST_SECONDS)),
    "clear-weather": lambda kiosk, _: kiosk.clear_weather(),
    "subscribe": _subscribe,
    "send-tests": _send_tests,
}
"""Each command, and what it does."""
