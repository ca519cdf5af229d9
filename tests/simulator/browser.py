"""A real browser for the tests of the simulator's page: Chromium, driven by Selenium."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.remote_connection import RemoteConnection

from tests.waiting import LIMIT, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from selenium.webdriver.remote.webelement import WebElement

_PROGRAMS = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")
_DRIVERS = ("/usr/bin/chromedriver", "chromedriver")


def browser_programs() -> tuple[str, str] | None:
    """Find Chromium and its driver; None where one of them is not installed."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    driver = next(filter(None, map(shutil.which, _DRIVERS)), None)
    return None if program is None or driver is None else (program, driver)


class Browser:
    """A browser window, for as long as the `with` block; with a fresh profile, so it knows nothing of any other."""

    def __init__(self) -> None:
        programs = browser_programs()
        if programs is None:
            raise FileNotFoundError("Chromium or chromedriver is not installed")
        # Selenium fetches drivers and reports its use, unless switched off.
        os.environ["SE_OFFLINE"] = os.environ["SE_AVOID_STATS"] = "true"
        self._profile = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = programs[0]
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--user-data-dir={self._profile.name}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # Selenium's own annotations are incomplete.
        self.driver: Any = webdriver.Chrome(options=options, service=Service(programs[1]))
        executor = self.driver.command_executor
        assert isinstance(executor, RemoteConnection)
        executor.client_config.timeout = LIMIT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()
        self._profile.cleanup()

    def set_preferences(self, *, is_dark: bool = False, is_still: bool = False) -> None:
        """Set whether the browser prefers a dark page, and one without motion."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if is_still else "no-preference"},
        ]
        self._tell("Emulation.setEmulatedMedia", features=features)

    def set_width(self, width: int, height: int = 900) -> None:
        """Let the window be so wide, also narrower than a desktop's window can be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._tell("Emulation.setDeviceMetricsOverride", **metrics)

    def block(self, *urls: str) -> None:
        """Fail every request to these URLs, which may have wildcards; to none, if there are none."""
        self._tell("Network.enable")
        self._tell("Network.setBlockedURLs", urls=urls)

    def open(self, url: str) -> None:
        """Go to a page."""
        self.driver.get(url)

    def find(self, css: str) -> WebElement:
        """Find what there must be."""
        found: WebElement = self.driver.find_element(By.CSS_SELECTOR, css)
        return found

    def find_all(self, css: str) -> list[WebElement]:
        """Find what there may be."""
        found: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, css)
        return found

    def text_of(self, css: str) -> str:
        """Read all the text in it, seen or not."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", css))

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something is so."""

        def observe() -> object:
            try:
                return condition()
            except (NoSuchElementException, StaleElementReferenceException):  # the page was drawn anew meanwhile
                return None

        wait_until(what, observe)

    def wait_for_text(self, css: str, text: str) -> None:
        """Wait until there is a text in it."""
        wait_until(f"{text!r} in {css}", lambda: self.text_of(css), lambda seen: text in seen)

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """Give what the browser's console has to say, since it was asked last."""
        return [json.dumps(entry) for entry in self.driver.get_log("browser")]

    def _tell(self, command: str, **parameters: object) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)
