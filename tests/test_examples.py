"""Every Python example in README and in the docstrings runs, in virtual time, against the simulator."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import CodeBlockParser

import cardprod
from cardprod import simulator
from cardprod.simulator import Simulator
from tests.conftest import CARD

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from sybil import Example

_ROOT = Path(__file__).parent.parent
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "cardprod").rglob("*.py"))]


@asynccontextmanager
async def _wise_is_a_kiosk() -> AsyncGenerator[Simulator, None]:
    """Let Wise's addresses lead to a simulator that knows every card and every token."""
    async with Simulator(token=None, plan_for_unknown="prints") as kiosk:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cardprod, "SANDBOX", kiosk.base_url)
            patch.setattr(cardprod, "PRODUCTION", kiosk.base_url)
            patch.setenv("CARDPROD_TOKEN", "user-token")
            patch.setenv("CARDPROD_BASE_URL", kiosk.base_url)
            yield kiosk


def _examples() -> list[Any]:
    parser = CodeBlockParser(language="python", evaluator=lambda _: None)
    sybil = Sybil(parsers=[parser], document_types={".py": PythonDocStringDocument})
    return [
        pytest.param(example, id=f"{page.relative_to(_ROOT)}:{example.line}")
        for page in _PAGES
        for example in sybil.parse(page).examples()
    ]


@pytest.mark.parametrize("example", _examples())
async def test_example(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example in README or a docstring runs as it stands; with `await` outside a function, as the body of one."""
    source = "\n" * (example.line + example.parsed.line_offset) + str(example.parsed)
    code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    mains: list[Coroutine[Any, Any, object]] = []
    monkeypatch.setattr(asyncio, "run", mains.append)  # there is a loop already, in virtual time
    async with (
        _wise_is_a_kiosk() as kiosk,
        cardprod.Client("user-token", base_url=kiosk.base_url) as client,
    ):
        public = {name: getattr(module, name) for module in (cardprod, simulator) for name in module.__all__}
        cards = [CARD, (123456, "card-2"), (123456, "card-3")]
        namespace = public | {"cardprod": cardprod, "client": client, "kiosk": kiosk, "token": "card-1", "card": CARD}
        namespace["cards"] = cards
        for name, value in namespace.items():
            example.namespace.setdefault(name, value)
        example.namespace.update(client=client, SANDBOX=kiosk.base_url, asyncio=asyncio, __name__="example")
        body = eval(code, example.namespace)  # noqa: S307 - our own examples
        for main in [*mains, *([body] if body else [])]:
            await main


def _recipe(words: str) -> str:
    """Take the README's one example that has these words in it."""
    blocks = (_ROOT / "README.md").read_text().split("```python\n")[1:]
    [recipe] = [block.partition("```")[0] for block in blocks if words in block]
    return recipe


async def test_web_app_recipe() -> None:
    """The README's web app answers a browser with the card's status."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "__name__": "recipe"}
    exec(_recipe("one_client"), namespace)  # noqa: S102 - our own recipe
    async with _wise_is_a_kiosk(), TestClient(TestServer(namespace["app"])) as browser:
        response = await browser.get("/cards/my-card")
        assert await response.json() == {"status": "READY", "why": None}


async def test_worker_recipe() -> None:
    """The README's worker waits for a card until it is final."""
    namespace: dict[str, Any] = {"cardprod": cardprod}
    async with _wise_is_a_kiosk():
        exec(_recipe("check_card"), namespace)  # noqa: S102 - our own recipe
        async with namespace["CLIENT"]:
            assert (await namespace["check_card"](123456, "my-card")).is_produced


async def test_lifetime_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's open batch follows cards that come while it runs, and ends when no more will."""
    namespace: dict[str, Any] = {"cardprod": cardprod, "asyncio": asyncio}
    exec(_recipe("follow_all"), namespace)  # noqa: S102 - our own recipe

    async def new_cards() -> AsyncGenerator[tuple[int, str]]:
        for number in range(3):
            yield (123456, f"card-{number}")
            await asyncio.sleep(60)

    async with _wise_is_a_kiosk(), cardprod.Client("user-token", base_url=cardprod.SANDBOX) as client:
        await namespace["follow_all"](client, new_cards())
    assert capsys.readouterr().out.count("PRODUCED") == 3


def test_pytest_recipe(tmp_path: Path) -> None:
    """The README's test of somebody's own app passes under pytest with pytest-asyncio, outside this project."""
    (tmp_path / "test_recipe.py").write_text("import cardprod\n" + _recipe("pytest_asyncio"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_recipe.py"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
    assert "1 passed" in finished.stdout
