"""Marker messages that the server itself writes into a stream are neither events nor dead letters."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from consumers.backfill import Rebuild
from consumers.gateway.hub import encoded_event
from consumers.verification.verify import Verification
from noetl_events.jetstream.api import ask
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, StreamDeclaration
from noetl_events.jetstream.message import NoPublisher, event_of
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream, find_stream
from noetl_events.json_values import MalformedEvent
from noetl_events.sink import open_sink
from noetl_events.testing import eventually, make_events
from tests.projector.bench import Bench, ids
from tests.projector.served import Moody, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer

EVENTS = StreamDeclaration(name="events", subjects=("events.>",), max_age=1.0, duplicate_window=1.0)
SECOND = 1_000_000_000


@pytest.fixture
async def marked(own_server: NatsServer) -> AsyncIterator[Connection]:
    """Return a connection to a server with an event stream that gets a marker when a subject's last message expires."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        for declared in (EVENTS, DEAD_LETTERS, TRIALS):
            await ensure_stream(connection, declared)
        config = (await find_stream(connection, EVENTS.name)).config
        config |= {"subject_delete_marker_ttl": 600 * SECOND, "allow_msg_ttl": True, "allow_rollup_hdrs": True}
        _, error = await ask(connection, f"STREAM.UPDATE.{EVENTS.name}", json.dumps(config).encode())
        assert error is None, error
        yield connection


async def test_markers_are_no_events(marked: Connection, tmp_path: Path) -> None:
    """A projector acknowledges and counts markers, and every reader of the stream skips them."""
    sink, url = Moody(), f"sqlite:///{tmp_path}/events.db"
    bench = Bench(marked, EVENTS, DEAD_LETTERS)
    async with serving(marked, EVENTS, sink) as served:
        await bench.publish(make_events(3))
        await eventually(lambda: len(sink.events) == 3)
        progress = served.service.progress["projector"]
        await eventually(lambda: progress.markers == 1)
        await eventually(lambda: bench.unsettled_is(0))
        assert await served.is_ready()
        assert (progress.stored, progress.dead_letters) == (3, 0)
    async with History(marked, Span(stream=EVENTS.name)) as history:
        [marker] = await history.read()
    async with History(marked, Span(stream=EVENTS.name)) as history:
        destination = open_sink(url)
        await destination.emit_batch(make_events(1))
        rebuilt = await Rebuild(history, destination).run()
        await destination.aclose()
    verified = await Verification(marked, Span(stream=EVENTS.name), url).run()

    assert (marker.headers or {})["Nats-Marker-Reason"] == "MaxAge"
    assert encoded_event(marker).data == b""
    assert (rebuilt.stored, rebuilt.malformed) == (0, 0)
    assert (verified.events, verified.dead, verified.is_complete) == (0, 0, True)
    assert ids(sink) == [1, 2, 3]


@pytest.mark.parametrize(
    ("headers", "body", "is_skipped"),
    [
        pytest.param({"Nats-Marker-Reason": "Purge"}, b"", True, id="purged"),
        pytest.param({"Nats-Schedule": "@every 1h", "Nats-Schedule-Target": "events.x"}, b"tick", True, id="schedule"),
        pytest.param({"Nats-Incr": "1"}, b'{"val":"1"}', True, id="counter"),
        pytest.param({"Nats-Rollup": "sub"}, b"", True, id="roll-up without a body"),
        pytest.param({"KV-Operation": "DEL"}, b"", True, id="deleted key"),
        pytest.param({"Nats-Rollup": "sub"}, b"rubbish", False, id="roll-up with a body"),
        pytest.param({"Nats-Msg-Id": "1"}, b"", False, id="empty"),
        pytest.param({}, b"rubbish", False, id="rubbish"),
    ],
)
def test_what_is_skipped(headers: dict[str, str], body: bytes, is_skipped: bool) -> None:  # noqa: FBT001
    """The server's own messages are skipped; a publisher's message that is no event is malformed."""
    message = SimpleNamespace(subject="x", reply="", data=body, headers=headers or None)
    with pytest.raises(MalformedEvent) as raised:
        event_of(message)

    assert isinstance(raised.value, NoPublisher) == is_skipped
