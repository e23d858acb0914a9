"""NatsSink keeps the contract of a sink on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from noetl_events.envelope import ExecutorEvent, decode, encode
from noetl_events.identity import message_id
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sink import EventsRejected, SinkUnavailable
from noetl_events.sinks.nats import NatsSink, subject_tokens
from noetl_events.testing.contract import SinkContract
from noetl_events.testing.events import make_event, make_events

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import RawStreamMsg

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration


async def read_stream(outside: JetStreamContext, name: str) -> list[RawStreamMsg]:
    """Return every message of the stream in order."""
    state = (await outside.stream_info(name)).state
    return [await outside.get_msg(name, seq) for seq in range(max(state.first_seq, 1), state.last_seq + 1)]


class TestNatsSink(SinkContract):
    """NatsSink on a stream with fast-ingest batches."""

    keyed = False

    @pytest.fixture(autouse=True)
    def _prepare(self, connection: Connection, stream: StreamDeclaration, outside: JetStreamContext) -> None:
        self.connection = connection
        self.stream = stream
        self.outside = outside

    def open(self) -> NatsSink:
        """Open it on the connection of the test."""
        return NatsSink(self.connection, subject=f"{self.stream.name}.{{event_type}}")

    async def stored(self) -> list[ExecutorEvent]:
        """Read the stream message by message."""
        return [decode(message.data or b"") for message in await read_stream(self.outside, self.stream.name)]


class TestNatsSinkWithoutBatches(TestNatsSink):
    """NatsSink on a stream that refuses fast-ingest batches."""

    @pytest.fixture(autouse=True)
    async def _forbid_batches(self, stream: StreamDeclaration, outside: JetStreamContext) -> None:
        info = await outside.stream_info(stream.name)
        await outside.update_stream(info.config.evolve(allow_batched=False))


async def test_identity_is_one_header(
    connection: Connection, stream: StreamDeclaration, subject: str, outside: JetStreamContext
) -> None:
    """A message carries `event_id` and digest as `Nats-Msg-Id`, and no other header, in a batch or alone."""
    sink = NatsSink(connection, subject=subject)
    await sink.emit(make_event(7))
    await sink.emit_batch(make_events(2, start=8))

    assert [{"Nats-Msg-Id": message_id(number, encode(make_event(number))).decode()} for number in (7, 8, 9)] == [
        message.headers for message in await read_stream(outside, stream.name)
    ]
    await sink.aclose()


async def test_event_without_id_gets_one(
    connection: Connection, stream: StreamDeclaration, subject: str, outside: JetStreamContext
) -> None:
    """An event without `event_id` gets one, in its payload and in its message id."""
    sink = NatsSink(connection, subject=subject, new_id=iter([41]).__next__)
    await sink.emit(make_event(event_id=None))
    (message,) = await read_stream(outside, stream.name)

    assert decode(message.data or b"").event_id == 41
    assert message.headers == {"Nats-Msg-Id": message_id(41, message.data or b"").decode()}
    await sink.aclose()


async def test_subject_follows_its_template(
    connection: Connection, stream: StreamDeclaration, outside: JetStreamContext
) -> None:
    """The subject template may use the execution and the type of the event."""
    sink = NatsSink(connection, subject=f"{stream.name}.{{execution_id}}.{{event_type}}")
    await sink.emit(make_event(1, execution_id=5, event_type="call.done"))
    (message,) = await read_stream(outside, stream.name)

    assert message.subject == f"{stream.name}.5.call.done"
    await sink.aclose()


async def test_no_event_is_lost_for_its_name(
    connection: Connection, stream: StreamDeclaration, subject: str, outside: JetStreamContext
) -> None:
    """An event with any name is stored under that name."""
    names = ["", "a b", "*", ">", "a..b", ".a", "a.", "\r\nPUB x 0\r\n", "\x00", "é", "x" * 100_000, "$JS.API.INFO"]
    sink = NatsSink(connection, subject=subject)
    await sink.emit_batch([make_event(number, event_type=name) for number, name in enumerate(names)])

    messages = await read_stream(outside, stream.name)
    assert names == [decode(message.data or b"").event_type for message in messages]
    await sink.aclose()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("command.completed", "command.completed", id="as it is"),
        pytest.param("", "_", id="empty"),
        pytest.param(".a..b.", "_.a._.b._", id="empty tokens"),
        pytest.param("a b\t\n", "a_b__", id="white space"),
        pytest.param("*.>.$JS", "_._._JS", id="wildcards and system subjects"),
        pytest.param("é", "_", id="beyond ASCII"),
        pytest.param("x" * 300, "x" * 200, id="too long"),
    ],
)
def test_name_becomes_tokens(name: str, expected: str) -> None:
    """Characters of a name that a subject cannot hold become underscores."""
    assert expected == subject_tokens(name)


@pytest.mark.parametrize(
    "template", ["", "a b", "a..b", "a.*", "a.{step}", "a.{}", "a.{event_type", "a.{event_type.x}", "a.", "x" * 300]
)
def test_template_that_makes_no_subject_is_refused(connection: Connection, template: str) -> None:
    """A subject template that can never work is refused by the constructor."""
    with pytest.raises(ValueError, match="subject"):
        NatsSink(connection, subject=template)


async def test_rejections_are_reported_together(
    connection: Connection, stream: StreamDeclaration, subject: str, outside: JetStreamContext
) -> None:
    """A batch reports events that JSON cannot hold and events above the server's limit, and stores the rest."""
    sink = NatsSink(connection, subject=subject)
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch(
            [make_event(1), make_event(2, context={1}), make_event(3, context="x" * 2_000_000), make_event(4)]
        )

    assert {1, 2} == rejection.value.reasons.keys()
    assert "max_payload" in rejection.value.reasons[2]
    assert [decode(message.data or b"").event_id for message in await read_stream(outside, stream.name)] == [1, 4]
    await sink.aclose()


