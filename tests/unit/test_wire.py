"""The request that is sent, and what every answer becomes."""

from __future__ import annotations

import base64
import json
import logging
import string
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cardprod
from cardprod.error_codes import ErrorCode
from cardprod.errors import (
    ApiError,
    BadReply,
    CardNotFound,
    CardprodError,
    Forbidden,
    RateLimited,
    ServerError,
    StrongAuthenticationRequired,
    TokenRefreshFailed,
    Unauthorized,
    UsageError,
)
from cardprod.models import Card, ProductionStatus, Status
from cardprod.wire import MAX_BODY, Endpoint, TokenEndpoint, decipher, decipher_grant, is_transient

if TYPE_CHECKING:
    from collections.abc import Mapping

CARD = Card(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")
PATH = "/spend/profiles/123456/cards/ca0c8154-1e14-4464-a1ce-dcea7dc3de52/production"
FACTS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "production-status.json").read_text("utf-8")
)
SAMPLE: Final[bytes] = json.dumps(FACTS["examples"][2]).encode()
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


def error_of(
    http_status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", now: float | None = None
) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decipher(http_status, headers or {}, body, now)
    return caught.value


def bad_reply_of(body: bytes, http_status: int = 200) -> BadReply:
    with pytest.raises(BadReply) as caught:
        decipher(http_status, {"X-Trace-Id": "t-1"}, body)
    return caught.value


# --- The request ---


@pytest.mark.parametrize(
    ("base_url", "api_version", "url"),
    [
        ("https://api.wise.com", "v3", f"https://api.wise.com/v3{PATH}"),
        ("https://api.wise.com/", "2026Q3", f"https://api.wise.com/2026Q3{PATH}"),
        ("https://proxy.example/wise/api", "v3", f"https://proxy.example/wise/api/v3{PATH}"),
        ("https://proxy.example:8443/wise/", "v_4-beta", f"https://proxy.example:8443/wise/v_4-beta{PATH}"),
        ("http://127.0.0.1:8080", "v3", f"http://127.0.0.1:8080/v3{PATH}"),
    ],
)
def test_url(base_url: str, api_version: str, url: str) -> None:
    """The URL is the base, the version, and the documented path with both ids in it."""
    assert Endpoint(base_url, api_version).build_request(CARD, token="t", correlation_id="c")[0] == url


def test_documented_path() -> None:
    """With the default version the path is the one in Wise's reference."""
    request = Endpoint("https://h").build_request(CARD, token="t", correlation_id="c")
    path = FACTS["path"].format(profileId=CARD.profile_id, cardToken=CARD.card_token)
    assert request[0] == f"https://h{path}"


def test_headers() -> None:
    """A request carries the token, what it accepts, who it is from and the id to trace it by, and nothing else."""
    request = Endpoint("https://h").build_request(CARD, token="sesame", correlation_id="0-1-2")
    assert request[1] == {
        "Authorization": "Bearer sesame",
        "Accept": "application/json",
        "User-Agent": f"cardprod/{cardprod.__version__}",
        "X-External-Correlation-Id": "0-1-2",
    }


@pytest.mark.parametrize(
    "base_url",
    [
        "https://api.wise.com",
        "HTTPS://api.wise.com",
        "https://10.0.0.1:8443",
        "http://127.0.0.1",
        "http://127.0.0.1:8080",
        "http://127.8.8.8",
        "http://localhost:8080",
        "http://LOCALHOST",
        "http://[::1]",
        "http://[::1]:8080/prefix",
    ],
)
def test_accepts_base_url(base_url: str) -> None:
    """Https to anywhere is accepted, and plain http to this very machine."""
    assert Endpoint(base_url).base_url == base_url


