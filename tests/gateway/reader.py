"""A client that reads the live stream, and resumes after a disconnection."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Reader:
    """A client that reads *url* until cancelled; its results are `sequences`, `bodies` and `controls`."""

    def __init__(self, url: str, query: str = "") -> None:
        self.sequences: list[int] = []
        self.bodies: list[Any] = []
        self.controls: list[tuple[str, Any]] = []
        self.connections = 0
        self.last_id = ""
        self._url = f"{url}/api/events/stream?{query}"

    def has(self, count: int) -> bool:
        """Return true if at least *count* events have arrived."""
        return len(self.sequences) >= count

    async def run(self) -> None:
        """Read, and reconnect after every end."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            while True:
                with suppress(aiohttp.ClientError, OSError):
                    await self._read(session)
                await asyncio.sleep(0.05)

    async def _read(self, session: aiohttp.ClientSession) -> None:
        headers = {"last-event-id": self.last_id} if self.last_id else {}
        async with session.get(self._url, headers=headers) as response:
            response.raise_for_status()
            self.connections += 1
            fields: dict[str, str] = {}
            async for line in response.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                    continue
                self._take(fields)
                fields = {}

    def _take(self, fields: dict[str, str]) -> None:
        if "event" in fields:
            assert "id" not in fields
            self.controls.append((fields["event"], msgspec.json.decode(fields["data"])))
        elif "data" in fields:
            self.last_id = fields["id"]
            self.sequences.append(int(fields["id"]))
            self.bodies.append(msgspec.json.decode(fields["data"]))


@asynccontextmanager
async def reading(url: str, query: str = "") -> AsyncIterator[Reader]:
    """Read *url* during the block."""
    reader = Reader(url, query)
    running = asyncio.create_task(reader.run())
    try:
        yield reader
    finally:
        running.cancel()
        await asyncio.wait({running})
