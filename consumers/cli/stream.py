"""`noetl-events stream ensure` and `noetl-events stream show`."""

from __future__ import annotations

from typing import Any

from cyclopts import App

from consumers.cli.options import AsJson, Nats, Partitions, read_settings
from consumers.cli.output import print_result
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.topology import StreamInfo, ensure_stream, show_stream

stream = App(name="stream", help="The streams events and dead letters are kept in.")


@stream.command
async def ensure(*, partitions: Partitions = None, nats: Nats = None, json: AsJson = False) -> int:
    """
    Create the streams that are missing; one that is there and differs is refused with the difference.

    Example: `noetl-events stream ensure`
    """
    settings = read_settings(nats, partitions=partitions)
    async with Connection(settings.connect) as connection:
        # All before the first line: whoever reads them may be gone after that one.
        infos = [await ensure_stream(connection, declared) for declared in settings.streams]
    for info in infos:
        print_result(_summary(info), as_json=json, title=info.config.name or "")
    return 0


@stream.command
async def show(*, nats: Nats = None, json: AsJson = False) -> int:
    """
    Show what the streams hold.

    Example: `noetl-events stream show --json`
    """
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        for declared in settings.streams:
            info = await show_stream(connection, declared.name)
            print_result(_summary(info), as_json=json, title=declared.name)
    return 0


def _summary(info: StreamInfo) -> dict[str, Any]:
    config, state = info.config, info.state
    return {
        "stream": config.name,
        "subjects": ", ".join(config.subjects or []),
        "messages": state.messages,
        "bytes": state.bytes,
        "first_sequence": state.first_seq,
        "last_sequence": state.last_seq,
        "consumers": state.consumer_count,
        "replicas": config.num_replicas,
        "max_age_seconds": config.max_age,
        "duplicate_window_seconds": config.duplicate_window,
        "subject_transform": config.subject_transform.dest if config.subject_transform else "",
        "batched_publishing": bool(config.allow_batched),
    }
