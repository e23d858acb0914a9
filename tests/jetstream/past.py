"""A stream with stored messages, and its readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.message import delivery_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message


async def publish(connection: Connection, subject: str, bodies: Iterable[bytes]) -> None:
    """Store *bodies* in order."""
    js = await jetstream(connection)
    for acknowledged in [await js.publish_async(subject, body) for body in bodies]:
        await acknowledged


async def fill(connection: Connection, stream: str, count: int, *, start: int = 1) -> None:
    """Store messages in a new stream, each with its sequence as its body."""
    await publish(connection, f"{stream}.x", (b"%d" % number for number in range(start, start + count)))


async def read_all(history: History, limit: int = 2_000) -> list[int]:
    """Return the sequences of the remaining messages in order of arrival; assert that no batch exceeds *limit*."""
    found: list[int] = []
    while batch := await history.read(limit):
        assert len(batch) <= limit
        found += sequences(batch)
    return found


def sequences(batch: Sequence[Message]) -> list[int]:
    """Return the sequences of *batch*."""
    return [delivery_of(message).sequence for message in batch]


async def past(connection: Connection, stream: str, **span: Any) -> list[int]:
    """Return the sequences of a range of *stream*."""
    async with History(connection, Span(stream=stream, **span)) as history:
        return await read_all(history)


async def consumers(connection: Connection, stream: str) -> list[str]:
    """Return the names of the consumers of *stream*."""
    return [info.name for info in await (await jetstream(connection)).consumers_info(stream)]
