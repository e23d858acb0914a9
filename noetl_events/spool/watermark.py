"""What a stream can be recognised by, and whether it has lost what it had acknowledged."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec


class Watermark(msgspec.Struct, frozen=True):
    """
    How far a stream has come.

    Args:
        created: when it was created, in the server's words: another stream of the same name has another.
        last_seq: of its youngest message; a server never counts it down, unless its disk lost messages.

    """

    created: str
    last_seq: int

    def has_kept(self, earlier: Watermark) -> bool:
        """Whether a stream that stood at *earlier* and stands here now may still have all it had then."""
        return self.created == earlier.created and self.last_seq >= earlier.last_seq


@runtime_checkable
class HasWatermark(Protocol):
    """A sink whose destination can be watched for losses."""

    async def watermark(self) -> Watermark:
        """
        Return how far the destination has come.

        Raises:
            SinkUnavailable: it cannot be asked now.

        """
