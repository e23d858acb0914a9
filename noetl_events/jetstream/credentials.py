"""Who we are on a NATS server, read from files as they are now, and the optional modules that takes."""

from __future__ import annotations

import base64
import re
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from noetl_events.jetstream.options import ConnectOptions

_SECTION: Final = re.compile(rb"-+BEGIN ([A-Z ]+)-+\s*(\S+)\s+-+END [A-Z ]+-+")
_JWT: Final = b"NATS USER JWT"
_SEED: Final = b"USER NKEY SEED"


def require_modules(options: ConnectOptions) -> None:
    """
    Look that the optional modules *options* need are installed.

    Raises:
        ModuleNotFoundError: one is not; the message names the option and the extra to install.

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
    """Have an `OSError` name the *option* and the file *path*, which the `ssl` module leaves out."""
    try:
        yield
    except OSError as exc:
        raise OSError(f"{option}: {path}: {exc.strerror or exc}") from exc


class SecretFile:
    """
    What is in the file *path* now, for nats-py to ask at each connection.

    Args:
        path: of the file.
        option: that names it.

    Raises:
        OSError: it cannot be read, and never could: it may be replaced at the moment, and what was valid stays so.

    """

    def __init__(self, path: str, option: str) -> None:
        self._path = Path(path)
        with reading(option, path):
            self._secret = self._read()

    def __call__(self) -> str:
        """Return it."""
        with suppress(OSError):
            self._secret = self._read()
        return self._secret

    def _read(self) -> str:
        return self._path.read_text(encoding="utf-8", errors="replace").strip()


class CredentialsFile:
    """
    The JWT of a user and its seed in a `.creds` file, read again at each connection.

    nats-py's own reader never returns from a file without them, as one is while it is written.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no credentials.

    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        with reading("credentials", path):
            self._jwt, self._seed = self._read()

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of nats-py's `connect` for them."""
        return {"user_jwt_cb": self._user_jwt, "signature_cb": self._sign}

    def _user_jwt(self) -> bytes:
        return self._jwt

    def _sign(self, nonce: str) -> bytes:
        # nats-py asks for the signature before it asks for the JWT.
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
        ValueError: it holds no seed.

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
