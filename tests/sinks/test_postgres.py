"""Postgres: the contract, one bad row among many, outages, and what only an operator can mend."""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from msgspec import Raw

from consumers.sinks.postgres import PostgresSink, create_schema
from consumers.sinks.postgres_table import TableMismatch
from noetl_events import EventsRejected, ExecutorEvent, SinkUnavailable
from noetl_events.testing import SinkContract, make_event, make_events

if TYPE_CHECKING:
    from noetl_events import EventSink
    from noetl_events.testing.postgres_server import PostgresServer

NUL = Raw(b'{"text": "\\u0000"}')


async def fetch(url: str, query: str) -> list[Any]:
    """Return the rows of *query*, read with a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = await connection.fetch(query)
    finally:
        await connection.close()
    return rows


async def execute(url: str, statement: str) -> None:
    """Run *statement* with a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def stored_events(url: str) -> list[ExecutorEvent]:
    """Return the events of the table, in the order they were inserted."""
    rows = await fetch(url, "SELECT * FROM noetl.event ORDER BY ctid")
    return [event_of(dict(row)) for row in rows]


def event_of(row: dict[str, Any]) -> ExecutorEvent:
    """Return the event a row holds; jsonb writes a blank after each comma and colon."""
    payloads = {name: row[name] and Raw(row[name].replace(": ", ":").replace(", ", ",").encode()) for name in PAYLOADS}
    return ExecutorEvent(**row | payloads | {"created_at": row["created_at"].astimezone(UTC)})


PAYLOADS = ("context", "meta")


class TestPostgresSink(SinkContract):
    """Every promise of a sink."""

    @pytest.fixture(autouse=True)
    async def _table(self, database_url: str) -> None:
        self.url = database_url
        await create_schema(self.url)

    def open(self) -> EventSink:
        """Return a new sink on the same table."""
        return PostgresSink.from_url(self.url)

    async def stored(self) -> list[ExecutorEvent]:
        """Return the rows of the table."""
        return await stored_events(self.url)

    @pytest.mark.parametrize("place", [0, 499, 999], ids=["first", "middle", "last"])
    async def test_one_row_postgres_refuses(self, place: int) -> None:
        """Of a batch of 1,000 with one row no jsonb takes, 999 are stored and one is rejected with its SQLSTATE."""
        events = make_events(1_000)
        events[place] = make_event(place + 1, context=NUL)
        sink = self.open()
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch(events)

        assert [*rejection.value.reasons] == [place + 1]
        assert rejection.value.reasons[place + 1].startswith("SQLSTATE 22P05")
        await self.assert_stored([event for event in events if event.event_id != place + 1])
        await sink.aclose()

    async def test_many_rows_postgres_refuses(self) -> None:
        """100 bad rows among 10,000 are rejected, each with its own reason, and the other 9,900 are stored."""
        events = make_events(10_000)
        for place in range(0, 10_000, 100):
            changes = {"context": NUL} if place % 200 else {"step": "\x00"}
            events[place] = make_event(place + 1, **changes)
        sink = self.open()
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch(events)
        reasons = rejection.value.reasons

        assert len(reasons) == 100
        assert {reason[:14] for reason in reasons.values()} == {"SQLSTATE 22P05", "SQLSTATE 22021"}
        assert len(await self.stored()) == 9_900
        await sink.aclose()

    async def test_row_refused_at_the_insert(self) -> None:
        """A row that passes COPY and breaks a constraint of the table has no line: it is found by halves."""
        await execute(self.url, "ALTER TABLE noetl.event ADD CONSTRAINT no_seven CHECK (event_id <> 7)")
        sink = self.open()
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch(make_events(100))

        assert [*rejection.value.reasons] == [7]
        assert "no_seven" in rejection.value.reasons[7]
        await self.assert_stored([event for event in make_events(100) if event.event_id != 7])
        await sink.aclose()

    async def test_double_of_another_index_is_not_swallowed(self) -> None:
        """A conflict with any other unique index is a rejection, not a row dropped in silence."""
        await execute(self.url, "CREATE UNIQUE INDEX ON noetl.event (step)")
        sink = self.open()
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch([make_event(1, step="a"), make_event(2, step="a"), make_event(3, step="b")])

        assert [*rejection.value.reasons] == [2]
        assert len(await self.stored()) == 2
        await sink.aclose()

    async def test_payload_of_every_kind(self) -> None:
        """Backslashes, tabs and line ends pass through COPY, in text as in JSON white space."""
        events = [
            make_event(1, step="a\\b\tc\nd\re\\N\\.", context=Raw(b'{"a":\t"x\\\\y\\n",\n"b":\r1}')),
            make_event(2, context="\\N", meta=None, worker_id="\\N"),
            make_event(3, context={"deep": [[[]]], "text": "\u2028 \\u0041"}),
        ]
        sink = self.open()
        await sink.emit_batch(events)
        rows = await fetch(
            self.url, "SELECT step, worker_id, context->>'a' AS a, meta FROM noetl.event ORDER BY event_id"
        )

        assert rows[0]["step"] == "a\\b\tc\nd\re\\N\\."
        assert rows[0]["a"] == "x\\y\n"
        assert (rows[1]["worker_id"], rows[1]["meta"]) == ("\\N", None)
        await sink.aclose()

    async def test_same_rows_from_two_sinks_at_once(self) -> None:
        """Two projectors that insert the same events in opposite orders neither lock up nor double one."""
        one, other = self.open(), self.open()
        events = make_events(2_000)
        for _ in range(5):
            await asyncio.gather(one.emit_batch(events), other.emit_batch(events[::-1]))
            await execute(self.url, "TRUNCATE noetl.event")
        await asyncio.gather(one.emit_batch(events), other.emit_batch(events[::-1]))

        assert len(await self.stored()) == 2_000
        await one.aclose()
        await other.aclose()

    async def test_times_are_instants(self) -> None:
        """Whatever zone the database lives in, the instant stored is the instant emitted."""
        await execute(self.url, f"ALTER DATABASE {self.url.rpartition('/')[2]} SET TimeZone = 'Asia/Tokyo'")
        sink = self.open()
        await sink.emit(make_event(1))

        await self.assert_stored([make_event(1)])
        await sink.aclose()

    async def test_lost_connection_is_replaced(self) -> None:
        """A backend that an operator ends is an outage of one emit."""
        sink = self.open()
        await sink.emit(make_event(1))
        await execute(
            self.url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'noetl-events' AND datname = current_database()",
        )
        with pytest.raises(SinkUnavailable):
            await sink.emit(make_event(2))
        await sink.emit(make_event(2))

        await self.assert_stored(make_events(2))
        await sink.aclose()

    async def test_slow_database_is_an_outage(self) -> None:
        """A transaction that passes its deadline is given up, and the same events go through later."""
        sink = PostgresSink(self.url, deadline=0.2)
        await sink.emit(make_event(1))
        blocker = await asyncpg.connect(self.url)
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE noetl.event IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(SinkUnavailable, match="TimeoutError"):
                await sink.emit(make_event(2))
        await blocker.close()
        await sink.emit(make_event(2))

        await self.assert_stored(make_events(2))
        await sink.aclose()


