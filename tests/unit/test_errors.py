"""The exception tree: drawn as it is, and every error whole, printable and copyable."""

from __future__ import annotations

import copy
import pickle
import re
from typing import TYPE_CHECKING, Any

import pytest

import cardprod
from cardprod import errors
from cardprod.errors import (
    ApiError,
    BadEvent,
    BadReply,
    BadSignature,
    CardNotFound,
    CardprodError,
    Forbidden,
    ProductionFailed,
    RateLimited,
    RequestTimeout,
    ServerError,
    StrongAuthenticationRequired,
    TokenRefreshFailed,
    TransportError,
    Unauthorized,
    UsageError,
    WaitTimeout,
)
from cardprod.models import Card, ProductionStatus, Transition
from tests.raw_server import RawServer, http_answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_Branch = tuple[str, frozenset[str]]

CARD = Card(123456, "ca0c8154-1e14-4464-a1ce-dcea7dc3de52")
SEEN = ProductionStatus("IN_PROGRESS", kiosk_id="WIS00001")
FAILED = ProductionStatus("PRODUCTION_ERROR", kiosk_id="WIS00001", error_code="PRT_RIBBON_ENDED")

API_ERRORS: list[type[ApiError]] = [
    ApiError,
    Unauthorized,
    TokenRefreshFailed,
    Forbidden,
    StrongAuthenticationRequired,
    CardNotFound,
    RateLimited,
    ServerError,
]


def _api_error(cls: type[ApiError]) -> ApiError:
    return cls(
        "said no", http_status=418, code="teapot", detail="short", trace_id="t-1", body="{}", retry_after=1.5, card=CARD
    )


EVERY_ERROR: list[CardprodError] = [
    CardprodError("said no", card=CARD),
    UsageError("said no", card=CARD),
    TransportError("said no", card=CARD),
    RequestTimeout("said no", card=CARD),
    *map(_api_error, API_ERRORS),
    BadReply("said no", trace_id="t-1", body="[]", card=CARD),
    WaitTimeout("said no", last=SEEN, polls=3, elapsed=9.5, card=CARD),
    ProductionFailed("said no", status=FAILED, card=CARD),
    BadSignature("said no", card=CARD),
    BadEvent("said no", delivery_id="d-1", card=CARD),
]


def _name(error: CardprodError) -> str:
    return type(error).__name__


def _drawn_tree(docstring: str) -> set[_Branch]:
    """Read the drawing: each class and the classes it stands under, by its indentation and in its parentheses."""
    drawing = docstring.split("```")[1]
    path: list[str] = []
    tree: set[_Branch] = set()
    for line in drawing.strip().splitlines():
        match = re.match(r"(?P<indent>[│├└─ ]*)(?P<name>\w+)(?:\((?P<bases>[\w, ]+)\))?", line)
        assert match is not None, line
        depth = len(match["indent"]) // 4
        bases = {base.strip() for base in (match["bases"] or "").split(",") if base}
        del path[depth:]
        tree.add((match["name"], frozenset(bases | set(path[-1:]))))
        path.append(match["name"])
    return tree


def _real_tree() -> set[_Branch]:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BaseException)]
    return {(cls.__name__, frozenset(base.__name__ for base in cls.__bases__)) for cls in classes}


def _pickled(error: CardprodError) -> CardprodError:
    again: CardprodError = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    return again


def test_drawn_tree_is_the_real_one() -> None:
    """The tree in the module's docstring has every class, under the bases it really has."""
    assert errors.__doc__ is not None
    assert _drawn_tree(errors.__doc__) == _real_tree()


def test_every_error_is_tested_here() -> None:
    """No error is added without an example in this module."""
    assert {_name(error) for error in EVERY_ERROR} == set(errors.__all__)


@pytest.mark.parametrize("error", EVERY_ERROR, ids=_name)
def test_one_root(error: CardprodError) -> None:
    """`except CardprodError` catches every error."""
    assert isinstance(error, CardprodError)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, _pickled], ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("error", EVERY_ERROR, ids=_name)
def test_survives_copying(error: CardprodError, way: Callable[[CardprodError], CardprodError]) -> None:
    """An error that was copied, or that crossed a process border, is the same error: class, words and attributes."""
    again = way(error)
    assert again is not error
    assert (type(again), str(again), again.args, vars(again)) == (
        type(error),
        "card 123456/ca0c8154…: said no",
        error.args,
        vars(error),
    )


@pytest.mark.parametrize("error", EVERY_ERROR, ids=_name)
def test_names_its_card_in_short(error: CardprodError) -> None:
    """Printed, an error names its card with a shortened token, in one line."""
    assert str(error) == "card 123456/ca0c8154…: said no"


def test_no_card() -> None:
    """An error that is about no single card prints its message alone."""
    assert str(TransportError("the connection broke")) == "the connection broke"


def test_card_may_be_told_later() -> None:
    """Naming the card after the error was made is as good as naming it at once."""
    error = TransportError("the connection broke")
    error.card = CARD
    assert str(error) == "card 123456/ca0c8154…: the connection broke"


