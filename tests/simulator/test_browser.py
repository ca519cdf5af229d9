"""The simulator's page in a real browser: a click moves a card, and a real client that waits sees the transition."""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from itertools import product
from random import Random
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from anyio.from_thread import BlockingPortal, start_blocking_portal

import cardprod
from cardprod.simulator import PLANS, Simulator, Stage
from tests.table import Table
from tests.waiting import LIMIT

pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[browser]'")

from selenium.webdriver.common.keys import Keys

from tests.simulator.browser import Browser, browser_programs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator
    from concurrent.futures import Future

    from cardprod.simulator import Plan

CARD = cardprod.Card(123456, "my-card")
ROW = f'#card-rows tr[data-key="123456/{CARD.card_token}"]'
OFTEN = cardprod.Backoff(first=0.05, factor=1, jitter=0)


class Live:
    """A kiosk with a page, and a client of it, in an event loop of their own that goes by real time."""

    def __init__(self, portal: BlockingPortal, kiosk: Simulator, client: cardprod.Client) -> None:
        self._portal = portal
        self.call = portal.call
        """Calls something there, and waits for it."""
        self.kiosk = kiosk
        self.client = client

    def status(self) -> str:
        """Say how the card is."""
        return self.call(self.kiosk.state_of, CARD).status

    def add_many(self, count: int, plan: Callable[[int], Plan]) -> None:
        """Add cards at once, each on a plan by its number, which its token ends with."""

        def add() -> None:
            for number in range(count):
                self.kiosk.add((123456, f"ca0c8154-1e14-4464-a1ce-dcea7dc-{number:04}"), plan(number))

        self.call(add)

    def wait_for_card(self) -> tuple[Future[None], list[cardprod.Transition]]:
        """Let the client wait for the card until it is final, and note each transition."""
        steps: list[cardprod.Transition] = []

        async def wait() -> None:
            wait = self.client.wait_until_final(CARD.profile_id, CARD.card_token, timeout=None, schedule=OFTEN)
            async for step in wait:
                steps.append(step)  # noqa: PERF401 - seen as it comes, not when all is over

        return self._portal.start_task_soon(wait), steps

    @contextmanager
    def serve(self, route: web.RouteDef) -> Generator[str]:
        """Serve one thing there, and give its URL."""
        app = web.Application()
        app.add_routes([route])
        with self._portal.wrap_async_context_manager(TestServer(app)) as server:
            yield str(server.make_url(route.path))


@asynccontextmanager
async def _kiosk_and_client() -> AsyncGenerator[tuple[Simulator, cardprod.Client]]:
    async with Simulator(token=None, page=True) as kiosk, cardprod.Client("any", base_url=kiosk.base_url) as client:
        yield kiosk, client


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """A browser; skips where Chromium is not installed."""
    if browser_programs() is None:
        pytest.skip("Chromium is not installed: no chromium and chromedriver on the path")
    with Browser() as browser:
        yield browser


@pytest.fixture
def live() -> Iterator[Live]:
    """A kiosk with a page, and a client of it."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_kiosk_and_client()) as (kiosk, client):
        yield Live(portal, kiosk, client)


@pytest.fixture
def page(window: Browser, live: Live) -> Iterator[Browser]:
    """The page, open, and the card on it, READY until somebody does something; its console stays empty."""
    live.call(live.kiosk.add, CARD, "never")
    window.complaints()
    window.set_preferences()
    window.set_width(1280)
    window.open(live.kiosk.base_url)
    window.wait_for_text(ROW, "READY")
    yield window
    complaints = window.complaints()
    window.open("about:blank")
    assert complaints == []


_BUTTON = """
const [within, name] = arguments;
return [...document.querySelectorAll(`${within} button`)].find((button) => button.checkVisibility() &&
  (button.ariaLabel ?? button.textContent).trim().startsWith(name))
