"""Whether each Postgres takes what will be written: its table, the rights on it, a partition for what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import asyncpg

from consumers.doctor.destinations import postgres_sinks
from consumers.doctor.finding import Finding
from consumers.doctor.partitions import look_at_partitions
from consumers.sinks.postgres import TableMismatch
from consumers.sinks.postgres.mapping import DIGEST
from consumers.sinks.postgres.table import KEY
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from consumers.doctor.patient import Patient
    from consumers.sinks.postgres import PostgresSink

_NAME: Final = "postgres"
_READ_RIGHTS: Final = """
SELECT has_schema_privilege(n.oid, 'USAGE') AS "USAGE on the schema",
       has_database_privilege(current_database(), 'TEMPORARY') AS "TEMPORARY on the database",
       has_table_privilege(c.oid, 'INSERT') AS "INSERT on the table",
       ARRAY(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attname = ANY ($3) AND NOT has_column_privilege(attrelid, attnum, 'SELECT')
             ORDER BY attnum) AS unreadable
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2
"""


async def check_postgres(patient: Patient) -> list[Finding]:
    """Look at each of the destinations that is one."""
    findings = []
    for where, sink in postgres_sinks(patient.to):
        try:
            findings += await _look(patient, where, sink)
        except SinkUnavailable as exc:
            remedy = "start Postgres there, or correct the URL, its user and its password"
            findings.append(Finding(check=_NAME, severity="fault", found=str(exc), remedy=remedy))
        except asyncpg.PostgresError as exc:
            findings.append(Finding(check=_NAME, severity="unknown", found=f"{where}: {exc}"))
    return findings


async def _look(patient: Patient, where: str, sink: PostgresSink) -> list[Finding]:
    connection = await sink.connect()
    try:
        if missing := await _missing_rights(connection, sink):
            return [_denied(where, missing)]
        async with connection.transaction(readonly=True):
            shape = await sink.layout.check(connection)
        found = [Finding(check=_NAME, severity="ok", found=f"{where}: {sink.table} takes what is written")]
        if sink.layout.mapping.is_ours and not shape.has_digest:
            found = [_without_digest(where, sink.table)]
        return found + await look_at_partitions(connection, sink.layout, now=patient.clock(), ahead=patient.outage)
    except TableMismatch as exc:
        return [_mismatch(where, str(exc))]
    finally:
        connection.terminate()


async def _missing_rights(connection: Any, sink: PostgresSink) -> list[str]:
    # Its own lookup: without USAGE the table cannot even be named.
    layout = sink.layout
    compared = [*KEY, *layout.mapping.likeness.columns, *(DIGEST if layout.mapping.is_ours else ())]
    held = await connection.fetchrow(_READ_RIGHTS, layout.schema, layout.relation, compared)
    if not held:
        return []
    unreadable = f"SELECT on {', '.join(held['unreadable'])}"
    rights = {name: has for name, has in held.items() if name != "unreadable"}
    return [name for name, has in {**rights, unreadable: not held["unreadable"]}.items() if not has]


def _denied(where: str, missing: list[str]) -> Finding:
    return Finding(
        check=_NAME,
        severity="fault",
        found=f"{where}: the role lacks {', '.join(missing)}",
        remedy="run what `noetl-events permissions projector --to URL --sql` prints",
    )


def _without_digest(where: str, table: str) -> Finding:
    return Finding(
        check=_NAME,
        severity="warning",
        found=f"{where}: {table} has no column for the digest of an event, so that rows are compared field by field",
        remedy="noetl-events schema URL --upgrade",
    )


def _mismatch(where: str, reason: str) -> Finding:
    return Finding(check=_NAME, severity="fault", found=f"{where}: {reason}", remedy="noetl-events schema URL")
