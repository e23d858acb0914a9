"""Several servers, one of which accepts writes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from consumers.sinks.postgres import PostgresSink, create_schema
from noetl_events import SinkUnavailable
from noetl_events.testing import eventually, make_event
from noetl_events.testing.postgres_server import PostgresServer
from noetl_events.testing.proxy import FaultyProxy
from tests.sinks.postgres_database import execute, fetch, stored_events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "same-on-both"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Return both servers."""
    with (
        PostgresServer(data_dir=tmp_path / "one", fsync=False) as one,
        PostgresServer(data_dir=tmp_path / "other", fsync=False) as other,
    ):
        yield one, other


async def test_follows_the_server_that_takes_writes(servers: tuple[PostgresServer, PostgresServer]) -> None:
    """The sink changes from a server that became read-only to the writable one, whatever their order in the URL."""
    one, other = await prepared(*servers)
    sink = PostgresSink.from_url(url_of(*servers))
    await make_read_only(one)
    await sink.emit(make_event(1))
    await make_read_only(other)
    await make_read_only(one, value="off")
    with pytest.raises(SinkUnavailable, match="SQLSTATE 25006"):
        await sink.emit(make_event(2))
    await sink.emit(make_event(2))

    assert [event.event_id for event in await stored_events(other)] == [1]
    assert [event.event_id for event in await stored_events(one)] == [2]
    await sink.aclose()


async def test_nobody_takes_writes(servers: tuple[PostgresServer, PostgresServer]) -> None:
    """While both are read-only the events are retried."""
    one, other = await prepared(*servers)
    await make_read_only(one)
    await make_read_only(other)
    sink = PostgresSink.from_url(url_of(*servers))
    with pytest.raises(SinkUnavailable, match="read_write"):
        await sink.emit(make_event(1))
    await sink.aclose()


async def test_host_that_does_not_answer(plain_url: str) -> None:
    """A host that swallows packets costs its own timeout, not that of the next host."""
    where = urlsplit(plain_url)
    assert where.hostname is not None
    assert where.port is not None
    async with FaultyProxy(where.hostname, where.port) as proxy:
        proxy.black_hole()
        user, _, host = where.netloc.rpartition("@")
        sink = PostgresSink(where._replace(netloc=f"{user}@127.0.0.1:{proxy.port},{host}").geturl())
        await sink.emit(make_event(1))
        await sink.aclose()

    assert len(await stored_events(plain_url)) == 1


def url_of(*servers: PostgresServer) -> str:
    """Return the URL of all *servers*."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"postgresql://postgres:{PASSWORD}@{hosts}/postgres"


async def prepared(*servers: PostgresServer) -> list[str]:
    """Give *servers* the table and the same password, and return the URL of each."""
    for server in servers:
        await create_schema(server.url)
        await execute(server.url, f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")
    return [url_of(server) for server in servers]


async def make_read_only(url: str, *, value: str = "on") -> None:
    """Make the server read-only, as after a demotion."""
    await execute(url, f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    await execute(url, "SELECT pg_reload_conf()")
    await eventually(lambda: is_read_only(url, value))


async def is_read_only(url: str, value: str) -> bool:
    """Return true if `transaction_read_only` of *url* is *value*."""
    (row,) = await fetch(url, "SHOW default_transaction_read_only")
    return bool(row[0] == value)
