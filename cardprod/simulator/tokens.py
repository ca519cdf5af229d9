"""Who may ask the simulated kiosk: the access token of the moment, and how it is refreshed. No HTTP and no clock."""

from __future__ import annotations

import base64
import json
import math
from urllib.parse import parse_qs

__all__ = ["TokenDesk"]


class TokenDesk:
    """Keeps one user's pair of tokens, and changes both at each refresh: the old ones are no longer good at once.

    Args:
        token: The access token to begin with, which does not expire by itself; None lets every token pass, and
            everybody refresh.
        client_id: The client that may refresh.
        client_secret: Its secret.
        refresh_token: What the first refresh takes.
        seconds: How long the access token of a refresh is good.
    """

    def __init__(
        self, *, token: str | None, client_id: str, client_secret: str, refresh_token: str, seconds: float
    ) -> None:
        self.token: str | None = token
        self.refresh_token: str = refresh_token
        self._basic = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        self._first_refresh_token = refresh_token
        self._seconds = seconds
        self._expires_at = math.inf
        self._is_revoked = False
        self._refreshes = 0

    def accepts(self, token: str, now: float) -> bool:
        """Whether a request with this access token is let in."""
        return self.token is None or (token == self.token and now < self._expires_at)

    def expire(self) -> None:
        """Let the access token be no longer good."""
        self._expires_at = -math.inf

    def revoke(self) -> None:
        """Let neither token be good any more: the user would have to authorise again."""
        self.expire()
        self._is_revoked = True

    def refresh(self, authorization: str, form: str, now: float) -> tuple[int, str]:
        """Answer a request for a new pair: the HTTP status and the body."""
        fields = parse_qs(form)
        is_strict = self.token is not None
        if is_strict and authorization != f"Basic {self._basic}":
            return 401, '{"error":"invalid_client","error_description":"Bad client credentials"}'
        if fields.get("grant_type") != ["refresh_token"]:
            return 400, '{"error":"unsupported_grant_type","error_description":"Only refresh_token is simulated"}'
        if self._is_revoked or (is_strict and fields.get("refresh_token") != [self.refresh_token]):
            return 400, '{"error":"invalid_grant","error_description":"Invalid refresh token"}'
        self._refreshes += 1
        self.refresh_token = f"{self._first_refresh_token}-{self._refreshes}"
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
