"""A sink that publishes events into a JetStream stream."""

from __future__ import annotations

import re
import time
from functools import lru_cache
from string import Formatter
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from msgspec import structs

from noetl_events.envelope import encode
from noetl_events.identity import message_id as digest_id
from noetl_events.ids import process_ids
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.publish.message import Outgoing
from noetl_events.jetstream.publish.publisher import Publisher
from noetl_events.jetstream.streams import StreamPosition, watermark
from noetl_events.json_values import MalformedEvent
from noetl_events.sink import EventsRejected, SinkUnavailable, read_options
from noetl_events.trace_context import trace_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.jetstream.publish.message import PublishCounts
    from noetl_events.jetstream.publish.publisher import Durability

SUBJECT: Final = "noetl.events.{event_type}"
SUBJECT_BY_EXECUTION: Final = "noetl.events.{execution_id}.{event_type}"
"""Subject template for a stream with partitions, which are chosen by the first token after the prefix."""

_FIELDS: Final = ("event_type", "execution_id")
_CONNECTION_OPTIONS: Final = (
    "api_prefix",
    "credentials",
    "domain",
    "inbox_prefix",
    "name",
    "nkey_seed",
    "tls_ca",
    "tls_cert",
    "tls_first",
    "tls_key",
)
_OPTIONS: Final = ("durable", "message_id", "stream", "subject", *_CONNECTION_OPTIONS)
_FETCH_INTERVAL: Final = 5.0
# A longer name would exceed the server's limit for a line, and the server would close the connection.
_MAX_NAME: Final = 200
_UNSAFE: Final = re.compile(r"[^!-~]|[*>$]")
_EMPTY_TOKEN: Final = re.compile(r"(?:^|(?<=\.))(?=\.|$)")


def _bare_id(event_id: int, _body: bytes) -> bytes:
    return b"%d" % event_id


MessageIds = Literal["digest", "event_id"]
_MESSAGE_IDS: Final[dict[str, Callable[[int, bytes], bytes]]] = {"digest": digest_id, "event_id": _bare_id}


