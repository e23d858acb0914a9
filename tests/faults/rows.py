"""The rows of a Postgres that may be down."""

from __future__ import annotations

import asyncpg


class Counter:
    """The number of rows, read repeatedly, also while the server is down."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.rows = 0

    def has_seen(self, count: int) -> bool:
        """Return true if the last count was *count* or more."""
        return self.rows >= count

    async def reaches(self, count: int) -> bool:
        """Return true if there are *count* rows or more."""
        try:
            connection = await asyncpg.connect(self._url, timeout=60)
            try:
                self.rows = await connection.fetchval("SELECT count(*) FROM noetl.event")
            finally:
                await connection.close(timeout=5)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False
        return self.rows >= count
