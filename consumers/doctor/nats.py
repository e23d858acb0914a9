"""Checks of NATS: reachability, JetStream, TLS, private inbox, permissions and clocks."""

from __future__ import annotations

import asyncio
import json
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from consumers.doctor.check import Finding
from consumers.doctor.destinations import opened_postgres
from consumers.permissions import rights_of
from noetl_events.jetstream.connect.server_errors import cause_of
from noetl_events.jetstream.errors import JetStreamOff, NatsUnavailable, PermissionDenied
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.probes import denied, server_time
from noetl_events.jetstream.publish.expected_stream import streams_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consumers.doctor.check import CheckContext
    from noetl_events.jetstream.connect.servers import ServerUrl

_REACHABILITY: Final = "reachability"
_REMEDIES: Final = {
    "credentials": "set NATS_USER and NATS_PASSWORD, NATS_TOKEN, NATS_CREDS or NATS_NKEY_SEED as the server has them",
    "certificate": "set NATS_TLS_CA, and NATS_TLS_CERT with NATS_TLS_KEY if the server asks for a client certificate",
    "address": "start nats-server there, or set NATS_URL",
}


async def check_reachability(context: CheckContext) -> list[Finding]:
    """Connect to the server."""
    where = ", ".join(map(str, context.settings.connect.urls))
    try:
        version = (await context.connection.client()).connected_server_version
    except OSError as exc:
        # An OSError is about a file of the settings; an error of the address is NatsUnavailable.
        return [
            Finding(check=_REACHABILITY, severity="fault", found=str(exc), remedy="correct this setting, or the file")
        ]
    except NatsUnavailable as exc:
        remedy = _REMEDIES[cause_of(str(exc))]
        return [Finding(check=_REACHABILITY, severity="fault", found=str(exc), remedy=remedy)]
    found = f"nats-server {version.major}.{version.minor}.{version.patch} at {where}"
    return [Finding(check=_REACHABILITY, severity="ok", found=found)]


_JETSTREAM: Final = "jetstream"


async def check_jetstream(context: CheckContext) -> list[Finding]:
    """Check that JetStream is enabled for the account of the credentials."""
    subject = f"{context.settings.stream.prefix}.doctor"
    try:
        await streams_of(context.connection, subject)
    except PermissionDenied:
        return [Finding(check=_JETSTREAM, severity="ok", found="not checked: this role has no permission to ask")]
    except JetStreamOff as exc:
        found, _, remedy = str(exc).rpartition("; ")
        return [Finding(check=_JETSTREAM, severity="fault", found=found, remedy=remedy)]
    except NatsUnavailable as exc:
        remedy = "check the servers with `nats server report jetstream`; an election ends by itself"
        return [Finding(check=_JETSTREAM, severity="fault", found=str(exc), remedy=remedy)]
    return [Finding(check=_JETSTREAM, severity="ok", found="available to the account of these credentials")]


_TLS: Final = "tls"
_DAY: Final = 86_400.0
_SOON: Final = 14 * _DAY
_TIMEOUT: Final = 3.0


async def check_tls(context: CheckContext) -> list[Finding]:
    """Make a TLS handshake with each server."""
    return [await _check_handshake(context, url) for url in context.settings.connect.urls]


async def _check_handshake(context: CheckContext, url: ServerUrl) -> Finding:
    where = str(url)
    try:
        async with asyncio.timeout(_TIMEOUT):
            certificate = await _certificate(context, url)
    except ssl.SSLCertVerificationError as exc:
        return Finding(
            check=_TLS, severity="fault", found=f"{where}: {exc.verify_message}", remedy=_certificate_remedy(exc)
        )
    except TimeoutError:
        return Finding(check=_TLS, severity="unknown", found=f"{where}: no greeting within {_TIMEOUT:g} s")
    except (OSError, ValueError) as exc:
        return Finding(check=_TLS, severity="unknown", found=f"{where}: {str(exc) or type(exc).__name__}")
    return _plain(url) if certificate is None else _judge(context, where, certificate)


async def _certificate(context: CheckContext, url: ServerUrl) -> str | None:
    """Return the end of validity of the server's certificate; None if the server does not use TLS."""
    options = context.settings.connect
    if url.is_websocket:
        raise ValueError("TLS of a WebSocket is not checked")
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        told = {} if options.tls_first else json.loads((await reader.readline()).partition(b" ")[2] or b"{}")
        if not (told.get("tls_required") or options.is_encrypted):
            return None
        tls = options.tls_context() or ssl.create_default_context()
        await writer.start_tls(tls, server_hostname=url.host)
        return str(writer.get_extra_info("ssl_object").getpeercert()["notAfter"])
    finally:
        writer.close()


