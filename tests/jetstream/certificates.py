"""Certificates for a server on loopback and its clients, from an authority made for the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


class Certificates:
    """
    The files of an authority, a server and a client, in *folder*.

    Args:
        folder: folder of the files; created if missing.
        identity: host name or address in the server's certificate.

    """

    def __init__(self, folder: Path, *, identity: str = "127.0.0.1") -> None:
        folder.mkdir(exist_ok=True)
        authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca)
        for name, of in (("server", identity), ("client", "worker@example.org")):
            cert = authority.issue_cert(of)
            cert.private_key_pem.write_to_path(folder / f"{name}.key")
            cert.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        self._folder = folder

    @property
    def client(self) -> dict[str, str]:
        """The options of a client that presents its certificate."""
        return {"tls_cert": f"{self._folder}/client.pem", "tls_key": f"{self._folder}/client.key"}

    def config(self, more: str = "") -> str:
        """Return the `tls` block of a server, with *more* in it."""
        return f'tls {{ cert_file: "{self._folder}/server.pem", key_file: "{self._folder}/server.key", {more} }}'

    @property
    def verifying(self) -> str:
        """The `tls` block of a server that requires client certificates."""
        return self.config(f'ca_file: "{self.ca}", verify: true')
