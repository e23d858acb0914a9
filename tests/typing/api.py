"""
A user's code for type checkers: checked by mypy (`make check`) and pyright (`make typing`), never run.

`assert_type` fails where a type gets wider, and an unused ignore where an expected error is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

from noetl_events import (
    Connection,
    ConnectOptions,
    EventEmitter,
    EventSink,
    EventsRejected,
    EventStatus,
    ExecutorEvent,
    NatsSink,
    SinkUnavailable,
    Snowflake,
    SpoolSink,
    decode,
    encode,
    open_sink,
)
from noetl_events.jetstream.connection import Connection as ConnectionByItsPath
from noetl_events.jetstream.options import ConnectOptions as ConnectOptionsByTheirPath
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.nats import NatsSink as NatsSinkByItsPath
from noetl_events.sinks.spool import SpoolSink as SpoolSinkByItsPath
from noetl_events.testing import FaultySink, SinkContract, make_event, make_events

if TYPE_CHECKING:
    from collections.abc import Sequence


class FolderSink:
    """A third party's sink, without a base class."""

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit an event."""
        await self.emit_batch([event])

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Emit several events."""
        raise EventsRejected({place: "full" for place, event in enumerate(events) if event.event_id is not None})

    async def aclose(self) -> None:
        """Close."""


class Deaf:
    """A class that is no sink: `emit_batch` is missing."""

    async def emit(self, event: ExecutorEvent) -> None:
        """Emit an event."""

    async def aclose(self) -> None:
        """Close."""


class TestFolder(SinkContract):
    """The contract is a base class for tests."""


async def produce() -> None:
    """Emit through each kind of sink."""
    async with Connection(ConnectOptions(servers="nats://127.0.0.1:4222")) as connection:
        assert_type(connection, Connection)
        sink = NatsSink(connection)
        emitter = EventEmitter(543942402780693277, sink, worker_id="worker-7")
        assert_type(await emitter.emit("step.enter", "fetch", EventStatus.STARTED, {"a": [1, None]}), ExecutorEvent)
        assert_type(emitter.stamp("step.exit", "fetch", "COMPLETED", None), ExecutorEvent)
        spool: EventSink = SpoolSink(sink, "/var/spool/noetl", owns_inner=True)
        await spool.emit_batch(make_events(3))


async def handle(sink: EventSink, event: ExecutorEvent) -> None:
    """Handle each error."""
    try:
        await sink.emit(event)
    except SinkUnavailable as exc:
        assert_type(exc.reason, str)
        assert_type(exc.retry_after, float | None)
        assert_type(exc.event, ExecutorEvent | None)
    except EventsRejected as exc:
        assert_type(exc.conflicts, frozenset[int])
        for place, reason in exc.reasons.items():
            assert_type(place, int)
            assert_type(reason, str)


def same() -> None:
    """Each name of the package is the one of its module."""
    assert_type(ConnectionByItsPath, type[Connection])
    assert_type(ConnectOptionsByTheirPath, type[ConnectOptions])
    assert_type(NatsSinkByItsPath, type[NatsSink])
    assert_type(SpoolSinkByItsPath, type[SpoolSink])


def look() -> None:
    """Read and write envelopes."""
    event = decode(b"{}")
    assert_type(event, ExecutorEvent)
    assert_type(event.event_id, int | None)
    assert_type(event.execution_id, int)
    assert_type(event.worker_id, str | None)
    assert_type(encode(event), bytes)
    assert_type(Snowflake(node=1)(), int)
    assert_type(open_sink("memory:"), EventSink)
    assert_type(make_event(1), ExecutorEvent)
    assert_type(make_events(2), list[ExecutorEvent])
    event.step = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def seam() -> Any:
    """Accept every class with the three methods as a sink, and no other."""
    sinks: list[EventSink] = [FolderSink(), MemorySink(), FaultySink(MemorySink(), [])]
    refused: EventSink = Deaf()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    return sinks, refused
