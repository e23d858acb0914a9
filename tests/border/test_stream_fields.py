"""A stream made or edited by others, compared completely: each field of the server's configuration is known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from noetl_events.jetstream.api import ask
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS, StreamDeclaration
from noetl_events.jetstream.errors import StreamDrift, StreamRefused
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.stream_config import KNOWN, deviations, stream_config
from noetl_events.jetstream.streams import ensure_stream, examine_stream, find_stream
from noetl_events.sink import SinkUnavailable
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import make_events
from noetl_events.testing.nats_server import NatsServer
from tests.old_servers import old_server

if TYPE_CHECKING:
    from pathlib import Path

    from noetl_events.jetstream.declarations import StreamKind

NOW = (2, 15)
SECOND = 1_000_000_000
EVENTS = StreamDeclaration()


def as_made(declared: StreamDeclaration) -> dict[str, Any]:
    """Return the server's configuration for *declared*."""
    return stream_config(declared, NOW) | {
        "max_consumers": -1,
        "max_msgs": -1,
        "compression": "none",
        "mirror_direct": False,
        "sealed": False,
        "deny_delete": False,
        "deny_purge": False,
        "allow_rollup_hdrs": False,
        "allow_msg_ttl": False,
        "consumer_limits": {},
        "metadata": {"_nats.level": "5"},
    }


def found(declared: StreamDeclaration, **changes: Any) -> list[tuple[str, str]]:
    """Return field and severity of each deviation of a stream that is *declared* with *changes*."""
    config = as_made(declared) | changes
    return [(each.field, each.weight) for each in deviations(declared, config, version=NOW)]


@pytest.mark.parametrize("declared", [EVENTS, DEAD_LETTERS, TRIALS], ids=lambda declared: declared.kind)
def test_as_declared(declared: StreamDeclaration) -> None:
    """A stream made by the library does not deviate from its declaration."""
    assert found(declared) == []
    assert found(structs.replace(declared, max_bytes=1_000)) == []


# The meaning of each change to the streams of events, dead letters and crash records.
CHANGES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "work queue": ({"retention": "workqueue"}, "refused", "weaker", "weaker"),
    "interest": ({"retention": "interest"}, "refused", "unsafe", "unsafe"),
    "no answers": ({"no_ack": True}, "unsafe", "unsafe", "unsafe"),
    "sealed": ({"sealed": True, "max_age": 0, "deny_delete": True}, "unsafe", "unsafe", "unsafe"),
    "counters": ({"allow_msg_counter": True}, "unsafe", "unsafe", "unsafe"),
    "written later": ({"persist_mode": "async"}, "unsafe", "unsafe", "unsafe"),
    "in memory": ({"storage": "memory"}, "unsafe", "unsafe", "unsafe"),
    "other subjects": ({"subjects": ["other.>"]}, "unsafe", "unsafe", "unsafe"),
    "drops the oldest": ({"max_bytes": 100, "discard": "old"}, "unsafe", "unsafe", "unsafe"),
    "drops by number": ({"max_msgs": 100}, "unsafe", "unsafe", "unsafe"),
    "drops of a kind": ({"max_msgs_per_subject": 5}, "unsafe", "unsafe", "told"),
    "refuses of a kind": (
        {"max_msgs_per_subject": 5, "discard": "new", "discard_new_per_subject": True},
        "unsafe",
        "unsafe",
        "told",
    ),
    "mirror": ({"mirror": {"name": "x"}, "subjects": None}, "weaker", "unsafe", "unsafe"),
    "sources": ({"sources": [{"name": "x"}]}, "weaker", "told", "told"),
    "more subjects": ({"subjects": [">"]}, "weaker", "weaker", "weaker"),
    "shorter age": ({"max_age": 3_600 * SECOND}, "weaker", "weaker", ""),
    "too short an age": ({"max_age": SECOND}, "unsafe", "unsafe", ""),
    "longer age": ({"max_age": 0}, "weaker", "weaker", ""),
    "shorter window": ({"duplicate_window": SECOND}, "weaker", "", ""),
    "full sooner": ({"max_bytes": 100, "discard": "new"}, "weaker", "weaker", "weaker"),
    "full by number": ({"max_msgs": 100, "discard": "new"}, "weaker", "weaker", "weaker"),
    "small messages": ({"max_msg_size": 100}, "weaker", "weaker", "weaker"),
    "more servers": ({"num_replicas": 3}, "weaker", "weaker", "weaker"),
    "transformed": ({"subject_transform": {"src": ">", "dest": "x.>"}}, "weaker", "weaker", "weaker"),
    "nothing removed": ({"deny_delete": True}, "weaker", "weaker", "weaker"),
    "nothing purged": ({"deny_purge": True}, "weaker", "weaker", "weaker"),
    "few consumers": ({"max_consumers": 1}, "weaker", "weaker", ""),
    "no fast batches": ({"allow_batched": None}, "lacking", "lacking", "lacking"),
    "no atomic batches": ({"allow_atomic": False}, "lacking", "lacking", "lacking"),
    "no direct gets": ({"allow_direct": False}, "lacking", "lacking", "unsafe"),
    "roll-ups": ({"allow_rollup_hdrs": True}, "told", "", ""),
    "times to live": ({"allow_msg_ttl": True}, "told", "", ""),
    "consumers forgotten": ({"consumer_limits": {"inactive_threshold": SECOND}}, "told", "", ""),
    "from the future": ({"teleport": {"to": "x"}}, "told", "told", "told"),
    "of no matter": (
        {
            "description": "x",
            "metadata": {"a": "b"},
            "compression": "s2",
            "placement": {"tags": ["x"]},
            "republish": {"src": ">", "dest": "y.>"},
            "first_seq": 7,
            "subject_delete_marker_ttl": SECOND,
            "allow_msg_schedules": True,
        },
        "",
        "",
        "",
    ),
}
KINDS: tuple[StreamKind, ...] = ("events", "dead letters", "trials")


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_change_means(name: str) -> None:
    """Each stream is judged by the purpose of its messages, and its most severe deviation comes first."""
    changes, *wanted = CHANGES[name]
    gravest = [next((weight for _, weight in found(one, **changes)), "") for one in (EVENTS, DEAD_LETTERS, TRIALS)]

    assert gravest == wanted


