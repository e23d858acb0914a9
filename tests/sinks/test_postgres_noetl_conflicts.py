"""NoETL's own table: an event with an existing key is compared with the row of NoETL's own writers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from consumers.sinks.postgres import PostgresSink
from noetl_events.testing import make_event
from tests.sinks.conflicts import another, emit
from tests.sinks.postgres_database import execute
from tests.sinks.test_postgres_noetl import TABLE as NOETL_TABLE


class TestRowsOfNoetl:
    """Rows of NoETL's own writers for the same events."""

    @pytest.fixture(autouse=True)
    async def _table(self, database_url: str) -> None:
        self.database = database_url
        await execute(database_url, NOETL_TABLE + "INSERT INTO noetl.catalog VALUES (7, 'some/playbook')")
        self.sink = PostgresSink.from_url(f"{database_url}?mapping=noetl")

    async def write(self, **changes: str) -> None:
        """Write event 1 as NoETL's shared normalizer does, with *changes* as SQL."""
        values = {
            "execution_id": "478775660589088776",
            "catalog_id": "7",
            "event_id": "1",
            "created_at": "'2026-05-31 03:14:15.124456'",
            "event_type": "'command.completed'",
            "node_id": "'fetch_calendar'",
            "node_name": "'fetch_calendar'",
            "status": "'COMPLETED'",
            "result": """'{"status": "COMPLETED", "context": {"result": {"items": 1}}}'""",
            "meta": """'{"catalog_id": 7, "worker_id": "worker-7", "actionable": true, "informative": true}'""",
        } | changes
        columns, row = ", ".join(values), ", ".join(values.values())
        await execute(self.database, f"INSERT INTO noetl.event ({columns}) VALUES ({row})")

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({}, id="as the normalizer does"),
            pytest.param({"created_at": "'2026-05-31 03:14:15.124'"}, id="milliseconds"),
            pytest.param({"created_at": "'2026-05-31 03:14:15.301777'"}, id="time of arrival"),
            pytest.param({"created_at": "DEFAULT"}, id="time of the database"),
            pytest.param({"status": "NULL"}, id="no status"),
            pytest.param({"node_name": "NULL"}, id="no step by name"),
            pytest.param({"node_name": "NULL", "node_id": "NULL"}, id="no step"),
            pytest.param(
                {"created_at": "DEFAULT", "result": """'{"status": "COMPLETED", "reference": {"key": 1}}'"""},
                id="payload elsewhere",
            ),
            pytest.param({"created_at": "DEFAULT", "meta": "NULL"}, id="no worker"),
        ],
    )
    async def test_same_event(self, changes: dict[str, str]) -> None:
        """A row matches its event despite omitted, truncated or moved fields; another event is still a conflict."""
        await self.write(**changes)

        assert await emit(self.sink, [make_event(1, meta={"catalog_id": 7})]) == {}
        assert [*await emit(self.sink, [another(1, meta={"catalog_id": 7})])] == [0]
        assert (self.sink.inserted, self.sink.variants) == (0, 0)
        await self.sink.aclose()

    @pytest.mark.parametrize(
        ("written", "emitted"),
        [
            pytest.param({"created_at": "'2026-05-31 03:14:15.124'"}, {"worker_id": "worker-8"}, id="worker"),
            pytest.param({"created_at": "'2026-05-31 03:14:15.124'"}, {"context": {"x": 1}}, id="payload"),
            pytest.param({"created_at": "'2026-05-31 03:14:15.124'"}, {"status": "FAILED"}, id="status"),
            pytest.param(
                {}, {"created_at": make_event(1).created_at + timedelta(microseconds=300)}, id="of the same millisecond"
            ),
            pytest.param(
                {"created_at": "DEFAULT", "result": """'{"status": "COMPLETED"}'"""},
                {},
                id="payload that was an object",
            ),
        ],
    )
    async def test_another_event(self, written: dict[str, str], emitted: dict[str, Any]) -> None:
        """The row of another event is told apart."""
        await self.write(**written)

        assert [*await emit(self.sink, [make_event(1, meta={"catalog_id": 7}, **emitted)])] == [0]
        await self.sink.aclose()
