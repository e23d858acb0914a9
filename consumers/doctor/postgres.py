"""Whether each Postgres takes what will be written: its table, the rights on it, a partition for what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import asyncpg

from consumers.doctor.destinations import postgres_sinks
from consumers.doctor.finding import Finding
from consumers.doctor.partitions import look_at_partitions
from consumers.sinks.postgres import TableMismatch
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from consumers.doctor.patient import Patient
    from consumers.sinks.postgres import PostgresSink

_NAME: Final = "postgres"
_READ_RIGHTS: Final = """
SELECT has_schema_privilege(n.oid, 'USAGE') AS "USAGE on the schema",
       has_database_privilege(current_database(), 'TEMPORARY') AS "TEMPORARY on the database",
       has_table_privilege(c.oid, 'INSERT') AS "INSERT on the table",
       has_column_privilege(c.oid, 'execution_id', 'SELECT') AND has_column_privilege(c.oid, 'event_id', 'SELECT')
           AS "SELECT on execution_id and event_id"
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
            await sink.layout.check(connection)
        found = [Finding(check=_NAME, severity="ok", found=f"{where}: {sink.table} takes what is written")]
        return found + await look_at_partitions(connection, sink.layout, now=patient.clock(), ahead=patient.outage)
    except TableMismatch as exc:
        return [_mismatch(where, str(exc))]
    finally:
        connection.terminate()


async def _missing_rights(connection: Any, sink: PostgresSink) -> list[str]:
    # Its own lookup: without USAGE the table cannot even be named.
    held = await connection.fetchrow(_READ_RIGHTS, sink.layout.schema, sink.layout.relation)
    return [name for name, has in held.items() if not has] if held else []


def _denied(where: str, missing: list[str]) -> Finding:
    return Finding(
        check=_NAME,
        severity="fault",
        found=f"{where}: the role lacks {', '.join(missing)}",
        remedy="run what `noetl-events permissions projector --to URL --sql` prints",
    )


def _mismatch(where: str, reason: str) -> Finding:
    return Finding(check=_NAME, severity="fault", found=f"{where}: {reason}", remedy="noetl-events schema URL")