async def test_every_field_of_the_server_is_known(connection: Connection, stream: StreamDeclaration) -> None:
    """Every field in the answer of this environment's server is known."""
    assert set((await find_stream(connection, stream.name)).config) <= KNOWN


@pytest.mark.parametrize(
    "declared",
    [
        pytest.param(StreamDeclaration(max_age=0.5, duplicate_window=0.5), id="short"),
        pytest.param(StreamDeclaration(max_age=0.0, duplicate_window=0.1), id="for ever"),
        pytest.param(StreamDeclaration(max_age=86_400.123456789, duplicate_window=119.999999999), id="fractions"),
        pytest.param(StreamDeclaration(max_bytes=1), id="one byte"),
        pytest.param(StreamDeclaration(max_bytes=10**8, partitions=1_000), id="many lanes"),
        pytest.param(StreamDeclaration(max_age=100 * 365 * 86_400.0, partitions=1), id="a century"),
    ],
)
async def test_what_we_make_is_as_declared(own_server: NatsServer, declared: StreamDeclaration) -> None:
    """Every settable value makes a stream that equals its declaration afterwards."""
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        await ensure_stream(connection, declared)
        await ensure_stream(connection, declared)
        assert await examine_stream(connection, declared) == []


async def edit(connection: Connection, name: str, **changes: Any) -> None:
    """Edit the stream as `nats stream edit` does."""
    config = (await find_stream(connection, name)).config | changes
    _, error = await ask(connection, f"STREAM.UPDATE.{name}", json.dumps(config).encode())
    assert error is None, error


@pytest.mark.parametrize("version", ["2.10", "2.11", "2.12"])
async def test_made_by_an_older_server(tmp_path: Path, version: str) -> None:
    """After an upgrade of the server the stream is served unchanged, and new features are enabled on request."""
    with NatsServer(store_dir=tmp_path / "nats", binary=old_server(version)) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            await ensure_stream(connection, EVENTS)
            await edit(connection, EVENTS.name, description="ours", metadata={"team": "a"}, max_msg_size=9_000)
    with NatsServer(store_dir=tmp_path / "nats") as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            before = await examine_stream(connection, EVENTS)
            await emit_ten(connection)
            with pytest.raises(StreamDrift, match=r"max_msg_size: 9000 on the server"):
                await ensure_stream(connection, EVENTS, upgrade=True)
            config = (await find_stream(connection, EVENTS.name)).config
            after = await examine_stream(connection, EVENTS)

    lacking = {"allow_batched"} if version == "2.12" else {"allow_batched", "allow_atomic"}
    assert {each.field for each in before if each.weight == "lacking"} == lacking
    assert [each.field for each in after] == ["max_msg_size"]
    assert (config["description"], config["metadata"]["team"], config["max_msg_size"]) == ("ours", "a", 9_000)


async def emit_ten(connection: Connection) -> None:
    """Publish to a stream that takes no batches."""
    sink = NatsSink(connection)
    await sink.emit_batch(make_events(10))
    await sink.aclose()


async def test_made_by_a_newer_server(tmp_path: Path) -> None:
    """A downgraded server has the stream and does not serve it: that is reported, and no other one is created."""
    with NatsServer(store_dir=tmp_path / "nats") as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            await ensure_stream(connection, EVENTS)
    with NatsServer(store_dir=tmp_path / "nats", binary=old_server("2.12")) as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            with pytest.raises(StreamRefused, match=r"stream is offline.*run that version again"):
                await ensure_stream(connection, EVENTS)
            with pytest.raises(StreamRefused, match="stream is offline"):
                await find_stream(connection, EVENTS.name)
            sink = NatsSink(connection, timeout=2.0)
            with pytest.raises(SinkUnavailable, match=r"stream is offline.*run that version again"):
                await sink.emit_batch(make_events(10))
            await sink.aclose()


@pytest.mark.parametrize(
    ("jetstream", "declared", "field"),
    [
        pytest.param("limits { duplicate_window: 60s }", EVENTS, "duplicate_window", id="window"),
        pytest.param("", structs.replace(EVENTS, replicas=3), "num_replicas", id="one server"),
        pytest.param("max_file: 1M", structs.replace(EVENTS, max_bytes=2_000_000), "max_bytes", id="too large"),
    ],
)
async def test_refused_by_the_server(tmp_path: Path, jetstream: str, declared: StreamDeclaration, field: str) -> None:
    """A refusal of a server or an account names the setting to change."""
    with NatsServer(store_dir=tmp_path / "nats", config=f"jetstream {{ {jetstream} }}") as server:
        async with Connection(ConnectOptions(servers=server.url)) as connection:
            with pytest.raises(StreamRefused) as refused:
                await ensure_stream(connection, declared)

    assert refused.value.field == field
