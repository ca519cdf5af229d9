"""Wise's webhook for card production: verifies a delivery's signature and parses its event. Pure (extra `webhooks`).

Wise calls an application-level subscription to `cards#card-production-status-change` at each change of a card. Pass
each event to `Client.notify`, and every wait for the card sees the change at once. README has the endpoint for
FastAPI; this one is for aiohttp.web, beside the client of `help("cardprod.client")`:

```python
import logging

import cardprod
from aiohttp import web
from cardprod.webhooks import Verifier

CLIENT = web.AppKey("client", cardprod.Client)
VERIFIER = Verifier.for_sandbox()  # or for_production()


async def one_client(app):
    async with cardprod.Client("user-token", base_url=cardprod.SANDBOX) as app[CLIENT]:
        yield


async def webhook(request):
    try:
        event = VERIFIER.parse(await request.read(), request.headers)  # the raw body: the signature covers its bytes
    except cardprod.BadSignature as error:
        logging.warning("%s", error)
        return web.Response(status=400)
    except cardprod.BadEvent as error:
        logging.warning("%s", error)  # of another subscription; with another answer Wise would send it for two weeks
    else:
        request.app[CLIENT].notify(event)
    return web.Response()


app = web.Application()
app.cleanup_ctx.append(one_client)
app.router.add_post("/wise", webhook)
```

Answer 200 within five seconds, or Wise sends the event again, 25 times in two weeks. A signature covers the body but
no time, so a recorded delivery can be sent again. That is harmless with `Client.notify`: an old event never undoes a
newer status, and one that comes twice changes nothing.

**Several processes**: Wise reaches one of them, and another may be the one that waits. Waits in PostgreSQL take the
event wherever it comes (`cardprod.durable`, `Durable.notify`). For waits in memory, let your database carry the
delivery; here PostgreSQL, with psycopg. Any role may send a notification and one holds 8,000 bytes, so it carries the
key of a row, and the row is verified where it is used. What comes while a process does not listen is found by its
polls:

```python
import logging

import cardprod
import psycopg
from cardprod.webhooks import Verifier

VERIFIER = Verifier.for_sandbox()
DSN = "dbname=cards"
TABLE = "CREATE TABLE deliveries (key text PRIMARY KEY DEFAULT gen_random_uuid(), body bytea, signature text)"


async def publish(body, headers):  # instead of client.notify, in the process that Wise has reached
    async with await psycopg.AsyncConnection.connect(DSN, autocommit=True) as database:
        await database.execute(
            "WITH delivery AS (INSERT INTO deliveries (body, signature) VALUES (%s, %s) RETURNING key) "
            "SELECT pg_notify('deliveries', key) FROM delivery",
            [body, headers["X-Signature-SHA256"]],
        )


async def listen(client):  # as a task, in every process that waits
    async with (
        await psycopg.AsyncConnection.connect(DSN, autocommit=True) as listening,
        await psycopg.AsyncConnection.connect(DSN, autocommit=True) as reading,
    ):
        await listening.execute("LISTEN deliveries")
        async for notification in listening.notifies():
            rows = "SELECT body, signature FROM deliveries WHERE key = %s"
            for body, signature in await (await reading.execute(rows, [notification.payload])).fetchall():
                try:
                    client.notify(VERIFIER.parse(body, {"X-Signature-SHA256": signature}))
                except (cardprod.BadSignature, cardprod.BadEvent) as error:
                    logging.warning("%s", error)
```

**To test your endpoint**, have the simulator call it, late, twice, out of order or not at all; your app takes the
simulator's key instead of Wise's. `cardprod simulate --webhooks-to URL` also calls it, without accidents, and shows
each answer; its key is at `/webhooks/public-key.pem`.

```python
from cardprod.simulator import Simulator, Subscription

async with Simulator() as kiosk:
    kiosk.subscribe(
        Subscription(url="http://127.0.0.1:8000/wise", latency=(0.1, 20), duplicates=0.2, losses=0.1, replays=0.1)
    )
    verifier = Verifier(kiosk.public_key)
    card = kiosk.add((123456, "my-card"), "prints")
```

Source: the pages "Webhooks" and "Card production status change event" of the Wise Platform API.
"""

from __future__ import annotations

import base64
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from cardprod._extras import needs_extra
from cardprod._http.secrets import drop_frames
from cardprod._protocol.api_errors import MAX_BODY
from cardprod._protocol.documents import status_structurer
from cardprod._protocol.events import HeadersLike, parse_event, read_headers
from cardprod._protocol.validation import check_type
from cardprod.errors import BadSignature, UsageError
from cardprod.models import ProductionEvent, one_line

_HAS_EXTRA: Final = find_spec("cryptography") is not None  # checked where it is used, so that help needs none
if TYPE_CHECKING or _HAS_EXTRA:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

