"""A reader of the live stream that disconnects, and resumes at its position."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from tests.faults.campaign.unauthorized_client import require_nosniff

if TYPE_CHECKING:
    from collections import Counter

_SSE = "text/event-stream"
_PAUSE = 0.1
_LONGEST = 3.0


class _Seen(msgspec.Struct):
    # Another server may answer with an id of any type.
    event_id: int | float | str | None = None


class Reader:
    """
    A client that reads every event from now on.

    Args:
        gateway: URL of the gateway through its proxy.
        headers: request headers with the token.
        complaints: counter of the answers that a browser could take for a page.

    """

    def __init__(self, gateway: str, headers: dict[str, str], complaints: Counter[str]) -> None:
        self.seen: set[tuple[int, object]] = set()
        """The sequences in the stream, each with the id of its event."""

        self._url = f"{gateway}/api/events/stream"
        self._headers = headers
        self._complaints = complaints
        self._last = ""
        self._chance = random.Random()

    async def run(self) -> None:
        """Read until cancelled, for some seconds at a time."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            while True:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with asyncio.timeout(self._chance.uniform(0.0, _LONGEST)):
                        await self._read(session)
                await asyncio.sleep(_PAUSE)

    async def _read(self, session: aiohttp.ClientSession) -> None:
        headers = self._headers | ({"last-event-id": self._last} if self._last else {})
        async with session.get(self._url, headers=headers) as answer:
            # Another server may answer in the gateway's place.
            if not answer.headers.get("content-type", "").startswith(_SSE):
                return
            require_nosniff(answer, self._complaints)
            fields: dict[str, bytes] = {}
            async for line in answer.content:
                name, _, value = line.rstrip(b"\n").partition(b": ")
                fields[name.decode()] = value
                if not name:
                    self._take(fields)
                    fields = {}

    def _take(self, fields: dict[str, bytes]) -> None:
        # The gateway's own messages have no id.
        if "id" in fields:
            self._last = fields["id"].decode()
            self.seen.add((int(self._last), msgspec.json.decode(fields["data"], type=_Seen).event_id))
