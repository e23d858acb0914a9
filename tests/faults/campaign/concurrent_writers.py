"""Two sinks that get the same events in opposite orders, as successive projectors may."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from consumers.sinks.postgres import PostgresSink
from noetl_events import SinkUnavailable
from noetl_events.ids import Snowflake
from tests.faults.campaign.events import event_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noetl_events import ExecutorEvent

_TABLE: Final = "noetl.rival"
_EVENTS: Final = 500
_PAUSE: Final = 0.2
_NODE: Final = 1021


class ConcurrentWriters:
    """
    Two writers of a separate table: inserts in the order of arrival would deadlock.

    Args:
        database: URL of the database without a proxy.

    """

    def __init__(self, database: str) -> None:
        self._sinks = [PostgresSink.from_url(f"{database}?table={_TABLE}") for _ in range(2)]
        self._new_id = Snowflake(node=_NODE)

    async def prepare(self) -> None:
        """Create the table."""
        await self._sinks[0].create_schema()

    async def run(self) -> None:
        """Write until cancelled."""
        try:
            while True:
                events = [event_of(self._new_id(), self._new_id()) for _ in range(_EVENTS)]
                await asyncio.gather(self._write(0, events), self._write(1, events[::-1]))
                await asyncio.sleep(_PAUSE)
        finally:
            for sink in self._sinks:
                await sink.aclose()

    async def _write(self, place: int, events: Sequence[ExecutorEvent]) -> None:
        with suppress(SinkUnavailable):
            await self._sinks[place].emit_batch(events)
