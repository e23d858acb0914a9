"""
The configuration of a server changed while a publisher and a projector run: by a reload, or by a restart.

Each acknowledged event is stored, or the projector is not ready with a reason in the words of the option.  A refusal
uses such words, too.  No message, connection or log line is repeated without end; and once the option is reverted,
events are stored as before.

The options stand in a table, because no server lists its options.  The server decides which of them it accepts.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, TRIALS
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.sink import EventsRejected, SinkUnavailable
from noetl_events.testing import make_event
from noetl_events.testing.nats_server import NatsServer, ServerFailed, free_port
from tests.border.edits import Edit
from tests.border.lab import Lab, until
from tests.border.stream_lab import PATIENCE, StreamCase, counted_lines, running, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SERVERS: Final = 12
TRIED: Final = 2.5
"""The seconds during which unstored events are emitted again, while an option is changed."""

OPTIONS: Final[dict[str, dict[str, Sequence[object]]]] = {
    "server": {
        "max_payload": [100, 1_000, 100_000],
        "max_control_line": [64, 256, 4_096],
        "max_pending": [2_000_000],
        "max_subscriptions": [1, 5],
        "max_connections": [1, 100],
        "max_subscription_tokens": [2],
        "write_deadline": ['"1ms"', '"2s"'],
        "ping_interval": ['"100ms"'],
        "ping_max": [1],
        "max_traced_msg_len": [10],
        "no_fast_producer_stall": ["true"],
        "disable_sublist_cache": ["true"],
    },
    "jetstream": {
        "max_mem": ["1K", "1G"],
        "max_file": ["1K", "1G"],
        "request_queue_limit": [1],
        "max_buffered_msgs": [1],
        "max_buffered_size": [1_000],
        "sync_interval": ["always", '"1s"'],
    },
    "limits": {
        "max_ack_pending": [1, 100],
        "max_ha_assets": [1],
        "max_request_batch": [1, 10],
        "duplicate_window": ['"100ms"', '"60s"'],
        "max_batch_inflight_per_stream": [1],
        "max_batch_inflight_total": [1],
        "max_batch_size": [2],
        "max_batch_timeout": ['"10ms"'],
    },
    "account": {
        "max_connections": [1],
        "max_subscriptions": [1, 5],
        "max_payload": [100, 1_000],
        "max_leafnodes": [0],
    },
    "account jetstream": {
        "max_mem": [1],
        "max_file": [1, 1_000, 1_000_000],
        "max_streams": [1, 3],
        "max_consumers": [1],
        "max_bytes": ["true"],
        "max_ack_pending": [1, 100],
        "disk_max_stream_bytes": [1_000],
    },
}
MOST: Final = {"messages": 120.0, "connections": 4.0, "lines": 12.0}
"""The time base: a second."""

ONCE: Final = {"messages": 400, "connections": 12, "lines": 40}


class Option(NamedTuple):
    """
    An option of the server.

    Args:
        place: block of the configuration.
        name: name of the option.
        value: value in the configuration's notation.

    """

    place: str = "server"
    name: str = ""
    value: object = ""

    def config(self, port: int) -> str:
        """Return the configuration of a server with the option, and its monitoring at *port*."""
        line = f"{self.name}: {self.value}" if self.name else ""
        here = {place: line if place == self.place else "" for place in OPTIONS}
        limits = f"limits {{ {here['account']} }}," if here["account"] else ""
        jetstream = (
            f"jetstream {{ {here['account jetstream']} }}" if here["account jetstream"] else "jetstream: enabled"
        )
        account = f"A {{ {jetstream}, {limits} users: [ {{ user: a, password: a }} ] }}"
        server = f"jetstream {{ {here['jetstream']}\n limits {{ {here['limits']} }} }}"
        return f'http: "127.0.0.1:{port}"\naccounts {{ {account} }}\nno_auth_user: a\n{server}\n{here["server"]}\n'

    @property
    def edit(self) -> Edit:
        """The option as an edit."""
        return Edit(f"{self.place}: {self.name}", {self.name: self.value})


class ServerCase(StreamCase):
    """A publisher and a projector on a server with changing options."""

    async def _emit(self, edit: Edit, batch: Sequence[int]) -> None:
        made = [make_event(number, event_type="ab"[number % 2]) for number in batch]
        end = asyncio.get_running_loop().time() + (TRIED if edit.changes else PATIENCE)
        while asyncio.get_running_loop().time() < end:
            try:
                await self._publisher.emit_batch(made)
            except SinkUnavailable as exc:
                self.refusal = str(exc)
            except EventsRejected as exc:
                self.refusal = " ".join(exc.reasons.values())
                if edit.changes:
                    return
            else:
                self.refusal = ""
                self.acknowledged.update(batch)
                return
            await asyncio.sleep(0.1)


async def changed(server: NatsServer, config: str) -> bool:
    """Change *server* to this configuration by a reload or a restart; return False if it accepts neither."""
    try:
        await asyncio.to_thread(server.reload, config)
    except ServerFailed:
        before = server.config
        server.config = config
        await asyncio.to_thread(server.terminate)
        try:
            await asyncio.to_thread(server.start)
        except ServerFailed:
            server.config = before
            await asyncio.to_thread(server.start)
            return False
    return True


async def shown(port: int) -> dict[str, int]:
    """Return the counters of the server since its start."""

    def ask() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    found = await asyncio.to_thread(ask)
    return {"messages": found["in_msgs"], "connections": found["total_connections"]}


async def change(server: NatsServer, port: int, option: Option, lines: Counter[str]) -> str:
    """Change *option* and revert it while events are emitted and projected; return the outcome."""
    loop, edit = asyncio.get_running_loop(), option.edit
    async with Connection(ConnectOptions(servers=server.url)) as connection:
        lab = Lab(connection)
        case = ServerCase(lab, await lab.stream())
        async with running(case):
            await case.emit(Edit("", {}))
            assert await until(lambda: case.is_stored and case.is_ready, PATIENCE), f"{edit}: {case.reason}"
            if not await changed(server, option.config(port)):
                return "not taken"
            await until(lambda: connection.is_connected, 2 * TRIED)
            before, began = await shown(port) | {"lines": lines[case.stream.name]}, loop.time()
            await case.emit(edit)
            await asyncio.sleep(0.5)
            await until(lambda: case.is_stored and case.is_ready, TRIED)
            # A slow machine needs longer than that for the one or the other.
            await until(
                lambda: (case.is_stored and case.is_ready) or is_named(f"{case.reason} {case.refusal}", option),
                PATIENCE,
            )
            is_well, told = case.is_stored and case.is_ready, f"{case.reason} {case.refusal}"
            seconds, now = loop.time() - began, await shown(port) | {"lines": lines[case.stream.name]}
            await changed(server, Option().config(port))
            acknowledged = set(case.acknowledged)
            await case.emit(Edit("", {}))
            recovered = await until(lambda: case.is_stored and case.is_ready, 2 * PATIENCE)
            await connection_free(lab, case)
    for what, most in MOST.items():
        assert now[what] - before[what] <= most * seconds + ONCE[what], f"{edit}: {now}, {before} in {seconds:.1f} s"
    assert recovered, f"{edit}, taken back: {case.reason!r} {case.refusal!r}"
    assert acknowledged < case.acknowledged, f"{edit}, taken back: {case.refusal!r}"
    if is_well and not case.refusal and len(acknowledged) == 12:
        return "served"
    assert is_named(told, option), f"{edit}: {told!r}"
    return "refused"


def is_named(told: str, option: Option) -> bool:
    """Return true if *told* names *option*, or says that the server does not answer: it may drop a request silently."""
    return "reconnecting" in told or "timeout" in told or bool(words_of(option.name) & words_of(told))


async def connection_free(lab: Lab, case: ServerCase) -> None:
    """Delete the stream of *case*: an account may have a small limit."""
    await lab.api(f"STREAM.DELETE.{case.stream.name}")


def options() -> Iterator[Option]:
    """Yield all options with their values."""
    for place, named in OPTIONS.items():
        for name, values in named.items():
            yield from (Option(place, name, value) for value in values)


async def test_changed_while_running(tmp_path: Path) -> None:
    """Each option is served, or refused in its own words; once it is reverted, events are stored as before."""
    outcomes: Counter[str] = Counter()
    failed: list[str] = []
    waiting = list(options())

    async def work(number: int) -> None:
        port = free_port()
        with NatsServer(store_dir=tmp_path / str(number), config=Option().config(port)) as server:
            async with Connection(ConnectOptions(servers=server.url)) as connection:
                for declared in (DEAD_LETTERS, TRIALS):
                    await ensure_stream(connection, declared)
            while waiting:
                option = waiting.pop(0)
                try:
                    outcomes[await change(server, port, option, lines)] += 1
                except (AssertionError, NatsUnavailable, ServerFailed) as exc:
                    failed.append(f"{option}: {exc}")

    with counted_lines() as lines:
        await asyncio.gather(*map(work, range(SERVERS)))

    assert failed == []
    assert outcomes["served"] + outcomes["refused"] >= 40, outcomes
