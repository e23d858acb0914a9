"""Options of a connection to NATS, and the files with credentials they name."""

from __future__ import annotations

import base64
import re
import ssl
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from noetl_events.jetstream.connect.servers import ServerUrl, read_servers, redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECTION: Final = re.compile(rb"-+BEGIN ([A-Z ]+)-+\s*(\S+)\s+-+END [A-Z ]+-+")
_JWT: Final = b"NATS USER JWT"
_SEED: Final = b"USER NKEY SEED"


def require_modules(options: ConnectOptions) -> None:
    """
    Check that the optional modules for *options* are installed.

    Raises:
        ModuleNotFoundError: a module is missing; the message names the option and the extra to install.

    """
    needed = {
        "aiohttp": ("servers: a websocket URL", "websocket", any(server.is_websocket for server in options.urls)),
        "nkeys": ("credentials and nkey_seed", "nkeys", bool(options.credentials or options.nkey_seed)),
    }
    for module, (option, extra, is_needed) in needed.items():
        if is_needed and find_spec(module) is None:
            message = f"{option}: this needs the module {module}; pip install 'noetl-events[{extra}]'"
            raise ModuleNotFoundError(message, name=module)


@contextmanager
def reading(option: str, path: str) -> Iterator[None]:
    """Add the *option* and the file *path* to an `OSError`, because the `ssl` module omits them."""
    try:
        yield
    except OSError as exc:
        raise OSError(f"{option}: {path}: {exc.strerror or exc}") from exc


class SecretFile:
    """
    The current content of a file, which nats-py reads at each connection.

    Args:
        path: path of the file.
        option: option with that path.

    Raises:
        OSError: the file was never readable.  After a successful read, an error keeps the last content, because the
            file may be in the middle of a replacement.

    """

    def __init__(self, path: str, option: str) -> None:
        self._path = Path(path)
        with reading(option, path):
            self._secret = self._read()

    def __call__(self) -> str:
        """Return the content."""
        with suppress(OSError):
            self._secret = self._read()
        return self._secret

    def _read(self) -> str:
        return self._path.read_text(encoding="utf-8", errors="replace").strip()


class CredentialsFile:
    """
    The JWT of a user and its seed in a `.creds` file, read again at each connection.

    nats-py's own reader never returns from a file without credentials, such as one that is being written.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file contains no credentials.

    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        with reading("credentials", path):
            self._jwt, self._seed = self._read()

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of nats-py's `connect` for the credentials."""
        return {"user_jwt_cb": self._user_jwt, "signature_cb": self._sign}

    def _user_jwt(self) -> bytes:
        return self._jwt

    def _sign(self, nonce: str) -> bytes:
        # nats-py requests the signature before the JWT, so this reads both.
        with suppress(OSError, ValueError):
            self._jwt, self._seed = self._read()
        return _signature(self._seed, nonce)

    def _read(self) -> tuple[bytes, bytes]:
        sections = dict(_SECTION.findall(self._path.read_bytes()))
        if _JWT not in sections or _SEED not in sections:
            raise ValueError(f"credentials: {self._path} holds no user JWT and seed, as a .creds file does")
        _require_seed("credentials", self._path, sections[_SEED])
        return sections[_JWT], sections[_SEED]


def nkey_arguments(path: str) -> dict[str, Any]:
    """
    Return the arguments of nats-py's `connect` for the nkey seed in the file *path*.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file contains no seed.

    """
    with reading("nkey_seed", path):
        seed = Path(path).read_bytes().strip()
    _require_seed("nkey_seed", Path(path), seed)
    return {"nkeys_seed": path}


def _signature(seed: bytes, nonce: str) -> bytes:
    import nkeys  # noqa: PLC0415  (an extra)

    pair = nkeys.from_seed(bytearray(seed))
    try:
        return base64.b64encode(pair.sign(nonce.encode()))
    finally:
        pair.wipe()


def _require_seed(option: str, path: Path, seed: bytes) -> None:
    import nkeys  # noqa: PLC0415  (an extra)

    try:
        nkeys.from_seed(bytearray(seed)).wipe()
    except (nkeys.NkeysError, ValueError, IndexError, TypeError):
        raise ValueError(f"{option}: {path} holds no seed of a user") from None


__all__ = ["ConnectOptions", "redacted"]

_LABEL: Final = r"[^\s.*>\x00-\x1f\x7f]+"
_DOMAIN: Final = re.compile(_LABEL)
_PREFIX: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


class ConnectOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    Servers, credentials, TLS and JetStream subjects of a connection.

    Args:
        servers: URLs, comma separated (see `server_urls`); the user and password of a URL apply if *user* is not given.
            With `tls://`, `wss://` or one of the options *tls_ca*, *tls_cert* and *tls_first*, nothing is sent to a
            server without TLS.
        user: name of the user, with *password*; both override the URL.
        password_file: path of a file with the password, read again at every connection.
        token: token, instead of a user.
        token_file: path of a file with the token, read again at every connection.
        credentials: path of a `.creds` file, read again at every connection.
        nkey_seed: path of an nkey seed file, read again at every connection.
        tls_ca: path of the authorities for the server's certificate; the system's by default.
        tls_cert: path of the client's certificate for mutual TLS, with *tls_key*; both read again at every connection.
        tls_first: True for the TLS handshake before the server's INFO, if the server requires it.
        domain: JetStream domain of the streams, if it is not the domain of the connected server (leaf nodes).
        api_prefix: subject under which JetStream's API is imported from another account; instead of *domain*.
        inbox_prefix: prefix of reply subjects; a private one keeps other clients from reading replies.
        name: name of the client in the server's monitoring.
        connect_timeout: timeout in seconds for each server.

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
        """Reject options that can never connect, and name the field."""
        servers = read_servers(self.servers)
        if servers[0].scheme == "ws" and self.is_encrypted:
            raise ValueError("servers: ws:// is not encrypted, and a TLS option is set; write wss://")
        is_said = self.user is not None or self.token is not None or bool(self.token_file)
        if not is_said and len({server.token is None for server in servers if server.has_user}) > 1:
            raise ValueError(
                f"servers: {redacted(self.servers)!r} has a user for one and a token for another; give one kind"
            )
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
        """Show the servers only: a repr may be logged, so it must not contain credentials."""
        return f"ConnectOptions(servers={', '.join(map(str, self.urls))!r}, name={self.name!r})"

    @property
    def urls(self) -> tuple[ServerUrl, ...]:
        """Servers, each with its parsed URL."""
        return read_servers(self.servers)

    @property
    def is_encrypted(self) -> bool:
        """True if a URL or an option requires TLS, so nothing may be sent to a server without it."""
        secure = any(server.scheme in ("tls", "wss") for server in self.urls)
        return secure or bool(self.tls_ca or self.tls_cert or self.tls_first)

    @property
    def api(self) -> str:
        """Subject prefix of requests to JetStream."""
        if self.api_prefix:
            return self.api_prefix.removesuffix(".")
        return f"$JS.{self.domain}.API" if self.domain else "$JS.API"

    def client_arguments(self, address: Callable[[], str]) -> dict[str, Any]:
        """
        Return the arguments of `nats.aio.client.Client.connect` for credentials, TLS and the name.

        Args:
            address: function that returns host and port of the connected server.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file has the wrong content.

        """
        arguments: dict[str, Any] = {"inbox_prefix": self.inbox_prefix, "name": self.name}
        if self.credentials:
            arguments |= CredentialsFile(self.credentials).arguments()
        elif self.nkey_seed:
            arguments |= nkey_arguments(self.nkey_seed)
        if self.user is not None:
            arguments["user"] = self.user
            arguments["password"] = (
                SecretFile(self.password_file, "password_file") if self.password_file else self.password
            )
        elif self.token_file or self.token is not None:
            arguments["token"] = SecretFile(self.token_file, "token_file") if self.token_file else self.token
        else:
            arguments |= self._user_of_url(address)
        if context := self.tls_context():
            arguments |= {"tls": context, "tls_handshake_first": self.tls_first}
        return arguments

    def renew(self, context: ssl.SSLContext) -> None:
        """
        Load the current certificate into *context*, which `client_arguments` created.

        Raises:
            OSError: it cannot be read, or certificate and key do not match, as during a replacement.

        """
        if self.tls_cert:
            context.load_cert_chain(self.tls_cert, self.tls_key)

    def _user_of_url(self, address: Callable[[], str]) -> dict[str, Any]:
        """Return the user of the server's URL; a server without a URL, or without a user in it, gets the first user."""
        known = {url.address: url for url in reversed(self.urls) if url.has_user}
        if not known:
            return {}
        default = next(url for url in self.urls if url.has_user)

        def there(field: str) -> Callable[[], str]:
            return lambda: str(getattr(known.get(address(), default), field))

        names = ("token",) if default.token is not None else ("user", "password")
        return {name: there(name) for name in names}

    def tls_context(self) -> ssl.SSLContext | None:
        """
        Return the TLS context for the options; None without TLS options.

        Raises:
            OSError: a certificate or key cannot be read.

        """
        if not (self.tls_ca or self.tls_cert or self.tls_first):
            return None
        with reading("tls_ca", str(self.tls_ca)):
            context = ssl.create_default_context(cafile=self.tls_ca)
        with reading("tls_cert and tls_key", f"{self.tls_cert}, {self.tls_key}"):
            self.renew(context)
        return context
