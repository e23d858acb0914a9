"""Postgres: the contract, existing rows, and rows that the table refuses."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Raw

from consumers.sinks.postgres import PostgresSink, create_schema
from noetl_events import EventsRejected, ExecutorEvent, SinkUnavailable
from noetl_events.testing import SinkContract, eventually, make_event, make_events
from tests.sinks.postgres_database import execute, fetch, is_left_alone, stored_events

if TYPE_CHECKING:
    from noetl_events import EventSink

NUL = Raw(b'{"text": "\\u0000"}')


class TestPostgresSink(SinkContract):
    """PostgresSink keeps the contract of a sink."""

    keyed = True

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
        """A batch of 1,000 with one row that jsonb refuses leaves 999 stored and one rejected with its SQLSTATE."""
        events = make_events(1_000)
        events[place] = make_event(place + 1, context=NUL)
        sink = self.open()
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch(events)

        assert [*rejection.value.reasons] == [place]
        assert rejection.value.reasons[place].startswith("SQLSTATE 22P05")
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

    async def test_row_that_breaks_a_constraint(self) -> None:
        """A row that breaks a constraint of the table is rejected alone, its neighbours are stored."""
        await execute(self.url, "ALTER TABLE noetl.event ADD CONSTRAINT no_seven CHECK (event_id <> 7)")
        sink = self.open()
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch(make_events(100))

        assert [*rejection.value.reasons] == [6]
        assert "no_seven" in rejection.value.reasons[6]
        await self.assert_stored([event for event in make_events(100) if event.event_id != 7])
        await sink.aclose()

    async def test_row_refused_on_the_way_from_the_staging_table(self) -> None:
        """A row refused in the second step has no line number, so bisection finds it."""
        await execute(self.url, "ALTER TABLE noetl.event ADD CONSTRAINT no_seven CHECK (event_id <> 7)")
        sink = self.open()
        await sink.emit(make_event(1))
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch(make_events(100))

        assert [*rejection.value.reasons] == [6]
        await self.assert_stored([event for event in make_events(100) if event.event_id != 7])
        await sink.aclose()

    async def test_every_row_refused_is_a_fault_of_the_table(self) -> None:
        """A batch with every event refused for one reason is retried, and stored once the table is repaired."""
        await execute(self.url, "ALTER TABLE noetl.event ADD CONSTRAINT nothing CHECK (event_id < 0)")
        sink = self.open()
        for _ in range(2):
            with pytest.raises(
                SinkUnavailable, match=r"none of 12 events .* 12 were refused for one reason: SQLSTATE 23514"
            ):
                await sink.emit_batch(make_events(12))
        await execute(self.url, "ALTER TABLE noetl.event DROP CONSTRAINT nothing")
        await sink.emit_batch(make_events(12))

        await self.assert_stored(make_events(12))
        await sink.aclose()

    async def test_few_rows_refused_are_faults_of_their_own(self) -> None:
        """A small batch of bad events is rejected, and does not block the next one."""
        sink = self.open()
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch([make_event(number, context=NUL) for number in range(9)])

        assert len(rejection.value.reasons) == 9
        await sink.aclose()

    async def test_what_became_of_each_event_is_counted(self) -> None:
        """The counts of inserted, existing and rejected events add up to those emitted."""
        sink = PostgresSink.from_url(self.url)
        await sink.emit_batch(make_events(10))
        with pytest.raises(EventsRejected):
            await sink.emit_batch([*make_events(15), make_event(16, context=NUL), make_event(17, context={1: 2})])

        assert (sink.inserted, sink.duplicates, sink.rejected) == (15, 10, 2)
        await sink.aclose()

    async def test_event_twice_in_one_batch(self) -> None:
        """An event twice in a batch is stored once."""
        sink = PostgresSink.from_url(self.url)
        await sink.emit_batch([*make_events(20), *make_events(10)])

        await self.assert_stored(make_events(20))
        assert (sink.inserted, sink.duplicates) == (20, 10)
        await sink.aclose()

    async def test_table_with_row_level_security(self) -> None:
        """A table without COPY, as with row-level security, is written all the same."""
        await execute(
            self.url,
            "DROP ROLE IF EXISTS projector; CREATE ROLE projector LOGIN PASSWORD 'x';"
            "GRANT USAGE ON SCHEMA noetl TO projector; GRANT SELECT, INSERT ON noetl.event TO projector;"
            "ALTER TABLE noetl.event ENABLE ROW LEVEL SECURITY; CREATE POLICY all_rows ON noetl.event USING (true)",
        )
        sink = PostgresSink.from_url(f"postgresql://projector:x@{self.url.rpartition('@')[2]}")
        await sink.emit_batch(make_events(3))

        await self.assert_stored(make_events(3))
        await sink.aclose()
        await execute(self.url, "DROP OWNED BY projector; DROP ROLE projector")

    async def test_double_of_another_index_is_not_swallowed(self) -> None:
        """A conflict with any other unique index is a rejection, and no row is dropped silently."""
        await execute(self.url, "CREATE UNIQUE INDEX ON noetl.event (step)")
        sink = self.open()
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch([make_event(1, step="a"), make_event(2, step="a"), make_event(3, step="b")])

        assert [*rejection.value.reasons] == [1]
        assert len(await self.stored()) == 2
        await sink.aclose()

    async def test_payload_of_every_kind(self) -> None:
        """Backslashes, tabs and line ends are preserved, in text and in JSON white space."""
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
        """Two projectors that insert the same events in opposite orders neither deadlock nor duplicate one."""
        # The inserts are slow enough for the two to meet in the middle.
        await execute(
            self.url,
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$;"
            "CREATE TRIGGER dawdle BEFORE INSERT ON noetl.event FOR EACH ROW EXECUTE FUNCTION dawdle()",
        )
        one, other = PostgresSink.from_url(self.url), PostgresSink.from_url(self.url)
        events = make_events(60)
        await asyncio.gather(one.emit_batch(events), other.emit_batch(events[::-1]))
        await one.aclose()
        await other.aclose()
        await eventually(lambda: is_left_alone(self.url))
        ((deadlocks,),) = await fetch(
            self.url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )

        await self.assert_stored(events)
        assert (one.inserted + other.inserted, one.duplicates + other.duplicates) == (60, 60)
        assert deadlocks == 0

    async def test_times_are_instants(self) -> None:
        """The stored time is the emitted instant, whatever the time zone of the database."""
        await execute(self.url, f"ALTER DATABASE {self.url.rpartition('/')[2]} SET TimeZone = 'Asia/Tokyo'")
        sink = self.open()
        await sink.emit(make_event(1))

        await self.assert_stored([make_event(1)])
        await sink.aclose()

    @pytest.mark.parametrize(
        "moment",
        [
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(2000, 1, 1, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        ],
        ids=str,
    )
    async def test_times_are_exact(self, moment: datetime) -> None:
        """A time is stored to the microsecond, however distant."""
        sink = self.open()
        await sink.emit(make_event(1, created_at=moment))

        await self.assert_stored([make_event(1, created_at=moment)])
        await sink.aclose()

    async def test_hand_made_event_is_looked_at(self) -> None:
        """An event built from raw JSON bytes is validated like any other; the rejection names its wrong field."""
        raw = Raw(b"{}")
        bad: dict[int, dict[str, Any]] = {
            1: {"step": 5},
            2: {"execution_id": "7"},
            3: {"execution_id": True},
            4: {"execution_id": 2**63},
            5: {"status": "\ud800"},
            6: {"worker_id": [1]},
        }
        sink = self.open()
        with pytest.raises(EventsRejected) as rejection:
            await sink.emit_batch(
                [make_event(number, context=raw, meta=raw, **bad.get(number, {})) for number in range(8)]
            )

        assert {number: reason.partition(":")[0] for number, reason in rejection.value.reasons.items()} == {
            number: next(iter(changes)) for number, changes in bad.items()
        }
        assert len(await self.stored()) == 2
        await sink.aclose()