async def test_url_opens_a_connection_of_its_own(
    nats_url: str, stream: StreamDeclaration, outside: JetStreamContext
) -> None:
    """A sink opened by URL connects at its first emit, and closes its connection."""
    sink = NatsSink.from_url(f"{nats_url}?subject={stream.name}.%7Bevent_type%7D&name=sink-of-a-test")
    await sink.emit(make_event(1))
    await sink.aclose()

    assert len(await read_stream(outside, stream.name)) == 1
    with pytest.raises(RuntimeError, match="closed"):
        await sink._connection.client()


async def test_given_connection_stays_open(connection: Connection, subject: str) -> None:
    """A sink does not close a connection that it was given."""
    sink = NatsSink(connection, subject=subject)
    await sink.emit(make_event(1))
    await sink.aclose()

    assert (await jetstream(connection)) is not None
    assert connection.is_connected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("nats://host:4222?subjct=x", "no option subjct", id="unknown option"),
        pytest.param("nats://host:4222?subject=a..b", "makes no subject", id="bad subject"),
        pytest.param("nats://host:4222/path", "is not a NATS URL", id="path"),
        pytest.param("nats://", "is not a NATS URL", id="no host"),
    ],
)
def test_url_is_refused(url: str, message: str) -> None:
    """An invalid part of a URL is refused with its reason."""
    with pytest.raises(ValueError, match=message):
        NatsSink.from_url(url)


def test_password_with_a_question_mark_stays_secret() -> None:
    """The text after a ? is read as an option, and the refusal does not show it."""
    with pytest.raises(ValueError, match=r"\? as %3F") as refusal:
        NatsSink.from_url("nats://user:pa?hunter2@host:4222")

    assert "hunter2" not in str(refusal.value)


async def test_url_says_who_we_are() -> None:
    """User, password and hosts of a URL are percent-decoded and used for the connection."""
    sink = NatsSink.from_url("tls://us%40er:p%3Aw@one:4222,two:4223?subject=a.b")
    options = sink._connection.options

    assert [str(url) for url in options.urls] == ["tls://one:4222", "tls://two:4223"]
    assert [(url.user, url.password) for url in options.urls] == [("us@er", "p:w")] * 2
    assert ConnectOptions(servers="nats://t@h") == NatsSink.from_url("nats://t@h")._connection.options


async def test_acknowledgements_give_the_end_of_the_stream(connection: Connection, subject: str) -> None:
    """While a stream grows as expected, acknowledgements give a spool its position without a request."""
    sink = NatsSink(connection, subject=subject)
    await sink.emit_batch(make_events(3))
    asked = await sink.watermark()
    await sink.emit_batch(make_events(3, start=4))
    client = await connection.client()
    sent = client.stats["out_msgs"]
    position = await sink.watermark()

    assert (position.created, position.last_seq) == (asked.created, 6)
    assert client.stats["out_msgs"] == sent
    await sink.aclose()


async def test_stream_that_was_away_is_asked(connection: Connection, subject: str) -> None:
    """After a failure, earlier acknowledgements do not count for the stream's position."""
    sink = NatsSink(connection, subject=subject)
    await sink.emit_batch(make_events(3))
    await sink.watermark()
    await sink.emit_batch(make_events(3, start=4))
    away = patch.object(sink._publisher, "publish", side_effect=NatsUnavailable("away"))
    with away, pytest.raises(SinkUnavailable, match="away"):
        await sink.emit(make_event(7))
    client = await connection.client()
    sent = client.stats["out_msgs"]
    await sink.watermark()

    assert client.stats["out_msgs"] > sent
    await sink.aclose()


async def test_stream_that_does_not_grow_is_asked(
    connection: Connection, stream: StreamDeclaration, outside: JetStreamContext, subject: str
) -> None:
    """An acknowledgement of another stream reveals the replacement at once."""
    sink = NatsSink(connection, subject=subject)
    await sink.emit_batch(make_events(3))
    before = await sink.watermark()
    config = (await outside.stream_info(stream.name)).config
    await outside.delete_stream(stream.name)
    await outside.add_stream(config)
    await sink.emit(make_event(4))
    now = await sink.watermark()

    assert now.created != before.created
    assert now.last_seq == 1
    await sink.aclose()
