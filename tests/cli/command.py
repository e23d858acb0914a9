"""
Run `noetl-events` in a separate process.

The processes are forked from a server that has imported every command already, so that a
test takes the time of its command, without half a second of imports.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from consumers.cli import main
from consumers.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.context import ForkServerProcess

app.resolved_commands()
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


def environment(nats: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which NATS is at *nats*, with *more* variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
    return kept | {"NATS_URL": nats} | dict(more or {})


def run(
    *arguments: str, nats: str = "nats://127.0.0.1:1", stdin: bytes = b"", environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `noetl-events` with *arguments*, assert that no traceback was shown, and return the result."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        files[0].write_bytes(stdin)
        process = start(arguments, nats, files, environ)
        process.join(180)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, 60, files[1].read_bytes(), files[2].read_bytes())
        done = subprocess.CompletedProcess(arguments, process.exitcode, files[1].read_bytes(), files[2].read_bytes())
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def start(
    arguments: Sequence[str], nats: str, files: Sequence[Path], environ: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Start `noetl-events` with *arguments*, and *files* for its standard input, output and error."""
    process = _processes.Process(target=become, args=(arguments, environment(nats, environ), files))
    process.start()
    return process


def become(arguments: Sequence[str], variables: dict[str, str], files: Sequence[Path]) -> None:
    """Run `noetl-events` in this process, with its arguments, environment and three files."""
    for descriptor, file in enumerate(files):
        opened = os.open(file, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115  (descriptors)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["noetl-events", *arguments]
    main()
