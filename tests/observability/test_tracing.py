"""A trace continues from the emitter, through NATS and HTTP, to the sink."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from consumers.dead_letters.letter import read_letter
from consumers.tracing import MAX_LINKS, batch_span
from noetl_events import EventsRejected, encode
from noetl_events.identity import message_id
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.history import History
from noetl_events.jetstream.consume.history import Span as Stretch
from noetl_events.jetstream.consume.puller import Puller
from noetl_events.jetstream.storage import find_stored
from noetl_events.sinks.http import HttpSink
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event
from tests.gateway.gateway_process import serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from noetl_events import ExecutorEvent
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from noetl_events.jetstream.message import Message
    from tests.projector.bench import Bench

tracer = trace.get_tracer("tests")


def given(number: int, *, sampled: bool = True, state: dict[str, str] | None = None) -> NonRecordingSpan:
    """Return a span of another process."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return NonRecordingSpan(
        SpanContext(
            number, number, is_remote=True, trace_flags=flags, trace_state=TraceState(list((state or {}).items()))
        )
    )


def message_id_of(number: int) -> str:
    """Return the message id of event *number*."""
    return message_id(number, encode(make_event(number))).decode()


async def headers_in(connection: Connection, stream: StreamDeclaration) -> list[dict[str, str]]:
    """Return the headers of each message in *stream*."""
    found: list[dict[str, str]] = []
    async with History(connection, Stretch(stream=stream.name)) as history:
        while messages := await history.read():
            found += [dict(message.headers or {}) for message in messages]
    return found


async def emit(connection: Connection, stream: StreamDeclaration, *ids: int) -> None:
    """Emit events with these *ids* together."""
    sink = NatsSink(connection, subject=f"{stream.name}.{{event_type}}")
    await sink.emit_batch([make_event(each) for each in ids])
    await sink.aclose()


@pytest.mark.parametrize("ids", [pytest.param((1,), id="alone"), pytest.param(tuple(range(1, 301)), id="in batches")])
async def test_message_says_its_trace(
    spans: InMemorySpanExporter, connection: Connection, stream: StreamDeclaration, ids: tuple[int, ...]
) -> None:
    """Every message carries the trace context of the span it was emitted in, however it is sent."""
    with trace.use_span(given(7, state={"vendor": "x"})):
        await emit(connection, stream, *ids)
    headers = await headers_in(connection, stream)

    expected = {"traceparent": f"00-{7:032x}-{7:016x}-01", "tracestate": "vendor=x"}
    assert headers == [{"Nats-Msg-Id": message_id_of(each)} | expected for each in ids]


@pytest.mark.parametrize(
    "span",
    [
        pytest.param(trace.INVALID_SPAN, id="no span"),
        pytest.param(given(7, sampled=False), id="not sampled"),
    ],
)
async def test_no_trace_no_header(connection: Connection, stream: StreamDeclaration, span: Any) -> None:
    """Without a recorded span a message has no header except its id."""
    with trace.use_span(span):
        await emit(connection, stream, 1)

    assert await headers_in(connection, stream) == [{"Nats-Msg-Id": message_id_of(1)}]


async def test_long_trace_state_is_left_out(connection: Connection, stream: StreamDeclaration) -> None:
    """A trace state of more than 512 characters is not sent with the event."""
    with trace.use_span(given(7, state={f"v{n}": "x" * 200 for n in range(4)})):
        await emit(connection, stream, 1)

    assert [set(each) for each in await headers_in(connection, stream)] == [{"Nats-Msg-Id", "traceparent"}]


async def test_a_batch_is_a_span(spans: InMemorySpanExporter, bench: Bench) -> None:
    """A projector writes a batch in one span with counts and names, linked once to each span of its events."""
    with trace.use_span(given(1)):
        await emit(bench.connection, bench.stream, 1, 2)
    with trace.use_span(given(2)):
        await emit(bench.connection, bench.stream, 3)
    await emit(bench.connection, bench.stream, 4)
    sink = MemorySink()
    async with bench.projecting(sink):
        await eventually(lambda: len(sink.events) == 4)

    [span] = spans.get_finished_spans()
    assert (span.name, span.kind, span.parent) == (f"process {bench.stream.name}", SpanKind.CONSUMER, None)
    assert [link.context.trace_id for link in span.links] == [1, 2]
    assert dict(span.attributes or {}) == {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": bench.stream.name,
        "messaging.consumer.group.name": "projector",
        "messaging.batch.message_count": 4,
        "noetl.stored": 4,
        "noetl.buried": 0,
    }


