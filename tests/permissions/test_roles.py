"""Each role does its whole job with exactly its printed permissions, and uses every one of them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from nats.js.api import ConsumerConfig

from consumers.backfill import Rebuild
from consumers.dead_letters.resend import Resending
from consumers.dead_letters.store import DeadLetterReader, LetterFilter
from consumers.permissions import Rights, RoleContext, grants_of, rights_of
from consumers.projector.service import Service
from consumers.settings import ProjectorSettings, Settings
from consumers.sinks.postgres import create_schema
from consumers.verification.verify import Verification
from noetl_events import SinkUnavailable, encode
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.consume.ephemeral import EphemeralConsumer
from noetl_events.jetstream.consume.history import History, Span
from noetl_events.jetstream.declarations import DEAD_LETTERS, DEAD_STREAM, EVENTS_STREAM, TRIALS, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.sink import open_sink
from noetl_events.sinks.nats import SUBJECT_BY_EXECUTION, NatsSink
from noetl_events.testing import eventually, make_event, make_events
from tests.gateway.gateway_process import body_of
from tests.gateway.gateway_process import serving as serving_gateway
from tests.permissions.guarded import Guarded, guarded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection

INBOX = "_INBOX_private"


async def publish(connection: Connection) -> None:
    """Do every action of a publisher: a lone event, a batch, and the check of a spool."""
    sink = NatsSink(connection, timeout=60.0)
    await sink.emit(make_event(1))
    await sink.emit_batch([make_event(number) for number in range(2, 22)])
    await sink.watermark()
    await sink.aclose()


async def test_publisher(tmp_path: Path) -> None:
    """A publisher with a spool needs exactly the permissions of its role."""
    with guarded(tmp_path, RoleContext(inbox_prefix=INBOX, spool=True)) as server:
        await server.prepare()
        async with server.connected("publisher") as connection:
            await publish(connection)
            unused = await server.unused("publisher", connection)

        assert (server.violations, unused) == ([], set())


async def test_one_right_less_is_missed(tmp_path: Path) -> None:
    """A role without one of its permissions fails, and the server's log shows it, so the other tests can detect it."""
    work = RoleContext(inbox_prefix=INBOX, spool=True)
    publish_rights, subscribe_rights = rights_of("publisher", work)
    less = Rights(tuple(right for right in publish_rights if right.subject != "noetl.events.>"), subscribe_rights)
    with guarded(tmp_path, work, rights={"publisher": less}) as server:
        await server.prepare()
        async with server.connected("publisher") as connection:
            with pytest.raises(SinkUnavailable):
                await publish(connection)

        assert "noetl.events." in server.violations[0]


@pytest.fixture
async def projector_url(database_url: str) -> AsyncIterator[str]:
    """Return a database with the table, for a role with only the grants printed for a projector."""
    await create_schema(database_url)
    parts = urlsplit(database_url)
    name = f"projector {parts.path[1:]}"
    url = parts._replace(netloc=f"{name.replace(' ', '%20')}:pw@{parts.hostname}:{parts.port}").geturl()
    admin = await asyncpg.connect(database_url)
    await admin.execute(
        f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'pw'; REVOKE ALL ON DATABASE {parts.path[1:]} FROM PUBLIC"
    )
    await admin.execute(grants_of("projector", url))
    yield url
    await admin.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"')
    await admin.close()


@asynccontextmanager
async def projecting(connection: Connection, work: RoleContext, url: str) -> AsyncIterator[Service]:
    """Run a projector as `noetl-events project` does."""
    projector = ProjectorSettings(ack_wait=2.0, watch_max_deliver=work.watch_max_deliver)
    settings = Settings(connect=connection.options, stream=work.stream, projector=projector)
    service = Service(settings, connection, [url], durable=work.durable)
    running = asyncio.create_task(service.worker.run())
    try:
        yield service
        await service.worker.stop()
        async with asyncio.timeout(180):
            await running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await service.aclose()