@pytest.mark.parametrize(
    ("base_url", "problem"),
    [
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
        ("api.wise.com", "must be like"),
        ("//api.wise.com", "must be like"),
        ("https://", "must be like"),
        ("https:///v3", "must be like"),
        ("", "must be like"),
        ("https://api.wise.com:99999", "not a URL"),
        ("https://api.wise.com:port", "not a URL"),
        ("https://[::1", "not a URL"),
        ("https://api.wise.com\u2060", "not a URL"),  # as copied from a page, and not to be seen
        ("https://api\xad.wise.com", "not a URL"),
        (None, "must be a str, not a NoneType"),
        (b"https://api.wise.com", "must be a str, not a bytes"),
    ],
    ids=ascii,
)
def test_refuses_base_url(base_url: Any, problem: str) -> None:
    """A base URL that is no place to send a token to is refused, in words that say why and show no password."""
    with pytest.raises(UsageError, match=rf"^base_url .*({problem})") as caught:
        Endpoint(base_url)
    assert "secret" not in str(caught.value)


def test_plain_http_on_a_test_network() -> None:
    """Plain http goes to another host only if that was asked for in as many words."""
    assert Endpoint("http://10.0.0.1", allow_plain_http=True).base_url == "http://10.0.0.1"


@pytest.mark.parametrize("base_url", ["http://u:p@10.0.0.1", "ftp://10.0.0.1", "http://10.0.0.1?a"])
def test_plain_http_allows_nothing_else(base_url: str) -> None:
    """To accept plain http is not to accept what is wrong with a URL otherwise."""
    with pytest.raises(UsageError, match=r"^base_url"):
        Endpoint(base_url, allow_plain_http=True)


@pytest.mark.parametrize(
    "api_version", ["", "v3/", "/v3", "v3/x", "..", ".", "v3\n", "v 3", "v3?", "%2e", "é", None, 3], ids=ascii
)
def test_refuses_api_version(api_version: Any) -> None:
    """A version that is not one plain path segment is refused."""
    with pytest.raises(UsageError, match=r"^api_version must be (one path segment|a str)"):
        Endpoint("https://api.wise.com", api_version)


# --- A success ---


@pytest.mark.parametrize(
    ("sample", "status"),
    [
        (
            0,
            ProductionStatus(
                "READY",
                occurred_at=datetime(2024, 1, 1, 12, 24, 56, 124000, tzinfo=UTC),
                description="Card ready for production",
            ),
        ),
        (
            1,
            ProductionStatus(
                "IN_PROGRESS", kiosk_id="WIS00001", occurred_at=datetime(2024, 1, 1, 12, 24, 56, 121000, tzinfo=UTC)
            ),
        ),
        (
            2,
            ProductionStatus(
                "REQUEST_ERROR",
                kiosk_id="WIS00001",
                occurred_at=datetime(2024, 1, 1, 12, 24, 56, 121000, tzinfo=UTC),
                error_code=ErrorCode.PIN_VERIFICATION_FAILED,
                description="The PIN cannot be verified because the server is unreachable",
            ),
        ),
    ],
)
def test_samples_of_the_reference(sample: int, status: ProductionStatus) -> None:
    """Each sample in Wise's reference becomes what it says."""
    assert decipher(200, {}, json.dumps(FACTS["examples"][sample]).encode()) == status


@pytest.mark.parametrize("status", Status)
def test_status_alone(status: Status) -> None:
    """No field but the status is needed, and a known one becomes the enum's member."""
    assert decipher(200, {}, b'{"status":"%s"}' % status.encode()) == ProductionStatus(status)


def test_nulls_are_absent() -> None:
    """A field that is null is as one that is not there."""
    body = b'{"status":"READY","kioskId":null,"occurredAt":null,"errorCode":null,"description":null}'
    assert decipher(200, {}, body) == ProductionStatus("READY")


def test_unknown_words_stay() -> None:
    """A status and a code that this package does not know come through as they are."""
    seen = decipher(200, {}, b'{"status":"TELEPORTED","errorCode":"PRT_ON_FIRE"}')
    assert (seen.status, seen.error_code) == ("TELEPORTED", "PRT_ON_FIRE")


