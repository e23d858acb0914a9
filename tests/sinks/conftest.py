"""A Postgres for the tests of sinks, and a new database for each test."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from consumers.sinks.postgres import create_schema
from noetl_events.testing.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_numbers = count()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Return the server of this session: `POSTGRES_URL` if set, otherwise one from the wheel."""
    if url := os.environ.get("POSTGRES_URL"):
        yield url
        return
    # A folder of pytest would not do: another pytest removes this server's user from all of them when it starts.
    with TemporaryDirectory() as folder, PostgresServer(data_dir=Path(folder)) as server:
        yield server.url


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """Return an empty database, deleted after the test."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"CREATE DATABASE {name}")
    yield urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def plain_url(database_url: str) -> str:
    """Return a database with the plain table and no row."""
    await create_schema(database_url)
    return database_url


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """Return a server that the test may kill."""
    with PostgresServer(data_dir=tmp_path / "postgres") as server:
        yield server
