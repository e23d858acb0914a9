"""With TLS required, no server without TLS gets the credentials: on connect, on reconnect, or when discovered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.testing import eventually
from noetl_events.testing.nats_server import NatsServer, free_port
from tests.jetstream.certificates import Certificates
from tests.jetstream.listeners import info, listening

if TYPE_CHECKING:
    from pathlib import Path

USER: dict[str, Any] = {"user": "worker", "password": "canary"}


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Return certificates for 127.0.0.1."""
    return Certificates(tmp_path / "tls")


async def refusal(**options: Any) -> str:
    """Return the reason why no connection with *options* is made."""
    async with Connection(ConnectOptions(connect_timeout=60.0, **options)) as connection:
        with pytest.raises(NatsUnavailable) as refused:
            await connection.client()
    return str(refused.value)


@pytest.mark.parametrize("asked_by", ["URL", "another URL", "authority", "certificate"])
async def test_server_without_tls_is_told_nothing(asked_by: str, certificates: Certificates) -> None:
    """A server that offers no TLS gets neither CONNECT nor anything else, whichever option requires TLS."""
    async with listening(info()) as listener:
        servers, options = f"nats://{listener.host}", dict[str, Any]()
        match asked_by:
            case "URL":
                servers = f"tls://{listener.host}"
            case "another URL":
                servers = f"nats://{listener.host},tls://127.0.0.1:1"
            case "authority":
                options = {"tls_ca": certificates.ca}
            case _:
                options = certificates.client
        reason = await refusal(servers=servers, **options, **USER)

        assert "offers no TLS" in reason
        assert listener.connections == 1
        assert listener.heard == b""


async def test_user_of_the_url_and_token_likewise() -> None:
    """A user in the URL, a token, or no credentials: no byte is sent in plain text."""
    async with listening(info(auth_required=True, nonce="abc")) as listener:
        for servers, options in (
            (f"tls://worker:canary@{listener.host}", {}),
            (f"tls://{listener.host}", {"token": "canary"}),
            (f"tls://{listener.host}", {}),
        ):
            assert "offers no TLS" in await refusal(servers=servers, **options)

        assert listener.heard == b""


async def test_tls_switched_off_between_two_connections(tmp_path: Path, certificates: Certificates) -> None:
    """A server that has lost its TLS is not reconnected to, and gets nothing; with TLS it is connected again."""
    users = 'authorization { user: "worker", password: "canary" }'
    secure = f"{certificates.config()}\n{users}"
    with NatsServer(store_dir=tmp_path / "nats", config=secure) as server:
        options = ConnectOptions(
            servers=server.url.replace("nats:", "tls:"), tls_ca=certificates.ca, connect_timeout=20.0, **USER
        )
        async with Connection(options) as connection:
            await (await connection.client()).flush()
            server.terminate()
            async with listening(info(), port=server.port) as listener:
                await eventually(lambda: listener.connections > 1)
                assert listener.heard == b""
                assert "offers no TLS" in connection.trouble
            server.config = users
            server.start()
            await eventually(lambda: "offers no TLS" in connection.trouble)
            await asyncio.sleep(0.5)
            assert not connection.is_connected
            server.terminate()
            server.config = secure
            server.start()
            await eventually(lambda: connection.is_connected, timeout=180)
            await (await connection.client()).flush()


async def test_discovered_server_without_tls_is_told_nothing(tmp_path: Path, certificates: Certificates) -> None:
    """A discovered server that offers no TLS is tried, and gets nothing."""
    first, second = free_port(), free_port()
    routes = f'routes: ["nats://127.0.0.1:{first}", "nats://127.0.0.1:{second}"]'

    def config(route: int) -> str:
        return f'{certificates.config()}\ncluster {{ name: c, listen: "127.0.0.1:{route}", {routes} }}\n'

    async with listening(info()) as listener:
        advertised = f'{config(second)}client_advertise: "{listener.host}"'
        with (
            NatsServer(store_dir=tmp_path / "n1", name="n1", config=config(first), jetstream=False) as server,
            NatsServer(store_dir=tmp_path / "n2", name="n2", config=advertised, jetstream=False),
        ):
            options = ConnectOptions(
                servers=server.url.replace("nats:", "tls:"), tls_ca=certificates.ca, connect_timeout=20.0, **USER
            )
            async with Connection(options) as connection:
                client = await connection.client()
                await eventually(lambda: listener.host in [url.netloc for url in client.discovered_servers])
                server.kill()
                await eventually(lambda: listener.connections)

                assert listener.heard == b""


