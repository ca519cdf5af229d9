"""What can go wrong on the way from the kiosk, on demand: faults as data. `server` carries them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from random import Random

__all__ = ["Fault"]


@attrs.frozen
class Fault:
    """One thing to go wrong with one answer. Made by the class methods below.

    ```python
    kiosk.fail_next(Fault.too_many_requests(retry_after=5))
    kiosk.fail_next(Fault.server_error(503), times=3, card=card)
    ```
    """

    kind: Literal["answer", "reset", "stall", "cut_body", "garbage"]
    http_status: int = 200
    body: str = ""
    content_type: str = "application/json"
    retry_after: int | str | None = None
    seconds: float = 0.0

    @classmethod
    def too_many_requests(cls, retry_after: int | str | None = 1) -> Fault:
        """Answer 429 with `Retry-After`: seconds, an HTTP date, or none."""
        return cls("answer", 429, '{"message":"Too many requests"}', retry_after=retry_after)

    @classmethod
    def server_error(cls, http_status: int = 500, retry_after: int | str | None = None) -> Fault:
        """Answer with a 5xx, or any other status, and a body as Wise's."""
        body = '{"errors":[{"code":"internal_error","message":"Something went wrong","arguments":null}]}'
        return cls("answer", http_status, body, retry_after=retry_after)

    @classmethod
    def gateway_page(cls, http_status: int = 502) -> Fault:
        """Answer with a proxy's HTML page."""
        return cls("answer", http_status, "<html><h1>Bad Gateway</h1></html>", "text/html")

    @classmethod
    def bad_reply(cls, body: str = '{"kioskId":"WIS00001"}') -> Fault:
        """Answer 200 with a body that is not the documented shape: without a status, unless told."""
        return cls("answer", 200, body)

    @classmethod
    def reset(cls) -> Fault:
        """Break the connection before any answer."""
        return cls("reset")

    @classmethod
    def stall(cls, seconds: float = 3600.0) -> Fault:
        """Answer rightly, but only after so many seconds."""
        return cls("stall", seconds=seconds)

    @classmethod
    def cut_body(cls) -> Fault:
        """Break the connection in the middle of the body."""
        return cls("cut_body")

    @classmethod
    def garbage(cls) -> Fault:
        """Answer with bytes that are not HTTP."""
        return cls("garbage")

    @classmethod
    def any_of_them(cls, random: Random) -> Fault:
        """Take any of them, for storms."""
        return random.choice(
            [
                cls.too_many_requests(random.randint(0, 3)),
                cls.server_error(random.choice([500, 502, 503, 504])),
                cls.gateway_page(),
                cls.bad_reply(random.choice(["", "[]", "{}", "not JSON", '{"status":null}', '{"status":"READY"'])),
                cls.reset(),
                cls.stall(),
                cls.cut_body(),
                cls.garbage(),
            ]
        )
