"""The publisher and a stream that does not answer: temporary states are waited out, permanent ones reported."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream, show_stream
from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event, make_events
from noetl_events.testing.nats_server import NatsServer, free_port, nats_cluster
from tests.faults.elections import BAR, Fault, require, run_elections
from tests.faults.load import STREAM, change_stream, emit_until_taken, is_made, require_exactly_once

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nats.aio.msg import Msg

    from noetl_events.testing.nats_server import NatsServer as Server


@asynccontextmanager
async def connected(server: Server, **options: Any) -> AsyncIterator[Connection]:
    """Connect to *server*."""
    async with Connection(ConnectOptions(servers=server.url, **options)) as connection:
        yield connection


@asynccontextmanager
async def listener(server: Server, answer: bytes | None) -> AsyncIterator[list[Msg]]:
    """Subscribe to the events as a debugger does, and answer each with *answer* if there is one."""
    heard: list[Msg] = []

    async def take(message: Msg) -> None:
        heard.append(message)
        if answer is not None and message.reply:
            await message.respond(answer)

    async with connected(server) as connection:
        client = await connection.client()
        await client.subscribe("noetl.>", cb=take)
        await client.flush()
        yield heard


async def seconds_until_unavailable(sink: NatsSink, events: list[Any], match: str) -> float:
    """Return the seconds until *sink* failed with *match*."""
    began = time.monotonic()
    with pytest.raises(SinkUnavailable, match=match):
        await sink.emit_batch(events)
    return time.monotonic() - began


@pytest.mark.parametrize("count", [pytest.param(1, id="one event"), pytest.param(5, id="batch")])
async def test_each_emit_waits_for_a_stream_that_is_missing(own_server: NatsServer, count: int) -> None:
    """No emit fails at once while the stream is missing: each waits for its creation."""
    async with connected(own_server) as connection:
        sink = NatsSink(connection, timeout=4.0)
        waited = [
            await seconds_until_unavailable(
                sink, [make_event(10 * turn + number) for number in range(count)], "no stream takes"
            )
            for turn in range(3)
        ]
        assert min(waited) >= 1.9
        emitting = asyncio.ensure_future(emit_until_taken(sink, make_events(count)))
        await asyncio.sleep(0.5)
        await ensure_stream(connection, STREAM)
        await emitting
        await sink.aclose()


@pytest.mark.parametrize("count", [pytest.param(1, id="one event"), pytest.param(5, id="batch")])
@pytest.mark.parametrize(
    ("answer", "whose"),
    [
        pytest.param(None, "stream ensure`, or use the credentials of the account that has it$", id="silent"),
        pytest.param(b"OK", "answered by a subscriber that is not a stream", id="a word"),
        pytest.param(b'{"seq":1}', "answered by a subscriber that is not a stream", id="a number"),
        pytest.param(b'{"stream":"audit","seq":1}', "answered by stream audit", id="another stream"),
    ],
)
async def test_missing_stream_is_named_though_a_subscriber_listens(
    own_server: NatsServer, answer: bytes | None, whose: str, count: int
) -> None:
    """A subscriber hides the server's no-responders status; the missing stream is found and reported all the same."""
    async with listener(own_server, answer), connected(own_server) as connection:
        sink = NatsSink(connection, timeout=2.0)
        await seconds_until_unavailable(sink, make_events(count), f"(?s)no stream takes.*{whose}")
        await ensure_stream(connection, STREAM)
        await emit_until_taken(sink, make_events(count))
        await sink.aclose()

    await require_exactly_once(own_server.url, list(range(1, count + 1)))


