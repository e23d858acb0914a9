"""The doctor's findings about streams and consumers: each is provoked, and gone after its remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from consumers.doctor.check import MAKE_STREAMS, CheckContext, Finding
from consumers.doctor.run import examine
from consumers.doctor.stream import check_dead_letters
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consumers import ensure_consumer
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.probes import stream_of
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing.nats_server import NatsServer
from tests.doctor.conftest import make_context

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.msg import Msg


async def found(context: CheckContext, check: str) -> list[Finding]:
    """Return the findings of *check* that are not ok."""
    return [finding for finding in await examine(context) if finding.check == check and finding.severity != "ok"]


async def edit_stream(context: CheckContext, **changes: Any) -> None:
    """Edit the stream as `nats stream edit` does."""
    js = await jetstream(context.connection)
    config = (await js.stream_info(context.settings.stream.name)).config
    await js.update_stream(config.evolve(**changes))


async def edit_consumer(context: CheckContext, **changes: Any) -> None:
    """Edit the consumer as `nats consumer edit` does."""
    js = await jetstream(context.connection)
    stream, [consumer] = context.settings.stream.name, context.work.consumers
    config = (await js.consumer_info(stream, consumer.name)).config
    await js.add_consumer(stream, config.evolve(**changes))


async def test_well(well: CheckContext) -> None:
    """On a sound installation only the durability is unknown, until the monitoring URL is set."""
    findings = await examine(well)

    assert [(one.check, one.severity) for one in findings if one.severity != "ok"] == [("durability", "unknown")]
    assert len({one.check for one in findings}) == 14


async def test_examination_changes_nothing(well: CheckContext) -> None:
    """Testing every permission leaves streams and consumer unchanged."""
    js = await jetstream(well.connection)
    await js.publish(f"{well.settings.stream.name}.x", b"{}")

    async def state() -> list[Any]:
        names = (well.settings.stream.name, DEAD_LETTERS.name, TRIALS.name)
        states = [vars((await js.stream_info(name)).state) for name in names]
        consumer = await js.consumer_info(well.settings.stream.name, "projector")
        return [*states, consumer.delivered, consumer.ack_floor, consumer.num_pending, vars(consumer.config)]

    before = await state()
    for role in ("publisher", "projector", "gateway", "admin"):
        await examine(replace(well, role=role, work=structs.replace(well.work, spool=True)))
    assert await state() == before


@pytest.mark.parametrize(
    ("check", "wrong", "right", "severity", "remedy"),
    [
        pytest.param("stream", {"max_age": 90_000.0}, {"max_age": 86_400.0}, "fault", "RETENTION_SECS", id="drift"),
        pytest.param("discard", {"max_msgs": 9}, {"discard": "new"}, "fault", "--discard=new", id="discards old"),
        pytest.param(
            "duplicates",
            {"duplicate_window": 60.0},
            {"duplicate_window": 120.0},
            "warning",
            "--dupe-window=120s",
            id="d",
        ),
        pytest.param("retention", {"max_age": 3_600.0}, {"max_age": 86_400.0}, "fault", "--max-age=86400s", id="short"),
    ],
)
async def test_stream(
    well: CheckContext, check: str, wrong: dict[str, Any], right: dict[str, Any], severity: str, remedy: str
) -> None:
    """A stream that differs is a fault, and so is one that drops old messages, ids or new messages too early."""
    await edit_stream(well, **wrong)
    [finding] = await found(well, check)
    await edit_stream(well, **right)

    assert (finding.severity, remedy in finding.remedy) == (severity, True), finding
    assert await found(well, check) == []


async def test_full_stream_refuses(connection: Connection, well: CheckContext) -> None:
    """A stream with a size limit refuses further messages by its declaration, and the doctor reports ok."""
    name = f"{well.settings.stream.name}_sized"
    sized = StreamDeclaration(name=name, subjects=(f"{name}.>",), max_bytes=1_000_000)
    await ensure_stream(connection, sized)
    findings = await found(make_context(connection, sized), "discard")
    await (await jetstream(connection)).delete_stream(name)

    assert findings == []


@pytest.mark.parametrize("role", ["projector", "publisher"])
async def test_missing_streams(own_server: NatsServer, role: str) -> None:
    """Missing streams are faults, also for a publisher, which may not look them up; then they are created."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        context = make_context(connection, StreamDeclaration(), role=role)
        [finding] = await found(context, "stream")
        letters = await check_dead_letters(context)
        for declared in (StreamDeclaration(), DEAD_LETTERS, TRIALS):
            await ensure_stream(connection, declared)

        assert (finding.severity, finding.remedy) == ("fault", MAKE_STREAMS)
        assert [one.severity for one in letters] == (["fault"] * 2 if role == "projector" else [])
        assert await found(context, "stream") + await found(context, "dead letters") == []


