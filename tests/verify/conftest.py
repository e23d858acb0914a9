"""Destinations that can be read back, each with a way to change its rows directly."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from consumers.sinks.postgres import create_schema
from tests.sinks.conftest import database_url, postgres_url

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["database_url", "postgres_url"]


class Table:
    """The rows of a destination, accessed without its sink."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name

    async def change(self, statement: str) -> None:
        """Run *statement*, with `{}` for the name of the table."""
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(urlsplit(self.url).path[1:])) as database, database:
                database.execute(statement.replace("{}", self.name))
            return
        connection = await asyncpg.connect(self.url)
        await connection.execute(statement.replace("{}", self.name))
        await connection.close()


@pytest.fixture
def sqlite_table(tmp_path: Path) -> Table:
    """Return a path without a file."""
    return Table(f"sqlite:///{tmp_path}/rows.db", "event")


@pytest.fixture(name="postgres_table")
async def _postgres_table(database_url: str) -> Table:
    await create_schema(database_url)
    return Table(database_url, "noetl.event")
