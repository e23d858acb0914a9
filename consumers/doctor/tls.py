"""Whether others on the way can read or pretend, and for how long the server's certificate is good."""

from __future__ import annotations

import asyncio
import json
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from consumers.doctor.finding import Finding

if TYPE_CHECKING:
    from consumers.doctor.patient import Patient
    from noetl_events.jetstream.server_urls import ServerUrl

_NAME: Final = "tls"
_DAY: Final = 86_400.0
_SOON: Final = 14 * _DAY
_TIMEOUT: Final = 3.0


async def check_tls(patient: Patient) -> list[Finding]:
    """Shake hands with each server."""
    return [await _look(patient, url) for url in patient.settings.connect.urls]


async def _look(patient: Patient, url: ServerUrl) -> Finding:
    where = str(url)
    try:
        async with asyncio.timeout(_TIMEOUT):
            certificate = await _certificate(patient, url)
    except ssl.SSLCertVerificationError as exc:
        return Finding(check=_NAME, severity="fault", found=f"{where}: {exc.verify_message}", remedy=_remedy(exc))
    except TimeoutError:
        return Finding(check=_NAME, severity="unknown", found=f"{where}: it does not greet within {_TIMEOUT:g} s")
    except (OSError, ValueError) as exc:
        return Finding(check=_NAME, severity="unknown", found=f"{where}: {str(exc) or type(exc).__name__}")
    return _plain(url) if certificate is None else _judge(patient, where, certificate)


async def _certificate(patient: Patient, url: ServerUrl) -> str | None:
    """Return until when the server's certificate is good; None if it speaks without TLS."""
    options = patient.settings.connect
    if url.is_websocket:
        raise ValueError("WebSocket is not looked at")
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        told = {} if options.tls_first else json.loads((await reader.readline()).partition(b" ")[2] or b"{}")
        if not (told.get("tls_required") or options.is_encrypted):
            return None
        context = options.tls_context() or ssl.create_default_context()
        await writer.start_tls(context, server_hostname=url.host)
        return str(writer.get_extra_info("ssl_object").getpeercert()["notAfter"])
    finally:
        writer.close()


def _judge(patient: Patient, where: str, not_after: str) -> Finding:
    left = ssl.cert_time_to_seconds(not_after) - patient.clock()
    if left < _SOON:
        found = f"{where}: the certificate of the server ends in {left / _DAY:.0f} days, {not_after}"
        return Finding(check=_NAME, severity="warning", found=found, remedy="renew it, and reload nats-server")
    return Finding(check=_NAME, severity="ok", found=f"{where}: verified, good until {not_after}")


def _plain(url: ServerUrl) -> Finding:
    if _is_loopback(url.host):
        return Finding(check=_NAME, severity="ok", found=f"{url}: not encrypted, and on this machine")
    return Finding(
        check=_NAME,
        severity="warning",
        found=f"{url}: not encrypted: passwords and events can be read on the way",
        remedy="give nats-server a `tls` block, write NATS_URL with tls:// and set NATS_TLS_CA",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _remedy(exc: ssl.SSLCertVerificationError) -> str:
    if "expired" in exc.verify_message:
        return "renew the certificate of the server, and reload nats-server"
    if "match" in exc.verify_message:
        return "connect by a name in the certificate of the server, or issue one for the name in NATS_URL"
    return "set NATS_TLS_CA to the authority that issued the certificate of the server"