async def test_links_are_bounded(spans: InMemorySpanExporter, bench: Bench) -> None:
    """A batch with more traces than a span may link is written, and linked to the first of them."""
    js = await jetstream(bench.connection)
    for number in range(1, MAX_LINKS + 20):
        headers = {"Traceparent": f"00-{number:032x}-{number:016x}-01"}
        await js.publish(f"{bench.stream.name}.x", _body(number), headers=headers)
    puller = Puller(bench.connection, bench.consumer)
    messages: list[Message] = []
    while len(messages) < MAX_LINKS + 19:
        messages += await puller.pull(MAX_LINKS)
    await puller.aclose()
    with batch_span(bench.consumer, messages):
        pass

    [span] = [each for each in spans.get_finished_spans() if each.name.startswith("process")]
    assert [link.context.span_id for link in span.links] == list(range(1, MAX_LINKS + 1))
    assert not span.dropped_links


@pytest.mark.parametrize(
    "value", ["", "00", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff-" + "1" * 32, "\x1b[2J", "9" * 10_000]
)
async def test_hostile_trace(spans: InMemorySpanExporter, bench: Bench, value: str) -> None:
    """An invalid trace context becomes no link, and its event is stored."""
    js = await jetstream(bench.connection)
    await js.publish(f"{bench.stream.name}.x", _body(1), headers={"traceparent": value, "tracestate": value})
    sink = MemorySink()
    async with bench.projecting(sink):
        await eventually(lambda: len(sink.events) == 1)

    [span] = spans.get_finished_spans()
    assert not span.links


async def test_dead_letter_keeps_its_trace(spans: InMemorySpanExporter, bench: Bench) -> None:
    """A rejected event keeps its trace context in the dead letter, and the span counts it."""
    with trace.use_span(given(5)):
        await emit(bench.connection, bench.stream, 1)
    async with bench.projecting(Refusing()) as projector:
        await eventually(lambda: projector.progress.dead_letters == 1)
    stored = await find_stored(bench.connection, bench.dead.name, 1)

    assert stored is not None
    assert read_letter(stored).headers["traceparent"] == f"00-{5:032x}-{5:016x}-01"
    [span] = spans.get_finished_spans()
    assert (span.attributes or {})["noetl.buried"] == 1


async def test_a_bug_tells_its_type_alone(spans: InMemorySpanExporter, bench: Bench) -> None:
    """An exception that ends the projector marks its span, without text that may quote an event."""
    await emit(bench.connection, bench.stream, 1)
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(180):
            await bench.projector(Broken()).run()

    [span] = spans.get_finished_spans()
    assert ((span.attributes or {})["error.type"], span.status.status_code) == ("ZeroDivisionError", StatusCode.ERROR)
    assert "quoted" not in span.to_json()


async def test_from_client_to_stream(
    spans: InMemorySpanExporter, connection: Connection, stream: StreamDeclaration
) -> None:
    """HttpSink, the gateway and the message in the stream are one trace."""
    async with serving(connection, stream) as web:
        sink = HttpSink(f"{web.url}/api/events")
        with tracer.start_as_current_span("client") as client:
            await sink.emit(make_event(1))
        await sink.aclose()
    server, _ = spans.get_finished_spans()
    [headers] = await headers_in(connection, stream)

    context, parent = server.context, server.parent
    assert context is not None
    assert parent is not None
    assert (server.name, server.kind) == ("POST /api/events", SpanKind.SERVER)
    assert parent.span_id == client.get_span_context().span_id
    assert context.trace_id == client.get_span_context().trace_id
    assert (server.attributes or {})["http.response.status_code"] == 200
    assert headers["traceparent"].split("-")[1:3] == [f"{context.trace_id:032x}", f"{context.span_id:016x}"]


async def test_gateway_takes_no_garbage(
    spans: InMemorySpanExporter, connection: Connection, stream: StreamDeclaration
) -> None:
    """A post with an invalid trace context starts its own trace; reading makes no spans."""
    async with serving(connection, stream) as web:
        await web.post("/api/events", _body(1), traceparent="garbage", tracestate="=" * 5_000)
        await web.get("/api/status", traceparent=f"00-{1:032x}-{1:016x}-01")

    [server] = spans.get_finished_spans()
    assert server.parent is None


class Refusing(MemorySink):
    """A sink that rejects every event."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Refuse."""
        raise EventsRejected(dict.fromkeys(range(len(events)), "no"))


class Broken(MemorySink):
    """A sink with a bug."""

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Fail."""
        raise ZeroDivisionError("quoted")


def _body(event_id: int) -> bytes:
    return encode(make_event(event_id))
