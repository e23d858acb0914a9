"""The connection on real servers: every form of credentials, and the behaviour of a broken connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import nkeys
import pytest
import trustme
from nats.errors import Error as NatsError

from noetl_events.jetstream.connect.servers import redacted
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.errors import NatsUnavailable
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.testing import eventually
from noetl_events.testing.nats_server import NatsServer
from tests.jetstream.credentials import Operator

if TYPE_CHECKING:
    from pathlib import Path


async def connects(options: ConnectOptions) -> None:
    """Connect and get an answer of the server."""
    async with Connection(options) as connection:
        await (await connection.client()).flush()


async def test_user_and_password(tmp_path: Path) -> None:
    """User and password connect, as options or in the URL; the options win, and a wrong password is reported."""
    config = "authorization { user: worker, password: secret }"
    with NatsServer(store_dir=tmp_path, config=config) as server:
        host = server.url.removeprefix("nats://")
        await connects(ConnectOptions(servers=server.url, user="worker", password="secret"))
        await connects(ConnectOptions(servers=f"nats://worker:secret@{host}"))
        await connects(ConnectOptions(servers=f"nats://x:y@{host}", user="worker", password="secret"))
        with pytest.raises(NatsUnavailable, match="Authorization Violation") as refusal:
            await connects(
                ConnectOptions(servers=f"nats://worker:wrong-secret@{host}", connect_timeout=60.0),
            )

        assert "wrong-secret" not in str(refusal.value)


async def test_token(tmp_path: Path) -> None:
    """A token connects."""
    with NatsServer(store_dir=tmp_path, config='authorization { token: "secret" }') as server:
        await connects(ConnectOptions(servers=server.url, token="secret"))


async def test_nkey(tmp_path: Path) -> None:
    """The seed of an nkey in a file connects."""
    pair = nkeys.from_seed(nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER))
    config = f"authorization {{ users: [ {{ nkey: {pair.public_key.decode()} }} ] }}"
    seed = tmp_path / "user.nk"
    seed.write_bytes(bytes(pair.seed))
    with NatsServer(store_dir=tmp_path / "nats", config=config) as server:
        await connects(ConnectOptions(servers=server.url, nkey_seed=str(seed)))


async def test_credentials_file(tmp_path: Path) -> None:
    """A credentials file connects; after its expiry the connection ends, and a new file in its place is read."""
    operator, file = Operator(), tmp_path / "worker.creds"
    with NatsServer(store_dir=tmp_path / "nats", config=operator.config, jetstream=False) as server:
        operator.write_credentials(file, seconds=8)
        options = ConnectOptions(servers=server.url, credentials=str(file), connect_timeout=20.0)
        async with Connection(options) as connection:
            await (await connection.client()).flush()
            await eventually(lambda: not connection.is_connected)
            operator.write_credentials(file)
            await eventually(lambda: is_served(connection))


async def is_served(connection: Connection) -> bool:
    """Return whether the server answers."""
    try:
        await (await connection.client()).flush(timeout=10)
    except (NatsUnavailable, NatsError):
        return False
    return True


async def test_mutual_tls(tmp_path: Path) -> None:
    """Both sides present a certificate; without the client's, or without the server's authority, connecting fails."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, identity in (("server", "127.0.0.1"), ("client", "worker@example.org")):
        cert = authority.issue_cert(identity)
        cert.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        cert.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    config = (
        f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key", '
        f'ca_file: "{tmp_path}/ca.pem", verify: true }}'
    )
    ours: dict[str, Any] = {"tls_cert": f"{tmp_path}/client.pem", "tls_key": f"{tmp_path}/client.key"}
    with NatsServer(store_dir=tmp_path / "nats", config=config) as server:
        url = server.url.replace("nats://", "tls://")
        await connects(ConnectOptions(servers=url, tls_ca=f"{tmp_path}/ca.pem", **ours))
        for wrong in ({"tls_ca": f"{tmp_path}/ca.pem"}, ours):
            with pytest.raises(NatsUnavailable):
                await connects(ConnectOptions(servers=url, connect_timeout=60.0, **wrong))


async def test_private_inbox(tmp_path: Path) -> None:
    """With its own inbox prefix a client needs no permission for the replies of other clients."""
    config = (
        "authorization { users: [ { user: w, password: p, permissions: "
        '{ publish: ["$JS.API.INFO"], subscribe: ["_INBOX_worker.>"] } } ] }'
    )
    with NatsServer(store_dir=tmp_path, config=config) as server:
        options = ConnectOptions(servers=server.url, user="w", password="p", inbox_prefix="_INBOX_worker")
        async with Connection(options) as connection:
            account = await (await connection.client()).jetstream().account_info()

        assert account.streams == 0


