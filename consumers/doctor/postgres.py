"""Checks of each Postgres: the table, the privileges, and a partition for future rows."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg

from consumers.doctor.check import Finding
from consumers.doctor.destinations import postgres_sinks
from consumers.sinks.postgres import TableMismatch
from consumers.sinks.postgres.rows import DIGEST
from consumers.sinks.postgres.table import KEY
from noetl_events.ids import EPOCH_MS
from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumers.doctor.check import CheckContext
    from consumers.sinks.postgres import PostgresSink
    from consumers.sinks.postgres.table import Table

_NAME: Final = "postgres"
_READ_KEY: Final = """
SELECT p.partstrat::text AS strategy, p.partnatts AS columns, a.attname AS name
FROM pg_partitioned_table p
LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
WHERE p.partrelid = to_regclass($1)
"""
_READ_BOUNDS: Final = """
SELECT pg_get_expr(c.relpartbound, c.oid) AS bound
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1)
"""
_BOUND: Final = re.compile(r"FOR VALUES FROM \('?(.+?)'?\) TO \('?(.+?)'?\)")
_MARGIN: Final = 7 * 86_400.0


class _Key(NamedTuple):
    """The order of a partition key: conversions to a number, of a time and of a bound."""

    at: Callable[[float], float]
    read: Callable[[str], float]


def _as_id(moment: float) -> float:
    return (int(moment * 1000) - EPOCH_MS) << 22


def _as_timestamp(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


_KEYS: Final = {
    "execution_id": _Key(_as_id, int),
    "event_id": _Key(_as_id, int),
    "created_at": _Key(float, _as_timestamp),
}


async def check_partitions(connection: Any, table: Table, *, now: float, ahead: float) -> list[Finding]:
    """Return the finding about the partitions of *table*; none for a table without partitions."""
    quoted = f'"{table.schema}"."{table.relation}"'
    key = await connection.fetchrow(_READ_KEY, quoted)
    if key is None:
        return []
    if key["strategy"] != "r" or key["columns"] != 1 or key["name"] not in _KEYS:
        found = f"{table.name}: not partitioned by the range of {', '.join(_KEYS)}, so its partitions are not checked"
        return [Finding(check=_NAME, severity="unknown", found=found)]
    bounds = [row["bound"] for row in await connection.fetch(_READ_BOUNDS, quoted)]
    return [_judge(table.name, key["name"], bounds, now=now, later=now + max(ahead, _MARGIN))]


def _judge(table: str, name: str, bounds: list[str], *, now: float, later: float) -> Finding:
    key = _KEYS[name]
    ranges = [
        (_limit(match[1], key, lowest=True), _limit(match[2], key, lowest=False))
        for bound in bounds
        if (match := _BOUND.fullmatch(bound))
    ]
    gaps = [moment for moment in (now, later) if not any(low <= key.at(moment) < high for low, high in ranges)]
    if not gaps:
        return Finding(check=_NAME, severity="ok", found=f"{table}: there are partitions for future events")
    day = datetime.fromtimestamp(gaps[0], UTC).date()
    if "DEFAULT" in bounds:
        found = f"{table}: events of {day} go to the default partition, which grows"
    else:
        found = f"{table}: there is no partition for events of {day}"
    urgent = gaps[0] == now and "DEFAULT" not in bounds
    remedy = (
        f"CREATE TABLE ... PARTITION OF {table} FOR VALUES FROM ... TO ..., with {name} {key.at(gaps[0]):.0f} in it"
    )
    return Finding(check=_NAME, severity="fault" if urgent else "warning", found=found, remedy=remedy)


def _limit(text: str, key: _Key, *, lowest: bool) -> float:
    if text in ("MINVALUE", "MAXVALUE"):
        return float("-inf") if lowest else float("inf")
    return key.read(text)


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


async def check_postgres(context: CheckContext) -> list[Finding]:
    """Check each Postgres destination."""
    findings = []
    for where, sink in postgres_sinks(context.to):
        try:
            findings += await _check_table(context, where, sink)
        except SinkUnavailable as exc:
            remedy = "start Postgres there, or correct the URL, its user and its password"
            findings.append(Finding(check=_NAME, severity="fault", found=str(exc), remedy=remedy))
        except asyncpg.PostgresError as exc:
            findings.append(Finding(check=_NAME, severity="unknown", found=f"{where}: {exc}"))
    return findings


async def _check_table(context: CheckContext, where: str, sink: PostgresSink) -> list[Finding]:
    connection = await sink.connect()
    try:
        if missing := await _missing_rights(connection, sink):
            return [_denied(where, missing)]
        async with connection.transaction(readonly=True):
            shape = await sink.layout.check(connection)
        found = [Finding(check=_NAME, severity="ok", found=f"{where}: {sink.table} accepts the sink's rows")]
        if sink.layout.mapping.is_ours and not shape.has_digest:
            found = [_without_digest(where, sink.table)]
        return found + await check_partitions(connection, sink.layout, now=context.clock(), ahead=context.outage)
    except TableMismatch as exc:
        return [_mismatch(where, str(exc))]
    finally:
        connection.terminate()


async def _missing_rights(connection: Any, sink: PostgresSink) -> list[str]:
    # The query finds the table in the catalog, because naming it would require USAGE.
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
