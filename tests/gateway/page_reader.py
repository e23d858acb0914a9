"""The live page as its reader sees it, and events for the page."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

webdriver: Any = pytest.importorskip("selenium.webdriver", reason="needs selenium, a development dependency")
EXECUTION = 382_100_255_539_228_673


class Page:
    """The page in a browser."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return the result of *script*."""
        return self.browser.execute_script(script, *arguments)

    def wait(self, reached: Callable[[], Any], within: float = 180.0) -> Any:
        """Return the result of *reached* once it is true."""
        deadline = time.monotonic() + within
        while not (value := reached()):
            assert time.monotonic() < deadline, self.text("body")
            time.sleep(0.03)
        return value

    def text(self, selector: str) -> str:
        """Return the visible text of an element, "" without one."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def shows(self, selector: str, text: str) -> None:
        """Wait until *text* is visible."""
        self.wait(lambda: text in self.text(selector))

    def lists(self, executions: list[str]) -> None:
        """Wait until the list shows these executions in this order."""
        rows = "return [...document.querySelectorAll('#runs tr[data-key]')].map(row => row.dataset.key)"
        self.wait(lambda: self.run(rows) == executions)

    def keys(self, keys: str) -> None:
        """Type *keys* into the focused element."""
        webdriver.ActionChains(self.browser).send_keys(keys).perform()

    def click(self, selector: str) -> None:
        """Click the first matching element once there is one."""
        script = "const found = document.querySelector(arguments[0]); found?.click(); return !!found"
        self.wait(lambda: self.run(script, selector))

    def knows(self, name: str) -> Any:
        """Return the page's own state."""
        return self.run("return window.noetlEvents[arguments[0]]", name)

    def reaches(self, sequence: int) -> None:
        """Wait until the page has received *sequence*."""
        self.wait(lambda: self.knows("last") == sequence)

    def takes(self, events: int) -> None:
        """Wait until the page has counted exactly *count* events."""
        self.wait(lambda: self.knows("taken") >= events)
        assert self.knows("taken") == events

    def live(self) -> None:
        """Wait until the page follows the stream."""
        self.wait(lambda: self.knows("link") == "live")

    def errors(self) -> list[str]:
        """Return the errors in the browser's log: scripts, and the content security policy."""
        complaints = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
        return [each for each in complaints if "net::ERR" not in each and "the server responded" not in each]


def live(browser: Any, url: str) -> Page:
    """Return the page of a gateway once it follows the stream."""
    opened = Page(browser, url)
    opened.live()
    return opened


def event(number: int = 0, *, execution: int = EXECUTION, **changes: Any) -> dict[str, Any]:
    """Return an event of a step."""
    body: dict[str, Any] = {
        "execution_id": execution,
        "event_type": "step.enter",
        "step": "fetch_posts",
        "status": "RUNNING",
        "created_at": "2026-11-20T09:30:00.118253Z",
        "context": {"number": number},
        "event_id": EXECUTION + 1 + number,
    }
    return body | changes
