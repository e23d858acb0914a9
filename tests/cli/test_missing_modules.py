"""A setting that needs a missing module, or a file without credentials: one line, and exit code 2."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from consumers.cli import main
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.sink import open_sink
from tests.cli.command import run

if TYPE_CHECKING:
    from pathlib import Path

SEED = "SUAMK2FG4MI6UE3ACF3FK3OIQBCEIEZV7NSWFFEW63UXMRLFM2XLAXK4GY\n"


@pytest.mark.parametrize(
    ("module", "environ", "words"),
    [
        pytest.param("aiohttp", {"NATS_URL": "ws://127.0.0.1:1"}, "pip install 'noetl-events[websocket]'", id="ws"),
        pytest.param("nkeys", {"NATS_CREDS": "{file}"}, "pip install 'noetl-events[nkeys]'", id="credentials"),
        pytest.param("nkeys", {"NATS_NKEY_SEED": "{file}"}, "pip install 'noetl-events[nkeys]'", id="seed"),
    ],
)
@pytest.mark.parametrize(
    "command", [["stream", "show"], ["emit", "-"], ["tail"], ["project", "--to", "noop:"], ["doctor"]]
)
def test_missing_module(
    module: str,
    environ: dict[str, str],
    words: str,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """The command ends before any connection, with a line that names the option and the extra."""
    file = tmp_path / "file"
    file.write_text(SEED)
    file.chmod(0o600)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    for name, value in environ.items():
        monkeypatch.setenv(name, value.format(file=file))
    monkeypatch.setattr(sys, "argv", ["noetl-events", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err

    assert ended.value.code == 2
    assert said.splitlines()[-1].endswith(words)
    assert "refuses the connection" not in said


def test_missing_module_of_a_sink_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink URL that needs a missing module is refused when it is opened."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ModuleNotFoundError, match="websocket"):
        open_sink("ws://127.0.0.1:1")
    with pytest.raises(ModuleNotFoundError, match="websocket"):
        Connection(ConnectOptions(servers="wss://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param("NATS_CREDS", None, "credentials: {file}: No such file", id="no file"),
        pytest.param("NATS_NKEY_SEED", None, "nkey_seed: {file}: No such file", id="no file with a seed"),
        pytest.param("NATS_TLS_CA", None, "tls_ca: {file}: No such file", id="no authorities"),
        pytest.param("NATS_TLS_CERT", None, "tls_cert and tls_key: {file}, {file}: No such file", id="no certificate"),
        pytest.param("NATS_CREDS", "vm\n", "holds no user JWT and seed", id="no credentials"),
        pytest.param("NATS_CREDS", "", "holds no user JWT and seed", id="an empty file"),
        pytest.param("NATS_NKEY_SEED", "vm\n", "holds no seed of a user", id="no seed"),
        pytest.param("NATS_NKEY_SEED", "", "holds no seed of a user", id="an empty seed"),
        pytest.param("NATS_TLS_CA", "vm\n", "tls_ca: {file}: ", id="no authority"),
    ],
)
def test_file_that_holds_no_credentials(name: str, content: str | None, words: str, tmp_path: Path) -> None:
    """A file without the expected credential ends the command at once with its path; nats-py would retry for ever."""
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    more = {"NATS_TLS_KEY": str(file)} if name == "NATS_TLS_CERT" else {}
    done = run("stream", "show", environ={name: str(file)} | more)

    assert done.returncode == 2, done.stderr
    assert words.format(file=file) in done.stderr.decode()
    assert b"refuses the connection" not in done.stderr
