"""The Postgres of the testing kit: committed data is kept, it stops on request, and access is private."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from noetl_events.testing import eventually
from noetl_events.testing.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

HELD = "pre-existing shared memory block"


@pytest.fixture(scope="module")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Create a database once, because that takes most of a second."""
    with PostgresServer(data_dir=tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def postgres(shared_postgres: PostgresServer) -> PostgresServer:
    """Start the server if an earlier test has ended it."""
    shared_postgres.start()
    return shared_postgres


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Connect, and close without errors: the server may be gone."""
    connection = await asyncpg.connect(url, timeout=180)
    try:
        yield connection
    finally:
        connection.terminate()


async def query(server: PostgresServer, sql: str) -> Any:
    """Run a query over a separate connection."""
    async with connected(server.url) as connection:
        return await connection.fetchval(sql)


async def store(server: PostgresServer, number: int) -> None:
    """Commit a row."""
    async with connected(server.url) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (number int)")
        await connection.execute("INSERT INTO kept VALUES ($1)", number)


async def test_killed_postgres_keeps_its_address_and_rows(postgres: PostgresServer) -> None:
    """A killed Postgres comes back at the same URL with the committed rows."""
    url = postgres.url
    await store(postgres, 1)

    postgres.kill()
    postgres.start()

    assert postgres.url == url
    assert await query(postgres, "SELECT count(*) FROM kept WHERE number = 1") == 1


async def test_kill_ends_backends_at_work(postgres: PostgresServer) -> None:
    """A crash ends every backend, also in a long statement, so none holds the data at the next start."""
    async with connected(postgres.url) as connection:
        backend = connection.get_server_pid()
        statement = asyncio.ensure_future(connection.execute("SELECT pg_sleep(600)"))
        await eventually(lambda: query(postgres, f"SELECT wait_event FROM pg_stat_activity WHERE pid = {backend}"))

        postgres.kill()

        with pytest.raises((OSError, asyncpg.PostgresError)):
            await statement
    complaints = postgres.log.count(HELD)
    postgres.start()

    assert postgres.log.count(HELD) == complaints


async def test_postgres_starts_beside_orphaned_backends(postgres: PostgresServer) -> None:
    """If only its parent process was killed, a start waits until the orphaned backends release the data."""
    async with connected(postgres.url):
        await store(postgres, 2)
        os.kill(postgres.pid, signal.SIGKILL)
        postgres.restart()

    assert await query(postgres, "SELECT count(*) FROM kept WHERE number = 2") == 1


async def test_connected_clients_do_not_delay_the_end(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A termination does not wait for clients, and needs no kill, not even on a paused server."""
    monkeypatch.setattr("noetl_events.testing.server_process._STOP_TIMEOUT", 180.0)
    async with connected(postgres.url):
        postgres.pause()
        postgres.terminate()

        assert "database system is shut down" in postgres.log


async def test_paused_postgres_answers_once_resumed(postgres: PostgresServer) -> None:
    """A pause silences the open connections, and breaks none."""
    async with connected(postgres.url) as connection:
        postgres.pause()
        answer = asyncio.ensure_future(connection.fetchval("SELECT 1"))
        await asyncio.wait({answer}, timeout=0.1)

        assert not answer.done()

        postgres.resume()

        assert await answer == 1


async def test_commits_are_durable_unless_asked_otherwise(postgres: PostgresServer) -> None:
    """Commits wait for the disk by default."""
    assert postgres.fsync
    assert await query(postgres, "SHOW fsync") == "on"


async def test_others_on_the_machine_are_kept_out(postgres: PostgresServer) -> None:
    """A client without the password gets no connection."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://postgres:guess@127.0.0.1:{postgres.port}/postgres")
