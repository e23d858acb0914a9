"""Whether an acknowledgement of the server means that it is on disk: only its monitoring tells."""

from __future__ import annotations

import asyncio
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from consumers.doctor.finding import Finding

if TYPE_CHECKING:
    from consumers.doctor.patient import Patient

_NAME: Final = "durability"
_TIMEOUT: Final = 3.0
_MOST_BYTES: Final = 4 * 1024 * 1024
_REMEDY: Final = "write `jetstream { sync_interval: always }` and restart nats-server, or have publishers spool"


class _Config(msgspec.Struct):
    sync_interval: int = 0
    sync_always: bool = False


class _JetStream(msgspec.Struct):
    config: _Config | None = None


class _Varz(msgspec.Struct):
    server_name: str
    jetstream: _JetStream


async def check_durability(patient: Patient) -> list[Finding]:
    """Ask the server's monitoring how often it syncs."""
    if not patient.monitor:
        return [_unknown("whether the server syncs before it acknowledges is not known", "give --monitor")]
    try:
        varz = await asyncio.to_thread(_read, patient.monitor)
    except (OSError, HTTPException, msgspec.DecodeError) as exc:
        reason = f"no monitoring of nats-server at {patient.monitor}: {str(exc) or type(exc).__name__}"
        return [_unknown(reason, "turn it on in nats-server, with `http: 127.0.0.1:8222`, and give its URL")]
    config = varz.jetstream.config
    if config is None:
        found = f"{varz.server_name} has no JetStream"
        return [Finding(check=_NAME, severity="fault", found=found, remedy="write `jetstream {}` in its configuration")]
    if config.sync_always:
        return [Finding(check=_NAME, severity="ok", found=f"{varz.server_name} syncs before it acknowledges")]
    found = f"{varz.server_name} syncs every {config.sync_interval / 1e9:g} s: a power cut takes what was acknowledged"
    return [Finding(check=_NAME, severity="warning", found=found, remedy=_REMEDY)]


def _read(url: str) -> _Varz:
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.netloc, timeout=_TIMEOUT)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/varz")
        return msgspec.json.decode(connection.getresponse().read(_MOST_BYTES), type=_Varz)
    finally:
        connection.close()


def _unknown(found: str, remedy: str) -> Finding:
    return Finding(check=_NAME, severity="unknown", found=found, remedy=remedy)
