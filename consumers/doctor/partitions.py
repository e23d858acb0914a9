"""Whether a partitioned table has a partition for what comes next: without one, nothing is stored any more."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from consumers.doctor.finding import Finding
from noetl_events.ids import EPOCH_MS

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """How a partition key grows: the value of a moment, and a value read from a bound."""

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


async def look_at_partitions(connection: Any, table: Table, *, now: float, ahead: float) -> list[Finding]:
    """Return what is to be said of *table*: of one without partitions, nothing."""
    quoted = f'"{table.schema}"."{table.relation}"'
    key = await connection.fetchrow(_READ_KEY, quoted)
    if key is None:
        return []
    if key["strategy"] != "r" or key["columns"] != 1 or key["name"] not in _KEYS:
        found = f"{table.name}: its partitions are not by the range of {', '.join(_KEYS)}, and not looked at"
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
        return Finding(check=_NAME, severity="ok", found=f"{table}: there are partitions for what comes next")
    day = datetime.fromtimestamp(gaps[0], UTC).date()
    if "DEFAULT" in bounds:
        found = f"{table}: events of {day} have no partition but the default one, which grows"
    else:
        found = f"{table}: no partition takes an event of {day}"
    urgent = gaps[0] == now and "DEFAULT" not in bounds
    remedy = (
        f"CREATE TABLE ... PARTITION OF {table} FOR VALUES FROM ... TO ..., with {name} {key.at(gaps[0]):.0f} in it"
    )
    return Finding(check=_NAME, severity="fault" if urgent else "warning", found=found, remedy=remedy)


def _limit(text: str, key: _Key, *, lowest: bool) -> float:
    if text in ("MINVALUE", "MAXVALUE"):
        return float("-inf") if lowest else float("inf")
    return key.read(text)
