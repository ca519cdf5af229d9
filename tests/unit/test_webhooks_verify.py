"""Who signed a delivery: what a `Verifier` accepts, and what it refuses."""

from __future__ import annotations

import base64
import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from cardprod.errors import BadEvent, BadSignature, UsageError
from cardprod.webhooks import SIGNATURE_HEADER, Verifier, sign
from tests.cards import CARD
from tests.table import Table
from tests.unit.deliveries import delivered

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = generate_private_key(public_exponent=65537, key_size=2048)
NOT_RSA = ec.generate_private_key(ec.SECP256R1())
PRIVATE_PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
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
    """A delivery that is not rightly signed is refused, always in the same words and with no cause to read."""
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
        "test without": {"X-Test-Notification": "true"},
    }
    with Table() as table:
        for name, of_this in headers.items():
            with table.row(name):
                with pytest.raises(BadSignature) as caught:
                    VERIFIER.parse(BODY, of_this)
                assert str(caught.value) == "this delivery is not signed by a known key"
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
        ((), "needs a public key"),
        (("nonsense",), "must be PEM"),
        ((b"",), "must be PEM"),
        ((PRIVATE_PEM,), "must be PEM"),
        ((KEY.public_key(), "nonsense"), "must be PEM"),
        ((5,), "not a int"),
        ((NOT_RSA.public_key(),), "must be RSA's"),
        ((pem_of(NOT_RSA.public_key()),), "must be RSA's"),
        ((one_bit_short,), "2048 bits or more, not 2047"),
    ]
    with Table() as table:
        for keys, problem in bad:
            with table.row(keys, problem):
                with pytest.raises(UsageError, match=problem) as caught:
                    Verifier(*keys)
                assert "PRIVATE" not in str(caught.value)


def test_bad_private_keys() -> None:
    """What is no private key of RSA cannot sign."""
    pem_of_another_kind = NOT_RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    must_be_pem = "private_key must be PEM without a password, or an RSAPrivateKey"
    bad: list[tuple[Any, str]] = [
        *((key, must_be_pem) for key in ("nonsense", b"", 5, NOT_RSA)),
        (pem_of_another_kind, "private_key must be RSA's, not a "),
        (pem_of_another_kind.decode(), "private_key must be RSA's, not a "),
    ]
    with Table() as table:
        for key, problem in bad:
            with table.row(key), pytest.raises(UsageError, match=f"^{problem}"):
                sign(b"", key)


def test_private_key_as_pem() -> None:
    """A private key signs alike as it is and as PEM, text or bytes."""
    assert sign(b"body", PRIVATE_PEM) == sign(b"body", PRIVATE_PEM.encode()) == sign(b"body", KEY)


def test_bad_calls() -> None:
    """A body that is no longer raw, or headers that are no mapping, is a `UsageError`."""
    bad: list[tuple[Any, Any, str]] = [
        ("text", {}, "body must be the raw bytes of the request, not a str"),
        ({}, {}, "body must be the raw bytes of the request, not a dict"),
        (b"", None, "headers must be a mapping, not a NoneType"),
        (b"", [("a", "b")], "headers must be a mapping, not a list"),
    ]
    with Table() as table:
        for body, headers, problem in bad:
            with table.row(body, headers), pytest.raises(UsageError, match=problem):
                VERIFIER.parse(body, headers)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cryptography, the import says which extra to install."""
    monkeypatch.delitem(sys.modules, "cardprod.webhooks")
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ImportError, match=r"needs the extra 'webhooks': pip install 'cardprod\[webhooks\]'"):
        importlib.import_module("cardprod.webhooks")
