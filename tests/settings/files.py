"""Settings files for tests, and the settings loaded from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consumers.settings import SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CANARY = "canary-in-a-coal-mine"


def write(path: Path, text: str) -> Path:
    """Return *path*, a file with *text* that only its owner can read."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def refusal(config: Path | None = None, environ: Mapping[str, str] | None = None) -> str:
    """Return the error text for these settings, and assert that no secret is in it."""
    with pytest.raises(SettingsError) as refused:
        load(environ or {}, config=config)
    assert CANARY not in str(refused.value)
    assert len(str(refused.value)) < 600
    return str(refused.value)


def refusal_of(name: str, value: str) -> str:
    """Return the error text for a single variable."""
    return refusal(environ={name: value})
