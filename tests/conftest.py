"""Real servers and fresh streams for the tests that need them."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import nats
import pytest
import structlog

from consumers import logs
from noetl_events.jetstream.api import jetstream
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing.nats_server import NatsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from nats.js import JetStreamContext

_numbers = count()
# The temporary folders of a run are kept for so many seconds for inspection: no run takes that long.
_KEPT = 86_400.0


def pytest_configure() -> None:
    """
    Give the temporary folders of this run a root of their own.

    pytest removes the access of other users to the one root of a user each time it starts, and a Postgres of a
    parallel run, which serves as another user, would lose its folder.
    """
    root = Path(tempfile.gettempdir(), f"noetl-events-tests-{os.getuid()}")
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        own = root / str(os.getpid())
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(own)
        for other in root.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - other.stat().st_mtime > _KEPT:
                    shutil.rmtree(other, ignore_errors=True)
    # The present speed of this machine says nothing about the code; and a checkout may be read-only.
    hypothesis.settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], database=None
    )
    hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Let Ctrl-C reach the processes that tests start, also under nohup: children inherit an ignored signal."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Undo the logging configuration of a command that ran in this process: its stream is closed with the test."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        logging.captureWarnings(capture=False)
        root = logging.getLogger()
        for handler in [each for each in root.handlers if each.get_name() == logs.__name__]:
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the server of this session: `NATS_URL` if set, otherwise one from the wheel."""
    if url := os.environ.get("NATS_URL"):
        yield url
        return
    with NatsServer(store_dir=tmp_path_factory.mktemp("nats")) as server:
        yield server.url


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Return a server that the test may kill."""
    with NatsServer(store_dir=tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[Connection]:
    """Return a connection to the server of this session."""
    async with Connection(ConnectOptions(servers=nats_url)) as opened:
        yield opened


@pytest.fixture
async def stream(connection: Connection) -> AsyncIterator[StreamDeclaration]:
    """Return an empty stream with its own name and subjects, deleted after the test."""
    name = f"events_{os.getpid()}_{next(_numbers)}"
    declared = StreamDeclaration(name=name, subjects=(f"{name}.>",))
    await ensure_stream(connection, declared)
    yield declared
    await (await jetstream(connection)).delete_stream(name)


@pytest.fixture
async def dead_stream(connection: Connection) -> AsyncIterator[StreamDeclaration]:
    """Return an empty dead-letter stream, deleted after the test."""
    name = f"dead_{os.getpid()}_{next(_numbers)}"
    declared = StreamDeclaration(name=name, subjects=(f"{name}.>",))
    await ensure_stream(connection, declared)
    yield declared
    await (await jetstream(connection)).delete_stream(name)


@pytest.fixture
async def outside(nats_url: str) -> AsyncIterator[JetStreamContext]:
    """Return a JetStream client of nats-py that does not go through the library."""
    client = await nats.connect(nats_url)
    yield client.jetstream(timeout=60)
    await client.close()


@pytest.fixture
def subject(stream: StreamDeclaration) -> str:
    """Return a subject template inside the stream of the test."""
    return f"{stream.name}.{{event_type}}"
