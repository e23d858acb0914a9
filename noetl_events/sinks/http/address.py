"""Addresses that events are never posted to: what answers there is a machine's own cloud, not a service."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final

_REFUSED: Final = (
    # Link-local; the metadata services of most clouds are at 169.254.169.254 and 169.254.170.2.
    ip_network("169.254.0.0/16"),
    ip_network("fe80::/10"),
    # Metadata services elsewhere: AWS, Google, Alibaba.
    ip_network("fd00:ec2::254/128"),
    ip_network("fd20:ce::254/128"),
    ip_network("100.100.100.200/32"),
)

# What aiohttp gives to whoever makes its sockets: family, type, protocol, canonical name, address.
_Info = tuple[int, int, int, str, tuple[Any, ...]]


def refusal_of(address: str) -> str | None:
    """Return why nothing is posted to *address*, or None if it may be; a name, which is no address yet, may be."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    if any(found in network for network in _REFUSED):
        return f"{address} is link-local or a cloud's metadata service; no events are posted there"
    return None


def open_socket(info: _Info) -> socket.socket:
    """
    Return a socket to connect to the address in *info*.

    It is asked with each address a name has led to, right before the connection: a name that leads elsewhere the second
    time gains nothing.

    Raises:
        PermissionError: nothing is posted there.

    """
    family, kind, protocol, _, address = info
    if reason := refusal_of(address[0]):
        raise PermissionError(errno.EACCES, reason)
    return socket.socket(family, kind, protocol)
