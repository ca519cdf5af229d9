"""Redaction of secrets in answers that repeat them, and in the causes of errors."""

from __future__ import annotations

import html
import json
import re
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, quote_plus, unquote_plus

from cardprod.errors import ApiError, BadReply
from cardprod.models import ProductionStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


__all__ = ["Secret", "drop_frames", "drop_inner_frames", "parse_redacted", "redact", "redact_status"]

_Said = TypeVar("_Said")
_JSON_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})")
_INNER: Final = frozenset({"cardprod", "aiohttp", "aiosignal", "asyncio"})
_SECRET: Final = 12
"""Characters. Real tokens are longer, and a shorter one could be an ordinary word of the message."""


class Secret:
    """A text that no repr shows, and so no error reporter that collects local variables."""

    __slots__ = ("encoded", "value")

    def __init__(self, value: str) -> None:
        self.value: str = value
        self.encoded: bytes = value.encode()

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


def drop_inner_frames(error: BaseException) -> None:
    """Drop from an error that is not ours the frames of this package and of aiohttp, and keep the user's own."""
    frames: list[TracebackType] = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    kept: TracebackType | None = None
    for one in reversed(frames):
        name = str(one.tb_frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in _INNER:
            kept = TracebackType(kept, one.tb_frame, one.tb_lasti, one.tb_lineno)
    error.__traceback__ = kept


def parse_redacted(
    secrets: Sequence[str],
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
    headers = {name: value.decode("utf-8", "replace") for name, value in shown.items()}
    try:
        return parse_response(http_status, headers, body)
    except (ApiError, BadReply) as error:
        hidden = [secret for secret in secrets if len(secret) >= _SECRET]
        carried = vars(error)
        carried.update({name: _without(hidden, value) for name, value in carried.items() if isinstance(value, str)})
        error.args = tuple(_without(hidden, value) if isinstance(value, str) else value for value in error.args)
        redact(hidden, error)
        raise


def redact_status(secret: str, status: ProductionStatus) -> ProductionStatus:
    """Redact a secret that a server repeats in the texts of a status, which end up in logs."""
    texts = (status.status, status.kiosk_id, status.error_code, status.description)
    if len(secret) < _SECRET or not any(text is not None and secret in text for text in texts):
        return status
    name, kiosk_id, error_code, description = (
        None if text is None else text.replace(secret, "[secret]") for text in texts
    )
    return ProductionStatus(
        name or "",
        kiosk_id=kiosk_id,
        occurred_at=status.occurred_at,
        error_code=error_code,
        description=description,
    )


def _without(secrets: Sequence[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    is_found = any(secret in decoded for decoded in _decodings(text) for secret in secrets)
    return "[not shown: it repeats a secret]" if is_found else text


def _decodings(text: str) -> Iterator[str]:
    """Decode a text in each way that a server may have encoded a secret in it, and in all of them."""
    unescaped = _JSON_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text).replace("\\/", "/")
    yield unescaped
    yield unquote_plus(text)
    yield html.unescape(text)
    yield html.unescape(unquote_plus(unescaped))


def redact(secrets: Iterable[str], error: BaseException) -> None:
    """Redact secrets in the causes of an error, which quote the answer."""
    hidden = [secret for secret in secrets if len(secret) >= _SECRET]

    def without(value: object) -> object:
        text = f"{value} {value!r}"
        return value if _without(hidden, text) == text else "[secret]"

    cause, seen = error.__cause__, [error]
    while cause is not None and cause not in seen:
        seen.append(cause)
        vars(cause).update({name: without(value) for name, value in vars(cause).items()})
        cause.args = tuple(map(without, cause.args))
        cause = cause.__cause__ or cause.__context__
