"""
Compare the past of a stream with a destination, event by event.

    missing      events without a row of their key
    conflicts    later events with the key of a different one, which belong in the dead letters
    lost         of two different events with one key, an event that is neither a row nor a dead letter
    different    rows with nine fields unlike those of any event of their key
    variants     events that are in the stream with different payloads; a row may have any of them
    duplicates   events with more than one row
    dead         events without a row, because the message is malformed, a dead letter, or was resent under another id
    extra        rows without an event in this part of the stream: older, newer, or from elsewhere

The stream is read before the destination, and dead letters last, so progress of a projector in between is no fault.
"""

from __future__ import annotations

import sqlite3
from contextlib import aclosing, contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from consumers.dead_letters.letter import FIRST, origin_in
from consumers.verification.ledger import Expected, Ledger, checksum, checksum_of_frame, checksum_of_payload
from consumers.verification.readback import key_of, read_back
from noetl_events.conflicts import microseconds_of
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.declarations import DEAD_LETTERS
from noetl_events.jetstream.errors import StreamMissing
from noetl_events.jetstream.message import NoPublisher, delivery_of, event_of, recipient_of, unix_nanoseconds
from noetl_events.json_values import MalformedEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from consumers.verification.ledger import Place
    from noetl_events.envelope import ExecutorEvent
    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.message import Message

    Show: TypeAlias = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]

EXAMPLES: Final = 10


class Example(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event or a row, by its known fields."""

    sequence: int | None = None
    execution_id: int | None = None
    event_id: int | None = None
    reason: str = ""


class Verified(msgspec.Struct, kw_only=True):
    """
    The result; `examples` lists the first `EXAMPLES` of each kind.

    `events` counts the events in the stream, `rows` their rows at the destination.
    """

    events: int = 0
    rows: int = 0
    missing: int = 0
    lost: int = 0
    different: int = 0
    duplicates: int = 0
    conflicts: int = 0
    variants: int = 0
    dead: int = 0
    extra: int = 0
    last_sequence: int = 0
    examples: dict[str, list[Example]] = {}

    @property
    def is_complete(self) -> bool:
        """Return whether the destination holds every event as it is in the stream, except dead letters."""
        return not self.missing and not self.lost and not self.different


class Verification:
    """
    Compare *span* of a stream with the destination *url*.

    Args:
        connection: connection to NATS; the caller closes it.
        span: part of the stream.
        url: URL of the destination.
        dead_letters: name of the dead-letter stream; it may be missing.
        patience: seconds to retry while NATS is unavailable.
        show: function that receives a description and the total, and returns a context of a progress callback.

    Raises:
        ValueError: the destination cannot be read back.

    """

    def __init__(
        self,
        connection: Connection,
        span: Span,
        url: str,
        *,
        dead_letters: str = DEAD_LETTERS.name,
        patience: float = 60.0,
        show: Show | None = None,
    ) -> None:
        self._connection = connection
        self._span = span
        self._rows = read_back(url)
        self._dead_letters = dead_letters
        self._patience = patience
        self._show = show or _silently
        self._found = Verified()

    async def run(self) -> Verified:
        """
        Return the result; call it once only.

        Raises:
            SinkUnavailable: the destination cannot be read now.
            NatsUnavailable: the stream could not be read for *patience* seconds.
            StreamReplaced: the stream was recreated meanwhile.
            OSError: the folder for temporary files is full.

        """
        try:
            with Ledger() as ledger:
                await self._read_stream(ledger)
                await self._read_destination(ledger)
                await self._read_dead_letters(ledger)
                self._count(ledger)
        except sqlite3.Error as exc:
            raise OSError(f"temporary files: {exc}; set TMPDIR to a folder with more room") from exc
        return self._found

    async def _read_stream(self, ledger: Ledger) -> None:
        async with History(self._connection, self._span, patience=self._patience) as history:
            with self._show("reading the stream", history.total) as advance:
                while messages := await history.read():
                    ledger.expect(self._expected(messages))
                    ledger.expect_dead(_settled_elsewhere(messages))
                    advance(len(messages))
            self._found.last_sequence = history.position

    def _expected(self, messages: Sequence[Message]) -> Iterator[Expected]:
        for message in messages:
            delivery = delivery_of(message)
            try:
                event = event_of(message)
            except NoPublisher:
                continue
            except MalformedEvent as exc:
                self._found.dead += 1
                self._record("dead", Example(sequence=delivery.sequence, reason=str(exc)))
            else:
                yield Expected(
                    key_of(event),
                    checksum(event),
                    checksum_of_frame(event),
                    checksum_of_payload(event),
                    microseconds_of(event.created_at),
                    (delivery.sequence, delivery.stored_ns),
                )

    async def _read_destination(self, ledger: Ledger) -> None:
        with self._show("reading the destination", None) as advance:
            async with aclosing(self._rows) as batches:
                async for rows in batches:
                    for row in rows:
                        self._compare(row, ledger)
                    advance(len(rows))

    def _compare(self, row: ExecutorEvent, ledger: Ledger) -> None:
        key = key_of(row)
        if not ledger.find(key, _checksum_or_none(row)):
            self._found.extra += 1
            self._record("extra", Example(execution_id=key[0], event_id=key[1]))

    async def _read_dead_letters(self, ledger: Ledger) -> None:
        span = Span(stream=self._dead_letters, headers_only=True)
        try:
            async with History(self._connection, span, patience=self._patience) as history:
                while letters := await history.read():
                    ledger.expect_dead(filter(None, map(self._place_of, letters)))
        except StreamMissing:
            # The stream is missing before the first dead letter.
            return

    def _place_of(self, letter: Message) -> Place | None:
        return origin_in(letter.headers or {}, self._span.stream)

    def _count(self, ledger: Ledger) -> None:
        found = self._found
        found.events, found.rows, kinds = ledger.count()
        found.events += found.dead
        kinds["dead"] += found.dead
        for kind, count in kinds.items():
            setattr(found, kind, count)
        for kind, count in kinds.items():
            for sequence, key in ledger.first(kind, EXAMPLES) if count else ():
                self._record(kind, Example(sequence=sequence, execution_id=key[0], event_id=key[1]))

    def _record(self, kind: str, example: Example) -> None:
        examples = self._found.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(example)


def _settled_elsewhere(messages: Sequence[Message]) -> Iterator[Place]:
    """Yield the positions that need no row: of resent letters, and of messages for one consumer only."""
    for message in messages:
        if recipient_of(message):
            delivery = delivery_of(message)
            yield delivery.sequence, delivery.stored_ns
        first = (message.headers or {}).get(FIRST, "").split(":", 2)
        with suppress(IndexError, ValueError):
            yield int(first[1]), unix_nanoseconds(first[2])


def _checksum_or_none(row: ExecutorEvent) -> int | None:
    try:
        return checksum(row)
    except (ValueError, TypeError, RecursionError, OverflowError):
        # The row was edited, and is no valid event.
        return None


@contextmanager
def _silently(_what: str, _total: int | None) -> Iterator[Callable[[int], None]]:
    yield lambda _: None
