"""The check for messages that a stream may have lost."""

from __future__ import annotations

import pytest

from noetl_events.jetstream.streams import StreamPosition


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        pytest.param(StreamPosition("monday", 10), True, id="the same"),
        pytest.param(StreamPosition("monday", 12), True, id="further"),
        pytest.param(StreamPosition("monday", 9), False, id="shorter"),
        pytest.param(StreamPosition("tuesday", 12), False, id="another, further than the old one"),
    ],
)
def test_loss_is_found(now: StreamPosition, *, kept: bool) -> None:
    """A stream that ends earlier has lost its end, and another of the same name has lost all messages."""
    assert now.still_has(StreamPosition("monday", 10)) is kept
