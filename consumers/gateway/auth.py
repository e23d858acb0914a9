"""Who may use the API: whoever has the token; without one, only programs of this machine, no page of another site."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog
from starlette.requests import Request

from consumers.gateway.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

_SCHEME: Final = "bearer"
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")

log = structlog.get_logger()


class TokenFile:
    """
    The tokens in *path*, one a line, read again whenever the file changes.

    Raises:
        ValueError: the file cannot be read, or holds no token.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._tokens: list[bytes] = []
        try:
            self._read()
        except OSError as exc:
            raise ValueError(f"token file: {path} cannot be read: {exc.strerror or exc}") from None
        if not self._tokens:
            raise ValueError(f"token file: {path} holds no token")

    def require(self, headers: Mapping[str, str]) -> None:
        """
        Let pass who brings a token.

        Raises:
            Refused: 401.

        """
        self._refresh()
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Each of them is compared, so that the time tells nothing.
        matches = [hmac.compare_digest(given.strip().encode(), token) for token in self._tokens]
        if scheme.lower() != _SCHEME or not any(matches):
            raise Refused(401, "token", "bring the token: Authorization: Bearer ...")

    def _refresh(self) -> None:
        try:
            self._read()
        except OSError as exc:
            # Whoever replaces the file may be half way; what was valid stays so.
            log.warning("gateway.token_unread", path=str(self._path), reason=str(exc))

    def _read(self) -> None:
        status = self._path.stat()
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        if version != self._version:
            self._tokens = self._path.read_bytes().split()
            self._version = version


class LocalOnly:
    """
    No token: whoever reaches the loopback address may use it, but browsers reach it for every page they show.

    A page of another site has another `Origin`, or after a trick with names (DNS rebinding) another `Host`.
    """

    def require(self, headers: Mapping[str, str]) -> None:
        """
        Let pass what comes from this machine itself.

        Raises:
            Refused: 403.

        """
        host = headers.get("host", "")
        if _hostname(host) not in _LOCAL:
            raise Refused(403, "host", f"Host: {host[:80]!r} is not this machine; set a token to be reached by others")
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            raise Refused(403, "origin", f"Origin: {origin[:80]!r} is another site")


class Guard:
    """Ask *rule* before *app* sees a request of the API; everything else is public."""

    def __init__(self, app: ASGIApp, rule: TokenFile | LocalOnly) -> None:
        self._app = app
        self._rule = rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            try:
                self._rule.require(Request(scope).headers)
            except Refused as exc:
                await exc.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