def test_extra_fields_do_no_harm() -> None:
    """Fields that appear one day are left alone, whatever they hold, and Python's own spelling is not the API's."""
    body = b'{"status":"READY","eta":{"minutes":[1,2,3]},"x":1e999,"kiosk_id":"no","error_code":[]}'
    assert decipher(200, {}, body) == ProductionStatus("READY")


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + SAMPLE,
        b"\r\n\t " + SAMPLE + b"\n",
        json.dumps(FACTS["examples"][2], indent=4).encode(),
        json.dumps(dict(reversed(FACTS["examples"][2].items()))).encode(),
    ],
    ids=["byte order mark", "white space", "indented", "another order"],
)
def test_json_in_other_clothes(body: bytes) -> None:
    """A byte order mark, white space and the order of the fields do not matter."""
    assert decipher(200, {}, body) == decipher(200, {}, SAMPLE)


@pytest.mark.parametrize(
    ("spelled", "moment"),
    [
        ("2024-01-01T12:24:56.124Z", datetime(2024, 1, 1, 12, 24, 56, 124000, tzinfo=UTC)),
        ("2024-01-01T12:24:56Z", datetime(2024, 1, 1, 12, 24, 56, tzinfo=UTC)),
        ("2024-01-01T12:24:56.124567Z", datetime(2024, 1, 1, 12, 24, 56, 124567, tzinfo=UTC)),
        ("2024-01-01T14:24:56+02:00", datetime(2024, 1, 1, 12, 24, 56, tzinfo=UTC)),
        ("2023-12-31T23:30:00-01:00", datetime(2024, 1, 1, 0, 30, tzinfo=UTC)),
    ],
)
def test_moments(spelled: str, moment: datetime) -> None:
    """A time in ISO 8601, with or without milliseconds and in any zone, becomes the same moment in UTC."""
    occurred_at = decipher(200, {}, b'{"status":"READY","occurredAt":"%s"}' % spelled.encode()).occurred_at
    assert occurred_at is not None
    assert occurred_at == moment
    assert occurred_at.tzinfo is UTC


@pytest.mark.parametrize(
    "spelled",
    [
        '"2024-01-01T12:24:560Z"',
        '"2024-01-01T12:24:5600Z"',
        '"2024-01-01T12:24:56"',
        '"2024-01-01"',
        '"2024-13-01T12:24:56Z"',
        '"0001-01-01T00:00:00+23:59"',
        '"yesterday"',
        '""',
        '"2024\\ud800"',
        "1704111896",
        "1704111896.124",
        "1e999",
        "true",
        '["2024-01-01T12:24:56Z"]',
        '{"seconds":1}',
    ],
)
def test_illegible_time_does_not_cost_the_status(spelled: str, caplog: pytest.LogCaptureFixture) -> None:
    """A time that cannot be read is left out with one warning in one line, and the status survives."""
    with caplog.at_level(logging.WARNING, logger="cardprod"):
        seen = decipher(200, {}, b'{"status":"IN_PROGRESS","occurredAt":%s}' % spelled.encode())
    assert seen == ProductionStatus("IN_PROGRESS")
    assert [(record.name, record.levelname) for record in caplog.records] == [("cardprod", "WARNING")]
    assert caplog.messages[0].startswith("a time is not in ISO 8601")


