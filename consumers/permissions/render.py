"""
Render permissions as configuration of nats-server, and grants as SQL for Postgres.

The file for nats-server defines a variable:

    include "projector.conf"
    accounts { NOETL { jetstream: enabled, users: [
        { user: projector, password: $PROJECTOR_PASSWORD, permissions: $NOETL_PROJECTOR }
    ] } }
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from consumers.permissions.roles import Permission, Rights, Role

# Excludes characters that could end the quotes or separate two subjects.
_SUBJECT: Final = re.compile(r"[^\s\x00-\x1f\x7f\"\\]+")


def render_config(role: Role, rights: Rights) -> str:
    """
    Return *rights* as configuration.

    Raises:
        ValueError: a subject has a character that the file cannot contain.

    """
    lines = [
        f"# Permissions of the {role}: include this file, and give its user `permissions: ${_variable(role)}`.",
        f"{_variable(role)} {{",
        *_block("publish", rights.publish),
        *_block("subscribe", rights.subscribe),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _variable(role: Role) -> str:
    return f"NOETL_{role.upper()}"


def _block(name: str, rights: Iterable[Permission]) -> Iterator[str]:
    yield f"  {name} {{ allow: ["
    for right in rights:
        yield f"    # {right.why}"
        yield f"    {_quoted(right)}"
    yield "  ] }"


def _quoted(right: Permission) -> str:
    if not _SUBJECT.fullmatch(right.subject):
        raise ValueError(f"subject: {right.subject!r} holds a blank, a quote, a backslash or a control character")
    return f'"{right.subject} {right.queue}"' if right.queue else f'"{right.subject}"'


SCHEMES: Final = ("postgres", "postgresql")


def grants_of(role: Role, url: str) -> str:
    """
    Return the grants that *role* needs for the destination *url*; empty if it needs none.

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
    yield "-- For `verify` and `rebuild` on a table with another owner:"
    yield f"GRANT USAGE ON SCHEMA {schema} TO {who};"
    yield f"GRANT INSERT, SELECT ON TABLE {table} TO {who};"


def _compared(query: dict[str, str]) -> str:
    """Return the columns to grant on NoETL's own table; on a table of `schema` all are granted, later ones included."""
    if query.get("mapping") != "noetl":
        return ""
    from consumers.sinks.postgres.noetl_table import NOETL
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
