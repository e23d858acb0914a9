"""The database roles: the projector may insert into the owner's tables, and nothing else."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from consumers.sinks.postgres import PostgresSink
from noetl_events.testing import make_event
from noetl_events.testing.postgres_server import PostgresServer, _find_binaries
from tests.deploy.files import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def make_roles(server: PostgresServer, *, password: str) -> None:
    """Run `roles.sql` as the Postgres image does."""
    environment = os.environ | {"NOETL_PROJECTOR_PASSWORD": password}
    command = [str(_find_binaries() / "psql"), "-X", server.url, "-f", str(ROOT / "deploy/postgres/roles.sql")]
    subprocess.run(command, env=environment, check=True, capture_output=True)


async def test_the_projector_role_inserts_and_does_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `roles.sql` the owner's table accepts the projector's events, twice; the projector cannot delete them."""
    with PostgresServer(data_dir=tmp_path / "postgres", fsync=False) as server:
        make_roles(server, password="it's secret")
        await PostgresSink.from_url(server.url).create_schema()

        monkeypatch.setenv("PGPASSWORD", "it's secret")
        url = f"postgresql://noetl_projector@{urlsplit(server.url).netloc.rpartition('@')[2]}/postgres"
        sink = PostgresSink.from_url(url)
        for _ in range(2):
            await sink.emit_batch([make_event(number) for number in range(1, 11)])
        await sink.aclose()
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT count(*) FROM noetl.event") == 10
        for forbidden in ("DELETE FROM noetl.event", "UPDATE noetl.event SET status = ''", "DROP TABLE noetl.event"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
        await connection.close()