if TYPE_CHECKING:
    from typing import Self

__all__ = ["SIGNATURE_HEADER", "HeadersLike", "ProductionEvent", "Verifier", "sign"]

SIGNATURE_HEADER: Final = "X-Signature-SHA256"
"""The header with a delivery's signature."""

_SIGNATURE: Final = SIGNATURE_HEADER.lower()
_DELIVERY_ID: Final = "x-delivery-id"
_TEST: Final = "x-test-notification"
_NOT_SIGNED: Final = (
    "this delivery is not signed by a known key: check that the body is the raw one, and that the key is of the server "
    "that sends it"
)
_NO_SIGNATURE: Final = (
    f"this request has no {SIGNATURE_HEADER} header: check that Wise sent it, and that no proxy drops its headers"
)
_LONGEST_SIGNATURE: Final = 4096
_LONGEST_ID: Final = 100
_FEWEST_BITS: Final = 2048

# Wise publishes these keys to verify its webhooks; they are the same for every customer.
_PRODUCTION_KEY: Final = """\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAvO8vXV+JksBzZAY6GhSO
XdoTCfhXaaiZ+qAbtaDBiu2AGkGVpmEygFmWP4Li9m5+Ni85BhVvZOodM9epgW3F
bA5Q1SexvAF1PPjX4JpMstak/QhAgl1qMSqEevL8cmUeTgcMuVWCJmlge9h7B1CS
D4rtlimGZozG39rUBDg6Qt2K+P4wBfLblL0k4C4YUdLnpGYEDIth+i8XsRpFlogx
CAFyH9+knYsDbR43UJ9shtc42Ybd40Afihj8KnYKXzchyQ42aC8aZ/h5hyZ28yVy
Oj3Vos0VdBIs/gAyJ/4yyQFCXYte64I7ssrlbGRaco4nKF3HmaNhxwyKyJafz19e
HwIDAQAB
-----END PUBLIC KEY-----
"""
_SANDBOX_KEY: Final = """\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAwpb91cEYuyJNQepZAVfP
ZIlPZfNUefH+n6w9SW3fykqKu938cR7WadQv87oF2VuT+fDt7kqeRziTmPSUhqPU
ys/V2Q1rlfJuXbE+Gga37t7zwd0egQ+KyOEHQOpcTwKmtZ81ieGHynAQzsn1We3j
wt760MsCPJ7GMT141ByQM+yW1Bx+4SG3IGjXWyqOWrcXsxAvIXkpUD/jK/L958Cg
nZEgz0BSEh0QxYLITnW1lLokSx/dTianWPFEhMC9BgijempgNXHNfcVirg1lPSyg
z7KqoKUN0oHqWLr2U1A+7kqrl6O2nx3CKs1bj1hToT1+p4kcMoHXA7kA+VBLUpEs
VwIDAQAB
-----END PUBLIC KEY-----
"""


