"""What a publisher has done so far, for whoever watches it."""

from __future__ import annotations

import msgspec


class PublishCounts(msgspec.Struct, kw_only=True):
    """
    Counted since the publisher was made.

    Args:
        stored: messages the stream has acknowledged.
        refused: messages it will never take.
        batches: acknowledged whole.
        sent_again: messages whose first outcome was unknown.
        fell_back: 1 once the stream has shown that it takes no batches.

    """

    stored: int = 0
    refused: int = 0
    batches: int = 0
    sent_again: int = 0
    fell_back: int = 0
