"""The commands `noetl-events stream ensure` and `noetl-events stream show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from consumers.cli.options import AsJson, Nats, Partitions, read_settings
from consumers.cli.output import print_remark, print_result
from consumers.settings import setting_of
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import StreamDrift, StreamRefused
from noetl_events.jetstream.streams import ensure_stream, examine_stream, show_stream

if TYPE_CHECKING:
    from noetl_events.jetstream.declarations import StreamDeclaration
    from noetl_events.jetstream.stream_config import Deviation
    from noetl_events.jetstream.streams import StreamInfo

stream = App(name="stream", help="Create and show the streams of events and dead letters.")


@stream.command
async def ensure(
    *,
    upgrade: Annotated[
        bool,
        Parameter(help="Enable features that an older server lacked; nothing else is changed.", negative=()),
    ] = False,
    partitions: Partitions = None,
    nats: Nats = None,
    json: AsJson = False,
) -> int:
    """
    Create the missing streams; an existing stream that differs is refused, with the difference.

    A stream that an older server created lacks features of newer servers: these are listed, and everything works
    without them.

    Exit code 2 if a stream differs, or a setting has to change before a stream can be created.

    Example: `noetl-events stream ensure`
    """
    settings = read_settings(nats, partitions=partitions)
    infos: list[StreamInfo] = []
    failures: list[StreamDrift | StreamRefused] = []
    async with Connection(settings.connect) as connection:
        # All streams are created before the first line is printed, because a reader may close the pipe after it.
        for declared in settings.streams:
            try:
                infos.append(await ensure_stream(connection, declared, upgrade=upgrade))
            except (StreamDrift, StreamRefused) as exc:
                failures.append(exc)
                print_remark(f"{exc}{_remedy(declared, exc)}")
            else:
                for deviation in await examine_stream(connection, declared):
                    print_remark(f"stream {declared.name}: {_remark(deviation)}")
    for info in infos:
        print_result(_summary(info), as_json=json, title=info.config.name or "")
    if not failures:
        return 0
    return 2 if any(isinstance(failure, StreamDrift) or failure.field for failure in failures) else 1


@stream.command
async def show(*, nats: Nats = None, json: AsJson = False) -> int:
    """
    Show the state of the streams.

    Example: `noetl-events stream show --json`
    """
    settings = read_settings(nats)
    async with Connection(settings.connect) as connection:
        for declared in settings.streams:
            info = await show_stream(connection, declared.name)
            print_result(_summary(info), as_json=json, title=declared.name)
    return 0


def _remark(deviation: Deviation) -> str:
    if deviation.weight != "lacking":
        return f"{deviation.field} is {deviation.actual!r}: {deviation.meaning}"
    return f"{deviation.field} is off: {deviation.meaning}; `noetl-events stream ensure --upgrade` switches it on"


def _remedy(declared: StreamDeclaration, failure: StreamDrift | StreamRefused) -> str:
    """Return the settings to change, as a text for the error."""
    if isinstance(failure, StreamDrift):
        settings = [setting_of(declared.kind, deviation.field) for deviation in failure.deviations]
        names = sorted({setting.environ for setting in settings if setting})
        return f"\nRelated settings: {', '.join(names)}." if names else ""
    setting = setting_of(declared.kind, failure.field)
    return f"; set {setting.environ} ({setting.key})" if setting else ""


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
