"""The comparison of a stream with a destination: every fault is found, and no correct row is reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from noetl_events import SinkUnavailable, encode
from noetl_events.jetstream.errors import StreamMissing
from noetl_events.testing import make_event
from tests.jetstream.past import publish
from tests.verify.bodies import BODIES, carry, sequences, verify

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection
    from noetl_events.jetstream.declarations import StreamDeclaration
    from tests.verify.conftest import Table


@pytest.fixture(params=["sqlite", "postgres"])
def table(request: pytest.FixtureRequest, sqlite_table: Table, postgres_table: Table) -> Table:
    """Return a destination with rows that can be changed by hand."""
    return {"sqlite": sqlite_table, "postgres": postgres_table}[request.param]


@pytest.fixture(params=["sqlite", "postgres", "jsonl"])
def url(request: pytest.FixtureRequest, sqlite_table: Table, postgres_table: Table, tmp_path: Path) -> str:
    """Return the URL of a destination of each kind."""
    urls = {"sqlite": sqlite_table.url, "postgres": postgres_table.url, "jsonl": f"jsonl://{tmp_path}/events.jsonl"}
    return urls[request.param]


async def test_complete_destination_is_complete(connection: Connection, stream: StreamDeclaration, url: str) -> None:
    """An event is complete in every form in which a destination writes it."""
    await carry(connection, stream.name, url)
    found = await verify(connection, stream.name, url)

    assert found.examples == {}
    assert (found.events, found.rows, found.last_sequence) == (13, 13, 13)
    assert found.is_complete


async def test_empty_destination_misses_all(connection: Connection, stream: StreamDeclaration, table: Table) -> None:
    """An empty destination misses every event."""
    await carry(connection, stream.name, table.url)
    await table.change("DELETE FROM {}")
    found = await verify(connection, stream.name, table.url)

    assert (found.events, found.rows, found.missing) == (13, 0, 13)
    assert sequences(found, "missing") == [*range(1, 11)]


async def test_deleted_row_is_missing(connection: Connection, stream: StreamDeclaration, table: Table) -> None:
    """The first, a middle and the last row, deleted by hand, are reported."""
    await carry(connection, stream.name, table.url)
    await table.change(f"DELETE FROM {{}} WHERE event_id IN (1, 5, {-(2**63)})")
    found = await verify(connection, stream.name, table.url)

    assert (found.events, found.rows, found.missing, found.different) == (13, 10, 3, 0)
    assert sequences(found, "missing") == [1, 5, 13]
    assert not found.is_complete


@pytest.mark.parametrize(
    "change",
    [
        "event_type = 'command.Completed'",
        "step = 'x'",
        "status = ''",
        "created_at = '2026-05-31T03:14:15.128457Z'",
        """context = '{"result": {"items": 6}}'""",
        """context = '{"result": {"items": "5"}}'""",
        """context = '{"result": {"items": 5.0000000000000000000001}}'""",
        "worker_id = NULL",
        "meta = NULL",
        """meta = '{"attempts": 0, "x": null}'""",
    ],
)
async def test_changed_row_is_different(
    connection: Connection, stream: StreamDeclaration, table: Table, change: str
) -> None:
    """A row changed by hand in any of its fields is reported, and only that one."""
    await carry(connection, stream.name, table.url)
    await table.change(f"UPDATE {{}} SET {change} WHERE event_id = 5")
    found = await verify(connection, stream.name, table.url)

    assert (found.events, found.rows, found.missing, found.different) == (13, 13, 0, 1)
    assert sequences(found, "different") == [5]
    assert not found.is_complete


@pytest.mark.parametrize(
    "change",
    [
        """context = '{"result": {"items": 5.0}}'""",
        """context = ' { "result" : {"items":\n50e-1} } '""",
        """meta = '{"attempts":-0}'""",
        "created_at = '2026-05-31T05:14:15.128456+02:00'",
    ],
)
async def test_same_meaning_is_no_difference(
    connection: Connection, stream: StreamDeclaration, table: Table, change: str
) -> None:
    """A row with the same meaning in another form is correct."""
    await carry(connection, stream.name, table.url)
    await table.change(f"UPDATE {{}} SET {change} WHERE event_id = 5")

    assert (await verify(connection, stream.name, table.url)).is_complete


async def test_key_changed_by_hand(connection: Connection, stream: StreamDeclaration, table: Table) -> None:
    """A row under another key is missing in its place, and extra in the other."""
    await carry(connection, stream.name, table.url)
    await table.change("UPDATE {} SET execution_id = 99 WHERE event_id = 5")
    found = await verify(connection, stream.name, table.url)

    assert (found.rows, found.missing, found.different, found.extra) == (12, 1, 0, 1)
    assert [(row.execution_id, row.event_id) for row in found.examples["extra"]] == [(99, 5)]


async def test_part_is_compared_with_its_rows(connection: Connection, stream: StreamDeclaration, table: Table) -> None:
    """Rows of events before the range are extra, which is no fault; within the range every row counts."""
    await carry(connection, stream.name, table.url)
    await table.change("UPDATE {} SET step = 'x' WHERE event_id IN (2, 9)")
    early = await verify(connection, stream.name, table.url, start=10)
    late = await verify(connection, stream.name, table.url, start=9)

    assert (early.events, early.rows, early.extra, early.different) == (4, 4, 9, 0)
    assert early.is_complete
    assert (late.events, late.extra, sequences(late, "different")) == (5, 8, [9])


async def test_doubled_line_is_a_duplicate(connection: Connection, stream: StreamDeclaration, tmp_path: Path) -> None:
    """An event twice in a file is reported, and requires no rebuild; with a changed copy it does."""
    path = tmp_path / "events.jsonl"
    await carry(connection, stream.name, f"jsonl://{path}")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[3]]))
    doubled = await verify(connection, stream.name, f"jsonl://{path}")
    path.write_bytes(b"".join([*lines, lines[3].replace(b"COMPLETED", b"FAILED")]))
    changed = await verify(connection, stream.name, f"jsonl://{path}")

    assert (doubled.events, doubled.rows, doubled.duplicates, doubled.different) == (13, 14, 1, 0)
    assert sequences(doubled, "duplicates") == [4]
    assert doubled.is_complete
    assert (changed.duplicates, changed.different) == (1, 1)


async def test_key_sent_twice(connection: Connection, stream: StreamDeclaration, table: Table) -> None:
    """An event stored twice in the stream is one event; if its two bodies are variants the row may be either."""
    await carry(connection, stream.name, table.url, [BODIES[0], BODIES[0], encode(make_event(1, status="mended"))])
    first = await verify(connection, stream.name, table.url)
    await table.change("UPDATE {} SET status = 'mended'")
    second = await verify(connection, stream.name, table.url)
    await table.change("UPDATE {} SET step = 'x'")
    third = await verify(connection, stream.name, table.url)

    assert (first.events, first.rows, first.variants, first.conflicts, first.is_complete) == (1, 1, 1, 0, True)
    assert (second.events, second.is_complete) == (1, True)
    assert (third.different, sequences(third, "different")) == (1, [1])


async def test_examples_are_few(connection: Connection, stream: StreamDeclaration, sqlite_table: Table) -> None:
    """All faults are counted, and the first ten are reported in stream order."""
    await publish(connection, f"{stream.name}.x", [encode(make_event(number)) for number in range(3_000, 0, -1)])
    await carry(connection, stream.name, sqlite_table.url, [])
    await sqlite_table.change("UPDATE {} SET step = 'x'")
    found = await verify(connection, stream.name, sqlite_table.url)

    assert (found.events, found.different) == (3_000, 3_000)
    assert sequences(found, "different") == [*range(1, 11)]


async def test_row_that_is_no_event(connection: Connection, stream: StreamDeclaration, sqlite_table: Table) -> None:
    """A row with any other content is different, and breaks nothing."""
    await carry(connection, stream.name, sqlite_table.url)
    for number, value in enumerate(("'{'", "x'ff00'", "CAST(x'ff' AS TEXT)", "'1e99999999999'", "''", "5"), start=1):
        await sqlite_table.change(f"UPDATE {{}} SET context = {value} WHERE event_id = {number}")
    await sqlite_table.change(
        "UPDATE {} SET context = printf('%s%s', '[', replace(hex(zeroblob(999)), '0', '[')) WHERE event_id = 7"
    )
    await sqlite_table.change("UPDATE {} SET created_at = 'yesterday' WHERE event_id = 8")
    await sqlite_table.change("UPDATE {} SET created_at = '2026-05-31 03:14:15.132456' WHERE event_id = 9")
    found = await verify(connection, stream.name, sqlite_table.url)

    assert sequences(found, "different") == [1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01", "0044-03-15 BC"])
async def test_time_that_python_has_not(
    connection: Connection, stream: StreamDeclaration, postgres_table: Table, moment: str
) -> None:
    """A time that only Postgres can represent is a difference like any other."""
    await carry(connection, stream.name, postgres_table.url)
    await postgres_table.change(f"UPDATE {{}} SET created_at = '{moment}' WHERE event_id = 5")

    assert sequences(await verify(connection, stream.name, postgres_table.url), "different") == [5]


async def test_unreadable_destination_is_named(
    connection: Connection, stream: StreamDeclaration, postgres_url: str, sqlite_table: Table, tmp_path: Path
) -> None:
    """A missing table, file or server is reported in one line, and none is created."""
    for url, reason in (
        (postgres_url, "SQLSTATE .*; run `noetl-events schema URL`"),
        ("postgresql://127.0.0.1:1/x", "127.0.0.1"),
        (sqlite_table.url, "unable to open"),
        (f"jsonl://{tmp_path}/nothing.jsonl", "No such file"),
    ):
        with pytest.raises(SinkUnavailable, match=reason):
            await verify(connection, stream.name, url)
    assert await asyncio.to_thread(lambda: [*tmp_path.iterdir()]) == []


async def test_missing_stream_is_an_error(connection: Connection, sqlite_table: Table) -> None:
    """Without a stream the comparison is an error."""
    with pytest.raises(StreamMissing):
        await verify(connection, "nowhere", sqlite_table.url)
