"""The commands `noetl-events spool show` and `noetl-events spool drain`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from consumers.cli.options import AsJson
from consumers.cli.output import print_result
from consumers.daemon import run_until_stopped
from noetl_events.sink import SinkUnavailable, open_sink
from noetl_events.sinks.spool.journal import Position, bodies, segments
from noetl_events.sinks.spool.replay_log import load_replay_log
from noetl_events.sinks.spool.sink import SpoolSink

spool = App(name="spool", help="Inspect and drain a worker's spool, the folder of events that NATS has not stored yet.")

Folder = Annotated[Path, Parameter(help="Folder of the spool.")]


@spool.command
async def show(path: Folder, *, json: AsJson = False) -> int:
    """
    Show the contents of a spool, of a running worker or after a crash; exit code 1 if events wait in it.

    Example: `noetl-events spool show /var/spool/noetl`
    """
    _require_spool(path)
    result = await asyncio.to_thread(_summary, path)
    print_result(result, as_json=json, title=str(path))
    return 1 if result["waiting"] else 0


@spool.command
async def drain(
    path: Folder,
    *,
    to: Annotated[str, Parameter(help="URL of the sink that receives the events.")],
    wait: Annotated[float, Parameter(help="Timeout in seconds.")] = 60.0,
    json: AsJson = False,
) -> int:
    """
    Forward the events that a dead worker left in its spool; exit code 1 if events remain.

    A running worker drains its own spool, so this command refuses a spool in use.  SIGTERM and SIGINT stop the command
    at once, and it prints the number of events that remain.

    Example: `noetl-events spool drain /var/spool/noetl --to nats://127.0.0.1:4222`
    """
    _require_spool(path)
    before = await asyncio.to_thread(_summary, path)
    sink = SpoolSink(open_sink(to), path, owns_inner=True, patience=0.0)
    try:
        is_over = await run_until_stopped(_drain(sink, wait))
    finally:
        await sink.aclose()
    after = await asyncio.to_thread(_summary, path)
    result = {"drained": before["waiting"] - after["waiting"], "waiting": after["waiting"]}
    print_result(result, as_json=json, title=str(path))
    if after["waiting"]:
        when = f"after {wait:g} s" if is_over else "at the signal to stop"
        raise SinkUnavailable(f"spool: {path}: {after['waiting']} events remain {when}")
    return 0


async def _drain(sink: SpoolSink, wait: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait):
            await sink.drained()


def _summary(path: Path) -> dict[str, Any]:
    files = segments(path)
    position = load_replay_log(path / "progress.json").position or Position(0, 0)
    if all(number != position.segment for number, _ in files):
        position = Position(0, 0)
    rejected = path / "rejected.jsonl"
    return {
        "waiting": sum(1 for _ in bodies(path, position)),
        "kept": sum(1 for _ in bodies(path, Position(0, 0))),
        "segments": len(files),
        "bytes": sum(file.stat().st_size for _, file in files),
        "damaged": len([*path.glob("*.damaged")]),
        "rejected": len(rejected.read_bytes().splitlines()) if rejected.exists() else 0,
    }


def _require_spool(path: Path) -> None:
    if not (path / "lock").exists():
        raise ValueError(f"path: {path} is no spool; name the folder a spool:// sink was given")