def test_illegible_time_cannot_forge_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What stands where the time should be reaches the log without line breaks or terminal codes, and shortened."""
    forged = json.dumps("\x1b[2J\n2024 ERROR forged\u2028" + "x" * 10_000)
    with caplog.at_level(logging.WARNING, logger="cardprod"):
        decipher(200, {}, b'{"status":"READY","occurredAt":%s}' % forged.encode())
    assert caplog.messages[0].isprintable()
    assert len(caplog.messages[0]) < 200


@pytest.mark.parametrize("spelled", ["null", '"2024-01-01T12:24:56.124Z"'])
def test_no_warning_without_need(spelled: str, caplog: pytest.LogCaptureFixture) -> None:
    """A time that is absent or right is no cause for a warning."""
    with caplog.at_level(logging.DEBUG):
        decipher(200, {}, b'{"status":"READY","occurredAt":%s}' % spelled.encode())
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("spelled", "text"),
    [
        ("\\ud800", "\N{REPLACEMENT CHARACTER}"),
        ("a\\udfffb", "a\N{REPLACEMENT CHARACTER}b"),
        ("\\udc00\\ud800", "\N{REPLACEMENT CHARACTER}" * 2),
        ("\\ud83d\\ude00", "\N{GRINNING FACE}"),
        ("Größe", "Größe"),
    ],
)
@pytest.mark.parametrize(
    ("field", "name"),
    [("status", "status"), ("kioskId", "kiosk_id"), ("errorCode", "error_code"), ("description", "description")],
)
def test_half_characters_are_replaced(field: str, name: str, spelled: str, text: str) -> None:
    """Half a surrogate pair, which JSON can spell and nothing can store, is replaced; whole characters are kept."""
    fields = {"status": '"READY"', field: f'"{spelled}"'}
    body = "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"
    assert getattr(decipher(200, {}, body.encode()), name) == text


# --- Not the documented shape ---


@pytest.mark.parametrize(
    ("body", "problem"),
    [
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
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_not_an_object(body: bytes, problem: str) -> None:
    """A 200 that holds no JSON object is a `BadReply` that says what it is instead."""
    assert problem in str(bad_reply_of(body))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{}", "status: missing"),
        (b'{"Status":"READY"}', "status: missing"),
        (b'{"status":null}', "status: expected a string, got null"),
        (b'{"status":""}', "status: expected a status, got an empty string"),
        (b'{"status":1}', "status: expected a string, got a number"),
        (b'{"status":1.5}', "status: expected a string, got a number"),
        (b'{"status":true}', "status: expected a string, got a boolean"),
        (b'{"status":["READY"]}', "status: expected a string, got an array"),
        (b'{"status":{"READY":1}}', "status: expected a string, got an object"),
        (b'{"status":"READY","kioskId":123}', "kioskId: expected a string, got a number"),
        (b'{"status":"READY","errorCode":false}', "errorCode: expected a string, got a boolean"),
        (b'{"status":"READY","description":[]}', "description: expected a string, got an array"),
        (b'{"kioskId":1,"description":{}}', "status: missing; kioskId: expected a string, got a number; description:"),
    ],
)
def test_fields_of_a_wrong_type(body: bytes, problem: str) -> None:
    """A field that is not what is documented is named as the API names it, with the reason; so are all of them."""
    assert f"not the documented shape: {problem}" in str(bad_reply_of(body))


@pytest.mark.parametrize("http_status", [201, 202, 204, 206, 299])
@pytest.mark.parametrize("body", [b"", SAMPLE])
def test_other_successes(http_status: int, body: bytes) -> None:
    """A success that is not a 200 is not documented, whatever its body."""
    assert f"expected a 200, got a {http_status}" in str(bad_reply_of(body, http_status))


def test_bad_reply_keeps_what_support_needs() -> None:
    """A bad reply has the trace id and the first 2 KiB of the body, and prints the trace id in its one line."""
    error = bad_reply_of(b"[" + b"x" * 5000)
    assert error.trace_id == "t-1"
    assert error.body == "[" + "x" * 2047
    assert str(error).endswith("; trace id t-1")
    assert str(error).isprintable()


@pytest.mark.parametrize("http_status", [200, 206])
def test_over_long(http_status: int) -> None:
    """A success over 1 MiB is a `BadReply` with the trace id and the start of the body."""
    with pytest.raises(BadReply, match="over 1 MiB") as caught:
        decipher(http_status, {"x-trace-id": "t-1"}, b"x" * (MAX_BODY + 1))
    assert (caught.value.trace_id, caught.value.body) == ("t-1", "x" * 2048)


# --- A refresh ---


_grants = st.fixed_dictionaries(
    {},
    optional={
        "access_token": st.text() | st.integers() | st.none() | st.just("access"),
        "refresh_token": st.text() | st.integers() | st.none() | st.just("refresh"),
        "expires_in": st.floats() | st.integers() | st.text() | st.none() | st.booleans(),
        "error": st.text() | st.sampled_from(["invalid_grant", "invalid_client"]),
    },
)


@given(st.integers(100, 599), st.binary() | _grants.map(lambda grant: json.dumps(grant).encode()))
def test_hostile_refresh_is_a_grant_or_an_error_of_ours(http_status: int, body: bytes) -> None:
    """Whatever the token endpoint answers is a grant that can be used, or one of our errors, without its success."""
    try:
        grant = decipher_grant(http_status, {"x-trace-id": "t-1"}, body, now=0)
    except (ApiError, BadReply) as error:
        is_refusal = 400 <= http_status < 500 and http_status not in {408, 429}
        is_within = (error.body == "" and 200 <= http_status < 300) if isinstance(error, BadReply) else True
        if not is_within or isinstance(error, TokenRefreshFailed) != is_refusal:
            pytest.fail(f"{http_status} became {error!r}")
    else:
        assert grant.access_token.isascii()
        assert grant.access_token.isprintable()
        assert grant.refresh_token is None or grant.refresh_token.isprintable()
        assert grant.expires_in is None or grant.expires_in > 0


@pytest.mark.parametrize(
    ("api_version", "url"),
    [("v3", "https://w.example/oauth/token"), ("2026Q3", "https://w.example/2026Q3/oauth/token")],
)
def test_refresh_request(api_version: str, url: str) -> None:
    """A refresh goes where this version of the API has it, as a form, with the client's credentials as HTTP Basic."""
    endpoint = TokenEndpoint("https://w.example/", api_version)
    (asked, headers), form = endpoint.build_request(client_id="id", client_secret="s:&=+ ~", refresh_token="r&=+/%")
    assert asked == url
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"id:s:&=+ ~"
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(form.decode()) == {"grant_type": ["refresh_token"], "refresh_token": ["r&=+/%"]}


