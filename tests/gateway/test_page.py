"""
The live page in a headless Chromium, as its reader sees it.

Needs Chromium and its driver on the machine: `apt-get install chromium chromium-driver`.  Without them, or without
selenium, every test here is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.command import start
from tests.cli.letters import publish_dead
from tests.gateway.browser import CHROMIUM, DRIVER
from tests.gateway.page_reader import EXECUTION, Page, event, live

if TYPE_CHECKING:
    from tests.gateway.live_gateway import LiveGateway

pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
    # All tests share one browser.
    pytest.mark.xdist_group("chromium"),
]


HOSTILE = (
    "<img src=x onerror=\"document.title='pwned'\">",
    "</script><script>document.title='pwned'</script>",
    '"><svg/onload=document.title="pwned">',
)


def test_an_event_emitted_appears(gateway: LiveGateway, page: Page) -> None:
    """An event that reaches the stream appears, and the browser logs no error."""
    gateway.emit(event(event_type="playbook.initialized", step="http_to_postgres"), event(1))

    page.shows("#runs tbody", "http_to_postgres")
    page.takes(2)
    page.click("#runs tbody tr[data-key]")
    page.shows("#gantt tbody", "fetch_posts")
    page.shows("#events tbody", "step.enter")
    assert page.errors() == []


def test_what_was_there_before_appears(browser: Any, gateway: LiveGateway) -> None:
    """A page opened later shows the events in the stream."""
    gateway.emit(*[event(n, execution=EXECUTION + n) for n in range(30)])

    page = Page(browser, gateway.url)

    page.takes(30)
    assert page.knows("executions") == 30


def test_ids_beyond_2_53_are_exact(gateway: LiveGateway, page: Page) -> None:
    """Ids keep every digit: in the list, in the address, and in the event's details."""
    ids = [EXECUTION, EXECUTION + 1, 2**63 - 1]
    gateway.emit(*[event(n, execution=each, context={"big": each, "n": 1.50}) for n, each in enumerate(ids)])

    page.takes(3)
    for each in ids:
        page.shows("#runs tbody", str(each))
    page.click(f"#runs tr[data-key='{2**63 - 1}']")
    page.shows("#one-id", str(2**63 - 1))
    page.click("#events tbody tr[data-key]")
    page.shows("#inspect-body", f'"big": {2**63 - 1}')
    assert page.run("return location.hash") == f"#{2**63 - 1}"


def test_a_reconnect_loses_none_and_doubles_none(own_gateway: LiveGateway, browser: Any) -> None:
    """Each event is counted once, through a gateway that is killed (-9) and restarted, and one that stays down."""
    gateway, page = own_gateway, live(browser, own_gateway.url)
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


def test_two_events_with_one_id_are_both_shown(gateway: LiveGateway, page: Page) -> None:
    """Two events of an execution with one id are both shown, and a repeated event once."""
    gateway.emit(event(1, step="fetch"), event(1, step="store"), event(2, step="end"))

    page.takes(3)
    assert page.knows("doubles") == 0
    page.click("#runs tbody tr[data-key]")
    page.shows("#one-events", "3 events")


def test_a_gap_is_said_and_the_page_goes_on(own_gateway: LiveGateway, browser: Any) -> None:
    """When the stream has dropped events the page missed, the page reports the gap and continues."""
    gateway, page = own_gateway, live(browser, own_gateway.url)
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
    """Events of a new stream with the same sequences are shown as new."""
    gateway, page = own_gateway, live(browser, own_gateway.url)
    gateway.emit(*[event(n) for n in range(9)])
    page.takes(9)
    gateway.create_anew()
    gateway.emit(event(20), event(21))

    page.shows("#notice", "created anew")
    page.takes(11)


def test_a_hostile_payload_stays_text(gateway: LiveGateway, page: Page) -> None:
    """Markup in any field is shown as text."""
    hostile = "".join(HOSTILE)
    publish_dead(gateway.server, (hostile.encode(), "malformed", hostile))
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


def test_a_failure_says_where_and_why(gateway: LiveGateway, page: Page) -> None:
    """A failed execution shows its reason and its open steps as failed; it stays in its row when others start."""
    gateway.emit(
        event(1, event_type="playbook.initialized", step="sync_users"),
        event(2, step="load_users"),
        event(3, execution=7, event_type="playbook.initialized", step="score_leads"),
        event(4, event_type="call.error", step="load_users", status="FAILED", context={"error": "<b>HTTP 502</b>"}),
        event(5, event_type="playbook.failed", step="sync_users", status="FAILED", context=None),
    )

    page.lists(["7", str(EXECUTION)])
    page.takes(5)
    page.click(f"#runs tr[data-key='{EXECUTION}']")
    page.shows("#one-why", "load_users: <b>HTTP 502</b>")
    page.shows("#gantt tbody", "failed")


def test_what_is_no_event_is_passed_over(gateway: LiveGateway, page: Page) -> None:
    """A message that is no event is ignored, and the next event is shown."""
    gateway.emit(b"not json", b"[1, 2]", b"null", event())

    page.shows("#runs tbody", str(EXECUTION))
    assert page.knows("taken") == 1
    assert page.errors() == []


def test_a_dead_letter_is_shown(gateway: LiveGateway, page: Page, tmp_path: Path) -> None:
    """A dead letter appears with its reason and original bytes."""
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


def test_events_by_the_thousand(gateway: LiveGateway, page: Page) -> None:
    """With thousands of events within a second the page keeps up, and its lists stay short."""
    gateway.emit(*[event(n, execution=1 + n // 4) for n in range(3_000)])

    page.takes(3_000)
    assert page.knows("executions") == 500
    assert page.run("return document.querySelectorAll('tr').length") < 200
