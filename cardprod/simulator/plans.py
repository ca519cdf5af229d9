"""The plans of cards: which status follows which, and when. No HTTP and no clock."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from cardprod._protocol.validation import check_flag, check_seconds, check_type
from cardprod.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["PLANS", "Plan", "Stage", "as_stages"]


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
"""A named plan (a key of `PLANS`), or stages in their order: `Stage`, or `(status, seconds)`. The last one stays."""

_READY: Final = Stage("READY", 2, description="Card ready for production")
_PRINTING: Final = Stage("IN_PROGRESS", 3)

PLANS: Final[Mapping[str, tuple[Stage, ...]]] = {
    "prints": (_READY, _PRINTING, Stage("PRODUCED")),
    "jams": (
        _READY,
        _PRINTING,
        Stage("PRODUCTION_ERROR", error_code="PRD_FEEDER_JAM", description="Production error: feeder card jam"),
    ),
    "rejected": (
        _READY,
        Stage("REQUEST_ERROR", error_code="KIOSK_ID_NOT_FOUND", description="The kiosk ID does not exist"),
    ),
    "retried": (
        _READY,
        Stage("IN_PROGRESS", 2),
        Stage("PRODUCTION_ERROR", 3, error_code="PRT_RIBBON_ENDED", description="Printer error: ribbon has ended"),
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
        try:
            return PLANS[plan]
        except KeyError:
            names = ", ".join(f"{name} ({', '.join(stage.status for stage in PLANS[name])})" for name in PLANS)
            raise UsageError(f"no plan is named {plan!r}; there are {names}") from None
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
