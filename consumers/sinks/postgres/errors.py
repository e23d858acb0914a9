"""
Classify errors of Postgres by SQLSTATE, because the exception classes of drivers group them differently.

    outage          no SQLSTATE, 08 53 57 58, 25006 (failed over),     reconnect, retry the batch
                    25P03, 40003, 55P03 (the table is locked)
    contention      40001 40P01 55006                                  retry the batch soon
    slow            57014 (timed out)                                  retry later with fewer rows
    configuration   28 3D 3F 42 0A XX001 XX002,                        an operator has to change something
                    23514 without a constraint (no partition)
    orphan          23503                                              wait for the parent row, then reject
    row             22 23 54                                           find the row, reject it
    unknown         any other SQLSTATE                                 an outage; a row after repeated errors
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncpg import PostgresError

# Matches a message in any language of the server, such as "COPY event, line 7, column meta".
_LINE: Final = re.compile(r"^COPY [^,]+, \D*([0-9]+)", re.MULTILINE)
_MISSING_PARENT: Final = re.compile(r"\(catalog_id\)=\((-?[0-9]+)\)")

_REMEDIES: Final = {
    "3F000": "the schema is missing; run `noetl-events schema URL`",
    "42P01": "the table is missing; run `noetl-events schema URL`",
    "42501": "the role needs INSERT and SELECT on the table, USAGE on its schema and TEMPORARY on the database",
    "28P01": "the password is wrong",
    "3D000": "the database does not exist",
}


class ErrorClass(Enum):
    """The class of an error; the class decides the caller's next step."""

    OUTAGE = auto()
    CONTENTION = auto()
    SLOW = auto()
    CONFIGURATION = auto()
    ORPHAN = auto()
    ROW = auto()
    UNKNOWN = auto()


# The longest prefix of a SQLSTATE decides.
_MEANINGS: Final = {
    "": ErrorClass.UNKNOWN,
    **dict.fromkeys(("08", "53", "57", "58", "25006", "25P03", "40003", "55P03"), ErrorClass.OUTAGE),
    **dict.fromkeys(("40001", "40P01", "55006"), ErrorClass.CONTENTION),
    "57014": ErrorClass.SLOW,
    **dict.fromkeys(("28", "3D", "3F", "42", "0A", "XX001", "XX002"), ErrorClass.CONFIGURATION),
    "23503": ErrorClass.ORPHAN,
    **dict.fromkeys(("22", "23", "54"), ErrorClass.ROW),
}


def meaning_of(error: PostgresError) -> ErrorClass:
    """Return the class of *error*."""
    state = error.sqlstate
    if not state:
        return ErrorClass.OUTAGE
    if state == "23514" and not error.constraint_name:
        return ErrorClass.CONFIGURATION
    return _MEANINGS[next(prefix for prefix in (state, state[:2], "") if prefix in _MEANINGS)]


def reason_of(error: Exception) -> str:
    """Return *error* in one line, with its SQLSTATE and the remedy, if there is one."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return " ".join(str(error).split()) or type(error).__name__
    text = f"SQLSTATE {state}: {getattr(error, 'message', None) or error}"
    remedy = _REMEDIES.get(state)
    return " ".join((f"{text}; {remedy}" if remedy else text).split())


def line_of(error: PostgresError) -> int | None:
    """Return the line of the rejected row that COPY names, from 1."""
    found = _LINE.search(error.context or "")
    return int(found[1]) if found else None


def missing_parent_of(error: PostgresError) -> int | None:
    """Return the missing catalog_id that a foreign key refers to."""
    found = _MISSING_PARENT.search(error.detail or "") if meaning_of(error) is ErrorClass.ORPHAN else None
    return int(found[1]) if found else None
