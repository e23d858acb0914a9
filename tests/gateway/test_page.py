"""
The live page in a headless Chromium, as a reader of it.

Needs Chromium and its driver on the machine: `apt-get install chromium chromium-driver`.  Without them, or without
selenium, every test here is skipped.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.command import start
from tests.cli.graves import bury
from tests.gateway.browser import CHROMIUM, DRIVER, browsing
from tests.gateway.live_gateway import LiveGateway
from tests.gateway.page_reader import EXECUTION, Page, event

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
    # One browser for all of them.
    pytest.mark.xdist_group("chromium"),
]


HOSTILE = (
    "<img src=x onerror=\"document.title='pwned'\">",
    "</script><script>document.title='pwned'</script>",
    '"><svg/onload=document.title="pwned">',
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    """Return a gateway for whoever leaves it as it is."""
    with LiveGateway(tmp_path_factory.mktemp("gateway")) as started:
        yield started


@pytest.fixture
def gateway(shared: LiveGateway) -> LiveGateway:
    """Return a gateway whose streams are empty."""
    shared.forget_all()
    return shared


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[LiveGateway]:
    """Return a gateway that the test may kill."""
    with LiveGateway(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a browser that keeps its profile to itself."""
    with browsing(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def page(browser: Any, gateway: LiveGateway) -> Page:
    """Return the page, live."""
    return live(browser, gateway)


def live(browser: Any, gateway: LiveGateway) -> Page:
    """Return the page of *gateway* once it follows the stream."""
    opened = Page(browser, gateway.url)
    opened.live()
    return opened


def test_an_event_emitted_appears(gateway: LiveGateway, page: Page) -> None:
    """An event that reaches the stream appears, and the browser has nothing to complain about."""
    gateway.emit(event(event_type="playbook.initialized", step="http_to_postgres"), event(1))

    page.shows("#runs tbody", "http_to_postgres")
    page.takes(2)
    page.click("#runs tbody tr[data-key]")
    page.shows("#gantt tbody", "fetch_posts")
    page.shows("#events tbody", "step.enter")
    assert page.errors() == []


def test_what_was_there_before_appears(browser: Any, gateway: LiveGateway) -> None:
    """A page opened late shows what the stream holds."""
    gateway.emit(*[event(n, execution=EXECUTION + n) for n in range(30)])

    page = Page(browser, gateway.url)

    page.takes(30)
    assert page.knows("executions") == 30


def test_ids_beyond_2_53_are_exact(gateway: LiveGateway, page: Page) -> None:
    """Ids keep every digit: in the list, in the address, and in the event as it is shown."""
    ids = [EXECUTION, EXECUTION + 1, 2**63 - 1]
    gateway.emit(*[event(n, execution=each, context={"big": each, "n": 1.50}) for n, each in enumerate(ids)])

    page.takes(3)
    for each in ids:
        page.shows("#runs tbody", str(each))
    page.click(f"#runs tr[data-key='{2**63 - 1}']")
    page.shows("#one-id", str(2**63 - 1))
    page.wait(lambda: page.run("return !!document.querySelector('#events tbody tr[data-key]')"))
    page.click("#events tbody tr[data-key]")
    page.shows("#inspect-body", f'"big": {2**63 - 1}')
    assert page.run("return location.hash") == f"#{2**63 - 1}"


def test_a_reconnect_loses_none_and_doubles_none(own_gateway: LiveGateway, browser: Any) -> None:
    """Through a gateway killed (-9) and started again, and one that stays away, each event is counted once."""
    gateway, page = own_gateway, live(browser, own_gateway)
    gateway.emit(*[event(n) for n in range(50)])
    gateway.kill()
    gateway.start()
    gateway.emit(*[event(50 + n) for n in range(50)])
    page.reaches(100)
    gateway.kill()
    page.shows("#link-text", "Reconnecting in")
    gateway.emit(*[event(100 + n) for n in range(100)])
    gateway.start()
    page.reaches(200)

    page.takes(200)
    assert page.knows("doubles") == 0
    page.click("#runs tbody tr[data-key]")
    page.shows("#one-events", "200 events")


def test_a_gap_is_said_and_the_page_goes_on(own_gateway: LiveGateway, browser: Any) -> None:
    """When the stream has let go of what the page missed, the page says so and goes on with what is there."""
    gateway, page = own_gateway, live(browser, own_gateway)
    gateway.emit(event())
    page.takes(1)
    gateway.kill()
    page.shows("#link-text", "Reconnecting in")
    gateway.emit(*[event(n) for n in range(1, 10)])
    gateway.forget(5)
    gateway.start()

    page.shows("#notice", "4 events")
    page.takes(6)


def test_a_stream_created_anew_is_followed(own_gateway: LiveGateway, browser: Any) -> None:
    """Sequences that start again are new events, not old ones."""
    gateway, page = own_gateway, live(browser, own_gateway)
    gateway.emit(*[event(n) for n in range(9)])
    page.takes(9)
    gateway.create_anew()
    gateway.emit(event(20), event(21))

    page.shows("#notice", "created anew")
    page.takes(11)


def test_a_hostile_payload_stays_text(gateway: LiveGateway, page: Page) -> None:
    """Markup in any field is shown as the characters it is."""
    hostile = "".join(HOSTILE)
    bury(gateway.server, (hostile.encode(), "malformed", hostile))
    gateway.emit(event(step=hostile, event_type=hostile, status=hostile, worker_id=hostile, context={hostile: hostile}))

    page.shows("#runs tbody", hostile)
    page.click("#runs tbody tr[data-key]")
    page.shows("#gantt tbody", hostile)
    page.click("#events tbody tr[data-key]")
    page.wait(lambda: hostile.replace('"', '\\"') in page.text("#inspect-body"))
    page.keys("d")
    page.shows("#letter-reason", hostile)
    page.shows("#letter-body", hostile)
    assert page.text("#dead-count") == "1"
    assert page.run("return document.querySelectorAll('img, svg').length") == 0
    assert page.run("return document.title") == "noetl-events"
    assert page.errors() == []


def test_what_is_no_event_is_passed_over(gateway: LiveGateway, page: Page) -> None:
    """What is no event does no harm, and what follows it is shown."""
    gateway.emit(b"not json", b"[1, 2]", b"null", event())

    page.shows("#runs tbody", str(EXECUTION))
    assert page.knows("taken") == 1
    assert page.errors() == []


def test_a_dead_letter_is_shown(gateway: LiveGateway, page: Page, tmp_path: Path) -> None:
    """What a projector buries appears, with its reason and the bytes as they came."""
    gateway.emit(b'{"execution_id": 1}')
    log = tmp_path / "projector.log"
    projector = start(["project", "--to", "noop:"], gateway.server.url, [Path(os.devnull), log, log])
    try:
        page.wait(lambda: page.text("#dead-count") == "1")
    finally:
        projector.kill()
        projector.join()

    page.keys("d")
    page.shows("#letter-reason", "event_type")
    page.shows("#letter-body", '"execution_id": 1')


def test_the_filter_leaves_what_matches(gateway: LiveGateway, page: Page) -> None:
    """Words match execution, type, step and status; a named field matches only there."""
    gateway.emit(
        event(1, execution=11),
        event(2, execution=22, step="load_posts", event_type="call.error", status="FAILED"),
        event(3, execution=33, step="failed_orders"),
    )
    page.takes(3)

    def listed() -> list[str]:
        found: list[str] = page.run(
            "return [...document.querySelectorAll('#runs tr[data-key]')].map(r => r.dataset.key)"
        )
        return sorted(found)

    def lists(expected: list[str]) -> bool:
        return listed() == expected

    for words, expected in [
        ("load", ["22"]),
        ("FAILED", ["22", "33"]),
        ("status:failed", ["22"]),
        ("type:call.error step:load", ["22"]),
        ("id:11", ["11"]),
        ("", ["11", "22", "33"]),
    ]:
        page.run(
            "const f = document.querySelector('#filter'); f.value = arguments[0]; f.dispatchEvent(new Event('input'))",
            words,
        )
        page.wait(partial(lists, expected))


def test_paused_nothing_moves_and_nothing_is_lost(gateway: LiveGateway, page: Page) -> None:
    """Paused, the page counts what waits; resumed, it shows all of it, once."""
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
    """Move, filter, pause, theme, help and dead letters work without a mouse."""
    gateway.emit(*[event(n, execution=100 + n) for n in range(5)])
    page.takes(5)
    page.wait(lambda: page.run("return document.querySelectorAll('#runs tr[data-key]').length") == 5)

    page.keys("j")
    page.shows("#one-id", "104")
    page.keys("jj")
    page.shows("#one-id", "102")
    page.keys("k")
    page.shows("#one-id", "103")
    page.keys("/")
    assert page.run("return document.activeElement.id") == "filter"
    page.keys("101")
    page.wait(lambda: page.run("return document.querySelectorAll('#runs tr[data-key]').length") == 1)
    page.keys("\ue00c")  # Escape
    page.wait(lambda: page.run("return document.querySelectorAll('#runs tr[data-key]').length") == 5)
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
    """Where the gateway wants a token the page asks, says when it is wrong, and keeps the right one for the tab."""
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


def test_events_by_the_thousand(gateway: LiveGateway, page: Page) -> None:
    """Thousands of events within a second: the page keeps up, and its lists stay short."""
    gateway.emit(*[event(n, execution=1 + n // 4) for n in range(3_000)])

    page.takes(3_000)
    assert page.knows("executions") == 500
    assert page.run("return document.querySelectorAll('tr').length") < 200
