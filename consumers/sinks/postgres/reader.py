"""The rows of a Postgres table, as a cursor of the server hands them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from consumers.sinks.postgres.errors import reason_of
from consumers.sinks.postgres.mapping import PLAIN
from consumers.sinks.postgres.session import BROKEN, connect
from consumers.sinks.postgres.table import DEFAULT_TABLE, quoted
from noetl_events.jetstream.options import redacted
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_FAREWELL: Final = 5.0
_SESSION: Final = "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'"
# A time as text, for it may be one that Python has not: infinity, or one in the year 20000.
_SELECTED: Final = ", ".join(
    f"{name}::text" if kind.startswith("timestamp") else name for name, kind in PLAIN.columns.items()
)


def read_table(url: str, *, batch_size: int) -> AsyncGenerator[list[Any], None]:
    """
    Return every row of the table a `PostgresSink` of this *url* writes, all as of one moment.

    Raises:
        ValueError: the table is no name, or not the plain one.
        SinkUnavailable: while iterating, it cannot be read now.

    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if (mapping := query.pop("mapping", "plain")) != "plain":
        raise ValueError(f"--to: a table with mapping={mapping} cannot be read back: it does not hold all of an event")
    query.pop("on_nul", None)
    select = f"SELECT {_SELECTED} FROM {quoted(query.pop('table', DEFAULT_TABLE))}"  # noqa: S608  (quoted, and ours)
    return _read(parts._replace(query=urlencode(query)).geturl(), select, batch_size)


async def _read(dsn: str, select: str, batch_size: int) -> AsyncGenerator[list[Any], None]:
    connection = await connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(_SESSION)
            cursor = await connection.cursor(select)
            while rows := await cursor.fetch(batch_size):
                yield rows
        await connection.close(timeout=_FAREWELL)
    except (asyncpg.PostgresError, *BROKEN) as exc:
        raise SinkUnavailable(f"{redacted(dsn)}: {reason_of(exc)}") from exc
    finally:
        connection.terminate()
