"""
The mapping of events to rows of NoETL's own `noetl.event`, for `?mapping=noetl`.

    node_id, node_name             step
    result                         {"status": status, "context": context}
    context                        a context that is no object, because the table's check on result forbids it there
    catalog_id, and other columns  fields of meta with these names; catalog_id is required
    meta                           meta, with worker_id in it
    worker_id                      worker_id

A meta with a `result` belongs to an event that was read from such a row: its result and context are columns already.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from consumers.sinks.postgres.rows import ComparisonSql, Mapping, Row, TextFields, bigint, jsonb, timestamp
from noetl_events.envelope import MalformedEvent
from noetl_events.json_values import MAX_INT64, MIN_INT64, encode_value

if TYPE_CHECKING:
    from noetl_events.envelope import ExecutorEvent

_Id = Annotated[int, Meta(ge=MIN_INT64, le=MAX_INT64)]
_NULL: Final = b"null"

_pack_ids = Struct(">iqiqiq").pack
_split = msgspec.json.Decoder(dict[str, Raw]).decode


class _Columns(msgspec.Struct, gc=False):
    """The columns that are read from meta."""

    catalog_id: _Id
    parent_event_id: _Id | None = None
    parent_execution_id: _Id | None = None
    prev_event_id: _Id | None = None
    node_id: Any = None
    node_type: Any = None
    error: Any = None
    result: Raw = Raw()


# Not strict, because some writers send ids as strings of digits.
_read_columns = msgspec.json.Decoder(_Columns, strict=False).decode


def _noetl_row(names: tuple[int, int], event: ExecutorEvent, texts: TextFields) -> Row:
    place, event_id = names
    columns = _columns_of(event)
    result, context = _payloads(event, bytes(columns.result))
    record = (
        _pack_ids(8, event.execution_id, 8, columns.catalog_id, 8, event_id)
        + bigint(columns.parent_event_id)
        + bigint(columns.parent_execution_id)
        + bigint(columns.prev_event_id)
        + timestamp(event.created_at)
        + texts[event.event_type]
        + texts[_text(columns.node_id) or event.step]
        + texts[event.step]
        + texts[_text(columns.node_type)]
        + texts[event.status]
        + jsonb(context)
        + jsonb(result)
        + jsonb(_meta(event, is_row=bool(bytes(columns.result))))
        + texts[_text(columns.error)]
        + texts[event.worker_id]
    )
    return Row(event_id, record, place, event, columns.catalog_id)


def _columns_of(event: ExecutorEvent) -> _Columns:
    try:
        return _read_columns(b"{}" if event.meta is None else event.meta)
    except ValueError as exc:
        reason = str(exc)
    if "`catalog_id`" in reason:
        raise MalformedEvent("meta.catalog_id: missing; a row of noetl.event belongs to an entry of noetl.catalog")
    what, _, path = reason.partition(" - at `$")
    raise MalformedEvent(f"meta{path.rstrip('`')}: {what}")


def _payloads(event: ExecutorEvent, result: bytes) -> tuple[bytes | None, bytes | None]:
    """Return result and context; JSON null becomes SQL NULL."""
    context = _value(bytes(event.context))
    if result:
        return _value(result), context
    status = b'{"status":' + encode_value(event.status)
    if context is not None and context.startswith(b"{"):
        return status + b',"context":' + context + b"}", None
    return status + b"}", context


def _meta(event: ExecutorEvent, *, is_row: bool) -> bytes:
    meta = bytes(event.meta)
    if is_row:
        # The result may be large and has its own column.
        meta = encode_value({name: value for name, value in _split(meta).items() if name != "result"})
    if event.worker_id is None:
        return meta
    # Placed first, so a worker_id within meta overrides it.  Meta is never empty, because the catalog_id is required.
    return b'{"worker_id":' + encode_value(event.worker_id) + b"," + meta.lstrip().removeprefix(b"{")


def _value(text: bytes) -> bytes | None:
    return None if (text := text.strip()) == _NULL else text


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else encode_value(value).decode()


_LIKENESS: Final = ComparisonSql(
    columns=("event_type", "node_id", "node_name", "status", "created_at", "context", "result", "meta", "worker_id"),
    step="coalesce({0}.node_name, {0}.node_id)",
    status="nullif(old.status, '') = new.status",
    worker="coalesce(old.worker_id, old.meta ->> 'worker_id') = coalesce(new.worker_id, new.meta ->> 'worker_id')",
    # NoETL's own writers store a large payload elsewhere and drop one that is no object, so the comparison is undecided
    # then.
    payload=(
        "CASE WHEN old.result - 'status' = new.result - 'status' AND old.context IS NOT DISTINCT FROM new.context"
        " THEN true"
        " WHEN old.result IS NULL OR old.result ? 'reference' THEN NULL"
        " WHEN old.result - 'status' = '{}' AND old.context IS NULL AND NOT new.result ? 'context' THEN NULL"
        " ELSE false END"
    ),
)

NOETL: Final = Mapping(
    columns={
        "execution_id": "bigint NOT NULL",
        "catalog_id": "bigint NOT NULL",
        "event_id": "bigint NOT NULL",
        "parent_event_id": "bigint",
        "parent_execution_id": "bigint",
        "prev_event_id": "bigint",
        "created_at": "timestamp without time zone NOT NULL",
        "event_type": "text NOT NULL",
        "node_id": "text NOT NULL",
        "node_name": "text NOT NULL",
        "node_type": "text",
        "status": "text NOT NULL",
        "context": "jsonb",
        "result": "jsonb",
        "meta": "jsonb NOT NULL",
        "error": "text",
        "worker_id": "text",
    },
    likeness=_LIKENESS,
    row_of=_noetl_row,
    is_ours=False,
)
