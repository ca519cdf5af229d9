"""Who signed a delivery: what a `Verifier` accepts, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
from email.header import Header
from http.client import parse_headers
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from cardprod.errors import BadEvent, BadSignature, UsageError
from cardprod.models import ProductionEvent
from cardprod.webhooks import SIGNATURE_HEADER, Verifier, sign
from tests.attack.leaks import leaks, shown_by
from tests.cards import CARD
from tests.table import Table
from tests.unit.deliveries import delivered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from email.message import Message

KEY = generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = generate_private_key(public_exponent=65537, key_size=2048)
NOT_RSA = ec.generate_private_key(ec.SECP256R1())
PRIVATE_PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
UNKNOWN_PEM = "-----BEGIN {0} KEY-----\n{1}\n-----END {0} KEY-----\n"
UNKNOWN_PUBLIC, UNKNOWN_PRIVATE = "MAwwBQYDKgMEAwMAAQI=", "MA4CAQAwBQYDKgMEBAIxMg=="
"""Keys of an algorithm that nobody knows."""
VERIFIER = Verifier(KEY.public_key())
BODY = json.dumps(delivered()).encode()
SIGNATURE = sign(BODY, KEY)
SIGNED = {SIGNATURE_HEADER: SIGNATURE}


def pem_of(key: Any) -> str:
    return str(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "ascii")


def test_signed_event() -> None:
    """A signed delivery gives its event with the first 100 characters of its id, and is no test."""
    ids: list[tuple[Mapping[str, str], str | None]] = [
        ({}, None),
        ({"X-Delivery-Id": "d" * 200}, "d" * 100),
        (CIMultiDict([("X-Delivery-Id", "d-1"), ("X-Delivery-Id", "d-2")]), "d-1"),
    ]
    for headers, delivery_id in ids:
        event = VERIFIER.parse(BODY, CIMultiDict([*SIGNED.items(), *headers.items()]))
        assert (event.card, event.delivery_id, event.is_test) == (CARD, delivery_id, False)


def test_test_notification() -> None:
    """A delivery is a test if one of its headers says so, in any case; any other word says nothing."""
    spellings = {"true": True, " TRUE ": True, "false": False, "1": False, "": False}
    for value, is_test in spellings.items():
        assert VERIFIER.parse(BODY, SIGNED | {"x-test-notification": value}).is_test is is_test
    both = CIMultiDict([*SIGNED.items(), ("X-Test-Notification", "false"), ("X-Test-Notification", "true")])
    assert VERIFIER.parse(BODY, both).is_test


def test_signed_and_no_event() -> None:
    """What is signed and no production event says which delivery it was."""
    with pytest.raises(BadEvent, match="event_type") as caught:
        VERIFIER.parse(b"{}", {SIGNATURE_HEADER: sign(b"{}", KEY), "X-Delivery-Id": "d-1"})
    assert caught.value.delivery_id == "d-1"


def test_one_mebibyte() -> None:
    """A signed body of 1 MiB is read, and a larger one is refused."""
    for length, is_taken in ((1024 * 1024, True), (1024 * 1024 + 1, False)):
        body = BODY.ljust(length)
        headers = {SIGNATURE_HEADER: sign(body, KEY)}
        if is_taken:
            assert VERIFIER.parse(body, headers).card == CARD
        else:
            with pytest.raises(BadSignature):
                VERIFIER.parse(body, headers)


def test_bad_signature() -> None:
    """A delivery that is not rightly signed is refused, in the same words whatever is wrong with its signature."""
    raw = base64.b64decode(SIGNATURE)
    headers: dict[str, Mapping[str, str]] = {
        "missing": {},
        "empty": {SIGNATURE_HEADER: ""},
        "twice": CIMultiDict([(SIGNATURE_HEADER, SIGNATURE), (SIGNATURE_HEADER, SIGNATURE)]),
        "in two cases": {SIGNATURE_HEADER: SIGNATURE, SIGNATURE_HEADER.lower(): SIGNATURE},
        "joined": {SIGNATURE_HEADER: f"{SIGNATURE}, {SIGNATURE}"},
        "truncated": {SIGNATURE_HEADER: SIGNATURE[:-8]},
        "one byte less": {SIGNATURE_HEADER: base64.b64encode(raw[:-1]).decode()},
        "one byte more": {SIGNATURE_HEADER: base64.b64encode(raw + b"\0").decode()},
        "not Base64": {SIGNATURE_HEADER: "~" * len(SIGNATURE)},
        "not only Base64": {SIGNATURE_HEADER: f"{SIGNATURE[:8]}~{SIGNATURE[8:]}"},
        "over two lines": {SIGNATURE_HEADER: f"{SIGNATURE[:8]}\n{SIGNATURE[8:]}"},
        "not ASCII": {SIGNATURE_HEADER: "é" * len(SIGNATURE)},
        "URL-safe Base64": {SIGNATURE_HEADER: base64.urlsafe_b64encode(b"\xff" * 256).decode()},
        "very long": {SIGNATURE_HEADER: "A" * 1_000_000},
        "too long with blanks": {SIGNATURE_HEADER: SIGNATURE.ljust(4097)},
        "another key's": {SIGNATURE_HEADER: sign(BODY, OTHER_KEY)},
        "another body's": {SIGNATURE_HEADER: sign(BODY + b" ", KEY)},
        "another header": {"X-Signature": SIGNATURE},
        "another in WSGI": {"X_SIGNATURE_SHA256": SIGNATURE},
        "another for WSGI": {"HTTPS_X_SIGNATURE_SHA256": SIGNATURE},
        "test without": {"X-Test-Notification": "true"},
    }
    with Table() as table:
        for name, of_this in headers.items():
            with table.row(name):
                with pytest.raises(BadSignature) as caught:
                    VERIFIER.parse(BODY, of_this)
                is_missing = SIGNATURE_HEADER.lower() not in {header.lower() for header in of_this}
                words = (
                    "this request has no X-Signature-SHA256 header" if is_missing else "this delivery is not signed by"
                )
                assert str(caught.value).startswith(words)
                assert caught.value.__cause__ is None
                assert caught.value.__context__ is None


@given(at=st.integers(0, len(BODY) - 1), change=st.integers(1, 255))
def test_any_changed_byte(at: int, change: int) -> None:
    """A change of any byte of the body is seen."""
    with pytest.raises(BadSignature):
        VERIFIER.parse(BODY[:at] + bytes([BODY[at] ^ change]) + BODY[at + 1 :], SIGNED)


def test_headers_in_any_case() -> None:
    """The headers' case does not matter, in a plain dict or a framework's mapping, nor do blanks around the value."""
    for name in ("X-Signature-SHA256", "x-signature-sha256", "X-SIGNATURE-SHA256"):
        for mapping in ({name: SIGNATURE}, CIMultiDict({name: SIGNATURE}), {name: f" {SIGNATURE}\t".ljust(4096)}):
            assert VERIFIER.parse(BODY, mapping).card == CARD


class Werkzeugs:
    """Headers as Flask and Werkzeug have them: no `Mapping`, and iterated they give pairs."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = list(pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def items(self, lower: bool = False) -> Iterator[tuple[str, str]]:
        """Return the pairs."""
        return ((name.lower() if lower else name, value) for name, value in self._pairs)


