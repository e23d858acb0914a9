"""Access to the API: for clients with a token; without tokens, for local programs, but no page of another site."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog
from starlette.requests import Request

from consumers.gateway.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

_SCHEME: Final = "bearer"
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")

log = structlog.get_logger()


class TokenFile:
    """
    The tokens in *path*, one per line, reloaded whenever the file changes.

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
        Check that the request has a valid token.

        Raises:
            Refused: 401, the token is missing or wrong.

        """
        self._refresh()
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Every token is compared, so the duration reveals nothing.
        matches = [hmac.compare_digest(given.strip().encode(), token) for token in self._tokens]
        if scheme.lower() != _SCHEME or not any(matches):
            raise ApiError(401, "token", "send the token: Authorization: Bearer ...")

    def _refresh(self) -> None:
        try:
            self._read()
        except OSError as exc:
            # The file may be in the middle of a replacement, so the previous tokens stay valid.
            log.warning("gateway.token_unread", path=str(self._path), reason=str(exc))

    def _read(self) -> None:
        status = self._path.stat()
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        if version != self._version:
            self._tokens = self._path.read_bytes().split()
            self._version = version


class LocalOnly:
    """
    The rule without tokens: any local program may use the API, but no page of another site in a local browser.

    Such a page sends another `Origin`, or after DNS rebinding another `Host`.
    """

    def require(self, headers: Mapping[str, str]) -> None:
        """
        Check that the request comes from this machine itself.

        Raises:
            Refused: 403, the request names another host or origin.

        """
        host = headers.get("host", "")
        if _hostname(host) not in _LOCAL:
            raise ApiError(403, "host", f"Host: {host[:80]!r} is not this machine; set a token to serve other machines")
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            raise ApiError(403, "origin", f"Origin: {origin[:80]!r} is another site")


class AuthMiddleware:
    """Apply *rule* to requests of the API before *app* receives them; all other paths are public."""

    def __init__(self, app: ASGIApp, rule: TokenFile | LocalOnly) -> None:
        self._app = app
        self._rule = rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refused request, or pass it to the app."""
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            try:
                self._rule.require(Request(scope).headers)
            except ApiError as exc:
                await exc.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
