"""The rows of a Postgres that may be down."""

from __future__ import annotations

import asyncpg


class Counter:
    """How many rows there are; asked often, and also while nobody answers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.rows = 0

    def has_seen(self, count: int) -> bool:
        """Return whether there were so many when somebody last asked."""
        return self.rows >= count

    async def reaches(self, count: int) -> bool:
        """Return whether there are so many."""
        try:
            connection = await asyncpg.connect(self._url, timeout=5)
            try:
                self.rows = await connection.fetchval("SELECT count(*) FROM noetl.event")
            finally:
                await connection.close(timeout=5)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False
        return self.rows >= count