@pytest.mark.parametrize(
    ("wrong", "right", "severity"),
    [
        pytest.param({"max_deliver": 5}, {"max_deliver": -1}, "fault", id="gives up"),
        pytest.param({"headers_only": True}, {"headers_only": None}, "fault", id="no bodies"),
        pytest.param({"ack_wait": 5.0}, {"ack_wait": 30.0}, "warning", id="another wait"),
    ],
)
async def test_consumer(well: CheckContext, wrong: dict[str, Any], right: dict[str, Any], severity: str) -> None:
    """A consumer that must not be read is a fault, one with other waits a warning; each names the field."""
    [field] = wrong
    await edit_consumer(well, **wrong)
    [finding] = await found(well, "consumer")
    await edit_consumer(well, **right)

    assert (finding.severity, "nats consumer edit" in finding.remedy) == (severity, True), finding
    assert f"{field}: " in finding.found
    assert await found(well, "consumer") == []


async def test_missing_consumer(well: CheckContext) -> None:
    """A missing consumer is a warning, because the projector creates it."""
    await (await jetstream(well.connection)).delete_consumer(well.settings.stream.name, "projector")
    [finding] = await found(well, "consumer")
    await ensure_consumer(well.connection, well.work.consumers[0])

    assert (finding.severity, finding.remedy) == ("warning", "start the projector, which creates it")
    assert await found(well, "consumer") == []


ACCOUNT = "accounts {{ A {{ jetstream: {}, users: [ {{user: a, password: a}} ] }} }}\nno_auth_user: a"


@pytest.mark.parametrize("role", ["projector", "publisher", "gateway", "admin"])
async def test_jetstream_is_switched_off(tmp_path: Path, role: str) -> None:
    """JetStream switched off for the account is one fault with its remedy, until it is back."""
    with NatsServer(store_dir=tmp_path, config=ACCOUNT.format("enabled")) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            await ensure_stream(connection, StreamDeclaration())
            context = make_context(connection, StreamDeclaration(), role=role)
            server.reload(ACCOUNT.format("disabled"))
            findings = await examine(context)
            server.reload(ACCOUNT.format("enabled"))
            after = await found(context, "jetstream")

    [fault] = [finding for finding in findings if finding.severity == "fault"]
    assert (fault.check, after) == ("jetstream", [])
    assert "JetStream is switched off for the account of these credentials" in fault.found
    assert "enable it there, or use the credentials of the account that has the streams" in fault.remedy


@pytest.mark.parametrize("role", ["projector", "publisher"])
async def test_server_without_jetstream(tmp_path: Path, role: str) -> None:
    """A server without JetStream is one fault, which names the server and the option to start it with."""
    with NatsServer(store_dir=tmp_path, jetstream=False) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            findings = await examine(make_context(connection, StreamDeclaration(), role=role))

    [fault] = [finding for finding in findings if finding.severity == "fault"]
    assert fault.check == "jetstream"
    assert "JetStream does not answer" in fault.found
    assert "start it with `jetstream {}`" in fault.remedy


@pytest.mark.parametrize("answer", [b'{"stream":"audit","seq":1}', b'{"seq":1}', b"OK", b"", b'{"error":{}}'])
@pytest.mark.parametrize("is_made", [True, False])
async def test_subscriber_is_not_taken_for_the_stream(own_server: NatsServer, answer: bytes, *, is_made: bool) -> None:
    """A subscriber that answers first hides neither the stream of a subject nor its absence."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        if is_made:
            await ensure_stream(connection, StreamDeclaration())

        async def take(message: Msg) -> None:
            if message.reply:
                await message.respond(answer)

        client = await connection.client()
        await client.subscribe("noetl.>", cb=take)
        await client.flush()
        takes = await stream_of(connection, "noetl.events.doctor")

    assert takes == (StreamDeclaration().name if is_made else "")
