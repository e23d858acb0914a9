"""
Errors of JetStream, named after the action that the caller takes next.

    NatsUnavailable        wait and retry: it ends by itself, or an operator ends it
    ├── StreamMissing      ... after the stream was created
    ├── ConsumerMissing    ... after the consumer was created again
    ├── MessageTooLarge    ... with a smaller message, or after the server's max_payload was raised
    ├── PermissionDenied   ... after the account was given the permission
    ├── JetStreamOff       ... after JetStream was enabled for the account
    │   └── JetStreamSilent    ... or after a server with JetStream is back
    └── Refused            ... after an operator has changed the setting in the message: a retry before that is useless
        └── StreamRefused  ... the same, for a stream
    StreamReplaced         start over: the messages read before are not in this stream
    RuntimeError
    └── ConnectionIsClosed  open another connection: the owner has closed this one
    ValueError
    ├── StreamDrift        change the declaration or the server: a retry is useless
    ├── ConsumerDrift      the same, for a durable consumer
    └── ServerTooOld       use a newer server, or do without the feature in the message
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from noetl_events.jetstream.stream_config import Deviation

# The server allows changes only to these fields of a consumer.
_EDITABLE: Final = frozenset(
    (
        "ack_wait",
        "backoff",
        "filter_subject",
        "filter_subjects",
        "headers_only",
        "max_deliver",
        "max_expires",
        "priority_groups",
        "priority_policy",
        "priority_timeout",
    )
)


class ConnectionIsClosed(RuntimeError):
    """The connection was closed by `aclose` before the call."""


class NatsUnavailable(Exception):
    """NATS is unavailable at the moment; the outcome of requests in flight is unknown."""


class StreamMissing(NatsUnavailable):
    """The stream does not exist, or the account cannot see it."""


class ConsumerMissing(NatsUnavailable):
    """The consumer does not exist any more."""


class MessageTooLarge(NatsUnavailable):
    """The message with its headers exceeds the server's max_payload; it was not sent."""


class PermissionDenied(NatsUnavailable):
    """The account lacks a permission; the message names the subject."""


class JetStreamOff(NatsUnavailable):
    """The server says that JetStream is switched off, for the account of the connection or for all of them."""


class JetStreamSilent(JetStreamOff):
    """No server answers on the subjects of JetStream's API: usually JetStream is off, and no server reports that."""


class Refused(NatsUnavailable):
    """The server refuses the request, and will refuse it until an operator changes the setting in the message."""


class StreamRefused(Refused):
    """
    The server refuses to create, change or serve a stream.

    Args:
        name: name of the stream.
        reason: error text of the server.
        field: refused field of the stream's configuration; empty if unknown.

    """

    def __init__(self, name: str, reason: str, *, field: str = "") -> None:
        super().__init__(f"stream {name}: {reason}")
        self.field = field


class ServerTooOld(ValueError):
    """The server does not support the feature; the message names the version that does."""


class StreamReplaced(Exception):
    """The stream was created again, or lost its end, while it was read: its sequences mean other messages now."""


class StreamDrift(ValueError):
    """
    A stream exists and differs from its declaration.

    Args:
        name: name of the stream.
        deviations: differences, at least one.

    """

    def __init__(self, name: str, deviations: Sequence[Deviation]) -> None:
        lines = "".join(f"\n  {deviation}" for deviation in deviations)
        super().__init__(
            f"stream {name} differs from its declaration and was left as it is:{lines}\n"
            f"Change the settings to match, or change the stream (nats stream edit {name})."
        )
        self.name = name
        self.deviations = list(deviations)


class Difference(NamedTuple):
    """A difference of a consumer: field, declared value, value on the server, and its effect."""

    field: str
    declared: object
    actual: object
    meaning: str

    def __str__(self) -> str:
        return f"{self.field}: {self.actual!r} on the server, {self.declared!r} declared: {self.meaning}"


class ConsumerDrift(ValueError):
    """
    A projector must not read an existing durable consumer, because it would miss messages or get none.

    Args:
        stream: name of the stream.
        name: name of the consumer.
        differences: differences, at least one.

    """

    def __init__(self, stream: str, name: str, differences: Sequence[Difference]) -> None:
        self.differences = list(differences)
        self.remedy = " ".join(_remedies(f"{stream} {name}", differences))
        lines = "".join(f"\n  {difference}" for difference in differences)
        found = f"consumer {name} of stream {stream} differs from what a projector needs, and was left as it is:"
        super().__init__(f"{found}{lines}\n{self.remedy}")


def _remedies(consumer: str, differences: Sequence[Difference]) -> Iterator[str]:
    if any("--standby" in difference.meaning for difference in differences):
        yield "Start the projector as the consumer was created, or give another --durable."
    again = "the projector recreates it and reads the stream from its start; destinations accept an event twice."
    if not all(difference.field in _EDITABLE for difference in differences):
        yield f"Delete it (nats consumer rm {consumer}): {again}"
        return
    restore = f"Restore its configuration (nats consumer edit {consumer})"
    yield f"{restore}, or delete it (nats consumer rm {consumer}): {again}"
    yield "Delete it if no projector ran when it was edited: messages that it has skipped since cannot be found."