def _judge(context: CheckContext, where: str, not_after: str) -> Finding:
    left = ssl.cert_time_to_seconds(not_after) - context.clock()
    if left < _SOON:
        found = f"{where}: the certificate of the server ends in {left / _DAY:.0f} days, {not_after}"
        return Finding(check=_TLS, severity="warning", found=found, remedy="renew it, and reload nats-server")
    return Finding(check=_TLS, severity="ok", found=f"{where}: verified, good until {not_after}")


def _plain(url: ServerUrl) -> Finding:
    if _is_loopback(url.host):
        return Finding(check=_TLS, severity="ok", found=f"{url}: not encrypted, and on this machine")
    return Finding(
        check=_TLS,
        severity="warning",
        found=f"{url}: not encrypted: passwords and events can be read on the network",
        remedy="give nats-server a `tls` block, write NATS_URL with tls:// and set NATS_TLS_CA",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _certificate_remedy(exc: ssl.SSLCertVerificationError) -> str:
    if "expired" in exc.verify_message:
        return "renew the certificate of the server, and reload nats-server"
    if "match" in exc.verify_message:
        return "connect by a name in the certificate of the server, or issue one for the name in NATS_URL"
    return "set NATS_TLS_CA to the authority that issued the certificate of the server"


_INBOX: Final = "inbox"
_SHARED: Final = ConnectOptions().inbox_prefix


async def check_inbox(context: CheckContext) -> list[Finding]:
    """Check that the inbox prefix is not the default, which all clients share."""
    options = context.settings.connect
    if options.inbox_prefix != _SHARED:
        return [Finding(check=_INBOX, severity="ok", found=f"replies come to {options.inbox_prefix}.>")]
    if not _says_who(options):
        return [Finding(check=_INBOX, severity="ok", found="shared with all clients, as no credentials are set")]
    return [
        Finding(
            check=_INBOX,
            severity="warning",
            found=f"replies come to {_SHARED}.>, the inbox of all clients: other users may read these replies",
            remedy=f"set NATS_INBOX_PREFIX={_SHARED}_{context.role}, and allow this user no other inbox",
        )
    ]


def _says_who(options: ConnectOptions) -> bool:
    given = (options.user, options.token, options.token_file, options.credentials, options.nkey_seed, options.tls_cert)
    return any(given) or any(url.has_user for url in options.urls)


_PERMISSIONS: Final = "permissions"


async def check_rights(context: CheckContext) -> list[Finding]:
    """Check every permission of the role."""
    rights = rights_of(context.role, context.work)
    reasons = {("publish", _sample(right.subject)): right for right in rights.publish}
    reasons |= {("subscribe", _sample(right.subject)): right for right in rights.subscribe}
    publish = [subject for verb, subject in reasons if verb == "publish"]
    subscribe = [(_sample(right.subject), right.queue) for right in rights.subscribe]
    missing = await denied(context.connection, publish, subscribe)
    if not missing:
        found = f"the {context.role} has all {len(reasons)} permissions"
        return [Finding(check=_PERMISSIONS, severity="ok", found=found)]
    return [
        Finding(
            check=_PERMISSIONS,
            severity="fault",
            found=f"may not {verb} {reasons[verb, subject].subject}: {reasons[verb, subject].why}",
            remedy=f"allow what `noetl-events permissions {context.role}` prints, and reload nats-server",
        )
        for verb, subject in missing
    ]


def _sample(pattern: str) -> str:
    """Return an otherwise unused subject that *pattern* allows."""
    return pattern.replace("*", "doctor").replace(">", "doctor")


_CLOCK: Final = "clock"
_TOLERATED: Final = 1.0
_FAULT: Final = 60.0


async def check_clock(context: CheckContext) -> list[Finding]:
    """Compare the clock of each server with the local one."""
    findings = []
    try:
        stream = context.settings.stream.name
        findings.append(await _compare(context, "NATS", lambda: server_time(context.connection, stream)))
    except NatsUnavailable as exc:
        findings.append(Finding(check=_CLOCK, severity="unknown", found=f"NATS: {exc}"))
    async for where, _, connection in opened_postgres(context.to):

        async def ask(connection: Any = connection) -> float:
            return float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))

        findings.append(await _compare(context, where, ask))
    return findings


async def _compare(context: CheckContext, where: str, ask: Callable[[], Awaitable[float]]) -> Finding:
    before = context.clock()
    theirs = await ask()
    after = context.clock()
    # The server read its clock between these two times, so only a time outside of them is skew.
    skew = max(before - theirs, theirs - after, 0.0)
    if skew <= _TOLERATED:
        return Finding(check=_CLOCK, severity="ok", found=f"{where}: within {_TOLERATED:g} s of the local clock")
    return Finding(
        check=_CLOCK,
        severity="fault" if skew > _FAULT else "warning",
        found=f"{where}: {skew:.1f} s {'behind' if theirs < before else 'ahead of'} the local clock",
        remedy="synchronise both machines, as with chrony",
    )
