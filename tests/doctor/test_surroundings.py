"""The doctor's findings around the streams: each is provoked, and gone after its remedy."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from msgspec import structs

from consumers.doctor.destinations import check_plugins
from consumers.doctor.nats import check_inbox, check_reachability, check_rights, check_tls
from consumers.doctor.run import examine
from consumers.doctor.stream import check_durability
from consumers.permissions import Rights, RoleContext, rights_of
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.testing.nats_server import NatsServer, free_port
from tests.doctor.conftest import make_context
from tests.permissions.guarded import guarded

if TYPE_CHECKING:
    from pathlib import Path

    from consumers.doctor.check import CheckContext, Finding
    from consumers.permissions import Role

STREAM = StreamDeclaration()


def found(findings: list[Finding]) -> list[Finding]:
    """Return the findings that are not ok."""
    return [finding for finding in findings if finding.severity != "ok"]


async def reach(**options: Any) -> list[Finding]:
    """Return the findings about reaching a server that are not ok."""
    async with Connection(ConnectOptions(connect_timeout=60.0, **options)) as connection:
        return found(await check_reachability(make_context(connection, STREAM)))


async def test_unreachable(own_server: NatsServer) -> None:
    """A missing server is the one fault, all checks that need it are unknown, and none hangs."""
    async with Connection(ConnectOptions(servers="nats://127.0.0.1:1", connect_timeout=0.3)) as connection:
        findings = await examine(make_context(connection, STREAM))

    assert [one.check for one in findings if one.severity == "fault"] == ["reachability"]
    assert {one.found for one in findings if one.check in ("stream", "consumer")} == {"NATS cannot be reached"}
    assert await reach(servers=own_server.url) == []


async def test_refused(tmp_path: Path) -> None:
    """A wrong password names the settings that it comes from."""
    with NatsServer(store_dir=tmp_path, config="authorization { user: u, password: p }") as server:
        [finding] = await reach(servers=server.url, user="u", password="x")

        assert (finding.severity, "NATS_PASSWORD" in finding.remedy) == ("fault", True), finding
        assert await reach(servers=server.url, user="u", password="p") == []


async def test_silent_check_is_unknown(tmp_path: Path) -> None:
    """With a silent server each check ends at its limit; the unreachable NATS is the fault."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        options = ConnectOptions(servers=f"nats://127.0.0.1:{port}", connect_timeout=0.5)
        async with Connection(options) as connection, asyncio.timeout(180):
            to = (f"postgresql://u:p@127.0.0.1:{port}/db",)
            findings = await examine(make_context(connection, STREAM, to=to), limit=0.1)

    assert [one.check for one in findings if one.severity == "fault"] == ["reachability"]
    assert {one.severity for one in findings[1:] if one.check not in ("inbox", "plug-ins")} == {"unknown"}


@pytest.mark.parametrize("option", ["credentials", "nkey_seed", "tls_ca"])
async def test_file_that_is_missing(option: str, own_server: NatsServer) -> None:
    """An unreadable file of the settings is a fault that names the setting and the file."""
    [finding] = await reach(servers=own_server.url, **{option: "/no/such.file"})

    assert (finding.severity, finding.found) == ("fault", f"{option}: /no/such.file: No such file or directory")
    assert finding.remedy == "correct this setting, or the file"


