"""Whether a stream may still have all it had."""

from __future__ import annotations

import pytest

from noetl_events.jetstream.streams import Watermark


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        pytest.param(Watermark("monday", 10), True, id="the same"),
        pytest.param(Watermark("monday", 12), True, id="further"),
        pytest.param(Watermark("monday", 9), False, id="shorter"),
        pytest.param(Watermark("tuesday", 12), False, id="another, further than the old one"),
    ],
)
def test_what_was_lost_is_noticed(now: Watermark, *, kept: bool) -> None:
    """A stream that ends earlier has lost its end, and another of the same name all of it."""
    assert now.has_kept(Watermark("monday", 10)) is kept
