"""An operator, an account and its users with credentials files, as `nsc` makes them."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import TYPE_CHECKING, Any

import nkeys

if TYPE_CHECKING:
    from pathlib import Path


class Operator:
    """An operator with one account."""

    def __init__(self) -> None:
        self._operator = _key_pair(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = _key_pair(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = _key_pair(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def config(self) -> str:
        """The configuration lines of a server that trusts this operator."""
        operator = _jwt(self._operator, self._operator, {"type": "operator"})
        storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        accounts = self._account_line(self._account, storage) + self._account_line(self._system, {})
        system = f"system_account: {self._system.public_key.decode()}"
        return f"operator: {operator}\n{system}\nresolver: MEMORY\nresolver_preload: {{ {accounts} }}\n"

    def _account_line(self, account: Any, storage: dict[str, int]) -> str:
        limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        jwt = _jwt(self._operator, account, {"type": "account", "limits": limits | storage})
        return f"{account.public_key.decode()}: {jwt}\n"

    def write_credentials(self, path: Path, *, seconds: float = 3600.0) -> None:
        """Write the credentials of a new user, valid for *seconds*."""
        user = _key_pair(nkeys.PREFIX_BYTE_USER)
        limits = {"subs": -1, "data": -1, "payload": -1}
        jwt = _jwt(self._account, user, {"type": "user"} | limits, expires=time.time() + seconds)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n"
        )


def _key_pair(prefix: int) -> Any:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))


def _jwt(issuer: Any, subject: Any, claims: dict[str, Any], *, expires: float | None = None) -> str:
    body = {
        "jti": "test",
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": "test",
        "nats": claims | {"version": 2},
    } | ({"exp": int(expires)} if expires else {})
    unsigned = f"{_base64({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_base64(body)}"
    signature = base64.urlsafe_b64encode(issuer.sign(unsigned.encode())).rstrip(b"=").decode()
    return f"{unsigned}.{signature}"


def _base64(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