"""


def click(page: Browser, name: str, within: str = "body") -> None:
    """Click the button that has this name, once it can be seen."""

    def is_clicked() -> bool:
        button = page.run(_BUTTON, within, name)
        if button is not None:
            button.click()
        return button is not None

    page.wait_for(is_clicked, f"a button {name!r}")


def fill(page: Browser, css: str, text: str) -> None:
    """Write into a field, instead of what is there."""
    field = page.find(css)
    field.clear()
    field.send_keys(text)


def choose_error(page: Browser, code: str) -> None:
    """Choose an error."""
    page.wait_for(lambda: page.find("#choose").is_displayed(), "the choice of an error")
    page.find(f'#choose-error option[value="{code}"]').click()
    click(page, "OK", "#choose")


# --- Driving cards ---


def test_every_move(page: Browser, live: Live) -> None:
    """Each move has a button, an error is chosen, and a client that waits sees where each move leads."""
    waiting, steps = live.wait_for_card()
    click(page, "Refuse", ROW)
    choose_error(page, "NO_BRANCH_LINKED_TO_KIOSK")
    waiting.result(LIMIT)
    assert steps[-1].current.error_code is cardprod.ErrorCode.NO_BRANCH_LINKED_TO_KIOSK
    click(page, "Refuse", ROW)
    page.find("#choose-error").send_keys(Keys.ESCAPE)  # chooses nothing, and not the same again
    page.wait_for(lambda: not page.find("#choose").is_displayed(), "Escape closes it")
    assert not page.find("#error").is_displayed()
    click(page, "Retry", ROW)
    page.wait_for(lambda: live.status() == "IN_PROGRESS", "the production begins again")
    waiting, steps = live.wait_for_card()
    page.wait_for(lambda: steps, "the client sees the production")
    click(page, "Fail", ROW)
    choose_error(page, "PRD_FEEDER_JAM")
    waiting.result(LIMIT)
    assert [step.current.status for step in steps] == ["IN_PROGRESS", "PRODUCTION_ERROR"]
    assert steps[-1].current.error_code is cardprod.ErrorCode.PRD_FEEDER_JAM
    page.wait_for_text(ROW, "feeder card jam")
    click(page, "Retry", ROW)
    click(page, "Finish", ROW)
    page.wait_for_text(ROW, "none left")
    assert live.status() == "PRODUCED"


def test_every_error_can_be_chosen(page: Browser) -> None:
    """The choices are the 22 request and the 36 production errors, under where they come from, each with its code."""
    click(page, "Refuse", ROW)
    page.wait_for(lambda: page.find("#choose").is_displayed(), "the choice of an error")
    assert len(page.find_all("#choose-error option")) == 22
    page.find("#choose-error").send_keys(Keys.ESCAPE)
    page.wait_for(lambda: not page.find("#choose").is_displayed(), "Escape closes it")
    click(page, "Start", ROW)
    click(page, "Fail", ROW)
    page.wait_for(lambda: page.find("#choose").is_displayed(), "the choice of an error")
    assert len(page.find_all("#choose-error option")) == 36
    titles = [group.get_attribute("label") for group in page.find_all("#choose-error optgroup")]
    assert titles[:2] == ["Production: feeder, hopper, chip, stripe", "Printer"]
    assert len(titles) == 7
    assert "Ribbon has ended PRT_RIBBON_ENDED" in page.text_of("#choose-error")
    click(page, "Cancel", "#choose")


def test_added_on_the_page(page: Browser, live: Live) -> None:
    """A card that is added with a plan goes through it by itself."""
    fill(page, "#add-token", "another")
    assert [option.get_attribute("value") for option in page.find_all("#add-plan option")] == list(PLANS)
    page.find('#add-plan option[value="rejected"]').click()
    click(page, "Add card", "#add-card")
    page.wait_for_text("#card-rows", "another")
    page.wait_for_text('#card-rows tr[data-key="123456/another"]', "KIOSK_ID_NOT_FOUND")
    assert live.call(live.kiosk.state_of, (123456, "another")).plan == "rejected"


def test_impossible_move(page: Browser, live: Live) -> None:
    """A move that is not possible any more is answered with the reason, which can be dismissed."""
    click(page, "Refuse", ROW)
    page.wait_for(lambda: page.find("#choose").is_displayed(), "the choice of an error")
    live.call(live.kiosk.start, CARD)
    choose_error(page, "KIOSK_ID_NOT_FOUND")
    page.wait_for_text("#error", "refuse is not possible: it is IN_PROGRESS; possible: finish, fail")
    page.wait_for(lambda: page.find("#error").is_displayed(), "the error")
    assert len(page.complaints()) == 1  # the browser notes the 400
    click(page, "Dismiss")
    page.wait_for(lambda: not page.find("#error").is_displayed(), "no error")


# --- Kiosks, faults, webhooks ---


def test_kiosk_offline(page: Browser, live: Live) -> None:
    """At a kiosk that somebody takes offline a start is pending, and begins when it is brought back."""
    click(page, "Take offline", "#kiosks")
    page.wait_for_text("#kiosks", "offline")
    click(page, "Start", ROW)
    page.wait_for_text(ROW, "REQUEST_CREATED_BUT_NOT_STARTED")
    page.wait_for_text(ROW, "starts when its kiosk is online")
    click(page, "Bring online", "#kiosks")
    page.wait_for_text(ROW, "IN_PROGRESS")
    page.wait_for_text("#kiosks", "1 in production")
    assert live.status() == "IN_PROGRESS"


def test_another_kiosk(page: Browser, live: Live) -> None:
    """With several kiosks a card can be started at any."""
    click(page, "Add kiosk")
    page.wait_for_text("#kiosks", "WIS00002")
    page.wait_for(lambda: page.find_all(f"{ROW} select"), "a choice of kiosks")
    page.find(f'{ROW} select option[value="WIS00002"]').click()
    click(page, "Start", ROW)
    page.wait_for_text(ROW, "IN_PROGRESS")
    seen = live.call(live.client.get_status, CARD.profile_id, CARD.card_token)
    assert seen.kiosk_id == "WIS00002"


def test_requests_are_shown(page: Browser, live: Live) -> None:
    """The next answer can be a 429, and the client comes through it: the log has both, and the card's are counted."""
    page.find('#fault option[value="429"]').click()
    fill(page, "#fault-seconds", "0")
    click(page, "Apply", "#faults")
    page.wait_for_text("#faults-set", "next answer: 429, Retry-After: 0")
    assert live.call(live.client.get_status, CARD.profile_id, CARD.card_token).status == "READY"
    page.wait_for_text("#request-rows", "429 fault: 429, Retry-After: 0")
    page.wait_for_text("#request-rows", "200 READY")
    page.wait_for_text("#faults-set", "none")
    page.wait_for(lambda: page.text_of(f"{ROW} .cell-requests") == "1", "one request that was served")
    assert "correlation id" in str(page.find("#request-rows tr td:nth-child(2)").get_attribute("title"))


