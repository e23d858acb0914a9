"""Postgres away, slow, failed over or behind a pooler: events are held, never rejected, and stored afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from consumers.sinks.postgres import PostgresSink, create_schema
from noetl_events import EventsRejected, SinkUnavailable
from noetl_events.testing import eventually, make_event, make_events
from noetl_events.testing.postgres_server import PostgresServer
from noetl_events.testing.proxy import FaultyProxy
from noetl_events.testing.server_process import free_port
from tests.sinks.postgres_database import execute, fetch, stored_events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "same-on-both"


@pytest.fixture
async def url(database_url: str) -> str:
    """Return a database with the plain table."""
    await create_schema(database_url)
    return database_url


async def raise_from_table(url: str, condition: str, state: str) -> None:
    """Make every statement that inserts under *condition* fail with *state*."""
    await execute(
        url,
        f"""
        CREATE SEQUENCE tries;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF {condition} THEN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{state}'; END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER refuse AFTER INSERT ON noetl.event REFERENCING NEW TABLE AS added EXECUTE FUNCTION refuse();
        """,
    )


async def test_lost_connection_is_replaced(url: str) -> None:
    """A backend that an operator ends is an outage of one emit."""
    sink = PostgresSink(url)
    await sink.emit(make_event(1))
    await execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'noetl-events' AND datname = current_database()",
    )
    with pytest.raises(SinkUnavailable):
        await sink.emit(make_event(2))
    await sink.emit(make_event(2))

    assert len(await stored_events(url)) == 2
    await sink.aclose()


async def test_slow_database_is_an_outage(url: str) -> None:
    """A transaction that passes its deadline is given up, and the same events go through later."""
    sink = PostgresSink(url, deadline=0.2)
    await sink.emit(make_event(1))
    blocker = await asyncpg.connect(url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE noetl.event IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SinkUnavailable, match="TimeoutError"):
            await sink.emit(make_event(2))
    await blocker.close()
    await sink.emit(make_event(2))

    assert len(await stored_events(url)) == 2
    await sink.aclose()


async def test_black_hole(url: str) -> None:
    """A network that swallows everything is noticed within the deadline, and its connection is closed for good."""
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    async with FaultyProxy(where.hostname, where.port) as proxy:
        sink = PostgresSink(proxy.through(url), deadline=0.5)
        await sink.emit(make_event(1))
        proxy.black_hole()
        began = time.monotonic()
        with pytest.raises(SinkUnavailable):
            await sink.emit_batch(make_events(1_000))

        assert time.monotonic() - began < 2
        proxy.heal()
        await sink.emit_batch(make_events(1_000))

        assert len(await stored_events(url)) == 1_000
        await sink.aclose()
        await eventually(lambda: is_left(url), what="no session of the sink is left")


async def is_left(url: str) -> bool:
    """Return whether every session of the sink is gone."""
    sessions = "SELECT FROM pg_stat_activity WHERE application_name = 'noetl-events' AND datname = current_database()"
    return not await fetch(url, sessions)


async def test_timed_out_batch_gets_smaller(url: str) -> None:
    """A batch too large for the server's time is cut in halves, one more time with each attempt, until it fits."""
    await raise_from_table(url, "(SELECT count(*) FROM added) > 30", "57014")
    sink = PostgresSink(url)
    for _ in range(2):
        with pytest.raises(SinkUnavailable, match="SQLSTATE 57014"):
            await sink.emit_batch(make_events(100))
    await sink.emit_batch(make_events(100))

    assert len(await stored_events(url)) == 100
    await sink.aclose()


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_contention_is_tried_again_at_once(url: str, state: str) -> None:
    """A deadlock, or a conflict of transactions, is nobody's fault: the caller does not hear of it."""
    await raise_from_table(url, "nextval('tries') <= 2", state)
    sink = PostgresSink(url)
    await sink.emit_batch(make_events(3))

    assert len(await stored_events(url)) == 3
    await sink.aclose()


