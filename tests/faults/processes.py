"""Projectors as processes, and their events in a SQLite file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.streams import ensure_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from noetl_events.jetstream.connection import Connection
    from noetl_events.testing.nats_server import NatsServer


@contextmanager
def projecting(
    server: NatsServer, *to: str, log: Path, arguments: tuple[str, ...] = (), settings: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `noetl-events project` as a process, and kill it in the end if it still runs."""
    command = [sys.executable, "-m", "consumers", "project", *arguments]
    for url in to:
        command += ["--to", url]
    environment = os.environ | {"NATS_URL": server.url, "NOETL_ACK_WAIT_SECS": "1", "NOETL_PIN_SECS": "1"}
    environment |= settings or {}
    with log.open("ab") as lines, subprocess.Popen(command, env=environment, stderr=lines) as process:
        try:
            yield process
        finally:
            process.kill()


async def ended(process: subprocess.Popen[bytes], *, timeout: float = 180.0) -> int:  # noqa: ASYNC109  (as Popen has it)
    """Return the exit code of *process* after it ended by itself."""
    return await asyncio.to_thread(process.wait, timeout)


def stored_ids(path: Path) -> list[int]:
    """Return the ids in the SQLite file *path* in order of arrival; none while there is no table."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as database:
            return [row[0] for row in database.execute("SELECT event_id FROM event ORDER BY rowid")]
    except sqlite3.OperationalError:
        return []


async def split(connection: Connection, partitions: int) -> None:
    """Create the stream again with *partitions* partitions."""
    await (await jetstream(connection)).delete_stream(StreamDeclaration().name)
    await ensure_stream(connection, StreamDeclaration(partitions=partitions))
