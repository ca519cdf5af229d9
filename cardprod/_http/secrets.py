"""Redaction of secrets in answers that repeat them, and in the causes of errors."""

from __future__ import annotations

import base64
import html
import json
import re
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, quote_plus, unquote

import attrs

from cardprod.errors import ApiError, BadReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cardprod.models import ProductionStatus
_Said = TypeVar("_Said")
_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\([\\/\"'=&])")
"""The escapes of JSON and JavaScript."""
_QUOTED_PRINTABLE: Final = re.compile(r"=([0-9A-F]{2})")
_CUT_ESCAPE: Final = re.compile(r"(%[0-9a-fA-F]?|\\([ux][0-9a-fA-F]{0,3})?|&#?[0-9a-zA-Z]{0,8}|=[0-9A-F]?)?\u2026?$")
"""What is left of an escape at the end of a text that was cut."""
_NESTED: Final = 3
"""How many encodings of a secret, one around the other, are undone."""
_PERCENT, _AND, _SLASH, _EQUALS = b"%&\\="
"""What begins an escape."""
_INNER: Final = frozenset({"cardprod", "aiohttp", "aiosignal", "asyncio"})
_SECRET: Final = 12
"""Characters. Real tokens are longer, and a shorter one could be an ordinary word of the message."""
_PART: Final = 8
"""Characters at the beginning of a secret that show it as well, at the end of a text that was cut."""
_NOT_SHOWN: Final = "[not shown: it repeats a secret]"


class Secret:
    """A text that no repr shows, and so no error reporter that collects local variables."""

    __slots__ = ("encoded", "value")

    def __init__(self, value: str) -> None:
        self.value: str = value
        self.encoded: bytes = value.encode()

    def __repr__(self) -> str:
        return "<secret>"

    def is_in(self, text: str) -> bool:
        """Whether a text contains it, as it is or in base64; or ends with its beginning, because it was cut there."""
        if self.value in text or any(spelling in text for spelling in self._in_base64()):
            return True
        end = text.removesuffix("\u2026")
        return any(end.endswith(self.value[:length]) for length in range(_PART, len(self.value)))

    def _in_base64(self) -> Iterator[str]:
        """Give what base64 makes of it, wherever in the encoded bytes it begins, without what its neighbours change."""
        for before in range(3):
            coded = base64.b64encode(bytes(before) + self.encoded).decode().rstrip("=")
            yield coded[-(-before * 8 // 6) : -1]


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
    secrets: Sequence[Secret],
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
    hidden = [secret for secret in secrets if len(secret.value) >= _SECRET]
    try:
        return parse_response(http_status, *_replaced(hidden, headers, body))
    except (ApiError, BadReply) as error:
        message = str(error.args[0])
        for name, value in vars(error).items():
            if isinstance(value, str) and (shown := _without(hidden, value)) != value:
                vars(error)[name] = shown
                message = message.replace(value, shown)  # a code or a detail
        error.args = (_without(hidden, message),)
        redact(hidden, error)
        raise


def _replaced(secrets: Sequence[Secret], headers: Mapping[str, str], body: bytes) -> tuple[Mapping[str, str], bytes]:
    """Replace the usual spellings of secrets in an answer, before it is cut."""
    shown: dict[str, bytes] = {name: value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
    for secret in secrets:
        text = secret.value
        as_json = json.dumps(text)[1:-1]
        spellings = {text, quote(text, safe=""), quote_plus(text), html.escape(text), as_json}
        spellings.add(as_json.replace("/", "\\/"))  # some JSON writers escape it
        for spelling in sorted(spellings, key=len, reverse=True):
            body = body.replace(spelling.encode(), b"[secret]")
            shown = {name: value.replace(spelling.encode(), b"[secret]") for name, value in shown.items()}
    return {name: value.decode("utf-8", "replace") for name, value in shown.items()}, body


def redact_status(secret: Secret, body: bytes, status: ProductionStatus) -> ProductionStatus:
    """Redact a secret that the body of an answer repeats in the texts of its status, which end up in logs."""
    # Nearly no answer repeats it, as it is or escaped. `find` and bytes by number are faster than `bytes in bytes`.
    is_escaped = _PERCENT in body or _AND in body or _SLASH in body or _EQUALS in body
    if body.find(secret.encoded) < 0 and not is_escaped:
        return status
    if len(secret.value) < _SECRET:
        return status
    texts = {name: getattr(status, name) for name in ("status", "kiosk_id", "error_code", "description")}
    shown: dict[str, Any] = {name: _without([secret], text) for name, text in texts.items() if text is not None}
    return attrs.evolve(status, **shown)


def _without(secrets: Sequence[Secret], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret.value, "[secret]")
    return _NOT_SHOWN if any(secret.is_in(decoded) for decoded in _decodings(text) for secret in secrets) else text


def _decodings(text: str) -> Iterator[str]:
    """Decode a text in each way that a server may have encoded a secret in it, one encoding within the other too."""
    texts = {text, _CUT_ESCAPE.sub("", text)}
    for _ in range(_NESTED):
        yield from texts
        texts = {decode(one) for one in texts for decode in (_unescaped, unquote, html.unescape, _from_quoted)} - texts


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: match[3] or chr(int(match[1] or match[2], 16)), text)


def _from_quoted(text: str) -> str:
    return _QUOTED_PRINTABLE.sub(lambda match: chr(int(match[1], 16)), text)


def redact(secrets: Sequence[Secret], error: BaseException) -> None:
    """Redact secrets in the causes of an error, which quote the answer."""
    hidden = [secret for secret in secrets if len(secret.value) >= _SECRET]

    def without(value: object) -> object:
        text = f"{value} {value!r}"
        return value if _without(hidden, text) == text else "[secret]"

    cause, seen = error.__cause__, [error]
    while cause is not None and cause not in seen:
        seen.append(cause)
        vars(cause).update({name: without(value) for name, value in vars(cause).items()})
        cause.args = tuple(map(without, cause.args))
        cause = cause.__cause__ or cause.__context__
