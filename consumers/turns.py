"""
Who writes now: as many as there are, or one alone.

A process has a projector for each destination and for each lane, and all die together.  Which event it was can only be
said of one that was written while nothing else was.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from noetl_events.sink import SinkUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

_PATIENCE: Final = 10.0


class Turns:
    """
    The turns of the projectors of one process.

    Args:
        patience: seconds to wait for a turn, so that a destination that hangs does not keep the others for ever.

    """

    def __init__(self, *, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._gate = asyncio.Lock()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._writing = 0

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """
        Write while others do, but while nobody writes `alone`.

        Raises:
            SinkUnavailable: somebody does, for too long; try again.

        """
        await self._enter()
        self._gate.release()
        self._writing += 1
        self._nobody.clear()
        try:
            yield
        finally:
            self._writing -= 1
            if not self._writing:
                self._nobody.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """
        Write while nobody else does.

        Raises:
            SinkUnavailable: somebody does, for too long; try again.

        """
        await self._enter()
        try:
            await self._in_time(self._nobody.wait())
            yield
        finally:
            self._gate.release()

    async def _enter(self) -> None:
        await self._in_time(self._gate.acquire())

    async def _in_time(self, turn: Coroutine[None, None, bool]) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except TimeoutError:
            raise SinkUnavailable("an event is tried alone, and another destination or lane does not answer") from None
