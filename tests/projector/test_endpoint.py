"""The HTTP endpoint of a projector while its dependencies are lost and return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import eventually, make_events
from tests.projector.bench import Bench
from tests.projector.served import Moody, serving

if TYPE_CHECKING:
    from noetl_events.testing.nats_server import NatsServer


async def test_ready_after_the_start(bench: Bench) -> None:
    """A projector that found its consumer is ready, and its body says so."""
    async with serving(bench.connection, bench.stream, Moody()) as served:
        await eventually(served.is_ready)
        _, body = await served.get("/healthz")

    assert msgspec.json.decode(body) == {
        "alive": True,
        "ready": True,
        "connected": True,
        "projectors": {"projector": {"alive": True, "ready": True, "part": "", "reason": ""}},
    }


async def test_sink_away(bench: Bench) -> None:
    """While the sink is unavailable the projector is alive and not ready, with a reason; later it is ready again."""
    sink = Moody()
    sink.away = "the database is in maintenance"
    await bench.publish(make_events(3))
    async with serving(bench.connection, bench.stream, sink, stall_after=2.0) as served:
        await eventually(lambda: served.service.projectors[0].progress.holding)
        assert await served.is_not_ready()
        assert await served.why() == ("sink", "the database is in maintenance")
        assert await served.is_alive()
        sink.away = ""
        await eventually(served.is_ready)

    assert len(sink.events) == 3


async def test_sink_hangs(bench: Bench) -> None:
    """A write that hangs is a stall: the projector is neither alive nor ready until the sink answers."""
    sink = Moody()
    sink.answers.clear()
    await bench.publish(make_events(3))
    async with serving(bench.connection, bench.stream, sink, stall_after=0.3) as served:
        await eventually(lambda: served.service.projectors[0].in_flight)
        assert await served.is_alive()

        async def is_stalled() -> bool:
            return not await served.is_alive()

        await eventually(is_stalled)
        assert await served.is_not_ready()
        assert (await served.why())[0] == "sink"
        sink.answers.set()
        await eventually(lambda: len(sink.events) == 3)
        await eventually(served.is_alive)


async def test_consumer_deleted(bench: Bench) -> None:
    """A deleted consumer is created again, and the projector becomes ready by itself."""
    sink = Moody()
    await bench.publish(make_events(3))
    async with serving(bench.connection, bench.stream, sink) as served:
        await eventually(lambda: len(sink.events) == 3)
        await (await jetstream(bench.connection)).delete_consumer(bench.stream.name, "projector")
        await bench.publish(make_events(3, start=4))
        await eventually(lambda: len(sink.events) == 6)
        await eventually(served.is_ready)


async def test_stream_missing(bench: Bench) -> None:
    """A projector without its stream is not ready and names the stream; once the stream exists it is ready."""
    await (await jetstream(bench.connection)).delete_stream(bench.stream.name)
    async with serving(bench.connection, bench.stream, Moody()) as served:
        await eventually(lambda: served.service.projectors[0].progress.holding)
        assert await served.is_alive()
        assert await served.is_not_ready()
        part, reason = await served.why()
        assert (part, bench.stream.name in reason) == ("nats", True)
        await ensure_stream(bench.connection, bench.stream)
        await eventually(served.is_ready)


async def test_server_killed(own_server: NatsServer) -> None:
    """While NATS is unavailable the projector is alive and not ready; it recovers with NATS."""
    sink = Moody()
    stream = StreamDeclaration(name="events", subjects=("events.>",))
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, stream)
        bench = Bench(connection, stream, stream)
        async with serving(connection, stream, sink) as served:
            await eventually(served.is_ready)
            own_server.kill()
            await eventually(served.is_not_ready)
            part, reason = await served.why()
            assert part == "nats"
            assert reason.startswith("not connected: ")
            assert await served.is_alive()
            own_server.start()
            await eventually(served.is_ready)
            await bench.publish(make_events(3))
            await eventually(lambda: len(sink.events) == 3)


async def test_standing_by(bench: Bench) -> None:
    """Two replicas with one active and one on standby are both alive and ready."""
    first, second = Moody(), Moody()
    await bench.publish(make_events(3))
    async with (
        serving(bench.connection, bench.stream, first, standby=True) as working,
        serving(bench.connection, bench.stream, second, standby=True) as waiting,
    ):
        await eventually(lambda: len(first.events) + len(second.events) == 3)
        await eventually(working.is_ready)
        await eventually(waiting.is_ready)
        assert await working.is_alive()
        assert await waiting.is_alive()
        [one], [other] = working.service.projectors, waiting.service.projectors
        await eventually(lambda: one.puller.is_served != other.puller.is_served)


async def test_nothing_else_is_served(bench: Bench) -> None:
    """The endpoint serves three paths, and only reads."""
    async with serving(bench.connection, bench.stream, Moody()) as served:
        assert (await served.get("/"))[0] == 404
        assert (await served.get("/metrics/"))[0] in (307, 404)
