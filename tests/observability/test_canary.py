"""Secrets appear in no output, log, metric, status or trace."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

import pytest
import structlog
from msgspec import structs

from consumers import logs
from consumers.cli.app import main
from consumers.gateway.auth import TokenFile
from consumers.settings import load
from consumers.sinks.postgres import PostgresSink
from noetl_events import SinkUnavailable, encode
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sinks.http import HttpSink
from noetl_events.sinks.memory import MemorySink
from noetl_events.sinks.nats import NatsSink
from noetl_events.testing import eventually, make_event
from noetl_events.testing.nats_server import NatsServer
from tests.gateway.gateway_process import body_of
from tests.gateway.gateway_process import serving as serving_gateway
from tests.projector.served import serving as serving_projector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from noetl_events.jetstream.declarations import StreamDeclaration

CANARY = "CANARY7f3a"
SEED = "SUACANARY7F3AQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ"
NOWHERE = "127.0.0.1:1"


def leaks(text: str) -> bool:
    """Return true if *text* has the canary in any case, or most of it."""
    return CANARY[:8].lower() in text.lower()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers = list(root.handlers)
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server that refuses the credentials of these tests."""
    config = 'authorization { user: "somebody", password: "else" }'
    with NatsServer(store_dir=tmp_path_factory.mktemp("locked"), config=config) as server:
        yield server.url.removeprefix("nats://")


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    """Run a command in this process, and return its output."""
    for name in [each for each in os.environ if each.startswith(("NATS_", "NOETL_", "OTEL_"))]:
        monkeypatch.delenv(name)
    for name, value in ({"NOETL_LOG_FORMAT": "json", "NOETL_LOG_LEVEL": "debug"} | environ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["noetl-events", *argv])
    with pytest.raises(SystemExit):
        main()
    out, err = capfd.readouterr()
    return out + err


def files(folder: Path) -> dict[str, str]:
    """Write secrets into files, and return their paths."""
    contents = {"token": CANARY, "seed": SEED, "creds": f"-----BEGIN NATS USER JWT-----\n{CANARY}\n", "to": CANARY}
    for name, content in contents.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(content)
    return {name: str(folder / name) for name in contents}


def environ_of(given: dict[str, str], host: str, folder: Path) -> dict[str, str]:
    """Return the variables *given*, with the URL of a server and existing files filled in."""
    return {name: value.format(**files(folder)).replace("HOST", host) for name, value in given.items()}


async def connect(environ: dict[str, str]) -> None:
    """Connect to the server of *environ*."""
    options = structs.replace(load(environ).settings.connect, connect_timeout=0.5)
    async with Connection(options) as connection:
        await connection.client()


async def connecting(environ: dict[str, str]) -> str:
    """Return the output of a connection that the server of *environ* refuses."""
    with pytest.raises((NatsUnavailable, ValueError)) as refusal:
        await connect(environ)
    return chain_of(refusal.value)


def chain_of(error: BaseException) -> str:
    """Return *error* with its chain of causes."""
    said = ""
    cause: BaseException | None = error
    while cause is not None:
        said += repr(cause)
        cause = cause.__cause__ or cause.__context__
    return said


NATS = {
    "a password in the URL": {"NATS_URL": f"nats://user:{CANARY}@HOST"},
    "a token in the URL": {"NATS_URL": f"nats://{CANARY}@HOST"},
    "a password": {"NATS_URL": "nats://HOST", "NATS_USER": "user", "NATS_PASSWORD": CANARY},
    "a token": {"NATS_URL": "nats://HOST", "NATS_TOKEN": CANARY},
    "a token in a file": {"NATS_URL": "nats://HOST", "NATS_TOKEN_FILE": "{token}"},
    "a seed": {"NATS_URL": "nats://HOST", "NATS_NKEY_SEED": "{seed}"},
    "credentials": {"NATS_URL": "nats://HOST", "NATS_CREDS": "{creds}"},
}


