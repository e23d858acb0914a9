"""How an event becomes a row: a mapping's columns, and what it writes into them."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from consumers.sinks.postgres.binary import JSONB_VERSION, NULL, Texts, jsonb, microseconds
from consumers.sinks.postgres.rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Mapping as Dictionary

    from noetl_events.envelope import ExecutorEvent

    RowOf: TypeAlias = Callable[[tuple[int, int], ExecutorEvent, Texts], Row]


class Likeness(NamedTuple):
    """
    How an event and a row with its key are compared, as SQL over `old`, the row, and `new`, the event as a row.

    A condition that cannot be decided, because the row does not say, is NULL.

    Args:
        columns: of the row that are read.
        step: the step of a row, with `{0}` for its name.
        status: whether their status is equal.
        worker: whether their worker is equal.
        payload: whether their payload is equal.

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
        columns: the columns written, in the order they are, each with its type as Postgres names it.
        likeness: how an event and a row with its key are compared.
        row_of: makes the row of an event as the wire has it, given its place in the batch and its id; raises
            `MalformedEvent` if it can be none.
        is_ours: whether we create the table, with a column for the digest.

    """

    columns: Dictionary[str, str]
    likeness: Likeness
    row_of: RowOf
    is_ours: bool


DIGEST: Final = {"digest": "bigint"}
"""The column of the digest.  Rows of the first version have none, and neither have those of other writers."""

_pack_ids = Struct(">iqiq").pack
_pack_time_and_length = Struct(">iqiB").pack


def _plain_row(names: tuple[int, int], event: ExecutorEvent, texts: Texts) -> Row:
    # Neighbours are packed in one call each: this runs for every event, and takes most of the time a row takes.
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
    likeness=Likeness(
        columns=("event_type", "step", "status", "created_at", "context", "worker_id", "meta"),
        step="{0}.step",
        status="old.status = new.status",
        worker="old.worker_id = new.worker_id",
        payload="old.context = new.context AND old.meta IS NOT DISTINCT FROM new.meta",
    ),
    row_of=_plain_row,
    is_ours=True,
)