async def test_stream_without_acknowledgements_is_named_and_spared(
    own_server: NatsServer, own_connection: Connection
) -> None:
    """A stream with `no_ack` never acknowledges: that is reported, and nothing is sent until it is changed."""
    await change_stream(own_connection, lambda config: config.evolve(no_ack=True))
    sink = NatsSink(own_connection, timeout=2.0)
    async with listener(own_server, None) as heard:
        await seconds_until_unavailable(
            sink, [make_event(1)], r"noetl_events stores and does not acknowledge \(no_ack\)"
        )
        sent = len(heard)
        for turn in range(2, 5):
            await seconds_until_unavailable(sink, [make_event(turn)], "no_ack")
        assert len(heard) == sent
    await change_stream(own_connection, lambda config: config.evolve(no_ack=False))
    await eventually(lambda: emitted(sink, 1), timeout=180)
    await sink.aclose()

    await require_exactly_once(own_server.url, [1])


ACCOUNT = "accounts {{ A {{ jetstream: {}, users: [ {{user: a, password: a}} ] }} }}\nno_auth_user: a"


@pytest.mark.parametrize("count", [pytest.param(1, id="one event"), pytest.param(5, id="batch")])
async def test_account_whose_jetstream_is_switched_off_is_named(tmp_path: Path, count: int) -> None:
    """A reload that switches JetStream off is reported with the remedy; later the same events are stored."""
    with NatsServer(store_dir=tmp_path, config=ACCOUNT.format("enabled")) as server:
        async with connected(server) as connection:
            await ensure_stream(connection, STREAM)
            sink = NatsSink(connection, timeout=3.0)
            await emit_until_taken(sink, make_events(1))
            server.reload(ACCOUNT.format("disabled"))
            words = "JetStream is switched off for the account of these credentials.*enable it there"
            events = [make_event(number) for number in range(3, 3 + count)]
            await seconds_until_unavailable(sink, events, words)
            await seconds_until_unavailable(sink, events, words)
            server.reload(ACCOUNT.format("enabled"))
            await eventually(lambda: emitted(sink, 2), timeout=180)
            await emit_until_taken(sink, events)
            await sink.aclose()

        await require_exactly_once(server.url, [*range(1, 3 + count)])


async def test_server_without_jetstream_is_named(tmp_path: Path) -> None:
    """A server without JetStream is not taken for an election."""
    with NatsServer(store_dir=tmp_path, jetstream=False) as server:
        async with connected(server) as connection:
            sink = NatsSink(connection, timeout=2.0)
            await seconds_until_unavailable(sink, [make_event(1)], "JetStream does not answer.*start it with")
            await sink.aclose()


async def emitted(sink: NatsSink, number: int) -> bool:
    """Return true if *sink* accepts an event."""
    try:
        await sink.emit(make_event(number))
    except SinkUnavailable:
        return False
    return True


async def test_account_that_may_not_ask_is_told_both(tmp_path: Path) -> None:
    """Without permission for the API a missing stream looks like an election: the call times out and names both."""
    rights = "{ publish: noetl.>, subscribe: _INBOX.> }"
    config = f"authorization {{ users: [ {{ user: w, password: p, permissions: {rights} }} ] }}"
    with NatsServer(store_dir=tmp_path, config=config) as server:
        async with connected(server, user="w", password="p") as connection:
            sink = NatsSink(connection, timeout=2.0)
            waited = await seconds_until_unavailable(
                sink, make_events(3), r"no leader for .* may be under way; is there a stream that takes"
            )
            await sink.aclose()

    assert waited >= 1.9


async def test_stream_without_a_quorum_is_an_election(tmp_path: Path) -> None:
    """Servers without a leader are waited for until the timeout, and the reason says that they elect one."""
    with nats_cluster(tmp_path) as members:
        async with Connection(ConnectOptions(servers=members[0].url)) as connection:
            await eventually(lambda: is_made(connection, StreamDeclaration(replicas=3)), timeout=180)
            for member in members[1:]:
                await asyncio.to_thread(member.kill)
            sink = NatsSink(connection, timeout=20.0)
            began = time.monotonic()
            emitting = asyncio.ensure_future(sink.emit_batch(make_events(3)))
            await asyncio.sleep(12)
            assert not emitting.done()
            with pytest.raises(SinkUnavailable, match=r"no leader for .*; an election may be|waits for its followers"):
                await emitting
            assert time.monotonic() - began >= 19
            for member in members[1:]:
                await asyncio.to_thread(member.start)
            await eventually(lambda: emitted(sink, 1), timeout=180)
            await sink.aclose()


