"""`Step`: one thing that a sink is told of a card, and how it and a card's outcome travel as JSON. Pure.

How a status and a transition are written is `checkpoint`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from cardprod import errors
from cardprod.checkpoint import read_status, read_transition, written_status, written_transition
from cardprod.errors import CardprodError
from cardprod.models import Card, ProductionStatus, Transition

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Step", "outcomes_of", "read_outcome", "read_steps", "written_outcome", "written_steps"]

_OF_API: Final = ("http_status", "code", "detail", "trace_id", "body", "retry_after")
_OF_REPLY: Final = ("trace_id", "body")
_OF_WAIT: Final = ("polls", "elapsed")
"""What errors carry beside their message that is plain JSON."""


@attrs.frozen(kw_only=True)
class Step:
    """One transition of a card, or the error that ended its wait.

    It was decided before it is told, so it is the same however often it is told: by its `key` a sink can see that it
    has had it already.

    Args:
        key: Names it: no other step, of any card, has the same.
        batch_id: The batch it belongs to.
        card: The card.
        what: A `Transition`, or a `CardprodError` that ended the card's wait.
    """

    key: str
    batch_id: str
    card: Card
    what: Transition | CardprodError

    @property
    def is_final(self) -> bool:
        """Whether it is the card's last."""
        return isinstance(self.what, CardprodError) or self.what.is_final

    def __str__(self) -> str:
        return str(self.what) if isinstance(self.what, CardprodError) else f"card {self.card}: {self.what}"


def written_steps(pairs: Iterable[tuple[Card, Transition | CardprodError]]) -> list[dict[str, object]]:
    """Write what a sweep saw."""
    return [
        {
            "profile_id": card.profile_id,
            "card_token": card.card_token,
            "transition": written_transition(what) if isinstance(what, Transition) else None,
            "error": _written_error(what) if isinstance(what, CardprodError) else None,
        }
        for card, what in pairs
    ]


def read_steps(batch_id: str, key: str, saved: Iterable[dict[str, Any]]) -> list[Step]:
    """Read what `written_steps` wrote; `key` names them all."""
    steps: list[Step] = []
    for number, one in enumerate(saved):
        card = Card(one["profile_id"], one["card_token"])
        error: dict[str, Any] | None = one["error"]
        what = read_transition(one["transition"]) if error is None else _read_error(card, error)
        steps.append(Step(key=f"{key}.{number}", batch_id=batch_id, card=card, what=what))
    return steps


def outcomes_of(
    pairs: Sequence[tuple[Card, Transition | CardprodError]],
) -> list[tuple[Card, ProductionStatus | CardprodError]]:
    """Pick out how cards ended."""
    ends: list[tuple[Card, ProductionStatus | CardprodError]] = []
    for card, what in pairs:
        if isinstance(what, CardprodError):
            ends.append((card, what))
        elif what.is_final:
            ends.append((card, what.current))
    return ends


def written_outcome(outcome: ProductionStatus | CardprodError) -> dict[str, object]:
    """Write how a card ended."""
    if isinstance(outcome, CardprodError):
        return {"status": None, "error": _written_error(outcome)}
    return {"status": written_status(outcome), "error": None}


def read_outcome(card: Card, saved: dict[str, Any]) -> ProductionStatus | CardprodError:
    """Read what `written_outcome` wrote."""
    return read_status(saved["status"]) if saved["error"] is None else _read_error(card, saved["error"])


def _fields_of(cls: type[CardprodError]) -> tuple[str, ...]:
    table = ((errors.ApiError, _OF_API), (errors.BadReply, _OF_REPLY), (errors.WaitTimeout, _OF_WAIT))
    return next((fields for parent, fields in table if issubclass(cls, parent)), ())


def _written_error(error: CardprodError) -> dict[str, object]:
    fields = {name: getattr(error, name) for name in _fields_of(type(error))}
    if isinstance(error, errors.WaitTimeout):
        fields["last"] = written_status(error.last)
    return {"class": type(error).__name__, "message": str(error.args[0]) if error.args else "", "fields": fields}


def _read_error(card: Card, saved: dict[str, Any]) -> CardprodError:
    """Make an error as it was, but for its cause and its checkpoint."""
    cls: type[CardprodError] = getattr(errors, saved["class"])
    fields: dict[str, Any] = saved["fields"]
    if issubclass(cls, errors.WaitTimeout):
        last: dict[str, Any] | None = fields["last"]
        fields = {**fields, "last": None if last is None else read_status(last)}
    return cls(saved["message"], card=card, **fields)