# --- An error ---


@pytest.mark.parametrize(
    ("http_status", "cls"),
    [
        (401, Unauthorized),
        (403, Forbidden),
        (404, CardNotFound),
        (429, RateLimited),
        (500, ServerError),
        (502, ServerError),
        (503, ServerError),
        (504, ServerError),
        (520, ServerError),
        (599, ServerError),
        (400, ApiError),
        (405, ApiError),
        (408, ApiError),
        (410, ApiError),
        (422, ApiError),
        (301, ApiError),
        (302, ApiError),
        (304, ApiError),
        (308, ApiError),
        (100, ApiError),
    ],
)
@pytest.mark.parametrize("body", [b"", SAMPLE], ids=["empty", "sample"])
def test_http_status_names_the_error(http_status: int, cls: type[ApiError], body: bytes) -> None:
    """The HTTP status alone decides which error it is, even if the body reads like a success."""
    error = error_of(http_status, {}, body)
    assert type(error) is cls
    assert error.http_status == http_status
    assert str(http_status) in str(error)


@pytest.mark.parametrize(
    ("http_status", "transient"),
    [(408, True), (429, True), (500, True), (503, True), (400, False), (401, False), (404, False), (302, False)],
)
def test_what_may_pass(http_status: int, transient: bool) -> None:
    """A 408, a 429 and every 5xx may pass by themselves, and nothing else."""
    assert is_transient(error_of(http_status)) is transient


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        (b'{"error":"invalid_token","error_description":"Expired"}', "invalid_token", "Expired"),
        (b'{"error":"missing_token"}', "missing_token", None),
        (
            b'{"errors":[{"code":"error.bad","message":"No","path":"cardToken","arguments":["x"]}]}',
            "error.bad",
            "No (cardToken)",
        ),
        (b'{"timestamp":"t","errors":[{"code":"error.bad","message":"No","arguments":null}]}', "error.bad", "No"),
        (b'{"errors":[{"code":"a","message":"A"},{"code":"b","path":"p"}]}', "a", "A; b (p)"),
        (
            b'{"timestamp":"t","status":403,"error":"unauthorized","message":"Unauthorized"}',
            "unauthorized",
            "Unauthorized",
        ),
        (
            (
                b'{"type":"about:blank","title":"Not Found","status":404,"code":"resource_not_found",'
                b'"detail":"No such card","instance":"/v3"}'
            ),
            "resource_not_found",
            "No such card",
        ),
        (b'{"title":"Not Found","status":404}', None, "Not Found"),
        (
            (
                b'{"title":"Invalid","status":422,"code":"invalid","detail":"Bad request",'
                b'"errors":[{"code":"x","detail":"too long","ref":"#/cardToken"}]}'
            ),
            "invalid",
            "Bad request: too long (#/cardToken)",
        ),
        (b'{"errors":[{"code":"x","detail":"too long","ref":"r"}]}', "x", "too long (r)"),
        (b'{"message":"Nope"}', None, "Nope"),
        (b"\xef\xbb\xbf" + b'{"message":"Nope"}', None, "Nope"),
        (b"plain words", None, "plain words"),
        (b"caf\xe9", None, "caf\N{REPLACEMENT CHARACTER}"),
        (b"<html><h1>Bad Gateway</h1>", None, "an HTML page, so probably from a proxy on the way"),
        (b"\n <!DOCTYPE html>", None, "an HTML page, so probably from a proxy on the way"),
        (b"", None, None),
        (b"  \n", None, None),
        (b"{}", None, None),
        (b"[]", None, "[]"),
        (b'{"errors":null}', None, None),
        (b'{"errors":[]}', None, None),
        (b'{"errors":["x",1,null,{"code":"a"}]}', "a", "a"),
        (b'{"errors":{"code":"x"}}', None, None),
        (b'{"error":{"code":"x"},"message":7,"code":null,"detail":" "}', None, None),
    ],
)
def test_shapes_of_errors(body: bytes, code: str | None, detail: str | None) -> None:
    """In whichever shape an error comes, its code and its words are found, kept and printed."""
    error = error_of(422, {"X-Trace-Id": "t-1"}, body)
    assert (error.code, error.detail, error.trace_id) == (code, detail, "t-1")
    assert error.body == body.decode("utf-8", "replace")
    assert all(part in str(error) for part in (code or "", detail or "", "trace id t-1"))