class TestSchema:
    """What an operator makes, and what a sink says while it is not there."""

    async def test_missing_table_is_named_with_its_remedy(self, database_url: str) -> None:
        """The sink creates nothing: it says what to run, and goes on once that was done."""
        sink = PostgresSink.from_url(database_url)
        with pytest.raises(SinkUnavailable, match="noetl-events schema"):
            await sink.emit(make_event(1))
        await create_schema(database_url)
        await sink.emit(make_event(1))

        assert len(await stored_events(database_url)) == 1
        await sink.aclose()

    async def test_is_created_once(self, database_url: str) -> None:
        """Creating what is there changes nothing."""
        await create_schema(database_url)
        sink = PostgresSink.from_url(database_url)
        await sink.emit(make_event(1))
        await create_schema(database_url)

        assert len(await stored_events(database_url)) == 1
        await sink.aclose()

    async def test_other_table_is_refused_with_the_difference(self, database_url: str) -> None:
        """A table of another shape is left as it is, and every difference is named."""
        await execute(database_url, "CREATE SCHEMA noetl; CREATE TABLE noetl.event (event_id text, extra int NOT NULL)")
        with pytest.raises(TableMismatch) as refusal:
            await create_schema(database_url)

        assert "event_id is text, not bigint" in str(refusal.value)
        assert "execution_id bigint is missing" in str(refusal.value)
        assert "extra is NOT NULL without a default" in str(refusal.value)
        assert "no primary key (execution_id, event_id)" in str(refusal.value)

    async def test_another_table_by_url(self, database_url: str) -> None:
        """`?table=` names another table, made and written under that name."""
        url = f"{database_url}?table=audit.events"
        await create_schema(url)
        sink = PostgresSink.from_url(url)
        await sink.emit(make_event(1))

        assert len(await fetch(database_url, "SELECT * FROM audit.events")) == 1
        await sink.aclose()

    @pytest.mark.parametrize("table", ["event", 'a."b"', "a.b; DROP TABLE x", "a.b.c", ""])
    def test_hostile_table_is_refused(self, table: str) -> None:
        """A table name is a name, never SQL."""
        with pytest.raises(ValueError, match=r"is not schema\.table"):
            PostgresSink("postgresql://localhost/x", table=table)


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
