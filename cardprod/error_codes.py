"""The 57 documented error codes of card production, with the origin and the meaning of each. Data, without logic.

Source: the reference page "Retrieve card production status" of the Wise Platform API. A new code is one line in
`ErrorCode`.

A code means something only together with its status: `UNKNOWN_ERROR` is "An error occurred on the server" under
REQUEST_ERROR and "Unknown error" under PRODUCTION_ERROR.

Wise calls only PRODUCED final: after either error a card may be sent to the kiosk again. After which codes that is
worth waiting for, it does not document; what there is to decide by are the origin and the meaning.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["PRODUCTION_ERROR_MEANINGS", "REQUEST_ERROR_MEANINGS", "ErrorCode", "ErrorOrigin"]


class ErrorOrigin(StrEnum):
    """The part of the system that an error occurred in."""

    REQUEST = "REQUEST"
    """The production request itself was refused."""
    CENTRAL_BASE = "CENTRAL_BASE"
    """The card manufacturer's main server."""
    DATA_PREPARATION = "DATA_PREPARATION"
    """The module that prepares the card's data."""
    SATELLITE = "SATELLITE"
    """The agent beside the kiosk."""
    PRINTER = "PRINTER"
    """The printer: ribbon, cover, lock."""
    PRODUCTION = "PRODUCTION"
    """The making of the card: feeder, hopper, chip, magnetic stripe."""
    INVENTORY = "INVENTORY"
    """The kiosk's stock."""
    UNKNOWN = "UNKNOWN"
    """The documentation does not say, or the code is newer than this package."""


class ErrorCode(StrEnum):
    """The documented error codes. An undocumented one stays a plain str."""

    _meaning: str

    def __new__(cls, code: str, meaning: str = "") -> Self:
        """Create a code with what it means under the one status that has it."""
        self = str.__new__(cls, code)
        self._value_, self._meaning = code, meaning
        return self

    UNKNOWN_ERROR = "UNKNOWN_ERROR", "Unknown error"
    REQUEST_ALREADY_EXISTS = "REQUEST_ALREADY_EXISTS", "The request has already been submitted"
    KIOSK_ID_NOT_FOUND = "KIOSK_ID_NOT_FOUND", "The kiosk ID does not exist"
    CARD_TYPE_NOT_FOUND = "CARD_TYPE_NOT_FOUND", "The card type does not exist"
    INVALID_FIELD_VALUE = "INVALID_FIELD_VALUE", "Some field values are unexpected"
    INVALID_PIN_FORMAT = "INVALID_PIN_FORMAT", "The PIN does not follow ISO0 or ISO2 standard"
    EMPTY_OR_NULL_FIELD_VALUE = "EMPTY_OR_NULL_FIELD_VALUE", "Some required fields are empty or null"
    EMPTY_OR_NULL_OR_WRONG_SIZE_FIELD_VALUE = (
        "EMPTY_OR_NULL_OR_WRONG_SIZE_FIELD_VALUE",
        "Some required fields are empty, null, or have incorrect lengths",
    )
    CHARSET_NOT_SUPPORTED = "CHARSET_NOT_SUPPORTED", "The character set for some fields is not supported"
    INVALID_FIELD_FORMAT = "INVALID_FIELD_FORMAT", "Some field formats are invalid"
    INVALID_FIELD_ENCODING = "INVALID_FIELD_ENCODING", "The encoding for some fields is not expected"
    CDATA_ENCODING_OR_FORMATING_ERROR = (
        "CDATA_ENCODING_OR_FORMATING_ERROR",
        "The encoding or formatting for XML text field values is incorrect",
    )
    PIN_LENGTH_ERROR = "PIN_LENGTH_ERROR", "The PIN length is incorrect"
    PIN_VERIFICATION_FAILED = "PIN_VERIFICATION_FAILED", "The PIN cannot be verified because the server is unreachable"
    DATA_PREPARATION_FAILED = "DATA_PREPARATION_FAILED", "The server failed to parse the request"
    PARTIAL_DATA_RECEIVED = "PARTIAL_DATA_RECEIVED", "Only part of the expected data has been received"
    NO_BRANCH_LINKED_TO_KIOSK = "NO_BRANCH_LINKED_TO_KIOSK", "The kiosk has not been linked to any branch"
    IMAGE_SERVER_ERROR = "IMAGE_SERVER_ERROR", "The image server is unreachable or failed to process the data"
    PAN_ALREADY_EXISTS = "PAN_ALREADY_EXISTS", "The PAN already exists"
    PRINTER_OR_SATELLITE_NOT_READY = (
        "PRINTER_OR_SATELLITE_NOT_READY",
        "The printer or satellite is not ready to start the production",
    )
    REQUEST_CREATED_BUT_NOT_STARTED = (
        "REQUEST_CREATED_BUT_NOT_STARTED",
        "The request has been created, but production is pending until the printer or satellite is ready",
    )
    UNABLE_TO_ACCEPT_REQUEST = (
        "UNABLE_TO_ACCEPT_REQUEST",
        "The system is currently busy and cannot accept new requests at this time",
    )
    CB_NOT_AVAILABLE = "CB_NOT_AVAILABLE", "Main server error: central base not available"
    CB_DB_NOT_AVAILABLE = "CB_DB_NOT_AVAILABLE", "Main server error: database not available"
    CB_NETWORK_NOT_AVAILABLE = "CB_NETWORK_NOT_AVAILABLE", "Main server error: network not available"
    CB_AUTHENTICATION_FAILED = "CB_AUTHENTICATION_FAILED", "Main server error: user authentication verification failed"
    CB_SERVICE_NOT_ALLOWED = (
        "CB_SERVICE_NOT_ALLOWED",
        "Main server error: the accessed service requires a higher security level",
    )
    CB_TIME = "CB_TIME", "Main server error: timeout occurred on the Central Base side"
    DP_NOT_AVAILABLE = "DP_NOT_AVAILABLE", "Data processing error: the Data preparation module is not available"
    DP_IO_ERROR = "DP_IO_ERROR", "Data processing error: Input/Output error when communicating with the DP"
    DP_TIMEOUT = "DP_TIMEOUT", "Data processing error: timeout error"
    SAT_SERVER_NOT_REACHABLE = "SAT_SERVER_NOT_REACHABLE", "Satellite agent error: the server is not reachable"
    SAT_AUTHENTICATION_FAILED = (
        "SAT_AUTHENTICATION_FAILED",
        "Satellite agent error: user authentication failed on satellite",
    )
    SAT_NETWORK_NOT_AVAILABLE = "SAT_NETWORK_NOT_AVAILABLE", "Satellite agent error: the network is not available"
    PRT_NOT_REACHABLE = "PRT_NOT_REACHABLE", "Printer error: printer is not reachable"
    PRT_SETUP_ERROR = "PRT_SETUP_ERROR", "Printer error: printer setup is incorrect"
    PRT_TIMEOUT = "PRT_TIMEOUT", "Printer error: printer timeout"
    PRT_RIBBON = "PRT_RIBBON", "Printer error: ribbon error"
    PRT_LOCK_ERROR = "PRT_LOCK_ERROR", "Printer error: printer physically unlocked"
    PRT_RIBBON_MISSING = "PRT_RIBBON_MISSING", "Printer error: ribbon is missing"
    PRT_RIBBON_ENDED = "PRT_RIBBON_ENDED", "Printer error: ribbon has ended"
    PRT_COVER_OPEN = "PRT_COVER_OPEN", "Printer error: printer cover is open"
    PRT_PAUSED = "PRT_PAUSED", "Printer error: printer paused"
    PRD_UNEXPECTED_DATA = "PRD_UNEXPECTED_DATA", "Production error: production data is incorrect"
    PRD_FEEDER_EMPTY = "PRD_FEEDER_EMPTY", "Production error: feeder is empty"
    PRD_FEEDER_JAM = "PRD_FEEDER_JAM", "Production error: feeder card jam"
    PRD_HOPPER_FULL = "PRD_HOPPER_FULL", "Production error: hopper is full"
    PRD_HOPPER_DOOR = "PRD_HOPPER_DOOR", "Production error: hopper door is open"
    PRD_HOPPER_JAM = "PRD_HOPPER_JAM", "Production error: hopper card jam"
    PRD_MAGSTRIPE = "PRD_MAGSTRIPE", "Production error: error occurred during magstripe encoding"
    PRD_SMARTCARD = "PRD_SMARTCARD", "Production error: error occurred during chip personalization"
    PRD_EMBOSSER = "PRD_EMBOSSER", "Production error: error occurred during embossing"
    PRD_TIMEOUT = "PRD_TIMEOUT", "Production error: production timeout has been reached"
    PRD_REJECT_FULL = "PRD_REJECT_FULL", "Production error: reject box is full"
    PRD_SMARTCARD_CARD_NOT_IN_READER = "PRD_SMARTCARD_CARD_NOT_IN_READER", "Production error: card is not in reader"
    PRD_FINAL_VALIDATION_NOK = "PRD_FINAL_VALIDATION_NOK", "Production error: user has rejected card production"
    INV_NOT_INITIALIZED = "INV_NOT_INITIALIZED", "Production error: inventory not initialized"

    @property
    def origin(self) -> ErrorOrigin:
        """Where the error occurred; `ErrorOrigin.UNKNOWN` for `UNKNOWN_ERROR`."""
        return _ORIGINS.get(self.partition("_")[0], ErrorOrigin.REQUEST)