async def stored(owner: Connection) -> int:
    """Return the number of dead letters."""
    return (await show_stream(owner, DEAD_STREAM)).state.messages


async def settled(service: Service, count: int) -> bool:
    """Return true if *count* events were stored or dead-lettered."""
    return sum(progress.stored + progress.dead_letters for progress in service.progress.values()) >= count


async def exhaust(owner: Connection) -> None:
    """Let a foreign consumer give up on a message."""
    js = await jetstream(owner)
    config = ConsumerConfig(durable_name="theirs", max_deliver=1, ack_wait=0.1)
    theirs = await js.pull_subscribe("", durable="theirs", stream=EVENTS_STREAM, config=config)
    await theirs.fetch(1, timeout=60)
    with suppress(TimeoutError):
        await theirs.fetch(100, timeout=0.3)
    with suppress(TimeoutError):
        await theirs.fetch(100, timeout=0.5)


async def leave_unacknowledged(owner: Connection, name: str) -> None:
    """Have the consumer's unacknowledged messages redelivered, as after the death of a projector."""
    js = await jetstream(owner)
    theirs = await js.pull_subscribe_bind(name, EVENTS_STREAM)
    for message in await theirs.fetch(5, timeout=60):
        await message.nak()
    await theirs.unsubscribe()


async def pass_over(owner: Connection, name: str) -> None:
    """Move the consumer by hand, so that it skips the next messages."""
    seq = (await show_stream(owner, EVENTS_STREAM)).state.last_seq + 5
    client = await owner.client()
    await client.request(owner.api(f"CONSUMER.RESET.{EVENTS_STREAM}.{name}"), b'{"seq":%d}' % seq)


@pytest.mark.parametrize(
    ("partitions", "config"),
    [
        pytest.param(0, "", id="plain"),
        pytest.param(2, "feature_flags { js_ack_fc_v2: true }", id="lanes, and acks of version 2"),
    ],
)
async def test_projector(tmp_path: Path, projector_url: str, partitions: int, config: str) -> None:
    """A projector into Postgres dead-letters, tests suspects, handles exhausted messages, and shares partitions."""
    stream = StreamDeclaration(partitions=partitions)
    with guarded(tmp_path, projector_work(stream, projector_url), config=config) as server:
        await server.prepare()
        async with server.connected("owner") as owner, server.connected("projector") as connection:
            await project(server, owner, connection, projector_url)
            unused = await server.unused("projector", connection)

        version = "to acknowledge messages" if partitions else "to acknowledge messages with acks of version 2"
        assert (server.violations, unused) == ([], {version})


def projector_work(stream: StreamDeclaration, url: str) -> RoleContext:
    """Return the parts of a projector."""
    options = ConnectOptions(inbox_prefix=INBOX)
    projector = ProjectorSettings(to=(url,), ack_wait=2.0, watch_max_deliver=True)
    settings = Settings(connect=options, stream=stream, projector=projector)
    return RoleContext.of(settings)


async def project(server: Guarded, owner: Connection, connection: Connection, url: str) -> None:
    """Do every action of a projector."""
    sink = NatsSink(owner, subject=SUBJECT_BY_EXECUTION)
    js = await jetstream(owner)
    async with projecting(connection, server.work, url) as service:
        await sink.emit_batch(make_events(20))
        await js.publish("noetl.events.1.bad", b"no event")
        await js.publish("noetl.events.1.bad", encode(make_event(99, step="\0")))
        await eventually(lambda: settled(service, 22))
        await exhaust(owner)
        await service.stream_monitor._check_all()
        await eventually(lambda: is_at_least(owner, 3))
    if not server.work.stream.partitions:
        async with projecting(connection, server.work, url) as service:
            await eventually(lambda: service.report().ready)
            await pass_over(owner, server.work.durable)
            await sink.emit_batch([make_event(number) for number in range(50, 60)])
            await eventually(lambda: settled(service, 10))
        await sink.emit_batch([make_event(number) for number in range(100, 105)])
        await leave_unacknowledged(owner, server.work.durable)
        async with projecting(connection, server.work, url) as service:
            await eventually(lambda: settled(service, 5))
    await sink.aclose()


