"""The request that is sent, and what every answer becomes."""

from __future__ import annotations

import base64
import json
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import cardprod
from cardprod._http.proxies import proxy_for
from cardprod._protocol.api_errors import MAX_BODY, is_transient
from cardprod._protocol.events import parse_event
from cardprod._protocol.requests import Endpoint, is_token
from cardprod._protocol.responses import TokenGrant, parse_response, parse_token_response
from cardprod.error_codes import ErrorCode
from cardprod.errors import (
    ApiError,
    BadReply,
    CardNotFound,
    Forbidden,
    RateLimited,
    ServerError,
    StrongAuthenticationRequired,
    TokenRefreshFailed,
    Unauthorized,
    UsageError,
)
from cardprod.models import Card, ProductionStatus, Status
from tests.table import Table
from tests.unit.deliveries import delivered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CARD = Card(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")
PATH = "/spend/profiles/123456/cards/ca0c8154-1e14-4464-a1ce-dcea7dc3de52/production"
FACTS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "production-status.json").read_text("utf-8")
)
SAMPLE: Final[bytes] = json.dumps(FACTS["examples"][2]).encode()
GRANT: Final = b'{"access_token":"new-access","refresh_token":"new-refresh","expires_in":43200}'
NAMES: Final = {"status": "status", "kioskId": "kiosk_id", "errorCode": "error_code", "description": "description"}
"""How an answer spells a field of a status, and how this package does."""
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


