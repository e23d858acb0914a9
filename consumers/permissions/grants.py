"""What a role needs in Postgres, as SQL; the names come from the URL of the destination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumers.permissions.rights import Role

SCHEMES: Final = ("postgres", "postgresql")


def grants_of(role: Role, url: str) -> str:
    """
    Return the statements that give *role* what it needs for the destination *url*; none if it needs nothing.

    The name of the role is the user of *url*, or `noetl_<role>`.

    Raises:
        ValueError: *url* names no database, or no table.

    """
    if role not in _GRANTS:
        return ""
    parts = urlsplit(url)
    database = unquote(parts.path.removeprefix("/"))
    if parts.scheme not in SCHEMES or not database:
        raise ValueError(f"--to: {parts.scheme}://: write postgresql://user@host/database, to name what is granted")
    query = dict(parse_qsl(parts.query))
    who = _identifier(unquote(parts.username or f"noetl_{role}"))
    return "\n".join(_GRANTS[role](who, _identifier(database), query)) + "\n"


def _projector(who: str, database: str, query: dict[str, str]) -> Iterator[str]:
    schema, table = _table(query)
    yield f"-- The projector; first: CREATE ROLE {who} LOGIN; and give it a password."
    yield "-- TEMPORARY is for the staging table; SELECT is for comparing an event with the row that has its key."
    yield f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {who};"
    yield f"GRANT USAGE ON SCHEMA {schema} TO {who};"
    yield f"GRANT INSERT, SELECT{_compared(query)} ON TABLE {table} TO {who};"


def _admin(who: str, database: str, query: dict[str, str]) -> Iterator[str]:
    schema, table = _table(query)
    yield f"-- The administrator; first: CREATE ROLE {who} LOGIN; and give it a password."
    yield "-- CREATE is for `noetl-events schema`, which then owns schema and table and needs nothing below."
    yield f"GRANT CONNECT, TEMPORARY, CREATE ON DATABASE {database} TO {who};"
    yield "-- For `verify` and `rebuild` on a table of somebody else:"
    yield f"GRANT USAGE ON SCHEMA {schema} TO {who};"
    yield f"GRANT INSERT, SELECT ON TABLE {table} TO {who};"


def _compared(query: dict[str, str]) -> str:
    """Return the columns to read of a table that is not ours; of ours all are read, later ones included."""
    if query.get("mapping") != "noetl":
        return ""
    from consumers.sinks.postgres.noetl import NOETL
    from consumers.sinks.postgres.table import KEY

    return f" ({', '.join([*KEY, *NOETL.likeness.columns])})"


def _table(query: dict[str, str]) -> tuple[str, str]:
    from consumers.sinks.postgres.table import DEFAULT_TABLE, quoted

    table = quoted(query.get("table", DEFAULT_TABLE))
    return table.partition(".")[0], table


def _identifier(name: str) -> str:
    if not name.isprintable():
        raise ValueError(f"--to: {name!r} is no name of a role or database")
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


_GRANTS: Final = {"projector": _projector, "admin": _admin}