@pytest.mark.parametrize(
    ("cls", "builtin"), [(RequestTimeout, TimeoutError), (WaitTimeout, TimeoutError), (UsageError, ValueError)]
)
def test_is_what_python_calls_it(cls: type[CardprodError], builtin: type[Exception]) -> None:
    """Timeouts are Python's `TimeoutError` too, and a bad argument is a `ValueError`."""
    assert issubclass(cls, builtin)


@pytest.mark.parametrize("cls", API_ERRORS)
def test_api_error_tells_what_the_answer_told(cls: type[ApiError]) -> None:
    """Whatever an answer told is an attribute of every `ApiError`."""
    error = _api_error(cls)
    assert (error.http_status, error.code, error.detail, error.trace_id, error.body, error.retry_after) == (
        418,
        "teapot",
        "short",
        "t-1",
        "{}",
        1.5,
    )


def test_foreign_words_are_one_line() -> None:
    """What the API says cannot break the line of an error, a status or a transition, nor play with a terminal."""
    foreign = ProductionStatus("PRODUCTION_ERROR", kiosk_id="a\nb", error_code="\x1b[31m", description="x\ny\x07")
    with pytest.raises(ProductionFailed) as caught:
        foreign.raise_for_failure()
    step = Transition(previous=ProductionStatus("ON\nTHE\x1bMOON"), current=foreign, elapsed=1.0, polls=2)
    for text in (str(caught.value), str(foreign), str(step)):
        assert text.isprintable()


# --- Each class, reached by a real call ---

_TRACE = {"x_trace_id": "t-123"}
_REACHED: list[tuple[type[CardprodError], str, bytes, str]] = [
    (UsageError, "closed", b"", "make a new one"),
    (TransportError, "look", b"not HTTP at all\r\n\r\n", "check base_url"),
    (RequestTimeout, "look", b"", "try again"),
    (ApiError, "look", http_answer(422, "{}", **_TRACE), "422; .*check base_url"),
    (Unauthorized, "look", http_answer(401, "{}", **_TRACE), "401; .*get a new user token"),
    (TokenRefreshFailed, "refresh", http_answer(401, "{}", **_TRACE), "401; .*check .*client_secret"),
    (Forbidden, "look", http_answer(403, "{}", **_TRACE), "403; .*check the profile"),
    (
        StrongAuthenticationRequired,
        "look",
        http_answer(403, "{}", x_2fa_approval_result="REJECTED", **_TRACE),
        "403; .*must approve",
    ),
    (CardNotFound, "look", http_answer(404, "{}", **_TRACE), "404; .*check both ids"),
    (RateLimited, "look", http_answer(429, "{}", **_TRACE), "429; .*ask less often"),
    (ServerError, "look", http_answer(503, "{}", **_TRACE), "503; .*try later"),
    (BadReply, "look", http_answer(200, "[]", **_TRACE), "a 200 that is not the documented shape: .*array"),
    (WaitTimeout, "wait", http_answer(), "last seen READY; .*wait again"),
    (ProductionFailed, "wait", http_answer(200, '{"status":"PRODUCTION_ERROR"}'), "not produced: PRODUCTION_ERROR"),
]


def test_every_class_is_reached() -> None:
    """No class but the root is missed by the table of those that a real call reaches."""
    by_a_client = {cls.__name__ for cls, *_ in _REACHED} | {"CardprodError"}
    by_a_webhook = {"BadSignature", "BadEvent"}  # in test_webhooks
    assert by_a_client | by_a_webhook == set(errors.__all__)


async def _ask(client: cardprod.Client, how: str) -> None:
    if how == "wait":
        final = await client.wait_until_final(CARD.profile_id, CARD.card_token, timeout=5)
        final.raise_for_failure()
    else:
        await client.get_status(CARD.profile_id, CARD.card_token)


@pytest.mark.parametrize(("cls", "how", "reply", "words"), _REACHED, ids=[cls.__name__ for cls, *_ in _REACHED])
async def test_reached_error_is_whole(cls: type[CardprodError], how: str, reply: bytes, words: str) -> None:
    """A real call's error is one line with what came, what to do and the trace id, and survives pickle and copy."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(reply)

    async with RawServer(answer) as server:
        token: Any = "token"
        if how == "refresh":
            token = cardprod.OAuthToken("client-id", "client-secret", "refresh-token", base_url=server.base_url)
        async with cardprod.Client(token, base_url=server.base_url, attempts=1) as client:
            if how == "closed":
                await client.close()
            with pytest.raises(cls) as caught:
                await _ask(client, how)
    error = caught.value
    assert type(error) is cls
    assert str(error).isprintable()
    assert re.search(words, str(error))
    assert (getattr(error, "trace_id", None) is not None) == (b"x-trace-id" in reply) == ("t-123" in str(error))
    if cls is not ProductionFailed:  # a status does not know its card
        assert error.card == CARD
        assert str(error).startswith(f"card {CARD}: ")
    for again in (_pickled(error), copy.copy(error), copy.deepcopy(error)):
        assert (type(again), str(again), vars(again)) == (cls, str(error), vars(error))
    if type(error) in {TransportError, RequestTimeout}:
        assert error.__cause__ is not None
