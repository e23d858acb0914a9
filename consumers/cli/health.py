"""The command `noetl-events health`."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from cyclopts import Parameter

from consumers.health import Report
from consumers.http import DEFAULT
from consumers.logs import escaped

_TIMEOUT: Final = 5.0
_GOOD: Final = 200


def health(
    *,
    url: Annotated[str, Parameter(help="URL of the projector or the gateway.")] = f"http://{DEFAULT}",
    ready: Annotated[bool, Parameter(help="Check readiness instead of liveness.", negative=())] = False,
) -> int:
    """
    Check the health of a projector or a gateway, and print the reason: exit code 0 if it is healthy, else 1.

    Example: `noetl-events health --ready`, or for a gateway `noetl-events health --url http://127.0.0.1:8080`
    """
    well, line = _ask(url, "/readyz" if ready else "/healthz")
    print(escaped(line))
    return 0 if well else 1


def _ask(url: str, path: str) -> tuple[bool, str]:
    # urlopen would send a local request through the proxy of the environment, so http.client is used.
    connection = HTTPConnection(_place(url), timeout=_TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException) as exc:
        return False, f"no answer from {url}: {str(exc) or type(exc).__name__}"
    finally:
        connection.close()
    try:
        return response.status == _GOOD, _why(body)
    except msgspec.DecodeError:
        return False, f"neither a projector nor a gateway at {url}: it answers {response.status} {response.reason}"


def _place(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"url: {url!r} is not http://HOST:PORT")
    return parts.netloc


def _why(body: bytes) -> str:
    report = msgspec.json.decode(body, type=Report)
    reasons = [f"{name}: {health.part}: {health.reason}" for name, health in report.projectors.items() if health.part]
    return "; ".join(reasons) or ("ok" if report.ready else "nats: not connected")
