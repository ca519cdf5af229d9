"""Redaction of secrets in answers that repeat them, and in the causes of errors."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, quote_plus

from cardprod.errors import ApiError, BadReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


__all__ = ["Secret", "drop_frames", "parse_redacted", "redact"]

_Said = TypeVar("_Said")
_SECRET: Final = 12
"""Characters. Real tokens are longer, and a shorter one could be an ordinary word of the message."""


class Secret:
    """A text that no repr shows, and so no error reporter that collects local variables."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value: str = value

    def __repr__(self) -> str:
        return "<secret>"


def drop_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error and of all that it comes from, up to here.

    Error reporters (Sentry, loguru, elastic-apm, by their defaults) collect the local variables of every frame there:
    of ours, which hold tokens and requests, and of aiohttp's, which hold headers.
    """
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        one = errors.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            errors += [one.__cause__, one.__context__]


def parse_redacted(
    secrets: Iterable[str],
    parse_response: Callable[[int, Mapping[str, str], bytes], _Said],
    http_status: int,
    headers: Mapping[str, str],
    body: bytes,
) -> _Said:
    """Parse an answer. An error is made of the answer without the secrets, however they are encoded in it.

    Raises:
        ApiError, BadReply: As `parse_response` does.
    """
    try:
        return parse_response(http_status, headers, body)
    except (ApiError, BadReply):
        pass
    shown: dict[str, bytes] = {name: value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
    for secret in filter(lambda secret: len(secret) >= _SECRET, secrets):
        as_json = json.dumps(secret)[1:-1]
        spellings = {secret, quote(secret, safe=""), quote_plus(secret), html.escape(secret), as_json}
        spellings.add(as_json.replace("/", "\\/"))  # some JSON writers escape it
        for spelling in sorted(spellings, key=len, reverse=True):
            body = body.replace(spelling.encode(), b"[secret]")
            shown = {name: value.replace(spelling.encode(), b"[secret]") for name, value in shown.items()}
    return parse_response(http_status, {name: value.decode("utf-8", "replace") for name, value in shown.items()}, body)


def redact(secrets: Iterable[str], error: BaseException) -> None:
    """Redact secrets in the causes of an error, which quote the answer."""
    hidden = [secret for secret in secrets if len(secret) >= _SECRET]

    def without(value: object) -> object:
        text = f"{value} {value!r}"
        return "[secret]" if any(secret in text for secret in hidden) else value

    cause, seen = error.__cause__, [error]
    while cause is not None and cause not in seen:
        seen.append(cause)
        vars(cause).update({name: without(value) for name, value in vars(cause).items()})
        cause.args = tuple(map(without, cause.args))
        cause = cause.__cause__ or cause.__context__
