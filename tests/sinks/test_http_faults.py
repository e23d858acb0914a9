"""HttpSink and servers that refuse, stall, answer falsely or stop."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from consumers.backfill import emit_patiently
from noetl_events import EventsRejected, SinkUnavailable
from noetl_events.sinks.http import HttpSink
from noetl_events.sinks.http.client import read_retry_after
from noetl_events.testing import make_event, make_events
from noetl_events.testing.proxy import FaultyProxy
from noetl_events.testing.server_process import free_port
from tests.sinks.http_server import EventServer, answering, cut_before, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from noetl_events.testing.proxy import Direction


@pytest.fixture
async def server() -> AsyncIterator[EventServer]:
    """Return a server that works until its script says otherwise."""
    server = EventServer()
    async with serving(server):
        yield server


@pytest.fixture
async def sink(server: EventServer) -> AsyncIterator[HttpSink]:
    """Return a sink to the server."""
    sink = HttpSink(server.url, timeout=60.0)
    yield sink
    await sink.aclose()


async def test_server_outage_and_return() -> None:
    """While the server is down the sink is unavailable, and works as soon as it is back."""
    server, port = EventServer(), free_port()
    sink = HttpSink(f"http://127.0.0.1:{port}/api/events")
    with pytest.raises(SinkUnavailable, match=r"^http: "):
        await sink.emit_batch(make_events(3))
    async with serving(server, port=port):
        await sink.emit_batch(make_events(3))
    with pytest.raises(SinkUnavailable):
        await sink.emit(make_event(4))
    await sink.aclose()

    assert [event.event_id for event in server.stored.values()] == [1, 2, 3]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 401, 403, 407, 300, 304])
@pytest.mark.parametrize("count", [1, 3])
async def test_status_of_an_outage_holds(sink: HttpSink, server: EventServer, status: int, count: int) -> None:
    """An overloaded server or a refused token rejects no event."""
    server.script = [answering(status, "")]
    with pytest.raises(SinkUnavailable, match=f"{status}"):
        await sink.emit_batch(make_events(count))
    await sink.emit_batch(make_events(count))

    assert len(server.stored) == count
    assert server.requests[0].key == server.requests[-1].key


@pytest.mark.parametrize("status", [404, 405])
async def test_wrong_path_holds(sink: HttpSink, server: EventServer, status: int) -> None:
    """A path that the server does not know is a fault of the URL, not of an event."""
    server.script = [answering(status)]
    with pytest.raises(SinkUnavailable, match="leads to no endpoint"):
        await sink.emit(make_event(1))


async def test_server_without_batches_gets_single_events(sink: HttpSink, server: EventServer) -> None:
    """A server with the single endpoint only gets the batch as single events."""
    server.script = [answering(404)]
    await sink.emit_batch(make_events(3))

    assert [posted.ids for posted in server.requests] == [[1, 2, 3], [1], [2], [3]]
    assert len(server.stored) == 3


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_passed_on(sink: HttpSink, server: EventServer, status: int) -> None:
    """The Retry-After of a server reaches the caller."""
    server.script = [answering(status, Retry_After="7")]
    with pytest.raises(SinkUnavailable) as failure:
        await sink.emit(make_event(1))

    assert failure.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("99999", 99_999.0),
        ("-1", None),
        ("soon", None),
        ("1e3", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Mon, 01 Jan 2026 99999999999999999999:00:00 GMT", None),
        ("Mon, 99999999999999999999 Jan 2026 00:00:00 GMT", None),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999999999", None),
    ],
)
def test_retry_after_is_read(header: str | None, seconds: float | None) -> None:
    """The header is read as seconds or a date, and ignored otherwise."""
    assert seconds == read_retry_after(header)


def test_retry_after_may_be_a_date() -> None:
    """A date counts as the seconds from now."""
    seconds = read_retry_after(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))

    assert seconds is not None
    assert 3_000 < seconds <= 3_600


async def test_refused_event_does_not_fail_its_batch(sink: HttpSink, server: EventServer) -> None:
    """A batch with one event that the server rejects leaves that one rejected and the others stored in order."""
    server.refused = {7}
    with capture_logs() as logs, pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch(make_events(10))

    assert [*rejection.value.reasons] == [6]
    assert "422" in rejection.value.reasons[6]
    assert "event_id: [7] cannot be stored" in rejection.value.reasons[6]
    assert [event.event_id for event in server.stored.values()] == [1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert [log["event"] for log in logs] == ["http.batch_refused"]


async def test_outage_in_the_middle_of_one_by_one_holds_all(sink: HttpSink, server: EventServer) -> None:
    """A rejected batch is posted one by one; an outage makes it unavailable, and the next emit completes it."""
    server.refused = {2}
    server.script = [None, None, None, answering(503)]
    with pytest.raises(SinkUnavailable):
        await sink.emit_batch(make_events(4))
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch(make_events(4))

    assert [*rejection.value.reasons] == [1]
    assert [event.event_id for event in server.stored.values()] == [1, 3, 4]


async def test_execution_that_fails_does_not_stop_the_others(server: EventServer) -> None:
    """Executions beside a failing one are stored, and the emit still fails as unavailable."""
    sink = HttpSink(server.url)
    server.script = [answering(500)]
    with pytest.raises(SinkUnavailable):
        await sink.emit_batch([make_event(number, execution_id=number) for number in range(1, 21)])
    await sink.aclose()

    assert 0 < len(server.stored) < 20


async def test_409_for_another_event_is_a_conflict(sink: HttpSink, server: EventServer) -> None:
    """An event with the key of another stored event is a conflict, single or in a batch."""
    conflict = answering(409, '{"status": "error", "code": "conflict", "message": "another event has this key"}')
    server.script = [conflict, conflict, None, conflict, None]
    with pytest.raises(EventsRejected, match="another event has this key") as alone:
        await sink.emit(make_event(1))
    with pytest.raises(EventsRejected) as among_others:
        await sink.emit_batch(make_events(3))

    assert [{*one.value.conflicts} for one in (alone, among_others)] == [{0}, {1}]
    assert [event.event_id for event in server.stored.values()] == [1, 3]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param('{"error": "Command already claimed by worker-8", "status": 409}', id="NoETL's own"),
        pytest.param('{"detail": "known"}', id="known or not"),
        pytest.param('{"duplicate": "yes"}', id="another form"),
        pytest.param('{"duplicate": false}', id="no duplicate"),
        pytest.param("<html>", id="no JSON"),
        pytest.param("[" * 100_000, id="nested for ever"),
        pytest.param("", id="empty"),
    ],
)
async def test_409_that_does_not_say_stored_is_a_refusal(sink: HttpSink, server: EventServer, body: str) -> None:
    """A 409 without a body that says stored is a rejection, with the remedy in its reason."""
    server.script = [answering(409, body)]
    with pytest.raises(EventsRejected, match="on_409=stored") as rejection:
        await sink.emit(make_event(1))

    assert ([*rejection.value.reasons], rejection.value.conflicts) == ([0], frozenset())


async def test_conflict_never_counts_as_stored(server: EventServer) -> None:
    """A 409 that says conflict rejects the event, even with on_409=stored."""
    sink = HttpSink(server.url, on_409="stored")
    server.script = [answering(409, '{"code": "conflict"}')]
    with pytest.raises(EventsRejected):
        await sink.emit(make_event(1))
    await sink.aclose()


async def test_silent_server_is_unavailable_in_time(server: EventServer) -> None:
    """A server that does not answer delays an emit for the timeout, and the next emits no longer."""
    stop = asyncio.Event()

    async def stall(_request: web.Request) -> None:
        await stop.wait()

    server.script = [stall, stall]
    sink = HttpSink(server.url, timeout=0.3)
    first, second = await asyncio.gather(sink.emit(make_event(1)), sink.emit(make_event(2)), return_exceptions=True)
    stop.set()
    server.script = []
    assert not await emit_patiently(make_events(2), sink, patience=180.0)
    await sink.aclose()

    assert isinstance(first, SinkUnavailable)
    assert isinstance(second, SinkUnavailable)
    assert sorted(event_id for _, event_id in server.stored) == [1, 2]


async def test_endless_success_is_an_outage(sink: HttpSink, server: EventServer) -> None:
    """A success longer than any answer of NoETL is neither believed nor read completely."""
    server.script = [answering(200, "x" * 2**20)]
    with pytest.raises(SinkUnavailable, match="longer than 262144 bytes"):
        await sink.emit(make_event(1))


async def test_endless_refusal_is_a_refusal(sink: HttpSink, server: EventServer) -> None:
    """A rejection that repeats the whole request has a reason of bounded length."""
    server.script = [answering(422, "x" * 2**20)]
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit(make_event(1))

    assert len(rejection.value.reasons[0]) < 400


@pytest.mark.parametrize("body", ["<html>Welcome to the hotel</html>", "[]", "[" * 100_000])
async def test_success_of_another_server_is_an_outage(sink: HttpSink, server: EventServer, body: str) -> None:
    """A success page of some other server stores nothing."""
    server.script = [answering(200, body)]
    with pytest.raises(SinkUnavailable, match="not as NoETL answers"):
        await sink.emit(make_event(1))


async def test_success_without_a_body_counts(sink: HttpSink, server: EventServer) -> None:
    """A 204 counts as a success."""
    server.script = [answering(204, "")]
    await sink.emit(make_event(1))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(sink: HttpSink, server: EventServer, status: int) -> None:
    """Events and token are never sent to the target of a redirect, and the reason names that target."""
    server.script = [answering(status, "", Location="http://elsewhere.invalid/")]
    with pytest.raises(SinkUnavailable, match=r"redirects to http://elsewhere\.invalid/, which is not followed"):
        await sink.emit(make_event(1))

    assert len(server.requests) == 1


async def test_connection_cut_before_anything_is_stored(sink: HttpSink, server: EventServer) -> None:
    """A request on a broken connection is repeated once with the same key, then the emit fails."""
    server.script = [cut_before]
    await sink.emit(make_event(1))
    server.script = [cut_before, cut_before]
    with pytest.raises(SinkUnavailable, match="isconnected"):
        await sink.emit(make_event(2))

    assert [*server.stored] == [(make_event().execution_id, 1)]
    assert [posted.ids for posted in server.requests] == [[1], [1], [2], [2]]
    assert len({posted.key for posted in server.requests}) == 2


async def test_answer_lost_after_the_server_stored_it(server: EventServer) -> None:
    """Where events are stored and the answer is lost, a second emit leaves each event once."""
    parts = urlsplit(server.url)
    assert parts.port is not None
    async with FaultyProxy("127.0.0.1", parts.port) as proxy:

        def cut_answers(direction: Direction, _chunk: bytes) -> bool:
            if direction == "down":
                proxy.cut()
            return direction == "down"

        sink = HttpSink(f"{proxy.url('http')}{parts.path}", timeout=60.0)
        proxy.drop(cut_answers)
        with pytest.raises(SinkUnavailable):
            await sink.emit_batch(make_events(5))
        stored = len(server.stored)
        proxy.heal()
        await sink.emit_batch(make_events(5))
        await sink.aclose()

    assert stored == 5
    assert [event.event_id for event in server.stored.values()] == [1, 2, 3, 4, 5]
    assert len({posted.key for posted in server.requests}) == 1


async def test_event_too_long_for_the_server_is_rejected_alone(sink: HttpSink, server: EventServer) -> None:
    """An event that gets 413 by itself is rejected, and its neighbours are stored."""
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch([make_event(1), make_event(2, context="x" * 5 * 2**20), make_event(3)])

    assert [*rejection.value.reasons] == [1]
    assert "413" in rejection.value.reasons[1]
    assert [event.event_id for event in server.stored.values()] == [1, 3]
