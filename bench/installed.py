"""Third-party packages that are installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

T = TypeVar("T")


def installed(peers: dict[str, tuple[str, T]]) -> dict[str, T]:
    """Return the *peers* with an installed distribution, named with its version; print the missing ones."""
    found: dict[str, T] = {}
    for name, (distribution, way) in peers.items():
        try:
            found[f"{name} ({version(distribution)})"] = way
        except PackageNotFoundError:
            print(f"left out: {name}, {distribution} is not installed")
    return found
