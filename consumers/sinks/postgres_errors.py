"""
What an error of Postgres means, by its SQLSTATE: drivers group them otherwise, so that classes mislead.

    outage          no SQLSTATE, 08 53 57 58, 25006 (failed over), 25P03, 40003, XX   connect again, the batch again
    contention      40001 40P01 55006 55P03 57014                                    the batch again, soon
    configuration   28 3D 3F 42 0A, 23514 without a constraint (no partition)        somebody has to change something
    row             22 23 54 and what is not named above                              find it, reject it
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncpg import PostgresError

_LINE: Final = re.compile(r"COPY \w+, line ([0-9]+)")

_CONTENTION: Final = ("40001", "40P01", "55006", "55P03", "57014")
_OUTAGE: Final = ("08", "53", "57", "58", "XX", "25006", "25P03", "40003")
_CONFIGURATION: Final = ("28", "3D", "3F", "42", "0A")

_REMEDIES: Final = {
    "3F000": "the schema is missing; run `noetl-events schema URL`",
    "42P01": "the table is missing; run `noetl-events schema URL`",
    "42703": "the table lacks a column; compare it with `noetl-events schema URL`",
    "42P10": "the table lacks the primary key (execution_id, event_id)",
    "42501": "the role needs INSERT and SELECT on the table, USAGE on its schema and TEMPORARY on the database",
    "28P01": "the password is wrong",
    "3D000": "the database does not exist",
}


class Meaning(Enum):
    """What the caller does next."""

    OUTAGE = auto()
    CONTENTION = auto()
    CONFIGURATION = auto()
    ROW = auto()


def meaning_of(error: PostgresError) -> Meaning:
    """Return what *error* asks for."""
    state = error.sqlstate or ""
    if state in _CONTENTION:
        return Meaning.CONTENTION
    if not state or state.startswith(_OUTAGE):
        return Meaning.OUTAGE
    if state.startswith(_CONFIGURATION) or (state == "23514" and not error.constraint_name):
        return Meaning.CONFIGURATION
    return Meaning.ROW


def reason_of(error: PostgresError) -> str:
    """Return *error* in one line, with its SQLSTATE and, where there is one, the remedy."""
    text = f"SQLSTATE {error.sqlstate}: {error.message or error}"
    remedy = _REMEDIES.get(error.sqlstate or "")
    return " ".join(f"{text}; {remedy}".split() if remedy else text.split())


def line_of(error: PostgresError) -> int | None:
    """Return the line, from 1, that COPY names as the culprit."""
    found = _LINE.search(error.context or "")
    return int(found[1]) if found else None