class Verifier:
    """Verifies that a delivery was signed with one of its keys, and parses it.

    Args:
        public_keys: RSA public keys as PEM, or as `cryptography` loads them; several during a key rotation.

    Raises:
        UsageError: There is no key, or one is not an RSA public key of 2,048 bits or more.
        ImportError: The extra `webhooks` is not installed; the message has the command for it.
    """

    def __init__(self, *public_keys: str | bytes | RSAPublicKey) -> None:
        _check_extra()
        self._keys: tuple[RSAPublicKey, ...] = ()
        if not public_keys:
            raise UsageError(
                "Verifier has no public key: use Verifier.for_production() or for_sandbox(), which have Wise's"
            )
        try:
            self._keys = tuple(map(_public_key, public_keys))
        except UsageError as error:
            drop_frames(error)
            del public_keys  # one may be a private key by mistake, and this frame stays in the traceback
            raise
        status_structurer("event")  # imports what parsing needs: when a delivery comes, an import may fail

    @classmethod
    def for_production(cls) -> Self:
        """Create one with the key of Wise's production."""
        return cls(_PRODUCTION_KEY)

    @classmethod
    def for_sandbox(cls) -> Self:
        """Create one with the key of Wise's sandbox."""
        return cls(_SANDBOX_KEY)

    def verify(self, body: bytes, headers: HeadersLike) -> None:
        """Verify a delivery, and nothing else: for those who hand its body on to another process, which parses it.

        A delivery can come more than once, and a recorded one can be sent again. Do not recognise repeated ones by
        their `X-Delivery-Id`: Wise's documents disagree on whether it counts deliveries or attempts, and it is not
        signed. `Client.notify` needs no such thing, an event that says nothing new changes nothing.

        Args:
            body: The raw body, before anything has parsed it: the signature is over these very bytes.
            headers: The request's headers, with names in any case: your framework's own, so that a header that came
                twice is seen twice (Flask's, Starlette's, Django's, aiohttp's, `http.server`'s, …), ASGI's list of
                pairs of bytes, or a WSGI environ.

        Raises:
            BadSignature: None of the keys has signed it, in whatever way; or it is over 1 MiB. Answer 400.
            UsageError: `body` is not bytes, or `headers` holds no headers.
        """
        # A caller without a type checker may pass text, which was decoded, or what a framework parsed.
        check_type("body", body, bytes, "the raw bytes of the request")
        signatures = read_headers(headers, {_SIGNATURE})[_SIGNATURE]
        if not signatures:
            raise BadSignature(_NO_SIGNATURE)
        if len(body) > MAX_BODY or not self._is_signed(body, signatures):
            raise BadSignature(_NOT_SIGNED)

    def parse(self, body: bytes, headers: HeadersLike) -> ProductionEvent:
        """Verify a delivery, and parse its event.

        Args:
            body: As for `verify`.
            headers: As for `verify`.

        Returns:
            The event. Its `card` is None if it names none; `is_test` is true for a test delivery.

        Raises:
            BadSignature: As from `verify`. Answer 400.
            BadEvent: It is signed, and no production event. Answer 200: it will not become one.
            UsageError: As from `verify`.
        """
        known = read_headers(headers, {_SIGNATURE, _DELIVERY_ID, _TEST})
        self.verify(body, known)
        # Neither of these is signed: a repeated delivery can have any.
        delivery_ids = known[_DELIVERY_ID]
        return parse_event(
            body,
            delivery_id=one_line(delivery_ids[0][:_LONGEST_ID], _LONGEST_ID) if delivery_ids else None,
            is_test=any(value.strip().lower() == "true" for value in known[_TEST]),
        )

    def _is_signed(self, body: bytes, signatures: list[str]) -> bool:
        if len(signatures) != 1 or len(signatures[0]) > _LONGEST_SIGNATURE:
            return False
        try:
            signature = base64.b64decode(signatures[0].strip(" \t"), validate=True)
        except ValueError:  # not Base64, or not ASCII
            return False
        for key in self._keys:
            with suppress(InvalidSignature):
                key.verify(signature, body, PKCS1v15(), SHA256())
                return True
        return False

    def __repr__(self) -> str:
        return f"<Verifier with {len(self._keys)} keys>"


def sign(body: bytes, private_key: str | bytes | RSAPrivateKey) -> str:
    """Sign a body as Wise does, to test your own endpoint.

    Args:
        body: The raw body.
        private_key: An RSA private key of your own, as PEM without a password or as `cryptography` loads it.

    Returns:
        The value of `SIGNATURE_HEADER`.

    Raises:
        UsageError: `body` is not bytes, or `private_key` no RSA private key.
    """
    _check_extra()
    check_type("body", body, bytes, "the raw bytes to sign")
    try:
        key = private_key if isinstance(private_key, RSAPrivateKey) else _load_private_key(private_key)
    except UsageError as error:
        drop_frames(error)
        del private_key  # this frame stays in the traceback
        raise
    return base64.b64encode(key.sign(body, PKCS1v15(), SHA256())).decode()


def _check_extra() -> None:
    if not _HAS_EXTRA:
        raise ImportError(needs_extra("cardprod.webhooks", "webhooks"))


def _public_key(key: str | bytes | RSAPublicKey) -> RSAPublicKey:
    loaded: object = key
    if isinstance(key, str | bytes):
        try:
            loaded = load_pem_public_key(_bytes(key))
        except UnsupportedAlgorithm:
            raise UsageError("a public key must be RSA's, as Wise's are") from None
        except ValueError:  # the key is in no message: it may be a private one by mistake
            raise UsageError(
                "a public key must be PEM, -----BEGIN PUBLIC KEY----- … with its line breaks, and no URL or path: "
                + ("read it first" if key else "this one is empty")
            ) from None
    if not isinstance(loaded, RSAPublicKey):
        raise UsageError(f"a public key must be RSA's, as Wise's are, not a {type(loaded).__name__}")
    if loaded.key_size < _FEWEST_BITS:
        raise UsageError(f"a public key must have {_FEWEST_BITS} bits or more, not {loaded.key_size}")
    return loaded


def _load_private_key(pem: str | bytes) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(_bytes(pem), password=None)
    except UnsupportedAlgorithm:
        raise UsageError("private_key must be RSA's") from None
    except (ValueError, TypeError, AttributeError):
        raise UsageError("private_key must be PEM without a password, or an RSAPrivateKey") from None
    if not isinstance(key, RSAPrivateKey):
        raise UsageError(f"private_key must be RSA's, not a {type(key).__name__}")
    return key


def _bytes(pem: str | bytes) -> bytes:
    return pem.encode() if isinstance(pem, str) else pem
