"""Other people's packages, where they are installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

T = TypeVar("T")


def installed(peers: dict[str, tuple[str, T]]) -> dict[str, T]:
    """Return the *peers* whose distribution is installed, its version in their names; print which are left out."""
    found: dict[str, T] = {}
    for name, (distribution, way) in peers.items():
        try:
            found[f"{name} ({version(distribution)})"] = way
        except PackageNotFoundError:
            print(f"left out: {name}, {distribution} is not installed")
    return found