@pytest.mark.parametrize("state", ["53100", "57P03", "58030", "08006", "55P03", "25006", "28000", "42501", "XX001"])
async def test_outage_rejects_nothing(url: str, state: str) -> None:
    """A disk that is full or a right that is missing is held however often it is tried, and mends by itself."""
    await raise_from_table(url, "nextval('tries') <= 6", state)
    sink = PostgresSink(url)
    for _ in range(6):
        with pytest.raises(SinkUnavailable, match=f"SQLSTATE {state}"):
            await sink.emit(make_event(1))
    await sink.emit(make_event(1))

    assert (len(await stored_events(url)), sink.rejected) == (1, 0)
    await sink.aclose()


@pytest.mark.parametrize("state", ["P0001", "XX000", "2F000"])
async def test_unknown_error_is_held_for_a_while(url: str, state: str) -> None:
    """An error nobody has heard of is an outage first; if it stays, the one event it is about is rejected."""
    await raise_from_table(url, "EXISTS (SELECT FROM added WHERE event_id = 7)", state)
    sink = PostgresSink(url)
    for _ in range(3):
        with pytest.raises(SinkUnavailable, match=f"SQLSTATE {state}"):
            await sink.emit_batch(make_events(20))
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch(make_events(20))

    assert [*rejection.value.reasons] == [7]
    assert len(await stored_events(url)) == 19
    await sink.aclose()


async def test_server_away_and_back(own_postgres: PostgresServer) -> None:
    """While the server is away every emit says so without its password; the same sink goes on afterwards."""
    url = own_postgres.url
    await create_schema(url)
    sink = PostgresSink.from_url(url)
    await sink.emit(make_event(1))
    own_postgres.kill()
    for _ in range(2):
        with pytest.raises(SinkUnavailable) as outage:
            await sink.emit_batch(make_events(3))
        assert url.rpartition("@")[0].rpartition(":")[2] not in str(outage.value)
    own_postgres.start()
    await sink.emit_batch(make_events(3))

    assert len(await stored_events(url)) == 3
    await sink.aclose()


async def test_wrong_password_is_named(own_postgres: PostgresServer) -> None:
    """A password that is wrong now may be right later: an outage with a remedy, and no secret in it."""
    sink = PostgresSink.from_url(f"postgresql://postgres:wrong-secret@127.0.0.1:{own_postgres.port}/postgres")
    with pytest.raises(SinkUnavailable, match="the password is wrong") as outage:
        await sink.emit(make_event(1))

    assert "wrong-secret" not in str(outage.value)
    await sink.aclose()


async def test_refused_setting_is_no_fault_of_an_event(url: str) -> None:
    """What the server refuses when it is connected to has a code as a bad row has, and rejects no event."""
    sink = PostgresSink.from_url(f"{url}?statement_timeout=soon")
    with pytest.raises(SinkUnavailable, match="SQLSTATE 22023"):
        await sink.emit(make_event(1))
    await sink.aclose()


