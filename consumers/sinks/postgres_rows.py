"""Events as lines of COPY's text format: payloads go as the JSON bytes they came as, never decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from noetl_events.envelope import MalformedEvent, checked
from noetl_events.sink import require_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events.envelope import ExecutorEvent

_NULL = b"\\N"


class Row(NamedTuple):
    """One event, ready to copy."""

    event_id: int
    line: bytes


def rows_of(events: Sequence[ExecutorEvent]) -> tuple[list[Row], dict[int, str]]:
    """
    Return the rows of *events*, and by id the reasons of those that can be none.

    Raises:
        ValueError: an event has no id.

    """
    rows: list[Row] = []
    reasons: dict[int, str] = {}
    for event_id, event in zip(require_ids(events), events, strict=True):
        try:
            rows.append(Row(event_id, _line(event_id, checked(event))))
        except MalformedEvent as exc:
            reasons[event_id] = str(exc)
    return rows, reasons


def _line(event_id: int, event: ExecutorEvent) -> bytes:
    return b"%d\t%d\t%b\t%b\t%b\t%b\t%b\t%b\t%b\n" % (
        event.execution_id,
        event_id,
        _escape(event.event_type.encode()),
        _escape(event.step.encode()),
        _escape(event.status.encode()),
        event.created_at.isoformat().encode(),
        _escape(bytes(event.context)),
        _NULL if event.worker_id is None else _escape(event.worker_id.encode()),
        _NULL if event.meta is None else _escape(bytes(event.meta)),
    )


def _escape(text: bytes) -> bytes:
    # The backslash first: the others bring some.
    return text.replace(b"\\", b"\\\\").replace(b"\t", b"\\t").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
