"""Text of other writers is safe on a terminal, and times are read as people write them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from consumers.cli.options import read_moment
from consumers.logs import escaped, escaped_json


def test_escaping_leaves_nothing_unprintable() -> None:
    """Control characters, also those above ASCII, and marks that change the text direction are escaped."""
    text = "a\x1b[0m\x9b\u202e\U000e0001 é 漢\n"

    assert escaped(text) == "a\\x1b[0m\\x9b\\u202e\\U000e0001 é 漢\\n"
    assert escaped_json(text).isprintable()
    assert json.loads(escaped_json(text)) == text


def test_moments() -> None:
    """A moment is a time with or without a zone, or an age."""
    now = datetime(2026, 5, 31, tzinfo=UTC)

    assert read_moment("--since", "90m", now=now) == now - timedelta(minutes=90)
    assert read_moment("--since", "2026-05-31T02:00:00+02:00") == now
    assert read_moment("--since", "2026-05-31") == now
    with pytest.raises(ValueError, match="--until: '999999d'"):
        read_moment("--until", "999999d", now=now)
