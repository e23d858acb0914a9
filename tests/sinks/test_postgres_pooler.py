"""A pooler in transaction mode: every transaction may run in another session, shared with other clients."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from consumers.sinks.postgres import PostgresSink
from noetl_events.testing import eventually, make_events
from noetl_events.testing.server_process import free_port
from tests.sinks.postgres_database import fetch, stored_events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def pooler(url: str, folder: Path) -> Iterator[str]:
    """Run a pgbouncer in front of *url* that resets its sessions after each transaction; skip without pgbouncer."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    where = urlsplit(url)
    port = free_port()
    folder.chmod(0o755)
    (folder / "users").write_text(f'"{where.username}" "{where.password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
        [databases]
        * = host={where.hostname} port={where.port}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = plain
        auth_file = {folder}/users
        pool_mode = transaction
        default_pool_size = 2
        server_reset_query_always = 1
        """.replace("        ", "")
    )
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    for folder_above in (folder, *folder.parents):
        if user and not folder_above.stat().st_mode & 0o001:
            folder_above.chmod(folder_above.stat().st_mode | 0o001)
    process = subprocess.Popen([program, *user, "-q", folder / "pgbouncer.ini"])
    try:
        yield where._replace(netloc=f"{where.username}:{where.password}@127.0.0.1:{port}").geturl()
    finally:
        process.terminate()
        process.wait(180)


async def answers(url: str) -> bool:
    """Return true if the server behind *url* answers."""
    with suppress(OSError):
        return bool(await fetch(url, "SELECT 1"))
    return False


async def test_session_that_was_reset(plain_url: str) -> None:
    """The sink works although every transaction resets its session."""
    sink = PostgresSink(plain_url)
    for count in (10, 20, 30):
        await sink.emit_batch(make_events(count))
        assert sink._writer._session is not None
        await sink._writer._session._connection.execute("DISCARD ALL")

    assert len(await stored_events(plain_url)) == 30
    assert (sink.inserted, sink.duplicates) == (30, 30)
    await sink.aclose()


async def test_session_is_left_as_it_was(plain_url: str) -> None:
    """The next client of the session finds no setting, no prepared statement and no row of the sink."""
    sink = PostgresSink(plain_url)
    for _ in range(2):
        await sink.emit_batch(make_events(3))
    assert sink._writer._session is not None
    session = sink._writer._session._connection

    assert await session.fetchval("SHOW statement_timeout") == "0"
    assert await session.fetchval("SHOW lock_timeout") == "0"
    assert await session.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
    assert await session.fetchval(f"SELECT count(*) FROM pg_temp.{sink._writer._session._staging.name}") == 0
    await sink.aclose()


async def test_two_sinks_through_a_real_one(plain_url: str, tmp_path: Path) -> None:
    """Two sinks that share the sessions of a real pgbouncer store each event once."""
    with pooler(plain_url, tmp_path) as pooled:
        await eventually(lambda: answers(pooled))
        one, other = PostgresSink(pooled), PostgresSink(pooled)
        for count in range(100, 1_100, 100):
            await asyncio.gather(one.emit_batch(make_events(count)), other.emit_batch(make_events(count)))
        await one.aclose()
        await other.aclose()

    assert len(await stored_events(plain_url)) == 1_000
    assert one.inserted + other.inserted == 1_000
