"""The values of the package: a card, its production status, a transition, an event. No I/O."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - cattrs reads the types of fields
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, cast

import attrs

from cardprod._protocol.codec import from_json, to_json
from cardprod._protocol.validation import check_aware, check_text, check_type
from cardprod.card import Card, CardLike, CardprodError, one_line
from cardprod.error_codes import PRODUCTION_ERROR_MEANINGS, REQUEST_ERROR_MEANINGS, ErrorCode, ErrorOrigin

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "FINAL_STATUSES",
    "Card",
    "CardLike",
    "KnownCard",
    "ProductionEvent",
    "ProductionStatus",
    "Status",
    "Transition",
    "one_line",
]

_SHOWN_STATUS: Final = 300


class ProductionFailed(CardprodError):
    """The card ended in PRODUCTION_ERROR or REQUEST_ERROR; raised by `ProductionStatus.raise_for_failure` only.

    Attributes:
        status: The final status, with the error code and its meaning.
    """

    def __init__(self, message: str, *, status: ProductionStatus, card: Card | None = None) -> None:
        super().__init__(message, card=card)
        self.status = status


class Status(StrEnum):
    """The production statuses that Wise documents. An undocumented one stays a plain str."""

    READY = "READY"
    """Card is ready for production."""
    IN_PROGRESS = "IN_PROGRESS"
    """Card is in production at the kiosk machine."""
    PRODUCED = "PRODUCED"
    """Card is produced and collected."""
    PRODUCTION_ERROR = "PRODUCTION_ERROR"
    """Card production failed. It can be sent to the kiosk again once the cause is gone."""
    REQUEST_ERROR = "REQUEST_ERROR"
    """Card production request failed."""


FINAL_STATUSES: Final = frozenset({Status.PRODUCED, Status.PRODUCTION_ERROR, Status.REQUEST_ERROR})
"""The statuses that end a wait. Wise calls only PRODUCED final; after the two errors a card may be sent again."""

_STATUSES: Final = {str(status): status for status in Status}
_CODES: Final = {str(code): code for code in ErrorCode}
_MEANINGS: Final = {
    Status.REQUEST_ERROR: REQUEST_ERROR_MEANINGS,
    Status.PRODUCTION_ERROR: PRODUCTION_ERROR_MEANINGS,
}


def _known_status(text: str) -> Status | str:
    return _STATUSES.get(text, text)


def _known_code(text: str | None) -> ErrorCode | str | None:
    return None if text is None else _CODES.get(text, text)


@attrs.frozen
class ProductionStatus:
    """A card's production status, from one answer or event.

    Of what a server says, 100 characters of each text are kept, and 2,048 of the description.

    Args:
        status: A `Status`, or the raw text of an unknown one, which is never final.
        kiosk_id: The kiosk's id; None before production was started.
        occurred_at: When the production request was sent to the kiosk machine (Wise's definition), aware and in UTC;
            None if it was missing or malformed.
        error_code: An `ErrorCode`, or the raw text of an unknown one; None without an error.
        description: Wise's description. It can be set without an error.
    """

    status: Status | str = attrs.field(converter=_known_status)
    kiosk_id: str | None = None
    occurred_at: datetime | None = None
    error_code: ErrorCode | str | None = attrs.field(default=None, converter=_known_code)
    description: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether it is PRODUCED, PRODUCTION_ERROR or REQUEST_ERROR, which ends a wait without `after`."""
        return self.status in FINAL_STATUSES

    @property
    def is_produced(self) -> bool:
        """Whether the card is PRODUCED."""
        return self.status is Status.PRODUCED

    @property
    def error_origin(self) -> ErrorOrigin | None:
        """Where the error occurred; None without an error code."""
        if self.error_code is None:
            return None
        return self.error_code.origin if isinstance(self.error_code, ErrorCode) else ErrorOrigin.UNKNOWN

    @property
    def error_meaning(self) -> str | None:
        """What Wise's documentation says of this error code under this status; None if it says nothing."""
        if not isinstance(self.status, Status) or not isinstance(self.error_code, ErrorCode):
            return None
        return _MEANINGS.get(self.status, {}).get(self.error_code)

    def raise_for_failure(self, card: CardLike | None = None) -> Self:
        """Return self, or raise if the card ended in an error.

        Args:
            card: The card that the error names; a status does not know whose it is.

        Raises:
            ProductionFailed: The status is PRODUCTION_ERROR or REQUEST_ERROR.
        """
        if self.is_final and not self.is_produced:
            of = None if card is None else Card.of(card)
            raise ProductionFailed(
                f"not produced: {self}; if it is sent to the kiosk again, wait for that with after=",
                status=self,
                card=of,
            )
        return self

    def __str__(self) -> str:
        text = str(self.status)
        if self.kiosk_id is not None:
            text += f" at {self.kiosk_id}"
        if self.error_code is not None:
            meaning = self.error_meaning or self.description
            text += f": {self.error_code}" + (f" ({meaning})" if meaning else "")
        return one_line(text, _SHOWN_STATUS)


def check_known(name: str, status: object) -> None:
    """Check a status that a caller says is known: its constructor, which is for answers, takes any."""
    check_type(name, status, ProductionStatus, "a ProductionStatus (of a transition: step.current)")
    known = cast("ProductionStatus", status)
    check_text(f"{name}: its status", known.status, "a text, such as PRODUCTION_ERROR")
    check_aware(f"{name}: its occurred_at", known.occurred_at)  # it is compared with others, which are


@attrs.frozen(repr=False, eq=False)
class KnownCard(Card):
    """A card whose status is known: it is taken wherever a card is, and a wait for it waits for what comes after that.

    Args:
        after: The status that is known, as for `Client.wait_until_final`.

    Raises:
        UsageError: One of them is invalid.
    """

    after: ProductionStatus

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        check_known("after", self.after)

    def _plain(self) -> Card:
        return KnownCard(self.profile_id, self.card_token, self.after)


@attrs.frozen
class Transition:
    """One change seen during a wait: the first poll, a new status, or the same status under a new `occurred_at`.

    Args:
        previous: The status before; None for the first poll.
        current: The status now.
        elapsed: Seconds since the wait began, on the event loop's clock.
        polls: How many polls were answered so far, this one included.
        source: What showed it: "poll", or "webhook" for an event.
    """

    previous: ProductionStatus | None
    current: ProductionStatus
    elapsed: float
    polls: int
    source: Literal["poll", "webhook"] = "poll"

    @property
    def is_final(self) -> bool:
        """Whether `current` is final. After an error status an operator may send the card again: see `after`."""
        return self.current.is_final

    def __str__(self) -> str:
        if self.previous is None:
            return str(self.current)
        return f"{one_line(self.previous.status, _SHOWN_STATUS)} -> {self.current}"


_EVENT_VERSION: Final = 1


@attrs.frozen(kw_only=True)
class ProductionEvent:
    """A webhook event: a card's production status changed. `cardprod.webhooks` parses it from a delivery.

    Args:
        card: The card; None if the event names none.
        status: Its status now.
        sent_at: When Wise sent it, aware and in UTC; None if it was missing or malformed.
        delivery_id: The delivery's `X-Delivery-Id`.
        subscription_id: The subscription that it was sent for.
        schema_version: The version of its schema, such as "4.0.0".
        is_test: Whether it only tests the endpoint: it is about no card, and `status` means nothing.

    Raises:
        UsageError: `card` or `status` is of another type, or a time is not aware.
    """

    card: Card | None
    status: ProductionStatus
    sent_at: datetime | None = None
    delivery_id: str | None = None
    subscription_id: str | None = None
    schema_version: str | None = None
    is_test: bool = False

    def __attrs_post_init__(self) -> None:
        # Parsed deliveries are valid; this is for events that callers make, in tests or from JSON.
        check_type("an event's card", self.card, Card, or_none=True)
        check_type("an event's status", self.status, ProductionStatus)
        check_aware("an event's sent_at", self.sent_at)
        check_aware("an event's occurred_at", self.status.occurred_at)

    def to_json(self) -> str:
        """Return it as one line of JSON, to pass to another process. It contains the card's token, no other secret.

        Of a subclass, what that has besides is left out.
        """
        return to_json(ProductionEvent, self, version=_EVENT_VERSION)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` returned. It is not signed: accept it from your own processes only.

        Args:
            text: The JSON.

        Raises:
            UsageError: It is something else; the message says what is wrong with it.
        """
        event = from_json(ProductionEvent, text, version=_EVENT_VERSION, writer="ProductionEvent.to_json")
        return cast("Self", event) if cls is ProductionEvent else cls(**attrs.asdict(event, recurse=False))