def test_html_is_told_by_its_content_type() -> None:
    """A page is told as one by its content type, too."""
    detail = error_of(502, {"Content-Type": "text/HTML; charset=utf-8"}, b"Bad Gateway").detail
    assert detail is not None
    assert "an HTML page" in detail


@pytest.mark.parametrize("body", [b'{"message":' + b"[" * 100_000, b'{"message":' + b"1" * 10_000 + b"}"])
def test_monstrous_error_bodies(body: bytes) -> None:
    """An error whose body no parser survives is that error nevertheless, in a line of bearable length."""
    error = error_of(500, {}, body)
    assert type(error) is ServerError
    assert len(str(error)) < 500
    assert len(error.body) == 2048


@pytest.mark.parametrize(
    ("headers", "cls"),
    [
        ({"x-2fa-approval-result": "REJECTED", "x-2fa-approval": "one-time"}, StrongAuthenticationRequired),
        ({"X-2FA-Approval-Result": " rejected "}, StrongAuthenticationRequired),
        ({"x-2fa-approval-result": "APPROVED"}, Forbidden),
        ({"x-2fa-approval": "one-time"}, Forbidden),
        ({}, Forbidden),
    ],
)
def test_strong_authentication(headers: dict[str, str], cls: type[ApiError]) -> None:
    """A 403 that asks for strong authentication has its own error, which does not show the one-time token."""
    error = error_of(403, headers)
    assert type(error) is cls
    assert "one-time" not in str(error)


@pytest.mark.parametrize("http_status", [401, 404, 500])
def test_strong_authentication_is_a_403(http_status: int) -> None:
    """The header means nothing under another status."""
    error = error_of(http_status, {"x-2fa-approval-result": "REJECTED"})
    assert not isinstance(error, StrongAuthenticationRequired)


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title, str.swapcase])
def test_headers_in_any_case(spell: Any) -> None:
    """The case of a header's name does not matter."""
    headers = {
        spell("retry-after"): http_date(NOW + timedelta(seconds=9)),
        spell("date"): http_date(NOW),
        spell("x-trace-id"): "t-1",
        spell("content-type"): "text/html",
    }
    error = error_of(429, headers, b"words")
    assert (error.retry_after, error.trace_id) == (9.0, "t-1")
    assert error.detail is not None
    assert error.detail.startswith("an HTML page")


