"""
What can be wrong on the way to JetStream, each named after what the caller does next.

    NatsUnavailable        wait and try again; it heals by itself or by an operator
    ├── StreamMissing      ... once somebody has created the stream
    ├── ConsumerMissing    ... after the consumer was created again
    ├── MessageTooLarge    ... once the message is smaller, or the server's max_payload larger
    ├── PermissionDenied   ... once the account has the permission
    ├── JetStreamOff       ... once JetStream is enabled for the account
    │   └── JetStreamSilent    ... likewise, or once a server that has it is back
    └── Refused            ... once an operator has changed what the message names: asking again is no use until then
        └── StreamRefused  ... likewise, of a stream
    StreamReplaced         start over: what was read is not in this stream
    RuntimeError
    └── ConnectionIsClosed  open another connection: its owner has closed this one
    ValueError
    ├── StreamDrift        change the declaration or the server; trying again is no use
    ├── ConsumerDrift      likewise, of a durable consumer
    └── ServerTooOld       use a newer server, or do without what the message names
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from noetl_events.jetstream.stream_config import Deviation

# The server lets nothing else of a consumer be changed.
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
    """The connection was closed by `aclose`, and is asked for something afterwards."""


class NatsUnavailable(Exception):
    """NATS cannot do it now; nothing is known of what was under way."""


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
    """Nothing listens on the subjects of JetStream's API: as a rule it is switched off, and no server says so."""


class Refused(NatsUnavailable):
    """The server refuses what is asked, and will refuse it again until an operator changes what the message names."""


class StreamRefused(Refused):
    """
    The server does not make, change or serve a stream.

    Args:
        name: of the stream.
        reason: in the server's words.
        field: of the stream's configuration for which it is refused; empty if that is not known.

    """

    def __init__(self, name: str, reason: str, *, field: str = "") -> None:
        super().__init__(f"stream {name}: {reason}")
        self.field = field


class ServerTooOld(ValueError):
    """The server lacks what is asked of it; the message names the version that has it."""


class StreamReplaced(Exception):
    """While a stream was read it was created again, or lost its end: its sequences name other messages now."""


class StreamDrift(ValueError):
    """
    A stream exists and differs from its declaration.

    Args:
        name: of the stream.
        deviations: at least one.

    """

    def __init__(self, name: str, deviations: Sequence[Deviation]) -> None:
        lines = "".join(f"\n  {deviation}" for deviation in deviations)
        super().__init__(
            f"stream {name} differs from its declaration and was left as it is:{lines}\n"
            f"Set what is there, or change the stream (nats stream edit {name})."
        )
        self.name = name
        self.deviations = list(deviations)


class Difference(NamedTuple):
    """A field of a consumer that differs: its name, the declared value, the one on the server, and what that means."""

    field: str
    declared: object
    actual: object
    meaning: str

    def __str__(self) -> str:
        return f"{self.field}: {self.actual!r} on the server, {self.declared!r} declared: {self.meaning}"


class ConsumerDrift(ValueError):
    """
    A durable consumer exists, and a projector must not read it: it would miss messages, or get none.

    Args:
        stream: of the consumer.
        name: of the consumer.
        differences: at least one.

    """

    def __init__(self, stream: str, name: str, differences: Sequence[Difference]) -> None:
        self.differences = list(differences)
        self.remedy = " ".join(_remedies(f"{stream} {name}", differences))
        lines = "".join(f"\n  {difference}" for difference in differences)
        found = f"consumer {name} of stream {stream} does not deliver as it must, and was left as it is:"
        super().__init__(f"{found}{lines}\n{self.remedy}")


def _remedies(consumer: str, differences: Sequence[Difference]) -> Iterator[str]:
    if any("--standby" in difference.meaning for difference in differences):
        yield "Start as it was made, or give another --durable."
    again = "the projector makes it anew and reads the stream from its start, which a destination takes twice."
    if not all(difference.field in _EDITABLE for difference in differences):
        yield f"Delete it (nats consumer rm {consumer}): {again}"
        return
    yield f"Put it back (nats consumer edit {consumer}), or delete it (nats consumer rm {consumer}): {again}"
    yield "Delete it if no projector ran when it was edited: what it has left out since then is known to none."
