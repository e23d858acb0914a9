"""The interpretation of Postgres errors."""

from __future__ import annotations

import asyncpg
import pytest

from consumers.sinks.postgres.errors import ErrorClass, line_of, meaning_of, reason_of


def error(**fields: str) -> asyncpg.PostgresError:
    """Return an error with these fields."""
    made = asyncpg.PostgresError(fields.get("message", ""))
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("context", "line"),
    [
        pytest.param("COPY event, line 638, column context", 638, id="English"),
        pytest.param("COPY event, Zeile 638, Spalte context", 638, id="German"),
        pytest.param("PL/pgSQL function refuse() line 3 at RAISE\nCOPY event_2, line 7", 7, id="in a trigger"),
        pytest.param("SQL statement 'COPY', line 3", None, id="no COPY"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_line(context: str, line: int | None) -> None:
    """The line number is found in every language of the server, and never where COPY named none."""
    assert line_of(error(sqlstate="22P05", context=context)) == line


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        (None, ErrorClass.OUTAGE),
        ("08P01", ErrorClass.OUTAGE),
        ("25P03", ErrorClass.OUTAGE),
        ("25P02", ErrorClass.UNKNOWN),
        ("40P01", ErrorClass.CONTENTION),
        ("57014", ErrorClass.SLOW),
        ("57P05", ErrorClass.OUTAGE),
        ("42P10", ErrorClass.CONFIGURATION),
        ("XX002", ErrorClass.CONFIGURATION),
        ("XX000", ErrorClass.UNKNOWN),
        ("22P02", ErrorClass.ROW),
        ("23502", ErrorClass.ROW),
        ("23503", ErrorClass.ORPHAN),
        ("54001", ErrorClass.ROW),
    ],
)
def test_meaning(state: str | None, meaning: ErrorClass) -> None:
    """The longest known prefix of a SQLSTATE decides."""
    assert meaning_of(error(sqlstate=state)) is meaning  # type: ignore[arg-type]  # None is what a broken one has


def test_check_without_a_name_is_a_missing_partition() -> None:
    """A check violation with a name is about the row, one without a name about the table."""
    assert meaning_of(error(sqlstate="23514")) is ErrorClass.CONFIGURATION
    assert meaning_of(error(sqlstate="23514", constraint_name="positive")) is ErrorClass.ROW


def test_reason_is_one_line() -> None:
    """A reason is one line, whatever the server sends, with a remedy where there is one."""
    assert reason_of(error(sqlstate="28P01", message="no\n way")) == "SQLSTATE 28P01: no way; the password is wrong"
    assert reason_of(TimeoutError()) == "TimeoutError"
