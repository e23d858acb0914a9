"""
What can be wrong on the way to JetStream, each named after what the caller does next.

    NatsUnavailable        wait and try again; it heals by itself or by an operator
    ├── StreamMissing      ... once somebody has created the stream
    ├── ConsumerMissing    ... after the consumer was created again
    ├── MessageTooLarge    ... once the message is smaller, or the server's max_payload larger
    └── PermissionDenied   ... once the account has the permission
    StreamReplaced         start over: what was read is not in this stream
    ValueError
    └── TopologyDrift      change the declaration or the server; trying again is no use
"""

from __future__ import annotations


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


class StreamReplaced(Exception):
    """While a stream was read it was created again, or lost its end: its sequences name other messages now."""


class TopologyDrift(ValueError):
    """
    A stream or consumer exists and differs from its declaration.

    Args:
        kind: "stream" or "consumer".
        name: its name.
        differences: field, declared value, value on the server.

    """

    def __init__(self, kind: str, name: str, differences: list[tuple[str, object, object]]) -> None:
        lines = [
            f"  {field}: declared {declared!r}, on the server {actual!r}" for field, declared, actual in differences
        ]
        super().__init__(
            "\n".join(
                [
                    f"{kind} {name} differs from its declaration and was left as it is:",
                    *lines,
                    f"Declare what is there, or change the {kind} with the NATS command line.",
                ]
            )
        )
        self.differences = differences
