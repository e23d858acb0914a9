"""Posts to a name that resolves to the metadata service of a cloud."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from noetl_events import SinkUnavailable
from noetl_events.ids import Snowflake
from noetl_events.sinks.http import HttpSink
from tests.faults.campaign.events import event_of

if TYPE_CHECKING:
    from collections import Counter

_NAME: Final = "events.misdirected.invalid"
_SERVICE: Final = "169.254.169.254"
_REFUSED: Final = f"{_SERVICE} is link-local"
_PAUSE: Final = 2.0
_NODE: Final = 1020


class MisdirectedClient:
    """
    A client that posts to such a name, and must not connect.

    Args:
        complaints: counter of the posts that were not refused before a connection.

    """

    def __init__(self, complaints: Counter[str]) -> None:
        self._complaints = complaints
        self._new_id = Snowflake(node=_NODE)
        self._look_up = socket.getaddrinfo

    async def run(self) -> None:
        """Post until cancelled."""
        with patch("socket.getaddrinfo", self._lead_astray):
            while True:
                await self._post()
                await asyncio.sleep(_PAUSE)

    async def _post(self) -> None:
        sink = HttpSink(f"https://{_NAME}/api/events", timeout=60.0)
        try:
            await sink.emit(event_of(self._new_id(), self._new_id()))
        except SinkUnavailable as exc:
            if _REFUSED not in exc.reason:
                self._complaints[f"posted to a metadata service: {exc.reason}"] += 1
        finally:
            await sink.aclose()

    def _lead_astray(self, host: Any, *args: Any, **options: Any) -> Any:
        if host == _NAME:
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (_SERVICE, 443))]
        return self._look_up(host, *args, **options)
