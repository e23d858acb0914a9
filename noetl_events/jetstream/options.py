"""How to reach NATS: everything `connect` needs, as one value without a connection."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

_LABEL: Final = r"[^\s.*>\x00-\x1f\x7f]+"
_DOMAIN: Final = re.compile(_LABEL)
_PREFIX: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


class ConnectOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where NATS is and who we are there.

    Args:
        servers: URLs, comma separated; a user and password in one is used when *user* is not given.
        user: with *password*; these win over the URL.
        password_file: path of a file with the password instead, read again at every connection.
        token: instead of a user.
        token_file: path of a file with the token instead, read again at every connection.
        credentials: path of a `.creds` file, read again at every connection.
        nkey_seed: path of an nkey seed file, read again at every connection.
        tls_ca: path of the authorities the server's certificate is checked against; the system's by default.
        tls_cert: path of our certificate, for mutual TLS, with *tls_key*; both read again at every connection.
        tls_first: shake hands before the server's INFO, for a server that wants it.
        domain: JetStream domain of the streams, where it is not the domain of the server connected to (leaf nodes).
        api_prefix: subject that JetStream's API is imported as from another account; instead of *domain*.
        inbox_prefix: a private one keeps other clients from reading our replies.
        name: shown in the server's monitoring.
        connect_timeout: seconds for one attempt.

    """

    servers: str = "nats://127.0.0.1:4222"
    user: str | None = None
    password: str | None = None
    password_file: str | None = None
    token: str | None = None
    token_file: str | None = None
    credentials: str | None = None
    nkey_seed: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_first: bool = False
    domain: str | None = None
    api_prefix: str | None = None
    inbox_prefix: str = "_INBOX"
    name: str = "noetl-events"
    connect_timeout: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what can never connect, naming the field."""
        for url in self.server_list:
            if not _is_nats(url):
                raise ValueError(f"servers: {redacted(url)!r} is not a NATS URL such as nats://host:4222")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert, tls_key: mutual TLS needs both; only one is set")
        if self.user is not None and self.password is None and self.password_file is None:
            raise ValueError(f"password: missing for user {self.user!r}")
        if self.domain and self.api_prefix:
            raise ValueError("domain, api_prefix: both are set; give one of them")
        if self.domain and not _DOMAIN.fullmatch(self.domain):
            raise ValueError(f"domain: {self.domain!r} is not one token of a subject, such as hub")
        if self.api_prefix and not _PREFIX.fullmatch(self.api_prefix):
            raise ValueError(f"api_prefix: {self.api_prefix!r} is not a subject to send to, such as JS.store.API")

    def __repr__(self) -> str:
        """Show where, never who: a repr ends up in logs."""
        return f"ConnectOptions(servers={', '.join(redacted(url) for url in self.server_list)!r}, name={self.name!r})"

    @property
    def server_list(self) -> list[str]:
        """The server URLs, one by one."""
        return [url.strip() for url in self.servers.split(",")]

    @property
    def api(self) -> str:
        """The subject that requests to JetStream begin with."""
        if self.api_prefix:
            return self.api_prefix.removesuffix(".")
        return f"$JS.{self.domain}.API" if self.domain else "$JS.API"

    def client_arguments(self) -> dict[str, Any]:
        """Return the arguments of `nats.aio.client.Client.connect` that say where and who."""
        arguments: dict[str, Any] = {
            "servers": self.server_list,
            "user": self.user,
            "password": _SecretFile(self.password_file) if self.password_file else self.password,
            "token": _SecretFile(self.token_file) if self.token_file else self.token,
            "user_credentials": self.credentials,
            "nkeys_seed": self.nkey_seed,
            "inbox_prefix": self.inbox_prefix,
            "name": self.name,
            "connect_timeout": self.connect_timeout,
        }
        if context := self._tls_context():
            arguments |= {"tls": context, "tls_handshake_first": self.tls_first}
        return arguments

    def renew(self, context: ssl.SSLContext) -> None:
        """
        Have *context*, which `client_arguments` made, use the certificate that is in its file now.

        Raises:
            OSError: it cannot be read, or certificate and key do not match, as while they are being replaced.

        """
        if self.tls_cert:
            context.load_cert_chain(self.tls_cert, self.tls_key)

    def _tls_context(self) -> ssl.SSLContext | None:
        if not (self.tls_ca or self.tls_cert or self.tls_first):
            return None
        context = ssl.create_default_context(cafile=self.tls_ca)
        self.renew(context)
        return context


class _SecretFile:
    """
    What is in the file *path* now, for nats-py to ask at each connection.

    Raises:
        OSError: it cannot be read, and never could: whoever replaces it may be half way, and what was valid stays so.

    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._secret = self._read()

    def __call__(self) -> str:
        with suppress(OSError):
            self._secret = self._read()
        return self._secret

    def _read(self) -> str:
        return self._path.read_text(encoding="utf-8", errors="replace").strip()


def _is_nats(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("nats", "tls", "ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def redacted(url: str) -> str:
    """Return *url* without user, password and query: for logs and messages, also of what is no URL."""
    head, separator, rest = url.partition("://")
    if "?" in head:
        return head.partition("?")[0]
    scheme, rest = (head, rest) if separator else ("", url)
    # The last @, and before the query is cut off: a password may hold either sign.
    _, secret, host = rest.rpartition("@")
    return f"{scheme}{separator}{'***@' if secret else ''}{host.partition('?')[0]}"
