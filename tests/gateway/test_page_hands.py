"""Interaction with the live page: filter, pause, keyboard and token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.browser import CHROMIUM, DRIVER
from tests.gateway.page_reader import EXECUTION, Page, event

if TYPE_CHECKING:
    from tests.gateway.live_gateway import LiveGateway

pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
    # All tests share one browser.
    pytest.mark.xdist_group("chromium"),
]


def test_the_filter_leaves_what_matches(gateway: LiveGateway, page: Page) -> None:
    """Words match execution, type, step and status; a field name restricts a word to that field."""
    gateway.emit(
        event(1, execution=11),
        event(2, execution=22, step="load_posts", event_type="call.error", status="FAILED"),
        event(3, execution=33, step="failed_orders"),
    )
    page.takes(3)

    for words, expected in [
        ("load", ["22"]),
        ("FAILED", ["33", "22"]),
        ("status:failed", ["22"]),
        ("type:call.error step:load", ["22"]),
        ("id:11", ["11"]),
        ("", ["33", "22", "11"]),
    ]:
        page.run(
            "const f = document.querySelector('#filter'); f.value = arguments[0]; f.dispatchEvent(new Event('input'))",
            words,
        )
        page.lists(expected)


def test_paused_nothing_moves_and_nothing_is_lost(gateway: LiveGateway, page: Page) -> None:
    """A paused page counts the waiting events; resumed, it shows all of them, once."""
    gateway.emit(event())
    page.takes(1)
    page.click("#pause")
    gateway.emit(*[event(n, execution=EXECUTION + n) for n in range(1, 41)])

    page.shows("#link-text", "Paused, 40 waiting")
    assert page.knows("taken") == 1
    assert page.knows("executions") == 1
    page.keys("p")
    page.takes(41)
    page.shows("#link-text", "Live")


def test_the_keyboard_reaches_everything(gateway: LiveGateway, page: Page) -> None:
    """Move, filter, pause, theme, help and dead letters work with the keyboard alone."""
    gateway.emit(*[event(n, execution=100 + n) for n in range(5)])
    page.takes(5)
    page.lists(["104", "103", "102", "101", "100"])

    page.keys("j")
    page.shows("#one-id", "104")
    page.keys("jj")
    page.shows("#one-id", "102")
    page.keys("k")
    page.shows("#one-id", "103")
    page.keys("/")
    assert page.run("return document.activeElement.id") == "filter"
    page.keys("101")
    page.lists(["101"])
    page.keys("\ue00c")  # Escape
    page.lists(["104", "103", "102", "101", "100"])
    page.keys("\ue00c")
    page.keys("?")
    assert page.run("return document.querySelector('#help-box').open")
    page.keys("\ue00c")
    page.keys("p")
    page.shows("#pause", "Resume")
    page.keys("p")
    page.keys("d")
    page.shows("#dead-empty", "No dead letters")


def test_a_token_is_asked_for_and_kept(own_gateway: LiveGateway, browser: Any) -> None:
    """If the gateway needs a token the page asks, reports a wrong one, and keeps the right one for the tab."""
    gateway = own_gateway
    gateway.kill()
    gateway.start(token="right")
    gateway.emit(event())
    page = Page(browser, gateway.url)
    for token in ("wrong", "right"):
        page.wait(lambda: page.run("return document.querySelector('#token-box').open"))
        page.keys(token + "\ue007")
        if token == "wrong":
            page.shows("#token-note", "not accepted")

    page.takes(1)
    page.browser.refresh()
    page.takes(1)
