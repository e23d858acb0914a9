"""The table of a campaign: time and order of each row, recorded by Postgres itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from consumers.sinks.postgres import create_schema
from tests.faults.campaign.poison import CLAIM, TAKEN

if TYPE_CHECKING:
    from collections.abc import Collection

# The record is part of the row's transaction, so both exist or neither does, numbered in the order of the inserts.
_NOTE = """
CREATE OR REPLACE FUNCTION note_arrival() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO arrival (event_id, execution_id) VALUES (NEW.event_id, NEW.execution_id); RETURN NULL; END $$;
"""
# The server answers so when it cannot extend a file; the session continues.
_FULL = """
CREATE OR REPLACE FUNCTION note_arrival() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
"""
# A row that is no event, and so is not recorded, has the `meta` entry of a poisoned one.
_NOTED = f"""
CREATE UNIQUE INDEX ON noetl.event ((meta ->> '{CLAIM}'));
INSERT INTO noetl.event (execution_id, event_id, event_type, step, status, created_at, context, meta)
VALUES (0, 0, '', '', '', now(), 'null', '{{"{CLAIM}": "{TAKEN}"}}');
CREATE TABLE arrival (
    number bigint GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT clock_timestamp(),
    event_id bigint, execution_id bigint);
CREATE INDEX ON arrival (event_id);
{_NOTE}
CREATE TRIGGER arrived AFTER INSERT ON noetl.event FOR EACH ROW EXECUTE FUNCTION note_arrival();
"""


class StoredRow(NamedTuple):
    """A row that arrived: the monotonic second, and its two ids."""

    at: float
    event_id: int
    execution_id: int


class Rows:
    """The rows of the Postgres at *url*."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def prepare(self) -> None:
        """Create the table, and the trigger that records the time and order of each row."""
        await create_schema(self._url)
        await self._execute(_NOTED)

    async def fill_disk(self) -> None:
        """Leave no room for another row."""
        await self._execute(_FULL)

    async def free_disk(self) -> None:
        """Make room again."""
        await self._execute(_NOTE)

    async def missing(self, event_ids: Collection[int]) -> set[int]:
        """Return the *event_ids* without a row; all of them while the server does not answer."""
        wanted = set(event_ids)
        try:
            connection = await asyncpg.connect(self._url, timeout=5)
            try:
                rows = await connection.fetch("SELECT event_id FROM arrival WHERE event_id = ANY($1)", list(wanted))
            finally:
                await connection.close(timeout=5)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return wanted
        return wanted - {row[0] for row in rows}

    async def all(self) -> list[StoredRow]:
        """Return every row, in the order of the inserts."""
        offset = time.time() - time.monotonic()
        connection = await asyncpg.connect(self._url)
        try:
            select = "SELECT extract(epoch FROM at)::float8, event_id, execution_id FROM arrival ORDER BY number"
            return [StoredRow(at - offset, *ids) for at, *ids in await connection.fetch(select)]
        finally:
            await connection.close()

    async def _execute(self, statements: str) -> None:
        connection = await asyncpg.connect(self._url)
        await connection.execute(statements)
        await connection.close()
