"""Carry NoETL's execution events through NATS JetStream into durable places."""

from noetl_events.emitter import EventEmitter
from noetl_events.envelope import ExecutorEvent, decode, encode
from noetl_events.event_types import EventStatus, EventType
from noetl_events.ids import Snowflake
from noetl_events.json_values import MalformedEvent
from noetl_events.sink import EventSink, EventsRejected, SinkUnavailable, UnknownSink, open_sink

__all__ = [
    "EventEmitter",
    "EventSink",
    "EventStatus",
    "EventType",
    "EventsRejected",
    "ExecutorEvent",
    "MalformedEvent",
    "SinkUnavailable",
    "Snowflake",
    "UnknownSink",
    "decode",
    "encode",
    "open_sink",
]