def test_error_rate_latency_and_reset(page: Browser, live: Live) -> None:
    """An error rate and a latency can be applied, both at once, and reset; Apply alone adds no fault."""
    fill(page, "#latency", "0.5")
    fill(page, "#error-rate", "0.2")
    click(page, "Apply", "#faults")
    page.wait_for_text("#faults-set", "latency 0.5 s")
    page.wait_for_text("#faults-set", "error rate 0.2 %")
    assert (live.kiosk.faults.latency, live.kiosk.faults.error_rate, live.kiosk.faults.next) == (0.5, 0.002, ())
    click(page, "Reset", "#faults")
    page.wait_for_text("#faults-set", "none")
    page.wait_for(lambda: page.run("return document.querySelector('#latency').value") == "0", "the fields are reset")


def test_webhooks_are_shown(page: Browser, live: Live) -> None:
    """Each change's webhook is shown with the endpoint's answer, until the page unsubscribes it."""

    async def take(_: web.Request) -> web.Response:
        return web.Response()

    with live.serve(web.post("/wise", take)) as url:
        fill(page, "#subscribe-url", url)
        click(page, "Subscribe")
        page.wait_for_text("#subscriptions", f"Sent to {url}")
        click(page, "Start", ROW)
        page.wait_for_text("#delivery-rows", "IN_PROGRESS200")
        click(page, "Send test")
        page.wait_for_text("#delivery-rows", "test")
        click(page, "Unsubscribe")
        page.wait_for(lambda: page.text_of("#subscriptions") == "", "no subscription")
        assert live.kiosk.subscriptions == ()


# --- Reading it ---


def test_keyboard_only(page: Browser, live: Live) -> None:
    """A card is started and jammed with nothing but the keyboard, and the focus goes on where it was."""

    def focused() -> str:
        return str(page.run("const { ariaLabel, labels, textContent } = document.activeElement;"
                            "return (ariaLabel ?? labels?.[0]?.textContent ?? textContent).trim()"))  # fmt: skip

    def press(*keys: str) -> None:
        page.driver.switch_to.active_element.send_keys(*keys)

    def tab_to(name: str) -> None:
        for _ in range(60):
            if focused().startswith(name):
                return
            press(Keys.TAB)
        pytest.fail(f"{name} cannot be reached")

    waiting, steps = live.wait_for_card()
    press(Keys.TAB)
    assert focused() == "Skip to the cards"
    tab_to("Start my-card")
    press(Keys.ENTER)
    page.wait_for(lambda: focused() == "Finish my-card", "the focus goes on")
    tab_to("Fail… my-card")
    press(Keys.ENTER)
    page.wait_for(lambda: focused() == "Error", "the choice of an error")
    press("feeder card jam")
    press(Keys.TAB)
    assert focused() == "OK"
    press(Keys.ENTER)
    waiting.result(LIMIT)
    assert steps[-1].current.error_code is cardprod.ErrorCode.PRD_FEEDER_JAM
    page.wait_for(lambda: focused() == "Retry my-card", "the focus goes on")


