"""The stream's past, page by page: nobody who reads slowly holds anything on the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from noetl_events.jetstream.delivery import delivery_of
from noetl_events.jetstream.history import History, Span
from noetl_events.jetstream.topology import show_stream

if TYPE_CHECKING:
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.delivery import Message

_PAGE: Final = 1_000
_BYTES: Final = 4 * 1024 * 1024
_READERS: Final = 8
_PATIENCE: Final = 5.0


class Past:
    """
    What *stream* holds.

    Args:
        connection: to NATS; it stays open.
        stream: to read.

    """

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._readers = asyncio.Semaphore(_READERS)

    async def bounds(self) -> tuple[int, int]:
        """Return the first and the last sequence there are; raises `NatsUnavailable`."""
        state = (await show_stream(self._connection, self._stream)).state
        return state.first_seq, state.last_seq

    async def page(self, behind: int) -> tuple[int, list[Message], int]:
        """
        Return the first sequence of the stream, its next messages behind *behind*, and where the page ends.

        Raises:
            NatsUnavailable: it cannot be read now.
            StreamReplaced: meanwhile it became another stream.

        """
        messages: list[Message] = []
        async with self._readers:
            span = Span(stream=self._stream, start=behind + 1)
            history = History(self._connection, span, patience=_PATIENCE, max_messages=_PAGE, max_bytes=_BYTES)
            async with history:
                while len(messages) < _PAGE and (batch := await history.read(_PAGE - len(messages))):
                    messages += batch
                    if sum(len(message.data) for message in batch) > _BYTES:
                        break
                else:
                    if len(messages) < _PAGE:
                        return history.first, messages, max(history.end, behind)
        return history.first, messages, delivery_of(messages[-1]).sequence