async def test_optional_tls_is_used(tmp_path: Path, certificates: Certificates) -> None:
    """A server with optional TLS is connected with TLS where an option requires it."""
    config = f"{certificates.config()}\nallow_non_tls: true"
    with NatsServer(store_dir=tmp_path / "nats", config=config) as server:
        for url, is_encrypted in ((server.url, False), (server.url.replace("nats:", "tls:"), True)):
            ca = certificates.ca if is_encrypted else None
            async with Connection(ConnectOptions(servers=url, tls_ca=ca)) as connection:
                client = await connection.client()
                await client.flush()

                assert client.transport._connected().is_encrypted is is_encrypted


async def test_handshake_first(tmp_path: Path, certificates: Certificates) -> None:
    """With the option set, TLS starts before INFO, also after a restart; without it the error names the option."""
    with NatsServer(store_dir=tmp_path / "nats", config=certificates.config("handshake_first: true")) as server:
        url = server.url.replace("nats:", "tls:")
        assert "waits for a TLS handshake; set tls_first" in await refusal(servers=url, tls_ca=certificates.ca)
        options = ConnectOptions(servers=url, tls_ca=certificates.ca, tls_first=True)
        async with Connection(options) as connection:
            await (await connection.client()).flush()
            server.kill()
            await eventually(lambda: not connection.is_connected)
            server.start()
            await eventually(lambda: connection.is_connected, timeout=180)
            await (await connection.client()).flush()


async def test_handshake_first_with_a_server_that_speaks_first(own_server: NatsServer) -> None:
    """A server without TLS, which sends INFO first, is reported as one."""
    assert "the server does not use TLS" in await refusal(servers=own_server.url, tls_first=True)


async def test_reasons_of_certificates(tmp_path: Path, certificates: Certificates) -> None:
    """The reason why a certificate is refused is reported, with the option that helps."""
    other = Certificates(tmp_path / "other", identity="nats.example.org")
    with NatsServer(store_dir=tmp_path / "nats", config=certificates.verifying) as server:
        url = server.url.replace("nats:", "tls:")
        assert "unable to get local issuer" in (reason := await refusal(servers=url, **certificates.client))
        assert "NATS_TLS_CA" in reason
        assert "NATS_TLS_CERT" in await refusal(servers=url, tls_ca=certificates.ca)
        server.terminate()
        server.config = other.config()
        server.start()
        assert "not valid for '127.0.0.1'" in await refusal(servers=url, tls_ca=other.ca)


async def test_closing_is_quiet(tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """A connection with TLS closes without a log line of asyncio."""
    with NatsServer(store_dir=tmp_path / "nats", config=certificates.config()) as server:
        url = server.url.replace("nats:", "tls:")
        async with Connection(ConnectOptions(servers=url, tls_ca=certificates.ca)) as connection:
            await (await connection.client()).flush()

    assert not caplog.records


async def test_handshake_that_is_never_answered(certificates: Certificates) -> None:
    """A server that asks for TLS and then stays silent costs the time of one attempt."""
    async with listening(info(tls_required=True)) as silent:
        options = ConnectOptions(servers=f"tls://{silent.host}", tls_ca=certificates.ca, connect_timeout=0.5)
        async with asyncio.timeout(120), Connection(options) as connection:
            with pytest.raises(NatsUnavailable, match=r"does not answer within 0\.5 s"):
                await connection.client()