async def is_at_least(owner: Connection, count: int) -> bool:
    """Return true if there are *count* dead letters."""
    return await stored(owner) >= count


async def test_gateway(tmp_path: Path) -> None:
    """A gateway accepts events, streams, looks up executions, and shows dead letters."""
    with guarded(tmp_path, RoleContext(inbox_prefix=INBOX)) as server:
        await server.prepare()
        async with server.connected("owner") as owner, server.connected("gateway") as connection:
            await publish_dead(owner)
            async with serving_gateway(connection, server.work.stream) as web:
                await eventually(lambda: not web.gateway.hub.reason)
                answers = [
                    await web.post("/api/events", body_of(1)),
                    await web.get("/api/executions/1"),
                    await web.get("/api/status"),
                    await web.get("/api/dead"),
                ]
                async with web.session.get(f"{web.url}/api/events/stream?from=1") as stream:
                    await stream.content.readuntil(b"\n\n")
                for name in (EVENTS_STREAM, DEAD_STREAM):
                    await wait_for_nothing(connection, name)
            unused = await server.unused("gateway", connection)

        assert [status for status, _ in answers] == [200] * 4
        assert (server.violations, unused) == ([], set())


async def wait_for_nothing(connection: Connection, stream: str) -> None:
    """Read behind the end of *stream* until a heartbeat triggers another count."""
    consumer = EphemeralConsumer(connection, stream, heartbeat=0.1, follows=True)
    await consumer.open(start=1_000_000)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await consumer.pull(1)
    await consumer.aclose()


async def publish_dead(owner: Connection) -> None:
    """Store two dead letters."""
    js = await jetstream(owner)
    for number in (1, 2):
        headers = {"Noetl-Subject": "noetl.events.x", "Noetl-Kind": "rejected", "Noetl-Sequence": str(number)}
        await js.publish("noetl.dead.rejected", encode(make_event(number)), headers=headers)


async def test_admin(tmp_path: Path) -> None:
    """An administrator creates and shows streams, handles dead letters, verifies and rebuilds."""
    with guarded(tmp_path, RoleContext(inbox_prefix=INBOX)) as server:
        async with server.connected("owner") as owner, server.connected("admin") as connection:
            for declared in (server.work.stream, DEAD_LETTERS, TRIALS):
                await ensure_stream(connection, declared)
                await disable_batches(owner, declared.name)
                await ensure_stream(connection, declared, upgrade=True)
            await publish_dead(owner)
            await administer(connection, f"sqlite:///{tmp_path}/events.db")
            unused = await server.unused("admin", connection)

        assert (server.violations, unused) == ([], set())


async def disable_batches(owner: Connection, name: str) -> None:
    """Give the stream the configuration of an older server."""
    js = await jetstream(owner)
    await js.update_stream((await js.stream_info(name)).config.evolve(allow_batched=False))


async def administer(connection: Connection, url: str) -> None:
    """Do every action of an administrator after `stream ensure`."""
    for name in (EVENTS_STREAM, DEAD_STREAM, TRIALS.name):
        await show_stream(connection, name)
    graveyard = DeadLetterReader(connection)
    async with aclosing(graveyard.letters(LetterFilter())) as letters:
        found: list[Any] = [letter async for letter in letters]
    outcome = await Resending(connection, graveyard).retry(1)
    removed = await graveyard.remove(2)
    sink = open_sink(url)
    async with History(connection, Span(stream=EVENTS_STREAM)) as history:
        rebuilt = await Rebuild(history, sink).run()
    await sink.aclose()
    verified = await Verification(connection, Span(stream=EVENTS_STREAM), url).run()
    for name in (EVENTS_STREAM, DEAD_STREAM):
        await wait_for_nothing(connection, name)

    assert (len(found), outcome.outcome, removed) == (2, "retried", True)
    assert (rebuilt.stored, verified.is_complete) == (1, True)
