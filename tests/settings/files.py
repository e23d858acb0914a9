"""Settings files for tests, and what they load to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consumers.settings import SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CANARY = "canary-in-a-coal-mine"


def write(path: Path, text: str) -> Path:
    """Return *path*, which now holds *text* and is for its owner only."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def refusal(config: Path | None = None, environ: Mapping[str, str] | None = None) -> str:
    """Return the words with which these settings are refused, having checked that they tell no secret."""
    with pytest.raises(SettingsError) as refused:
        load(environ or {}, config=config)
    assert CANARY not in str(refused.value)
    assert len(str(refused.value)) < 600
    return str(refused.value)


def refusal_of(name: str, value: str) -> str:
    """Return the words with which a single variable is refused."""
    return refusal(environ={name: value})
