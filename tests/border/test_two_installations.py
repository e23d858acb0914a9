"""Two installations in one NATS account: names and subjects are settings, and neither sees the other."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing, suppress
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from consumers.dead_letters.store import DeadLetterReader, LetterFilter
from consumers.permissions import Role, RoleContext, rights_of
from consumers.projector.service import Service
from consumers.settings import Settings, load
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.storage import store
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer

ONE = {
    "NOETL_EVENT_STREAM": "one_events",
    "NOETL_EVENT_STREAM_SUBJECT": "one.events",
    "NOETL_DEAD_STREAM": "one_dead",
    "NOETL_DEAD_STREAM_SUBJECT": "one.dead",
    "NOETL_TRIALS_STREAM": "one_trials",
    "NOETL_TRIALS_STREAM_SUBJECT": "one.trials",
    "NOETL_PRESENCE_SUBJECT": "one.presence",
}
TWO = {name: value.replace("one", "two") for name, value in ONE.items()} | {"NOETL_EVENT_STREAM_PARTITIONS": "2"}


class Installation:
    """An installation with a projector into its own file."""

    def __init__(self, settings: Settings, connection: Connection, folder: Path) -> None:
        self.settings = settings
        self.connection = connection
        self.file = folder / f"{settings.stream.name}.db"
        self.service = Service(settings, connection, [f"sqlite:///{self.file}"], durable="projector")

    @asynccontextmanager
    async def projecting(self) -> AsyncIterator[None]:
        """Run the projector, and stop it in the end."""
        running = asyncio.create_task(self.service.worker.run())
        try:
            yield
            await self.service.worker.stop()
            await running
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await self.service.aclose()

    async def publish(self, start: int) -> None:
        """Publish ten events and a message that is no event."""
        sink = NatsSink(self.connection, subject=self.settings.stream.template)
        await sink.emit_batch(make_events(10, start=start))
        await sink.aclose()
        await store(self.connection, f"{self.settings.stream.prefix}.1.x", b"no event", {})

    def rows(self) -> list[int]:
        """Return the ids of the events stored."""
        with closing(sqlite3.connect(self.file)) as database:
            return [row[0] for row in database.execute("SELECT event_id FROM event ORDER BY event_id")]

    def settled(self) -> int:
        """Return the number of messages that are stored or dead-lettered."""
        return sum(each.stored + each.dead_letters for each in self.service.progress.values())

    async def letters(self) -> list[str]:
        """Return the subjects of the dead letters."""
        graveyard = DeadLetterReader(self.connection, stream=self.settings.dead_letters.name)
        return [letter.subject async for letter in graveyard.letters(LetterFilter())]


async def test_neither_sees_the_other(own_server: NatsServer, tmp_path: Path) -> None:
    """Each installation stores its own events and its own dead letters, one of them with partitions."""
    environs = [environ | {"NATS_URL": own_server.url} for environ in (ONE, TWO)]
    async with Connection(load(environs[0]).settings.connect) as connection:
        one, two = (Installation(load(environ).settings, connection, tmp_path) for environ in environs)
        for declared in (*one.settings.streams, *two.settings.streams):
            await ensure_stream(connection, declared)
        async with one.projecting(), two.projecting():
            await one.publish(1)
            await two.publish(101)
            await eventually(lambda: one.settled() == two.settled() == 11)
        letters = [await each.letters() for each in (one, two)]

    assert (one.rows(), two.rows()) == (list(range(1, 11)), list(range(101, 111)))
    assert [subject.split(".")[0] for [subject] in letters] == ["one", "two"]


@pytest.mark.parametrize("role", ["publisher", "projector", "gateway", "admin"])
def test_rights_follow_the_names(role: Role) -> None:
    """A role of one installation has no permission for another one, nor for one with the default names."""
    work = structs.replace(RoleContext.of(load(TWO).settings, spool=True), inbox_prefix="_INBOX_two")
    rights = rights_of(role, work)
    subjects = [right.subject for right in (*rights.publish, *rights.subscribe)]

    assert all("noetl_events" not in subject and "noetl." not in subject for subject in subjects), subjects
    assert all("two" in subject for subject in subjects if subject != "$JS.API.STREAM.NAMES"), subjects
