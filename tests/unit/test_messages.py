"""What errors say: what happened and what to do. Their texts are read from the source, all of them."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import cardprod
from cardprod import AdaptiveSchedule, Backoff, Card, Checkpoint, Client, OAuthToken, RateLimit, UsageError, errors
from cardprod.simulator import Subscription
from cardprod.webhooks import Verifier, sign
from tests.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE: Final = Path(cardprod.__file__).parent
RAISED: Final = {*errors.__all__, "ImportError"}
JOINED: Final = {
    "{…}",
    "another run continues from {…}: {…}",
    "{…} after {…} s and {…} answered polls: {…}; {…}",
    "{…} cannot be read: {…}",
    "{…} cannot be used: {…}",
    "{…} is not possible: {…}; {…}",
    "{…} is of cards at {…}, not at {…}: {…}",
    "{…} is of other cards: {…}; a list may only grow, so {…}",
    "{…} {…}",
    "card number {…}: {…}",
    "nothing was sent: {…}",
    "the simulator is not running; {…} inside its `async with` block",
}
"""Texts of which a part is made elsewhere, or is the operating system's, and says what to do."""

TO_DO: Final = re.compile(
    r"\b(?:must|expected|there are|is not what)\b"
    r"|(?:^|[:;,] |, or |, so |else )"
    r"(?:add|ask|await|call|check|choose|convert|enter|fix|have|(?:pip )?install|iterate|keep|lend|load|make|name|"
    r"pass|report|send|set|start|stop|strip|take|try|use|wait)\b"
)
"""How a message says what would be right, or what to do."""


def _text_of(node: ast.expr) -> str:
    """Give the text of a literal, with `{…}` for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(value) for value in node.values)
    return "{…}"


def _messages() -> Iterator[tuple[str, str]]:
    """Give each text with which an error of ours is made, and where."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED and node.args:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", _text_of(node.args[0])


def test_messages_say_what_to_do() -> None:
    """Each message says what to do, or what would be right, and begins with a subject that the reader knows."""
    texts = [(where, text) for where, text in _messages() if text not in JOINED]
    assert len(texts) > 100
    with Table() as table:
        for where, text in texts:
            with table.row(where, text):
                assert TO_DO.search(text)
                assert not re.match(r"(?:it|they|use it)\b", text)


class _Odd:
    """What no argument can be."""

    def __repr__(self) -> str:
        return "<odd>"


CHECKPOINT: Final = Checkpoint.for_cards([(1, "a")])
CALLS: Final[list[tuple[Callable[..., Any], dict[str, Any]]]] = [
    (Client, {"token": "user-token"}),
    (OAuthToken, {"client_id": "id", "client_secret": "secret", "refresh_token": "r", "access_token": "a"}),
    (RateLimit, {}),
    (RateLimit().share, {"workers": 2}),
    (Backoff, {}),
    (AdaptiveSchedule, {}),
    (Card, {"profile_id": 1, "card_token": "a"}),
    (Checkpoint.for_cards, {"cards": ()}),
    (CHECKPOINT.extended, {"seconds": 1}),
    (Verifier.for_sandbox().verify, {"body": b"", "headers": {}}),
    (Verifier.for_sandbox().parse, {"body": b"", "headers": {}}),
    (sign, {"body": b"", "private_key": "PEM"}),
    (Subscription, {"url": "http://127.0.0.1:8000/"}),
]
OF_A_CLIENT: Final[list[tuple[str, dict[str, Any]]]] = [
    ("get_status", {"profile_id": 1, "card_token": "a"}),
    ("wait_until_final", {"profile_id": 1, "card_token": "a"}),
    ("get_statuses", {"cards": ()}),
    ("wait_until_all_final", {"cards": ()}),
    ("resume", {"checkpoint": CHECKPOINT}),
    ("sweep", {"checkpoint": CHECKPOINT}),
    ("notify", {"event": None}),
    ("pause", {"seconds": 1}),
]
ANYTHING: Final = {"seed"}
"""Arguments that can be anything that `random.Random` takes."""


async def _result_of(call: Callable[..., Any], arguments: dict[str, Any]) -> None:
    made = call(**arguments)
    if inspect.isawaitable(made):
        await made


async def test_a_bad_argument_is_named() -> None:
    """Whichever argument of a public call is wrong, the error names it and says what would be right, before any I/O."""
    client = Client("user-token", base_url="http://127.0.0.1:1")
    with Table() as table:
        for call, right in [*CALLS, *((getattr(client, name), right) for name, right in OF_A_CLIENT)]:
            for name in set(inspect.signature(call).parameters) - ANYTHING:
                with table.row(call.__qualname__, name):
                    with pytest.raises(UsageError) as caught:
                        await _result_of(call, {**right, name: _Odd()})
                    message = str(caught.value)
                    assert name.replace("_", " ") in message.replace("_", " ")
                    assert TO_DO.search(message)
    await client.close()