class NatsSink:
    """
    Publish each event to the stream, once by its message id: `event_id` and digest (`noetl_events.identity`).

    An event without `event_id` is given one.  The subject is for filters and is no identity: characters of an
    `event_type` that it cannot contain (anything but visible ASCII, and `*`, `>`, `$`) and empty tokens become `_`, and
    it is cut after 200 characters.  The payload has the unchanged name, so no event is lost for its name.

    Events emitted while others are in flight form the next batch.  The number of events queued and in flight is
    bounded; at the bound, emitting waits.

    Args:
        connection: connection to NATS; it is closed only with *owns_connection*.
        subject: template of the subjects; it may use `{event_type}` and `{execution_id}`.
        new_id: function that returns an event id; the generator of this process by default.
        timeout: seconds of retries until `SinkUnavailable`.
        durable: "stored", or "fsync" for a server with `sync_interval: always`; see `Publisher`.
        stream: name of the stream that has to acknowledge.  Without it the name is learned, see
            `noetl_events.jetstream.publish.expected_stream`.
        message_id: "digest", or "event_id" to publish under the bare id as the first version did: then the stream
            silently drops the second of two different events with one id.
        owns_connection: True to close *connection* with this sink.

    Raises:
        ValueError: *subject* makes no valid subject, or *durable* or *message_id* has an unknown value.

    """

    def __init__(
        self,
        connection: Connection,
        *,
        subject: str = SUBJECT,
        new_id: Callable[[], int] | None = None,
        timeout: float = 30.0,
        durable: Durability = "stored",
        stream: str = "",
        message_id: MessageIds = "digest",
        owns_connection: bool = False,
    ) -> None:
        _require_template(subject)
        if message_id not in _MESSAGE_IDS:
            raise ValueError(f"message_id: {message_id!r} is neither 'digest' nor 'event_id'")
        self._make_id = _MESSAGE_IDS[message_id]
        self._connection = connection
        self._owns_connection = owns_connection
        self._publisher = Publisher(connection, timeout=timeout, durable=durable, stream=stream)
        self._subject = subject
        self._by_execution = "{execution_id" in subject
        self._new_id = new_id or process_ids()
        self._position: StreamPosition | None = None
        self._next_fetch = 0.0
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """
        Open `nats://user:password@host:4222?subject=...`, or `tls://`, `ws://`, `wss://`.

        Several hosts are separated by commas, as in `ConnectOptions`.
        Options: `subject`, `durable` (`stored` or `fsync`), `stream`, `message_id` (`digest` or `event_id`), and
        of `ConnectOptions` *domain*, *api_prefix*, *credentials*, *nkey_seed*, *tls_ca*, *tls_cert*, *tls_key*,
        *tls_first* (`true`), *inbox_prefix*, *name*.

        Raises:
            ValueError: the URL has an unknown option, or names no server.

        """
        servers, _, query = url.partition("?")
        options: dict[str, Any] = {**read_options("nats", query, _OPTIONS)}
        subject = options.pop("subject", SUBJECT)
        durable: Durability = options.pop("durable", "stored")
        message_id: MessageIds = options.pop("message_id", "digest")
        stream = options.pop("stream", "")
        connection = Connection(_options_of(servers, options))
        return cls(
            connection, subject=subject, durable=durable, stream=stream, message_id=message_id, owns_connection=True
        )

    @property
    def mode(self) -> str:
        """Kind of batches: see `Publisher.mode`."""
        return self._publisher.mode

    @property
    def counts(self) -> PublishCounts:
        """Counts since the sink was created."""
        return self._publisher.counts

    async def emit(self, event: ExecutorEvent) -> None:
        """Publish *event*."""
        await self.emit_batch((event,))

    async def emit_batch(self, events: Sequence[ExecutorEvent]) -> None:
        """Publish *events*; raises as `EventSink`."""
        if self._closed:
            raise RuntimeError("NatsSink is closed")
        malformed: dict[int, str] = {}
        try:
            await self._publisher.publish(self._outgoing(events, malformed))
        except NatsUnavailable as exc:
            # Acknowledgements from before the outage do not show what the stream lost in it, so ask next time.
            self._next_fetch = 0.0
            raise SinkUnavailable(str(exc)) from exc
        except EventsRejected as exc:
            raise EventsRejected(malformed | exc.reasons) from None
        if malformed:
            raise EventsRejected(malformed)

    async def watermark(self) -> StreamPosition:
        """
        Return the end of the stream; raises `SinkUnavailable` if it is unknown.

        The server is asked every five seconds, and if the last acknowledgement shows no growth of the stream.
        Otherwise the acknowledgements are enough, which saves the server the requests of thousands of workers.
        """
        acknowledged, position = self._publisher.last_sequence, self._position
        if position is not None and acknowledged > position.last_seq and time.monotonic() < self._next_fetch:
            self._position = StreamPosition(position.created, acknowledged)
        else:
            self._position = await self._fetch_position()
            self._next_fetch = time.monotonic() + _FETCH_INTERVAL
        return self._position

    async def aclose(self) -> None:
        """Finish accepted calls, and close a connection that the sink owns."""
        self._closed = True
        await self._publisher.aclose()
        if self._owns_connection:
            await self._connection.aclose()

    async def _fetch_position(self) -> StreamPosition:
        try:
            return await watermark(self._connection, self._subject.format(event_type="_", execution_id=0))
        except NatsUnavailable as exc:
            raise SinkUnavailable(str(exc)) from exc

    def _outgoing(self, events: Sequence[ExecutorEvent], malformed: dict[int, str]) -> Iterator[Outgoing]:
        lines = trace_lines()
        for index, event in enumerate(events):
            event_id = event.event_id
            if event_id is None:
                event_id = self._new_id()
                event = structs.replace(event, event_id=event_id)  # noqa: PLW2901  (the same event, with its id)
            try:
                body = encode(event)
            except MalformedEvent as exc:
                malformed[index] = str(exc)
                continue
            execution_id = event.execution_id
            subject = make_subject(self._subject, event.event_type, execution_id if self._by_execution else 0)
            yield Outgoing(subject, self._make_id(event_id, body), body, execution_id, index=index, lines=lines)


@lru_cache(maxsize=1024)
def make_subject(template: str, event_type: str, execution_id: int) -> str:
    """Return the subject of an event."""
    return template.format(event_type=subject_tokens(event_type), execution_id=execution_id)


def subject_tokens(name: str) -> str:
    """Return *name* in the form that subjects contain."""
    return _EMPTY_TOKEN.sub("_", _UNSAFE.sub("_", name[:_MAX_NAME]))


def _require_template(template: str) -> None:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
        subject = template.format(event_type="a", execution_id=1)
    except (KeyError, IndexError, ValueError, AttributeError) as exc:
        raise ValueError(f"subject: {template!r} may use {{event_type}} and {{execution_id}} only ({exc!r})") from None
    if not fields <= set(_FIELDS):
        raise ValueError(f"subject: {template!r} may use {{event_type}} and {{execution_id}} only")
    if not subject or len(subject) > _MAX_NAME or _UNSAFE.search(subject) or _EMPTY_TOKEN.search(subject):
        raise ValueError(f"subject: {template!r} makes no subject to publish to")


def _options_of(servers: str, options: dict[str, Any]) -> ConnectOptions:
    if "tls_first" in options:
        options["tls_first"] = options["tls_first"] == "true"
    try:
        return ConnectOptions(servers=servers, **options)
    except ValueError as exc:
        raise ValueError(f"sink URL: {str(exc).removeprefix('servers: ')}") from None