# A production code's first letters name its origin; a request code's do not.
_ORIGINS: Final = {
    "UNKNOWN": ErrorOrigin.UNKNOWN,
    "CB": ErrorOrigin.CENTRAL_BASE,
    "DP": ErrorOrigin.DATA_PREPARATION,
    "SAT": ErrorOrigin.SATELLITE,
    "PRT": ErrorOrigin.PRINTER,
    "PRD": ErrorOrigin.PRODUCTION,
    "INV": ErrorOrigin.INVENTORY,
}
_MEANINGS: Final = {
    code: code._meaning  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module
    for code in ErrorCode
}

REQUEST_ERROR_MEANINGS: Mapping[ErrorCode, str] = MappingProxyType(
    {ErrorCode.UNKNOWN_ERROR: "An error occurred on the server"}
    | {code: meaning for code, meaning in _MEANINGS.items() if code.origin is ErrorOrigin.REQUEST}
)
"""What each code means under REQUEST_ERROR."""

PRODUCTION_ERROR_MEANINGS: Mapping[ErrorCode, str] = MappingProxyType(
    {code: meaning for code, meaning in _MEANINGS.items() if code not in REQUEST_ERROR_MEANINGS}
    | {ErrorCode.UNKNOWN_ERROR: "Unknown error"}
)
"""What each code means under PRODUCTION_ERROR."""

# Of the data above, so that neither can be wrong of the other. `python -OO` keeps this, and nothing reads it.
__doc__ = f"""{__doc__ or ""}
| status | code | origin | meaning |
| --- | --- | --- | --- |
""" + "\n".join(
    f"| {status} | {code} | {code.origin} | {meaning} |"
    for status, meanings in (
        ("REQUEST_ERROR", REQUEST_ERROR_MEANINGS),
        ("PRODUCTION_ERROR", PRODUCTION_ERROR_MEANINGS),
    )
    for code, meaning in meanings.items()
)