async def test_no_server_is_said_in_time() -> None:
    """Without a server the first call fails within the connect timeout, and names the addresses tried."""
    async with (
        asyncio.timeout(60),
        Connection(ConnectOptions(servers="nats://127.0.0.1:1", connect_timeout=0.3)) as none,
    ):
        with pytest.raises(NatsUnavailable, match=r"cannot connect to nats://127\.0\.0\.1:1"):
            await none.client()


async def test_reconnects_and_tells(own_server: NatsServer) -> None:
    """A killed server that comes back is connected again, and the callbacks run."""
    told = asyncio.Event()
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client = await connection.client()
        connection.on_reconnect(told.set)
        own_server.kill()
        await eventually(lambda: not connection.is_connected)
        own_server.start()
        await asyncio.wait_for(told.wait(), 180)

        assert connection.is_connected
        assert await connection.client() is client


async def test_client_closed_for_good_is_replaced(own_server: NatsServer) -> None:
    """An error that closes nats-py's client for good, here a too large message, costs one reconnection."""
    told = asyncio.Event()
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        client = await connection.client()
        connection.on_reconnect(told.set)
        await client.publish("x", b"x" * (1024 * 1024), headers={"Pushed": "over the limit"})
        await eventually(lambda: client.is_closed)
        await (await connection.client()).flush()

        assert told.is_set()
        assert await connection.client() is not client


async def test_denied_subject_is_named(tmp_path: Path) -> None:
    """A denied permission, which nats-py reports only to a callback, can be read by subject, once."""
    config = "authorization { users: [ { user: w, password: p, permissions: { publish: [allowed] } } ] }"
    with NatsServer(store_dir=tmp_path, config=config) as server:
        async with Connection(ConnectOptions(servers=server.url, user="w", password="p")) as connection:
            client = await connection.client()
            await client.publish("Forbidden.subject", b"")
            await client.flush()
            denial = await eventually(lambda: connection.denial("Forbidden.subject"))

            assert "forbidden.subject" in denial.lower()
            assert connection.denial("Forbidden.subject") is None


async def test_close_is_safe_at_any_time(own_server: NatsServer) -> None:
    """A connection can be closed before first use, twice, and while the server is unavailable."""
    unused = Connection(ConnectOptions(servers=own_server.url))
    await unused.aclose()
    used = Connection(ConnectOptions(servers=own_server.url))
    await used.client()
    own_server.kill()
    async with asyncio.timeout(180):
        await used.aclose()
        await used.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await used.client()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param({"servers": "localhost:4222"}, "servers: 'localhost:4222' is not a NATS URL", id="no scheme"),
        pytest.param({"servers": "nats://"}, "is not a NATS URL", id="no host"),
        pytest.param({"tls_cert": "x.pem"}, "tls_cert, tls_key: mutual TLS needs both", id="half of mutual TLS"),
        pytest.param({"user": "worker"}, "password: missing for user 'worker'", id="no password"),
        pytest.param({"domain": "a", "api_prefix": "b"}, "domain, api_prefix: both are set", id="two homes"),
        pytest.param({"domain": "a.b"}, "domain: 'a.b' is not one token", id="a domain of two tokens"),
        pytest.param({"api_prefix": "a.>"}, "api_prefix: 'a.>' is not a subject", id="a prefix with a wildcard"),
    ],
)
def test_options_that_cannot_work_are_refused(arguments: dict[str, Any], reason: str) -> None:
    """Options that can never connect are refused at once, by name."""
    with pytest.raises(ValueError, match=reason):
        ConnectOptions(**arguments)


def test_secrets_are_not_shown() -> None:
    """Neither the options nor a URL in a message shows the credentials."""
    options = ConnectOptions(servers="nats://worker:canary@host:4222", user="u", password="canary", token="canary")

    assert "canary" not in repr(options)
    assert redacted("postgresql://u:canary@host/db?password=canary") == "postgresql://***@host/db"
    assert redacted("postgresql://u:can?ary@host/db") == "postgresql://***@host/db"
    assert redacted("sqlite:////tmp/events.db") == "sqlite:////tmp/events.db"
