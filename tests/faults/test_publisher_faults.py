"""What the publisher makes of servers that die, fill up or say no: acknowledged is stored, once, in order."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import nats
import pytest

from noetl_events.envelope import decode, encode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.topology import StreamDeclaration, ensure_stream, jetstream
from noetl_events.sink import EventsRejected, SinkUnavailable
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing.events import make_event, make_events
from noetl_events.testing.nats_server import NatsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from nats.js.api import StreamConfig

    from noetl_events.envelope import ExecutorEvent

STREAM = StreamDeclaration(name="noetl_events")
EMITTERS = 20


class Load:
    """Emitters that emit again whatever they are not sure of, and remember what was acknowledged, in order."""

    def __init__(self, sink: NatsSink) -> None:
        self.acknowledged: list[int] = []
        self._sink = sink
        self._stopping = asyncio.Event()
        self._progress = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *, size: int) -> None:
        """Emit from many tasks, *size* events a call."""
        self._tasks = [asyncio.create_task(self._emit(number, size)) for number in range(EMITTERS)]

    async def progress(self, events: int) -> None:
        """Return once so many more are acknowledged."""
        goal = len(self.acknowledged) + events
        async with asyncio.timeout(40):
            while len(self.acknowledged) < goal:
                self._progress.clear()
                await self._progress.wait()

    async def stop(self) -> None:
        """Return when every emitter has its last acknowledgement."""
        self._stopping.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def _emit(self, lane: int, size: int) -> None:
        first = lane * 1_000_000
        while not self._stopping.is_set():
            events = [make_event(first + offset, execution_id=lane) for offset in range(size)]
            first += size
            await self._until_taken(events)
            self.acknowledged += [event.event_id or 0 for event in events]
            self._progress.set()

    async def _until_taken(self, events: list[ExecutorEvent]) -> None:
        while True:
            try:
                return await self._sink.emit_batch(events)
            except SinkUnavailable:
                await asyncio.sleep(0.05)


async def read_all(url: str, stream: str) -> list[ExecutorEvent]:
    """Return the events of the stream in its order, read around our own code."""
    client = await nats.connect(url)
    js = client.jetstream()
    last = (await js.stream_info(stream)).state.last_seq
    events: list[ExecutorEvent] = []
    if last:
        subscription = await js.subscribe(f"{'noetl.events'}.>", stream=stream, ordered_consumer=True)
        while len(events) < last:
            events.append(decode((await subscription.next_msg(timeout=10)).data))
    await client.close()
    return events


async def require_exactly_once(url: str, acknowledged: list[int]) -> None:
    """Fail unless what was acknowledged is stored, nothing is stored twice, and every lane is in order."""
    stored = await read_all(url, STREAM.name)
    ids = [event.event_id for event in stored]
    lanes: dict[int, list[int]] = {}
    for event in stored:
        lanes.setdefault(event.execution_id, []).append(event.event_id or 0)

    assert set(acknowledged) - set(ids) == set(), "acknowledged and not stored"
    assert len(ids) == len(set(ids)), "stored twice"
    assert {lane: sorted(got) for lane, got in lanes.items()} == lanes, "out of order"


@pytest.fixture
async def own_connection(own_server: NatsServer) -> AsyncIterator[Connection]:
    """Connect to a server that the test may kill, with an empty stream."""
    async with Connection(ConnectOptions(servers=own_server.url)) as opened:
        await ensure_stream(opened, STREAM)
        yield opened


async def change_stream(connection: Connection, change: Callable[[StreamConfig], StreamConfig]) -> None:
    """Change what the stream takes."""
    js = await jetstream(connection)
    await js.update_stream(change((await js.stream_info(STREAM.name)).config))


@pytest.mark.parametrize("size", [pytest.param(1, id="single events"), pytest.param(200, id="batches")])
@pytest.mark.parametrize("batched", [pytest.param(True, id="fast"), pytest.param(False, id="plain")])
async def test_killed_server_loses_nothing(
    own_server: NatsServer, own_connection: Connection, size: int, *, batched: bool
) -> None:
    """A server killed twice in the middle of batches and started again has every acknowledged event once, in order."""
    await change_stream(own_connection, lambda config: config.evolve(allow_batched=batched))
    sink = NatsSink(own_connection)
    load = Load(sink)
    load.start(size=size)
    for _ in range(2):
        await load.progress(20 * EMITTERS)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
    await load.progress(20 * EMITTERS)
    await load.stop()
    await sink.aclose()

    await require_exactly_once(own_server.url, load.acknowledged)


async def test_silent_server_is_waited_for(own_server: NatsServer, own_connection: Connection) -> None:
    """A server that stops in its tracks for longer than an exchange may be silent ends with everything stored once."""
    sink = NatsSink(own_connection)
    await sink.emit(make_event(1))
    own_server.pause()
    call = asyncio.ensure_future(sink.emit_batch(make_events(100, start=2)))
    other = asyncio.ensure_future(sink.emit_batch(make_events(100, start=102)))
    done, _ = await asyncio.wait([call], timeout=6)
    assert not done
    own_server.resume()
    async with asyncio.timeout(20):
        await asyncio.gather(call, other)
    await sink.aclose()

    await require_exactly_once(own_server.url, list(range(1, 202)))


async def test_outage_longer_than_the_timeout_is_told(own_server: NatsServer, own_connection: Connection) -> None:
    """What stayed unknown at the timeout is `SinkUnavailable`, says so, and can be emitted again."""
    sink = NatsSink(own_connection, timeout=0.5)
    await sink.emit(make_event(1))
    await asyncio.to_thread(own_server.kill)
    with pytest.raises(SinkUnavailable, match=r"not sent|unknown whether stored"):
        await sink.emit_batch(make_events(100))
    await asyncio.to_thread(own_server.start)
    await emit_until_taken(sink, make_events(100))
    await sink.aclose()

    await require_exactly_once(own_server.url, list(range(1, 101)))


async def test_server_that_was_never_there_is_told(tmp_path: Path) -> None:
    """Without any server, emitting ends with `SinkUnavailable` that names it, and what was sent: nothing."""
    sink = NatsSink(Connection(ConnectOptions(servers="nats://127.0.0.1:1", connect_timeout=0.3)), timeout=0.5)
    with pytest.raises(SinkUnavailable, match=r"not sent: cannot connect to nats://127\.0\.0\.1:1"):
        await sink.emit(make_event(1))
    await sink.aclose()


async def test_full_stream_is_told_in_its_words(own_server: NatsServer, own_connection: Connection) -> None:
    """A full stream that discards new events ends the call at once; with room again the same events are taken."""
    await change_stream(own_connection, lambda config: config.evolve(max_msgs=5, discard="new"))
    sink = NatsSink(own_connection)
    with pytest.raises(SinkUnavailable, match="maximum messages exceeded"):
        await sink.emit_batch(make_events(10))
    await change_stream(own_connection, lambda config: config.evolve(max_msgs=-1))
    await sink.emit_batch(make_events(10))
    await sink.aclose()

    await require_exactly_once(own_server.url, list(range(1, 11)))


@pytest.mark.parametrize("count", [pytest.param(1, id="one event"), pytest.param(10, id="batch")])
async def test_missing_stream_is_named(own_server: NatsServer, count: int) -> None:
    """Without a stream on the subject, the reason says what to do; once it exists the same sink works."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        sink = NatsSink(connection, timeout=20.0)
        with pytest.raises(SinkUnavailable, match=r"no stream takes noetl\.events\.command\.completed"):
            await sink.emit_batch(make_events(count))
        await ensure_stream(connection, STREAM)
        await sink.emit_batch(make_events(count))
        await sink.aclose()

    await require_exactly_once(own_server.url, list(range(1, count + 1)))


