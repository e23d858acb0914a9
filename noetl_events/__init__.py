"""Carry NoETL's execution events through NATS JetStream into durable places."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from noetl_events.emitter import EventEmitter
from noetl_events.envelope import ExecutorEvent, decode, encode
from noetl_events.event_types import EventStatus, EventType
from noetl_events.ids import Snowflake
from noetl_events.json_values import MalformedEvent
from noetl_events.sink import EventSink, EventsRejected, SinkUnavailable, UnknownSink, open_sink

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.options import ConnectOptions
    from noetl_events.sinks.nats import NatsSink
    from noetl_events.sinks.spool import SpoolSink

__all__ = [
    "ConnectOptions",
    "Connection",
    "EventEmitter",
    "EventSink",
    "EventStatus",
    "EventType",
    "EventsRejected",
    "ExecutorEvent",
    "MalformedEvent",
    "NatsSink",
    "SinkUnavailable",
    "Snowflake",
    "SpoolSink",
    "UnknownSink",
    "decode",
    "encode",
    "open_sink",
]

# A process that only encodes events does not load a client of NATS, so these modules are imported on first use.
_ON_FIRST_USE: Final = {
    "ConnectOptions": "noetl_events.jetstream.options",
    "Connection": "noetl_events.jetstream.connection",
    "NatsSink": "noetl_events.sinks.nats",
    "SpoolSink": "noetl_events.sinks.spool",
}


def __getattr__(name: str) -> Any:
    """Import the module of *name* on its first use."""
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_ON_FIRST_USE[name]), name)
    return value
