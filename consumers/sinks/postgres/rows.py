r"""
Events as rows in the binary format of COPY; payloads are copied as the JSON bytes that arrived, never decoded.

A mapping holds the columns and writes their values.  A field is its length in four bytes, then its bytes; -1 is NULL.
The client need not escape anything and the server need not parse anything, which halves the cost of a row for both.

JSON text may contain NUL and Postgres cannot store it: `?on_nul=replace` writes U+FFFD instead.  In JSON a NUL is the
escape `\u0000`.  In `\\u0000` the backslash itself is escaped, so there is no NUL.
"""

from __future__ import annotations

import re
import struct
from datetime import UTC, datetime
from operator import attrgetter
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from msgspec import Raw, structs

from noetl_events.envelope import MalformedEvent, checked, encode_checked
from noetl_events.identity import digest_bytes_of_body
from noetl_events.sink import require_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Mapping as Dictionary

    from noetl_events.envelope import ExecutorEvent
    from noetl_events.json_values import Json

    RowOf: TypeAlias = Callable[[tuple[int, int], ExecutorEvent, "TextFields"], "Row"]

# The pattern also matches escaped backslashes, so the scan skips them in pairs.
_ESCAPE: Final = re.compile(rb"\\\\|\\u0000")
_TEXTS: Final = ("event_type", "step", "status", "worker_id")


def without_nul(event: ExecutorEvent) -> ExecutorEvent:
    """
    Return *event* without NUL; the same object if it has none.

    Raises:
        MalformedEvent: the event is malformed, as in `checked`.

    """
    if type(event.context) is not Raw or not (event.meta is None or type(event.meta) is Raw):
        event = checked(event)
    changes: dict[str, Json] = {
        name: text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        for name in _TEXTS
        if type(text := getattr(event, name)) is str and "\0" in text
    }
    for name in ("context", "meta"):
        raw = getattr(event, name)
        if raw is not None and b"\\u0000" in (text := bytes(raw)):
            changes[name] = Raw(_ESCAPE.sub(_replace, text))
    return structs.replace(event, **changes) if changes else event


