"""Secrets: in files, replaced while in use, and never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trustme
from structlog.testing import capture_logs

from consumers.settings import declared_settings, load
from noetl_events.jetstream.connect.servers import redacted
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.testing import eventually
from noetl_events.testing.nats_server import NatsServer
from tests.settings.files import CANARY, refusal_of, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_who_may_read_it(mode: int, *, warned: bool, tmp_path: Path) -> None:
    """A secret file that other users can read is used, with a warning that names path and remedy."""
    secret = write(tmp_path / "secret", CANARY)
    secret.chmod(mode)
    with capture_logs() as lines:
        load({"NATS_TOKEN_FILE": str(secret)})

    warning = {"setting": "NATS_TOKEN_FILE", "path": str(secret), "remedy": "chmod 0600", "mode": f"{mode:04o}"}
    assert lines[:1] == ([{"event": "settings.secret_readable", "log_level": "warning"} | warning] if warned else [])


def test_a_settings_file_with_a_password_is_a_secret(tmp_path: Path) -> None:
    """A settings file causes that warning only if it holds a secret and other users can read it."""
    plain = write(tmp_path / "plain.toml", "[nats]\ntls_first = true\n")
    secret = write(tmp_path / "secret.toml", f'[nats]\ntoken = "{CANARY}"\n')
    plain.chmod(0o644)
    secret.chmod(0o644)
    with capture_logs() as lines:
        load({}, config=plain)
        load({}, config=secret)

    assert [line["path"] for line in lines] == [str(secret)]


def test_no_secret_in_the_file(tmp_path: Path) -> None:
    """A secret file that is missing, empty, no file, no text or too large is refused by name, without its content."""
    empty, binary, large = (
        write(tmp_path / "empty", " \n"),
        tmp_path / "binary",
        write(tmp_path / "large", CANARY * 9_000),
    )
    binary.write_bytes(CANARY.encode() + b"\xff")

    assert "NATS_PASSWORD_FILE: '/no' cannot be read: No such file" in refusal_of("NATS_PASSWORD_FILE", "/no")
    assert f"'{empty}' is empty; write the secret into it" in refusal_of("NATS_TOKEN_FILE", str(empty))
    assert f"'{tmp_path}' is not a file" in refusal_of("NATS_TOKEN_FILE", str(tmp_path))
    assert f"'{binary}' is not UTF-8" in refusal_of("NATS_TOKEN_FILE", str(binary))
    assert f"'{large}' is larger than 65536 bytes" in refusal_of("NATS_TOKEN_FILE", str(large))
    two = write(tmp_path / "two", f"{CANARY}\n{CANARY}")
    assert "contains a control character" in refusal_of("NATS_TOKEN_FILE", str(two))


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    """Neither the settings nor their output shows a secret, whatever its source."""
    file = write(tmp_path / "secret", CANARY)
    environ = {
        "NATS_URL": f"nats://u:{CANARY}@h, nats://{CANARY}@g",
        "NATS_USER": "u",
        "NATS_PASSWORD": CANARY,
        "NATS_TOKEN_FILE": str(file),
        "NOETL_PROJECTOR_TO": f"postgresql://h/d?password={CANARY} fanout:?to=http%3A%2F%2Fu%3A{CANARY}%40h {CANARY}@h",
    }
    loaded = load(environ)
    shown = [setting.shown(loaded.value(setting)) for setting in declared_settings()]

    assert CANARY not in f"{loaded} {loaded!r} {shown}"
    assert "'nats://***@h,nats://***@g'" in shown
    assert "***" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("canary@host", "***@host"),
        ("u:canary@host:4222", "***@host:4222"),
        ("fanout:?to=http%3A%2F%2Fu%3Acanary%40h", "fanout:"),
        ("fanout:?to=http://u:canary@h", "fanout:"),
        ("stdout:", "stdout:"),
        ("noop", "noop"),
    ],
)
def test_what_is_hardly_a_url_is_redacted(url: str, shown: str) -> None:
    """A URL without its scheme, or within another URL, shows no secret either."""
    assert redacted(url) == shown


async def test_a_new_password_needs_no_restart(tmp_path: Path) -> None:
    """A password changed at the server and in its file is used from the next connection on."""
    config = "authorization {{ user: worker, password: {} }}".format
    file = write(tmp_path / "password", "old\n")
    with NatsServer(store_dir=tmp_path / "nats", config=config("old")) as server:
        options = ConnectOptions(servers=server.url, user="worker", password_file=str(file))
        async with Connection(options) as connection:
            await (await connection.client()).flush()
            restored: list[bool] = []
            connection.on_reconnect(lambda: restored.append(True))
            write(file, "new\n")
            server.reload(config("new"))
            await eventually(lambda: restored)
            await (await connection.client()).flush()


async def test_a_token_file_that_is_replaced(tmp_path: Path) -> None:
    """While a token file is missing, as during its replacement, the last token is used."""
    file = write(tmp_path / "token", "secret\n")
    with NatsServer(store_dir=tmp_path / "nats", config="authorization { token: secret }") as server:
        async with Connection(ConnectOptions(servers=server.url, token_file=str(file))) as connection:
            await (await connection.client()).flush()
            restored: list[bool] = []
            connection.on_reconnect(lambda: restored.append(True))
            file.unlink()
            server.kill()
            server.start()
            await eventually(lambda: restored)


async def test_a_new_certificate_needs_no_restart(tmp_path: Path) -> None:
    """A client certificate of a new authority, written with its key, is used from the next connection on."""
    old, new = trustme.CA(), trustme.CA()
    for authority, name in ((old, "old"), (new, "new")):
        authority.cert_pem.write_to_path(tmp_path / f"{name}.ca")
    server_cert, config = old.issue_cert("127.0.0.1"), f'tls {{{{ cert_file: "{tmp_path}/server", verify: true, '
    server_cert.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server")
    config += f'key_file: "{tmp_path}/server", ca_file: "{tmp_path}/{{}}.ca" }}}}'
    ours: dict[str, Any] = {
        "tls_ca": f"{tmp_path}/old.ca",
        "tls_cert": f"{tmp_path}/client",
        "tls_key": f"{tmp_path}/client",
    }
    old.issue_cert("worker").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client")
    with NatsServer(store_dir=tmp_path / "nats", config=config.format("old")) as server:
        options = ConnectOptions(servers=server.url.replace("nats://", "tls://"), **ours)
        async with Connection(options) as connection:
            await (await connection.client()).flush()
            restored: list[bool] = []
            connection.on_reconnect(lambda: restored.append(True))
            server.kill()
            new.issue_cert("worker").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client")
            server.config = config.format("new")
            server.start()
            await eventually(lambda: restored)