def message_of(pairs: Iterable[tuple[str, str]]) -> Message:
    """Return what `http.server` makes of a request's headers."""
    head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    return parse_headers(io.BytesIO(head.encode("latin-1") + b"\r\n"))


def environ_of(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return a WSGI environ, in which servers join what came more than once."""
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "wsgi.version": (1, 0), "wsgi.input": io.BytesIO(BODY)}
    for name, value in pairs:
        key = f"HTTP_{name.upper().replace('-', '_')}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def in_lists(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return a dict of lists, as API gateways have it."""
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        lists.setdefault(name.lower(), []).append(value)
    return lists


SHAPES: dict[str, Callable[[list[tuple[str, str]]], Any]] = {
    "multidict": CIMultiDict,
    "Werkzeug": Werkzeugs,
    "http.server": message_of,
    "ASGI": lambda pairs: [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
    "ASGI, lists": lambda pairs: [[name.lower().encode("latin-1"), value.encode("latin-1")] for name, value in pairs],
    "iterator": iter,
    "WSGI": environ_of,
    "lists": in_lists,
    "dict of bytes": lambda pairs: {
        name.encode(): [value.encode("latin-1") for value in values] for name, values in in_lists(pairs).items()
    },
}
"""How frameworks have a request's headers, all that came under one name included."""


def test_every_shape_of_headers() -> None:
    """However a framework has its headers, a signed delivery is verified, and its id and whether it is a test read."""
    pairs = [(SIGNATURE_HEADER, SIGNATURE), ("X-Delivery-Id", "d-\xe9"), ("X-Test-Notification", "true")]
    with Table() as table:
        for shape, make in (SHAPES | {"dict": dict}).items():
            with table.row(shape):
                VERIFIER.verify(BODY, make(pairs))
                event = VERIFIER.parse(BODY, make(pairs))
                assert (event.card, event.delivery_id, event.is_test) == (CARD, "d-\xe9", True)


def test_several_signatures_in_every_shape() -> None:
    """Two signatures are refused in every shape of headers that shows them, though both are right; so is none."""
    with Table() as table:
        for shape, make in SHAPES.items():
            for count in (0, 2):
                with table.row(shape, count), pytest.raises(BadSignature):
                    VERIFIER.parse(BODY, make([("Host", "kiosk.example"), *[(SIGNATURE_HEADER, SIGNATURE)] * count]))


def test_headers_that_a_caller_can_send() -> None:
    """Whatever an unsigned caller brings a framework to put in its headers is a `BadSignature`, never another error."""
    strange: list[Any] = [
        *(None, [], [None], [[SIGNATURE]], 5, True, {}, {"a": "b"}, "", b"", "\udcff", b"\xff" * 300, object()),
        *([SIGNATURE, SIGNATURE], (SIGNATURE, b""), Header(b"\xff", "unknown-8bit"), bytearray(SIGNATURE.encode())),
    ]
    with Table() as table:
        for value in strange:
            headers: Any = [
                {SIGNATURE_HEADER: value},
                [(SIGNATURE_HEADER.lower().encode(), value)],
                [(value, value), (None, None), (5, ()), ([SIGNATURE_HEADER], SIGNATURE)],
            ]
            for one in headers:
                with table.row(one), pytest.raises(BadSignature):
                    VERIFIER.parse(BODY, one)


def test_strange_headers_beside_a_signature() -> None:
    """An id or a test mark that is no text is as if it were not there, and an id is one printable line."""
    no_texts: list[Any] = [None, 5, [], {}]
    for value in no_texts:
        headers: Any = SIGNED | {"X-Delivery-Id": value, "X-Test-Notification": value}
        event = VERIFIER.parse(BODY, headers)
        assert (event.delivery_id, event.is_test) == (None, False)
    event = VERIFIER.parse(BODY, SIGNED | {"X-Delivery-Id": "a\nb\x1b\udcff"})
    assert event.delivery_id == "a b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    assert ProductionEvent.from_json(event.to_json()) == event


@given(st.dictionaries(st.text() | st.binary(), st.none() | st.text() | st.binary() | st.lists(st.text())))
def test_any_headers(headers: Any) -> None:
    """No headers make anything but `BadSignature` of a delivery that is not signed."""
    for shape in (headers, [*headers.items()]):
        with pytest.raises(BadSignature):
            VERIFIER.parse(BODY, shape)


def test_verification_alone() -> None:
    """`verify` returns nothing for what is signed, be it an event or not, and refuses what `parse` refuses."""
    verify: Callable[..., object] = VERIFIER.verify
    for body in (BODY, b"{}", b"", b"\xff"):
        assert verify(body, {SIGNATURE_HEADER: sign(body, KEY)}) is None
        with pytest.raises(BadSignature, match=r"^this delivery is not signed by a known key: check "):
            VERIFIER.verify(body + b" ", {SIGNATURE_HEADER: sign(body, KEY)})
    too_long = BODY.ljust(1024 * 1024 + 1)
    with pytest.raises(BadSignature):
        VERIFIER.verify(too_long, {SIGNATURE_HEADER: sign(too_long, KEY)})


def test_several_keys() -> None:
    """With two keys, what either has signed is accepted."""
    both = Verifier(pem_of(KEY.public_key()), pem_of(OTHER_KEY.public_key()).encode())
    for key in (KEY, OTHER_KEY):
        assert both.parse(BODY, {SIGNATURE_HEADER: sign(BODY, key)}).card == CARD
    assert repr(both) == "<Verifier with 2 keys>"


def test_keys_of_wise() -> None:
    """Wise's own keys are included, and accept nothing that others signed."""
    for verifier in (Verifier.for_production(), Verifier.for_sandbox()):
        assert repr(verifier) == "<Verifier with 1 keys>"
        with pytest.raises(BadSignature):
            verifier.parse(BODY, SIGNED)


def test_bad_public_keys() -> None:
    """What is no public key of RSA with 2,048 bits is refused when the verifier is made, and not shown."""
    one_bit_short = generate_private_key(public_exponent=65537, key_size=2047).public_key()  # noqa: S505 - refused
    bad: list[tuple[tuple[Any, ...], str]] = [
        ((), "has no public key"),
        (("nonsense",), "must be PEM"),
        ((b"",), "must be PEM"),
        ((PRIVATE_PEM,), "must be PEM"),
        ((KEY.public_key(), "nonsense"), "must be PEM"),
        ((5,), "not a int"),
        ((NOT_RSA.public_key(),), "must be RSA's"),
        ((pem_of(NOT_RSA.public_key()),), "must be RSA's"),
        ((UNKNOWN_PEM.format("PUBLIC", UNKNOWN_PUBLIC),), "must be RSA's"),
        ((one_bit_short,), "2048 bits or more, not 2047"),
    ]
    with Table() as table:
        for keys, problem in bad:
            with table.row(keys, problem):
                with pytest.raises(UsageError, match=problem) as caught:
                    Verifier(*keys)
                assert leaks(shown_by(caught.value), ("PRIVATE",)) == []


def test_bad_private_keys() -> None:
    """What is no private key of RSA cannot sign."""
    pem_of_another_kind = NOT_RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    must_be_pem = "private_key must be PEM without a password, or an RSAPrivateKey"
    bad: list[tuple[Any, str]] = [
        *((key, must_be_pem) for key in ("nonsense", b"", 5, NOT_RSA, PRIVATE_PEM[:-40])),
        (UNKNOWN_PEM.format("PRIVATE", UNKNOWN_PRIVATE), "private_key must be RSA's"),
        (pem_of_another_kind, "private_key must be RSA's, not a "),
        (pem_of_another_kind.decode(), "private_key must be RSA's, not a "),
    ]
    with Table() as table:
        for key, problem in bad:
            with table.row(key):
                with pytest.raises(UsageError, match=f"^{problem}") as caught:
                    sign(b"", key)
                assert leaks(shown_by(caught.value), ("PRIVATE",)) == []


def test_private_key_as_pem() -> None:
    """A private key signs alike as it is and as PEM, text or bytes."""
    assert sign(b"body", PRIVATE_PEM) == sign(b"body", PRIVATE_PEM.encode()) == sign(b"body", KEY)


HEADERS = "the headers of a request: your framework's own, pairs of a name and a value, or a WSGI environ"
NO_HEADERS: list[tuple[Any, str]] = [
    *((None, "NoneType"), (7, "int"), ("a: b", "str"), (b"a: b", "bytes"), (bytearray(b"a: b"), "bytearray")),
]
NO_PAIRS: list[tuple[Any, str]] = [
    *((["a: b"], "list"), ([("a", "b", "c")], "list"), ([None], "list"), ({"ab", "cd"}, "set")),
]


def test_bad_calls() -> None:
    """A body that is no longer raw, or headers that are none, is a `UsageError` that says what would do."""
    bad: list[tuple[Any, Any, str]] = [
        ("text", {}, "body must be the raw bytes of the request, not a str"),
        ({}, {}, "body must be the raw bytes of the request, not a dict"),
        *((b"", headers, f"headers must be {HEADERS}, not a {name}") for headers, name in NO_HEADERS),
        *((b"", headers, f"headers must be {HEADERS}; this {name} holds other things") for headers, name in NO_PAIRS),
    ]
    with Table() as table:
        for body, headers, problem in bad:
            for check in (VERIFIER.verify, VERIFIER.parse):
                with table.row(body, headers, check.__name__), pytest.raises(UsageError, match=f"^{problem}$"):
                    check(body, headers)
