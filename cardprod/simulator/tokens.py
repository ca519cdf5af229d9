"""The tokens that the simulated kiosk accepts, and how they are refreshed. No HTTP and no clock."""

from __future__ import annotations

import base64
import json
import math
from typing import Final, TypeAlias
from urllib.parse import parse_qs

CLIENT_ID: Final = "simulated-client"
CLIENT_SECRET: Final = "simulated-client-secret"  # noqa: S105 - not a secret
EXPIRED: Final = "expired"
"""What is refused where every other token is accepted."""
_BASIC: Final = f"Basic {base64.b64encode(f'{CLIENT_ID}:{CLIENT_SECRET}'.encode()).decode()}"
_REFRESH_TOKEN: Final = "simulated-refresh-token"  # noqa: S105 - not a secret
_Answer: TypeAlias = tuple[int, str]


class TokenIssuer:
    """Keeps one user's pair of tokens. A refresh replaces both, and the old ones are invalid at once.

    The first access token does not expire by itself, those of a refresh after `seconds`. None accepts every token
    but `EXPIRED`, and every refresh.
    """

    def __init__(self, token: str | None, seconds: float) -> None:
        self.token: str | None = token
        self.refresh_token: str = _REFRESH_TOKEN
        self._seconds = seconds
        self._expires_at = math.inf
        self._is_revoked = False
        self._refreshes = 0

    def expire(self) -> None:
        """Make the access token invalid."""
        self._expires_at = -math.inf

    def revoke(self) -> None:
        """Make both tokens invalid: the user would have to authorise again."""
        self.expire()
        self._is_revoked = True

    def refusal(self, authorization: str, now: float) -> str | None:
        """Return why a request with this Authorization is refused, as a 401's body; None if it is accepted."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return '{"error":"missing_token","error_description":"No bearer token was sent"}'
        if token != EXPIRED if self.token is None else (token == self.token and now < self._expires_at):
            return None
        return '{"error":"invalid_token","error_description":"The access token is invalid or expired"}'

    def refresh_refusal(self, authorization: str, form: str) -> _Answer | None:
        """Return why a refresh is refused, as an HTTP status and a body; None if it is accepted."""
        fields = parse_qs(form)
        is_strict = self.token is not None
        if is_strict and authorization != _BASIC:
            return 401, '{"error":"invalid_client","error_description":"Bad client credentials"}'
        if fields.get("grant_type") != ["refresh_token"]:
            return 400, '{"error":"unsupported_grant_type","error_description":"Only refresh_token is simulated"}'
        if self._is_revoked or (is_strict and fields.get("refresh_token") != [self.refresh_token]):
            return 400, '{"error":"invalid_grant","error_description":"Invalid refresh token"}'
        return None

    def refresh(self, authorization: str, form: str, now: float) -> _Answer:
        """Answer a request for a new pair with an HTTP status and a body."""
        refused = self.refresh_refusal(authorization, form)
        if refused is not None:
            return refused
        self._refreshes += 1
        self.refresh_token = f"{_REFRESH_TOKEN}-{self._refreshes}"
        access_token = f"refreshed-access-token-{self._refreshes}"
        if self.token is not None:
            self.token = access_token
            self._expires_at = now + self._seconds
        grant = {
            "access_token": access_token,
            "token_type": "bearer",
            "refresh_token": self.refresh_token,
            "expires_in": math.ceil(self._seconds),
            "scope": "transfers",
        }
        return 200, json.dumps(grant)