class TestFailover:
    """Two servers, one of which takes writes."""

    @pytest.fixture
    def servers(self, tmp_path: Path) -> Iterator[tuple[PostgresServer, PostgresServer]]:
        """Return both."""
        with (
            PostgresServer(data_dir=tmp_path / "one", fsync=False) as one,
            PostgresServer(data_dir=tmp_path / "other", fsync=False) as other,
        ):
            yield one, other

    async def test_follows_the_server_that_takes_writes(self, servers: tuple[PostgresServer, PostgresServer]) -> None:
        """A server that became read-only is left for the one that takes writes, wherever it stands in the URL."""
        one, other = await self.prepared(*servers)
        sink = PostgresSink.from_url(self.url_of(*servers))
        await self.make_read_only(one)
        await sink.emit(make_event(1))
        await self.make_read_only(other)
        await self.make_read_only(one, value="off")
        with pytest.raises(SinkUnavailable, match="SQLSTATE 25006"):
            await sink.emit(make_event(2))
        await sink.emit(make_event(2))

        assert [event.event_id for event in await stored_events(other)] == [1]
        assert [event.event_id for event in await stored_events(one)] == [2]
        await sink.aclose()

    async def test_nobody_takes_writes(self, servers: tuple[PostgresServer, PostgresServer]) -> None:
        """While both are read-only the events are held."""
        one, other = await self.prepared(*servers)
        await self.make_read_only(one)
        await self.make_read_only(other)
        sink = PostgresSink.from_url(self.url_of(*servers))
        with pytest.raises(SinkUnavailable, match="read_write"):
            await sink.emit(make_event(1))
        await sink.aclose()

    async def test_host_that_does_not_answer(self, url: str) -> None:
        """A host that swallows everything costs its own timeout, not that of the next one."""
        where = urlsplit(url)
        assert where.hostname is not None
        assert where.port is not None
        async with FaultyProxy(where.hostname, where.port) as proxy:
            proxy.black_hole()
            user, _, host = where.netloc.rpartition("@")
            sink = PostgresSink(where._replace(netloc=f"{user}@127.0.0.1:{proxy.port},{host}").geturl())
            await sink.emit(make_event(1))
            await sink.aclose()

        assert len(await stored_events(url)) == 1

    def url_of(self, *servers: PostgresServer) -> str:
        """Return the URL of all *servers*."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        return f"postgresql://postgres:{PASSWORD}@{hosts}/postgres?target_session_attrs=read-write"

    async def prepared(self, *servers: PostgresServer) -> list[str]:
        """Give *servers* the table and one password, and return the URL of each."""
        for server in servers:
            await create_schema(server.url)
            await execute(server.url, f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")
        return [self.url_of(server).partition("?")[0] for server in servers]

    async def make_read_only(self, url: str, *, value: str = "on") -> None:
        """Refuse writes from now on, as a server that was demoted."""
        connection = await asyncpg.connect(url)
        await connection.execute(
            f"SET default_transaction_read_only = off; ALTER SYSTEM SET default_transaction_read_only = {value}"
        )
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
        await eventually(lambda: self.is_read_only(url, value))

    async def is_read_only(self, url: str, value: str) -> bool:
        """Return whether new transactions of *url* are as *value* says."""
        (row,) = await fetch(url, "SHOW default_transaction_read_only")
        return bool(row[0] == value)


@contextmanager
def pooler(url: str, folder: Path) -> Iterator[str]:
    """Run a pgbouncer in front of *url* that resets its sessions after each transaction; skip where there is none."""
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
        process.wait(10)


async def answers(url: str) -> bool:
    """Return whether the server behind *url* can be reached."""
    with suppress(OSError):
        return bool(await fetch(url, "SELECT 1"))
    return False


class TestPooler:
    """A pooler in transaction mode: every transaction may run in another session, which others use in between."""

    async def test_session_that_was_reset(self, url: str) -> None:
        """What a session had is gone with each transaction, and nothing of it is missed."""
        sink = PostgresSink(url)
        for count in (10, 20, 30):
            await sink.emit_batch(make_events(count))
            assert sink._writer._session is not None
            await sink._writer._session._connection.execute("DISCARD ALL")

        assert len(await stored_events(url)) == 30
        assert (sink.inserted, sink.duplicates) == (30, 30)
        await sink.aclose()

    async def test_session_is_left_as_it_was(self, url: str) -> None:
        """Whoever has the session next finds no setting and no prepared statement of ours, and no row."""
        sink = PostgresSink(url)
        for _ in range(2):
            await sink.emit_batch(make_events(3))
        assert sink._writer._session is not None
        session = sink._writer._session._connection

        assert await session.fetchval("SHOW statement_timeout") == "0"
        assert await session.fetchval("SHOW lock_timeout") == "0"
        assert await session.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
        assert await session.fetchval(f"SELECT count(*) FROM pg_temp.{sink._table.staging}") == 0
        await sink.aclose()

    async def test_two_sinks_through_a_real_one(self, url: str, tmp_path: Path) -> None:
        """Two sinks that share the sessions of a pgbouncer store each event once."""
        with pooler(url, tmp_path) as pooled:
            await eventually(lambda: answers(pooled))
            one, other = PostgresSink(pooled), PostgresSink(pooled)
            for count in range(100, 1_100, 100):
                await asyncio.gather(one.emit_batch(make_events(count)), other.emit_batch(make_events(count)))
            await one.aclose()
            await other.aclose()

        assert len(await stored_events(url)) == 1_000
        assert one.inserted + other.inserted == 1_000