def users(publish: str, subscribe: str) -> str:
    """Return the configuration of a server with an owner and a worker that may do just this."""
    return f"""
        authorization {{ users: [
            {{ user: owner, password: pw }}
            {{ user: worker, password: pw, permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}
        ] }}
    """


@pytest.mark.parametrize(
    ("publish", "subscribe", "match"),
    [
        pytest.param('["other.>"]', '["_INBOX.>"]', 'for publish to "noetl.events', id="publish"),
        pytest.param('["noetl.>"]', '["other.>"]', 'for subscription to "_inbox', id="replies"),
    ],
)
@pytest.mark.parametrize("count", [pytest.param(1, id="one event"), pytest.param(10, id="batch")])
async def test_denied_permission_is_named(tmp_path: Path, publish: str, subscribe: str, match: str, count: int) -> None:
    """An account that may not publish, or not hear the answer, is told so at once instead of a timeout."""
    with NatsServer(store_dir=tmp_path, config=users(publish, subscribe)) as server:
        await make_stream_as_owner(server)
        async with Connection(ConnectOptions(servers=server.url, user="worker", password="pw")) as connection:
            sink = NatsSink(connection)
            async with asyncio.timeout(4):
                with pytest.raises(SinkUnavailable, match=f"(?i){match}"):
                    await sink.emit_batch(make_events(count))
            await sink.aclose()


