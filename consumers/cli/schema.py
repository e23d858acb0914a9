"""`noetl-events schema`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from consumers.cli.options import AsJson
from consumers.cli.output import print_result
from noetl_events.jetstream.options import redacted


async def schema(
    url: Annotated[str, Parameter(help="`postgresql://user@host/db`, with `?table=schema.table` for another table.")],
    *,
    json: AsJson = False,
) -> int:
    """
    Create the schema and table a Postgres destination needs; a table of another shape is refused.

    With `?mapping=noetl` nothing is created: NoETL's own table is compared with what will be written.

    The projector never creates anything: its role needs INSERT and SELECT only.

    Example: `noetl-events schema postgresql://localhost/noetl`
    """
    from consumers.sinks.postgres import PostgresSink

    sink = PostgresSink.from_url(url)
    try:
        await sink.create_schema()
    finally:
        await sink.aclose()
    print_result({"database": redacted(url), "table": sink.table, "ready": True}, as_json=json)
    return 0
