"""Events as rows ready to copy: payloads go as the JSON bytes they came as, never decoded."""

from __future__ import annotations

import struct
from datetime import UTC
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Raw

from consumers.sinks.postgres.binary import Texts
from consumers.sinks.postgres.nul import without_nul
from noetl_events.envelope import MalformedEvent, checked, encode_checked
from noetl_events.identity import digest_bytes_of_body
from noetl_events.sink import require_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumers.sinks.postgres.mapping import Mapping, RowOf
    from noetl_events.envelope import ExecutorEvent

_DIGEST_LENGTH: Final = struct.pack(">i", 8)

# What writing an event raises when one of its fields is not what the envelope declares.
_MISTYPED: Final = (TypeError, AttributeError, struct.error, UnicodeEncodeError)


class Row(NamedTuple):
    """
    One event, ready to copy.

    Args:
        event_id: of the event.
        record: the fields of the columns, as COPY reads them.
        place: of the event in the batch.
        event: as it was emitted.
        catalog_id: the parent its foreign key asks for, in a table that has one.

    """

    event_id: int
    record: bytes
    place: int
    event: ExecutorEvent
    catalog_id: int | None = None

    @property
    def digest(self) -> bytes:
        """The field of the digest, which is that of the event also where NUL was replaced in the record."""
        return _DIGEST_LENGTH + digest_bytes_of_body(encode_checked(self.event))


def rows_of(
    events: Sequence[ExecutorEvent], mapping: Mapping, *, replace_nul: bool = False
) -> tuple[list[Row], dict[int, str]]:
    """
    Return the rows of *events* by event_id, and by place the reasons of those that can be none.

    Sorted, so that two projectors that insert the same rows wait for each other instead of locking up.

    Raises:
        ValueError: an event has no id.

    """
    rows: list[Row] = []
    reasons: dict[int, str] = {}
    texts = Texts()
    row_of = _without_nul(mapping.row_of) if replace_nul else mapping.row_of
    for place, (event_id, event) in enumerate(zip(require_ids(events), events, strict=True)):
        try:
            rows.append(_row_of((place, event_id), event, row_of=row_of, texts=texts))
        except MalformedEvent as exc:
            reasons[place] = str(exc)
    rows.sort(key=attrgetter("event_id"))
    return rows, reasons


def _row_of(names: tuple[int, int], event: ExecutorEvent, *, row_of: RowOf, texts: Texts) -> Row:
    # Looking at what `decode` has looked at costs twice as much as writing it.
    if _came_from_wire(event):
        try:
            return row_of(names, event, texts)
        except _MISTYPED:
            # Made by hand after all: `checked` knows what is wrong with it.
            pass
    return row_of(names, checked(event), texts)


def _without_nul(row_of: RowOf) -> RowOf:
    def row_without_nul(names: tuple[int, int], event: ExecutorEvent, texts: Texts) -> Row:
        return row_of(names, without_nul(event), texts)._replace(event=event)

    return row_without_nul


def _came_from_wire(event: ExecutorEvent) -> bool:
    return (
        type(event.context) is Raw
        and (event.meta is None or type(event.meta) is Raw)
        and event.created_at.tzinfo is UTC
        # A bool would be written as 1.
        and type(event.execution_id) is int
        and type(event.event_id) is int
    )