async def test_leaders_that_fail_cost_no_more_than_a_plain_loop(tmp_path: Path) -> None:
    """No emit raises, the slowest is as fast as the slowest of a plain loop, and each event is stored once."""
    outcome = await run_elections(tmp_path, [Fault("pause", 3.0), Fault("kill", 3.0)])

    assert outcome.ours.raised == []
    assert (outcome.lost, outcome.doubled) == (set(), 0)
    # The slack is for a loaded machine, and below the 12 seconds of a missed window; `make elections` has none.
    assert require(outcome, slack=8.0), f"slower than {BAR} times the loop:\n{outcome}"


@asynccontextmanager
async def two_domains(folder: Path) -> AsyncIterator[tuple[NatsServer, NatsServer]]:
    """Run a hub and a leaf node, each with a domain and a stream for the same subjects."""
    port = free_port()
    leaves = f'leafnodes {{ listen: "127.0.0.1:{port}" }}'
    remote = f'leafnodes {{ remotes: [ {{ url: "nats-leaf://127.0.0.1:{port}" }} ] }}'
    with (
        NatsServer(store_dir=folder / "hub", name="hub", config=f"jetstream {{ domain: hub }}\n{leaves}") as hub,
        NatsServer(store_dir=folder / "leaf", name="leaf", config=f"jetstream {{ domain: leaf }}\n{remote}") as leaf,
    ):
        leaf.wait_until(lambda: "Leafnode connection created" in leaf.log, "has no connection to its hub")
        for server in (hub, leaf):
            async with connected(server) as connection:
                await ensure_stream(connection, STREAM)
        yield hub, leaf


@pytest.mark.parametrize("domain", [None, "leaf", "hub"])
@pytest.mark.parametrize("stream", ["", STREAM.name])
async def test_stream_of_another_domain_does_not_count(tmp_path: Path, domain: str | None, stream: str) -> None:
    """Two domains store each event; only the configured one counts, and its loss is noticed."""
    async with two_domains(tmp_path) as (hub, leaf), connected(leaf, domain=domain) as connection:
        meant, other = (hub, "leaf") if domain == "hub" else (leaf, "hub")
        sink = NatsSink(connection, timeout=2.0, stream=stream)
        await emit_until_taken(sink, make_events(5))
        await emit_until_taken(sink, make_events(1, start=6))
        async with connected(meant) as there:
            assert (await show_stream(there, STREAM.name)).state.messages == 6
            await (await jetstream(there)).delete_stream(STREAM.name)
            whose = f"answered by stream {STREAM.name} of domain {other}, which is not stream {STREAM.name} of domain"
            await seconds_until_unavailable(sink, [make_event(7)], f"no stream takes.*{whose}")
            await seconds_until_unavailable(sink, make_events(5), "no stream takes")
            await ensure_stream(there, STREAM)
            await emit_until_taken(sink, make_events(5))
            assert (await show_stream(there, STREAM.name)).state.messages == 5
        await sink.aclose()


async def test_full_stream_of_another_domain_does_not_stop_ours(tmp_path: Path) -> None:
    """Errors name no domain, so one of a stream of the same name waits for the answer of the configured one."""
    async with two_domains(tmp_path) as (hub, leaf), connected(leaf, domain="leaf") as connection:
        async with connected(hub) as there:
            await change_stream(there, lambda config: config.evolve(max_msgs=1, discard="new"))
            sink = NatsSink(connection)
            await sink.emit_batch(make_events(5))
            for number in range(6, 10):
                await sink.emit(make_event(number))
            await sink.aclose()
            await change_stream(connection, lambda config: config.evolve(max_msgs=1, discard="new"))
            sink = NatsSink(connection)
            with pytest.raises(SinkUnavailable, match="maximum messages exceeded"):
                await sink.emit(make_event(10))
            await sink.aclose()
        assert (await show_stream(connection, STREAM.name)).state.messages == 9
