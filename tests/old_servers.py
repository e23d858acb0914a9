"""The older nats-server versions still in use: `make test` installs them beside the one of the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Final

OLD_VERSIONS: Final = ("2.10", "2.11", "2.12", "2.14")

_FOLDER: Final = Path(__file__).parents[1] / ".venv" / "servers"


def old_server(version: str) -> Path:
    """
    Return the path of the nats-server of *version*, one of `OLD_VERSIONS`.

    Raises:
        FileNotFoundError: the version is not installed; skipping the test would hide that.

    """
    binary = _FOLDER / version / "bin" / "nats-server"
    if not binary.exists():
        raise FileNotFoundError(f"{binary}: run `make .venv/servers/{version}/.installed`; `make test` does it too")
    return binary