async def test_denied_subject_does_not_stop_the_others(tmp_path: Path) -> None:
    """Events to a subject that is denied fail by themselves; those beside them in the batch are stored."""
    with NatsServer(store_dir=tmp_path, config=users('["noetl.events.call.>"]', '["_INBOX.>"]')) as server:
        await make_stream_as_owner(server)
        async with Connection(ConnectOptions(servers=server.url, user="worker", password="pw")) as connection:
            sink = NatsSink(connection)
            events = [make_event(1, event_type="call.done"), make_event(2, event_type="x"), *make_calls(3, 10)]
            results = await asyncio.gather(*(sink.emit(event) for event in events), return_exceptions=True)
            await sink.aclose()

        assert [type(result) for result in results] == [type(None), SinkUnavailable, *[type(None)] * 7]
        assert 'for publish to "noetl.events.x"' in str(results[1]).lower()
        await require_exactly_once(server.url.replace("//", "//owner:pw@"), [1, *range(3, 10)])


def make_calls(start: int, stop: int) -> list[ExecutorEvent]:
    """Return events of the one type the worker may publish."""
    return [make_event(number, event_type="call.done") for number in range(start, stop)]


async def make_stream_as_owner(server: NatsServer) -> None:
    """Create the stream with the account that may."""
    async with Connection(ConnectOptions(servers=server.url, user="owner", password="pw")) as owner:
        await ensure_stream(owner, STREAM)


async def test_headers_count_for_the_size(own_server: NatsServer, own_connection: Connection) -> None:
    """An event that fits the server's limit without its headers and not with them is rejected, and not sent."""
    client = await own_connection.client()
    empty = len(encode(make_event(2, context="")))
    fits = make_event(2, context="x" * (client.max_payload - empty))
    sink = NatsSink(own_connection)
    with pytest.raises(EventsRejected, match="max_payload"):
        await sink.emit_batch([make_event(1), fits, make_event(3)])
    largest = make_event(4, context="x" * (client.max_payload - empty - len("NATS/1.0\r\nNats-Msg-Id: 4\r\n\r\n")))
    await sink.emit(largest)
    await sink.aclose()

    assert [event.event_id for event in await read_all(own_server.url, STREAM.name)] == [1, 3, 4]
    assert await own_connection.client() is client


async def test_message_too_large_for_the_stream_is_rejected(own_server: NatsServer, own_connection: Connection) -> None:
    """An event above the stream's own limit is rejected by its id, and its neighbours are stored."""
    await change_stream(own_connection, lambda config: config.evolve(max_msg_size=1000))
    sink = NatsSink(own_connection)
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch([make_event(1), make_event(2, context="x" * 1000), make_event(3)])
    await sink.aclose()

    assert [*rejection.value.reasons] == [2]
    await require_exactly_once(own_server.url, [1, 3])


async def test_close_outlasts_an_outage(own_server: NatsServer, own_connection: Connection) -> None:
    """Closing while the server is away returns once what was accepted is stored."""
    sink = NatsSink(own_connection)
    await sink.emit(make_event(1))
    await asyncio.to_thread(own_server.kill)
    calls = [asyncio.ensure_future(sink.emit(event)) for event in make_events(10, start=2)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(sink.aclose())
    await asyncio.to_thread(own_server.start)
    async with asyncio.timeout(20):
        await closing
        await asyncio.gather(*calls)

    await require_exactly_once(own_server.url, list(range(1, 12)))


async def test_cancelled_emits_disturb_no_other(own_server: NatsServer, own_connection: Connection) -> None:
    """Emits cancelled at any moment leave the others as they are."""
    sink = NatsSink(own_connection)
    acknowledged: list[int] = []

    async def emit(event: ExecutorEvent) -> None:
        await sink.emit(event)
        acknowledged.append(event.event_id or 0)

    tasks = [asyncio.ensure_future(emit(event)) for event in make_events(2000)]
    for number, task in enumerate(tasks):
        if number % 3 == 0:
            await asyncio.sleep(0)
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await sink.aclose()

    assert all(isinstance(result, asyncio.CancelledError | None) for result in results)
    assert {number for number in range(1, 2001) if (number - 1) % 3} <= set(acknowledged)
    await require_exactly_once(own_server.url, sorted(acknowledged))


async def test_connection_closed_for_good_is_replaced(own_server: NatsServer, own_connection: Connection) -> None:
    """A client the server has thrown out for good is replaced, and what was under way is sent again."""
    sink = NatsSink(own_connection)
    await sink.emit(make_event(1))
    client = await own_connection.client()
    call = asyncio.ensure_future(sink.emit_batch(make_events(500)))
    await asyncio.sleep(0)
    with suppress(nats.errors.Error):
        await client.close()
    await call
    await sink.aclose()

    assert await own_connection.client() is not client
    await require_exactly_once(own_server.url, list(range(1, 501)))


async def emit_until_taken(sink: NatsSink, events: list[Any]) -> None:
    """Emit again until the sink takes them."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await sink.emit_batch(events)
            except SinkUnavailable:
                await asyncio.sleep(0.05)