class Certified:
    """A server with a certificate, and contexts with and without its authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        self.config = f'tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.key" }}'

    def issue(self, name: str = "127.0.0.1", *, days: float = 365) -> None:
        """Write a certificate for *name* that is valid for *days* days."""
        cert = self.authority.issue_cert(name, not_after=datetime.now(UTC) + timedelta(days=days))
        cert.private_key_pem.write_to_path(self.folder / "server.key")
        cert.cert_chain_pems[0].write_to_path(self.folder / "server.pem")

    async def look(self, url: str, *, trusting: bool = True) -> list[Finding]:
        """Return the findings that are not ok."""
        options = ConnectOptions(servers=url, tls_ca=f"{self.folder}/ca.pem" if trusting else None)
        async with Connection(options) as connection:
            return found(await check_tls(make_context(connection, STREAM)))


@pytest.mark.parametrize(
    ("wrong", "severity", "remedy"),
    [
        pytest.param({"days": 3}, "warning", "renew", id="ends soon"),
        pytest.param({"days": -1}, "fault", "renew", id="expired"),
        pytest.param({"name": "example.org"}, "fault", "a name in the certificate", id="another name"),
    ],
)
async def test_certificate(tmp_path: Path, wrong: dict[str, Any], severity: str, remedy: str) -> None:
    """A certificate that expires soon, has expired, or has another name is found; a new one and a reload repair it."""
    certified = Certified(tmp_path)
    certified.issue(**wrong)
    with NatsServer(store_dir=tmp_path / "nats", config=certified.config) as server:
        url = server.url.replace("nats:", "tls:")
        [finding] = await certified.look(url)
        certified.issue()
        server.reload()

        assert (finding.severity, remedy in finding.remedy) == (severity, True), finding
        assert await certified.look(url) == []


async def test_unknown_authority(tmp_path: Path) -> None:
    """An unknown authority is a fault."""
    certified = Certified(tmp_path)
    certified.issue()
    with NatsServer(store_dir=tmp_path / "nats", config=certified.config) as server:
        [finding] = await certified.look(server.url, trusting=False)

        assert (finding.severity, "NATS_TLS_CA" in finding.remedy) == ("fault", True), finding
        assert await certified.look(server.url) == []


async def test_plain(tmp_path: Path) -> None:
    """An unencrypted connection to another machine is a warning."""
    certified = Certified(tmp_path)
    certified.issue("0.0.0.0")  # noqa: S104  (the name leads to this machine, and is not loopback)
    with NatsServer(store_dir=tmp_path / "nats") as server:
        url = f"nats://0.0.0.0:{server.port}"
        [finding] = await certified.look(url, trusting=False)
        server.terminate()
        server.config = certified.config
        server.start()

        assert (finding.severity, "`tls` block" in finding.remedy) == ("warning", True), finding
        assert await certified.look(url.replace("nats:", "tls:")) == []


@pytest.mark.parametrize(("ahead", "severity"), [(-30.0, "warning"), (3_600.0, "fault")])
async def test_clock(well: CheckContext, plain_url: str, ahead: float, severity: str) -> None:
    """A wrong clock differs from those of NATS and Postgres; a corrected one does not."""
    well = replace(well, to=(plain_url,))
    wrong = replace(well, clock=lambda: time.time() + ahead)
    clocks = [one for one in await examine(wrong) if one.check == "clock"]

    assert [(one.severity, one.remedy) for one in clocks] == [
        (severity, "synchronise both machines, as with chrony")
    ] * 2
    assert {one.severity for one in await examine(well) if one.check == "clock"} == {"ok"}


@pytest.mark.parametrize("role", ["publisher", "projector", "gateway", "admin"])
async def test_permissions(tmp_path: Path, role: Role) -> None:
    """Every missing permission is found, one by one; with the output of `permissions` none is missing."""
    work = RoleContext(inbox_prefix="_INBOX_p", spool=True)
    publish, subscribe = rights_of(role, work)
    kept = tuple(right for right in publish if right.subject == "noetl.events.>")
    with guarded(tmp_path, work, rights={role: Rights(kept or publish[-1:], subscribe)}) as server:
        await server.prepare()
        for mended in (False, True):
            async with server.connected(role) as connection:
                context = make_context(connection, STREAM, role=role)
                context = replace(context, work=work)
                findings = found(await check_rights(context))
                assert len(findings) == (0 if mended else len(publish) - 1), findings
            server.restore(role)
            server.server.reload()


async def test_inbox(connection: Connection) -> None:
    """Credentials with the default inbox are a warning; with a separate inbox prefix they are ok."""

    async def look(**options: Any) -> list[Finding]:
        context = make_context(connection, STREAM, role="gateway")
        connect = ConnectOptions(**options)
        return found(await check_inbox(replace(context, settings=structs.replace(context.settings, connect=connect))))

    [shared] = await look(servers="nats://gateway:p@host")

    assert (shared.severity, "NATS_INBOX_PREFIX=_INBOX_gateway" in shared.remedy) == ("warning", True), shared
    assert await look(credentials="gateway.creds", inbox_prefix="_INBOX_gateway") == []
    assert await look() == []


async def test_durability(tmp_path: Path, own_server: NatsServer) -> None:
    """The check finds a server that acknowledges before it syncs, one without JetStream, and one without monitoring."""
    port = free_port()
    where = f'http: "127.0.0.1:{port}"\n'
    async with Connection(ConnectOptions(servers=own_server.url)) as connection:
        context = make_context(connection, STREAM, monitor=f"http://127.0.0.1:{port}")
        [unknown] = await check_durability(context)
        with NatsServer(store_dir=tmp_path / "lazy", config=where) as server:
            [lazy] = await check_durability(context)
            server.terminate()
            server.config = where + "jetstream { sync_interval: always }"
            server.start()
            mended = found(await check_durability(context))
        with NatsServer(store_dir=tmp_path / "none", config=where, jetstream=False):
            [none] = await check_durability(context)

    assert [one.severity for one in (unknown, lazy, none)] == ["unknown", "warning", "fault"]
    assert "sync_interval: always" in lazy.remedy
    assert mended == []


async def test_plugin(well: CheckContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken plug-in is a warning, or a fault if a destination needs it; so is an unknown scheme."""
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[noetl_events.sinks]\nbroken = nowhere:Sink\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def plugins(*to: str) -> list[tuple[str, str]]:
        findings = found([one for one in await examine(replace(well, to=to)) if one.check == "plug-ins"])
        return [(one.severity, one.remedy[:37]) for one in findings]

    unused, used = await plugins(), await plugins("broken:x")
    (info / "entry_points.txt").write_text("")
    without = await plugins("broken:x")

    assert unused == [("warning", "install another version of broken, or")]
    assert used == [("fault", "install another version of broken, or")]
    assert without == [("fault", "install the distribution that has it;")]
    assert await plugins("noop:") == []


async def test_missing_extra(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A built-in sink without its extra is a fault if a destination needs it, and no finding otherwise."""
    monkeypatch.setitem(sys.modules, "noetl_events.sinks.http", None)

    async def look(*to: str) -> list[str]:
        return [one.remedy for one in found(await check_plugins(make_context(connection, STREAM, to=to)))]

    assert await look("noop:") == []
    assert await look("https://host/api/events") == ["pip install 'noetl-events[all]'"]
