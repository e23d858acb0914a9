"""
The largest message of a server, read again while a connection stays open.

The limit of a server or an account can change at any time, and the server reports it only to new connections.  So a
refresh opens a second connection to the same server and closes it at once.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog
from nats.errors import Error as NatsError

from noetl_events.jetstream.connect.greeting import reason_of
from noetl_events.jetstream.connect.server_errors import words_of
from noetl_events.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from urllib.parse import ParseResult

    from noetl_events.jetstream.client import DirectClient

_REFRESHES: Final = Backoff(initial=1.0, maximum=30.0)

log = structlog.get_logger()


class PayloadLimit:
    """
    The `max_payload` of a client's server.

    Args:
        read: function that returns the present limit of the server at a URL, over another connection.

    """

    def __init__(self, read: Callable[[ParseResult], Awaitable[int]]) -> None:
        self.unknown = ""
        """Reason why the last refresh failed; empty if it did not."""

        self.refreshing: asyncio.Task[None] | None = None
        """The refresh in progress, if there is one; its owner cancels it."""

        self._read = read
        self._refresh_at = 0.0
        self._waits = _REFRESHES.waits()

    async def refresh(self, client: DirectClient) -> None:
        """
        Set the limit of *client* to that of its server, if a refresh is due; concurrent callers share one refresh.

        Refreshes that find the same limit are up to 30 seconds apart; between two of them the limit found last counts.
        """
        is_due = self.refreshing is None and time.monotonic() >= self._refresh_at
        if is_due and (url := client.connected_url) is not None:
            self.refreshing = asyncio.create_task(self._refresh(client, url))
            self.refreshing.add_done_callback(self._on_refreshed)
        if self.refreshing is not None:
            await asyncio.wait([self.refreshing])

    def _on_refreshed(self, _: asyncio.Task[None]) -> None:
        self.refreshing = None
        self._refresh_at = time.monotonic() + next(self._waits)

    async def _refresh(self, client: DirectClient, url: ParseResult) -> None:
        self.unknown = ""
        try:
            limit = await self._read(url)
        except (OSError, TimeoutError, ValueError) as exc:
            self.unknown = f"{url.netloc} {reason_of(exc)}"
        except NatsError as exc:
            # The server refuses a second connection, for instance for `max_connections`, so the known limit counts.
            log.warning("connection.limit_unknown", reason=words_of(exc))
        else:
            if limit != client.max_payload and client.connected_url == url:
                log.info("connection.limit_changed", before=client.max_payload, now=limit)
                client.set_max_payload(limit)
                self._waits = _REFRESHES.waits()
