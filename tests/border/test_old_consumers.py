"""Consumers on servers before 2.14: features of a newer one are refused, and skipped messages reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from consumers.doctor.stream import check_consumers
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.consumers import ensure_consumer
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, ConsumerDeclaration, StreamDeclaration
from noetl_events.jetstream.errors import ServerTooOld
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing.nats_server import NatsServer
from tests.border.lab import LOOK, Case, Lab, until
from tests.border.test_max_deliver import exhaust
from tests.doctor.conftest import make_context
from tests.old_servers import old_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATIENCE = 180.0


@pytest.fixture(params=["2.10", "2.12"])
async def old(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connection]:
    """Return a connection to a server of an older version, with the streams that a projector writes to."""
    with NatsServer(store_dir=tmp_path / "nats", binary=old_server(request.param)) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            for declared in (DEAD_LETTERS, TRIALS):
                await ensure_stream(connection, declared)
            yield connection


async def test_version_comes_first(old: Connection) -> None:
    """Partitions and `--standby` name their required version, and create nothing."""
    words = r"nats-server 2\.14 or newer is needed for {}, and this one is 2\.1[02]\.\d+: use a newer server"
    partitioned = StreamDeclaration(partitions=2)
    with pytest.raises(ServerTooOld, match=words.format("partitions")):
        await ensure_stream(old, partitioned)
    await ensure_stream(old, structs.replace(partitioned, partitions=0))
    for changes, feature in (({"exclusive": True}, "--standby"), ({"exclusive": True, "partitions": 2}, "partitions")):
        options: dict[str, Any] = changes
        with pytest.raises(ServerTooOld, match=words.format(feature)):
            await ensure_consumer(old, ConsumerDeclaration(name="x", **options))
    patient = make_context(old, partitioned)
    findings = await check_consumers(patient)

    assert {finding.severity for finding in findings} == {"fault"}
    assert all("nats-server 2.14" in finding.found for finding in findings)


async def test_passed_over_is_named(old: Connection) -> None:
    """A filter added and removed between two checks: not ready with the remedy, after which no event is missing."""
    lab = Lab(old)
    case = Case(lab, await lab.stream())
    name = case.stream.name
    async with case.running():
        await case.publish(10)
        assert await until(lambda: case.is_stored and case.is_ready, PATIENCE)
        original = await lab.consumer_config(name)
        await lab.make_consumer(name, original | {"filter_subject": f"{name}.a"}, action="update")
        await case.publish(10)
        await lab.make_consumer(name, original, action="update")
        await case.publish(2)
        # Before that the reason may be the edit itself, or the restart of the reading.
        assert await until(lambda: "has to deliver again" in case.reason or case.is_stored, PATIENCE), case.reason
        if not case.is_stored:
            assert not case.is_ready
            assert f"delete it (nats consumer rm {name} {case.durable})" in case.reason
            assert not await until(lambda: case.is_ready, 2 * LOOK)
            await lab.delete_consumer(name)
        assert await until(lambda: case.is_stored and case.is_ready, PATIENCE), case.reason


async def test_given_up_is_named(old: Connection) -> None:
    """Messages left out while no projector ran: not ready with the remedy, after which no event is missing."""
    lab = Lab(old)
    case = Case(lab, await lab.stream())
    name = case.stream.name
    await exhaust(lab, case, is_heard=False)
    async with case.running():
        # Some servers keep such messages pending, and deliver them again by themselves.
        assert await until(lambda: "has to deliver again" in case.reason or case.is_stored, PATIENCE), case.reason
        if not case.is_stored:
            assert f"delete it (nats consumer rm {name} {case.durable})" in case.reason
            assert not await until(lambda: case.is_ready, 2 * LOOK)
            await lab.delete_consumer(name)
        assert await until(lambda: case.is_stored and case.is_ready, PATIENCE), case.reason
