"""A stream, a dead-letter stream, and projectors between them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from msgspec import structs

from consumers.dead_letters import DeadLetters
from consumers.projector.crash_records import CrashRecords
from consumers.projector.projector import Projector
from noetl_events import ExecutorEvent, encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.declarations import ConsumerDeclaration, StreamDeclaration
from noetl_events.retry import Backoff
from noetl_events.sinks.memory import MemorySink
from noetl_events.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from noetl_events import EventSink
    from noetl_events.jetstream.connection import Connection

QUICK = Backoff(initial=0.02, maximum=0.05)


class Blocking(MemorySink):
    """A sink with writes that wait for the test's permission after they stored."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = asyncio.Event()
        self.go = asyncio.Event()

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Store the batch, then wait."""
        await super().emit_batch(events)
        self.stored.set()
        await self.go.wait()


class Bench:
    """A stream, its dead-letter stream and a way to run projectors between them."""

    def __init__(self, connection: Connection, stream: StreamDeclaration, dead: StreamDeclaration) -> None:
        self.connection = connection
        self.stream = stream
        self.dead = dead
        self.consumer = ConsumerDeclaration(name="projector", stream=stream.name)

    async def publish(self, bodies: Iterable[bytes | ExecutorEvent]) -> None:
        """Store *bodies* in the stream, in order."""
        js = await jetstream(self.connection)
        for body in bodies:
            await js.publish(f"{self.stream.name}.x", encode(body) if isinstance(body, ExecutorEvent) else body)

    def projector(self, sink: EventSink, *, crash_records: CrashRecords | None = None, **changes: Any) -> Projector:
        """Return a projector into *sink*, with *changes* to its consumer."""
        puller = Puller(self.connection, structs.replace(self.consumer, **changes))
        letters = DeadLetters(self.connection, prefix=self.dead.name)
        return Projector(puller, sink, letters, crash_records or CrashRecords(self.connection), backoff=QUICK)

    @asynccontextmanager
    async def projecting(
        self, sink: EventSink, *, crash_records: CrashRecords | None = None, received: int = 0, **changes: Any
    ) -> AsyncIterator[Projector]:
        """Run a projector into *sink*, once it has *received* so many messages, and stop it in the end."""
        projector = self.projector(sink, crash_records=crash_records, **changes)
        if received:
            await projector.puller.request()
            await eventually(lambda: projector.in_flight == received)
        running = asyncio.create_task(projector.run())
        try:
            yield projector
            await projector.stop()
            async with asyncio.timeout(180):
                await running
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def unsettled(self) -> int:
        """Return the number of messages that are unacknowledged or not yet delivered."""
        info = await (await jetstream(self.connection)).consumer_info(self.stream.name, self.consumer.name)
        return (info.num_ack_pending or 0) + (info.num_pending or 0)

    async def unsettled_is(self, expected: int) -> bool:
        """Return true if `unsettled` is *expected*."""
        return await self.unsettled() == expected

    async def unacknowledged_is(self, expected: int, name: str) -> bool:
        """Return true if *expected* messages are delivered to the consumer *name* and not acknowledged."""
        info = await (await jetstream(self.connection)).consumer_info(self.stream.name, name)
        return bool(info.num_ack_pending == expected)

    async def redelivered(self) -> int:
        """Return the number of messages that were delivered more than once and are not acknowledged."""
        info = await (await jetstream(self.connection)).consumer_info(self.stream.name, self.consumer.name)
        return info.num_redelivered or 0

    async def dead_letters(self) -> list[Any]:
        """Return the dead letters, in order."""
        js = await jetstream(self.connection)
        state = (await js.stream_info(self.dead.name)).state
        return [await js.get_msg(self.dead.name, sequence) for sequence in range(1, state.last_seq + 1)]


def ids(sink: MemorySink) -> list[int | None]:
    """Return the stored event ids, in order."""
    return [event.event_id for event in sink.events]