def outcome_of(
    parse: Callable[..., ProductionStatus | TokenGrant],
    http_status: int,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> ProductionStatus | TokenGrant | ApiError | BadReply:
    """Return what an answer becomes: a value, or the error that is raised for it."""
    try:
        return parse(http_status, headers or {}, body, NOW.timestamp())
    except (ApiError, BadReply) as error:
        return error


def error_of(http_status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> ApiError:
    error = outcome_of(parse_response, http_status, headers, body)
    assert isinstance(error, ApiError)
    return error


def bad_reply_of(body: bytes, http_status: int = 200) -> BadReply:
    error = outcome_of(parse_response, http_status, {"X-Trace-Id": "t-1"}, body)
    assert isinstance(error, BadReply)
    return error


# --- The request ---


def test_url() -> None:
    """The URL is the base, the version, and the path in Wise's reference with both ids in it."""
    urls = {
        ("https://api.wise.com", "v3"): f"https://api.wise.com/v3{PATH}",
        ("https://api.wise.com/", "2026Q3"): f"https://api.wise.com/2026Q3{PATH}",
        ("https://proxy.example/wise/api", "v3"): f"https://proxy.example/wise/api/v3{PATH}",
        ("https://proxy.example:8443/wise/", "v_4-beta"): f"https://proxy.example:8443/wise/v_4-beta{PATH}",
        ("http://127.0.0.1:8080", "v3"): f"http://127.0.0.1:8080/v3{PATH}",
    }
    with Table() as table:
        for (base_url, api_version), url in urls.items():
            with table.row(base_url, api_version):
                assert Endpoint(base_url, api_version).build_request(CARD, token="t", correlation_id="c")[0] == url
    assert FACTS["path"].format(profileId=CARD.profile_id, cardToken=CARD.card_token) == f"/v3{PATH}"


def test_headers() -> None:
    """A request carries the token, what it accepts, who it is from and the id to trace it by, and nothing else."""
    request = Endpoint("https://h").build_request(CARD, token="sesame", correlation_id="0-1-2")
    assert request[1] == {
        "Authorization": "Bearer sesame",
        "Accept": "application/json",
        "User-Agent": f"cardprod/{cardprod.__version__}",
        "X-External-Correlation-Id": "0-1-2",
    }


def test_accepts_base_url() -> None:
    """Https to any host is accepted, and plain http to this machine."""
    accepted = [
        *("https://api.wise.com", "HTTPS://api.wise.com", "https://10.0.0.1:8443"),
        *("http://127.0.0.1", "http://127.0.0.1:8080", "http://127.8.8.8", "http://[::1]", "http://[::1]:8080/prefix"),
        *("http://localhost:8080", "http://LOCALHOST"),
    ]
    with Table() as table:
        for base_url in accepted:
            with table.row(base_url):
                assert Endpoint(base_url).base_url == base_url


def test_refuses_base_url() -> None:
    """A base URL that a token must not be sent to is refused with the reason, which shows no password."""
    refused: list[tuple[Any, str]] = [
        ("http://api.wise.com", "plain http to api.wise.com"),
        ("http://10.0.0.1", "plain http to 10.0.0.1"),
        ("http://0.0.0.0:8080", "plain http to 0.0.0.0"),
        ("http://[::2]", "plain http to ::2"),
        ("http://localhost.example", "plain http to localhost.example"),
        ("http://127.0.0.1.example", "plain http to 127.0.0.1.example"),
        ("https://user:secret@api.wise.com", "must not carry credentials"),
        ("https://user:secret@api.wise.com/?a=b", "must not carry credentials"),
        ("https://api.wise.com?access_token=secret", "no query, fragment or spaces"),
        ("https://user:sec/secret@api.wise.com", "not a URL"),
        ("user:secret@api.wise.com", "must be like"),
        ("https://user@api.wise.com", "must not carry credentials"),
        ("https://@api.wise.com", "must not carry credentials"),
        ("ftp://user:secret@api.wise.com", "must not carry credentials"),
        ("https://api.wise.com?a=b", "no query, fragment or spaces"),
        ("https://api.wise.com/?", "no query, fragment or spaces"),
        ("https://api.wise.com/#top", "no query, fragment or spaces"),
        ("https://api.wise.com#", "no query, fragment or spaces"),
        ("https://api.wise.com/a b", "no query, fragment or spaces"),
        (" https://api.wise.com", "no query, fragment or spaces"),
        ("https://api.wise.com\n", "no query, fragment or spaces"),
        ("https://api.wise.com\r\nX-Injected: 1", "not a URL"),
        ("https://api.wise.com\\@evil.example", "credentials|spaces"),
        ("https://api.wise.com/\x00", "no query, fragment or spaces"),
        ("ftp://api.wise.com", "must be like"),
        ("api.wise.com", "no 'https://' before its host: it must be like"),
        ("https://api.wise.com/v3", "must end before the API version"),
        ("https://api.wise.com/v3/spend/profiles/", "must end before the API version"),
        ("//api.wise.com", "must be like"),
        ("https://", "no host: it must be like"),
        ("https:///v3", "must be like"),
        ("", "must be like"),
        ("https://api.wise.com:99999", "not a URL"),
        ("https://api.wise.com:port", "not a URL"),
        ("https://[::1", "not a URL"),
        ("https://api.wise.com\u2060", "not a URL"),  # invisible, as copied from a page
        ("https://api\xad.wise.com", "not a URL"),
        ("https://api..wise.com", "not a URL"),
        (f"https://{'a' * 64}.example", "not a URL"),
        (None, "must be a str, not a NoneType"),
        (b"https://api.wise.com", "must be a str, not a bytes"),
    ]
    with Table() as table:
        for base_url, problem in refused:
            with table.row(base_url):
                with pytest.raises(UsageError, match=rf"^base_url .*({problem})") as caught:
                    Endpoint(base_url)
                assert "secret" not in str(caught.value)


def test_plain_http_on_a_test_network() -> None:
    """`allow_plain_http` allows plain http to another host, and nothing else."""
    assert Endpoint("http://10.0.0.1", allow_plain_http=True).base_url == "http://10.0.0.1"
    for base_url in ("http://u:p@10.0.0.1", "ftp://10.0.0.1", "http://10.0.0.1?a"):
        with pytest.raises(UsageError, match=r"^base_url"):
            Endpoint(base_url, allow_plain_http=True)


def test_refuses_api_version() -> None:
    """A version that is not one plain path segment of 32 characters at most is refused."""
    refused: list[Any] = ["", "v3/", "/v3", "v3/x", "..", ".", "v3\n", "v 3", "v3?", "%2e", "é", "v" * 33, None, 3]
    with Table() as table:
        for api_version in refused:
            refusal = pytest.raises(UsageError, match=r"^api_version must be (one path segment|a str)")
            with table.row(api_version), refusal:
                Endpoint("https://api.wise.com", api_version)
    assert Endpoint("https://api.wise.com", "v" * 32).api_version == "v" * 32


def test_token_is_printable_ascii() -> None:
    """Every printable character of ASCII may be in a token, and no other."""
    allowed = {chr(code) for code in range(0x21, 0x7F)}
    wrong = [code for code in range(0x250) if is_token(f"a{chr(code)}b") is not (chr(code) in allowed)]
    assert wrong == []
    assert not is_token("")


# --- A success ---


def test_samples_of_the_reference() -> None:
    """Each sample in Wise's reference becomes what it says."""
    happened_at = datetime(2024, 1, 1, 12, 24, 56, 121000, tzinfo=UTC)
    statuses = [
        ProductionStatus(
            "READY",
            occurred_at=datetime(2024, 1, 1, 12, 24, 56, 124000, tzinfo=UTC),
            description="Card ready for production",
        ),
        ProductionStatus("IN_PROGRESS", kiosk_id="WIS00001", occurred_at=happened_at),
        ProductionStatus(
            "REQUEST_ERROR",
            kiosk_id="WIS00001",
            occurred_at=happened_at,
            error_code=ErrorCode.PIN_VERIFICATION_FAILED,
            description="The PIN cannot be verified because the server is unreachable",
        ),
    ]
    assert [parse_response(200, {}, json.dumps(sample).encode()) for sample in FACTS["examples"]] == statuses


def test_status_alone() -> None:
    """No field but the status is needed, and a known one becomes the enum's member."""
    seen = [parse_response(200, {}, b'{"status":"%s"}' % status.encode()) for status in Status]
    assert seen == [ProductionStatus(status) for status in Status]


def test_json_in_other_forms() -> None:
    """Nulls are as if absent, words that are not known stay, other fields are ignored, and the form does not matter."""
    sample = FACTS["examples"][2]
    read = parse_response(200, {}, SAMPLE)
    ready = ProductionStatus("READY")
    nulls = b'{"status":"READY","kioskId":null,"occurredAt":null,"errorCode":null,"description":null}'
    others = b'{"status":"READY","eta":{"minutes":[1,2,3]},"x":1e999,"kiosk_id":"no","error_code":[]}'
    unknown = b'{"status":"TELEPORTED","errorCode":"PRT_ON_FIRE"}'
    forms: dict[str, tuple[bytes, ProductionStatus]] = {
        "byte order mark": (b"\xef\xbb\xbf" + SAMPLE, read),
        "white space": (b"\r\n\t " + SAMPLE + b"\n", read),
        "indented": (json.dumps(sample, indent=4).encode(), read),
        "another order": (json.dumps(dict(reversed(sample.items()))).encode(), read),
        "nulls": (nulls, ready),
        "other fields, and names as Python has them": (others, ready),
        "unknown words": (unknown, ProductionStatus("TELEPORTED", error_code="PRT_ON_FIRE")),
    }
    with Table() as table:
        for form, (body, status) in forms.items():
            with table.row(form):
                assert parse_response(200, {}, body) == status


def test_times() -> None:
    """A time in ISO 8601, with or without milliseconds and in any zone, becomes the same moment in UTC."""
    times = {
        "2024-01-01T12:24:56.124Z": datetime(2024, 1, 1, 12, 24, 56, 124000, tzinfo=UTC),
        "2024-01-01T12:24:56Z": datetime(2024, 1, 1, 12, 24, 56, tzinfo=UTC),
        "2024-01-01T12:24:56.124567Z": datetime(2024, 1, 1, 12, 24, 56, 124567, tzinfo=UTC),
        "2024-01-01T14:24:56+02:00": datetime(2024, 1, 1, 12, 24, 56, tzinfo=UTC),
        "2023-12-31T23:30:00-01:00": datetime(2024, 1, 1, 0, 30, tzinfo=UTC),
    }
    with Table() as table:
        for text, moment in times.items():
            with table.row(text):
                occurred_at = parse_response(
                    200, {}, b'{"status":"READY","occurredAt":"%s"}' % text.encode()
                ).occurred_at
                assert occurred_at == moment
                assert occurred_at is not None
                assert occurred_at.tzinfo is UTC


def test_illegible_time_does_not_cost_the_status(caplog: pytest.LogCaptureFixture) -> None:
    """A time that cannot be read is left out with one warning in one line, and the status survives."""
    illegible = [
        *('"2024-01-01T12:24:560Z"', '"2024-01-01T12:24:5600Z"', '"2024-01-01T12:24:56"', '"2024-01-01"'),
        *('"2024-13-01T12:24:56Z"', '"0001-01-01T00:00:00+23:59"', '"yesterday"', '""', '"2024\\ud800"'),
        *("1704111896", "1704111896.124", "1e999", "true", '["2024-01-01T12:24:56Z"]', '{"seconds":1}'),
    ]
    with caplog.at_level(logging.WARNING, logger="cardprod"), Table() as table:
        for text in illegible:
            with table.row(text):
                caplog.clear()
                seen = parse_response(200, {}, b'{"status":"IN_PROGRESS","occurredAt":%s}' % text.encode())
                assert seen == ProductionStatus("IN_PROGRESS")
                assert [(record.name, record.levelname) for record in caplog.records] == [("cardprod", "WARNING")]
                assert caplog.messages[0].startswith("a time is not in ISO 8601")


def test_illegible_time_cannot_forge_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What stands where the time should be is only described in the log: it may be a forged line, or the token."""
    values = {"a string of 7 characters": b'"\\n2026 X"', "a number": b"5"}
    with caplog.at_level(logging.WARNING, logger="cardprod"):
        for value in values.values():
            parse_response(200, {}, b'{"status":"READY","occurredAt":%s}' % value)
    assert caplog.messages == [f"a time is not in ISO 8601 and was left out: {words}" for words in values]


def test_no_warning_without_need(caplog: pytest.LogCaptureFixture) -> None:
    """A time that is absent or right causes no warning, and a bad one beside another bad field causes one."""
    with caplog.at_level(logging.DEBUG):
        for field in ("", ',"occurredAt":null', ',"occurredAt":"2024-01-01T12:24:56.124Z"'):
            parse_response(200, {}, b'{"status":"READY"%s}' % field.encode())
        assert caplog.messages == []
        with pytest.raises(BadReply, match="kioskId"):
            parse_response(200, {}, b'{"status":"READY","occurredAt":"soon","kioskId":1}')
    assert len(caplog.records) <= 1


def test_half_characters_are_replaced() -> None:
    """Half a surrogate pair, which JSON can spell and nothing can store, is replaced; whole characters are kept."""
    texts = {
        "\\ud800": "\N{REPLACEMENT CHARACTER}",
        "a\\udfffb": "a\N{REPLACEMENT CHARACTER}b",
        "\\udc00\\ud800": "\N{REPLACEMENT CHARACTER}" * 2,
        "\\ud83d\\ude00": "\N{GRINNING FACE}",
        "Größe": "Größe",
    }
    with Table() as table:
        for field, name in NAMES.items():
            for spelled, text in texts.items():
                with table.row(field, spelled):
                    fields = {"status": '"READY"', field: f'"{spelled}"'}
                    body = "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"
                    assert getattr(parse_response(200, {}, body.encode()), name) == text


LENGTHS: Final = {"status": 100, "kioskId": 100, "errorCode": 100, "description": 2048}


def test_long_texts_are_cut() -> None:
    """Of a status, a kiosk and a code 100 characters are kept, of a description 2,048, in answers and events alike."""
    with Table() as table:
        for field, longest in LENGTHS.items():
            for character in ("x", "é", "\N{GRINNING FACE}"):
                for length in (longest, longest + 1, 20_000):
                    with table.row(field, character, length):
                        sent, kept = character * length, character * longest
                        seen = parse_response(200, {}, json.dumps({"status": "READY", field: sent}).encode())
                        assert getattr(seen, NAMES[field]) == kept
                        event = parse_event(json.dumps(delivered(**{NAMES[field]: sent})).encode())
                        assert getattr(event.status, NAMES[field]) == kept


def test_over_long_status_is_not_final() -> None:
    """A status that begins like a final one and is longer than what is kept is none that is known, and not final."""
    with Table() as table:
        for status in Status:
            for more in (" " * 100, "\0" * 100, "x" * 1000, str(status) * 100):
                with table.row(status, more):
                    seen = parse_response(200, {}, json.dumps({"status": status + more}).encode())
                    assert (type(seen.status), len(seen.status), seen.is_final) == (str, 100, False)


# --- Not the documented shape ---

NOT_A_STATUS: Final = "a 200 that is not of the documented shape"
NOT_A_TOKEN: Final = "a 200 without a token"
CHECK: Final = "check base_url and api_version"


def test_not_an_object() -> None:
    """A 200 that holds no JSON object is a `BadReply` that says what it is instead."""
    problems = [
        (b"", "the body is empty"),
        (b"   ", "not JSON"),
        (b"not JSON", "not JSON"),
        (b"<html>", "not JSON"),
        (SAMPLE[:-1], "not JSON"),
        (SAMPLE + b"}", "not JSON"),
        (SAMPLE + SAMPLE, "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"status":"\xff"}', "not UTF-8"),
        ('{"status":"READY"}'.encode("utf-16"), "not UTF-8"),
        (b"[]", "expected a JSON object, got an array"),
        (b'"READY"', "expected a JSON object, got a string"),
        (b"null", "expected a JSON object, got null"),
        (b"1", "expected a JSON object, got a number"),
        (b"true", "expected a JSON object, got a boolean"),
        (b"[" * 100_000, "JSON nested too deep"),
        (b'{"status":' + b"[" * 100_000, "JSON nested too deep"),
        (b'{"status":"READY","x":' + b'{"y":' * 100_000, "JSON nested too deep"),
        (b'{"status":"READY","x":' + b"1" * 10_000 + b"}", "not JSON: Exceeds the limit"),
    ]
    with Table() as table:
        for body, problem in problems:
            with table.row(body):
                assert f"not of the documented shape: {problem}" in str(bad_reply_of(body))


def test_page_instead_of_json() -> None:
    """An HTML page instead of JSON is called one, by its type or first character; what is JSON is judged as such."""
    page = "not JSON but an HTML page, probably a proxy's or a network's login: check base_url and the network"
    html = {"content-TYPE": "Text/HTML; charset=utf-8"}
    problems: list[tuple[Mapping[str, str], bytes, str]] = [
        ({}, b"<html>", page),
        ({"content-type": "application/json"}, b"\xef\xbb\xbf\r\n\t <!-- -->", page),
        (html, b"Please log in", page),
        (html, "<html>".encode("utf-16"), page),
        (html, b"", f"the body is empty; {CHECK}"),
        (html, b" \r\n", f"not JSON: Expecting value: line 1 column 1 (char 0); {CHECK}"),
        (html, b"[]", f"expected a JSON object, got an array; {CHECK}"),
        ({}, b"Please log in", f"not JSON: Expecting value: line 1 column 1 (char 0); {CHECK}"),
    ]
    with Table() as table:
        for headers, body, problem in problems:
            for parse, what in ((parse_response, NOT_A_STATUS), (parse_token_response, NOT_A_TOKEN)):
                with table.row(parse.__name__, headers, body):
                    assert str(outcome_of(parse, 200, headers, body)) == f"{what}: {problem}"
    assert parse_response(200, html, SAMPLE) == parse_response(200, {}, SAMPLE)


def test_unrequested_compression() -> None:
    """A body that is no JSON and came in a coding that nothing undoes says which; what is JSON is judged as such."""
    undone = ["", "identity", "gzip", "Deflate", " br ", "zstd"]
    not_json = f"not JSON: Expecting value: line 1 column 1 (char 0); {CHECK}"
    problems: list[tuple[str, bytes, str]] = [
        *((coding, b"x", not_json) for coding in undone),
        *(
            (coding, body, f"not JSON but compressed as '{coding.lower()}', unrequested: check proxies on the way")
            for coding in ("compress", "X-GZIP", "gzip, br")
            for body in (b"\x1f\x9d\x90", b"x", b"<")
        ),
        ("compress", b"[]", f"expected a JSON object, got an array; {CHECK}"),
    ]
    with Table() as table:
        for coding, body, problem in problems:
            for parse, what in ((parse_response, NOT_A_STATUS), (parse_token_response, NOT_A_TOKEN)):
                with table.row(parse.__name__, coding, body):
                    error = outcome_of(parse, 200, {"Content-Encoding": coding}, body)
                    assert str(error) == f"{what}: {problem}"
    forged = str(outcome_of(parse_response, 200, {"content-encoding": "a\n\x1b" * 99}, b"x"))
    assert forged.isprintable()
    assert len(forged) < 200


def test_pages_of_nginx() -> None:
    """Pages of nginx about TLS and long headers say what is wrong; any other page is one, of whomever."""
    wants = "the server wants a client certificate: load one with ssl=, see load_cert_chain"
    refused = "the server refused the client certificate: check the one loaded in ssl="
    plain = "plain http was sent to a port for https: check base_url"
    long_headers = "the request's headers are longer than the server takes: check the token, and proxies on the way"
    other = "an HTML page, so probably from a proxy"
    pages = [
        ("No required SSL certificate was sent", wants),
        ("The SSL certificate error", refused),
        ("The plain HTTP request was sent to HTTPS port", plain),
        ("Request Header Or Cookie Too Large", long_headers),
    ]
    with Table() as table:
        for words, meaning in pages:
            page = f"<html>\r\n<head><title>400 {words}</title></head>\r\n".encode()
            for parse, cls in ((parse_response, ApiError), (parse_token_response, TokenRefreshFailed)):
                with table.row(parse.__name__, words):
                    error = outcome_of(parse, 400, {"Content-Type": "text/html"}, page)
                    assert isinstance(error, ApiError)
                    assert (type(error), error.detail) == (cls, words)
                    assert str(error) == f"400; {meaning}; {words}"
        with table.row("another page"):
            assert str(error_of(400, {}, b"<html>Bad Request")) == f"400; {CHECK_BOTH}; {other}"
        with table.row("by its type"):
            assert error_of(502, {"Content-Type": "text/HTML; charset=utf-8"}, b"Bad Gateway").detail == other
            assert error_of(502, {"Content-Type": "text/html"}, b" ").detail is None


def test_fields_of_a_wrong_type() -> None:
    """A field that is not what is documented is named as the API names it, with the reason; so are all of them."""
    problems = [
        (b"{}", "status: missing"),
        (b'{"Status":"READY"}', "status: missing"),
        (b'{"status":null}', "status: expected a string, got null"),
        (b'{"status":" "}', "status: expected a status, got an empty string"),
        (b'{"status":""}', "status: expected a status, got an empty string"),
        (b'{"status":1}', "status: expected a string, got a number"),
        (b'{"status":1.5}', "status: expected a string, got a number"),
        (b'{"status":true}', "status: expected a string, got a boolean"),
        (b'{"status":["READY"]}', "status: expected a string, got an array"),
        (b'{"status":{"READY":1}}', "status: expected a string, got an object"),
        (b'{"status":"READY","kioskId":123}', "kioskId: expected a string, got a number"),
        (b'{"status":"READY","errorCode":false}', "errorCode: expected a string, got a boolean"),
        (b'{"status":"READY","description":[]}', "description: expected a string, got an array"),
        (
            b'{"kioskId":1,"description":{}}',
            "status: missing; kioskId: expected a string, got a number; description: expected a string, got an object",
        ),
    ]
    with Table() as table:
        for body, problem in problems:
            with table.row(body):
                assert str(bad_reply_of(body)) == f"{NOT_A_STATUS}: {problem}; {CHECK}; trace id t-1"


def test_bad_reply_keeps_what_support_needs() -> None:
    """A bad reply has the trace id and the first 2 KiB of the body, and prints the trace id, where there is one."""
    error = bad_reply_of(b"[" + b"x" * 5000)
    assert error.trace_id == "t-1"
    assert error.body == "[" + "x" * 2047
    assert str(error).endswith("; trace id t-1")
    assert str(error).isprintable()
    untraced = outcome_of(parse_response, 206)
    assert isinstance(untraced, BadReply)
    assert (str(untraced), untraced.trace_id) == (f"expected a 200, got a 206: {CHECK}", None)


def test_over_long() -> None:
    """A success of 1 MiB is read; over that it is a `BadReply`, with a start of the body where that holds no token."""
    assert MAX_BODY == 1_048_576
    assert parse_response(200, {}, SAMPLE.ljust(MAX_BODY)) == parse_response(200, {}, SAMPLE)
    assert parse_token_response(200, {}, GRANT.ljust(MAX_BODY)) == parse_token_response(200, {}, GRANT)
    with Table() as table:
        for parse, http_status, body in (
            (parse_response, 200, SAMPLE),
            (parse_response, 206, SAMPLE),
            (parse_token_response, 200, GRANT),
        ):
            with table.row(parse.__name__, http_status):
                error = outcome_of(parse, http_status, {"x-trace-id": "t-1"}, body.ljust(MAX_BODY + 1))
                assert isinstance(error, BadReply)
                assert str(error) == "the body is over 1 MiB, and was not read to its end: check base_url; trace id t-1"
                assert error.trace_id == "t-1"
                assert error.body == ("" if parse is parse_token_response else SAMPLE.decode().ljust(2048))


# --- A refresh ---


def grant_of(**fields: str) -> TokenGrant:
    """Return the grant of an answer with these fields, each as JSON."""
    body = ",".join(f'"{name}":{value}' for name, value in ({"access_token": '"a"'} | fields).items())
    return parse_token_response(200, {}, ("{" + body + "}").encode())


def test_refresh_request() -> None:
    """A refresh goes where this version of the API has it, as a form, with the client's credentials as HTTP Basic."""
    urls = {
        "v3": "https://w.example/oauth/token",
        "v12": "https://w.example/oauth/token",
        "2026Q3": "https://w.example/2026Q3/oauth/token",
    }
    with Table() as table:
        for api_version, url in urls.items():
            with table.row(api_version):
                endpoint = Endpoint("https://w.example/", api_version)
                (asked, headers), form = endpoint.build_refresh(
                    client_id="id", client_secret="s:&=+ ~", refresh_token="r&=+/%", correlation_id="c-1"
                )
                assert asked == url
                assert headers == {
                    "Authorization": f"Basic {base64.b64encode(b'id:s:&=+ ~').decode()}",
                    "Accept": "application/json",
                    "Content-Type": "application/x-www-form-urlencoded",
                    "User-Agent": f"cardprod/{cardprod.__version__}",
                    "X-External-Correlation-Id": "c-1",
                }
                assert parse_qs(form.decode()) == {"grant_type": ["refresh_token"], "refresh_token": ["r&=+/%"]}


def test_grant() -> None:
    """A token answer becomes its two tokens and their seconds, whichever success it is; printed, it shows no token."""
    for http_status in (200, 201, 299):
        grant = parse_token_response(http_status, {}, GRANT)
        assert grant == TokenGrant("new-access", "new-refresh", 43200.0)
        assert repr(grant) == "TokenGrant(expires_in=43200.0)"


def test_grant_needs_an_access_token() -> None:
    """An answer without a usable access token is a `BadReply`, which does not carry the body."""
    bad = ['{"refresh_token":"r"}', '{"access_token":null}', '{"access_token":5}', '{"access_token":["a"]}']
    bad += ['{"access_token":""}', '{"access_token":"two words"}', '{"access_token":"a\\n"}', '{"access_token":"ä"}']
    words = f"{NOT_A_TOKEN}: access_token: expected printable ASCII without white space; {CHECK}; trace id t-1"
    problems = dict.fromkeys(bad, words) | {
        "": f"{NOT_A_TOKEN}: the body is empty; {CHECK}; trace id t-1",
        '["a"]': f"{NOT_A_TOKEN}: expected a JSON object, got an array; {CHECK}; trace id t-1",
    }
    with Table() as table:
        for body, problem in problems.items():
            with table.row(body):
                error = outcome_of(parse_token_response, 200, {"x-trace-id": "t-1"}, body.encode())
                assert isinstance(error, BadReply)
                assert (str(error), error.trace_id, error.body) == (problem, "t-1", "")


def test_grant_needs_no_refresh_token() -> None:
    """A refresh token that is missing, or that cannot be one, means that the old one stays."""
    tokens = {"null": None, "5": None, "true": None, '""': None, '"a b"': None, '["r"]': None, '"r"': "r"}
    with Table() as table:
        for given_as, token in tokens.items():
            with table.row(given_as):
                assert grant_of(refresh_token=given_as).refresh_token == token
    assert grant_of().refresh_token is None


def test_seconds_of_a_grant() -> None:
    """`expires_in` is a number above 0 and below a century, or one as a text; any other costs no token, and is None."""
    century = 100 * 365 * 86_400
    seconds = {
        "43200": 43200.0,
        "1": 1.0,
        "0.5": 0.5,
        f"{century - 1}": century - 1.0,
        f"{century}": None,
        '"43200"': 43200.0,
        '"43200.5"': 43200.5,
        f'"{century}"': None,
        '"' + "9" * 1000 + '"': None,
        '"0"': None,
        **dict.fromkeys(("0", "-0.5", "-1", "1e999", "-1e999", "NaN", "1" + "0" * 400, "true", "null", "[]", "{}")),
        **dict.fromkeys(('""', '"soon"', '"-5"', '"+5"', '" 5"', '"5 "', '"1e3"', '".5"', '"inf"', '"\\u0665"')),
    }
    with Table() as table:
        for given_as, expected in seconds.items():
            with table.row(given_as):
                assert grant_of(expires_in=given_as).expires_in == expected
    assert grant_of().expires_in is None
    assert type(grant_of(expires_in="43200").expires_in) is float


# --- An error ---


def test_refusals_of_a_gateway() -> None:
    """A 401, 403 or 404 without JSON, such as HTML, text or nothing, is a gateway's; one with JSON is Wise's."""
    pages = {b"<html>not here</html>": True, b"no such page": True, b"": True, b'{"error":"invalid_token"}': False}
    with Table() as table:
        for http_status, (body, is_from_gateway) in product((401, 403, 404), pages.items()):
            with table.row(http_status, body):
                assert error_of(http_status, {}, body).from_gateway is is_from_gateway


SEND_FEWER = "more requests than Wise allows: send fewer"
CHECK_BOTH = "an undocumented answer to this call: check base_url and api_version"
REDIRECT = "a redirect, which is never followed: check base_url, and whether the network wants a login"
TOO_LONG_HEADERS = "the request's headers are longer than the server takes: check the token, and proxies on the way"
LOGIN_FIRST = "the network wants a login before it lets requests through: log in, or use another network"
REFUSED = "the token endpoint refused: check base_url, client_id and client_secret"
CHECK_PROXY = "the proxy wants other credentials: check proxy=, or HTTP_PROXY in the environment"
TIMED_OUT = "the server timed out waiting for the request: try again"
TRY_LATER = "the server failed, the request is not at fault: try later"
POLL_ERRORS: Final[Mapping[int, tuple[type[ApiError], str]]] = {
    401: (Unauthorized, "the token was not accepted: get a new user token"),
    403: (Forbidden, "the token may not see this card: check the profile and the token's scope"),
    404: (CardNotFound, "no such card under this profile: check both ids"),
    407: (ApiError, CHECK_PROXY),
    408: (ApiError, TIMED_OUT),
    429: (RateLimited, SEND_FEWER),
    431: (ApiError, TOO_LONG_HEADERS),
    495: (ApiError, "the server refused the client certificate: check the one loaded in ssl="),
    496: (ApiError, "the server wants a client certificate: load one with ssl=, see load_cert_chain"),
    511: (ServerError, LOGIN_FIRST),
    **dict.fromkeys((500, 501, 502, 503, 504, 520, 598, 599), (ServerError, TRY_LATER)),
    **dict.fromkeys((300, 301, 302, 304, 307, 308, 398, 399), (ApiError, REDIRECT)),
    **dict.fromkeys((400, 402, 405, 409, 410, 422, 428, 430, 498, 499), (ApiError, CHECK_BOTH)),
    **dict.fromkeys((-1, 0, 1, 99, 100, 101, 198, 199, 600, 601, 999, 10**9), (ApiError, CHECK_BOTH)),
}
"""HTTP status → what it becomes for a card, at the edges of every range."""

NOT_REFUSALS = {407, 408, 429}
REFRESH_ERRORS: Final[Mapping[int, tuple[type[ApiError], str]]] = {
    status: (TokenRefreshFailed, REFUSED) if 400 <= status <= 499 and status not in NOT_REFUSALS else error
    for status, error in POLL_ERRORS.items()
}
"""HTTP status → what it becomes for a refresh, where every other 4xx is a refusal."""


def test_http_status_names_the_error() -> None:
    """The HTTP status alone decides which error it is and what it says, even if the body reads like a success."""
    with Table() as table:
        for parse, errors in ((parse_response, POLL_ERRORS), (parse_token_response, REFRESH_ERRORS)):
            for http_status, (cls, meaning) in errors.items():
                for body in (b"", SAMPLE, GRANT):
                    with table.row(parse.__name__, http_status, body):
                        words = meaning
                        error = outcome_of(parse, http_status, {}, body)
                        assert isinstance(error, ApiError)
                        assert type(error) is cls
                        assert error.http_status == http_status
                        if not body and cls in {Unauthorized, Forbidden, CardNotFound}:
                            words = "this is no answer of Wise's own, which are JSON: check base_url and the network"
                        assert str(error) == f"{http_status}; {words}" + (f"; {error.detail}" if error.detail else "")


def test_other_successes() -> None:
    """A success that is not a 200 is not documented for a card, whatever its body."""
    with Table() as table:
        for http_status in (201, 202, 204, 206, 298, 299):
            for body in (b"", SAMPLE):
                with table.row(http_status, body):
                    problem = f"expected a 200, got a {http_status}: {CHECK}; trace id t-1"
                    assert str(bad_reply_of(body, http_status)) == problem


def test_what_is_transient() -> None:
    """A 408, a 429 and every 5xx are transient, and nothing else is, refusals of a refresh included."""
    transient = {status for status in POLL_ERRORS if is_transient(error_of(status))}
    assert transient == {408, 429} | {status for status in POLL_ERRORS if 500 <= status <= 599}
    refusals = {status for status in REFRESH_ERRORS if REFRESH_ERRORS[status][0] is TokenRefreshFailed}
    for status in refusals:
        refusal = outcome_of(parse_token_response, status)
        assert isinstance(refusal, ApiError)
        assert not is_transient(refusal)


def test_refusals_of_a_refresh() -> None:
    """A refusal says what its code means, whatever its status; a code that is not known says what to check."""
    meanings = {
        "invalid_grant": "the refresh token is not valid any more: the user must authorise again",
        "invalid_client": "the client is not known: check client_id and client_secret",
        "unauthorized_client": "the client may not refresh tokens: ask Wise for that",
        "invalid_scope": REFUSED,
    }
    with Table() as table:
        for code, meaning in meanings.items():
            for http_status in (400, 401, 403):
                with table.row(code, http_status):
                    error = outcome_of(parse_token_response, http_status, {}, b'{"error":"%s"}' % code.encode())
                    assert isinstance(error, TokenRefreshFailed)
                    assert error.code == code
                    assert str(error) == f"{http_status} {code}; {meaning}"


def test_line_of_an_error() -> None:
    """An error's line is its status, code, meaning and words, when to come back, and the trace id, in this order."""
    headers = {"X-Trace-Id": "t-1", "Retry-After": "5"}
    error = error_of(422, headers, b'{"code":"bad","detail":"No"}')
    assert str(error) == f"422 bad; {CHECK_BOTH}; No; retry after 5 s; trace id t-1"
    assert str(error_of(422)) == f"422; {CHECK_BOTH}"
    assert error_of(422).trace_id is None


def test_shapes_of_errors() -> None:
    """In whichever shape an error comes, its code and its words are found, kept and printed."""
    shapes = [
        (b'{"error":"invalid_token","error_description":"Expired"}', "invalid_token", "Expired"),
        (b'{"error":"missing_token"}', "missing_token", None),
        (
            b'{"errors":[{"code":"error.bad","message":"No","path":"cardToken","arguments":["x"]}]}',
            "error.bad",
            "No (cardToken)",
        ),
        (b'{"timestamp":"t","errors":[{"code":"error.bad","message":"No","arguments":null}]}', "error.bad", "No"),
        (b'{"errors":[{"code":"a","message":"A"},{"code":"b","path":"p"}]}', "a", "A; b (p)"),
        (b'{"status":403,"error":"unauthorized","message":"Unauthorized"}', "unauthorized", "Unauthorized"),
        (
            (
                b'{"type":"about:blank","title":"Not Found","status":404,"code":"resource_not_found",'
                b'"detail":"No such card","instance":"/v3"}'
            ),
            "resource_not_found",
            "No such card",
        ),
        (b'{"title":"Not Found","status":404}', None, "Not Found"),
        (b'{"code":"y","detail":"No","errors":[{"code":"x","detail":"long","ref":"#/c"}]}', "y", "No: long (#/c)"),
        (b'{"errors":[{"code":"x","detail":"too long","ref":"r"}]}', "x", "too long (r)"),
        (b'{"message":"Nope"}', None, "Nope"),
        (b"\xef\xbb\xbf" + b'{"message":"Nope"}', None, "Nope"),
        (b"plain words", None, "plain words"),
        (b"caf\xe9", None, "caf\N{REPLACEMENT CHARACTER}"),
        (b"<html><h1>Bad Gateway</h1>", None, "an HTML page, so probably from a proxy"),
        (b"\n <!DOCTYPE html>", None, "an HTML page, so probably from a proxy"),
        (b"", None, None),
        (b"  \n", None, None),
        (b"{}", None, None),
        (b"[]", None, "[]"),
        (b'{"errors":null}', None, None),
        (b'{"errors":[]}', None, None),
        (b'{"errors":["x",1,null,{"code":"a"}]}', "a", "a"),
        (b'{"errors":[{"message":"A"},{"code":"b","message":"B"}]}', None, "A; B"),
        (
            b'{"errors":[' + b",".join(b'{"message":"%d"}' % number for number in range(1, 7)) + b"]}",
            None,
            "1; 2; 3; 4; 5",
        ),
        (b'{"errors":[{"path":"p"}],"detail":"No"}', None, "No"),
        (b'{"errors":{"code":"x"}}', None, None),
        (b'{"error":{"code":"x"},"message":7,"code":null,"detail":" "}', None, None),
    ]
    with Table() as table:
        for body, code, detail in shapes:
            with table.row(body):
                error = error_of(422, {"X-Trace-Id": "t-1"}, body)
                assert (error.code, error.detail, error.trace_id) == (code, detail, "t-1")
                assert error.body == body.decode("utf-8", "replace")
                assert all(part in str(error) for part in (code or "", detail or "", "trace id t-1"))


def test_strong_authentication() -> None:
    """A 403 that asks for strong authentication has its own error, which does not show the one-time token."""
    asked = {"x-2fa-approval-result": "REJECTED", "x-2fa-approval": "one-time"}
    answers: list[tuple[int, dict[str, str], type[ApiError]]] = [
        (403, asked, StrongAuthenticationRequired),
        (403, {"X-2FA-Approval-Result": " rejected "}, StrongAuthenticationRequired),
        (403, {"x-2fa-approval-result": "APPROVED"}, Forbidden),
        (403, {"x-2fa-approval": "one-time"}, Forbidden),
        (403, {}, Forbidden),
        *((http_status, asked, POLL_ERRORS[http_status][0]) for http_status in (401, 402, 404, 500)),
    ]
    with Table() as table:
        for http_status, headers, cls in answers:
            with table.row(http_status, headers):
                error = error_of(http_status, headers)
                assert type(error) is cls
                assert "one-time" not in str(error)
                assert ("must approve this with strong authentication" in str(error)) is (
                    cls is StrongAuthenticationRequired
                )


def test_foreign_words_are_one_printable_line() -> None:
    """Line breaks and terminal codes in an error's words, code or trace id reach no terminal and no log."""
    forged = "\x1b[31m\r\nERROR forged\u2028\u202e\x00\x9b2J\ud800"
    body = json.dumps({"code": forged, "detail": forged, "errors": [{"message": forged, "path": forged}]}).encode()
    error = error_of(500, {"X-Trace-Id": forged}, body)
    for shown in (str(error), error.code, error.detail, error.trace_id):
        assert shown is not None
        assert shown.isprintable()
        assert "forged" in shown


def test_foreign_words_are_short() -> None:
    """However much an answer says, its code and trace id keep 100 characters, its words 300, its body 2 KiB."""
    bodies = {
        "flat": json.dumps({"code": "c" * 10_000, "message": "m" * 10_000}).encode(),
        "list": json.dumps({"errors": [{"code": "c" * 10_000, "message": "m" * 10_000}] * 100}).encode(),
        "plain": b"m" * 10_000,
    }
    with Table() as table:
        for name, body in bodies.items():
            with table.row(name):
                error = error_of(500, {"X-Trace-Id": "t" * 10_000}, body)
                assert error.code == (None if name == "plain" else "c" * 99 + "…")
                assert error.detail == "m" * 299 + "…"
                assert error.trace_id == "t" * 99 + "…"
                assert len(error.body) == 2048
                assert len(str(error)) < 700


def test_limited_by() -> None:
    """A 429 names what limited it, in one printable line of 100 characters at most; no other error does."""
    names = {
        "wise-public-api": "wise-public-api",
        " a\n\x1b[31mb ": "a \N{REPLACEMENT CHARACTER}[31mb",
        "x" * 100: "x" * 100,
        "x" * 101: "x" * 99 + "…",
        "": None,
        " ": None,
    }
    with Table() as table:
        for parse in (parse_response, parse_token_response):
            for sent, name in names.items():
                with table.row(parse.__name__, sent):
                    headers = {"X-RATE-limited-by": sent, "retry-after": "5"}
                    error = outcome_of(parse, 429, headers, b'{"message":"Slow down"}')
                    assert isinstance(error, RateLimited)
                    assert error.limited_by == name
                    by = "" if name is None else f"; limited by {name}"
                    assert str(error) == f"429; {SEND_FEWER}; Slow down{by}; retry after 5 s"
        with table.row("another error"):
            other = error_of(503, {"x-rate-limited-by": "wise-public-api"})
            assert other.limited_by is None
            assert "limited by" not in str(other)
    unnamed = error_of(429)
    assert isinstance(unnamed, RateLimited)
    assert unnamed.limited_by is None


def test_retry_after() -> None:
    """`Retry-After` is seconds or a date, never negative, an hour at most, and None when it says nothing."""
    values = [
        ("5", 5.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("007", 7.0),
        ("3600", 3600.0),
        ("3601", 3600.0),
        ("9" * 10_000, 3600.0),
        ("-5", None),
        ("+5", None),
        ("5.5", None),
        ("1e3", None),
        ("5s", None),
        ("inf", None),
        ("nan", None),
        ("\u0665", None),
        ("\u00b2", None),
        ("soon", None),
        ("", None),
        ("Fri, 99 May 2026 12:00:07 GMT", None),
        ("Fri, 01 May 99999999 12:00:07 GMT", None),
        ("Fri, 01 May 2026 12:00:07 +99999999999", None),
        ("Fri, 01 May 2026 12:00:07 GMT", 7.0),
        ("Friday, 01-May-26 12:00:07 GMT", 7.0),
        ("Fri, 01 May 2026 14:00:07 +0200", 7.0),
        ("Fri, 01 May 2026 12:00:07", 7.0),
        ("Fri, 01 May 2026 11:00:00 GMT", 0.0),
        ("Mon, 01 Jan 1900 00:00:00 GMT", 0.0),
        ("Sat, 01 May 2027 12:00:00 GMT", 3600.0),
    ]
    with Table() as table:
        for http_status in (429, 503):
            for value, seconds in values:
                with table.row(http_status, value):
                    error = error_of(http_status, {"Retry-After": value})
                    assert error.retry_after == seconds
                    assert ("retry after" in str(error)) is (seconds is not None)
            with table.row(http_status, "missing"):
                assert error_of(http_status).retry_after is None


def test_retry_after_by_a_clock() -> None:
    """A date counts by the server's own `Date`; where that cannot be read by the time passed in, or the machine's."""
    half_a_minute = timedelta(seconds=30)
    for skew in (timedelta(0), timedelta(days=400), timedelta(days=-400)):
        there = NOW + skew
        headers = {"Retry-After": http_date(there + half_a_minute), "Date": http_date(there)}
        assert error_of(429, headers).retry_after == 30.0
    for date in ("", "today", "Fri, 99 May 2026 12:00:00 GMT"):
        headers = {"Retry-After": http_date(NOW + half_a_minute), "Date": date}
        assert error_of(429, headers).retry_after == 30.0
    with pytest.raises(RateLimited) as caught:
        parse_response(429, {"Retry-After": http_date(datetime.now(UTC) + timedelta(seconds=60))}, b"")
    assert caught.value.retry_after is not None
    assert 30 < caught.value.retry_after <= 60


# --- Whatever comes ---

# As JSON, since no Python value is written as some of these.
NUMBERS = ["0", "-1", "1e999", "-0.0", "NaN", "Infinity", "1" * 4000, "1" * 5000, "12345678901234567890"]
TEXTS = [
    *('"READY"', '"PRODUCED"', '"UNKNOWN_ERROR"', '"\\ud800"', '"\\udc00\\ud83d"', '"\\u0000\\u001b[2J\\n"'),
    *('"2024-01-01T12:24:560Z"', '"2024-01-01T12:24:56.124Z"', '"0001-01-01T00:00:00+23:59"'),
    *('"9999-12-31T23:59:59-23:59"', '"\\ud83d\\ude00"', '""'),
]
NESTED = ["[" * depth + "]" * depth for depth in (1, 40, 300, 990, 2000)]
OTHERS = ["null", "true", "{}", '{"status":"READY"}', '[{"code":"x","message":[]}]', "[null,1]", ""]
VALUES = st.sampled_from([*NUMBERS, *TEXTS, *NESTED, *OTHERS]) | st.text(max_size=12).map(json.dumps)
FIELDS = ["errors", "error", "error_description", "code", "message", "detail", "title", "path", "\\ud800"]


@st.composite
def bodies(draw: st.DrawFn, needed: str, right: Mapping[str, st.SearchStrategy[str]]) -> bytes:
    """Draw an object with some right members, and sometimes a fault: a wrong value, a wrong byte."""
    optional = {name: values for name, values in right.items() if name != needed}
    members = draw(st.fixed_dictionaries({needed: right[needed]}, optional=optional))
    fault = draw(st.sampled_from(["none", "none", "value", "bytes"]))
    if fault == "value":
        members[draw(st.sampled_from([*right, *FIELDS]))] = draw(VALUES)
    body = ("{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}").encode()
    if fault == "bytes":
        start, length = draw(st.integers(0, len(body))), draw(st.integers(0, 20))
        body = body[:start] + draw(st.binary(max_size=8)) + body[start + length :]
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf", b" \n"])) + body


RIGHT_TEXT = st.text(max_size=12).map(json.dumps) | st.sampled_from([*TEXTS, "null"])
NEARLY_A_STATUS = bodies(
    "status",
    {
        "status": st.sampled_from([*(f'"{status}"' for status in Status), '"TELEPORTED"', '"\\ud800"']),
        "kioskId": RIGHT_TEXT,
        "occurredAt": st.datetimes().map(lambda moment: f'"{moment.isoformat()}Z"') | VALUES,
        "errorCode": st.sampled_from(['"PRT_PAUSED"', '"PRT_ON_FIRE"']) | RIGHT_TEXT,
        "description": RIGHT_TEXT,
    },
)
TOKENS = st.text(alphabet=[chr(code) for code in range(0x21, 0x7F)], min_size=1, max_size=12).map(json.dumps)
NEARLY_A_GRANT = bodies(
    "access_token",
    {
        "access_token": TOKENS,
        "refresh_token": TOKENS | st.sampled_from(["null", "5", '""', '"a b"', '"\\ud800"']),
        "expires_in": st.sampled_from(["43200", "1e3", '"43200"', '"soon"', *NUMBERS]) | st.floats().map(json.dumps),
        "error": st.sampled_from(['"invalid_grant"', '"invalid_client"']) | RIGHT_TEXT,
    },
)
DATES = [*"0-+:,.() ", "\x1b[", "\n", "\ud800", "Fri,", "01", "99", "May", "2026", "99999999999", "12:00:07", "GMT"]
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "retry-after", "Date", "X-Trace-Id", "Content-Type", "x-2fa-approval-result"]),
    st.text(max_size=30) | st.from_regex("[0-9]{0,30}") | st.lists(st.sampled_from(DATES), max_size=8).map(" ".join),
    max_size=3,
)
# Behind a 200 all decoding is.
HTTP_STATUSES = st.just(200) | st.sampled_from([200, *POLL_ERRORS]) | st.integers()