def _replace(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[0] == rb"\u0000" else escape[0]


class ComparisonSql(NamedTuple):
    """
    The comparison of an event with the row of its key, as SQL over `old`, the row, and `new`, the event as a row.

    A condition that the row cannot decide is NULL.

    Args:
        columns: columns of the row that are read.
        step: step of a row, with `{0}` for the name of the row.
        status: condition that the statuses are equal.
        worker: condition that the workers are equal.
        payload: condition that the payloads are equal.

    """

    columns: tuple[str, ...]
    step: str
    status: str
    worker: str
    payload: str


class Mapping(NamedTuple):
    """
    A way to write events into a table.

    Args:
        columns: columns in the order they are written, each with its type as Postgres names it.
        likeness: comparison of an event with the row of its key.
        row_of: function that builds the row of an event from the wire, given its place in the batch and its id; raises
            `MalformedEvent` for an event without a row.
        is_ours: whether `create_schema` creates the table, with a column for the digest.

    """

    columns: Dictionary[str, str]
    likeness: ComparisonSql
    row_of: RowOf
    is_ours: bool


DIGEST: Final = {"digest": "bigint"}
"""The column of the digest; rows of the first version and of other writers have none."""

_pack_ids = Struct(">iqiq").pack
_pack_time_and_length = Struct(">iqiB").pack


def _plain_row(names: tuple[int, int], event: ExecutorEvent, texts: TextFields) -> Row:
    # Adjacent fields are packed in one call each, because this runs for every event and dominates the cost of a row.
    context = bytes(event.context)
    place, event_id = names
    record = (
        _pack_ids(8, event.execution_id, 8, event_id)
        + texts[event.event_type]
        + texts[event.step]
        + texts[event.status]
        + _pack_time_and_length(8, microseconds(event.created_at), len(context) + 1, JSONB_VERSION)
        + context
        + texts[event.worker_id]
        + (NULL if event.meta is None else jsonb(bytes(event.meta)))
    )
    return Row(event_id, record, place, event)


PLAIN: Final = Mapping(
    columns={
        "execution_id": "bigint NOT NULL",
        "event_id": "bigint NOT NULL",
        "event_type": "text NOT NULL",
        "step": "text NOT NULL",
        "status": "text NOT NULL",
        "created_at": "timestamp with time zone NOT NULL",
        "context": "jsonb NOT NULL",
        "worker_id": "text",
        "meta": "jsonb",
    },
    likeness=ComparisonSql(
        columns=("event_type", "step", "status", "created_at", "context", "worker_id", "meta"),
        step="{0}.step",
        status="old.status = new.status",
        worker="old.worker_id = new.worker_id",
        payload="old.context = new.context AND old.meta IS NOT DISTINCT FROM new.meta",
    ),
    row_of=_plain_row,
    is_ours=True,
)


HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
NULL: Final = b"\xff\xff\xff\xff"
JSONB_VERSION: Final = 1

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

_pack_length = Struct(">i").pack
_pack_bigint = Struct(">iq").pack
_pack_jsonb = Struct(">iB").pack


class TextFields(dict[str | None, bytes]):
    """
    The encoded text fields of one batch; its events share a few types, steps and statuses, so most are a look-up.

    Each batch has its own, so the size is bounded by the batch.
    """

    def __init__(self) -> None:
        super().__init__({None: NULL})

    def __missing__(self, text: str) -> bytes:
        encoded = text.encode()
        self[text] = field = _pack_length(len(encoded)) + encoded
        return field


def bigint(value: int | None) -> bytes:
    """Return a field of type bigint."""
    return NULL if value is None else _pack_bigint(8, value)


def jsonb(text: bytes | None) -> bytes:
    """Return a field of type jsonb: the format version, then the JSON text."""
    return NULL if text is None else _pack_jsonb(len(text) + 1, JSONB_VERSION) + text


def timestamp(moment: datetime) -> bytes:
    """Return a field of type timestamptz, or of timestamp in UTC: microseconds since 2000, exactly."""
    return _pack_bigint(8, microseconds(moment))


def microseconds(moment: datetime) -> int:
    """Return the microseconds from the year 2000 to *moment*."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


_DIGEST_LENGTH: Final = struct.pack(">i", 8)

# Errors raised while writing an event with a field of a type that the envelope does not declare.
_MISTYPED: Final = (TypeError, AttributeError, struct.error, UnicodeEncodeError)


class Row(NamedTuple):
    """
    An event, ready to copy.

    Args:
        event_id: id of the event.
        record: fields of the columns, as COPY reads them.
        place: index of the event in the batch.
        event: event as it was emitted.
        catalog_id: parent that the foreign key refers to, in a table with one.

    """

    event_id: int
    record: bytes
    place: int
    event: ExecutorEvent
    catalog_id: int | None = None

    @property
    def digest(self) -> bytes:
        """The field of the digest; the event as emitted counts, even if NUL was replaced in the record."""
        return _DIGEST_LENGTH + digest_bytes_of_body(encode_checked(self.event))


def rows_of(
    events: Sequence[ExecutorEvent], mapping: Mapping, *, replace_nul: bool = False
) -> tuple[list[Row], dict[int, str]]:
    """
    Return the rows of *events* sorted by event_id, and by index the reasons why events have no row.

    Sorted rows make two projectors that insert the same rows wait for each other instead of deadlocking.

    Raises:
        ValueError: an event has no id.

    """
    rows: list[Row] = []
    reasons: dict[int, str] = {}
    texts = TextFields()
    row_of = _without_nul(mapping.row_of) if replace_nul else mapping.row_of
    for place, (event_id, event) in enumerate(zip(require_ids(events), events, strict=True)):
        try:
            rows.append(_row_of((place, event_id), event, row_of=row_of, texts=texts))
        except MalformedEvent as exc:
            reasons[place] = str(exc)
    rows.sort(key=attrgetter("event_id"))
    return rows, reasons


def _row_of(names: tuple[int, int], event: ExecutorEvent, *, row_of: RowOf, texts: TextFields) -> Row:
    # Checking what `decode` has already checked costs twice as much as writing it.
    if _came_from_wire(event):
        try:
            return row_of(names, event, texts)
        except _MISTYPED:
            # The event was built by hand after all, so `checked` names the fault.
            pass
    return row_of(names, checked(event), texts)


def _without_nul(row_of: RowOf) -> RowOf:
    def row_without_nul(names: tuple[int, int], event: ExecutorEvent, texts: TextFields) -> Row:
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