def test_changes_are_announced(page: Browser, live: Live) -> None:
    """A change is announced to those who cannot see it, politely, and many at once are counted."""
    assert page.find("#announcement").get_attribute("aria-live") == "polite"
    live.call(live.kiosk.start, CARD)
    page.wait_for_text("#announcement", "my-card is IN_PROGRESS")
    live.add_many(50, lambda _: "never")
    page.wait_for_text("#announcement", "50 cards changed")


async def furnish(kiosk: Simulator) -> None:
    """Add twelve cards in all their states, at three kiosks, one of them offline."""
    kiosk.add_kiosk()
    kiosk.add_kiosk()
    tokens = [str(UUID(int=Random(seed).getrandbits(128), version=4)) for seed in range(12)]
    _, printing, produced, jammed, refused, waiting, held, again, *planned = [
        kiosk.add((123456, token), "never") for token in tokens
    ]
    for card in (printing, produced, jammed, again):
        kiosk.start(card)
    kiosk.finish(produced)
    kiosk.fail(jammed, "PRD_FEEDER_JAM")
    kiosk.refuse(refused, "NO_BRANCH_LINKED_TO_KIOSK")
    kiosk.fail(again, "PRT_RIBBON_ENDED")
    kiosk.retry(again, kiosk_id="WIS00002")
    kiosk.start(held, kiosk_id="WIS00003")
    kiosk.take_offline("WIS00003")
    kiosk.start(waiting, kiosk_id="WIS00003")
    kiosk.add(planned[0], [Stage("READY", 240), Stage("PRODUCED")])
    kiosk.add(planned[1], [Stage("IN_PROGRESS", 90), Stage("PRODUCED")])
    kiosk.add(planned[2], [Stage("QUALITY_CHECK", 900), Stage("PRODUCED")])
    kiosk.add(planned[3], "prints")


@functools.cache
def _axe() -> str:
    return files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")