def assert_is_whole(error: ApiError | BadReply) -> None:
    """Check what holds for each error that an answer becomes."""
    assert str(error).isprintable()
    assert len(error.body) <= 2048
    error.body.encode()
    if isinstance(error, ApiError):
        assert error.retry_after is None or 0 <= error.retry_after <= 3600


@given(st.sampled_from(["", "http://", "https://", "http://[", "http://127.0.0.1:"]), st.text("htp:/[]@.%01-?#&\u0663"))
@example("http://", "[]@")  # for which urllib and yarl raise an IndexError
def test_any_url_is_taken_or_refused(scheme: str, rest: str) -> None:
    """Whatever is given as `base_url` or `proxy`, it is taken, or a `UsageError` that names it."""
    for name, take in (("base_url", Endpoint), ("proxy", partial(proxy_for, "https://api.example"))):
        refusal = name
        try:
            take(scheme + rest)
        except UsageError as error:
            refusal = str(error)
        assert refusal.startswith(name)


@given(HTTP_STATUSES, HEADERS, NEARLY_A_STATUS | st.binary(max_size=60))
def test_hostile_answers(http_status: int, headers: dict[str, str], body: bytes) -> None:
    """Whatever comes for a card becomes a status or one of our errors, and its words can be printed anywhere."""
    seen = outcome_of(parse_response, http_status, headers, body)
    if not isinstance(seen, ProductionStatus):
        assert isinstance(seen, BadReply if 200 <= http_status < 300 else ApiError)
        assert_is_whole(seen)
        return
    assert http_status == 200
    str(seen).encode()
    texts: list[object] = [seen.status, seen.kiosk_id, seen.error_code, seen.description]
    for text in texts:
        assert text is None or isinstance(text, str)
        str(text).encode()  # raises if half a surrogate pair is left
    assert seen.occurred_at is None or seen.occurred_at.tzinfo is UTC


@given(HTTP_STATUSES, HEADERS, NEARLY_A_GRANT | st.binary(max_size=60))
def test_hostile_grants(http_status: int, headers: dict[str, str], body: bytes) -> None:
    """Whatever comes for a refresh is a grant that can be used, or one of our errors, without its success."""
    grant = outcome_of(parse_token_response, http_status, headers, body)
    is_success = 200 <= http_status < 300
    if not isinstance(grant, TokenGrant):
        is_refusal = 400 <= http_status < 500 and http_status not in NOT_REFUSALS
        assert isinstance(grant, BadReply if is_success else TokenRefreshFailed if is_refusal else ApiError)
        assert isinstance(grant, TokenRefreshFailed) is is_refusal
        assert not is_success or grant.body == ""
        assert_is_whole(grant)
        return
    assert is_success
    assert is_token(grant.access_token)
    assert grant.refresh_token is None or is_token(grant.refresh_token)
    assert grant.expires_in is None or 0 < grant.expires_in < 100 * 365 * 86_400
