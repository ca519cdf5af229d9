"""Words as the command shows them: durations, counts, messages in the terms of the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from cardprod import errors
from cardprod._http.environment import base_url
from cardprod.models import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cardprod.errors import CardprodError
    from cardprod.models import Card

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400
_FEW: Final = 1.5
"""Up to how many of the larger unit the smaller one is used: 80 seconds say more than one minute."""
_LONGEST: Final = 300


def printable(text: str) -> str:
    """Make a line harmless: everything that is not printable, line breaks too, is replaced."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def whole(card: Card) -> str:
    """Return a card with its whole token."""
    return f"{card.profile_id}/{card.card_token}"


def count_of(count: int, what: str) -> str:
    """Return a count of something, such as "1 card" or "1,000 cards"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def clock(seconds: float) -> str:
    """Return seconds as a clock shows them: 2:05, or 1:02:05 from an hour on."""
    minutes, rest = divmod(int(seconds), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def roughly(seconds: float | None) -> str:
    """Return how long something may take, no more exactly than an estimate can be: "about 4 min"; a dash for None."""
    if seconds is None:
        return "\N{EM DASH}"
    if seconds < _FEW * _MINUTE:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    for unit, name, next_unit in ((_MINUTE, "min", _HOUR), (_HOUR, "h", _DAY)):
        if seconds < _FEW * next_unit:
            return f"about {seconds / unit:.0f} {name}"
    return f"about {seconds / _DAY:,.0f} days"


# --- Errors ---

_TERMS: Final[tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]] = (
    (r", or allow_plain_http=True on a test network", ""),
    (r"pass the token to Client instead", "set CARDPROD_TOKEN instead"),
    (r"load (one|a new one) with ssl=(, see load_cert_chain)?", r"name \1 with --cert and --key"),
    (r"(trust it|the authority|the authorities) (in|with) ssl=", r"\1 with --ca"),
    (r"base_url and ssl=", "base_url, --ca and --cert"),
    (r"\bssl=", "--cert and --key"),
    (r"(must be the URL of an http proxy, such as )'(\S+)', or False", r"\1\2, or none"),
    (r"\bproxy (must be the URL)", r"--proxy \1"),
    (r"\bproxy=", "--proxy"),
    (r"\bcheck base_url\b", lambda _: f"check CARDPROD_BASE_URL ({base_url()})"),
    (r"\bbase_url\b", "CARDPROD_BASE_URL"),
    (r"\bapi_version\b", "CARDPROD_API_VERSION"),
    (r"\bthe (user )?token (must be a str\S*|is empty|holds|begins)", r"CARDPROD_TOKEN \2"),
    (r"^on_steps\b", "--on-steps"),
    (r"\bpass owner='(.*?)'", r"add --owner \1"),
    (r"\bwait for that with after=", "run this again with --follow"),
    (r"\bbatch_id\b", "BATCH"),
    (r"\bcard (?=\d+/)", ""),
)
"""What the client's messages call what users of the command know by another name."""

_MEANINGS: Final[Mapping[type, str]] = {
    errors.UsageError: "an argument is invalid",
    errors.RequestTimeout: "no whole answer in time",
    errors.TransportError: "no answer",
    errors.TokenRefreshFailed: "the token endpoint refused to refresh the token",
    errors.Unauthorized: "401: the token is missing, invalid or expired",
    errors.StrongAuthenticationRequired: "403: the user must approve this with strong authentication",
    errors.Forbidden: "403: the token is not for this profile or card",
    errors.CardNotFound: "404: this token can see no such card under this profile",
    errors.RateLimited: "429: more requests than Wise allows",
    errors.ServerError: "5xx: Wise, or a proxy before it, could not answer",
    errors.ApiError: "the answer is an error",
    errors.BadReply: "the answer is not of the documented shape",
    errors.WaitTimeout: "its time ran out",
    errors.CardprodError: "it failed",
}


def in_words(message: str) -> str:
    """Return a message of the client in the terms of the command line."""
    for pattern, term in _TERMS:
        message = re.sub(pattern, term, message)
    return message


def message_of(error: CardprodError) -> str:
    """Return an error's message in one line, without the name of its card."""
    message = str(error) if error.card is None else str(error).removeprefix(f"card {error.card}: ")
    return one_line(in_words(message), _LONGEST)


def meaning_of(error: type[CardprodError]) -> str:
    """Return what a class of errors means, in a few words."""
    return next(_MEANINGS[cls] for cls in error.__mro__ if cls in _MEANINGS)