def _barriers(page: Browser) -> list[str]:
    """Let axe-core search for what keeps people out."""
    page.run(_axe())
    found = page.driver.execute_async_script(
        "const done = arguments[arguments.length - 1]; axe.run(document, {resultTypes: ['violations']}).then(done)"
    )
    return [
        f"{violation['id']}: {violation['help']}: {node['html']} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


_WINDOWS = ((False, 360, True), (True, 1280, False))


@pytest.mark.timeout(300)  # at full size
def test_accessible(page: Browser, live: Live, *, full_size: bool) -> None:
    """Dark or light, wide or narrow, axe-core finds no barrier on the page, nor in the choice of an error."""
    live.call(furnish, live.kiosk)
    live.call(live.kiosk.slow_down, 2)
    page.wait_for_text("#faults-set", "latency")
    page.wait_for_text("#card-rows", "QUALITY_CHECK")
    with Table() as table:
        rows = [*product([False, True], [360, 1280], [False, True])] if full_size else _WINDOWS
        for is_dark, width, is_choosing in rows:
            page.set_preferences(is_dark=is_dark, is_still=True)
            page.set_width(width)
            if is_choosing:
                click(page, "Refuse", ROW)
                page.wait_for(lambda: page.find("#choose").is_displayed(), "the choice of an error")
            with table.row("dark" if is_dark else "light", width, "choice" if is_choosing else "page"):
                assert _barriers(page) == []
            if is_choosing:
                page.find("#choose-error").send_keys(Keys.ESCAPE)
                page.wait_for(lambda: not page.find("#choose").is_displayed(), "no choice")


_TALLEST_STATUS = """
const shown = [...document.querySelectorAll('.status[data-status$="_ERROR"]')];
return Math.max(...shown.map((each) => each.clientHeight))
"""


def test_nothing_overflows(page: Browser, live: Live) -> None:
    """At any width from 360 pixels on nothing hangs out of the page or the table of cards; a status is in one line."""
    live.call(furnish, live.kiosk)
    live.call(live.kiosk.add, (2**63 - 1, "x" * 128), "never")
    page.wait_for_text("#card-rows", "x" * 128)
    with Table() as table:
        for width in (360, 390, 480, 600, 768, 859, 1024, 1099, 1100, 1280, 1600, 1920):
            page.set_width(width)
            with table.row(width):
                assert page.run("return document.documentElement.clientWidth") == width
                assert page.run("return document.documentElement.scrollWidth") <= width
                cards = "const cards = document.getElementById('cards');"
                assert page.run(f"{cards} return cards.scrollWidth - cards.clientWidth") == 0
                assert page.run(_TALLEST_STATUS) < 30


_IS_SEEN = """
const cell = document.querySelector(arguments[0]);
const range = document.createRange();
range.selectNodeContents(cell);
const [text, box] = [range.getBoundingClientRect(), cell.getBoundingClientRect()];
return text.width > box.width && text.right <= box.right
"""


def test_the_end_of_a_long_token_is_seen(page: Browser, live: Live) -> None:
    """Where a log has no room for a card's token its end is seen, which differs where tokens were counted up."""
    card = live.call(live.kiosk.add, (123456, "x" * 120 + "0001"), "never")
    live.call(live.client.get_status, card.profile_id, card.card_token)
    page.wait_for_text("#request-rows", "200 READY")
    assert page.run(_IS_SEEN, "#request-rows .mono")


_ROWS_SEEN = """
const rows = [...document.querySelectorAll("#card-rows tr")].map((row) => row.getBoundingClientRect());
const box = document.querySelector("#cards .rows").getBoundingClientRect();
return rows.filter((row) => row.top >= box.top && row.bottom <= Math.min(box.bottom, innerHeight)).length
"""


def test_twenty_cards_on_a_laptop(page: Browser, live: Live) -> None:
    """At 1280 x 800 twenty cards are seen, a line each with its whole token, and the logs beside them."""
    statuses = ("READY", "PRODUCTION_ERROR", "REQUEST_ERROR", "IN_PROGRESS")
    live.add_many(60, lambda number: [Stage(statuses[number % 4])])
    page.set_width(1280, 800)
    page.wait_for_text("#cards-count", "61")
    page.wait_for(lambda: page.run(_ROWS_SEEN) >= 20, "twenty rows")
    cut = "return [...document.querySelectorAll('.cell-card, .cell-status, .status, .cell-actions')]"
    assert page.run(f"{cut}.filter((each) => each.scrollWidth > each.clientWidth).length") == 0
    for name in ("#faults", "#requests", "#webhooks"):
        bottom = page.run("return document.querySelector(arguments[0]).getBoundingClientRect().bottom", name)
        assert bottom <= 800
    assert page.run("return document.documentElement.scrollHeight") <= 800
    assert len(page.find_all("button.primary")) == 1


def test_first_paint_holds_the_state(window: Browser, live: Live) -> None:
    """What is painted first is the whole state: it comes with the page, before anything else is asked for."""
    live.call(live.kiosk.add, CARD, "never")
    live.call(live.kiosk.slow_down, 2)
    window.block("*/_kiosk/state*")
    window.open(live.kiosk.base_url)
    assert "READY" in window.text_of(ROW)
    assert "latency 2 s" in window.text_of("#faults-set")
    assert window.find(ROW).is_displayed()
    hidden = "delete document.documentElement.dataset.ready; return getComputedStyle(document.body).visibility"
    assert window.run(hidden) == "hidden"  # until the script has shown it
    window.block()
    window.open("about:blank")
    window.complaints()


def test_a_thousand_cards(page: Browser, live: Live) -> None:
    """Of a thousand cards fifty are drawn; they can be turned over, searched and filtered."""
    live.add_many(1000, lambda number: "never" if number % 2 else [Stage("IN_PROGRESS")])
    page.wait_for_text("#cards-count", "1,001")
    page.wait_for_text("#page-shown", "1 to 50 of 1,001")
    assert len(page.find_all("#card-rows tr")) == 50
    click(page, "Older", "#pager")
    page.wait_for_text("#page-shown", "51 to 100 of 1,001")
    fill(page, "#search", "dc-07")
    page.wait_for_text("#page-shown", "1 to 50 of 100")
    click(page, "IN_PROGRESS", "#filters")
    page.wait_for(lambda: not page.find("#pager").is_displayed(), "one page is enough")
    assert page.find('#filters [data-key="IN_PROGRESS"]').text == "IN_PROGRESS 50"
    fill(page, "#search", "nothing like it")
    page.wait_for_text("#no-cards", "No card matches")


def test_reduced_motion(page: Browser, live: Live) -> None:
    """With reduced motion nothing is animated; without, a change is."""
    for is_still in (False, True):
        live.call(live.kiosk.add, CARD, "never")
        page.set_preferences(is_still=is_still)
        live.call(live.kiosk.start, CARD)
        page.wait_for_text(ROW, "IN_PROGRESS")
        duration = page.run(
            "const row = document.querySelector(arguments[0]); row.classList.add('changed');"
            "return getComputedStyle(row.cells[0]).animationName",
            ROW,
        )
        assert duration == ("none" if is_still else "changed")


def test_foreign_text_is_only_text(page: Browser, live: Live) -> None:
    """HTML in a status, a code or a description is shown as it is, and nothing of it runs."""
    evil = "<img src=x onerror=\"document.title='taken'\">"
    live.call(live.kiosk.add, CARD, [Stage(evil, error_code=evil, description=evil)])
    page.wait_for_text(ROW, evil)
    assert page.find_all("#card-rows img, #filters img, #announcement img") == []
    assert page.driver.title.startswith("Kiosk simulator")


def test_another_simulator_takes_its_place(page: Browser, live: Live) -> None:
    """When a simulator is gone the page says so, and comes back with the next one, without the first one's cards."""
    live.call(live.kiosk.add_kiosk, "LOBBY")
    live.call(live.kiosk.add, (1, "old"), [Stage("QUALITY_CHECK")])
    page.wait_for_text("#filters", "QUALITY_CHECK 1")
    page.wait_for_text("#kiosks", "LOBBY")
    port = int(live.kiosk.base_url.rpartition(":")[2])
    live.call(live.kiosk.__aexit__, None, None, None)
    page.wait_for_text("#connection", "Connection lost")
    other = Simulator(port=port, token=None, page=True)
    live.call(other.__aenter__)
    try:
        live.call(other.add, (1, "new"), "never")
        page.wait_for_text("#connection", "Live")
        page.wait_for_text("#card-rows", "new")
        old = {"#card-rows": "old", "#filters": "QUALITY_CHECK", "#kiosks": "LOBBY"}
        page.wait_for(lambda: not any(text in page.text_of(css) for css, text in old.items()), "nothing old")
    finally:
        live.call(other.__aexit__, None, None, None)
    page.complaints()  # the browser's own, of refused connections


def test_tab_in_the_background(page: Browser, live: Live) -> None:
    """A hidden tab asks for nothing, and shows what it missed when it is seen again."""
    hide = (
        "Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.run(hide, True)
    live.call(live.kiosk.start, CARD)
    live.call(live.kiosk.finish, CARD)
    assert "READY" in page.text_of(ROW)
    page.run(hide, False)
    page.wait_for_text(ROW, "PRODUCED")


def test_another_site_can_neither_read_nor_drive_it(page: Browser, live: Live) -> None:
    """Another server's page in the same browser reads nothing and changes nothing, whatever it tries."""
    script = f"""
    const to = "{live.kiosk.base_url}/_kiosk/";
    const body = JSON.stringify({{profile_id: {CARD.profile_id}, card_token: "{CARD.card_token}"}});
    const outcomes = [];
    const attempt = (what) => what.then((answer) => answer.text()).then((text) => outcomes.push(text), () => {{}});
    Promise.all([
      attempt(fetch(to + "start", {{method: "POST", body, mode: "no-cors"}})),
      attempt(fetch(to + "start", {{method: "POST", body, headers: {{"Content-Type": "application/json"}}}})),
      attempt(fetch(to + "state")),
      attempt(fetch("{live.kiosk.base_url}/")),
    ]).then(() => document.title = "tried " + outcomes.join(""));
    """

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=f"<!doctype html><script>{script}</script>", content_type="text/html")

    with live.serve(web.get("/", answer)) as url:
        page.open(url)
        page.wait_for(lambda: page.driver.title.startswith("tried"), "it has tried everything")
        assert page.driver.title == "tried"
        assert live.status() == "READY"
    page.complaints()  # the browser's own, of what it did not allow