async def test_nats_refuses_us(locked: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The errors about refused credentials do not show them, for every form of credentials."""
    logs.configure("debug", "json")
    said = await asyncio.gather(*(connecting(environ_of(given, locked, tmp_path)) for given in NATS.values()))

    # A file without credentials is refused before any connection.
    assert all("cannot connect" in each or "holds no" in each for each in said)
    assert not leaks("".join([*said, *capfd.readouterr()]))


@pytest.mark.parametrize("given", NATS.values(), ids=NATS)
def test_settings_are_shown(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`config show` shows the origin of a secret, and not the secret."""
    environ = environ_of(given, NOWHERE, tmp_path)
    to = f"postgresql://user:{CANARY}@{NOWHERE}/db nats://{CANARY}@{NOWHERE}"
    said = [
        run(monkeypatch, capfd, "config", "show", *json, NOETL_PROJECTOR_TO=to, **environ) for json in ([], ["--json"])
    ]

    assert all("projector" in each for each in said)
    assert not leaks("".join(said))


URLS = [
    f"nats://user:{CANARY}@{NOWHERE}",
    f"nats://user:{CANARY}@host:port",
    f"nats://user:{CANARY}/x@host",
    f"nats://user:{CANARY}#x@host",
    f"nats://user:{CANARY}?x@host",
    f"nats://user:{CANARY}[x@host",
    f"nats://host?token={CANARY}",
    f"postgresql://user:{CANARY}@{NOWHERE}/db",
    f"postgresql://user:{CANARY}@host:port/db",
    f"postgresql://user:{CANARY}/x@host/db",
    f"postgresql://user:{CANARY}#x@host/db",
    f"postgresql://user:{CANARY}[x@host/db",
    f"postgresql://{NOWHERE}/db?password={CANARY}",
    f"postgresql://{NOWHERE}/db?sslmode={CANARY}",
    f"https://user:{CANARY}@{NOWHERE}/api/events",
    f"https://user:{CANARY}/x@host:port/api/events",
    f"https://{NOWHERE}/api/events?token={CANARY}",
    f"http://user:{CANARY}@example.org/api/events",
    f"mystery://user:{CANARY}@host",
    f"user:{CANARY}@host",
    f"//user:{CANARY}@host",
    f"fanout:?to=postgresql%3A%2F%2Fuser%3A{CANARY}%40host%3Aport%2Fdb",
    f"fanout:?to=mystery%3A%2F%2Fuser%3A{CANARY}%40host",
]


COMMANDS = {
    "project": "project --nats nats://127.0.0.1:1 --listen 127.0.0.1:x --to",
    "replay": "replay FILE --wait 0 --to",
    "schema": "schema",
}


# A replay waits half a minute for NATS.
TRIED = [(COMMANDS[name], url) for name in COMMANDS for url in URLS if (name, url) != ("replay", URLS[0])]


@pytest.mark.parametrize(("command", "url"), TRIED)
def test_wrong_destination(
    command: str, url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A destination that is unavailable, misspelt or unknown is reported without its secrets."""
    (tmp_path / "one.jsonl").write_bytes(encode(make_event(1)))
    argv = [*command.replace("FILE", str(tmp_path / "one.jsonl")).split(), url]
    said = run(monkeypatch, capfd, *argv)

    assert "Traceback" not in said
    assert not leaks(said)


async def test_wrong_nats(capfd: pytest.CaptureFixture[str]) -> None:
    """A NATS URL that is misspelt or has no server is reported without its secrets."""
    logs.configure("debug", "json")
    urls = [each for each in URLS if each.startswith("nats")]
    said = await asyncio.gather(*(connecting({"NATS_URL": url}) for url in urls))

    assert all(said)
    assert not leaks("".join([*said, *capfd.readouterr()]))


@pytest.mark.parametrize("form", ["json", "console"])
async def test_daemons(
    connection: Connection,
    stream: StreamDeclaration,
    spans: InMemorySpanExporter,
    locked: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    form: str,
) -> None:
    """Projector, gateway and sinks, working and refused, show no secret in logs, errors, metrics, status or traces."""
    logs.configure("debug", form)
    paths = files(tmp_path)
    shown: list[object] = []
    async with serving_gateway(connection, stream, rule=TokenFile(tmp_path / "token")) as web:
        bearer = f"Bearer {CANARY}"
        good = HttpSink(f"{web.url}/api/events", token_file=paths["token"])
        await good.emit(make_event(1))
        shown += await web.post("/api/events", body_of(2, step=None), authorization=bearer)
        shown += await web.post("/api/events", body_of(2), authorization=f"{bearer}x")
        shown += await web.get("/api/status", authorization=bearer)
        async with web.session.get(f"{web.url}/metrics") as response:
            shown.append(await response.text())
        for sink in (
            HttpSink(f"{web.url}/api/events", token=f"{CANARY}x"),
            HttpSink(f"http://{NOWHERE}/api/events", token=CANARY),
            NatsSink(
                Connection(ConnectOptions(servers=f"nats://user:{CANARY}@{locked}", connect_timeout=0.3)), timeout=0.3
            ),
            PostgresSink(f"postgresql://user:{CANARY}@{NOWHERE}/db"),
        ):
            shown.append(await refused(sink))
            await sink.aclose()
        await good.aclose()
    shown += await held(connection, stream)
    shown += [span.to_json() for span in spans.get_finished_spans()]
    shown += capfd.readouterr()

    assert len(shown) > 15
    assert "projector.holding" in str(shown)
    assert not leaks(str(shown))


async def refused(sink: HttpSink | NatsSink | PostgresSink) -> str:
    """Return the output of *sink* when it rejects every event."""
    with pytest.raises(SinkUnavailable) as refusal:
        await sink.emit(make_event(1))
    return chain_of(refusal.value)


async def held(connection: Connection, stream: StreamDeclaration) -> list[str]:
    """Return the output of a projector that retries because its database is unavailable."""
    sink = PostgresSink(f"postgresql://user:{CANARY}@{NOWHERE}/db")
    async with serving_projector(connection, stream, sink) as served:
        await NatsSink(connection, subject=f"{stream.name}.x").emit(make_event(1))
        await eventually(lambda: served.service.report().projectors["projector"].part == "sink")
        said = [(await served.get(path))[1].decode() for path in ("/readyz", "/healthz", "/metrics")]
        # The projector must end here, because it would retry for ever.
        served.service.projectors[0]._quarantine._sink = MemorySink()
    await sink.aclose()
    return said
