"""A count of calls in flight, for a sink that closes when they have ended."""

from __future__ import annotations

import asyncio
from typing import Self


class InFlight:
    """Count the `with` blocks that were entered and not left."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> Self:
        self._count += 1
        self._none.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def wait_for_none(self) -> None:
        """Return when all blocks are left."""
        await self._none.wait()
