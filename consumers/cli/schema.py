"""The command `noetl-events schema`."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from consumers.cli.options import AsJson
from consumers.cli.output import print_result
from consumers.sinks import sqlite
from noetl_events.jetstream.connect.servers import redacted


async def schema(
    url: Annotated[
        str,
        Parameter(
            help="`postgresql://user@host/db`, with `?table=schema.table` for another table, or `sqlite:///events.db`."
        ),
    ],
    *,
    upgrade: Annotated[
        bool, Parameter(help="Add the column of the digest to a table of an older version.", negative=())
    ] = False,
    json: AsJson = False,
) -> int:
    """
    Create the schema and table that a Postgres or SQLite destination needs; a table of another shape is refused.

    With `?mapping=noetl` nothing is created: NoETL's own table is compared with the rows to be written.

    The projector never creates a table: its role needs INSERT and SELECT only.  A table without the column of the
    digest works; `--upgrade` adds it, which rewrites no row, and older versions can still write to the table.

    Example: `noetl-events schema postgresql://localhost/noetl`
    """
    table, has_digest = await (_in_sqlite if urlsplit(url).scheme == "sqlite" else _in_postgres)(url, upgrade=upgrade)
    result = {"database": redacted(url), "table": table, "ready": True}
    if has_digest is not None:
        result["digest"] = has_digest
    print_result(result, as_json=json)
    if has_digest is False:
        print(
            "noetl-events: the table has no column for the digest of an event, so that rows are compared field by "
            "field; `noetl-events schema URL --upgrade` adds it",
            file=sys.stderr,
        )
    return 0


async def _in_sqlite(url: str, *, upgrade: bool) -> tuple[str, bool | None]:
    return "event", await asyncio.to_thread(sqlite.create_schema, url, upgrade=upgrade)


async def _in_postgres(url: str, *, upgrade: bool) -> tuple[str, bool | None]:
    """Return the table and whether it has the digest; None for NoETL's own table."""
    from consumers.sinks.postgres import PostgresSink

    sink = PostgresSink.from_url(url)
    try:
        shape = await sink.create_schema(upgrade=upgrade)
    finally:
        await sink.aclose()
    return sink.table, shape.has_digest if sink.layout.mapping.is_ours else None
