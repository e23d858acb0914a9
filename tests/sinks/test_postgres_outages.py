"""Postgres unavailable, slow, failed over or behind a pooler: events are retried, never rejected, and stored later."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from consumers.sinks.postgres import PostgresSink, create_schema
from noetl_events import EventsRejected, SinkUnavailable
from noetl_events.testing import eventually, make_event, make_events
from noetl_events.testing.proxy import FaultyProxy
from tests.sinks.postgres_database import execute, is_left_alone, stored_events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events import ExecutorEvent
    from noetl_events.testing.postgres_server import PostgresServer


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


async def is_stored(sink: PostgresSink, events: Sequence[ExecutorEvent]) -> bool:
    """Emit *events*; return False if a busy machine needs longer than the sink's deadline."""
    try:
        await sink.emit_batch(events)
    except SinkUnavailable:
        return False
    return True


async def test_lost_connection_is_replaced(plain_url: str) -> None:
    """A backend that an operator terminates fails one emit."""
    sink = PostgresSink(plain_url)
    await sink.emit(make_event(1))
    await execute(
        plain_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'noetl-events' AND datname = current_database()",
    )
    with pytest.raises(SinkUnavailable):
        await sink.emit(make_event(2))
    await sink.emit(make_event(2))

    assert len(await stored_events(plain_url)) == 2
    await sink.aclose()


async def test_slow_database_is_an_outage(plain_url: str) -> None:
    """A transaction that passes its deadline is cancelled, and the same events are stored later."""
    sink = PostgresSink(plain_url, deadline=0.5)
    await eventually(lambda: is_stored(sink, [make_event(1)]), what="the first event is stored")
    blocker = await asyncpg.connect(plain_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE noetl.event IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SinkUnavailable, match="TimeoutError"):
            await sink.emit(make_event(2))
    await blocker.close()
    await eventually(lambda: is_stored(sink, [make_event(2)]), what="the second event is stored")

    assert len(await stored_events(plain_url)) == 2
    await sink.aclose()


async def test_black_hole(plain_url: str) -> None:
    """A network that swallows packets is noticed within the deadline, and its connection is closed."""
    where = urlsplit(plain_url)
    assert where.hostname is not None
    assert where.port is not None
    async with FaultyProxy(where.hostname, where.port) as proxy:
        sink = PostgresSink(proxy.through(plain_url), deadline=1.0)
        await eventually(lambda: is_stored(sink, make_events(1)), what="the first event is stored")
        proxy.black_hole()
        async with asyncio.timeout(180):
            with pytest.raises(SinkUnavailable):
                await sink.emit_batch(make_events(1_000))

        proxy.heal()
        await eventually(lambda: is_stored(sink, make_events(1_000)), what="all events are stored")

        assert len(await stored_events(plain_url)) == 1_000
        await sink.aclose()
        await eventually(lambda: is_left_alone(plain_url), what="no session of the sink is left")


async def test_timed_out_batch_gets_smaller(plain_url: str) -> None:
    """A batch that takes too long is halved once more with each attempt, until it fits."""
    await raise_from_table(plain_url, "(SELECT count(*) FROM added) > 30", "57014")
    sink = PostgresSink(plain_url)
    for _ in range(2):
        with pytest.raises(SinkUnavailable, match="SQLSTATE 57014"):
            await sink.emit_batch(make_events(100))
    await sink.emit_batch(make_events(100))

    assert len(await stored_events(plain_url)) == 100
    await sink.aclose()


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_contention_is_tried_again_at_once(plain_url: str, state: str) -> None:
    """A deadlock or serialization failure is retried at once, without an error for the caller."""
    await raise_from_table(plain_url, "nextval('tries') <= 2", state)
    sink = PostgresSink(plain_url)
    await sink.emit_batch(make_events(3))

    assert len(await stored_events(plain_url)) == 3
    await sink.aclose()


@pytest.mark.parametrize("state", ["53100", "57P03", "58030", "08006", "55P03", "25006", "28000", "42501", "XX001"])
async def test_outage_rejects_nothing(plain_url: str, state: str) -> None:
    """A full disk or a missing permission is retried without limit, and recovers by itself."""
    await raise_from_table(plain_url, "nextval('tries') <= 6", state)
    sink = PostgresSink(plain_url)
    for _ in range(6):
        with pytest.raises(SinkUnavailable, match=f"SQLSTATE {state}"):
            await sink.emit(make_event(1))
    await sink.emit(make_event(1))

    assert (len(await stored_events(plain_url)), sink.rejected) == (1, 0)
    await sink.aclose()


@pytest.mark.parametrize("state", ["P0001", "XX000", "2F000"])
async def test_unknown_error_is_held_for_a_while(plain_url: str, state: str) -> None:
    """An unknown error is an outage first; if it persists, the one event that causes it is rejected."""
    await raise_from_table(plain_url, "EXISTS (SELECT FROM added WHERE event_id = 7)", state)
    sink = PostgresSink(plain_url)
    for _ in range(3):
        with pytest.raises(SinkUnavailable, match=f"SQLSTATE {state}"):
            await sink.emit_batch(make_events(20))
    with pytest.raises(EventsRejected) as rejection:
        await sink.emit_batch(make_events(20))

    assert [*rejection.value.reasons] == [6]
    assert len(await stored_events(plain_url)) == 19
    await sink.aclose()


async def test_server_outage_and_return(own_postgres: PostgresServer) -> None:
    """While the server is down every emit says so without its password; later the same sink continues."""
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
    """A wrong password is an outage with a remedy, and without a secret in the message."""
    sink = PostgresSink.from_url(f"postgresql://postgres:wrong-secret@127.0.0.1:{own_postgres.port}/postgres")
    with pytest.raises(SinkUnavailable, match="the password is wrong") as outage:
        await sink.emit(make_event(1))

    assert "wrong-secret" not in str(outage.value)
    await sink.aclose()


async def test_refused_setting_is_no_fault_of_an_event(plain_url: str) -> None:
    """A setting that the server refuses on connect has the SQLSTATE of a bad row, and rejects no event."""
    sink = PostgresSink.from_url(f"{plain_url}?statement_timeout=soon")
    with pytest.raises(SinkUnavailable, match="SQLSTATE 22023"):
        await sink.emit(make_event(1))
    await sink.aclose()