def test_foreign_words_are_one_printable_line() -> None:
    """Line breaks and terminal codes in an error's words, code or trace id reach no terminal and no log."""
    forged = "\x1b[31m\r\nERROR forged\u2028\u202e\x00\x9b2J\ud800"
    body = json.dumps({"code": forged, "detail": forged, "errors": [{"message": forged, "path": forged}]}).encode()
    error = error_of(500, {"X-Trace-Id": forged}, body)
    for shown in (str(error), error.code, error.detail, error.trace_id):
        assert shown is not None
        assert shown.isprintable()
        assert "forged" in shown


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"code": "c" * 10_000, "message": "m" * 10_000}).encode(),
        json.dumps({"errors": [{"code": "c" * 10_000, "message": "m" * 10_000}] * 100}).encode(),
        b"m" * 10_000,
    ],
    ids=["flat", "list", "plain"],
)
def test_foreign_words_are_short(body: bytes) -> None:
    """However much an answer says, the error's line stays bearable and its body is 2 KiB at most."""
    error = error_of(500, {"X-Trace-Id": "t" * 10_000}, body)
    assert len(str(error)) < 700
    assert len(error.body) == 2048


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
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
    ],
    ids=lambda value: ascii(value)[:40],
)
@pytest.mark.parametrize("http_status", [429, 503])
def test_retry_after(http_status: int, value: str, seconds: float | None) -> None:
    """`Retry-After` is seconds or a date, never negative, an hour at most, and None when it says nothing."""
    error = error_of(http_status, {"Retry-After": value}, now=NOW.timestamp())
    assert error.retry_after == seconds
    assert ("welcome again" in str(error)) is (seconds is not None)


def test_no_retry_after() -> None:
    """An answer that does not say when to come back has None for it."""
    assert error_of(429).retry_after is None


@pytest.mark.parametrize("skew", [timedelta(0), timedelta(days=400), timedelta(days=-400)])
def test_retry_after_by_the_servers_clock(skew: timedelta) -> None:
    """A date is read against the server's own `Date`, so that two clocks that differ do no harm."""
    there = (NOW + skew).astimezone(timezone(timedelta(0)))
    headers = {"Retry-After": http_date(there.replace(tzinfo=UTC) + timedelta(seconds=30)), "Date": http_date(there)}
    assert error_of(429, headers, now=NOW.timestamp()).retry_after == 30.0


@pytest.mark.parametrize("date", ["", "today", "Fri, 99 May 2026 12:00:00 GMT"])
def test_retry_after_without_the_servers_clock(date: str) -> None:
    """Where the server's `Date` cannot be read, the time that was passed in counts."""
    headers = {"Retry-After": http_date(NOW + timedelta(seconds=30)), "Date": date}
    assert error_of(429, headers, now=NOW.timestamp()).retry_after == 30.0


def test_retry_after_by_the_machines_clock() -> None:
    """Without a `Date` and without a time passed in, the machine's clock counts."""
    retry_after = error_of(429, {"Retry-After": http_date(datetime.now(UTC) + timedelta(seconds=60))}).retry_after
    assert retry_after is not None
    assert 30 < retry_after <= 60


# --- Whatever comes ---

