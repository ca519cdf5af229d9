"""The exception tree: drawn as it is, and every error whole, printable and copyable."""

from __future__ import annotations

import copy
import pickle
import re
from typing import TYPE_CHECKING

import pytest

from cardprod import errors
from cardprod.models import ProductionStatus, Transition
from tests.cards import CARD
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

_Branch = tuple[str, frozenset[str]]

SEEN = ProductionStatus("IN_PROGRESS", kiosk_id="WIS00001")
FAILED = ProductionStatus("PRODUCTION_ERROR", kiosk_id="WIS00001", error_code="PRT_RIBBON_ENDED")

API_ERRORS: list[type[errors.ApiError]] = [
    errors.ApiError,
    errors.Unauthorized,
    errors.TokenRefreshFailed,
    errors.Forbidden,
    errors.StrongAuthenticationRequired,
    errors.CardNotFound,
    errors.RateLimited,
    errors.ServerError,
]


def api_error(cls: type[errors.ApiError]) -> errors.ApiError:
    return cls(
        "said no", http_status=418, code="teapot", detail="short", trace_id="t-1", body="{}", retry_after=1.5, card=CARD
    )


EVERY_ERROR: list[errors.CardprodError] = [
    errors.CardprodError("said no", card=CARD),
    errors.UsageError("said no", card=CARD),
    errors.TransportError("said no", card=CARD),
    errors.RequestTimeout("said no", card=CARD),
    *map(api_error, API_ERRORS),
    errors.RateLimited("said no", http_status=429, limited_by="wise-public-api", card=CARD),
    errors.BadReply("said no", trace_id="t-1", body="[]", card=CARD),
    errors.WaitTimeout("said no", last=SEEN, polls=3, elapsed=9.5, card=CARD),
    errors.DurableError("said no", card=CARD),
    errors.ProductionFailed("said no", status=FAILED, card=CARD),
    errors.BadSignature("said no", card=CARD),
    errors.BadEvent("said no", delivery_id="d-1", card=CARD),
]


def _name(error: errors.CardprodError) -> str:
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


def _pickled(error: errors.CardprodError) -> errors.CardprodError:
    again: errors.CardprodError = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    return again


def test_drawn_tree_is_the_real_one() -> None:
    """The tree in the module's docstring has every class, under the bases it really has."""
    assert errors.__doc__ is not None
    assert _drawn_tree(errors.__doc__) == _real_tree()


def test_every_error_is_tested_here() -> None:
    """No error is added without an example in this module."""
    assert {_name(error) for error in EVERY_ERROR} == set(errors.__all__)


def test_one_root() -> None:
    """`except CardprodError` catches every error; timeouts are Python's too, and a bad argument is a `ValueError`."""
    assert all(isinstance(error, errors.CardprodError) for error in EVERY_ERROR)
    assert {_name(error) for error in EVERY_ERROR if isinstance(error, TimeoutError)} == {
        "RequestTimeout",
        "WaitTimeout",
    }
    assert {_name(error) for error in EVERY_ERROR if isinstance(error, ValueError)} == {"UsageError"}


def test_survives_copying() -> None:
    """An error that was copied, or that crossed a process border, is the same error: class, words and attributes."""
    ways: dict[str, Callable[[errors.CardprodError], errors.CardprodError]] = {
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
        "pickle": _pickled,
    }
    with Table() as table:
        for error in EVERY_ERROR:
            for name, way in ways.items():
                with table.row(_name(error), name):
                    again = way(error)
                    assert again is not error
                    assert (type(again), str(again), again.args) == (type(error), str(error), error.args)
                    assert vars(again) == vars(error)
                    assert vars(again) is not vars(error)


def test_names_its_card_in_short() -> None:
    """Printed, an error names its card with a shortened token, in one line, also where its own words name it."""
    assert {str(error) for error in EVERY_ERROR} == {"card 123456/ca0c…de52: said no"}
    server_names_it = errors.ServerError(f"no {CARD.card_token}, no", http_status=500, card=CARD)
    assert str(server_names_it) == "card 123456/ca0c…de52: no ca0c…de52, no"


def test_card_may_be_named_later() -> None:
    """Without a card an error prints its message alone; naming the card afterwards is as good as naming it at once."""
    error = errors.TransportError("the connection broke")
    assert str(error) == "the connection broke"
    error.card = CARD
    assert str(error) == "card 123456/ca0c…de52: the connection broke"
    error.args = ()
    assert str(error) == "card 123456/ca0c…de52: "


def test_api_error_has_what_the_answer_said() -> None:
    """Whatever an answer said is an attribute of every `ApiError`."""
    said = {"http_status": 418, "code": "teapot", "detail": "short", "trace_id": "t-1", "body": "{}"}
    for error in map(api_error, API_ERRORS):
        unsaid = {"from_gateway": False, "limited_by": None}
        assert vars(error) == said | {"retry_after": 1.5, "card": CARD} | unsaid


def test_foreign_words_are_one_line() -> None:
    """What the API says cannot break the line of an error, a status or a transition, nor play with a terminal."""
    foreign = ProductionStatus("PRODUCTION_ERROR", kiosk_id="a\nb", error_code="\x1b[31m", description="x\ny\x07")
    with pytest.raises(errors.ProductionFailed) as caught:
        foreign.raise_for_failure()
    step = Transition(previous=ProductionStatus("ON\nTHE\x1bMOON"), current=foreign, elapsed=1.0, polls=2)
    for text in (str(caught.value), str(foreign), str(step)):
        assert text.isprintable()
