"""Load on a publisher, and the checks of the stream after it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import nats
from nats.js.errors import ServiceUnavailableError

from noetl_events.envelope import decode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sink import SinkUnavailable
from noetl_events.testing.events import make_event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.js.api import StreamConfig

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.jetstream.connection import Connection
    from noetl_events.sinks.nats import NatsSink

STREAM = StreamDeclaration(name="noetl_events")
EMITTERS = 20

Answer = TypeVar("Answer")


class Load:
    """Emitters that retry every event with an unknown outcome, and record the acknowledged ones in order."""

    def __init__(self, sink: NatsSink) -> None:
        self.acknowledged: list[int] = []
        self._sink = sink
        self._stopping = asyncio.Event()
        self._progress = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *, size: int) -> None:
        """Emit from several tasks, *size* events a call."""
        self._tasks = [asyncio.create_task(self._emit(number, size)) for number in range(EMITTERS)]

    async def progress(self, events: int, *, seconds: float = 180.0) -> None:
        """Return once *count* more events are acknowledged, within a timeout."""
        goal = len(self.acknowledged) + events
        async with asyncio.timeout(seconds):
            while len(self.acknowledged) < goal:
                self._progress.clear()
                await self._progress.wait()

    async def stop(self) -> None:
        """Return once every emitter has its last acknowledgement."""
        self._stopping.set()
        async with asyncio.timeout(180):
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


async def read_all(url: str, stream: str, **login: Any) -> list[ExecutorEvent]:
    """Return the events of the stream in order, read without the library."""
    client = await nats.connect(url, **login)
    js = client.jetstream(timeout=60)
    last = (await answered(lambda: js.stream_info(stream))).state.last_seq
    events: list[ExecutorEvent] = []
    if last:
        read = partial(js.subscribe, "noetl.events.>", stream=stream, ordered_consumer=True)
        subscription = await answered(read)
        while len(events) < last:
            events.append(decode((await subscription.next_msg(timeout=60)).data))
    await client.close()
    return events


async def answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return the answer of JetStream, asked again while a cluster elects a leader."""
    async with asyncio.timeout(180):
        while True:
            try:
                return await ask()
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError, ServiceUnavailableError):
                await asyncio.sleep(0.1)


async def require_exactly_once(url: str, acknowledged: list[int], **login: Any) -> None:
    """Fail unless acknowledged events are stored, none twice, and each ordering key in order."""
    stored = await read_all(url, STREAM.name, **login)
    ids = [event.event_id for event in stored]
    lanes: dict[int, list[int]] = {}
    for event in stored:
        lanes.setdefault(event.execution_id, []).append(event.event_id or 0)

    lost = sorted(set(acknowledged) - set(ids))
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged and not stored: {lost[:20]} to {lost[-1]}"
    assert len(ids) == len(set(ids)), "stored twice"
    assert {lane: sorted(got) for lane, got in lanes.items()} == lanes, "out of order"


async def change_stream(connection: Connection, change: Callable[[StreamConfig], StreamConfig]) -> None:
    """Change the limits of the stream."""
    js = await jetstream(connection)
    await js.update_stream(change((await js.stream_info(STREAM.name)).config))


async def emit_until_taken(sink: NatsSink, events: list[Any]) -> None:
    """Emit *events* again until the sink accepts them."""
    async with asyncio.timeout(180):
        while True:
            try:
                return await sink.emit_batch(events)
            except SinkUnavailable:
                await asyncio.sleep(0.05)


async def is_made(connection: Connection, declared: StreamDeclaration) -> bool:
    """Return true once the stream exists; a cluster has a leader before it has peers for a stream."""
    try:
        await ensure_stream(connection, declared)
    except NatsUnavailable:
        return False
    return True
