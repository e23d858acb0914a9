"""The table of the Postgres sink: created by an operator, checked by the sink, and every difference reported."""

from __future__ import annotations

from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from consumers.sinks.postgres import PostgresSink, TableMismatch, create_schema
from noetl_events import SinkUnavailable
from noetl_events.testing import make_event
from tests.sinks.postgres_database import execute, fetch, stored_events


class TestSchema:
    """The table that an operator creates, and the sink's errors while it is missing."""

    async def test_missing_table_is_named_with_its_remedy(self, database_url: str) -> None:
        """The sink creates no table: it reports the command to run, and continues after that."""
        sink = PostgresSink.from_url(database_url)
        with pytest.raises(SinkUnavailable, match="noetl-events schema"):
            await sink.emit(make_event(1))
        await create_schema(database_url)
        await sink.emit(make_event(1))

        assert len(await stored_events(database_url)) == 1
        await sink.aclose()

    async def test_is_created_once(self, database_url: str) -> None:
        """Creating an existing table changes nothing."""
        await create_schema(database_url)
        sink = PostgresSink.from_url(database_url)
        await sink.emit(make_event(1))
        await create_schema(database_url)

        assert len(await stored_events(database_url)) == 1
        await sink.aclose()

    async def test_other_table_is_refused_with_the_difference(self, database_url: str) -> None:
        """A table of another shape stays unchanged, and every difference is reported."""
        await execute(database_url, "CREATE SCHEMA noetl; CREATE TABLE noetl.event (event_id text, extra int NOT NULL)")
        with pytest.raises(TableMismatch) as refusal:
            await create_schema(database_url)

        assert "event_id is text, not bigint" in str(refusal.value)
        assert "execution_id bigint is missing" in str(refusal.value)
        assert "extra is NOT NULL without a default" in str(refusal.value)
        assert "no primary key (execution_id, event_id)" in str(refusal.value)

    async def test_who_may_not_create_is_told_what_it_takes(self, database_url: str) -> None:
        """The remedy names the permission to create, not that of a projector; in an existing schema less is enough."""
        role = f"maker_{uuid4().hex}"
        await execute(database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'p'; CREATE SCHEMA audit")
        parts = urlsplit(database_url)
        url = parts._replace(netloc=f"{role}:p@{parts.netloc.rpartition('@')[2]}").geturl()
        with pytest.raises(SinkUnavailable, match="needs CREATE on the database"):
            await create_schema(url)
        await execute(database_url, f"GRANT USAGE, CREATE ON SCHEMA audit TO {role}")
        await create_schema(f"{url}?table=audit.event")

    async def test_another_table_by_url(self, database_url: str) -> None:
        """`?table=` names another table, which is created and written under that name."""
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

    async def test_plain_columns_besides_are_welcome(self, database_url: str) -> None:
        """Columns that are nullable or have a default are no difference."""
        await create_schema(database_url)
        await execute(
            database_url,
            "ALTER TABLE noetl.event ADD note text, ADD stored_at timestamptz NOT NULL DEFAULT now(), "
            "ADD number bigint NOT NULL GENERATED ALWAYS AS IDENTITY",
        )
        await create_schema(database_url)
        sink = PostgresSink.from_url(database_url)
        await sink.emit(make_event(1))

        assert len(await stored_events(database_url)) == 1
        await sink.aclose()

    @pytest.mark.parametrize(
        ("change", "difference"),
        [
            pytest.param("DROP COLUMN meta", "meta jsonb is missing", id="missing"),
            pytest.param("ALTER COLUMN context TYPE text", "context is text, not jsonb", id="type"),
            pytest.param("ALTER COLUMN created_at TYPE timestamp", "not timestamp with time zone", id="zone"),
            pytest.param("ALTER COLUMN worker_id SET NOT NULL", "worker_id is NOT NULL", id="required"),
            pytest.param("ADD COLUMN tenant text NOT NULL", "tenant is NOT NULL without a default", id="surplus"),
            pytest.param("DROP CONSTRAINT event_pkey", "no primary key (execution_id, event_id)", id="no key"),
        ],
    )
    async def test_difference_is_held_until_mended(self, database_url: str, change: str, difference: str) -> None:
        """A sink repeats the difference at each emit; once the table is repaired, the same sink continues."""
        await create_schema(database_url)
        await execute(database_url, f"ALTER TABLE noetl.event {change}")
        sink = PostgresSink.from_url(database_url)
        for _ in range(2):
            with pytest.raises(SinkUnavailable) as refusal:
                await sink.emit(make_event(1))

            assert difference in str(refusal.value)
        await execute(database_url, "DROP TABLE noetl.event")
        await create_schema(database_url)
        await sink.emit(make_event(1))

        assert len(await stored_events(database_url)) == 1
        await sink.aclose()

    async def test_table_changed_under_the_sink(self, database_url: str) -> None:
        """A column dropped while the sink runs is reported by the second emit or earlier."""
        await create_schema(database_url)
        sink = PostgresSink.from_url(database_url)
        await sink.emit(make_event(1))
        await execute(database_url, "ALTER TABLE noetl.event DROP COLUMN meta")
        with pytest.raises(SinkUnavailable, match="SQLSTATE 42703"):
            await sink.emit(make_event(2))
        with pytest.raises(SinkUnavailable, match="meta jsonb is missing"):
            await sink.emit(make_event(2))
        await sink.aclose()

    @pytest.mark.parametrize("key", ["UNIQUE (event_id, execution_id)", "PRIMARY KEY (event_id, execution_id)"])
    async def test_key_in_another_order(self, database_url: str, key: str) -> None:
        """Any unique key of the two columns finds duplicates."""
        await create_schema(database_url)
        await execute(database_url, f"ALTER TABLE noetl.event DROP CONSTRAINT event_pkey, ADD {key}")
        sink = PostgresSink.from_url(database_url)
        await sink.emit(make_event(1))
        await sink.emit(make_event(1))

        assert len(await stored_events(database_url)) == 1
        await sink.aclose()

    async def test_partial_key_is_none(self, database_url: str) -> None:
        """A partial unique index does not find duplicates."""
        await create_schema(database_url)
        await execute(
            database_url,
            "ALTER TABLE noetl.event DROP CONSTRAINT event_pkey;"
            "CREATE UNIQUE INDEX ON noetl.event (execution_id, event_id) WHERE event_id > 0",
        )
        sink = PostgresSink.from_url(database_url)
        with pytest.raises(SinkUnavailable, match="no primary key"):
            await sink.emit(make_event(1))
        await sink.aclose()
