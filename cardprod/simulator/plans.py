"""The plans of cards: which status follows which, and when. No HTTP and no clock."""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from cardprod._protocol.validation import check_flag, check_seconds, check_type
from cardprod.error_codes import PRODUCTION_ERROR_MEANINGS, REQUEST_ERROR_MEANINGS
from cardprod.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cardprod.error_codes import ErrorCode


@attrs.frozen
class Stage:
    """One status of a card, and how long it lasts.

    Args:
        status: The status, as it goes over the wire; one that Wise does not document is fine.
        seconds: How long it lasts; infinite, and so the end of the plan, by default.
        error_code: The error code to go with it.
        description: The text to go with it.
        is_new_request: Whether the card was sent to the kiosk again, which gives it a new `occurredAt`.
    """

    status: str
    seconds: float = math.inf
    error_code: str | None = None
    description: str | None = None
    is_new_request: bool = False

    def __attrs_post_init__(self) -> None:
        check_type("a stage's status", self.status, str)
        check_type("a stage's error_code", self.error_code, str, or_none=True)
        check_type("a stage's description", self.description, str, or_none=True)
        check_flag("a stage's is_new_request", self.is_new_request)
        if self.seconds != math.inf:
            check_seconds("a stage's seconds", self.seconds)


Plan: TypeAlias = "str | Iterable[Stage | tuple[str, float]]"
"""A named plan (a key of `PLANS`), an error code to end with, or stages in their order, of which the last one stays:
`Stage`, or `(status, seconds)`."""

_MOST_NAMED: Final = 5
_ERRORS: Final[Mapping[str, Mapping[ErrorCode, str]]] = {
    "PRODUCTION_ERROR": PRODUCTION_ERROR_MEANINGS,
    "REQUEST_ERROR": REQUEST_ERROR_MEANINGS,
}


def error_stage(status: str, code: str | None) -> Stage:
    """Return the stage of an error, with what its code means."""
    meanings = {str(each): meaning for each, meaning in _ERRORS[status].items()}
    if isinstance(code, str) and code in meanings:
        return Stage(status, error_code=str(code), description=meanings[code])
    given = code.upper() if isinstance(code, str) else ""
    near = [each for each in meanings if given and given in each][:_MOST_NAMED] or get_close_matches(given, meanings)
    named = ", ".join(near) or "one of cardprod.ErrorCode"
    raise UsageError(
        f"no {status} has the code {code!r}: use {named}, or add a plan with a Stage, which can have any code"
    )


_READY: Final = Stage("READY", 2, description="Card ready for production")
_PRINTING: Final = Stage("IN_PROGRESS", 3)

PLANS: Final[Mapping[str, tuple[Stage, ...]]] = {
    "prints": (_READY, _PRINTING, Stage("PRODUCED")),
    "jams": (_READY, _PRINTING, error_stage("PRODUCTION_ERROR", "PRD_FEEDER_JAM")),
    "rejected": (_READY, error_stage("REQUEST_ERROR", "KIOSK_ID_NOT_FOUND")),
    "retried": (
        _READY,
        Stage("IN_PROGRESS", 2),
        attrs.evolve(error_stage("PRODUCTION_ERROR", "PRT_RIBBON_ENDED"), seconds=3),
        Stage("IN_PROGRESS", 2, is_new_request=True),
        Stage("PRODUCED"),
    ),
    "never": (Stage("READY", description="Card ready for production"),),
}
"""The named plans, in seconds that suit a demo: it prints; the feeder jams; the request is refused; the ribbon ends and
the card is sent again; it stays READY."""


def as_stages(plan: Plan) -> tuple[Stage, ...]:
    """Read a plan.

    Raises:
        UsageError: No plan has this name, or it has no stages.
    """
    if isinstance(plan, str):
        if plan in PLANS:
            return PLANS[plan]
        if plan in PRODUCTION_ERROR_MEANINGS:
            return *PLANS["jams"][:-1], error_stage("PRODUCTION_ERROR", plan)
        if plan in REQUEST_ERROR_MEANINGS:
            return *PLANS["rejected"][:-1], error_stage("REQUEST_ERROR", plan)
        names = ", ".join(f"{name} ({', '.join(stage.status for stage in PLANS[name])})" for name in PLANS)
        raise UsageError(f"no plan is named {plan!r}; there are {names}, and all error codes, such as PRD_FEEDER_JAM")
    try:
        stages = tuple(map(_as_stage, plan))
    except TypeError as exc:
        raise UsageError(f"a plan must be a name or stages, each a Stage or (status, seconds), not {plan!r}") from exc
    if not stages:
        raise UsageError("a plan must have one stage at least")
    return stages


def _as_stage(stage: Stage | tuple[str, float]) -> Stage:
    if isinstance(stage, str):  # whose characters would be taken for a stage's parts
        raise UsageError(f"a stage must be a Stage or (status, seconds), such as ({stage!r}, 5), not {stage!r}")
    return stage if isinstance(stage, Stage) else Stage(*stage)
