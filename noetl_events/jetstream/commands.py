"""
Messages as the commands that NATS reads, many of them in one write.

nats-py's `publish` looks at each subject, builds each header and awaits once a message: half of what a batch costs.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from nats.errors import Error as NatsError

from noetl_events.jetstream.errors import NatsUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from noetl_events.jetstream.direct_client import DirectClient
    from noetl_events.jetstream.outgoing import Outgoing

# A blank or a line end in a subject would be read as the next argument, or the next command.
_WORD: Final = re.compile(r"[^\s\x00-\x1f\x7f]+")
# No stream is called this: a server without batches stores no such message.
_NOWHERE: Final = b"NATS/1.0\r\nNats-Expected-Stream: -\r\n\r\n"


async def publish_all(client: DirectClient, messages: Sequence[Outgoing], commands: Iterable[bytes]) -> None:
    """
    Hand *messages*, encoded as *commands*, to the socket in their order; their answers come later.

    Raises:
        NatsUnavailable: the connection is not there; nothing was handed over.

    """
    _require_connection(client)
    encoded = b"".join(commands)
    for message in messages:
        message.sent = True
    await _write(client, encoded)


async def publish_to_all(client: DirectClient, subjects: Iterable[str], payload: bytes) -> None:
    """
    Hand *payload* to the socket once for each of *subjects*, which must be sound: those of deliveries are.

    Raises:
        NatsUnavailable: the connection is not there; nothing was handed over.

    """
    _require_connection(client)
    tail = b" %d\r\n%b\r\n" % (len(payload), payload)
    if encoded := b"".join([b"PUB %b%b" % (subject.encode(), tail) for subject in subjects]):
        await _write(client, encoded)


def _require_connection(client: DirectClient) -> None:
    if not client.is_connected:
        # nats-py would keep them and send them after the reconnection, when their outcome was long decided.
        raise NatsUnavailable("cannot send: not connected")


async def _write(client: DirectClient, encoded: bytes) -> None:
    try:
        await client.write(encoded)
    except (NatsError, OSError) as exc:
        raise NatsUnavailable(f"cannot send: {str(exc) or type(exc).__name__}") from exc


@lru_cache(maxsize=1024)
def encoded_subject(subject: str) -> bytes:
    """
    Return *subject* as it stands in a command.

    Raises:
        ValueError: it is empty, or holds a blank or a control character.

    """
    if not _WORD.fullmatch(subject):
        raise ValueError(f"subject: {subject!r} is empty, or holds a blank or a control character")
    return subject.encode()


def command(message: Outgoing, reply: bytes) -> bytes:
    """Return *message* as a command whose answer goes to *reply*."""
    head, body = message.head, message.body
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (message.encoded_subject, reply, len(head), message.size, head, body)


def command_with(message: Outgoing, headers: bytes, reply: bytes) -> bytes:
    """Return *message* as a command with the lines *headers* added; an empty *reply* asks for no answer."""
    head, body = message.head[:-2] + headers + b"\r\n", message.body
    address = b"%b %b" % (message.encoded_subject, reply) if reply else message.encoded_subject
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (address, len(head), len(head) + len(body), head, body)


def batch_command(message: Outgoing, reply_head: bytes, seq: int, operation: int) -> bytes:
    """Return *message* as a command of a fast-ingest batch."""
    head, body = message.head, message.body
    return b"HPUB %b %b%d.%d.$FI %d %d\r\n%b%b\r\n" % (
        message.encoded_subject,
        reply_head,
        seq,
        operation,
        len(head),
        message.size,
        head,
        body,
    )


def control_command(subject: str, reply_head: bytes, seq: int, operation: int) -> bytes:
    """Return the command that ends a fast-ingest batch, or asks about it, and is no message."""
    return b"HPUB %b %b%d.%d.$FI %d %d\r\n%b\r\n" % (
        encoded_subject(subject),
        reply_head,
        seq,
        operation,
        len(_NOWHERE),
        len(_NOWHERE),
        _NOWHERE,
    )