HOSTILE_NUMBERS = ["0", "-1", "1e999", "-0.0", "NaN", "Infinity", "1" * 4000, "1" * 5000, "12345678901234567890"]
HOSTILE_TEXTS = [
    "READY",
    "PRODUCED",
    "UNKNOWN_ERROR",
    "\\ud800",
    "\\udc00\\ud83d",
    "\\u0000\\u001b[2J\\n",
    "2024-01-01T12:24:560Z",
    "2024-01-01T12:24:56.124Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "\\ud83d\\ude00",
    "",
]
HOSTILE_STRINGS = [f'"{text}"' for text in HOSTILE_TEXTS]
NESTED = ["[" * depth + "]" * depth for depth in (1, 40, 300, 990, 2000)]
VALUES = [
    *HOSTILE_NUMBERS,
    *HOSTILE_STRINGS,
    *NESTED,
    "null",
    "true",
    "{}",
    '{"status":"READY"}',
    "[{}]",
    "[null,1]",
    "",
]
FIELDS = [
    "status",
    "kioskId",
    "occurredAt",
    "errorCode",
    "description",
    "errors",
    "error",
    "error_description",
    "code",
    "message",
    "detail",
    "title",
    "path",
    "\\ud800",
]

ONE_VALUE = st.one_of(
    st.sampled_from(VALUES),
    st.text(max_size=12).map(json.dumps),
    st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(VALUES)), max_size=3).map(
        lambda pairs: "[{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}]"
    ),
)
DOCUMENTS = st.lists(st.tuples(st.sampled_from(FIELDS), ONE_VALUE), max_size=6).map(
    lambda pairs: ("{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}").encode()
)


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A valid body with some bytes of it replaced, dropped or put in."""
    start, length = draw(st.integers(0, len(SAMPLE))), draw(st.integers(0, 20))
    return SAMPLE[:start] + draw(st.binary(max_size=8)) + SAMPLE[start + length :]


BODIES = st.one_of(st.binary(max_size=60), mutants(), DOCUMENTS, DOCUMENTS)
HEADER_TEXTS = st.one_of(
    st.text(max_size=30),
    st.text(alphabet=string.digits, max_size=30),
    st.lists(
        st.sampled_from(
            [*"0-+:,.() ", "\x1b[", "\n", "\ud800", "Fri,", "01", "99", "May", "2026", "99999999999", "12:00:07", "GMT"]
        ),
        max_size=8,
    ).map(" ".join),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Retry-After", "retry-after", "Date", "X-Trace-Id", "Content-Type", "x-2fa-approval-result", "X-Other"]
    ),
    HEADER_TEXTS,
    max_size=3,
)
HTTP_STATUSES = st.one_of(
    st.just(200), st.sampled_from([204, 302, 401, 403, 404, 408, 422, 429, 500, 503]), st.integers()
)


@given(http_status=HTTP_STATUSES, headers=HEADERS, body=BODIES)
def test_hostile_answers(http_status: int, headers: dict[str, str], body: bytes) -> None:
    """Whatever comes over the wire becomes a status or one of our errors, and its words can be printed anywhere."""
    outcome: object
    try:
        outcome = decipher(http_status, headers, body, NOW.timestamp())
    except CardprodError as exc:
        outcome = exc
    if isinstance(outcome, ProductionStatus):
        seen = outcome
        assert http_status == 200
        assert str(seen).encode()
        texts: list[object] = [seen.status, seen.kiosk_id, seen.error_code, seen.description]
        for text in texts:
            assert text is None or isinstance(text, str)
            str(text).encode()  # raises if half a surrogate pair is left
        assert seen.occurred_at is None or seen.occurred_at.tzinfo is UTC
    else:
        assert isinstance(outcome, BadReply | ApiError)
        assert str(outcome).isprintable()
        assert len(outcome.body) <= 2048
        outcome.body.encode()
        if isinstance(outcome, ApiError):
            assert not 200 <= http_status < 300
            assert outcome.retry_after is None or 0 <= outcome.retry_after <= 3600


def test_beyond_the_registered_statuses() -> None:
    """An HTTP status past 599 is no server trouble, and so not worth a retry."""
    with pytest.raises(ApiError) as caught:
        decipher(999, {}, b"")
    assert type(caught.value) is ApiError
    assert not is_transient(caught.value)


def test_blank_status() -> None:
    """A status of white space is no status."""
    with pytest.raises(BadReply, match="status"):
        decipher(200, {}, b'{"status":" "}')
