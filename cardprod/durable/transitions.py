"""`Step`, which a sink gets: a transition of a card or the error that ended its wait; and its JSON. Pure."""

from __future__ import annotations

from inspect import signature
from typing import Final, TypeVar

import attrs

from cardprod import errors
from cardprod._protocol.codec import from_json, to_json
from cardprod.checkpoint import Checkpoint  # noqa: TC001 - cattrs reads the types of fields
from cardprod.errors import CardprodError, UsageError
from cardprod.models import Card, ProductionStatus, Transition  # noqa: TC001 - cattrs reads the types of fields

_VERSION: Final = 1
_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Step:
    """One transition of a card, or the error that ended its wait.

    It was stored before it is delivered, so it is the same however often it is delivered: by its `key` a sink can see
    that it has had it already.

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


@attrs.frozen(kw_only=True)
class _SavedError:
    """An error as JSON has it: what any of them carries, but for its cause."""

    name: str
    message: str
    http_status: int | None = None
    code: str | None = None
    detail: str | None = None
    trace_id: str | None = None
    body: str = ""
    retry_after: float | None = None
    from_gateway: bool = False
    limited_by: str | None = None
    last: ProductionStatus | None = None
    polls: int = 0
    elapsed: float = 0.0
    checkpoint: Checkpoint | None = None

    @classmethod
    def of(cls, error: CardprodError) -> _SavedError:
        """Save an error."""
        carried = {name: value for name, value in vars(error).items() if name != "card"}
        return cls(name=type(error).__name__, message=str(error.args[0]) if error.args else "", **carried)

    def restore(self, card: Card) -> CardprodError:
        """Return the error as it was."""
        cls: type[CardprodError] = getattr(errors, self.name)
        names = signature(cls).parameters.keys() - {"message", "card"}
        return cls(self.message, card=card, **{name: getattr(self, name) for name in names})


@attrs.frozen(kw_only=True)
class _SavedStep:
    card: Card
    transition: Transition | None = None
    error: _SavedError | None = None


@attrs.frozen(kw_only=True)
class _SavedOutcome:
    status: ProductionStatus | None = None
    error: _SavedError | None = None


def written_step(card: Card, what: Transition | CardprodError) -> str:
    """Write what was seen of a card."""
    if isinstance(what, CardprodError):
        return to_json(_SavedStep, _SavedStep(card=card, error=_SavedError.of(what)), version=_VERSION)
    return to_json(_SavedStep, _SavedStep(card=card, transition=what), version=_VERSION)


def read_step(batch_id: str, key: str, text: str) -> Step:
    """Read what `written_step` wrote."""
    saved = from_json(_SavedStep, text, version=_VERSION, writer="written_step")
    what = _one_of(saved.transition, saved.error, saved.card)
    return Step(key=key, batch_id=batch_id, card=saved.card, what=what)


def written_outcome(outcome: ProductionStatus | CardprodError) -> str:
    """Write how a card ended."""
    if isinstance(outcome, CardprodError):
        return to_json(_SavedOutcome, _SavedOutcome(error=_SavedError.of(outcome)), version=_VERSION)
    return to_json(_SavedOutcome, _SavedOutcome(status=outcome), version=_VERSION)


def read_outcome(card: Card, text: str) -> ProductionStatus | CardprodError:
    """Read what `written_outcome` wrote."""
    saved = from_json(_SavedOutcome, text, version=_VERSION, writer="written_outcome")
    return _one_of(saved.status, saved.error, card)


def _one_of(value: _T | None, error: _SavedError | None, card: Card) -> _T | CardprodError:
    if error is not None:
        return error.restore(card)
    if value is None:
        raise UsageError("the database holds neither a value nor an error for this: report it", card=card)
    return value
