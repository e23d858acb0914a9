"""
What an error of Postgres means, by its SQLSTATE: drivers group them otherwise, so that classes mislead.

    outage          no SQLSTATE, 08 53 57 58, 25006 (failed over),     connect again, the batch again
                    25P03, 40003, 55P03 (somebody holds the table)
    contention      40001 40P01 55006                                  the batch again, soon
    slow            57014 (timed out)                                  fewer rows at once, later
    configuration   28 3D 3F 42 0A XX001 XX002,                        somebody has to change something
                    23514 without a constraint (no partition)
    orphan          23503                                              wait for its parent, then reject it
    row             22 23 54                                           find it, reject it
    unknown         whatever is not named above                        an outage, and after some a row
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncpg import PostgresError

# Whatever the language of the server's messages: "COPY event, line 7, column meta".
_LINE: Final = re.compile(r"^COPY [^,]+, \D*([0-9]+)", re.MULTILINE)
_MISSING_PARENT: Final = re.compile(r"\(catalog_id\)=\((-?[0-9]+)\)")

_REMEDIES: Final = {
    "3F000": "the schema is missing; run `noetl-events schema URL`",
    "42P01": "the table is missing; run `noetl-events schema URL`",
    "42501": "the role needs INSERT and SELECT on the table, USAGE on its schema and TEMPORARY on the database",
    "28P01": "the password is wrong",
    "3D000": "the database does not exist",
}


class Meaning(Enum):
    """What the caller does next."""

    OUTAGE = auto()
    CONTENTION = auto()
    SLOW = auto()
    CONFIGURATION = auto()
    ORPHAN = auto()
    ROW = auto()
    UNKNOWN = auto()


# The longest prefix of a SQLSTATE decides.
_MEANINGS: Final = {
    "": Meaning.UNKNOWN,
    **dict.fromkeys(("08", "53", "57", "58", "25006", "25P03", "40003", "55P03"), Meaning.OUTAGE),
    **dict.fromkeys(("40001", "40P01", "55006"), Meaning.CONTENTION),
    "57014": Meaning.SLOW,
    **dict.fromkeys(("28", "3D", "3F", "42", "0A", "XX001", "XX002"), Meaning.CONFIGURATION),
    "23503": Meaning.ORPHAN,
    **dict.fromkeys(("22", "23", "54"), Meaning.ROW),
}


def meaning_of(error: PostgresError) -> Meaning:
    """Return what *error* asks for."""
    state = error.sqlstate
    if not state:
        return Meaning.OUTAGE
    if state == "23514" and not error.constraint_name:
        return Meaning.CONFIGURATION
    return _MEANINGS[next(prefix for prefix in (state, state[:2], "") if prefix in _MEANINGS)]


def reason_of(error: Exception) -> str:
    """Return *error* in one line, with its SQLSTATE and, where there is one, the remedy."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return " ".join(str(error).split()) or type(error).__name__
    text = f"SQLSTATE {state}: {getattr(error, 'message', None) or error}"
    remedy = _REMEDIES.get(state)
    return " ".join((f"{text}; {remedy}" if remedy else text).split())


def line_of(error: PostgresError) -> int | None:
    """Return the line, from 1, that COPY names as the culprit."""
    found = _LINE.search(error.context or "")
    return int(found[1]) if found else None


def missing_parent_of(error: PostgresError) -> int | None:
    """Return the catalog_id that a foreign key looked for in vain."""
    found = _MISSING_PARENT.search(error.detail or "") if meaning_of(error) is Meaning.ORPHAN else None
    return int(found[1]) if found else None
