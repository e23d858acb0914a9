"""`noetl-events health` and the endpoint of `noetl-events project` that it requests, as processes."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from noetl_events.testing import eventually
from noetl_events.testing.nats_server import free_port
from tests.cli.command import environment, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from noetl_events.testing.nats_server import NatsServer


@pytest.fixture
def server(own_server: NatsServer) -> NatsServer:
    """Return a server with the streams that `stream ensure` makes."""
    assert run("stream", "ensure", nats=own_server.url).returncode == 0
    return own_server


# The environment is one where the extra is not installed.
BARE = [sys.executable, "-c", "import sys; sys.modules['uvicorn'] = None; from consumers.cli import main; main()"]


@contextmanager
def projecting(
    server: NatsServer, log: Path, *arguments: str, program: Sequence[str] = (), **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `noetl-events project` into a no-op sink."""
    command = [*(program or (sys.executable, "-m", "consumers")), "project", "--to", "noop:", *arguments]
    with (
        log.open("wb") as lines,
        subprocess.Popen(command, env=environment(server.url) | variables, stderr=lines) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


async def test_health_of_a_running_projector(server: NatsServer, tmp_path: Path) -> None:
    """A ready projector answers both checks with 0; without NATS it is alive and not ready, with the reason."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with projecting(server, tmp_path / "log", "--listen", f"127.0.0.1:{port}"):
        await eventually(lambda: run("health", "--url", url, "--ready").returncode == 0)
        well = run("health", "--url", url)
        server.kill()
        await eventually(lambda: run("health", "--url", url, "--ready").returncode == 1)
        lives, waits = run("health", "--url", url), run("health", "--url", url, "--ready")

    assert (well.returncode, well.stdout) == (0, b"ok\n")
    assert (lives.returncode, waits.returncode) == (0, 1)
    assert lives.stdout.startswith(b"noetl_projector: nats: not connected")
    assert waits.stdout.startswith(b"noetl_projector: nats: not connected")


def test_nobody_there() -> None:
    """Without a listener the check fails."""
    done = run("health", "--url", f"http://127.0.0.1:{free_port()}")

    assert done.returncode == 1
    assert done.stdout.startswith(b"no answer from http://127.0.0.1:")


class Stranger(BaseHTTPRequestHandler):
    """A foreign HTTP server."""

    def do_GET(self) -> None:
        """Give any answer."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>\x1b[2J</html>")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_stranger_on_the_port() -> None:
    """Another server on the port is no projector, whatever its answer."""
    with HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        answering = Thread(target=stranger.handle_request)
        answering.start()
        done = run("health", "--url", f"http://127.0.0.1:{stranger.server_port}")
        answering.join(180)

    assert done.returncode == 1
    assert b"it answers 200 OK" in done.stdout


@pytest.mark.parametrize("url", ["https://x", "127.0.0.1:9464", "http://"])
def test_wrong_url(url: str) -> None:
    """An unusable URL is wrong input."""
    done = run("health", "--url", url)

    assert done.returncode == 2
    assert b"is not http://HOST:PORT" in done.stderr


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        pytest.param("9464", b"'9464' is neither 'off' nor HOST:PORT", id="no host"),
        pytest.param("localhost", b"'localhost' is neither", id="no port"),
        pytest.param("localhost:http", b"'localhost:http' is neither", id="no number"),
        pytest.param("localhost:99999", b"'localhost:99999' is neither", id="no such port"),
        pytest.param("no.such.host.invalid:1", b"no.such.host.invalid:1: ", id="no such host"),
    ],
)
def test_wrong_address(listen: str, reason: bytes) -> None:
    """An unusable address ends the projector at once, with its name."""
    done = run("project", "--to", "noop:", "--listen", listen)

    assert done.returncode == 2
    assert reason in done.stderr


def test_asked_for_and_taken() -> None:
    """A configured address that is taken ends the projector at once."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("project", "--to", "noop:", "--listen", address)

    assert done.returncode == 2
    assert f"listen: {address}: Address already in use".encode() in done.stderr


async def test_default_taken(server: NatsServer, tmp_path: Path) -> None:
    """Two projectors on one machine both run: the second logs that it has no endpoint."""
    log, other = tmp_path / "log", tmp_path / "other"
    with projecting(server, log) as first, projecting(server, other, "--durable", "other") as second:
        # If another process has the port, at least one has no endpoint, and each must have started before its stop.
        await eventually(lambda: b"endpoint.missing" in log.read_bytes() + other.read_bytes())
        await eventually(lambda: run("stream", "show", "--json", nats=server.url).stdout.count(b'"consumers":2'))
        for process in (first, second):
            process.terminate()
            assert process.wait(180) == 0


async def test_off(server: NatsServer, tmp_path: Path) -> None:
    """Switched off, by option or by setting, there is no endpoint and no log line about it."""
    log = tmp_path / "log"
    with projecting(server, log, NOETL_LISTEN="off") as process:
        await eventually(lambda: run("stream", "show", "--json", nats=server.url).stdout.count(b'"consumers":1'))
        process.terminate()
        assert process.wait(180) == 0

    assert b"endpoint" not in log.read_bytes()


async def test_extra_missing(server: NatsServer, tmp_path: Path) -> None:
    """Without the extra the projector runs, and logs once that it has no endpoint, with the remedy."""
    log = tmp_path / "log"
    with projecting(server, log, program=BARE) as process:
        await eventually(lambda: run("stream", "show", "--json", nats=server.url).stdout.count(b'"consumers":1'))
        process.terminate()
        assert process.wait(180) == 0

    assert log.read_bytes().count(b"endpoint.missing") == 1
    assert b"this needs the module uvicorn; pip install 'noetl-events[serve]'" in log.read_bytes()


def test_extra_missing_and_asked_for(server: NatsServer, tmp_path: Path) -> None:
    """Without the extra a configured endpoint ends the projector at once."""
    with projecting(server, log := tmp_path / "log", "--listen", "127.0.0.1:0", program=BARE) as process:
        assert process.wait(180) == 2

    assert b"this needs the module uvicorn" in log.read_bytes()


async def test_stops_in_time_while_somebody_asks(server: NatsServer, tmp_path: Path) -> None:
    """A client that keeps its connection open does not delay the projector's exit."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with projecting(server, tmp_path / "log", NOETL_LISTEN=f"127.0.0.1:{port}") as process:
        await eventually(lambda: run("health", "--url", url, "--ready").returncode == 0)
        with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as kept:
            kept.request("GET", "/metrics")
            assert kept.getresponse().status == 200
            with closing(socket.create_connection(("127.0.0.1", port))) as half:
                half.sendall(b"GET /metrics HTTP/1.1\r\n")
                process.terminate()
                assert process.wait(180) == 0
